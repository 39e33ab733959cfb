"""Greedy: the stays that save most per byte and step, one after the other, each kept if the judge agrees."""

from collections.abc import Iterator

from baselines.board import Board
from baselines.outcome import Search
from baselines.plans import Plan, Planner
from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.solver import Progress, SolveResult

MAX_STAYS = 24  # candidates per tensor and layer


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
    candidates = []
    for tensor in range(len(program.tensors)):
        if search.out_of_time():
            break
        candidates += [(density(planner, plan), plan) for plan in stays(planner, tensor)]
    candidates = [(value, plan) for value, plan in candidates if value > 0]
    candidates.sort(key=lambda entry: -entry[0])  # stable: ties in the order of tensors
    board = Board(planner)
    now = search.judged(board.mapping)
    for _, plan in candidates:
        if search.out_of_time():
            break
        if board.add(plan):
            then = search.judged(board.mapping)
            if then >= now:
                board.undo()
            else:
                now = then
    search.offer(board.mapping, now)
    return search.result()


def density(planner: Planner, plan: Plan) -> float:
    """Return the instruction seconds that a plan saves per byte and step of space."""
    steps = sum(end - max(start, 0) for start, end in plan.spans)
    return planner.saved_seconds(plan) / (float(planner.program.sizes_bytes[plan.tensor]) * steps)


def stays(planner: Planner, tensor: int) -> Iterator[Plan]:
    """Yield the stays that are worth a thought: all uses, from each use to the next ones, from each use to the last."""
    if not planner.program.tensors[tensor].movable:
        return
    steps = planner.use_steps(tensor)
    spans = dict.fromkeys((steps[0], last) for last in reversed(steps))
    spans.update(dict.fromkeys((first, steps[-1]) for first in steps))
    for width in range(3):
        spans.update(dict.fromkeys(zip(steps, steps[width:], strict=False)))
    for layer in range(1, planner.hierarchy.num_layers):
        yield from planner.held(tensor, layer)
        for first, last in list(spans)[:MAX_STAYS]:
            yield from planner.stays(tensor, layer, first, last)
