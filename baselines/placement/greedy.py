"""Greedy: the stays that save most per byte and step, one after the other, each kept if the judge agrees."""

from collections.abc import Iterator
from dataclasses import dataclass

from mallocgame.baselines.placement.partial_mapping import PartialMapping
from mallocgame.baselines.placement.placement import Placement, PlacementFactory
from mallocgame.solver import Incumbent, Problem, solver

MAX_STAYS = 24  # candidates per tensor and layer
MANY_DECISIONS = 4500  # beyond, judging one stay after the other takes too long here


def _is_large(problem: Problem) -> bool:
    return problem.hierarchy.num_layers > 2 or problem.program.num_decisions > MANY_DECISIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredStay:
    """A candidate: hold a tensor from one use to another; ``first`` None: from the run before to the last use."""

    tensor: int
    layer: int
    first: int | None
    last: int
    due: int
    density: float  # instruction seconds saved per byte and step


def _compile(problem: Problem) -> None:
    if _is_large(problem):
        from mallocgame.baselines.anneal.solve import compile_all

        compile_all(problem)


@solver(warm_up=_compile, is_constructive=True)
def greedy(search: Incumbent) -> None:
    """Take stays by density (instruction seconds saved per byte and step held), best-fit addresses, judge each.

    With more than two layers, and in large programs: those of ``dense``, which copies between all layers and judges
    in one kernel.
    """
    if _is_large(search.problem):
        from mallocgame.baselines.anneal.solve import dense

        dense.improve(search)
        return
    factory = PlacementFactory(search.program, search.hierarchy)
    candidates: list[ScoredStay] = []
    for tensor in range(len(search.program.tensors)):
        if search.out_of_time():
            break
        candidates += stays(factory, tensor)
    candidates.sort(key=lambda stay: -stay.density)  # stable: ties in the order of tensors
    partial = PartialMapping(factory)
    now = search.judged(partial.mapping)
    for stay in candidates:
        if search.out_of_time():
            break
        search.count()
        for plan in _plans(factory, stay):
            if partial.add(plan):
                then = search.judged(partial.mapping)
                if then >= now:
                    partial.undo()
                else:
                    now = then
    search.offer(partial.mapping, now)


def _plans(factory: PlacementFactory, stay: ScoredStay) -> Iterator[Placement]:
    if stay.first is None:
        return factory.held(stay.tensor, stay.layer)
    return factory.stays(stay.tensor, stay.layer, stay.first, stay.last, due=stay.due)


def stays(factory: PlacementFactory, tensor: int) -> Iterator[ScoredStay]:
    """Yield the stays that are worth a thought and save something: all uses, few uses in a row, the first, the last."""
    if not factory.program.tensors[tensor].movable or not factory.use_steps(tensor):
        return
    steps = factory.use_steps(tensor)
    spans = dict.fromkeys((steps[0], last) for last in reversed(steps))
    spans.update(dict.fromkeys((first, steps[-1]) for first in steps))
    for width in range(3):
        spans.update(dict.fromkeys(zip(steps, steps[width:], strict=False)))
    size = factory.program.tensors[tensor].size_bytes
    for layer in range(1, factory.hierarchy.num_layers):
        everything = factory.saved_seconds(tensor, layer, steps[0], steps[-1])
        if everything > 0 and factory.program.tensors[tensor].holdable:
            density = everything / (size * (steps[-1] + 1))
            yield ScoredStay(tensor=tensor, layer=layer, first=None, last=steps[-1], due=0, density=density)
        for first, last in list(spans)[:MAX_STAYS]:
            saved = factory.saved_seconds(tensor, layer, first, last)
            for due in factory.dues(first) if saved > 0 else ():
                defined = factory.is_defined(tensor, first)
                begin = first if defined else factory.latest_issue(0, layer, tensor, due)
                density = saved / (size * (last + 1 - begin))
                yield ScoredStay(tensor=tensor, layer=layer, first=first, last=last, due=due, density=density)
