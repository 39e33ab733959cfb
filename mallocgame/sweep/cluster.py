"""Jobs on the actors of a Ray cluster. An actor may die with its machine; another takes its job."""

import logging
import os
import signal
import threading
from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, cast

from mallocgame.errors import InputError, MissingExtraError
from mallocgame.sweep.jobs import Answer, Failed, Maker, attempt

try:
    import ray
except ModuleNotFoundError as error:
    raise MissingExtraError("ray", "ray") from error

_LOOK_SECONDS = 1.0


class _Actor:
    """What runs in an actor."""

    def __init__(self, make: Maker, folder: str) -> None:
        with suppress(OSError):  # a machine without the folder
            os.chdir(folder)
        self._entered = make()
        self._work = self._entered.__enter__()

    def do(self, task: Any) -> Answer:
        """Do one task."""
        return attempt(self._work, task)


class Cluster:
    """Actors of one core each on the cluster at ``address`` ("local": one that is started here and ends with it)."""

    def __init__(self, make: Maker, size: int, address: str) -> None:
        """Connect to nothing yet; ``make`` must be found by name on the cluster's machines."""
        self.size, self._make, self._address = size, make, address
        self._calls: dict[Any, Any] = {}  # actor: the call under way
        self._actors: set[Any] = set()
        self._is_ours = False

    def __enter__(self) -> Self:
        if not ray.is_initialized():
            cores = self.size if self._address == "local" else None
            with_main = threading.current_thread() is threading.main_thread()
            handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)} if with_main else {}
            options: dict[str, Any] = {"log_to_driver": False, "include_dashboard": False, "num_cpus": cores}
            try:
                ray.init(address=self._address, logging_level=logging.ERROR, **options)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise InputError(f"--ray {self._address}: cannot be reached: {error}") from None
            finally:
                for number, handler in handlers.items():  # Ray sets its own
                    signal.signal(number, handler)
            self._is_ours = True
        self._remote = ray.remote(num_cpus=1, max_restarts=0)(_Actor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in self._actors:
            with suppress(Exception):
                ray.kill(actor)
        self._actors.clear()
        if self._is_ours:
            ray.shutdown()

    def start(self) -> Hashable:
        """Ask for an actor, which starts as soon as the cluster has a core for it."""
        actor: Any = self._remote.remote(self._make, os.getcwd())
        self._actors.add(actor)
        return cast(Hashable, actor)

    def send(self, worker: Any, task: Any) -> None:
        """Call an actor."""
        self._calls[worker] = worker.do.remote(task)

    def wait(self, workers: Sequence[Any]) -> Iterable[tuple[Any, Answer]]:
        """Return the answers that are there, and which actors have died."""
        by_call = {self._calls[worker]: worker for worker in workers}
        ready: list[Any] = []
        while not ready:
            ready, _ = ray.wait(list(by_call), num_returns=1, timeout=_LOOK_SECONDS)
        for call in ready:
            worker = by_call[call]
            yield worker, self._answer(worker, call)

    def _answer(self, worker: Any, call: Any) -> Answer:
        del self._calls[worker]
        try:
            return ray.get(call)  # type: ignore[no-any-return]
        except ray.exceptions.RayError as error:
            self._actors.discard(worker)
            with suppress(Exception):
                ray.kill(worker)
            lines = str(error).strip().splitlines()
            reason = f"the worker died ({type(error).__name__}: {lines[0] if lines else ''})"
            return Failed(reason=reason, is_worker_lost=True)
