"""From a mapping to orders that the compiler accepts: give all, withdraw what it refuses, then try what is missing.

Pure search over an ``evaluate`` function: compile with these orders, judge what came out.
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from mallocgame.mapping import Mapping, serving_layers
from mallocgame.program import Program
from workloads.overrides import Action, Decision, decisions_of, definitions
from workloads.verify import Evaluation

Evaluate = Callable[[Sequence[Decision]], Evaluation]
Report = Callable[["Search"], None]

MAX_REFUSALS = 8  # in a row, before a group of orders is given up
_OPERAND = re.compile(r"for instruction '([^']+)' operand (\d+)")
_DEFINER = re.compile(r"defining instruction '([^']+)'")


@dataclass(kw_only=True)
class Search:
    """The best orders so far, and what was refused on the way."""

    evaluate: Evaluate
    deadline: float  # on time.monotonic's clock
    best: Evaluation
    decisions: tuple[Decision, ...] = ()
    refused: dict[Decision, str] = field(default_factory=dict)
    evaluations: int = 0
    on_better: Report | None = None

    def try_out(self, decisions: Iterable[Decision]) -> Evaluation:
        """Evaluate orders; they become the best if the judged time falls."""
        chosen = tuple(dict.fromkeys(decisions))
        found = self.evaluate(chosen)
        self.evaluations += 1
        if found.mapping is not None and found.judged_seconds < self.best.judged_seconds * (1 - 1e-9):
            self.best, self.decisions = found, chosen
            if self.on_better is not None:
                self.on_better(self)
        return found

    @property
    def is_over(self) -> bool:
        """Whether the time is spent."""
        return time.monotonic() >= self.deadline


def realise(search: Search, program: Program, goal: Mapping) -> None:
    """Give the compiler a mapping, order by order, and keep the best of what it accepts.

    What is to stay in the default memory is never refused and comes first; then copies, then what is to be pinned.
    """
    wanted = decisions_of(program, goal)
    given: list[Decision] = [d for d in wanted if d.action is Action.KEEP]
    if given:
        search.try_out(given)
    for action in (Action.PREFETCH, Action.PIN):
        group = [d for d in wanted if d.action is action]
        if group:
            given += _accepted(search, given, group)


def _accepted(search: Search, given: list[Decision], group: list[Decision]) -> list[Decision]:
    """Return the part of ``group`` (most important first) that the compiler takes together with ``given``.

    Each refusal withdraws the order that it names, and the least important ones, twice as many each time.
    """
    group, drop = list(group), 1
    for _ in range(MAX_REFUSALS):
        if not group or search.is_over:
            return []
        found = search.try_out([*given, *group])
        if not found.error:
            return group
        named = blamed(found.error, group)
        for decision in named or group[-1:]:
            search.refused[decision] = found.error
            group.remove(decision)
        if drop > 1:
            group = group[: max(len(group) - drop, 0)]
        drop *= 2
    return []


def blamed(error: str, decisions: Iterable[Decision]) -> list[Decision]:
    """Return the orders that a refusal names: by operand, else by the instruction that defines the value."""
    operand, definer = _OPERAND.search(error), _DEFINER.search(error)
    group = list(decisions)
    if operand:
        named = [d for d in group if (d.place.instruction, d.place.operand) == (operand[1], int(operand[2]))]
        if named:
            return named
    return [d for d in group if definer and d.place.operand < 0 and d.place.instruction == definer[1]]


def improve(search: Search, program: Program, goal: Mapping, costs: Callable[[Mapping], Sequence[float]]) -> None:
    """Where the compiler still does otherwise than ``goal``, try single orders, the costliest tensors first.

    ``costs`` gives each tensor's share in the time of a mapping; the search ends when a pass over all tensors brings
    nothing, or the time is over.
    """
    tried: set[tuple[tuple[Decision, ...], tuple[Decision, ...]]] = set()
    better = True
    while better and not search.is_over:
        better = False
        got = search.best.mapping
        assert got is not None
        for tensor in deviating(program, goal, got, costs(got)):
            for extra in _moves(program, goal, tensor):
                if search.is_over:
                    return
                without = tuple(d for d in search.decisions if d.tensor != tensor)
                key = (without, tuple(extra))
                if key in tried or set(search.decisions) == {*without, *extra}:
                    continue
                tried.add(key)
                before = search.best.judged_seconds
                search.try_out([*without, *extra])
                if search.best.judged_seconds < before:
                    better = True
                    break
            if better:
                break


def deviating(program: Program, goal: Mapping, got: Mapping, costs: Sequence[float]) -> list[int]:
    """Return the tensors that ``got`` treats otherwise than ``goal``, in order of cost."""
    want, have = serving_layers(program, goal), serving_layers(program, got)
    different = set(program.uses.tensor[want != have].tolist())
    copied = [sorted((x.tensor, x.target < 0) for x in m.transfers) for m in (goal, got)]
    different |= {t for t, _ in set(copied[0]) ^ set(copied[1])}
    return sorted(different, key=lambda t: -costs[t])


def _moves(program: Program, goal: Mapping, tensor: int) -> list[list[Decision]]:
    """Return alternative sets of orders for one tensor."""
    keep = definitions(program, tensor, Action.KEEP)
    first = definitions(program, tensor, Action.FIRST)
    pin = [] if program.tensors[tensor].is_parameter else definitions(program, tensor, Action.PIN)
    wanted = [d for d in decisions_of(program, goal) if d.tensor == tensor and d.action is Action.PREFETCH]
    options = [wanted, first + pin, keep, first, first + wanted, []]
    return [option for i, option in enumerate(options) if (option or i == 5) and option not in options[:i]]
