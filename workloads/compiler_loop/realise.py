"""From a mapping to overrides that the compiler accepts: give all, withdraw what it refuses, then try what is missing.

Pure search over an ``evaluate`` function: compile with these overrides, judge what came out.
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from mallocgame.explanation.placement import Placements, TensorPlacement, take_apart
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import Timeline
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.workloads.compiler_loop.loop_operands import LoopOperands
from mallocgame.workloads.compiler_loop.moves import MoveEstimator, OverrideMove, WantedMapping, moves
from mallocgame.workloads.compiler_loop.overrides import Action, Override, definitions, overrides_of
from mallocgame.workloads.compiler_loop.verify import Evaluation, OverrideOutcome, outcome_of
from mallocgame.workloads.xla.compiler import Options

Evaluate = Callable[[Sequence[Override]], Evaluation]
OnBetter = Callable[["OverrideSearch"], None]

MAX_REFUSALS = 8  # in a row, before a group of overrides is given up
NUM_FIRST = 12  # pinned values that are placed before all others
FIRST_WIDTH = 64  # moves that are tried together at first
MAX_ROOM = 12  # moves that others give way to, that are thought through each time
LEAST_THINKING_SECONDS = 2.0  # about moves, or twice as long as an evaluation takes
NEXT_TO_NOTHING = 1e-5  # of the time
WORTH_A_MOVE = 1e-3  # of the time: less is next to nothing
LEAST_GAIN = 1e-6  # of the whole time, for a move to be worth a compilation
_OPERAND = re.compile(r"for instruction '([^']+)' operand (\d+)")
_DEFINER = re.compile(r"defining instruction '([^']+)'")


@dataclass(kw_only=True)
class OverrideSearch:
    """The best overrides so far, and what was refused on the way."""

    evaluate: Evaluate
    deadline: Callable[[], float]  # on time.monotonic's clock
    best: Evaluation
    overrides: tuple[Override, ...] = ()
    refused: dict[Override, str] = field(default_factory=dict)
    evaluations: int = 0
    last_seconds: float = 0.0  # that an evaluation took
    workers: int = 1  # evaluations at a time
    flags: Options = field(default_factory=dict)  # that ``evaluate`` gives with all overrides
    operands: LoopOperands = field(default_factory=dict)  # of the program's loops
    on_better: OnBetter | None = None
    history: list[tuple[Evaluation, tuple[Override, ...]]] = field(default_factory=list)  # what was best before

    def try_out(self, overrides: Iterable[Override]) -> Evaluation:
        """Evaluate overrides; they become the best if the judged time falls."""
        chosen = tuple(dict.fromkeys(overrides))
        return self.take(chosen, self.evaluate(chosen))

    def try_all(self, sets: Sequence[Iterable[Override]]) -> list[Evaluation]:
        """Evaluate several sets of overrides, ``workers`` at a time, until the time is over; return what was done."""
        chosen = [tuple(dict.fromkeys(overrides)) for overrides in sets]
        if self.workers == 1 or len(chosen) == 1:
            return [self.take(given, self.evaluate(given)) for given in chosen if not self.is_over()]
        found: list[Evaluation] = []
        pool = ThreadPoolExecutor(self.workers)
        try:
            for first in range(0, len(chosen), self.workers):
                if self.is_over():
                    break
                together = chosen[first : first + self.workers]
                found += map(self.take, together, pool.map(self.evaluate, together))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for compilations
        return found

    def take(self, chosen: tuple[Override, ...], found: Evaluation) -> Evaluation:
        """Take note of an evaluation of overrides, which become the best if the judged time falls; return it."""
        self.evaluations += 1
        self.last_seconds = found.seconds
        if found.mapping is not None and found.judged_seconds < self.best.judged_seconds * (1 - 1e-9):
            self.history.append((self.best, self.overrides))
            self.best, self.overrides = found, chosen
            if self.on_better is not None:
                self.on_better(self)
        return found

    def is_over(self) -> bool:
        """Whether the time is spent."""
        return time.monotonic() >= self.deadline()


def realise(search: OverrideSearch, program: Program, goal: Mapping) -> None:
    """Give the compiler a mapping, override by override, and keep the best of what it accepts.

    What is to stay in the default memory is never refused and comes first; then copies, then what is to be pinned: the
    values with the most traffic with the override to place them before all others, without which there is seldom room
    left for them. (To the compiler each such override costs a match per comparison while it sorts: only a few get one.)
    """
    wanted = overrides_of(program, goal, search.operands)
    given: list[Override] = [d for d in wanted if d.action is Action.KEEP]
    if given:
        search.try_out(given)
    pins = [d for d in wanted if d.action is Action.PIN]
    ahead = {
        tensor: definitions(program, tensor, Action.FIRST) for tensor in list({d.tensor: 0 for d in pins})[:NUM_FIRST]
    }
    leading = [d for tensor, first in ahead.items() for d in (*first, *(p for p in pins if p.tensor == tensor))]
    copies = [d for d in wanted if d.action is Action.PREFETCH]
    for group in (leading, copies, [d for d in pins if d.tensor not in ahead]):
        if group:
            given += _accepted(search, given, group)


def complete(search: OverrideSearch, program: Program, goal: Mapping) -> None:
    """Bring the best nearer to ``goal`` where that costs next to nothing: keep in slow memory what is to stay there."""
    ordered = {d.tensor for d in search.overrides}
    wanted = [
        d for d in overrides_of(program, goal, search.operands) if d.action is Action.KEEP and d.tensor not in ordered
    ]
    if len(wanted) == sum(outcome_of(d, program, search.best.mapping) is OverrideOutcome.REALISED for d in wanted):
        return
    overrides = (*search.overrides, *wanted)
    found = search.try_out(overrides)
    if found.mapping is not None and found.judged_seconds <= search.best.judged_seconds * (1 + NEXT_TO_NOTHING):
        search.best, search.overrides = found, overrides


def _accepted(search: OverrideSearch, given: list[Override], group: list[Override]) -> list[Override]:
    """Return the part of ``group`` (most important first) that the compiler takes together with ``given``.

    Each refusal withdraws the override that it names, and the least important ones, twice as many each time.
    """
    group, drop = list(group), 1
    for _ in range(MAX_REFUSALS):
        if not group or search.is_over():
            return []
        found = search.try_out([*given, *group])
        if not found.error:
            return group
        if found.inconclusive:
            return []
        named = blamed(found.error, group)
        for override in named or group[-1:]:
            search.refused[override] = found.error
            group.remove(override)
        if drop > 1:
            group = group[: max(len(group) - drop, 0)]
        drop *= 2
    return []


def blamed(error: str, overrides: Iterable[Override]) -> list[Override]:
    """Return the strict overrides that a refusal names: by operand, else by the instruction that defines the value."""
    operand, definer = _OPERAND.search(error), _DEFINER.search(error)
    strict = [d for d in overrides if d.action in (Action.PREFETCH, Action.PIN, Action.FIRST)]
    if operand:
        named = [d for d in strict if (d.place.instruction, d.place.operand) == (operand[1], int(operand[2]))]
        if named:
            return named
    return [d for d in strict if definer and d.place.operand < 0 and d.place.instruction == definer[1]]


def improve(
    search: OverrideSearch, program: Program, hierarchy: Hierarchy, goal: Mapping, patience: int | None = None
) -> None:
    """Change what the compiler did for the tensors where the judge expects most of it, and look what it makes of that.

    Moves (``compiler_loop/moves.py``) are combined greedily, as long as the judge's time of the compiler's mapping with
    all of them falls, and tried together. Where that does not help fewer are, down to one; where it does, more.
    The search ends when no move promises anything, ``patience`` trials in turn bring next to nothing, or the time is
    over.
    """
    estimator = MoveEstimator(program=program, hierarchy=hierarchy)
    wanted_mapping = WantedMapping.of(program, goal, search.operands)
    given_up: set[tuple[Override, ...]] = set()
    width, stale = FIRST_WIDTH, 0
    while not search.is_over() and (patience is None or stale < patience):
        assert search.best.mapping is not None
        before = search.best.judged_seconds
        think = max(2 * search.last_seconds, LEAST_THINKING_SECONDS)
        parts = take_apart(search.best.mapping)
        chosen = _choose(estimator, parts, search.overrides, wanted_mapping, given_up, width, think)
        if not chosen:
            return
        left = _try_moves(search, chosen, given_up)
        stale = 0 if search.best.judged_seconds < before * (1 - WORTH_A_MOVE) else stale + 1
        if search.best.judged_seconds < before:
            width *= 2
        elif len(left) > 1:
            width = max(len(left) // 3, 1)
        else:
            given_up.update(move.overrides for move in left or chosen[:1])


def _choose(
    estimator: MoveEstimator,
    parts: Placements,
    overrides: Sequence[Override],
    wanted_mapping: WantedMapping,
    given_up: set[tuple[Override, ...]],
    width: int,
    seconds_to_think: float = float("inf"),
) -> list[OverrideMove]:
    """Return at most ``width`` moves of different tensors that together promise the most, greedily.

    Where time is short, the tensors are thought about whose copies are waited for longest, then the largest.
    """
    until = time.monotonic() + seconds_to_think
    now = estimator.timeline(parts)
    known = set(overrides)
    found = [
        m for m in moves(estimator.program, parts, now.stall_seconds, wanted_mapping) if m.overrides not in given_up
    ]
    found = [m for m in found if not known.issuperset(m.overrides)]
    sizes = estimator.program.sizes_bytes
    found.sort(key=lambda m: (-_waits(m, parts, now), -int(sizes[m.tensor])))
    seconds = []
    for move in found:
        if time.monotonic() > until:
            break
        seconds.append(estimator.seconds(move.expected(parts)))
    found = found[: len(seconds)]
    for at in _worth_room(found, seconds, parts, now):
        roomy = estimator.make_room(parts, found[at])
        if roomy is not None:
            found[at], seconds[at] = roomy, estimator.seconds(roomy.expected(parts))
    best = now.total_seconds
    chosen: list[OverrideMove] = []
    used: set[int] = set()
    for at in np.argsort(seconds, kind="stable").tolist():
        move = found[at]
        if seconds[at] >= now.total_seconds * (1 - LEAST_GAIN) or len(chosen) >= width:
            break
        touched = {move.tensor, *(tensor for tensor, _ in move.displaced)}
        if touched & used:
            continue
        then = estimator.seconds(move.expected(parts))
        if then < best * (1 - LEAST_GAIN):
            best, parts = then, move.expected(parts)
            chosen.append(move)
            used |= touched
    return chosen


def _worth_room(found: list[OverrideMove], seconds: list[float], parts: Placements, now: Timeline) -> list[int]:
    """Return the moves that do not fit, of those tensors whose copies are waited for longest."""

    far = 1e-3 * now.total_seconds
    large = [i for i, m in enumerate(found) if seconds[i] == float("inf") and _waits(m, parts, now) > far]
    return sorted(large, key=lambda i: -_waits(found[i], parts, now))[:MAX_ROOM]


def _waits(move: OverrideMove, parts: Placements, now: Timeline) -> float:
    steps = {x.done_before for x in parts.get(move.tensor, TensorPlacement()).transfers}
    return float(now.stall_seconds[sorted(steps)].sum())


def _try_moves(
    search: OverrideSearch, chosen: list[OverrideMove], given_up: set[tuple[Override, ...]]
) -> list[OverrideMove]:
    """Try moves (best first) together; return those that were not refused.

    A refusal names a pinned value. It, and of the other pinned ones the last, twice as many each time, are only asked
    to be placed first, which is never refused.
    """
    kept, soften = search.overrides, 0
    for attempt in range(MAX_REFUSALS):
        overrides = _applied(kept, chosen)
        if attempt or search.workers == 1:
            found = search.try_out(overrides)
        else:  # fewer of them at the same time
            fewer = [
                _applied(kept, chosen[: len(chosen) // 3**n]) for n in range(1, search.workers) if 3**n <= len(chosen)
            ]
            done = search.try_all([overrides, *fewer])
            if not done:
                break
            found = done[0]
        if not found.error or found.inconclusive or not chosen or search.is_over():
            break
        named = set(blamed(found.error, overrides))
        bad = [m for m in chosen if named & set(m.overrides)]
        given_up.update(m.overrides for m in bad)
        search.refused.update(dict.fromkeys((d for m in bad for d in m.overrides), found.error))
        if not bad:
            if not named:
                chosen = chosen[: len(chosen) // 2]
            kept = tuple(d for d in kept if d not in named)  # an earlier override that cannot be met any more
            continue
        pinned = [m for m in chosen if m not in bad and any(d.action is Action.PIN for d in m.overrides)]
        soft = [*bad, *pinned[max(len(pinned) - soften, 0) :]]
        chosen = [replace(m, overrides=_softened(m.overrides)) if m in soft else m for m in chosen]
        chosen = [m for m in chosen if m.overrides]
        soften = 2 * soften + 2
    return chosen


def _applied(overrides: tuple[Override, ...], chosen: Iterable[OverrideMove]) -> tuple[Override, ...]:
    for move in chosen:
        overrides = move.apply(overrides)
    return overrides


def _softened(overrides: tuple[Override, ...]) -> tuple[Override, ...]:
    return tuple(d for d in overrides if d.action not in (Action.PIN, Action.PREFETCH))
