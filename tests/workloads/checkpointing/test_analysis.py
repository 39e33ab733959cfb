"""What would be recomputed, where a function is cut, what work a primitive is: against JAX, XLA and exhaustion."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from mallocgame.checkpointing import Choice
from mallocgame.workloads.checkpointing import regions
from mallocgame.workloads.checkpointing.chips import CHIPS
from mallocgame.workloads.checkpointing.flat import trace
from mallocgame.workloads.checkpointing.price import price_step
from mallocgame.workloads.checkpointing.step import TrainingStep, policy_from_names, problem_of
from mallocgame.workloads.checkpointing.work import work_of
from mallocgame.workloads.program_reference import Call
from tests.benchmarks.fit_models import build
from tests.workloads.checkpointing.steps import STEPS

CHIP = CHIPS["h100"]


def count(jaxpr: Any, primitive: str) -> int:
    """Return how many equations of a primitive there are, inner jaxprs included."""
    total = 0
    for eqn in jaxpr.eqns:
        total += eqn.primitive.name == primitive
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                opened = getattr(inner, "jaxpr", inner)
                total += count(opened, primitive) if hasattr(opened, "eqns") else 0
    return total


@pytest.mark.parametrize("name", ["named_scan", "recurrent"])
def test_jax_recomputes_what_the_problem_says(name: str) -> None:
    """For single kept values and for all: as many multiplications less in JAX's jaxpr as nodes less run again."""
    step = TrainingStep(call=STEPS[name]())
    problem, everything, _ = problem_of(step, CHIP)
    most = count(everything.stage.jaxpr.jaxpr, "dot_general")
    candidates = [i for i, node in enumerate(problem.nodes) if node.name and not node.is_entry]
    dots = [node.origin.startswith("dot_general") for node in problem.nodes]
    nothing = problem.recomputed([Choice.RECOMPUTE] * len(dots))
    for kept in [*([i] for i in candidates[::7]), candidates]:
        choices = [Choice.KEEP if i in kept else Choice.RECOMPUTE for i in range(len(dots))]
        again = problem.recomputed(choices)
        fewer = sum(a and d for a, d in zip(nothing, dots, strict=True)) - sum(
            a and d for a, d in zip(again, dots, strict=True)
        )
        policy = policy_from_names(everything.sites, [problem.nodes[i].name for i in kept], [])
        assert most - count(step.traced(policy).stage.jaxpr.jaxpr, "dot_general") == fewer


def test_problem_and_judge_agree_on_the_step_that_recomputes_everything() -> None:
    for name in ("convolutions", "many_kinds"):
        problem, _, price = problem_of(TrainingStep(call=STEPS[name]()), CHIP)
        nothing = [Choice.RECOMPUTE] * len(problem.nodes)
        assert problem.seconds(nothing) == pytest.approx(price.seconds)
        assert problem.peak_bytes(nothing) <= price.peak_bytes


def test_keeping_all_layers_stacks_their_bytes() -> None:
    step, chip = TrainingStep(call=build("named_scan", "small")), CHIPS["v5e"]
    problem, everything, base = problem_of(step, chip)
    size = next(node.size_bytes for node in problem.nodes if node.name == "hidden")
    assert size == 6 * 4 * 256 * 1024 * 4  # layers, batch, length, 4 x width, float32
    kept = step.traced(policy_from_names(everything.sites, ["hidden"], [])).price(chip)
    gone = step.traced(policy_from_names(everything.sites, [], ["hidden"])).price(chip)
    assert size / 2 <= kept.peak_bytes - base.peak_bytes <= size  # what one layer would recompute is there anyway
    assert gone.peak_bytes <= base.peak_bytes
    assert (gone.out_bytes, gone.in_bytes, kept.out_bytes) == (size, size, 0)


def test_a_name_on_what_enters_a_layer_can_only_be_offloaded() -> None:
    """The input is saved anyway, so keeping its name is nothing, and offloading it frees it."""

    def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
        naming: Any = checkpoint_name
        return jnp.tanh(jnp.sin(naming(x, "x")) @ w), None

    def step(w: jax.Array, x: jax.Array) -> Any:
        return jax.grad(lambda v: jnp.sum(jax.lax.scan(layer, x, v)[0] ** 2))(w)

    call = Call(function=step, arguments=(jnp.ones((16, 8, 8)), jnp.ones((512, 8))))
    training = TrainingStep(call=call)
    problem, everything, base = problem_of(training, CHIP)
    (entry,) = (i for i, node in enumerate(problem.nodes) if node.name == "x")
    assert problem.nodes[entry].is_entry
    choices = [Choice.OFFLOAD if i == entry else Choice.RECOMPUTE for i in range(len(problem.nodes))]
    gone = training.traced(policy_from_names(everything.sites, [], ["x"])).price(CHIP)
    size = 16 * 512 * 8 * 4
    assert problem.peak_bytes(choices) <= base.peak_bytes - 0.9 * size
    assert base.peak_bytes - 1.1 * size <= gone.peak_bytes <= base.peak_bytes - 0.8 * size


