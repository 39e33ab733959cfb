"""Rows of a batch in groups, one a core: the kernels hold no lock."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from mallocgame.system import num_cores

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


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_cores(), thread_name_prefix="rules")
