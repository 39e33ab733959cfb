"""Solve for each instruction's compute time and immovable traffic from what XLA's cost model logged.

Its model: ``max(compute, default-memory bytes / bandwidth + alternate-memory bytes / bandwidth)``. Known for each
instruction: the time with everything in the default memory (E), the time in its simulation (S), the bytes of each
operand and result that may move, and the benefit of moving one (negative: memory time minus compute time).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mallocgame.hierarchy import Hierarchy

NEST_FACTOR = 5  # XLA weighs benefits by this per enclosing loop (xla_tpu_…_while_execution_count)
DIGITS = 1e-5  # the log has six significant digits


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """What the log says about one instruction."""

    home_seconds: float  # E
    simulated_seconds: float | None  # S; None if the pass removed the instruction
    benefits_seconds: tuple[float, ...]
    movable_bytes: tuple[int | None, ...]  # of each access of a tensor; None where the log does not say
    tensor_bytes: tuple[int, ...]  # the size of the tensor behind each access
    charged_fast: tuple[bool, ...]  # whether XLA's simulation charges the access as if in the alternate memory
    shape_bytes: int  # of all operands and results, without padding


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """The solution; ``residual_bytes`` is what does not reconcile (accesses beyond what E allows)."""

    compute_seconds: float
    fixed_bytes: int
    access_bytes: tuple[int, ...]
    residual_bytes: int
    hidden: bool  # compute is known only to be at most ``compute_seconds``


def solve_step(facts: StepFacts, hierarchy: Hierarchy) -> StepTimes:
    """Return the compute time, immovable bytes and per-access bytes that explain the log."""
    home, fast = hierarchy.layers[0].bytes_per_second, hierarchy.layers[1].bytes_per_second
    elapsed = facts.home_seconds
    slack = min(facts.benefits_seconds, default=0.0)
    bound_by_memory = slack >= 0 and any(benefit > 0 for benefit in facts.benefits_seconds)
    known = sum(size for size in facts.movable_bytes if size is not None)
    missing = [i for i, size in enumerate(facts.movable_bytes) if size is None]
    if slack < 0:
        total = (elapsed + slack) * home
    elif bound_by_memory:
        total = elapsed * home
    else:  # nothing movable is read or written: the shapes say whether memory explains the time
        guess = known + facts.shape_bytes if not facts.movable_bytes else max(known, facts.shape_bytes)
        total = elapsed * home if guess >= 0.9 * elapsed * home else float(guess)
        bound_by_memory = guess >= 0.9 * elapsed * home > 0
    tolerance = 64 + 2 * DIGITS * elapsed * home
    left = total - known
    filled = _fill(facts, missing, max(left, 0.0))
    fixed = left - sum(filled[i] for i in missing)
    residual = 0
    if fixed < -tolerance:
        residual = round(-fixed)
    fixed_bytes = 0 if fixed <= tolerance else round(fixed)
    fast_time = sum(b / (fast if c else home) for b, c in zip(filled, facts.charged_fast, strict=True))
    least = fixed_bytes / home + fast_time
    if slack < 0 or (not bound_by_memory and slack == 0):
        return StepTimes(
            compute_seconds=elapsed, fixed_bytes=fixed_bytes, access_bytes=filled, residual_bytes=residual, hidden=False
        )
    simulated = facts.simulated_seconds
    hidden = simulated is None or simulated <= least * (1 + 4 * DIGITS)
    everything_fast = fixed_bytes / home + sum(filled) / fast
    compute = everything_fast if simulated is None else min(simulated, elapsed)
    if hidden and not all(facts.charged_fast):
        compute = min(compute, everything_fast)
    return StepTimes(
        compute_seconds=compute, fixed_bytes=fixed_bytes, access_bytes=filled, residual_bytes=residual, hidden=hidden
    )


def _fill(facts: StepFacts, missing: Sequence[int], left: float) -> tuple[int, ...]:
    """Give the accesses that the log does not size what is left, at most each tensor's size."""
    filled = [size if size is not None else 0 for size in facts.movable_bytes]
    wanted = sum(facts.tensor_bytes[i] for i in missing)
    for i in missing:
        share = left * facts.tensor_bytes[i] / wanted if wanted else 0.0
        size = facts.tensor_bytes[i]
        filled[i] = size if share > size * (1 - 10 * DIGITS) else round(share)
    return tuple(filled)
