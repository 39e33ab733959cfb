"""Sized objects in one cache or a chain of them (HBM, host, SSD), with write-back, admission and a time to live.

A request is looked for from the first tier down; where it is found, or fetched from behind the last, it moves to the
first tier. What a tier evicts is written to the next if that admits it; what is not admitted, or leaves the last tier,
is dropped, and written back behind the last tier if it is dirty. An object lives in one tier at a time. An object that
is larger than the first tier passes by: it is a miss and moves nothing, as in libCacheSim.

Rules: ``lru``, ``fifo``, ``lru0`` (told bits), ``sieve``, ``s3-fifo`` and ``arc`` with every bound in bytes. With equal
sizes and one tier, each is the policy of the same name of the unit engine, to the last miss. For bundles of operands
that must be resident together see ``sized.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mallocgame.baselines.paging.sized import DEFINE, READ, AccessTrace
from mallocgame.baselines.paging.structures import F64, I32, I64, U8, new_queues, pop, push, remove
from mallocgame.errors import InputError
from mallocgame.jit import jit

RULES = ("lru", "fifo", "lru0", "sieve", "s3-fifo", "arc")
ADMISSIONS = ("all", "reused", "bit")
_LRU, _FIFO, _LRU0, _SIEVE, _S3, _ARC = range(6)
_REUSED, _BIT = 1, 2
_MAX_USES, _TO_MAIN = 3, 2
# columns of the registers of a tier
_CAPACITY, _RULE, _ADMIT, _HAND, _SMALL_ROOM, _GHOST_ROOM, _WARM = range(7)
# columns of its totals
_HITS, _HIT_BYTES, _WRITTEN = range(3)
# totals of the whole
_MISSES, _MISS_BYTES, _FETCHED, _WRITE_BACK, _EXPIRED, _PASSED = range(6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One cache of a chain.

    Attributes:
        name: for tables, such as "hbm".
        capacity_bytes: > 0.
        rule: one of RULES.
        admission: what a tier below the first takes of what the tier above evicts: "all"; "reused", what was used again
            there; "bit", what has discard bit 0.
    """

    name: str
    capacity_bytes: int
    rule: str = "lru"
    admission: str = "all"

    def __post_init__(self) -> None:
        if self.capacity_bytes < 1:
            raise InputError(f"tier {self.name!r} needs at least 1 byte, got {self.capacity_bytes}")
        if self.rule not in RULES:
            raise InputError(f"no rule called {self.rule!r} for tiers; there are: {', '.join(RULES)}")
        if self.admission not in ADMISSIONS:
            raise InputError(f"no admission called {self.admission!r}; there are: {', '.join(ADMISSIONS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TierResult:
    """What one tier did: requests served from it, their bytes, and the bytes written into it."""

    name: str
    hits: int
    hit_bytes: int
    written_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TiersResult:
    """What a chain of caches did.

    Attributes:
        tiers: one result a tier.
        requests, request_bytes: what was asked for.
        misses, miss_bytes: what was in no tier (or expired, or too large).
        fetch_bytes: read from behind the last tier; a request that overwrites its object fetches nothing.
        write_back_bytes: dirty bytes written behind the last tier, those left at the end included.
        expired: requests for an object that was resident but too old.
        passed_by: requests for objects larger than the first tier.
    """

    tiers: tuple[TierResult, ...]
    requests: int
    request_bytes: int
    misses: int
    miss_bytes: int
    fetch_bytes: int
    write_back_bytes: int
    expired: int
    passed_by: int

    @property
    def object_hit_ratio(self) -> float:
        """Requests served from any tier, over all requests."""
        return 1.0 - self.misses / self.requests if self.requests else float("nan")

    @property
    def byte_hit_ratio(self) -> float:
        """Bytes served from any tier, over all bytes asked for."""
        return 1.0 - self.miss_bytes / self.request_bytes if self.request_bytes else float("nan")


@jit
def _touch(tier: I64, links: I32, where: U8, uses: U8, used: I64, sizes: I64, page: int, bit: int) -> None:
    """Serve a hit within a tier."""
    rule, tag = tier[_RULE], where[page] - 1
    if rule == _SIEVE:
        uses[page] = 1
    elif rule == _S3:
        uses[page] = min(uses[page] + 1, _MAX_USES)
    elif rule != _FIFO:
        to = 1 if rule == _ARC or (rule == _LRU0 and bit == 0) else 0
        used[tag] -= sizes[page]
        used[to] += sizes[page]
        remove(links, where, page)
        push(links, where, to, page)


@jit
def _resident(tier: I64, where: U8, page: int) -> bool:
    """Whether a page lies in the tier itself, not among its ghosts (queues 2 and 3)."""
    return bool(0 < where[page] <= 2)


@jit
def _bytes(used: I64) -> int:
    return int(used[0] + used[1])


@jit
def _forget(links: I32, where: U8, used: I64, sizes: I64, page: int) -> None:
    """Take a page out of whatever queue it stands in."""
    used[where[page] - 1] -= sizes[page]
    remove(links, where, page)


@jit
def _sieve_victim(tier: I64, links: I32, where: U8, uses: U8) -> int:
    """Move the hand over used pages to the first unused one; leave it at the next newer."""
    sentinel = where.size
    hand = tier[_HAND]
    if hand < 0 or hand >= sentinel:
        hand = links[sentinel, 1]
    while uses[hand]:
        uses[hand] = 0
        hand = links[hand, 1]
        if hand >= sentinel:
            hand = links[sentinel, 1]
    following = links[hand, 1]
    tier[_HAND] = following if following < sentinel else -1
    return int(hand)


@jit
def _evict(  # noqa: PLR0913 (a kernel takes arrays one by one)
    tier: I64, links: I32, where: U8, uses: U8, used: I64, sizes: I64, target: F64, page: int, ghost: int
) -> int:
    """Evict one page to make room for ``page``, which stood in ghost queue ``ghost`` (0: in none); return it."""
    rule = tier[_RULE]
    if rule == _SIEVE:
        victim = _sieve_victim(tier, links, where, uses)
        _forget(links, where, used, sizes, victim)
        return victim
    if rule == _S3:
        while True:
            if used[1] > tier[_CAPACITY] - tier[_SMALL_ROOM] or used[0] == 0:
                victim = pop(links, where, 1)
                used[1] -= sizes[victim]
                if uses[victim] == 0:
                    return victim
                uses[victim] -= 1
                push(links, where, 1, victim)
                used[1] += sizes[victim]
                continue
            while used[0] > 0:
                victim = pop(links, where, 0)
                used[0] -= sizes[victim]
                if uses[victim] < _TO_MAIN:
                    if sizes[victim] <= tier[_GHOST_ROOM]:
                        while used[2] + sizes[victim] > tier[_GHOST_ROOM]:
                            used[2] -= sizes[pop(links, where, 2)]
                        push(links, where, 2, victim)
                        used[2] += sizes[victim]
                    return victim
                uses[victim] = 0
                push(links, where, 1, victim)
                used[1] += sizes[victim]
    if rule == _ARC:
        size, k = sizes[page], tier[_CAPACITY]
        fresh = ghost == 0
        if fresh and used[0] + used[2] + size > k and used[2] == 0:
            victim = pop(links, where, 0)
            used[0] -= sizes[victim]
            return victim
        if fresh and used[0] + used[2] + size > k:
            used[2] -= sizes[pop(links, where, 2)]
        elif fresh and used[3] > 0 and used[0] + used[1] + used[2] + used[3] + size > 2 * k:
            used[3] -= sizes[pop(links, where, 3)]
        first = used[0] > 0 and (used[0] > target[0] or (used[0] == target[0] and ghost == 3))
        queue = 0 if first or used[1] == 0 else 1
        victim = pop(links, where, queue)
        used[queue] -= sizes[victim]
        push(links, where, 2 + queue, victim)
        used[2 + queue] += sizes[victim]
        return victim
    queue = 0 if used[0] > 0 else 1
    victim = pop(links, where, queue)
    used[queue] -= sizes[victim]
    return victim


@jit
def _leave_ghosts(tier: I64, links: I32, where: U8, used: I64, sizes: I64, target: F64, page: int) -> int:
    """Take ``page`` out of the ghosts and learn from it; return the queue where it stood, 0 for none."""
    ghost = where[page] - 1
    if ghost < 2:
        return 0
    size = sizes[page]
    if tier[_RULE] == _ARC:
        if ghost == 2:
            target[0] = min(target[0] + size * max(used[3] / used[2], 1.0), float(tier[_CAPACITY]))
        else:
            target[0] = max(target[0] - size * max(used[2] / used[3], 1.0), 0.0)
    _forget(links, where, used, sizes, page)
    return int(ghost)


@jit
def _insert(tier: I64, links: I32, where: U8, uses: U8, used: I64, sizes: I64, page: int, ghost: int, bit: int) -> None:  # noqa: PLR0913 (a kernel takes arrays one by one)
    rule = tier[_RULE]
    queue = 0
    if rule == _S3:
        cold = tier[_WARM] == 0 and used[0] + sizes[page] > tier[_SMALL_ROOM]
        queue = 1 if ghost or cold else 0
    elif rule == _ARC:
        queue = 1 if ghost else 0
    elif rule == _LRU0:
        queue = 1 if bit == 0 else 0
    uses[page] = 0
    push(links, where, queue, page)
    used[queue] += sizes[page]


@jit
def _serve(  # noqa: PLR0913 (a kernel takes arrays one by one)
    pages: I32,
    sizes: I64,
    kinds: U8,
    bits: U8,
    seconds: F64,
    ttl_seconds: float,
    tiers: I64,
    links: I32,
    where: U8,
    uses: U8,
    used: I64,
    tier_totals: I64,
    totals: I64,
) -> None:
    num_tiers, num_pages = tiers.shape[0], sizes.size
    dirty, bit_of, again = np.zeros(num_pages, np.uint8), np.zeros(num_pages, np.uint8), np.zeros(num_pages, np.uint8)
    born, stack = np.zeros(num_pages), np.empty((num_pages + num_tiers, 2), np.int64)
    targets = np.zeros((num_tiers, 1))  # of ARC: bytes for objects seen once
    for i in range(pages.size):
        page = pages[i]
        size = sizes[page]
        bit_of[page] = bits[i]
        found = -1
        for tier in range(num_tiers):
            if _resident(tiers[tier], where[tier], page):
                found = tier
        if found >= 0 and ttl_seconds > 0.0 and seconds[i] - born[page] > ttl_seconds:
            _drop(tiers[found], links[found], where[found], used[found], sizes, page)
            totals[_EXPIRED] += 1
            if dirty[page]:
                totals[_WRITE_BACK] += size
                dirty[page] = 0
            found = -1
        if found >= 0:
            tier_totals[found, _HITS] += 1
            tier_totals[found, _HIT_BYTES] += size
        else:
            totals[_MISSES] += 1
            totals[_MISS_BYTES] += size
            born[page] = seconds[i]
            if kinds[i] != DEFINE:
                totals[_FETCHED] += size
        if size > tiers[0, _CAPACITY]:
            totals[_PASSED] += 1
            if kinds[i] != READ:
                totals[_WRITE_BACK] += size
            continue
        if kinds[i] != READ:
            dirty[page] = 1
        if found == 0:
            again[page] = 1
            _touch(tiers[0], links[0], where[0], uses[0], used[0], sizes, page, bits[i])
            continue
        if found > 0:
            _drop(tiers[found], links[found], where[found], used[found], sizes, page)
        again[page] = 1 if found > 0 else 0
        _admit(page, tiers, links, where, uses, used, sizes, targets, tier_totals, totals, dirty, bit_of, again, stack)
    for page in range(num_pages):
        if dirty[page]:
            totals[_WRITE_BACK] += sizes[page]


@jit
def _drop(tier: I64, links: I32, where: U8, used: I64, sizes: I64, page: int) -> None:
    """Take a resident page out of a tier, the hand of SIEVE stepping over it."""
    if tier[_RULE] == _SIEVE and tier[_HAND] == page:
        following = links[page, 1]
        tier[_HAND] = following if following < where.size else -1
    _forget(links, where, used, sizes, page)


@jit
def _admit(  # noqa: PLR0913 (a kernel takes arrays one by one)
    page: int,
    tiers: I64,
    links: I32,
    where: U8,
    uses: U8,
    used: I64,
    sizes: I64,
    targets: F64,
    tier_totals: I64,
    totals: I64,
    dirty: U8,
    bit_of: U8,
    again: U8,
    stack: I64,
) -> None:
    """Insert ``page`` into the first tier; what leaves a tier goes to the next, or is dropped.

    ``stack`` holds (tier, page) still to insert: one large object may push out several small ones.
    """
    num_tiers, depth = tiers.shape[0], 1
    stack[0, 0], stack[0, 1] = 0, page
    while depth > 0:
        depth -= 1
        at, one = stack[depth, 0], stack[depth, 1]
        tier = tiers[at]
        size = sizes[one]
        ghost = _leave_ghosts(tier, links[at], where[at], used[at], sizes, targets[at], one)
        while _bytes(used[at]) + size > tier[_CAPACITY]:
            tier[_WARM] = 1
            victim = _evict(tier, links[at], where[at], uses[at], used[at], sizes, targets[at], one, ghost)
            below = at + 1
            taken = below < num_tiers and sizes[victim] <= tiers[min(below, num_tiers - 1), _CAPACITY]
            if taken and tiers[below, _ADMIT] == _REUSED:
                taken = again[victim] == 1
            elif taken and tiers[below, _ADMIT] == _BIT:
                taken = bit_of[victim] == 0
            if taken:
                stack[depth, 0], stack[depth, 1] = below, victim
                depth += 1
            elif dirty[victim]:
                totals[_WRITE_BACK] += sizes[victim]
                dirty[victim] = 0
        _insert(tier, links[at], where[at], uses[at], used[at], sizes, one, ghost, bit_of[one])
        tier_totals[at, _WRITTEN] += size


def simulate_tiers(
    trace: AccessTrace,
    tiers: Sequence[Tier],
    *,
    bits: U8 | None = None,
    ttl_seconds: float | None = None,
) -> TiersResult:
    """Serve ``trace`` from a chain of caches, the first tier first; bundles play no part.

    Args:
        trace: the requests; ``trace.seconds`` is needed for a time to live.
        tiers: at least one.
        bits: uint8[n] discard bits, for rule "lru0" and admission "bit".
        ttl_seconds: an object older than this since it was fetched is a miss; None: for ever.

    Raises:
        InputError: no tier, bits or times missing, or a time to live that is not > 0.
    """
    n, num_pages = trace.pages.num_requests, trace.pages.num_pages
    if not tiers:
        raise InputError("need at least one tier")
    told = any(tier.rule == "lru0" or tier.admission == "bit" for tier in tiers)
    if told and (bits is None or bits.shape != (n,)):
        raise InputError(f"rule 'lru0' and admission 'bit' need one discard bit for each of {n} requests")
    if ttl_seconds is not None and not ttl_seconds > 0.0:
        raise InputError(f"a time to live is > 0 seconds, got {ttl_seconds}")
    if ttl_seconds is not None and trace.seconds is None:
        raise InputError("a time to live needs the time of each request, and this trace has none")
    registers = np.zeros((len(tiers), 7), np.int64)
    for row, tier in zip(registers, tiers, strict=True):
        row[_CAPACITY], row[_RULE] = tier.capacity_bytes, RULES.index(tier.rule)
        row[_ADMIT], row[_HAND] = ADMISSIONS.index(tier.admission), -1
        row[_SMALL_ROOM], row[_GHOST_ROOM] = int(tier.capacity_bytes * 0.1), int(tier.capacity_bytes * 0.9)
    queues = [new_queues(4, num_pages) for _ in tiers]
    tier_totals, totals = np.zeros((len(tiers), 3), np.int64), np.zeros(6, np.int64)
    _serve(
        trace.pages.pages,
        trace.size_bytes,
        trace.kinds,
        np.zeros(n, np.uint8) if bits is None else bits,
        np.zeros(n) if trace.seconds is None else trace.seconds,
        0.0 if ttl_seconds is None else ttl_seconds,
        registers,
        np.stack([links for links, _ in queues]),
        np.stack([where for _, where in queues]),
        np.zeros((len(tiers), num_pages), np.uint8),
        np.zeros((len(tiers), 4), np.int64),
        tier_totals,
        totals,
    )
    return TiersResult(
        tiers=tuple(
            TierResult(name=tier.name, hits=int(row[_HITS]), hit_bytes=int(row[_HIT_BYTES]), written_bytes=int(row[2]))
            for tier, row in zip(tiers, tier_totals, strict=True)
        ),
        requests=n,
        request_bytes=int(trace.size_bytes[trace.pages.pages].sum()),
        misses=int(totals[_MISSES]),
        miss_bytes=int(totals[_MISS_BYTES]),
        fetch_bytes=int(totals[_FETCHED]),
        write_back_bytes=int(totals[_WRITE_BACK]),
        expired=int(totals[_EXPIRED]),
        passed_by=int(totals[_PASSED]),
    )
