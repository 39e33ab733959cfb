"""A training step under a policy: traced, priced, compiled, and its decision problem."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from mallocgame.checkpointing import CheckpointProblem
from mallocgame.errors import InputError
from mallocgame.workloads.calls import ReadyCall, prepare
from mallocgame.workloads.checkpointing.analysis import active_values, analyse, build_problem
from mallocgame.workloads.checkpointing.chips import Chip
from mallocgame.workloads.checkpointing.differentiation import differentiated_as
from mallocgame.workloads.checkpointing.flat import FlatFunction, trace
from mallocgame.workloads.checkpointing.policy import (
    CheckpointPolicy,
    FunctionPlan,
    changed_function,
    check_own_names,
)
from mallocgame.workloads.checkpointing.price import Price, price_step
from mallocgame.workloads.checkpointing.regions import EquationRange, cut
from mallocgame.workloads.checkpointing.rewrite import Policy, read_later
from mallocgame.workloads.program_reference import Call


@dataclass(slots=True, kw_only=True)
class Site:
    """One differentiated function of a step, cut into regions."""

    flat: FlatFunction
    regions: list[EquationRange]


@dataclass(slots=True, kw_only=True)
class Traced:
    """A step under one policy, traced but not compiled."""

    stage: Any  # jax.stages.Traced
    donated: frozenset[int]
    sites: list[Site] = field(default_factory=list)

    def price(self, chip: Chip) -> Price:
        """Return predicted seconds and peak bytes."""
        return price_step(self.stage.jaxpr, chip, self.donated)


@dataclass(slots=True, kw_only=True)
class TrainingStep:
    """A step as its user wrote it."""

    call: Call
    own_names: bool = False
    _ready: ReadyCall | None = None

    def traced(self, policy: Policy | None, *, untouched: bool = False) -> Traced:
        """Trace the step with a policy on every region; None: without checkpoints; ``untouched``: as it is written.

        Raises:
            InputError: it takes no gradient, or has names that clash with ours.
        """
        if self._ready is None:  # may trace the step once, to see what it donates: before gradients are changed
            self._ready = prepare(self.call, lambda leaf: leaf)
        sites: list[Site] = []
        met = False

        def change(function: Callable[..., Any], primals: tuple[Any, ...]) -> Callable[..., Any]:
            nonlocal met
            met = True
            if untouched:  # some functions bear being called only once
                return function
            flat, tree = trace(function, *primals)
            check_own_names(flat)
            regions = cut(flat, str(len(sites)), own_names=self.own_names)
            sites.append(Site(flat=flat, regions=regions))
            return changed_function(flat, regions, policy, tree)

        with differentiated_as(change):
            stage = self._stage()
        if not met:
            name = getattr(self.call.function, "__name__", "the function")
            raise InputError(f"{name} takes no gradient: expected a training step that calls jax.grad or the like")
        donated = frozenset(i for i, info in enumerate(jax.tree.leaves(stage.args_info)) if info.donated)
        return Traced(stage=stage, donated=donated, sites=sites)

    def _stage(self) -> Any:
        assert self._ready is not None
        stage = self._ready.function.trace(*self._ready.arguments, **self._ready.keywords)
        return getattr(stage, "traced", stage)  # flax.nnx puts its own around JAX's


def problem_of(step: TrainingStep, chip: Chip) -> tuple[CheckpointProblem, Traced, Price]:
    """Return the decision problem of a step, the step with everything recomputed, and its price."""
    policies: Any = jax.checkpoint_policies
    everything = step.traced(policies.nothing_saveable)
    price = everything.price(chip)
    parts, peaks = [], []
    for site in everything.sites:
        active = active_values(site.flat)
        for region, later in zip(site.regions, read_later(site.flat, site.regions), strict=True):
            parts.append(analyse(site.flat, region, active, later, chip))
            names = [*region.names.values(), *region.entries.values()]
            peaks.append(max((price.named_peaks[name] for name in names if name in price.named_peaks), default=0))
    regions = [region for site in everything.sites for region in site.regions]
    return build_problem(parts, regions, price, peaks, chip), everything, price


def policy_from_names(
    sites: Sequence[Site], save: Sequence[str], offload: Sequence[str], base: str = "names"
) -> CheckpointPolicy:
    """Return the policy that keeps and offloads these names, with where they are put in."""
    plans = tuple(FunctionPlan(fingerprint=s.flat.fingerprint, regions=tuple(s.regions)) for s in sites)
    return CheckpointPolicy(save=frozenset(save), offload=frozenset(offload), base=base, functions=plans)
