"""The second engine: pages of different sizes, writes and write-backs; fetched and written-back bytes are told apart.

One instruction's operands form a bundle that must be resident together, so none of them is evicted while it runs. A
write that fully overwrites a page fetches nothing. Evicting a dirty page writes it back, unless its contents are dead
(freed, or overwritten before they are read again): a dead page leaves the cache at once, for nothing. What is dirty
and alive at the end is written back too.

Unit-size theory does not carry over: with sizes, or with write-backs, finding the optimum is NP-hard and Belady's rule
is a heuristic. Split buffers into equal tiles (bridge.py) to stay inside the theorems.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.paging.structures import F64, I32, I64, U8, heap_pop, heap_push
from mallocgame.baselines.paging.trace import PageTrace, next_use
from mallocgame.errors import InputError
from mallocgame.jit import jit

READ, DEFINE, UPDATE = 0, 1, 2  # fetch; write whole, no fetch; fetch and write
RULES = ("lru", "fifo", "greedy-dual-size", "belady", "lru0")
_FIFO, _GREEDY_DUAL, _BELADY, _LRU0 = 1, 2, 3, 4  # positions in RULES
_CREDIT = 1 << 40  # of greedy-dual-size: a miss is worth this many units, whatever its size


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AccessTrace:
    """Requests to sized pages.

    Attributes:
        pages: the sequence of page ids.
        size_bytes: int64[num_pages], > 0.
        kinds: uint8[n], READ, DEFINE or UPDATE.
        bundles: int64[n], non-decreasing: requests with one number are operands of one instruction.
        dead_after: uint8[n], 1 iff the page's contents do not matter after this request.
        seconds: float64[n], when each request comes, or None.
    """

    pages: PageTrace
    size_bytes: I64
    kinds: U8
    bundles: I64
    dead_after: U8
    seconds: F64 | None = None

    def __post_init__(self) -> None:
        n = self.pages.num_requests
        if self.size_bytes.shape != (self.pages.num_pages,) or (self.size_bytes <= 0).any():
            raise InputError(f"need one size > 0 for each of {self.pages.num_pages} pages")
        for name in ("kinds", "bundles", "dead_after"):
            if getattr(self, name).shape != (n,):
                raise InputError(f"{name}: need one entry for each of {n} requests, got {getattr(self, name).size}")
        if self.seconds is not None and self.seconds.shape != (n,):
            raise InputError(f"seconds: need one entry for each of {n} requests, got {self.seconds.size}")
        if n and (np.diff(self.bundles) < 0).any():
            raise InputError("bundles must not decrease")
        if n and not np.isin(self.kinds, (READ, DEFINE, UPDATE)).all():
            raise InputError("kinds must be 0 (read), 1 (define) or 2 (update)")


def reads_only(trace: PageTrace, size_bytes: npt.NDArray[Any], seconds: F64 | None = None) -> AccessTrace:
    """Make a trace of reads, one request a bundle."""
    n = trace.num_requests
    zeros = np.zeros(n, np.uint8)
    return AccessTrace(
        pages=trace,
        size_bytes=np.asarray(size_bytes, np.int64),
        kinds=zeros,
        bundles=np.arange(n, dtype=np.int64),
        dead_after=zeros,
        seconds=seconds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedResult:
    """What a rule cost; ``misses`` counts requests whose page was absent, overwritten pages included."""

    rule: str
    capacity_bytes: int
    num_requests: int
    misses: int
    fetch_bytes: int
    write_back_bytes: int


@jit
def _serve(  # noqa: C901, PLR0913 (a kernel: arrays one by one, one loop)
    pages: I32,
    sizes: I64,
    kinds: U8,
    bundles: I64,
    dead_after: U8,
    following: npt.NDArray[Any],
    bits: U8,
    capacity: int,
    rule: int,
    totals: I64,
) -> None:
    n, num_pages = pages.size, sizes.size
    cached, dirty = np.zeros(num_pages, np.uint8), np.zeros(num_pages, np.uint8)
    urgency = np.zeros(num_pages, np.int64)  # the page with the largest goes first
    pinned = np.full(num_pages, -1, np.int64)
    keys, values = np.zeros(4 * num_pages + 64, np.int64), np.zeros(4 * num_pages + 64, np.int32)
    kept_keys, kept_values = np.zeros(num_pages, np.int64), np.zeros(num_pages, np.int32)
    size, used, inflation = 0, 0, 0
    first = 0
    while first < n:
        last = first
        while last < n and bundles[last] == bundles[first]:
            pinned[pages[last]] = bundles[first]
            last += 1
        for i in range(first, last):
            page = pages[i]
            absent = cached[page] == 0
            if absent:
                totals[0] += 1
                if kinds[i] != DEFINE:
                    totals[1] += sizes[page]
                held = 0
                while used + sizes[page] > capacity:
                    victim = values[0]
                    key = keys[0]
                    size = heap_pop(keys, values, size)
                    if cached[victim] == 0 or key != urgency[victim]:
                        continue
                    if pinned[victim] == bundles[first]:
                        kept_keys[held], kept_values[held] = key, victim
                        held += 1
                        continue
                    cached[victim] = 0
                    used -= sizes[victim]
                    if rule == _GREEDY_DUAL:
                        inflation = max(inflation, -key)
                    if dirty[victim]:
                        totals[2] += sizes[victim]
                        dirty[victim] = 0
                for j in range(held):
                    size = heap_push(keys, values, size, kept_keys[j], kept_values[j])
                cached[page] = 1
                used += sizes[page]
            if kinds[i] != READ:
                dirty[page] = 1
            if absent or rule != _FIFO:
                if rule == _GREEDY_DUAL:
                    urgency[page] = -(inflation + _CREDIT // sizes[page])
                elif rule == _BELADY:
                    urgency[page] = following[i]
                elif rule == _LRU0:
                    urgency[page] = -i if bits[i] == 0 else n - i
                else:
                    urgency[page] = -i
                if size == keys.size:
                    kept = 0
                    for j in range(size):
                        q = values[j]
                        if cached[q] and keys[j] == urgency[q] and q != page:
                            kept = heap_push(keys, values, kept, keys[j], q)
                    size = kept
                size = heap_push(keys, values, size, urgency[page], page)
        for i in range(first, last):
            page = pages[i]
            if dead_after[i] and cached[page]:
                cached[page] = 0
                dirty[page] = 0
                used -= sizes[page]
        first = last
    for page in range(num_pages):
        if cached[page] and dirty[page]:
            totals[2] += sizes[page]


def simulate_sized(
    trace: AccessTrace,
    rules: dict[str, U8 | None],
    capacity_bytes: int,
    *,
    on_progress: Callable[[float], None] | None = None,
) -> list[SizedResult]:
    """Serve ``trace`` with ``capacity_bytes`` of cache under each rule.

    Args:
        trace: the requests.
        rules: names from RULES; "lru0" maps to its discard bits, uint8[n], the others to None.
        capacity_bytes: must hold the largest bundle.
        on_progress: called with the number of rules done.

    Raises:
        InputError: an unknown rule, missing bits, or a bundle that does not fit.
    """
    pages, n = trace.pages.pages, trace.pages.num_requests
    _check_capacity(trace, capacity_bytes)
    following = next_use(trace.pages)
    results = []
    for done, (rule, bits) in enumerate(rules.items()):
        if rule not in RULES:
            raise InputError(f"no sized rule called {rule!r}; there are: {', '.join(RULES)}")
        if rule == "lru0" and (bits is None or bits.shape != (n,)):
            raise InputError(f"rule 'lru0' needs one discard bit for each of {n} requests")
        totals = np.zeros(3, np.int64)
        used_bits = bits if bits is not None else np.zeros(n, np.uint8)
        _serve(
            pages,
            trace.size_bytes,
            trace.kinds,
            trace.bundles,
            trace.dead_after,
            following,
            used_bits,
            capacity_bytes,
            RULES.index(rule),
            totals,
        )
        misses, fetched, written = (int(x) for x in totals)
        results.append(
            SizedResult(
                rule=rule,
                capacity_bytes=capacity_bytes,
                num_requests=n,
                misses=misses,
                fetch_bytes=fetched,
                write_back_bytes=written,
            )
        )
        if on_progress is not None:
            on_progress(float(done + 1))
    return results


def _check_capacity(trace: AccessTrace, capacity_bytes: int) -> None:
    if trace.pages.num_requests == 0:
        return
    pages, bundles = trace.pages.pages, trace.bundles
    _, number = np.unique(bundles, return_inverse=True)
    distinct = np.unique(np.stack((number.astype(np.int64), pages.astype(np.int64))), axis=1)
    need = np.bincount(distinct[0], weights=trace.size_bytes[distinct[1]].astype(np.float64))
    worst = int(np.argmax(need))
    if need[worst] > capacity_bytes:
        at = int(np.argmax(number == worst))
        raise InputError(
            f"the cache holds {capacity_bytes} bytes, but the operands of bundle {int(bundles[at])} "
            f"(request {at}) take {int(need[worst])} together"
        )
