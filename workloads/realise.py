"""From a mapping to orders that the compiler accepts: give all, withdraw what it refuses, then try what is missing.

Pure search over an ``evaluate`` function: compile with these orders, judge what came out.
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping, serving_layers
from mallocgame.program import Program
from mallocgame.simulate import simulate
from workloads.overrides import Action, Decision, decisions_of, definitions
from workloads.verify import Evaluation

Evaluate = Callable[[Sequence[Decision]], Evaluation]
Report = Callable[["Search"], None]

MAX_REFUSALS = 8  # in a row, before a group of orders is given up
NUM_FIRST = 12  # pinned values that are placed before all others
WIDTHS = (24, 6, 1)  # tensors whose orders are changed together
NUM_CHOICES = 5  # alternative orders for one tensor
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

    def is_over(self) -> bool:
        """Whether the time is spent."""
        return time.monotonic() >= self.deadline


def realise(search: Search, program: Program, goal: Mapping) -> None:
    """Give the compiler a mapping, order by order, and keep the best of what it accepts.

    What is to stay in the default memory is never refused and comes first; then copies, then what is to be pinned: the
    values with the most traffic with the order to place them before all others, without which there is seldom room
    left for them. (To the compiler each such order costs a match per comparison while it sorts: only a few get one.)
    """
    wanted = decisions_of(program, goal)
    given: list[Decision] = [d for d in wanted if d.action is Action.KEEP]
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


def _accepted(search: Search, given: list[Decision], group: list[Decision]) -> list[Decision]:
    """Return the part of ``group`` (most important first) that the compiler takes together with ``given``.

    Each refusal withdraws the order that it names, and the least important ones, twice as many each time.
    """
    group, drop = list(group), 1
    for _ in range(MAX_REFUSALS):
        if not group or search.is_over():
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


def improve(search: Search, program: Program, hierarchy: Hierarchy, goal: Mapping) -> None:
    """Where the compiler still does otherwise than ``goal``, try other orders, for the costliest tensors first.

    Orders are tried for many tensors at a time, then for few, then one by one. The search ends when a pass over all
    tensors brings nothing, or the time is over.
    """
    tried: set[frozenset[Decision]] = set()
    better = True
    while better:
        results = [_pass(search, program, hierarchy, goal, width, tried) for width in WIDTHS]
        better = any(results)


def _pass(
    search: Search, program: Program, hierarchy: Hierarchy, goal: Mapping, width: int, tried: set[frozenset[Decision]]
) -> bool:
    """Try orders for the deviating tensors, ``width`` at a time; return whether anything helped."""
    got = search.best.mapping
    assert got is not None
    begun_with = search.best.judged_seconds
    tensors = deviating(program, hierarchy, goal, got)
    if width > 1 and len(tensors) < width // 2:
        return False
    for at in range(0, len(tensors), width):
        group = set(tensors[at : at + width])
        for choice in range(NUM_CHOICES):
            if search.is_over():
                return False
            kept = [d for d in search.decisions if d.tensor not in group]
            orders = [*kept, *(d for tensor in sorted(group) for d in _choice(program, goal, tensor, choice))]
            if frozenset(orders) in tried:
                continue
            tried.add(frozenset(orders))
            before = search.best.judged_seconds
            found = search.try_out(orders)
            if found.error and width > 1:  # without those that it refuses
                named = {d.tensor for d in blamed(found.error, orders)}
                search.try_out(d for d in orders if d.tensor not in named)
            if search.best.judged_seconds < before:
                break
    return search.best.judged_seconds < begun_with


def deviating(program: Program, hierarchy: Hierarchy, goal: Mapping, got: Mapping) -> list[int]:
    """Return the tensors that ``got`` treats otherwise than ``goal``, in order of what that may cost.

    Their cost is what the program waits for their copies, and the time to read in layer 0 what ``goal`` has elsewhere.
    """
    want, have = serving_layers(program, goal), serving_layers(program, got)
    uses, stalls = program.uses, simulate(program, hierarchy, got).stall_seconds
    seconds = uses.bytes * program.trip_counts[uses.step] / hierarchy.layers[0].bytes_per_second
    cost = np.zeros(len(program.tensors))
    np.add.at(cost, uses.tensor, np.where(want != have, seconds, 0.0))
    different = set(uses.tensor[want != have].tolist())
    copied = [{(x.tensor, x.target < 0, x.start_after) for x in m.transfers} for m in (goal, got)]
    different |= {tensor for tensor, _, _ in copied[0] ^ copied[1]}
    for x in got.transfers:
        cost[x.tensor] += stalls[x.done_before]
    return sorted(different, key=lambda tensor: -float(cost[tensor]))


def _choice(program: Program, goal: Mapping, tensor: int, choice: int) -> list[Decision]:
    """Return one of the alternative sets of orders for a tensor."""
    first = definitions(program, tensor, Action.FIRST)
    pin = [] if program.tensors[tensor].is_parameter else definitions(program, tensor, Action.PIN)
    wanted = [d for d in decisions_of(program, goal) if d.tensor == tensor]
    return (wanted, first + pin, definitions(program, tensor, Action.KEEP), first + wanted, [])[choice]