def test_cuts_are_the_best_of_all() -> None:
    """Of a chain with wide insides, against every subset of cut points."""
    sizes = [8, 64, 64, 8, 32, 8, 128, 8]

    def chain(x: jax.Array) -> jax.Array:
        for size in sizes:
            x = jnp.sin(jnp.broadcast_to(x[:1], (size,)) * 2.0)
        return jnp.sum(x)

    flat, _ = trace(chain, jnp.ones(4))
    made, size, last = regions._life(flat, 0, len(flat.equations))
    points = list(range(0, len(flat.equations), 3))
    points[-1] = len(flat.equations)

    def value(chosen: tuple[int, ...]) -> float:
        ends = [points[0], *chosen, points[-1]]
        inside = max(int(size[(made >= a) & (made < b)].sum()) for a, b in itertools.pairwise(ends))
        crossing = {int(v) for b in chosen for v in np.flatnonzero((made < b) & (last >= b))}
        return inside + sum(int(size[v]) for v in crossing)

    inner = points[1:-1]
    subsets = [c for n in range(len(inner) + 1) for c in itertools.combinations(inner, n)]
    best = min(map(value, subsets))
    assert value(tuple(regions._cheapest(points, made, size, last))) <= 1.3 * best  # few limits are tried
    assert best < value(())


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: jnp.einsum("bij,kj->bki", x, w[:, :6]),
        lambda x, w: x @ x.swapaxes(1, 2),
        lambda x, w: jax.lax.conv(x[:, :, :, None], w[:4, :5, None, None], (1, 1), "SAME"),
        lambda x, w: jax.grad(lambda k: jnp.sum(jax.lax.conv(x[:, :, :, None], k, (1, 1), "VALID") ** 2))(
            w[:4, :5, None, None]
        ),
    ],
)
def test_flops_are_those_of_xla(function: Any) -> None:
    arguments = (jnp.ones((3, 5, 6)), jnp.ones((8, 6)))
    jaxpr = jax.make_jaxpr(function)(*arguments)
    ours = sum(work_of(eqn).flops for eqn in jaxpr.jaxpr.eqns)
    cost: Any = jax.jit(function).lower(*arguments).compile().cost_analysis()
    assert ours > 0
    assert ours <= cost["flops"] <= ours * 1.5 + 200  # XLA counts the elementwise rest too


def test_donated_arguments_become_results() -> None:
    def step(w: jax.Array, g: jax.Array) -> jax.Array:
        return w - 0.1 * g

    jaxpr = jax.make_jaxpr(step)(jnp.ones(1000), jnp.ones(1000))
    assert price_step(jaxpr, CHIP).peak_bytes == 12000
    assert price_step(jaxpr, CHIP, frozenset({0})).peak_bytes == 8000


class _Trainer:
    rate = 0.1

    @partial(jax.jit, static_argnums=(0, 3), donate_argnums=1)
    def step(self, w: jax.Array, x: jax.Array, mode: str) -> jax.Array:
        return w - (self.rate if mode == "down" else 0.0) * jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w)))(w)

    def passing_on(self, w: jax.Array, x: jax.Array, mode: str) -> jax.Array:
        return self.step(w, x, mode)


def test_a_step_is_called_as_its_author_calls_it() -> None:
    w, x, trainer = jnp.ones((64, 64)), jnp.ones((32, 64)), _Trainer()
    calls = [
        Call(function=trainer.step, arguments=(w, x, "down")),
        Call(function=partial(_Trainer.step, trainer, mode="down"), arguments=(w, x)),
        Call(function=trainer.passing_on, arguments=(w, x), keywords={"mode": "down"}),
    ]
    found = [TrainingStep(call=call).traced(None) for call in calls]
    assert [each.donated for each in found] == [frozenset({0})] * 3  # the weights' memory is used again
    assert len({each.price(CHIP).peak_bytes for each in found}) == 1
