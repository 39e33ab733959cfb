"""The process that compiles: ``python -m mallocgame.workloads.xla.compiler_child`` reads JSON requests, one a line.

It imports JAX once. Each request is carried out in a forked child whose output goes to the request's ``log`` (a FIFO
that the asking process reads); the child's process id is printed, so that the asker can have it ended once it has what
it needs. Forking before any backend exists is safe and makes an evaluation start in milliseconds. A request that says
it will come ``again`` leaves children behind that have lowered the same program and wait for the next one's options:
with a second processor the next evaluation starts in the compiler. A request may name a folder with a ``scheduled``
module (``xla/scheduled.py``) in place of a program to be lowered. One that asks for the program ``anew`` has it lowered
by a process of its own, which inherits nothing, and not compiled.

Nothing outlives the asker, however it ends: when standard input ends, the children are killed and the folder of this
process is removed; the kernel kills the children if this process is killed; a later process removes the folder then.
"""

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mallocgame.system import end_with_parent, module_command

FINISHED = "mallocgame: compilation finished"
FAILED = "mallocgame: compilation failed:"
FOLDER_PREFIX = "mallocgame-compile-"
ANEW = "--anew"
NEW_SECONDS = 60.0  # a folder without a lock is being made, not left behind, for so long


@dataclass(frozen=True, slots=True, kw_only=True)
class _Child:
    """A forked child that lowers, or has lowered, the program of ``key`` and waits for options on a pipe."""

    key: str
    process: int
    pipe: int


@dataclass(slots=True)
class _Server:
    """The children there are: those that wait for options, and those that compile, by a handle on the process."""

    waiting: list[_Child] = field(default_factory=list)
    busy: dict[int, tuple[int, int]] = field(default_factory=dict)  # pidfd: process, log

    def answer(self, request: dict[str, Any], line: bytes) -> None:
        """Carry out one request: end a child, or give a program and options to one and print its process id."""
        if "end" in request:
            for handle, (process, _) in self.busy.items():
                if process == request["end"]:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            return
        child = _fork(request, "") if request.get("anew") else self._child_for(request)
        log = os.open(request["log"], os.O_WRONLY | os.O_NONBLOCK)  # ends no sooner than the child, and no later
        self.busy[os.pidfd_open(child.process)] = (child.process, log)
        _print({"process": child.process})
        with contextlib.suppress(BrokenPipeError):  # it died
            _write_all(child.pipe, line + b"\n")
        os.close(child.pipe)

    def _child_for(self, request: dict[str, Any]) -> _Child:
        key = json.dumps([request["reference"], request["chip"], request["vmodule"], bool(request.get("scheduled"))])
        self._end_waiting(other_than=key)
        child = self.waiting.pop(0) if self.waiting else _fork(request, key)
        while len(self.waiting) < int(request["again"]):
            self.waiting.append(_fork(request, key))
        return child

    def reap(self, handle: int) -> None:
        """Forget a child that has ended: only then its log ends."""
        process, log = self.busy.pop(handle)
        os.waitpid(process, 0)
        os.close(handle)
        os.close(log)

    def close(self) -> None:
        """Kill every child and wait for it."""
        self._end_waiting()
        for handle in list(self.busy):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            self.reap(handle)

    def _end_waiting(self, other_than: str = "") -> None:
        for child in [c for c in self.waiting if c.key != other_than]:
            self.waiting.remove(child)
            os.close(child.pipe)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.process, signal.SIGKILL)
            os.waitpid(child.process, 0)


def serve() -> None:
    """Answer requests until standard input ends."""
    for ignored in (signal.SIGINT, signal.SIGHUP):  # these reach the asker too, whose end ends standard input
        signal.signal(ignored, signal.SIG_IGN)
    ended, end = os.pipe()  # not an exception, which might hit the middle of tidying up
    signal.signal(signal.SIGTERM, lambda number, frame: _write_all(end, b"x"))
    if "--die-with-parent" in sys.argv:
        _die_with_parent(signal.SIGTERM)
    with work_folder() as folder:
        os.environ["TMPDIR"] = str(folder)  # where libtpu begins a log even if it is told to write none
        _print({"folder": str(folder)})
        import jax

        config: Any = jax.config
        config.update("jax_platforms", "cpu")
        server = _Server()
        try:
            _answer_all(server, ended)
        finally:
            server.close()


