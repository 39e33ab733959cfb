"""The two solvers that any other must beat: everything in layer 0, and random plans."""

import numpy as np

from mallocgame.baselines.placement.partial_mapping import Board
from mallocgame.baselines.placement.placement import Plan, Planner
from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import Mapping
from mallocgame.outcome import Search
from mallocgame.program import Program
from mallocgame.solver import Progress, SolveResult

ROUNDS = 50  # of random play; enough time for all makes the answer depend on the seed alone


def none(
    program: Program,
    hierarchy: Hierarchy,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    start: Mapping | None = None,
    progress: Progress | None = None,
) -> SolveResult:
    """Leave everything in layer 0, unless ``start`` is better."""
    search = Search(program, hierarchy, seconds, progress)
    search.offer(start)
    search.offer(Mapping())
    return search.result()


def random(
    program: Program,
    hierarchy: Hierarchy,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    start: Mapping | None = None,
    progress: Progress | None = None,
) -> SolveResult:
    """Play ``ROUNDS`` rounds: tensors in random order, each with a random stay, taken wherever it fits."""
    search = Search(program, hierarchy, seconds, progress)
    search.offer(start)
    planner = Planner(program, hierarchy)
    generator = np.random.default_rng(seed)
    for _ in range(ROUNDS):
        if search.out_of_time():
            break
        search.offer(_round(planner, generator, search))
    return search.result()


def _round(planner: Planner, generator: np.random.Generator, search: Search) -> Mapping:
    board = Board(planner)
    movable = [index for index, tensor in enumerate(planner.program.tensors) if tensor.movable and tensor.uses]
    for tensor in generator.permutation(movable):
        plan = _random_plan(planner, generator, int(tensor))
        if plan is not None:
            board.add(plan)
        if search.out_of_time():
            break
    return board.mapping


def _random_plan(planner: Planner, generator: np.random.Generator, tensor: int) -> Plan | None:
    steps = planner.use_steps(tensor)
    first, last = sorted(generator.integers(0, len(steps), 2).tolist())
    layer = int(generator.integers(1, planner.hierarchy.num_layers))
    due = int(generator.choice(planner.dues(steps[first])))
    return next(planner.stays(tensor, layer, steps[first], steps[last], due=due), None)
