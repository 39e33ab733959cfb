"""The answer of ``mallocgame fit`` in a user's code: a JAX checkpoint policy, and the wrapper that puts names in."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

import jax

from mallocgame.errors import InputError
from mallocgame.files import StrPath
from mallocgame.workloads.checkpointing.differentiation import differentiated_as
from mallocgame.workloads.checkpointing.flat import FlatFunction, flatten, trace
from mallocgame.workloads.checkpointing.regions import PREFIX, EquationRange
from mallocgame.workloads.checkpointing.rewrite import Policy, run
from mallocgame.workloads.formats import strict_json
from mallocgame.workloads.formats.strict_json import Node

FORMAT, VERSION = "mallocgame-checkpoint-policy", 1
NAMES, EVERYTHING, AS_WRITTEN = "names", "everything_saveable", "as_written"
JAX_POLICIES = ("nothing_saveable", "dots_saveable", "dots_with_no_batch_dims_saveable")
OFFLOADING = "offload_dot_with_no_batch_dims"
BASES = (NAMES, EVERYTHING, AS_WRITTEN, *JAX_POLICIES, OFFLOADING)
HOST = {"offload_src": "device", "offload_dst": "pinned_host"}

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionPlan:
    """Where one differentiated function is cut, and which of its values have names."""

    fingerprint: str
    regions: tuple[EquationRange, ...]


@dataclass(frozen=True, kw_only=True, eq=False)  # JAX hashes policies: each is itself
class CheckpointPolicy:
    """What leaves device memory between the forward and the backward pass.

    It is a JAX policy: ``jax.checkpoint(layer, policy=policy)`` where the user has the names. ``apply`` puts names and
    checkpoints into a step, or into a function that will be differentiated, where he has none.
    """

    save: frozenset[str] = frozenset()
    offload: frozenset[str] = frozenset()
    base: str = NAMES
    functions: tuple[FunctionPlan, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        both = sorted(self.save & self.offload)
        if both:
            raise InputError(f"checkpoint policy: {', '.join(both[:5])}: named both to be saved and to be offloaded")
        if self.base not in BASES:
            raise InputError(f"checkpoint policy: unknown base {self.base!r}, expected one of {', '.join(BASES)}")

    def __call__(self, primitive: Any, *avals: Any, **params: Any) -> Any:
        """Say whether a primitive's result is saved, offloaded or recomputed (JAX's protocol of policies)."""
        if primitive.name == "name":
            name = params["name"]
            if name in self.save:
                return True
            if name in self.offload:
                return _offload_names(name)(primitive, *avals, **params)
            if self.base == NAMES:
                return False
        base = jax_policy(self.base)
        return False if base is None else base(primitive, *avals, **params)

    def apply(self, function: F) -> F:
        """Return ``function`` as planned: a training step, or a function that is differentiated later.

        Values and gradients are those of ``function`` within rounding. A jitted step is taken apart and has to be
        jitted again: ``jax.jit(policy.apply(step), donate_argnums=...)``.

        Raises (when the result is traced):
            InputError: the plan was made for another function.
        """
        plain: Any = getattr(function, "__wrapped__", function) if hasattr(function, "lower") else function

        @wraps(plain)
        def planned(*arguments: Any, **keywords: Any) -> Any:
            with self.applied() as met:
                results = plain(*arguments, **keywords)
            if not met and self.base != AS_WRITTEN:
                return self._changed(lambda *values: plain(*values, **keywords), arguments, 0)(*arguments)
            return results

        return planned  # type: ignore[return-value]

    @contextlib.contextmanager
    def applied(self) -> Iterator[list[Callable[..., Any]]]:
        """Let what is differentiated meanwhile be as planned; yield the functions that were met. Not thread-safe."""
        met: list[Callable[..., Any]] = []

        def change(inner: Callable[..., Any], primals: tuple[Any, ...]) -> Callable[..., Any]:
            met.append(inner)
            return self._changed(inner, primals, len(met) - 1)

        with contextlib.nullcontext() if self.base == AS_WRITTEN else differentiated_as(change):
            yield met

    def _changed(self, inner: Callable[..., Any], primals: tuple[Any, ...], number: int) -> Callable[..., Any]:
        flat, tree = trace(inner, *primals)
        if number >= len(self.functions):
            raise InputError(f"checkpoint policy: made for {len(self.functions)} gradients, met one more")
        plan = self.functions[number]
        if plan.fingerprint != flat.fingerprint:
            raise InputError(
                f"checkpoint policy: gradient {number + 1} is of another function than the one that was fitted "
                f"(fingerprint {flat.fingerprint}, expected {plan.fingerprint}); run `mallocgame fit` again"
            )
        regions = [_with_body(flat, region) for region in plan.regions]
        return changed_function(flat, regions, None if self.base == EVERYTHING else self, tree)


def changed_function(
    flat: FlatFunction, regions: Sequence[EquationRange], policy: Policy | None, tree: Any
) -> Callable[..., Any]:
    """Return a flat function as one of pytrees, checkpointed."""

    def function(*arguments: Any) -> Any:
        return jax.tree.unflatten(tree, run(flat, regions, policy, jax.tree.leaves(arguments)))

    return function


def _with_body(flat: FlatFunction, region: EquationRange) -> EquationRange:
    """Return a region of a file with the loop's body of this function."""
    if region.body is None:
        return region
    eqn = flat.equations[region.start].eqn
    body = flatten(eqn.params["jaxpr"])
    return EquationRange(
        start=region.start,
        end=region.end,
        names=region.names,
        entries=region.entries,
        body=body,
        length=int(eqn.params["length"]),
    )


