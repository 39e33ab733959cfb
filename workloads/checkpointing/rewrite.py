"""A function with its regions checkpointed: same values, same gradients, another choice of what is kept."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from mallocgame.workloads.checkpointing.flat import FlatFunction, evaluate
from mallocgame.workloads.checkpointing.regions import EquationRange, has_effects

Policy = Callable[..., Any]


def run(
    flat: FlatFunction, regions: Sequence[EquationRange], policy: Policy | None, arguments: Sequence[Any]
) -> list[Any]:
    """Return the flat results of a function with ``policy`` on every region; None: nothing is checkpointed.

    A region that prints or calls back stays as it is: ``jax.checkpoint`` refuses effects.
    """
    environment = dict(flat.constants)
    environment.update(zip(flat.inputs, arguments, strict=True))
    needed = read_later(flat, regions)
    for region, later in zip(regions, needed, strict=True):
        if policy is None or has_effects(flat, region):
            evaluate(flat, region.start, region.end, environment)
        elif region.body is not None:
            _run_loop(flat, region, policy, environment)
        else:
            _run_stretch(flat, region, policy, environment, later)
    return [environment[v] if isinstance(v, int) else v.value for v in flat.outputs]


def read_later(flat: FlatFunction, regions: Sequence[EquationRange]) -> list[list[int]]:
    """Return, per region, the values made in it that are read after it."""
    wanted = {v for v in flat.outputs if isinstance(v, int)}
    found: list[list[int]] = []
    for region in reversed(regions):
        equations = flat.equations[region.start : region.end]
        found.append([v for e in equations for v in e.outputs if v in wanted])
        wanted.update(v for e in equations for v in e.values_read)
    return found[::-1]


def stretch_function(
    flat: FlatFunction, region: EquationRange, inputs: Sequence[int], outputs: Sequence[int]
) -> Callable[..., tuple[Any, ...]]:
    """Return a stretch as a function of its inputs, with names on what they are given to."""

    def stretch(*values: Any) -> tuple[Any, ...]:
        environment = {v: _named(region.entries.get(v), value) for v, value in zip(inputs, values, strict=True)}
        evaluate(flat, region.start, region.end, environment, lambda v, value: _named(region.names.get(v), value))
        return tuple(environment[v] for v in outputs)

    return stretch


def body_function(region: EquationRange) -> Callable[..., tuple[Any, ...]]:
    """Return a loop's body as a function of constants, carries and slices, with names."""
    body = region.body
    assert body is not None

    def one_iteration(*values: Any) -> tuple[Any, ...]:
        environment = dict(body.constants)
        for v, value in zip(body.inputs, values, strict=True):
            environment[v] = _named(region.entries.get(v), value)
        evaluate(body, 0, len(body.equations), environment, lambda v, value: _named(region.names.get(v), value))
        return tuple(environment[v] if isinstance(v, int) else v.value for v in body.outputs)

    return one_iteration


def inputs_of(flat: FlatFunction, region: EquationRange) -> list[int]:
    """Return the values that a stretch reads and does not make, ascending."""
    equations = flat.equations[region.start : region.end]
    made = {v for e in equations for v in e.outputs}
    return sorted({v for e in equations for v in e.values_read} - made)


def _named(name: str | None, value: Any) -> Any:
    naming: Any = checkpoint_name
    return value if name is None else naming(value, name)


def _run_stretch(
    flat: FlatFunction, region: EquationRange, policy: Policy, environment: dict[int, Any], later: list[int]
) -> None:
    inputs = inputs_of(flat, region)
    function = jax.checkpoint(stretch_function(flat, region, inputs, later), policy=policy)
    results = function(*(environment[v] for v in inputs))
    environment.update(zip(later, results, strict=True))


def _run_loop(flat: FlatFunction, region: EquationRange, policy: Policy, environment: dict[int, Any]) -> None:
    equation = flat.equations[region.start]
    params = equation.eqn.params
    values = [environment[v] if isinstance(v, int) else v.value for v in equation.inputs]
    num_consts, num_carry = int(params["num_consts"]), int(params["num_carry"])
    consts, init, stacked = values[:num_consts], values[num_consts : num_consts + num_carry], values[num_consts:]
    function = jax.checkpoint(body_function(region), policy=policy, prevent_cse=False)

    def one_iteration(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        results = function(*consts, *carry, *slices)
        return list(results[:num_carry]), list(results[num_carry:])

    carry, rows = jax.lax.scan(
        one_iteration,
        init,
        stacked[num_carry:],
        length=region.length,
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    environment.update(zip(equation.outputs, [*carry, *rows], strict=True))
