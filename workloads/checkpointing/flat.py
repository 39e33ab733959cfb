"""A function as a flat list of equations that can be evaluated piece by piece: the place where names are put in.

Calls without a derivative rule of their own (``jit``, the user's own ``jax.checkpoint``) are inlined, so that every
value can be named and every piece can be given a policy; ``custom_jvp`` and ``custom_vjp`` calls stay whole.
"""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax

INLINED = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "remat", "xla_call"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Equation:
    """One primitive on numbered values; an input that is no number is a ``Literal``'s value."""

    eqn: Any  # of JAX: the primitive, its parameters, its context
    inputs: tuple["int | Constant", ...]
    outputs: tuple[int, ...]

    @property
    def primitive(self) -> str:
        """The primitive's name."""
        return str(self.eqn.primitive.name)

    @property
    def inner_fingerprint(self) -> str:
        """Of a loop its body's, else empty."""
        return flatten(self.eqn.params["jaxpr"]).fingerprint if self.primitive == "scan" else ""

    @property
    def values_read(self) -> tuple[int, ...]:
        """The numbers among the inputs."""
        return tuple(v for v in self.inputs if isinstance(v, int))


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A literal in a jaxpr."""

    value: Any


@dataclass(slots=True, kw_only=True)
class FlatFunction:
    """Equations in order. ``avals`` are the JAX types of all values; ``constants`` the values of some."""

    equations: list[Equation] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list["int | Constant"] = field(default_factory=list)
    constants: dict[int, Any] = field(default_factory=dict)
    avals: list[Any] = field(default_factory=list)

    def new_value(self, aval: Any) -> int:
        """Add a value and return its number."""
        self.avals.append(aval)
        return len(self.avals) - 1

    @property
    def fingerprint(self) -> str:
        """A digest of primitives and who reads what, not of shapes: a plan for one batch size serves another."""
        text = ";".join(
            f"{e.primitive}{[v if isinstance(v, int) else '' for v in e.inputs]}{list(e.outputs)}{e.inner_fingerprint}"
            for e in self.equations
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(closed: Any) -> FlatFunction:
    """Return a closed jaxpr as a flat function."""
    flat = FlatFunction()
    environment: dict[Any, int | Constant] = {}
    for var, value in zip(closed.jaxpr.constvars, closed.consts, strict=True):
        number = flat.new_value(var.aval)
        environment[var] = number
        flat.constants[number] = value
    for var in closed.jaxpr.invars:
        environment[var] = number = flat.new_value(var.aval)
        flat.inputs.append(number)
    _append(flat, closed.jaxpr, environment)
    flat.outputs = [_read(var, environment) for var in closed.jaxpr.outvars]
    return _renumbered(flat)


def _renumbered(flat: FlatFunction) -> FlatFunction:
    """Number results first, in order, then what is read, then the rest: the same however arguments come in."""
    order = [v for e in flat.equations for v in e.outputs]
    order += [v for e in flat.equations for v in e.values_read]
    order += range(len(flat.avals))
    new = {v: number for number, v in enumerate(dict.fromkeys(order))}

    def renamed(v: int | Constant) -> int | Constant:
        return new[v] if isinstance(v, int) else v

    equations = [
        replace(e, inputs=tuple(map(renamed, e.inputs)), outputs=tuple(new[v] for v in e.outputs))
        for e in flat.equations
    ]
    return FlatFunction(
        equations=equations,
        inputs=[new[v] for v in flat.inputs],
        outputs=[renamed(v) for v in flat.outputs],
        constants={new[v]: value for v, value in flat.constants.items()},
        avals=[flat.avals[v] for v in new],
    )


def _read(var: Any, environment: dict[Any, int | Constant]) -> int | Constant:
    return Constant(value=var.val) if hasattr(var, "val") else environment[var]


def _append(flat: FlatFunction, jaxpr: Any, environment: dict[Any, int | Constant]) -> None:
    for eqn in jaxpr.eqns:
        inputs = tuple(_read(var, environment) for var in eqn.invars)
        inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr") if eqn.primitive.name in INLINED else None
        opened = getattr(inner, "jaxpr", inner)
        if opened is not None and len(opened.invars) == len(inputs):
            local = dict(zip(opened.invars, inputs, strict=True))
            for var, value in zip(opened.constvars, getattr(inner, "consts", ()), strict=False):
                number = flat.new_value(var.aval)
                flat.constants[number], local[var] = value, number
            _append(flat, opened, local)
            for var, result in zip(eqn.outvars, opened.outvars, strict=True):
                environment[var] = _read(result, local)
            continue
        outputs = tuple(flat.new_value(var.aval) for var in eqn.outvars)
        environment.update(zip(eqn.outvars, outputs, strict=True))
        flat.equations.append(Equation(eqn=eqn, inputs=inputs, outputs=outputs))


Naming = Callable[[int, Any], Any]  # (value number, value) -> the value, named


def evaluate(
    flat: FlatFunction, start: int, end: int, environment: dict[int, Any], name: Naming = lambda _, value: value
) -> None:
    """Evaluate equations [start, end): read from ``environment``, and write what they make, each through ``name``."""
    for equation in flat.equations[start:end]:
        values = [v.value if isinstance(v, Constant) else environment[v] for v in equation.inputs]
        for number, value in zip(equation.outputs, bind(equation.eqn, values), strict=True):
            environment[number] = name(number, value)


def bind(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    """Apply an equation's primitive to other values."""
    found = eqn.primitive.get_bind_params(eqn.params)
    subfunctions, parameters = found if isinstance(found, tuple) else ((), found)
    context = getattr(getattr(eqn, "ctx", None), "manager", contextlib.nullcontext())
    with context:
        results = eqn.primitive.bind(*subfunctions, *values, **parameters)
    return results if eqn.primitive.multiple_results else (results,)


def trace(function: Callable[..., Any], *arguments: Any) -> tuple[FlatFunction, Any]:
    """Return a function as a flat one, and the tree of its results."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    return flatten(closed), jax.tree.structure(shapes)
