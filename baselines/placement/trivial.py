"""The two solvers that any other must beat: everything in layer 0, and random plans."""

import numpy as np

from mallocgame.baselines.placement.partial_mapping import PartialMapping
from mallocgame.baselines.placement.placement import Placement, PlacementFactory
from mallocgame.mapping import Mapping
from mallocgame.solver import Incumbent, solver

ROUNDS = 50  # of random play; enough time for all makes the answer depend on the seed alone


@solver(is_constructive=True)
def none(search: Incumbent) -> None:
    """Leave everything in layer 0: the frame offers that mapping to every solver."""


@solver(is_constructive=True)
def random(search: Incumbent) -> None:
    """Play ``ROUNDS`` rounds: tensors in random order, each with a random stay, taken wherever it fits."""
    factory = PlacementFactory(search.program, search.hierarchy)
    generator = np.random.default_rng(search.seed)
    for _ in range(ROUNDS):
        if search.out_of_time():
            break
        search.offer(_round(factory, generator, search))
        search.count()


def _round(factory: PlacementFactory, generator: np.random.Generator, search: Incumbent) -> Mapping:
    partial = PartialMapping(factory)
    movable = [index for index, tensor in enumerate(factory.program.tensors) if tensor.movable and tensor.uses]
    for tensor in generator.permutation(movable):
        plan = _random_plan(factory, generator, int(tensor))
        if plan is not None:
            partial.add(plan)
        if search.out_of_time():
            break
    return partial.mapping


def _random_plan(factory: PlacementFactory, generator: np.random.Generator, tensor: int) -> Placement | None:
    steps = factory.use_steps(tensor)
    first, last = sorted(generator.integers(0, len(steps), 2).tolist())
    layer = int(generator.integers(1, factory.hierarchy.num_layers))
    due = int(generator.choice(factory.dues(steps[first])))
    return next(factory.stays(tensor, layer, steps[first], steps[last], due=due), None)
