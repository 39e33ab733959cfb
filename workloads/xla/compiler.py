"""XLA:TPU as a function: program, chip, options → what its memory-space assignment logs, without a TPU.

A warm process imports JAX once; each compilation is a fork of it, whose log is read as it is written and which is
ended as soon as memory-space assignment is complete (code generation, most of the time, is not needed). Several
threads may compile at once.
"""

import contextlib
import importlib.util
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mallocgame.errors import InputError, MissingExtraError, TraceError
from mallocgame.files import read_lines
from mallocgame.system import module_command
from mallocgame.workloads.program_reference import ProgramReference
from mallocgame.workloads.xla.arguments import with_users_names
from mallocgame.workloads.xla.compiler_child import FAILED, FINISHED, remove_work_folder
from mallocgame.workloads.xla.digest import digest_in
from mallocgame.workloads.xla.log import DONE
from mallocgame.workloads.xla.out_of_memory import shortened
from mallocgame.workloads.xla.scheduled import OPTIONS, ScheduledModule, scheduled_in
from mallocgame.workloads.xla.topology import ONE_CHIP, chip_of

CHIPS = tuple(ONE_CHIP)
FULL_LOG = "memory_space_assignment=3,simulator=3,algorithm=5"
TOTALS_ONLY = "memory_space_assignment=2"
MAPPING_LOG = "memory_space_assignment=3,simulator=3,algorithm=3"  # enough to read the mapping of a known program
HLO_PASSES = "plumb-vmem-info|rename-tensor-core-fusion-ops"  # the last module that they dump is what the pass sees

MAX_LOG_BYTES = 2**30  # the largest program of the suite logs 60 MB
END_SECONDS = 5.0  # the warm process has to end by itself
LOOK_SECONDS = 0.25  # between looks at whether to stop
_FATAL = re.compile(r"^F\d{4} \S+ +\d+ (.*)$", re.MULTILINE)  # the compiler found a fault in itself, and says which
NOT_THE_PROGRAM = ("MemoryError", "OSError", "BlockingIOError")  # errors of this machine

