"""Work on other cores: rows of a batch in groups, and what nobody waits for yet. The kernels hold no lock."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from mallocgame.system import num_cores

T = TypeVar("T")
FEWEST_ROWS = 16  # in a group: below that starting a thread costs more than it saves


def in_groups(rows: int, run: Callable[[int, slice], None]) -> None:
    """Call ``run(group, rows of the group)`` for groups that make up ``rows``; what a row gets must not depend on them.

    Raises:
        Whatever a call raises.
    """
    count = min(num_cores(), rows // FEWEST_ROWS)
    if count <= 1:
        run(0, slice(0, rows))
        return
    edges = [rows * group // count for group in range(count + 1)]
    futures = [_pool().submit(run, group, slice(*edges[group : group + 2])) for group in range(count)]
    for future in futures:
        future.result()


def in_background(run: Callable[[], T]) -> Future[T]:
    """Call ``run``, and let the caller go on meanwhile. It should spend its time in a kernel."""
    return _pool("behind").submit(run)


@cache
def _pool(name: str = "rules") -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_cores(), thread_name_prefix=name)
