"""What ``mallocgame fit`` does, without its printing: standard policies priced, plans made and judged, the curve."""

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mallocgame.baselines.checkpointing.decide import decide
from mallocgame.checkpointing import CheckpointPlan, CheckpointProblem, Choice
from mallocgame.errors import InputError
from mallocgame.workloads.checkpointing.chips import Chip
from mallocgame.workloads.checkpointing.policy import (
    AS_WRITTEN,
    EVERYTHING,
    JAX_POLICIES,
    OFFLOADING,
    CheckpointPolicy,
    jax_policy,
)
from mallocgame.workloads.checkpointing.price import Price
from mallocgame.workloads.checkpointing.step import Traced, TrainingStep, policy_from_names, problem_of

ROUNDS = 3  # of planning for one budget: what the judge says corrects the next
TOP = 3  # tensors that an error names

LABELS = {AS_WRITTEN: "as written", EVERYTHING: "no checkpointing", "nothing_saveable": "recompute all"}


@dataclass(frozen=True, kw_only=True)
class PolicyRow:
    """One policy, judged."""

    name: str
    policy: CheckpointPolicy
    price: Price

    def fits(self, budget_bytes: int) -> bool:
        """Return whether its peak is within the budget."""
        return self.price.peak_bytes <= budget_bytes


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The best policy for one budget: a plan of ours, or a standard one that is faster (``plan`` is None)."""

    budget_bytes: int
    row: PolicyRow
    plan: CheckpointPlan | None
    gap: float  # of our plan's time over the bound proved for the decision problem; NaN without a plan


@dataclass(kw_only=True)
class Fitting:
    """A training step on a chip."""

    step: TrainingStep
    chip: Chip
    seconds: float = 20.0  # of planning, all budgets together
    seed: int = 0
    rows: list[PolicyRow] = field(default_factory=list)
    _judged: dict[tuple[Choice, ...], PolicyRow] = field(default_factory=dict)

    def prepare(self) -> None:
        """Trace the step, price the standard policies, and read the decision problem.

        Raises:
            InputError: no gradient, or names that clash.
        """
        self.problem: CheckpointProblem
        self.everything: Traced
        self.problem, self.everything, price = problem_of(self.step, self.chip)
        for base in (AS_WRITTEN, EVERYTHING, *JAX_POLICIES, OFFLOADING):
            known = price if base == "nothing_saveable" else self._standard_price(base)
            self.rows.append(PolicyRow(name=LABELS.get(base, base), policy=self._policy((), (), base), price=known))
        if (self.rows[0].price.seconds, self.rows[0].price.peak_bytes) == (
            self.rows[1].price.seconds,
            self.rows[1].price.peak_bytes,
        ):
            self.rows = self.rows[1:]  # it is written without checkpoints
        names = self.own_names()
        if names:
            self.rows.append(self._named("save own names", names, ()))
            self.rows.append(self._named("offload own names", (), names))

    def own_names(self) -> list[str]:
        """Return the names that the user gave, in order."""
        from mallocgame.workloads.checkpointing.regions import PREFIX

        return list(dict.fromkeys(n.name for n in self.problem.nodes if n.name and not n.name.startswith(PREFIX)))

    def _policy(self, save: Sequence[str], offload: Sequence[str], base: str = "names") -> CheckpointPolicy:
        return policy_from_names(self.everything.sites, save, offload, base)

    def _standard_price(self, base: str) -> Price:
        if base == AS_WRITTEN:
            return self.step.traced(None, untouched=True).price(self.chip)
        return self.step.traced(None if base == EVERYTHING else jax_policy(base)).price(self.chip)

    def _named(self, name: str, save: Sequence[str], offload: Sequence[str]) -> PolicyRow:
        policy = self._policy(save, offload)
        return PolicyRow(name=name, policy=policy, price=self.step.traced(policy).price(self.chip))

    def judge(self, choices: Sequence[Choice], name: str = "plan") -> PolicyRow:
        """Return the row of choices: the step traced with them and priced."""
        key = tuple(choices)
        if key not in self._judged:
            save = [n.name for n, c in zip(self.problem.nodes, choices, strict=True) if c == Choice.KEEP]
            offload = [n.name for n, c in zip(self.problem.nodes, choices, strict=True) if c == Choice.OFFLOAD]
            self._judged[key] = self._named(name, save, offload)
        return replace(self._judged[key], name=name)

    def least(self) -> PolicyRow:
        """Return the policy with the smallest peak: everything recomputed, or what enters the regions offloaded too."""
        entries = [Choice.OFFLOAD if node.is_entry else Choice.RECOMPUTE for node in self.problem.nodes]
        candidates = [*self.rows, *self._judged.values(), self.judge(entries)]
        return min(candidates, key=lambda row: (row.price.peak_bytes, row.price.seconds))

    def plan(self, budget_bytes: int, seconds: float) -> Planned | None:
        """Return the best policy whose judged peak is within the budget, None where none is.

        The decision problem's peak is an estimate: where the judge says another, the next round aims at the difference.
        """
        aim, rounds, started = max(budget_bytes, self._least_estimate()), ROUNDS, time.monotonic()
        best: tuple[PolicyRow, CheckpointPlan] | None = None
        for number in range(rounds):
            left = seconds - (time.monotonic() - started)
            if number and left < 0.1 * seconds:
                break
            found = decide(self.problem, aim, seconds=max(left / (rounds - number), 0.5))
            if found is None:
                break
            row = self.judge(found.choices)
            if row.fits(budget_bytes) and (best is None or row.price.seconds < best[0].price.seconds):
                best = row, found
            slack = budget_bytes - row.price.peak_bytes
            if abs(slack) <= 0.01 * budget_bytes or (slack > 0 and found.seconds <= self._fastest_seconds()):
                break
            aim += slack
        return self._best(budget_bytes, best)

    def _least_estimate(self) -> int:
        """Return the least peak that the decision problem knows: its estimate may be above the judge's."""
        entries = [Choice.OFFLOAD if node.is_entry else Choice.RECOMPUTE for node in self.problem.nodes]
        return self.problem.peak_bytes(entries)

    def _fastest_seconds(self) -> float:
        """Return the least time that the problem allows: nothing of it run again."""
        return self.problem.base_seconds * (1 + 1e-6)

    def _best(self, budget_bytes: int, found: tuple[PolicyRow, CheckpointPlan] | None) -> Planned | None:
        fitting = [row for row in (*self.rows, *self._judged.values()) if row.fits(budget_bytes)]
        if not fitting:
            return None
        row = min(fitting, key=lambda one: (one.price.seconds, one.price.peak_bytes))
        plan = found[1] if found is not None and row.price is found[0].price else None
        gap = plan.gap if plan is not None else float("nan")
        return Planned(budget_bytes=budget_bytes, row=row, plan=plan, gap=gap)

    def curve(self, count: int, on_done: Callable[[float], None] = lambda _: None) -> list[Planned]:
        """Return plans for ``count`` budgets between the least and what the fastest policy of all needs."""
        low = self.least().price.peak_bytes
        everything = self.plan(2 * max(row.price.peak_bytes for row in self.rows), self.seconds / (count + 1))
        high = max(low + 1, 0 if everything is None else everything.row.price.peak_bytes)
        found = []
        for number in range(count):
            budget = round(low * (high / low) ** (number / max(count - 1, 1)))
            planned = self.plan(budget, self.seconds / (count + 1))
            if planned is not None:
                found.append(planned)
            on_done((number + 1) / count)
        return found

    def too_small(self, budget_bytes: int) -> InputError:
        """Return the error for a budget that no policy meets: what would do, and what takes it."""
        least = self.least()
        return InputError(
            f"a budget of {gigabytes(budget_bytes)} is too small: the least that would do is "
            f"{gigabytes(least.price.peak_bytes)} ({least.name}): {self._largest_arguments()}; "
            f"fullest at {least.price.peak_at}{self._fullest_region()}"
        )

    def _largest_arguments(self) -> str:
        import jax

        call = self.step.call
        words = _parameters(call.function)
        given = {words[i] if i < len(words) else f"[{i}]": each for i, each in enumerate(call.arguments)}
        leaves = [
            (name + jax.tree_util.keystr(path), leaf)
            for name, argument in (given | call.keywords).items()
            for path, leaf in jax.tree_util.tree_flatten_with_path(argument)[0]
        ]
        sized = [(name, _leaf_bytes(leaf)) for name, leaf in leaves if hasattr(leaf, "dtype")]
        top = sorted(sized, key=lambda pair: -pair[1])[:TOP]
        total = gigabytes(sum(size for _, size in sized))
        return f"arguments {total}, of them " + ", ".join(f"{name} {gigabytes(size)}" for name, size in top)

    def _fullest_region(self) -> str:
        regions = self.problem.regions
        if not regions:
            return ""
        r = max(range(len(regions)), key=lambda i: regions[i].peak_bytes)
        largest = max(
            (n for n in self.problem.nodes if n.region == r and n.name), key=lambda n: n.size_bytes, default=None
        )
        what = "" if largest is None else f", where {largest.origin.removeprefix('name ')} is the largest value"
        return f" while region {regions[r].name} is recomputed{what}"


def _parameters(function: Callable[..., Any]) -> list[str]:
    """Return what a function calls its arguments; [] where it does not tell."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _leaf_bytes(leaf: Any) -> int:
    from mallocgame.workloads.checkpointing.graph import size_bytes

    return size_bytes(leaf)


def gigabytes(size: float) -> str:
    """Return bytes as decimal gigabytes, or megabytes where they are few.

    >>> gigabytes(40e9), gigabytes(1.5e6)
    ('40.00 GB', '1.50 MB')
    """
    if size >= 1e9:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.2f} kB"
