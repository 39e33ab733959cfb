"""The process that compiles: ``python -m mallocgame.workloads.xla.compiler_child`` reads JSON requests, one a line.

It imports JAX once. Each request is carried out in a forked child whose output goes to the request's ``log`` (a FIFO
that the asking process reads); the child's process id is printed, so that the asker can end it once it has what it
needs. Forking before any backend exists is safe and makes an evaluation start in milliseconds. A request that says it
will come ``again`` leaves a child behind that has lowered the same program and waits for the next one's options: with
a second processor the next evaluation starts in the compiler.
"""

import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """A forked child that lowers, or has lowered, the program of ``key`` and waits for options on a pipe."""

    key: str
    process: int
    pipe: int

    def end(self) -> None:
        os.close(self.pipe)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)


def serve() -> None:
    """Answer requests until standard input ends."""
    import jax

    config: Any = jax.config
    config.update("jax_platforms", "cpu")
    waiting: _Waiting | None = None
    for line in sys.stdin:
        request = json.loads(line)
        key = json.dumps([request["reference"], request["chip"], request["vmodule"]])
        if waiting is not None and waiting.key != key:
            waiting.end()
            waiting = None
        child = waiting or _fork(request, key)
        waiting = _fork(request, key) if request["again"] else None
        log = os.open(request["log"], os.O_WRONLY)  # ends no sooner than the child, and no later
        sys.stdout.write(f"{child.process}\n")
        sys.stdout.flush()
        with contextlib.suppress(BrokenPipeError):  # it died
            _write_all(child.pipe, line.encode())
        os.close(child.pipe)
        os.waitpid(child.process, 0)
        os.close(log)
    if waiting is not None:
        waiting.end()


def _fork(request: dict[str, Any], key: str) -> _Waiting:
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            os.close(writer)
            status = _compile(request, reader)
        finally:
            os._exit(status)
    os.close(reader)
    return _Waiting(key=key, process=process, pipe=writer)


def _write_all(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]


def _compile(request: dict[str, Any], options_pipe: int) -> int:
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.environ["TPU_VMODULE"] = request["vmodule"]
    lowered, failure = None, ""
    try:
        from mallocgame.workloads.program_reference import ProgramReference
        from mallocgame.workloads.xla.lower import describe_failure, lower

        reference = ProgramReference(**request["reference"])
        lowered = lower(reference, request["chip"])
    except BaseException as error:  # the asker reads what went wrong from the log
        failure = describe_failure(error, request["reference"]["folder"])
    with os.fdopen(options_pipe) as pipe:
        line = pipe.readline()
    if not line:  # nobody asks any more
        return 1
    asked = json.loads(line)
    log = os.open(asked["log"], os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if lowered is not None:
        try:
            lowered.compile(compiler_options=asked["options"])
        except BaseException as error:
            failure = describe_failure(error, request["reference"]["folder"])
    text = f"{FAILED} {failure}".replace("\n", " ") if failure else FINISHED
    os.write(2, f"\n{text}\n".encode())
    return bool(failure)


FAILED = "mallocgame: compilation failed:"
FINISHED = "mallocgame: compilation finished"


if __name__ == "__main__":
    serve()
