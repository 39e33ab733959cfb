"""Solve for each instruction's compute time and immovable traffic from what XLA's cost model logged.

Its model: ``max(compute, default-memory bytes / bandwidth + alternate-memory bytes / bandwidth)``. Known for each
instruction: the time with everything in the default memory (E), the time in its simulation (S) and which accesses that
charges as fast, the bytes of each operand and result that may move, and the benefit of moving one (negative: memory
time minus compute time). S above its memory time is the compute time. Otherwise compute is hidden, and the least S of
several compilations bounds it; no mapping can be judged faster than that bound allows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mallocgame.hierarchy import Hierarchy
from mallocgame.workloads.xla.records import Position

NEST_FACTOR = 5  # XLA weighs benefits by this per enclosing loop (xla_tpu_…_while_execution_count)
DIGITS = 1e-5  # the log has six significant digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """S of one compilation, and for each access whether that charges it as if in the alternate memory."""

    seconds: float
    charged_fast: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """What the logs say about one instruction."""

    home_seconds: float  # E
    observations: tuple[Observation, ...]  # none where the pass removed the instruction
    benefits_seconds: tuple[float, ...]
    movable_bytes: tuple[int | None, ...]  # of each access of a tensor; None where the log does not say
    tensor_bytes: tuple[int, ...]  # the size of the tensor behind each access
    shape_bytes: int  # of all operands and results, without padding
    padded_bytes: int = 0  # the same with padding
    immovable_shape_bytes: int = 0  # of those that are no tensors
    writes: tuple[bool, ...] = ()  # for each access, whether it writes; () where none is known to
    gains: tuple[float, ...] = ()  # for each access, the benefit of moving it, 0 where none is told; () where none is


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """The solution; ``residual_bytes`` is what does not reconcile (accesses beyond what E allows)."""

    compute_seconds: float
    fixed_bytes: int
    access_bytes: tuple[int, ...]
    residual_bytes: int
    hidden_seconds: float = 0.0  # how far the compute time may lie below ``compute_seconds`` and still matter
    is_opaque: bool = False  # XLA's cost model does not know what it does: its traffic is the size of what it is given
    unseen: frozenset[Position] = frozenset()  # accesses that XLA's cost model leaves out, though they are made


def solve_step(facts: StepFacts, hierarchy: Hierarchy) -> StepTimes:
    """Return the compute time, immovable bytes and per-access bytes that explain the log."""
    home = hierarchy.layers[0].bytes_per_second
    elapsed = facts.home_seconds
    slack = min(facts.benefits_seconds, default=0.0)
    bound_by_memory = slack >= 0 and any(benefit > 0 for benefit in facts.benefits_seconds)
    known = sum(size for size in facts.movable_bytes if size is not None)
    missing = [i for i, size in enumerate(facts.movable_bytes) if size is None]
    if slack < 0:
        total = (elapsed + slack) * home
    elif bound_by_memory:
        total = elapsed * home
    elif any(seen.seconds < elapsed * (1 - 4 * DIGITS) for seen in facts.observations):
        total, bound_by_memory = elapsed * home, True  # what computing takes, it takes wherever its operands are
    else:  # nothing movable is read or written: the shapes say whether memory explains the time
        sized = max(facts.shape_bytes, facts.padded_bytes)
        guess = known + sized if not facts.movable_bytes else max(known, sized)
        total = elapsed * home if guess >= 0.9 * elapsed * home else float(guess)
        bound_by_memory = guess >= 0.9 * elapsed * home > 0
    tolerance = 64 + 2 * DIGITS * elapsed * home
    left = total - known
    filled = _fill(facts, missing, max(left, 0.0))
    fixed = left - sum(filled[i] for i in missing)
    most_fixed = min([2.0 * facts.immovable_shape_bytes, *(seen.seconds * home for seen in facts.observations)])
    if missing and fixed > most_fixed + tolerance:  # so much cannot be immovable: a tensor is read more than once
        filled = _fill_whole(facts, missing, max(left, 0.0), hierarchy)
        fixed = left - sum(filled[i] for i in missing)
    residual = 0
    if fixed < -tolerance:
        residual = round(-fixed)
    fixed_bytes = 0 if fixed <= tolerance else round(fixed)
    compute, hidden = elapsed, 0.0
    if slack >= 0 and bound_by_memory:
        compute, hidden = _compute(facts, fixed_bytes, filled, hierarchy)
    return StepTimes(
        compute_seconds=compute,
        fixed_bytes=fixed_bytes,
        access_bytes=filled,
        residual_bytes=residual,
        hidden_seconds=hidden,
    )


def opaque_step(facts: StepFacts, traffic_bytes: int) -> StepTimes:
    """Return a step of which XLA knows next to nothing: its operands and results cross the slow memory once."""
    nothing = (0,) * len(facts.movable_bytes)
    return StepTimes(
        compute_seconds=facts.home_seconds,
        fixed_bytes=traffic_bytes,
        access_bytes=nothing,
        residual_bytes=0,
        is_opaque=True,
    )


def asynchronous_step(facts: StepFacts) -> StepTimes:
    """Return the start or end of something that runs beside others; XLA charges its memory side nothing."""
    nothing = (0,) * len(facts.movable_bytes)
    return StepTimes(compute_seconds=facts.home_seconds, fixed_bytes=0, access_bytes=nothing, residual_bytes=0)


def _compute(facts: StepFacts, fixed_bytes: int, filled: tuple[int, ...], hierarchy: Hierarchy) -> tuple[float, float]:
    """Return the compute time of a memory-bound instruction, and how far below it may lie."""
    home, fast = hierarchy.layers[0].bytes_per_second, hierarchy.layers[1].bytes_per_second
    everything_fast = fixed_bytes / home + sum(filled) / fast
    bound = facts.home_seconds
    unsure = 64 / home + 2 * DIGITS * facts.home_seconds  # what the digits of E leave open about immovable bytes
    for seen in facts.observations:
        charged = zip(filled, seen.charged_fast, strict=True)
        memory = fixed_bytes / home + sum(size / (fast if quick else home) for size, quick in charged)
        if seen.seconds > memory * (1 + 4 * DIGITS) + unsure:
            return min(seen.seconds, facts.home_seconds), 0.0
        bound = min(bound, seen.seconds)
    if not facts.observations:
        bound = everything_fast
    hidden = bound - everything_fast
    return bound, hidden if hidden > 4 * DIGITS * bound + unsure else 0.0


def _fill(facts: StepFacts, missing: Sequence[int], left: float) -> tuple[int, ...]:
    """Give the accesses that the log does not size what is left, at most each tensor's size."""
    filled = [size if size is not None else 0 for size in facts.movable_bytes]
    wanted = sum(facts.tensor_bytes[i] for i in missing)
    for i in missing:
        share = left * facts.tensor_bytes[i] / wanted if wanted else 0.0
        size = facts.tensor_bytes[i]
        filled[i] = size if share > size * (1 - 10 * DIGITS) else round(share)
    return tuple(filled)


