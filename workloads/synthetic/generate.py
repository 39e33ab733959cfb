"""Seeded program generators: families of schedules with tunable pressure, and one whose optimum is known.

They train and test solvers where a compiler's traces are too few, and they show what a solver cannot do: capacity and
bandwidth pressure are set apart from one another. ``planted`` instances carry their optimum with a proof.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mallocgame.errors import InputError
from mallocgame.hierarchy import Hierarchy, preset
from mallocgame.mapping import Mapping
from mallocgame.program import Loop, Program
from mallocgame.workloads.synthetic.draft import Draft
from mallocgame.workloads.synthetic.planted import plant

Rng = np.random.Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to generate.

    Raises:
        InputError: an unknown family, a pressure that is not positive, fewer than 4 decisions, no trip.
    """

    family: str
    decisions: int = 100  # uses of movable tensors; the program has about this many
    capacity_pressure: float = 2.0  # most live bytes of movable tensors / capacity of the fastest layer
    bandwidth_pressure: float = 2.0  # seconds of all traffic in layer 0 / seconds of compute
    trip_count: int = 16  # of the ``loop`` family's loop

    def __post_init__(self) -> None:
        if self.family not in (*FAMILIES, PLANTED):
            raise InputError(f"unknown family {self.family!r}, expected one of {', '.join((*FAMILIES, PLANTED))}")
        for what, value in (("capacity", self.capacity_pressure), ("bandwidth", self.bandwidth_pressure)):
            if not 0 < value < float("inf"):
                raise InputError(f"{what}_pressure must be positive and finite, got {value}")
        if self.decisions < 4 or self.trip_count < 1:
            raise InputError(f"need decisions >= 4 and trip_count >= 1: {self}")


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A generated program. ``optimum_seconds`` and a mapping that attains it are known for ``planted`` alone."""

    recipe: Recipe
    seed: int
    program: Program
    hierarchy: Hierarchy
    optimum_seconds: float | None = None
    optimum: Mapping | None = None


def generate(recipe: Recipe, *, seed: int = 0, hierarchy: Hierarchy | None = None) -> Instance:
    """Return the instance of ``recipe`` with this seed: the same arguments always give the same instance.

    ``hierarchy`` defaults to the ``v5e`` preset. The ``planted`` family reads ``decisions`` and ``capacity_pressure``:
    the tensors that belong in the fast layer fill it whole, and decoys are added up to that pressure.

    >>> instance = generate(Recipe(family="planted", decisions=40), seed=3)
    >>> from mallocgame.judge.simulation import simulate
    >>> simulate(instance.program, instance.hierarchy, instance.optimum).total_seconds == instance.optimum_seconds
    True
    """
    chip = preset("v5e") if hierarchy is None else hierarchy
    rng = np.random.default_rng([seed, *recipe.family.encode()])
    name = f"{recipe.family}-{recipe.decisions}-{seed}"
    if recipe.family == PLANTED:
        program, mapping, seconds = plant(name, chip, rng, recipe.decisions, recipe.capacity_pressure)
        return Instance(
            recipe=recipe, seed=seed, program=program, hierarchy=chip, optimum_seconds=seconds, optimum=mapping
        )
    draft = Draft()
    build, per_block = FAMILIES[recipe.family]
    build(draft, max(round(recipe.decisions / per_block), 1), rng, recipe)
    program = draft.finish(
        name, chip, capacity_pressure=recipe.capacity_pressure, bandwidth_pressure=recipe.bandwidth_pressure
    )
    return Instance(recipe=recipe, seed=seed, program=program, hierarchy=chip)


def _size(rng: Rng, typical: float) -> float:
    """Log-normal around ``typical``: most sizes within a factor 2, some far out."""
    return float(typical * rng.lognormal(0.0, 0.5))


def _chain(draft: Draft, blocks: int, rng: Rng, recipe: Recipe) -> None:
    """Matrix products in a row: each weight and each activation is read once."""
    x = draft.parameter("input", _size(rng, 1.0))
    for i in range(blocks):
        weight = draft.parameter(f"weight.{i}", _size(rng, 2.0))
        last = i == blocks - 1
        y = draft.tensor(f"activation.{i}", _size(rng, 1.0), is_output=last)
        draft.step(f"dot.{i}", reads=(x, weight), defines=(y,), work=_size(rng, 1.0))
        x = y


def _residual(draft: Draft, blocks: int, rng: Rng, recipe: Recipe) -> None:
    """Blocks of two products with a skip connection that stays live across them."""
    x = draft.parameter("input", 1.0)
    for i in range(blocks):
        first, second = (draft.parameter(f"weight.{i}.{k}", _size(rng, 1.5)) for k in "ab")
        hidden, inner = draft.tensor(f"hidden.{i}", _size(rng, 2.0)), draft.tensor(f"inner.{i}", 1.0)
        draft.step(f"up.{i}", reads=(x, first), defines=(hidden,), work=_size(rng, 1.0))
        draft.step(f"down.{i}", reads=(hidden, second), defines=(inner,), work=_size(rng, 1.0))
        y = draft.tensor(f"sum.{i}", 1.0, is_output=i == blocks - 1)
        draft.step(f"add.{i}", reads=(x, inner), defines=(y,), work=0.1)
        x = y


def _transformer(draft: Draft, blocks: int, rng: Rng, recipe: Recipe) -> None:
    """Attention and MLP per layer; a key-value cache per layer is updated in place and read whole."""
    x = draft.parameter("embedded", 1.0)
    heads = float(rng.choice([0.5, 1.0, 2.0]))  # scores against activations
    for i in range(blocks):
        wide, out, up, down = (
            draft.parameter(f"{kind}.{i}", size)
            for kind, size in (("qkv", 3.0), ("proj", 1.0), ("up", 4.0), ("down", 4.0))
        )
        cache = draft.parameter(f"cache.{i}", _size(rng, 2.0), is_output=True)
        qkv, scores, mixed = (
            draft.tensor(f"{kind}.{i}", size) for kind, size in (("q-k-v", 3.0), ("scores", heads), ("mixed", 1.0))
        )
        draft.step(f"qkv.{i}", reads=(x, wide), defines=(qkv,), work=3.0)
        draft.step(f"append.{i}", reads=(qkv,), updates=(cache,), work=0.1, share=0.1)
        draft.step(f"scores.{i}", reads=(qkv, cache), defines=(scores,), work=_size(rng, 1.0))
        draft.step(f"mix.{i}", reads=(scores, cache), defines=(mixed,), work=_size(rng, 1.0))
        attended, hidden = draft.tensor(f"attended.{i}", 1.0), draft.tensor(f"hidden.{i}", 4.0)
        draft.step(f"proj.{i}", reads=(mixed, out, x), defines=(attended,), work=1.0)
        draft.step(f"up.{i}", reads=(attended, up), defines=(hidden,), work=4.0)
        y = draft.tensor(f"layer.{i}", 1.0, is_output=i == blocks - 1)
        draft.step(f"down.{i}", reads=(hidden, down, attended), defines=(y,), work=4.0)
        x = y


def _training(draft: Draft, blocks: int, rng: Rng, recipe: Recipe) -> None:
    """Forward, backward in reverse, update in place: activations live long, weights are read twice and written."""
    x = draft.parameter("batch", 1.0)
    weights = [draft.parameter(f"weight.{i}", _size(rng, 1.5), is_output=True) for i in range(blocks)]
    saved = [x]
    for i, weight in enumerate(weights):
        y = draft.tensor(f"activation.{i}", _size(rng, 1.0))
        draft.step(f"forward.{i}", reads=(saved[-1], weight), defines=(y,), work=_size(rng, 1.0))
        saved.append(y)
    flow = draft.tensor("loss-gradient", 1.0)
    draft.step("loss", reads=(saved[-1],), defines=(flow,), work=0.2)
    for i in reversed(range(blocks)):
        gradient, below = draft.tensor(f"gradient.{i}", draft.sizes[weights[i]]), draft.tensor(f"flow.{i}", 1.0)
        draft.step(f"backward-weight.{i}", reads=(saved[i], flow), defines=(gradient,), work=1.0)
        draft.step(f"backward-input.{i}", reads=(flow, weights[i]), defines=(below,), work=1.0)
        draft.step(f"update.{i}", reads=(gradient,), updates=(weights[i],), work=0.1)
        flow = below


def _loop(draft: Draft, blocks: int, rng: Rng, recipe: Recipe) -> None:
    """A loop whose weights never change and whose state is carried; copying a weight in once serves every iteration."""
    x = draft.parameter("input", 1.0)
    state = draft.tensor("state", 1.0, is_output=True)
    draft.step("start", reads=(x,), defines=(state,), work=_size(rng, 4.0))
    start = len(draft.steps)
    carried = state
    for i in range(blocks):
        weight = draft.parameter(f"weight.{i}", _size(rng, 1.0))
        inner = draft.tensor(f"inner.{i}", _size(rng, 0.5))
        draft.step(f"cell.{i}", reads=(carried, weight), defines=(inner,), work=_size(rng, 1.0))
        carried = inner
    draft.step("carry", reads=(carried,), updates=(state,), work=0.2)
    draft.loops.append(Loop(start_step=start, end_step=len(draft.steps), trip_count=recipe.trip_count))
    head, logits = draft.parameter("head", 2.0), draft.tensor("logits", 1.0, is_output=True)
    draft.step("head", reads=(state, head), defines=(logits,), work=2.0)


def _embedding(draft: Draft, blocks: int, rng: Rng, recipe: Recipe) -> None:
    """Sparse look-ups that touch a sliver of large tables, then a small dense part that reads all of its weights."""
    rows = []
    for i in range(blocks):
        table = draft.parameter(f"table.{i}", float(rng.pareto(1.2) + 0.2) * 2.0)
        row = draft.tensor(f"row.{i}", _size(rng, 0.1))
        draft.step(f"gather.{i}", reads=(table,), defines=(row,), work=0.1, share=float(rng.uniform(0.01, 0.3)))
        rows.append(row)
    x = draft.tensor("features", 1.0)
    draft.step("concatenate", reads=rows, defines=(x,), work=0.2)
    for i in range(max(blocks // 2, 1)):
        weight = draft.parameter(f"weight.{i}", _size(rng, 0.7))
        y = draft.tensor(f"dense.{i}", _size(rng, 0.7), is_output=i == max(blocks // 2, 1) - 1)
        draft.step(f"dense.{i}", reads=(x, weight), defines=(y,), work=1.0)
        x = y


PLANTED = "planted"
# family: (builder, uses of movable tensors that one block adds)
FAMILIES: dict[str, tuple[Callable[[Draft, int, Rng, Recipe], None], float]] = {
    "chain": (_chain, 3),
    "residual": (_residual, 9),
    "transformer": (_transformer, 21),
    "training": (_training, 11),
    "loop": (_loop, 3),
    "embedding": (_embedding, 4.5),
}