Options = dict[str, str | bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileRequest:
    """What ``Compiler.compile`` is asked for."""

    reference: ProgramReference
    chip: str  # one of ``CHIPS``, or a topology of several, such as ``v5e:2x2``
    options: Options = field(default_factory=dict)  # of libtpu, such as ``xla_tpu_msa_tensor_overrides``
    full: bool = False  # let the compiler finish, which finds errors that come after memory-space assignment
    hlo: bool = True  # also return the module before the pass
    final_hlo: bool = False  # with ``full``, also the module after code generation; without ``hlo`` log only the totals
    brief: bool = False  # log only what a mapping of a known program needs
    again: bool = False  # it will be compiled again: have it lowered meanwhile
    keep: bool = False  # with ``hlo``, also return the scheduled module
    scheduled: ScheduledModule | None = None  # compile this, which is what ``reference`` becomes before the pass
    anew: bool = False  # only have it lowered, by a process that inherits nothing
    background: bool = False  # with a lower priority than everything else
    timeout_seconds: float = 600.0  # then the compilation is ended and reported as an error
    stop: threading.Event | None = None  # the same as soon as this is set
    on_bytes: Callable[[int], None] | None = None  # told how many bytes of log have been read


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """One compilation. ``hlo`` is the module before memory-space assignment; ``error`` why there was no result."""

    log: str
    hlo: str
    seconds: float
    finished: bool  # the compiler went to the end, not only to the end of memory-space assignment
    error: str = ""
    inconclusive: bool = False  # it failed for a reason that says nothing about program and options: killed, too slow
    final_hlo: str = ""  # the module after code generation, with the compiler's cycle estimates, if asked for
    scheduled: ScheduledModule | None = None  # to be compiled again; None: not asked for, or there is none
    lowering: str = ""  # ``xla/digest.py``'s hash of the lowered program; empty: not lowered, or not known

    def check(self, what: object) -> Self:
        """Return itself.

        Raises:
            InputError: there is no such function, or it has no arguments.
            TraceError: the compilation failed.
        """
        if self.error.startswith("InputError: "):
            raise InputError(self.error.removeprefix("InputError: "))
        if self.error:
            raise TraceError(what, None, shortened(self.error))
        return self


class Compiler:
    """Compiles for one verbosity; a context manager that ends its processes.

    ``vmodule`` is libtpu's log selection (``FULL_LOG`` for traces, ``TOTALS_ONLY`` to score many options quickly).
    ``ready`` children wait with a program lowered where it is compiled ``again``: one for each thread that compiles.
    """

    def __init__(self, *, vmodule: str = FULL_LOG, ready: int = 1) -> None:
        for package in ("jax", "libtpu"):
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, "tpu")
        self._vmodule = vmodule
        self._ready = ready
        self._server: subprocess.Popen[str] | None = None
        self._folder: Path | None = None  # of the warm process, once it has said so
        self._is_closed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the warm process and whatever compiles, for good."""
        with self._lock:
            self._is_closed = True
            self._close()

    def _close(self) -> None:
        server, self._server = self._server, None
        folder, self._folder = self._folder, None
        if server is not None:
            assert server.stdin is not None
            assert server.stdout is not None
            with contextlib.suppress(OSError):
                server.stdin.close()
            try:
                server.wait(timeout=END_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
                with contextlib.suppress(ValueError):
                    remove_work_folder(folder or _folder_of(server.stdout.readline()))
            server.stdout.close()

    def compile(self, asked: CompileRequest) -> Compilation:
        """Compile once.

        Raises:
            InputError: an unknown chip.
        """
        chip_of(asked.chip)
        start = time.perf_counter()
        request: dict[str, Any] = {"reference": asdict(asked.reference), "chip": asked.chip}
        totals = TOTALS_ONLY if asked.final_hlo and not asked.hlo else self._vmodule
        request |= {"again": self._ready * asked.again, "background": asked.background, "anew": asked.anew}
        request["vmodule"] = MAPPING_LOG if asked.brief else totals
        with self._job_folder() as folder:
            fifo, dump = folder / "log", folder / "dump"
            os.mkfifo(fifo)
            flags: Options = dict(asked.options)
            if asked.hlo or asked.final_hlo:
                flags |= {"xla_dump_to": str(dump), "xla_dump_hlo_as_text": True}
            if asked.hlo:
                flags |= {"xla_dump_hlo_pass_re": HLO_PASSES}
            if asked.keep:
                flags |= {"xla_dump_hlo_as_proto": True}
                request["keep"] = str(folder / OPTIONS)
            if asked.scheduled is not None:
                asked.scheduled.write(folder)
                request["scheduled"] = str(folder)
            reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
            child = None
            try:
                child = self._request(request | {"options": flags, "log": str(fifo)})
                follow = _Follow(reader, asked)
                follow.read(there_is_a_child=child is not None)
            finally:
                os.close(reader)
                if child is not None:
                    self._end(child)
            failed = bool(follow.error) and not asked.full
            hlo = newest_module(dump) if asked.hlo and not failed else ""
            if asked.hlo and not failed and not hlo.rstrip().endswith("}"):
                where = folder.parent.parent
                follow.error = f"its text is cut off: is there room in {where}? (TMPDIR names another folder)"
                follow.inconclusive = True
            return Compilation(
                log=follow.text,
                hlo=with_users_names(hlo, follow.text) if hlo else "",
                final_hlo=_after_codegen(dump) if asked.final_hlo and not follow.error else "",
                scheduled=scheduled_in(folder, dump) if asked.keep and not follow.error else None,
                seconds=time.perf_counter() - start,
                finished=follow.finished,
                lowering=digest_in(follow.text),
                error=follow.error,
                inconclusive=follow.inconclusive,
            )

    @contextlib.contextmanager
    def _job_folder(self) -> Iterator[Path]:
        with self._lock:
            self._start()
            folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # what a killed child still writes goes with the server's folder

    def _request(self, request: dict[str, Any]) -> int | None:
        """Return the process that compiles; None if the warm process has died, whose next one starts with the next."""
        with self._lock:
            server = self._server
            if server is None:  # closed meanwhile
                return None
            assert server.stdin is not None
            assert server.stdout is not None
            try:
                server.stdin.write(json.dumps(request) + "\n")
                server.stdin.flush()
                return int(json.loads(server.stdout.readline())["process"])
            except (OSError, ValueError):
                self._close()
                return None
            except BaseException:  # Ctrl-C: the answer of this request must not be taken for the next one's
                self._close()
                raise

    def _end(self, child: int) -> None:
        with self._lock:
            if self._server is not None and self._server.stdin is not None:
                with contextlib.suppress(OSError, ValueError):
                    self._server.stdin.write(json.dumps({"end": child}) + "\n")
                    self._server.stdin.flush()

    def _start(self) -> None:
        """Start the warm process if there is none."""
        if self._server is not None and self._server.poll() is None:
            return
        if self._is_closed:
            raise InputError("the compiler is closed")
        self._close()
        environment = dict(os.environ)
        environment |= {
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_ACCELERATOR_TYPE": "v5litepod-1",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            "TPU_MIN_LOG_LEVEL": "0",
            "TPU_STDERR_LOG_LEVEL": "0",
            "TPU_LOG_DIR": "disabled",  # or else libtpu writes all of it to /tmp/tpu_logs, too, and never removes it
        }
        command = module_command("mallocgame.workloads.xla.compiler_child")
        if threading.current_thread() is threading.main_thread():  # the kernel means the thread that started it
            command.append("--die-with-parent")
        self._server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert self._server.stdout is not None
        try:
            self._folder = _folder_of(self._server.stdout.readline())
        except ValueError:
            self._close()
            raise InputError("the compiler process did not start: is JAX installed and importable?") from None


def _folder_of(line: str) -> Path:
    """Return what the first line of a warm process says; a ValueError if it says nothing."""
    return Path(json.loads(line)["folder"])


class _Follow:
    """Reads the log of a child until it says enough. The warm process has the pipe open until the child has ended."""

    def __init__(self, reader: int, asked: CompileRequest) -> None:
        self._reader, self._asked = reader, asked
        self.text, self.error, self.finished, self.inconclusive = "", "", False, False

    def read(self, *, there_is_a_child: bool = True) -> None:
        """Read, and set what was found."""
        parts: list[bytes] = []
        cut = self._collect(parts) if there_is_a_child else "the process that compiles has died"
        self.text = b"".join(parts).decode("utf-8", errors="replace")
        self.finished = FINISHED in self.text[-4096:]
        if FAILED in self.text:
            self.error = self.text[self.text.rindex(FAILED) + len(FAILED) :].strip().splitlines()[0]
            self.inconclusive = self.error.startswith(NOT_THE_PROGRAM)
        elif cut:
            self.error, self.inconclusive = cut, True
        elif not self.finished and (self._asked.full or DONE not in self.text):
            own = _FATAL.findall(self.text[-65536:])
            self.error = f"Error: the compiler gave up: {own[-1]}" if own else "the compiler ended without a word"
            self.inconclusive = not own

    def _collect(self, parts: list[bytes]) -> str:
        """Collect the log in ``parts``; return why reading was given up, if it was."""
        tail, size, done = b"", 0, DONE.encode()
        deadline = time.monotonic() + self._asked.timeout_seconds
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                given = self._asked.timeout_seconds
                return f"the compiler did not finish within {given:.4g} s" if given > 0 else "no time was left"
            if self._asked.stop is not None and self._asked.stop.is_set():
                return "the compilation was not needed any more"
            if not select.select([self._reader], [], [], min(left, LOOK_SECONDS))[0]:
                continue
            chunk = os.read(self._reader, 1 << 20)
            if not chunk:
                return ""
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_LOG_BYTES:
                return f"the compiler was ended after {size} bytes of log, expected at most {MAX_LOG_BYTES}"
            if self._asked.on_bytes:
                self._asked.on_bytes(size)
            tail = (tail + chunk)[-len(chunk) - 4096 :]
            at = tail.find(done)
            if not self._asked.full and at >= 0 and b"\n" in tail[at:]:
                return ""


def newest_module(dump: str | os.PathLike[str]) -> str:
    """Return the last module before memory-space assignment that a dump folder holds, empty if there is none.

    A program may come with helper modules; the largest is the program. Work for sparse cores is cut out of it later.
    """
    found: dict[str, list[Path]] = {}
    folder = Path(dump)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        before = "Pre_memory_space_assignment" in path.name or "Rename_TensorCore_Fusions.after_rename" in path.name
        if before and path.suffix == ".txt":
            found.setdefault(path.name.split(".")[0], []).append(path)
    if not found:
        return ""
    paths = max(found.values(), key=lambda group: group[-1].stat().st_size)
    text = "\n".join(read_lines(paths[-1], errors="replace"))
    if 'execution_thread="sparsecore"' in text:
        stem = paths[-1].name.split(".")[0]
        without = sorted(folder.glob(f"{stem}.*after_optimizations_before_buffer_assignment.txt"))
        text = "\n".join(read_lines(without[-1], errors="replace")) if without else text
    return text


def _after_codegen(dump: Path) -> str:
    paths = sorted(dump.glob("*after_codegen.txt"), key=lambda path: path.stat().st_size)
    return paths[-1].read_text(encoding="utf-8", errors="replace") if paths else ""
