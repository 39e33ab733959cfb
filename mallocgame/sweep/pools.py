"""Where jobs run: in this process, or in processes of this machine. (``cluster`` has Ray's.)"""

import multiprocessing
import os
import signal
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType
from typing import Any, Protocol, Self, cast

from mallocgame.sweep.jobs import Answer, Failed, Maker, Work, attempt
from mallocgame.system import end_with_parent

_END_SECONDS = 10.0  # a worker that was asked to end has so long to tidy up
_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else ()))


class Pool(Protocol):
    """Workers, each of which does one job at a time. A context manager: its end ends them."""

    @property
    def size(self) -> int:
        """How many workers may work at a time."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def start(self) -> Hashable:
        """Return a new worker, which may still be starting."""
        ...

    def send(self, worker: Any, task: Any) -> None:
        """Give an idle worker a task."""
        ...

    def wait(self, workers: Sequence[Any]) -> Iterable[tuple[Any, Answer]]:
        """Wait until at least one of the workers is done or lost; a lost one is gone."""
        ...


class Inline:
    """One worker: this process. Ctrl-C reaches what it does."""

    size = 1

    def __init__(self, make: Maker) -> None:
        """``make`` is entered with the first job."""
        self._make = make
        self._entered: AbstractContextManager[Work] | None = None
        self._work: Work | None = None
        self._answer: Answer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        entered, self._entered = self._entered, None
        if entered is not None:
            entered.__exit__(kind, error, trace)

    def start(self) -> Hashable:
        """Enter what the jobs share."""
        self._entered = self._make()
        self._work = self._entered.__enter__()
        return 0

    def send(self, worker: Any, task: Any) -> None:
        """Do the task."""
        assert self._work is not None
        self._answer = attempt(self._work, task)

    def wait(self, workers: Sequence[Any]) -> Iterable[tuple[Any, Answer]]:
        """Return what the task has given."""
        assert self._answer is not None
        return [(workers[0], self._answer)]


@dataclass(frozen=True, eq=False, slots=True)
class _Worker:
    process: BaseProcess
    pipe: "Connection[Any, Any]"
    slot: int


class Processes:
    """Processes of this machine, which share its cores out among themselves."""

    def __init__(self, make: Maker, size: int) -> None:
        """Start nothing yet; ``make`` must be found by name in another process."""
        self.size, self._make = size, make
        self._workers: set[_Worker] = set()
        self._context = multiprocessing.get_context("spawn")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.pipe.close()
            if kind is not None and worker.process.is_alive():
                worker.process.terminate()
        for worker in self._workers:
            _end(worker)
        self._workers.clear()

    def start(self) -> _Worker:
        """Start a process on its share of the cores."""
        slot = min(set(range(self.size)) - {worker.slot for worker in self._workers})
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._make, theirs, os.getpid(), self._cores(slot)))
        with _deaf():
            process.start()
            worker = _Worker(process, ours, slot)
            self._workers.add(worker)
        theirs.close()
        return worker

    def _cores(self, slot: int) -> list[int]:
        if not hasattr(os, "sched_getaffinity"):
            return []
        cores = sorted(os.sched_getaffinity(0))
        return cores[slot :: self.size] or [cores[slot % len(cores)]]

    def send(self, worker: _Worker, task: Any) -> None:
        """Send a task to a process; if it is dead, ``wait`` will tell."""
        with suppress(OSError):
            worker.pipe.send(task)

    def wait(self, workers: Sequence[_Worker]) -> Iterable[tuple[_Worker, Answer]]:
        """Return the answers that are there, and which processes have died."""
        ready = wait([each for worker in workers for each in (worker.pipe, worker.process.sentinel)])
        for worker in workers:
            if worker.pipe in ready or worker.process.sentinel in ready:
                yield worker, self._answer(worker)

    def _answer(self, worker: _Worker) -> Answer:
        with suppress(EOFError, OSError):
            if worker.pipe.poll():
                return cast(Answer, worker.pipe.recv())  # from our own child
        worker.pipe.close()
        _end(worker)
        self._workers.discard(worker)
        return Failed(reason=f"the worker died ({_why(worker.process.exitcode)})", is_worker_lost=True)


def _end(worker: _Worker) -> None:
    """Wait for a process that has been told to end; kill it where it does not."""
    worker.process.join(_END_SECONDS)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def _why(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            name = signal.Signals(-code).name
            return f"{name}: out of memory, or killed" if name == "SIGKILL" else name
    return f"exit code {code}"


@contextmanager
def _deaf() -> Iterator[None]:
    """Let a process be born that no signal hits before it can handle it, nor us before we know of the process."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(make: Maker, pipe: "Connection[Any, Any]", parent: int, cores: list[int]) -> None:
    """Do tasks until the pipe ends, or SIGTERM, which a parent's death sends too."""
    ended: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if not ended:
            ended.append(number)
            raise KeyboardInterrupt

    for number in _SIGNALS:  # the parent's to handle
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    os.dup2(2, 1)  # standard output is for results
    with suppress(EOFError, OSError, KeyboardInterrupt):
        if cores:
            os.sched_setaffinity(0, cores)
        if not end_with_parent(signal.SIGTERM, parent):
            return
        with make() as work:
            with suppress(EOFError, OSError, KeyboardInterrupt):
                while not ended:
                    answer = attempt(work, pipe.recv())
                    if not ended:  # what a signal cut short is no answer
                        pipe.send(answer)
            ended.append(0)  # tidying up is not interrupted