def jax_policy(base: str) -> Policy | None:
    """Return JAX's own policy of that name, None for ``names``."""
    policies: Any = jax.checkpoint_policies
    if base == OFFLOADING:
        offloading: Policy = policies.offload_dot_with_no_batch_dims(**HOST)
        return offloading
    found: Policy | None = getattr(policies, base, None)
    return found


def _offload_names(*names: str) -> Policy:
    policies: Any = jax.checkpoint_policies
    found: Policy = policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=list(names), **HOST
    )
    return found


def save_checkpoint_policy(path: StrPath, policy: CheckpointPolicy) -> None:
    """Write a policy, whole or not at all.

    Raises:
        TraceError: the file cannot be written.
    """
    wanted = policy.save | policy.offload
    functions = [
        {"fingerprint": plan.fingerprint, "regions": [_region_rows(region, wanted) for region in plan.regions]}
        for plan in policy.functions
    ]
    value = {
        "format": FORMAT,
        "version": VERSION,
        "base": policy.base,
        "save": sorted(policy.save),
        "offload": sorted(policy.offload),
        "functions": functions,
    }
    strict_json.write(path, value)


def _region_rows(region: EquationRange, wanted: Iterable[str]) -> dict[str, Any]:
    wanted = set(wanted)
    return {
        "start": region.start,
        "end": region.end,
        "is_loop": region.body is not None,
        "values": [v for v, name in region.names.items() if name in wanted],
        "names": [name for name in region.names.values() if name in wanted],
        "inputs": [v for v, name in region.entries.items() if name in wanted],
        "input_names": [name for name in region.entries.values() if name in wanted],
    }


def load_checkpoint_policy(path: StrPath) -> CheckpointPolicy:
    """Return the policy in a file that ``mallocgame fit --out`` wrote.

    In user code: ``step = jax.jit(mallocgame.load_checkpoint_policy(path).apply(step))``.

    Raises:
        TraceError: the file cannot be read, is no policy, or names a value twice.
    """
    node = strict_json.read(path)
    strict_json.check_header(node, FORMAT, VERSION)
    _, _, base, save, offload, functions = node.fields("format", "version", "base", "save", "offload", "functions")
    names = [*save.texts(), *offload.texts()]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        node.fail(f"names clash: {twice} is given more than once")
    if base.text() not in BASES:
        base.fail(f"expected one of {', '.join(BASES)}, got {base.text()!r}")
    plans = tuple(_read_function(item) for item in functions.items())
    return CheckpointPolicy(
        save=frozenset(save.texts()), offload=frozenset(offload.texts()), base=base.text(), functions=plans
    )


def _read_function(node: Node) -> FunctionPlan:
    fingerprint, regions = node.fields("fingerprint", "regions")
    found = tuple(_read_region(item) for item in regions.items())
    ends = [0, *(region.end for region in found)]
    for item, region, before in zip(regions.items(), found, ends, strict=False):
        if region.start != before or region.end <= region.start:
            item.fail(f"expected a region that starts at {before} and is not empty")
    return FunctionPlan(fingerprint=fingerprint.text(), regions=found)


def _read_region(node: Node) -> EquationRange:
    start, end, is_loop, values, names, inputs, input_names = node.fields(
        "start", "end", "is_loop", "values", "names", "inputs", "input_names"
    )
    if not isinstance(is_loop.value, bool):
        is_loop.fail("expected true or false")
    pairs = []
    for numbers, words in ((values, names), (inputs, input_names)):
        if len(numbers.array()) != len(words.array()):
            words.fail(f"has {len(words.array())} entries, expected {len(numbers.array())}")
        pairs.append(dict(zip(numbers.integers(0), words.texts(), strict=True)))
    return EquationRange(
        start=start.integer(0),
        end=end.integer(0),
        names=pairs[0],
        entries=pairs[1],
        body=FlatFunction() if is_loop.value else None,
    )


def check_own_names(flat: FlatFunction) -> None:
    """Refuse names of the user's that look like ours.

    Raises:
        InputError: there is one.
    """
    for equation in flat.equations:
        if equation.primitive == "name" and str(equation.eqn.params["name"]).startswith(PREFIX):
            name = equation.eqn.params["name"]
            raise InputError(f"names clash: {name} begins with {PREFIX}, which is kept for names that are put in")
