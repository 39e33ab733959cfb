"""XLA:TPU as a function: program, chip, options → what its memory-space assignment logs, without a TPU.

A warm parent process imports JAX once; each compilation is a fork of it, whose log is read as it is written and which
is ended as soon as memory-space assignment is complete (code generation, most of the time, is not needed).
"""

import contextlib
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mallocgame.errors import InputError, MissingExtraError, TraceError
from mallocgame.workloads.program_reference import ProgramReference
from mallocgame.workloads.xla.compiler_child import FAILED, FINISHED
from mallocgame.workloads.xla.log import DONE
from mallocgame.workloads.xla.topology import ONE_CHIP, chip_of

CHIPS = tuple(ONE_CHIP)
FULL_LOG = "memory_space_assignment=3,simulator=3,algorithm=5"
TOTALS_ONLY = "memory_space_assignment=2"
MAPPING_LOG = "memory_space_assignment=3,simulator=3,algorithm=3"  # enough to read the mapping of a known program
HLO_PASSES = "plumb-vmem-info|rename-tensor-core-fusion-ops"  # the last module that they dump is what the pass sees

MAX_LOG_BYTES = 2**30  # the largest program of the suite logs 60 MB

Options = dict[str, str | bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """One compilation. ``hlo`` is the module before memory-space assignment; ``error`` why there was no result."""

    log: str
    hlo: str
    seconds: float
    finished: bool  # the compiler went to the end, not only to the end of memory-space assignment
    error: str = ""
    dump_folder: str = ""  # what the compiler dumped, where the caller asked to keep it

    def check(self, what: object) -> Self:
        """Return itself.

        Raises:
            InputError: there is no such function, or it has no arguments.
            TraceError: the compilation failed.
        """
        if self.error.startswith("InputError: "):
            raise InputError(self.error.removeprefix("InputError: "))
        if self.error:
            raise TraceError(what, None, self.error)
        return self


class Compiler:
    """Compiles for one verbosity; a context manager that ends its processes.

    ``vmodule`` is libtpu's log selection (``FULL_LOG`` for traces, ``TOTALS_ONLY`` to score many options quickly).
    """

    def __init__(self, *, vmodule: str = FULL_LOG) -> None:
        for package in ("jax", "libtpu"):
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, "tpu")
        self._vmodule = vmodule
        self._parent: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the warm process."""
        if self._parent is not None:
            assert self._parent.stdin is not None
            assert self._parent.stdout is not None
            with contextlib.suppress(OSError):
                self._parent.stdin.close()
            try:
                self._parent.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._parent.kill()
                self._parent.wait()
            self._parent.stdout.close()
            self._parent = None

    def compile(
        self,
        reference: ProgramReference,
        chip: str,
        options: Options | None = None,
        *,
        full: bool = False,
        hlo: bool = True,
        again: bool = False,
        keep: str | os.PathLike[str] | None = None,
        timeout_seconds: float = 600.0,
        on_bytes: Callable[[int], None] | None = None,
    ) -> Compilation:
        """Compile once.

        Args:
            reference: the function.
            chip: one of ``CHIPS``, or a topology of several, such as ``v5e:2x2``.
            options: libtpu's compiler options, such as ``xla_tpu_msa_tensor_overrides``.
            full: let the compiler finish, which finds errors that come after memory-space assignment.
            hlo: also return the module before the pass.
            again: the same program will be compiled again: have it lowered meanwhile; log only what a mapping needs.
            keep: folder to leave the dump in.
            timeout_seconds: then the compilation is ended and reported as an error.
            on_bytes: told how many bytes of log have been read.

        Raises:
            InputError: an unknown chip.
        """
        chip_of(chip)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="mallocgame-compile-") as folder:
            fifo, dump = Path(folder) / "log", Path(folder) / "dump"
            os.mkfifo(fifo)
            flags: Options = dict(options or {})
            if hlo or keep:
                passes = ".*" if keep and full else HLO_PASSES
                flags |= {"xla_dump_to": str(dump), "xla_dump_hlo_as_text": True, "xla_dump_hlo_pass_re": passes}
            request: dict[str, Any] = {"reference": asdict(reference), "chip": chip, "options": flags, "log": str(fifo)}
            request |= {"again": again, "vmodule": MAPPING_LOG if again else self._vmodule}
            reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
            try:
                child = self._request(request)
                text, error, finished = _follow(reader, child, full, timeout_seconds, on_bytes)
            finally:
                os.close(reader)
            module = "" if error and not full else newest_module(dump)
            if keep and dump.is_dir():
                shutil.copytree(dump, keep, dirs_exist_ok=True)
        return Compilation(
            log=text,
            hlo=module,
            seconds=time.perf_counter() - start,
            finished=finished,
            error=error,
            dump_folder=str(keep or ""),
        )

    def _request(self, request: dict[str, Any]) -> int:
        if self._parent is None or self._parent.poll() is not None:
            self._parent = self._start()
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(request) + "\n")
        self._parent.stdin.flush()
        answer = self._parent.stdout.readline()
        if not answer.strip().isdigit():
            self.close()
            raise InputError("the compiler process did not start: is JAX installed and importable?")
        return int(answer)

    def _start(self) -> subprocess.Popen[str]:
        environment = dict(os.environ)
        environment |= {
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_ACCELERATOR_TYPE": "v5litepod-1",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            "TPU_MIN_LOG_LEVEL": "0",
            "TPU_STDERR_LOG_LEVEL": "0",
        }
        command = [sys.executable, "-m", "mallocgame.workloads.xla.compiler_child"]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )


def _follow(
    reader: int, child: int, full: bool, timeout_seconds: float, on_bytes: Callable[[int], None] | None
) -> tuple[str, str, bool]:
    """Read the log until it says enough; return it, an error, and whether the compiler finished.

    The warm process has the pipe open until the child has ended.
    """
    parts: list[bytes] = []
    tail, size = b"", 0
    deadline = time.monotonic() + timeout_seconds
    error = ""
    done = DONE.encode()
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([reader], [], [], left)[0]:
                error = f"the compiler did not finish within {timeout_seconds:g} s"
                break
            chunk = os.read(reader, 1 << 20)
            if not chunk:
                break
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_LOG_BYTES:
                error = f"the compiler was ended after {size} bytes of log, expected at most {MAX_LOG_BYTES}"
                break
            if on_bytes:
                on_bytes(size)
            tail = (tail + chunk)[-len(chunk) - 4096 :]
            at = tail.find(done)
            if not full and at >= 0 and b"\n" in tail[at:]:
                break
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    text = b"".join(parts).decode("utf-8", errors="replace")
    finished = FINISHED in text[-4096:]
    if FAILED in text:
        error = text[text.rindex(FAILED) + len(FAILED) :].strip().splitlines()[0]
    elif not error and not finished and (full or DONE not in text):
        error = "the compiler ended without a word"
    return text, error, finished


def newest_module(dump: str | os.PathLike[str]) -> str:
    """Return the last module before memory-space assignment that a dump folder holds, empty if there is none.

    A program may come with helper modules; the largest is the program.
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
    return paths[-1].read_text(encoding="utf-8", errors="replace")