def _answer_all(server: _Server, ended: int) -> None:
    pending = b""
    while True:
        poll = select.poll()
        for descriptor in (0, ended, *server.busy):
            poll.register(descriptor, select.POLLIN)
        for ready, _ in poll.poll():
            if ready == ended:
                return
            if ready:
                server.reap(ready)
                continue
            data = os.read(0, 1 << 20)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                server.answer(json.loads(line), line)


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """Yield a new folder, locked while this process lives; before, remove those that killed processes left behind."""
    for left in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        _remove_if_left(left)
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / "locked").touch()
    try:
        yield folder
    finally:
        remove_work_folder(folder)
        os.close(lock)


def remove_work_folder(folder: Path) -> None:
    """Remove the folder of a warm process, and nothing that is not one."""
    if folder.name.startswith(FOLDER_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an OSError while its process lives
            if (folder / "locked").exists() or time.time() - folder.stat().st_mtime > NEW_SECONDS:
                shutil.rmtree(folder)
        finally:
            os.close(descriptor)


def _die_with_parent(signal_number: int) -> None:
    if not end_with_parent(signal_number, os.getppid()):
        os._exit(1)


def _fork(request: dict[str, Any], key: str) -> _Child:
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            _die_with_parent(signal.SIGKILL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.close(writer)
            if request.get("anew"):
                os.dup2(reader, 0)
                command = [*module_command("mallocgame.workloads.xla.compiler_child"), ANEW]
                os.execv(command[0], command)
            status = _compile(request, lambda: _read(reader))
        finally:
            os._exit(status)
    os.close(reader)
    return _Child(key=key, process=process, pipe=writer)


def _print(row: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def _write_all(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]


def _ready_to_compile(request: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Do what can be done before the options are known, and return what compiles with them."""
    from mallocgame.workloads.xla.scheduled import Plugin, compile_scheduled, options_kept

    if request.get("scheduled"):
        from mallocgame.workloads.xla.topology import topology_name

        plugin = Plugin(topology_name(request["chip"]))
        return lambda asked: compile_scheduled(plugin, Path(asked["scheduled"]), asked["options"])
    from mallocgame.workloads.program_reference import ProgramReference
    from mallocgame.workloads.xla.arguments import NAMED
    from mallocgame.workloads.xla.digest import LOWERED, digest_of
    from mallocgame.workloads.xla.lower import lower

    lowered = lower(ProgramReference(**request["reference"]), request["chip"])
    digest = digest_of(lowered.stage)

    def compile_lowered(asked: dict[str, Any]) -> None:
        if digest:
            _write_all(2, f"{LOWERED} {digest}\n".encode())
        if asked.get("anew"):
            return
        if lowered.argument_names:
            _write_all(2, f"{NAMED} {json.dumps(lowered.argument_names)}\n".encode())
        with options_kept(Path(asked["keep"])) if asked.get("keep") else contextlib.nullcontext():
            lowered.stage.compile(compiler_options=asked["options"])

    return compile_lowered


def _failure(error: BaseException, request: dict[str, Any]) -> str:
    from mallocgame.workloads.xla.lower import describe_failure

    return describe_failure(error, request["reference"]["folder"])


def _read(pipe: int) -> dict[str, Any] | None:
    """Return the request that comes on a pipe, None if nobody asks any more."""
    with os.fdopen(pipe) as lines:
        line = lines.readline()
    return json.loads(line) if line else None


def _compile(request: dict[str, Any], asks: Callable[[], dict[str, Any] | None]) -> int:
    """Prepare what a request is about, and carry out what is asked for then."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.environ["TPU_VMODULE"] = request["vmodule"]
    ready, failure = None, ""
    try:
        ready = _ready_to_compile(request)
    except BaseException as error:  # the asker reads what went wrong from the log
        failure = _failure(error, request)
    asked = asks()
    if asked is None:
        return 1
    if asked.get("background"):
        os.nice(10)
    log = os.open(asked["log"], os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if ready is not None:
        try:
            ready(asked)
        except BaseException as error:
            failure = _failure(error, request)
    text = f"{FAILED} {failure}".replace("\n", " ") if failure else FINISHED
    os.write(2, f"\n{text}\n".encode())
    return bool(failure)


def _lower_anew() -> int:
    """Lower the program of the request on standard input, in the background."""
    os.nice(5)
    request = _read(os.dup(0))
    return _compile(request, lambda: request) if request else 1


if __name__ == "__main__":
    sys.exit(_lower_anew()) if ANEW in sys.argv else serve()
