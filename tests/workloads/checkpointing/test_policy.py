"""A plan changes what is kept, never what is computed; its file says no more and no less than the plan."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import mallocgame
from mallocgame.checkpointing import Choice
from mallocgame.errors import InputError, TraceError
from mallocgame.workloads.checkpointing.chips import CHIPS, find_chip, save_calibration
from mallocgame.workloads.checkpointing.policy import CheckpointPolicy, save_checkpoint_policy
from mallocgame.workloads.checkpointing.step import TrainingStep, policy_from_names, problem_of
from mallocgame.workloads.program_reference import Call
from tests.workloads.checkpointing.steps import STEPS, numbers


def random_policy(call: Call, seed: int) -> CheckpointPolicy:
    """Return a policy that keeps, offloads and recomputes at random."""
    problem, everything, _ = problem_of(TrainingStep(call=call), CHIPS["h100"])
    names = sorted({node.name for node in problem.nodes if node.name})
    draw = random.Random(seed)
    chosen = {name: draw.choice(list(Choice)) for name in names}
    save = [name for name in names if chosen[name] == Choice.KEEP]
    return policy_from_names(everything.sites, save, [name for name in names if chosen[name] == Choice.OFFLOAD])


@pytest.mark.parametrize("name", ["named_scan", "unrolled", "own_remat", "many_kinds", "accumulated"])
def test_values_and_gradients_are_those_of_the_plain_step(name: str, tmp_path: Path) -> None:
    call = STEPS[name]()
    save_checkpoint_policy(tmp_path / "policy.json", random_policy(call, seed=len(name)))
    policy = mallocgame.load_checkpoint_policy(tmp_path / "policy.json")
    assert policy.save
    assert policy.offload
    arguments = numbers(call)
    plain = jax.jit(call.function)(*arguments)
    planned = jax.jit(policy.apply(call.function))(*arguments)
    assert jax.tree.structure(plain) == jax.tree.structure(planned)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(planned), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-5, atol=1e-6)


def test_a_planned_step_keeps_and_offloads_what_the_plan_says() -> None:
    call = STEPS["named_scan"]()
    _, everything, _ = problem_of(TrainingStep(call=call), CHIPS["h100"])
    policy = policy_from_names(everything.sites, ["qkv"], ["hidden"])
    scan = _first_scan(jax.make_jaxpr(policy.apply(call.function))(*call.arguments).jaxpr)
    stacked = [(v.aval.shape, "host" in str(v.aval.memory_space).lower()) for v in scan.outvars[1:]]
    assert ((2, 2, 16, 96), False) in stacked  # qkv
    assert ((2, 2, 16, 128), True) in stacked  # hidden
    assert len(stacked) == 3  # and the layers' inputs


def _first_scan(jaxpr: Any) -> Any:
    return next(eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan")


def test_own_names_need_no_wrapper(tmp_path: Path) -> None:
    save_checkpoint_policy(tmp_path / "p.json", CheckpointPolicy(save=frozenset({"kept"})))
    policy = mallocgame.load_checkpoint_policy(tmp_path / "p.json")

    def f(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(checkpoint_name(x @ x, "kept")))

    traced = [str(jax.make_jaxpr(jax.grad(jax.checkpoint(f, policy=p)))(jnp.eye(3))) for p in (policy, None)]
    assert [text.count("dot_general[") for text in traced] == [3, 4]


def test_a_policy_applies_to_a_loss_that_is_differentiated_later(tmp_path: Path) -> None:
    def loss(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ w))

    def step(w: jax.Array, x: jax.Array) -> jax.Array:
        return jax.grad(loss)(w, x)

    w, x = jnp.eye(4) * 0.3, jnp.ones((2, 4))
    policy = random_policy(Call(function=step, arguments=(w, x)), seed=1)
    np.testing.assert_allclose(jax.grad(loss)(w, x), policy.apply(step)(w, x), rtol=1e-6)
    assert policy.apply(loss)(w, x) == loss(w, x)


def test_two_gradients_of_one_step_are_planned_apart() -> None:
    def step(w: jax.Array, x: jax.Array) -> Any:
        first = jax.grad(lambda v: jnp.sum(jnp.tanh(x @ v) ** 2))(w)
        second = jax.value_and_grad(lambda v: jnp.sum(jnp.sin(x @ v @ first)))(w)
        return first, second

    call = Call(function=step, arguments=(jnp.eye(4) * 0.3, jnp.ones((2, 4))))
    policy = random_policy(call, seed=5)
    assert len(policy.functions) == 2
    plain, planned = step(*call.arguments), policy.apply(step)(*call.arguments)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(planned), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_another_program_is_refused() -> None:
    policy = random_policy(STEPS["recurrent"](), seed=0)
    call = STEPS["own_remat"]()
    with pytest.raises(InputError, match="of another function than the one that was fitted"):
        jax.eval_shape(policy.apply(call.function), *call.arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v | {"save": ["a"], "offload": ["a"]}, "names clash: a is given more than once"),
        (lambda v: v | {"base": "magic"}, "base: expected one of names"),
        (lambda v: v | {"version": 9}, "version 9"),
        (lambda v: v | {"functions": [v["functions"][0] | {"regions": v["functions"][0]["regions"][1:]}]}, "starts at"),
        (lambda v: {k: v[k] for k in v if k != "save"}, "key 'save' is missing"),
    ],
)
def test_damaged_files_are_refused(change: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    save_checkpoint_policy(path, random_policy(STEPS["unrolled"](), seed=2))
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(TraceError, match=message):
        mallocgame.load_checkpoint_policy(path)


def test_names_like_ours_are_refused() -> None:
    def step(x: jax.Array) -> jax.Array:
        return jax.grad(lambda v: jnp.sum(checkpoint_name(jnp.sin(v), "mallocgame/0.0.sin.0")))(x)

    with pytest.raises(InputError, match="names clash"):
        problem_of(TrainingStep(call=Call(function=step, arguments=(jnp.ones(3),))), CHIPS["v5e"])


def test_calibrations_are_read_back(tmp_path: Path) -> None:
    save_calibration(tmp_path / "chip.json", CHIPS["v5e"])
    read = find_chip("h100", tmp_path / "chip.json")
    assert read.in_bytes_per_second == CHIPS["v5e"].in_bytes_per_second
    assert read.memory_bytes == CHIPS["h100"].memory_bytes
    text = json.loads((tmp_path / "chip.json").read_text())
    text["figures"]["out_overlap"] = 1.5
    (tmp_path / "chip.json").write_text(json.dumps(text))
    with pytest.raises(TraceError, match="out_overlap must be from 0 to 1"):
        find_chip("h100", tmp_path / "chip.json")
