"""Slow, obvious versions of the policies, and exact expectations of the randomised ones: the tests' own oracles.

Nothing here comes from ``baselines/paging``. ``mutant`` names a deliberate mistake: each theory test has one that it
must catch.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction

Cache = frozenset[int]


def next_uses(pages: Sequence[int]) -> list[int]:
    n, last, out = len(pages), {}, [0] * len(pages)
    for i in range(n - 1, -1, -1):
        out[i] = last.get(pages[i], n)
        last[pages[i]] = i
    return out


def run_demand(pages: Sequence[int], k: int, choose: Callable[[list[int], int], int]) -> tuple[int, list[int]]:
    """Serve with a cache kept as a list, oldest insertion first; ``choose(cache, now)`` names the victim.

    Returns (faults, discard bits of this schedule).
    """
    cache: list[int] = []
    faults, bits, last = 0, [1] * len(pages), {}
    for i, page in enumerate(pages):
        if page in cache:
            bits[last[page]] = 0
        else:
            faults += 1
            if len(cache) == k:
                cache.remove(choose(cache, i))
            cache.append(page)
        last[page] = i
    for page in cache:
        bits[last[page]] = 0
    return faults, bits


def belady(pages: Sequence[int], k: int) -> tuple[int, list[int]]:
    def choose(cache: list[int], now: int) -> int:
        def distance(page: int) -> int:
            return next((j for j in range(now + 1, len(pages)) if pages[j] == page), len(pages))

        return max(cache, key=distance)

    return run_demand(pages, k, choose)


def lru(pages: Sequence[int], k: int) -> tuple[int, list[int]]:
    return run_demand(pages, k, lambda cache, now: min(cache, key=lambda q: _last(pages, now, q)))


def fifo(pages: Sequence[int], k: int) -> tuple[int, list[int]]:
    return run_demand(pages, k, lambda cache, now: cache[0])


def _last(pages: Sequence[int], now: int, page: int) -> int:
    return max(j for j in range(now) if pages[j] == page)


def fwa0(pages: Sequence[int], bits: Sequence[int], k: int, *, flush: bool = True, mutant: str = "") -> int:
    """FWA0, or LRU0 with ``flush`` False. The cache is a list in order of last request."""
    cache: list[int] = []
    bit: dict[int, int] = {}
    faults = 0
    for page, b in zip(pages, bits, strict=True):
        if page in cache:
            cache.remove(page)
        else:
            faults += 1
            if len(cache) == k:
                ones = [q for q in cache if bit[q]]
                if mutant == "polarity":
                    ones = [q for q in cache if not bit[q]]
                if ones:
                    cache.remove(ones[0])
                elif flush:
                    cache.clear()
                else:
                    cache.pop(-1 if mutant == "mru" else 0)
        cache.append(page)
        if mutant != "stale-bit" or page not in bit:
            bit[page] = b
    return faults


State = tuple[Cache, Cache]  # cached, marked
Step = Callable[[State, int, dict[int, int]], list[tuple[Fraction, State]]]


def expected_faults(
    pages: Sequence[int], bits: Sequence[int], evict: Step, k: int, *, history: dict[int, int] | None = None
) -> Fraction:
    """Propagate the distribution over (cached, marked) states exactly; ``evict`` lists the states after an eviction."""
    states: dict[State, Fraction] = {(frozenset(), frozenset()): Fraction(1)}
    bit: dict[int, int] = {} if history is None else history
    faults = Fraction(0)
    for page, b in zip(pages, bits, strict=True):
        after: dict[State, Fraction] = {}
        for (cached, marked), chance in states.items():
            outcomes = [(Fraction(1), (cached, marked))]
            if page not in cached:
                faults += chance
                if len(cached) == k:
                    outcomes = evict((cached, marked), k, bit)
            for share, (kept, marks) in outcomes:
                state = (kept | {page}, marks | {page})
                after[state] = after.get(state, Fraction(0)) + chance * share
        states = after
        bit[page] = b
    return faults


def _uniform(pool: Cache, state: State) -> list[tuple[Fraction, State]]:
    cached, marked = state
    return [(Fraction(1, len(pool)), (cached - {q}, marked - {q})) for q in pool]


def marker_step(state: State, k: int, bit: dict[int, int]) -> list[tuple[Fraction, State]]:
    cached, marked = state
    if cached == marked:
        marked = frozenset()
    return _uniform(cached - marked, (cached, marked))


def unmarked_anywhere_step(state: State, k: int, bit: dict[int, int]) -> list[tuple[Fraction, State]]:
    """A mutant Marker: evicts any page, marked or not."""
    return _uniform(state[0], state)


def mark0_step(state: State, k: int, bit: dict[int, int]) -> list[tuple[Fraction, State]]:
    cached, marked = state
    ones = frozenset(q for q in cached if bit[q])
    if ones:
        return _uniform(frozenset([min(ones)]), (cached, marked))
    return marker_step(state, k, bit)


def mark0_keeps_ones_step(state: State, k: int, bit: dict[int, int]) -> list[tuple[Fraction, State]]:
    """A mutant MARK0 that evicts a 0-page while there are 1-pages."""
    cached, marked = state
    zeros = frozenset(q for q in cached if not bit[q])
    return _uniform(zeros or cached, (cached, marked))


def mark_predict_step(state: State, k: int, bit: dict[int, int]) -> list[tuple[Fraction, State]]:
    cached, marked = state
    if cached == marked:
        marked = frozenset()
    unmarked = cached - marked
    return _uniform(frozenset(q for q in unmarked if bit[q]) or unmarked, (cached, marked))


def mark_predict_reversed_step(state: State, k: int, bit: dict[int, int]) -> list[tuple[Fraction, State]]:
    """A mutant MARK&PREDICT that prefers to evict pages predicted to return."""
    cached, marked = state
    if cached == marked:
        marked = frozenset()
    unmarked = cached - marked
    return _uniform(frozenset(q for q in unmarked if not bit[q]) or unmarked, (cached, marked))


def unmarked_first_step(state: State, k: int, bit: dict[int, int]) -> list[tuple[Fraction, State]]:
    """A mutant MARK&PREDICT that ignores marks: any 1-page, else any page."""
    cached, marked = state
    return _uniform(frozenset(q for q in cached if bit[q]) or cached, (cached, marked))


def det_mark_predict(pages: Sequence[int], bits: Sequence[int], k: int, *, mutant: str = "") -> int:
    cache: list[int] = []  # by last request
    marked: set[int] = set()
    bit: dict[int, int] = {}
    faults = 0
    for page, b in zip(pages, bits, strict=True):
        if page in cache:
            cache.remove(page)
        else:
            faults += 1
            if len(cache) == k:
                if marked >= set(cache):
                    marked.clear()
                unmarked = [q for q in cache if q not in marked or mutant == "ignore-marks"]
                victim = next((q for q in unmarked if bit[q]), unmarked[-1 if mutant else 0])
                cache.remove(victim)
                marked.discard(victim)
        cache.append(page)
        marked.add(page)
        bit[page] = b
    return faults


def phase_numbers(pages: Sequence[int], k: int) -> list[int]:
    out, seen, number = [], set(), 0
    for page in pages:
        if page not in seen and len(seen) == k:
            number, seen = number + 1, set()
        seen.add(page)
        out.append(number)
    return out


def phase_truth(pages: Sequence[int], k: int) -> list[int]:
    numbers = phase_numbers(pages, k)
    content: dict[int, set[int]] = {}
    for page, number in zip(pages, numbers, strict=True):
        content.setdefault(number, set()).add(page)
    return [int(page not in content.get(number + 1, set())) for page, number in zip(pages, numbers, strict=True)]


def errors(predicted: Sequence[int], truth: Sequence[int], counted: Sequence[bool] | None = None) -> tuple[int, int]:
    pairs = [(p, t) for i, (p, t) in enumerate(zip(predicted, truth, strict=True)) if counted is None or counted[i]]
    return sum(p == 0 and t == 1 for p, t in pairs), sum(p == 1 and t == 0 for p, t in pairs)


def last_of_phase(pages: Sequence[int], k: int) -> list[bool]:
    numbers = phase_numbers(pages, k)
    keys = list(zip(pages, numbers, strict=True))
    return [key not in keys[i + 1 :] and key[1] < numbers[-1] for i, key in enumerate(keys)]


def harmonic(k: int) -> Fraction:
    return sum((Fraction(1, i) for i in range(1, k + 1)), Fraction(0))
