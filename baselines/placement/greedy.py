"""Greedy: the stays that save most per byte and step, one after the other, each kept if the judge agrees."""

from collections.abc import Iterator
from dataclasses import dataclass

from mallocgame.baselines.placement.partial_mapping import Board
from mallocgame.baselines.placement.placement import Plan, Planner
from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping
from mallocgame.outcome import Search
from mallocgame.program import Program
from mallocgame.solver import Progress, SolveResult

MAX_STAYS = 24  # candidates per tensor and layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """A candidate: hold a tensor from one use to another; ``first`` None: from the run before to the last use."""

    tensor: int
    layer: int
    first: int | None
    last: int
    due: int
    density: float  # instruction seconds saved per byte and step


def greedy(
    program: Program,
    hierarchy: Hierarchy,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    start: Mapping | None = None,
    progress: Progress | None = None,
) -> SolveResult:
    """Take stays by density (instruction seconds saved per byte and step held), best-fit addresses, judge each."""
    search = Search(program, hierarchy, seconds, progress)
    search.offer(start)
    planner = Planner(program, hierarchy)
    candidates = [stay for tensor in range(len(program.tensors)) for stay in stays(planner, tensor)]
    candidates.sort(key=lambda stay: -stay.density)  # stable: ties in the order of tensors
    board = Board(planner)
    now = search.judged(board.mapping)
    for stay in candidates:
        if search.out_of_time():
            break
        for plan in _plans(planner, stay):
            if board.add(plan):
                then = search.judged(board.mapping)
                if then >= now:
                    board.undo()
                else:
                    now = then
    search.offer(board.mapping, now)
    return search.result()


def _plans(planner: Planner, stay: Stay) -> Iterator[Plan]:
    if stay.first is None:
        return planner.held(stay.tensor, stay.layer)
    return planner.stays(stay.tensor, stay.layer, stay.first, stay.last, due=stay.due)


def stays(planner: Planner, tensor: int) -> Iterator[Stay]:
    """Yield the stays that are worth a thought and save something: all uses, few uses in a row, the first, the last."""
    if not planner.program.tensors[tensor].movable or not planner.use_steps(tensor):
        return
    steps = planner.use_steps(tensor)
    spans = dict.fromkeys((steps[0], last) for last in reversed(steps))
    spans.update(dict.fromkeys((first, steps[-1]) for first in steps))
    for width in range(3):
        spans.update(dict.fromkeys(zip(steps, steps[width:], strict=False)))
    size = planner.program.tensors[tensor].size_bytes
    for layer in range(1, planner.hierarchy.num_layers):
        everything = planner.saved_seconds(tensor, layer, steps[0], steps[-1])
        if everything > 0 and planner.program.tensors[tensor].holdable:
            density = everything / (size * (steps[-1] + 1))
            yield Stay(tensor=tensor, layer=layer, first=None, last=steps[-1], due=0, density=density)
        for first, last in list(spans)[:MAX_STAYS]:
            saved = planner.saved_seconds(tensor, layer, first, last)
            for due in planner.dues(first) if saved > 0 else ():
                defined = planner.is_defined(tensor, first)
                begin = first if defined else planner.latest_issue(0, layer, tensor, due)
                density = saved / (size * (last + 1 - begin))
                yield Stay(tensor=tensor, layer=layer, first=first, last=last, due=due, density=density)