def _fill_whole(facts: StepFacts, missing: Sequence[int], left: float, hierarchy: Hierarchy) -> tuple[int, ...]:
    """Give the accesses that the log does not size all that is left: it is more than their tensors have.

    What a benefit shows of an access is taken first. The rest is what is read more than once; results without a benefit
    are written once.
    """
    home, fast = hierarchy.layers[0].bytes_per_second, hierarchy.layers[1].bytes_per_second
    filled = [float(size or 0) for size in facts.movable_bytes]
    shown = [i for i in missing if facts.gains and facts.gains[i] > 0.0]
    for i in shown:
        filled[i] = facts.gains[i] / (1.0 / home - 1.0 / fast)
    if sum(filled[i] for i in shown) > left:  # the digits of benefits, or none of these
        shown, filled = [], [float(size or 0) for size in facts.movable_bytes]
    rest = [i for i in missing if i not in shown] or list(missing)
    written = [i for i in rest if facts.writes and facts.writes[i]]
    if len(written) < len(rest):
        for i in written:
            filled[i] = max(filled[i], float(facts.tensor_bytes[i]))
        rest = [i for i in rest if i not in written]
    more = left - sum(filled[i] for i in missing)
    wanted = sum(facts.tensor_bytes[i] for i in rest)
    for i in rest:
        filled[i] += more * facts.tensor_bytes[i] / wanted if wanted else 0.0
    return tuple(max(round(size), 0) for size in filled)
