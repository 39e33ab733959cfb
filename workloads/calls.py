"""A user's call made ready for JAX: jitted once, donating and static as its author meant it. Imports JAX when used."""

import contextlib
import functools
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mallocgame.workloads.program_reference import Call

Leaf = Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyCall:
    """A jitted function, with ``lower`` and ``trace``, and what these are called with."""

    function: Any
    arguments: list[Any]
    keywords: dict[str, Any]
    static_arguments: frozenset[int] = frozenset()

    @property
    def leaves(self) -> list[Any]:
        """What the arguments hold that are not static by their number."""
        import jax

        data = [a for i, a in enumerate(self.arguments) if i not in self.static_arguments]
        return list(jax.tree.leaves((data, self.keywords)))


def prepare(call: Call, described: Leaf) -> ReadyCall:
    """Return the call with each array described; static arguments and what is no array are handed on as they are."""
    import jax

    call = _with_data_alone(_unbound(call))
    function, static, names = _jitted(call)
    arguments = [a if i in static else jax.tree.map(described, a) for i, a in enumerate(call.arguments)]
    keywords = {k: a if k in names else jax.tree.map(described, a) for k, a in call.keywords.items()}
    if not hasattr(call.function, "lower") and not call.donated:
        function = _donating(function, call, (arguments, keywords), (static, names))
    return ReadyCall(function=function, arguments=arguments, keywords=keywords, static_arguments=static)


def _unbound(call: Call) -> Call:
    """Return a call of what a partial or a bound method calls, where that is jitted: its donation then counts."""
    function = call.function
    if isinstance(function, functools.partial) and hasattr(function.func, "lower"):
        arguments = (*function.args, *call.arguments)
        return Call(function=function.func, arguments=arguments, keywords=function.keywords | call.keywords)
    if isinstance(function, types.MethodType) and hasattr(function.__func__, "lower"):
        return Call(function=function.__func__, arguments=(function.__self__, *call.arguments), keywords=call.keywords)
    return call


def _jitted(call: Call) -> tuple[Any, frozenset[int], frozenset[str]]:
    """Return a jitted function, and which of its arguments are static.

    A function that is jitted already keeps its own options. Otherwise arguments that hold something else than numbers
    and arrays (a string, a function, a configuration) are static.
    """
    import jax

    if hasattr(call.function, "lower"):
        info = getattr(call.function, "_jit_info", None)
        static = frozenset(n % len(call.arguments) for n in getattr(info, "static_argnums", ()) if call.arguments)
        return call.function, static, frozenset(getattr(info, "static_argnames", ()) or ())
    static = frozenset(i for i, argument in enumerate(call.arguments) if not _is_data(argument))
    names = frozenset(name for name, argument in call.keywords.items() if not _is_data(argument))
    run = jax.jit(
        call.function, donate_argnums=call.donated, static_argnums=sorted(static), static_argnames=sorted(names)
    )
    return run, static, names


def _donating(
    function: Any,
    call: Call,
    described: tuple[list[Any], dict[str, Any]],
    static: tuple[frozenset[int], frozenset[str]],
) -> Any:
    """Return the function so jitted that it donates what jitted functions that it calls are given for good.

    ``def step(state, batch): return _step(state, batch, config)`` gives the state away if ``_step`` does; inside
    another ``jit`` JAX would forget that.
    """
    import jax

    arguments, keywords = described
    try:
        jaxpr = function.trace(*arguments, **keywords).jaxpr.jaxpr
    except Exception:  # lowering will say it
        return function
    given = {
        id(value)
        for equation in jaxpr.eqns
        for value, is_given in zip(equation.invars, equation.params.get("donated_invars", ()), strict=False)
        if is_given
    }
    if not given:
        return function
    flags = iter([id(value) in given for value in jaxpr.invars])

    def is_whole(argument: Any) -> bool:
        each = [next(flags) for _ in jax.tree.leaves(argument)]
        return bool(each) and all(each)

    numbers = [i for i, argument in enumerate(arguments) if i not in static[0] and is_whole(argument)]
    words = [name for name in sorted(keywords) if name not in static[1] and is_whole(keywords[name])]
    return jax.jit(
        call.function,
        donate_argnums=numbers,
        donate_argnames=words,
        static_argnums=sorted(static[0]),
        static_argnames=sorted(static[1]),
    )


def _with_data_alone(call: Call) -> Call:
    """Return a call without the leaves that are no data, which a model holds beside its arrays (an activation, say).

    They stay what they are when the function runs; of what it returns they are left out. Equinox's ``filter_jit``,
    whose own way to lower takes descriptions of arrays for such leaves, is taken as a function that donates alike.
    """
    import jax

    is_filtered = type(call.function).__module__.startswith("equinox") and hasattr(call.function, "donate_first")
    given = _numbered(call.arguments, call.keywords)
    if not is_filtered and (hasattr(call.function, "lower") or not any(map(_is_mixed, given.values()))):
        return call
    whole = {} if is_filtered else {key: argument for key, argument in given.items() if _is_data(argument)}
    data = {key: whole.get(key, _arrays(argument)) for key, argument in given.items()}
    rest = {key: _arrays(argument, False) for key, argument in given.items() if key not in whole}

    def run(*arguments: Any, **keywords: Any) -> Any:
        now = _numbered(arguments, keywords)
        now |= {key: jax.tree.map(_either, now[key], other, is_leaf=_is_none) for key, other in rest.items()}
        named = {key: argument for key, argument in now.items() if isinstance(key, str)}
        return _arrays(call.function(*(now[n] for n in range(len(arguments))), **named))

    with contextlib.suppress(TypeError, ValueError):
        run.__signature__ = inspect.signature(call.function)  # type: ignore[attr-defined]
    donated = set(call.donated)
    if is_filtered:
        first, others = call.function.donate_first, call.function.donate_rest  # type: ignore[attr-defined]
        donated = {n for n in range(len(call.arguments)) if (others if n else first)}
    return Call(
        function=jax.jit(run, donate_argnums=sorted(donated)),
        arguments=tuple(data[n] for n in range(len(call.arguments))),
        keywords={name: data[name] for name in call.keywords},
    )


def _numbered(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> dict[int | str, Any]:
    found: dict[int | str, Any] = dict(enumerate(arguments))
    found.update(keywords.items())
    return found


def _arrays(tree: Any, wanted: bool = True) -> Any:
    """Return a tree with its arrays alone (else with all but those), None in place of others."""
    import jax

    return jax.tree.map(lambda leaf: leaf if hasattr(leaf, "dtype") == wanted else None, tree)


def _either(data: Any, other: Any) -> Any:
    return other if data is None else data


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _is_mixed(argument: Any) -> bool:
    import jax

    return not _is_data(argument) and any(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(argument))


def _is_data(argument: Any) -> bool:
    import jax

    return all(hasattr(leaf, "dtype") or isinstance(leaf, int | float | complex) for leaf in jax.tree.leaves(argument))
