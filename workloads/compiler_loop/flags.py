"""The compiler's own switches that matter to mappings. What helps one program harms another: each is tried."""

from collections.abc import Iterator

from mallocgame.explanation.invariants import invariant_parameters
from mallocgame.explanation.reachable import MAX_WAIT
from mallocgame.mapping import HELD, Mapping, hoisted
from mallocgame.program import Program
from mallocgame.workloads.compiler_loop.overrides import HOIST_LIMIT
from mallocgame.workloads.xla.compiler import Options

# By default one parameter may stay in fast memory from one run of the program to the next; no override moves it away.
NOTHING_HELD: Options = {"xla_msa_max_cross_program_prefetches": "0"}
# By default a copy in begins in up to four slices, one after the other: copies ahead of their time come late then.
ONE_SLICE: Options = {"xla_tpu_sliced_prefetch_max_slices": "1"}
# By default a value waits in fast memory from use to use no longer than 8 times as all of that memory takes to copy.
WAIT = "xla_msa_max_overlap_to_mem_size_async_copy_ratio"
# By default no copy is made under which too little is computed, whatever is asked for: none before a loop at the start.
EAGER: Options = {"xla_msa_min_overlap_to_async_copy_ratio": "0"}
# By default what repeats six times (layers) is planned once, for all of them alike, and no order changes that plan.
NO_PATTERN: Options = {"xla_tpu_memory_bound_loop_optimizer_options": "enabled:false"}
LONG_WAITS: Options = {**EAGER, **ONE_SLICE, **NO_PATTERN, WAIT: "20"}
# Ways to suggest a mapping: flags, and what is placed before all others: what waits longer than so long (``Reaction``).
NEVER = float("inf")
WAYS: tuple[tuple[Options, float], ...] = (
    ({**EAGER, **ONE_SLICE, **NO_PATTERN}, NEVER),
    (LONG_WAITS, MAX_WAIT),
    (LONG_WAITS, -1.0),
    ({**EAGER, **NO_PATTERN}, NEVER),
)
CANDIDATE_FLAGS: tuple[Options, ...] = (
    {"xla_msa_enable_sync_slice_replacement": "false"},  # a slice made a copy keeps what it reads in slow memory
    {"xla_tpu_enforce_prefetch_fifo_order": "true"},
    {"xla_msa_max_retries": "10"},
    {"xla_msa_max_repacks": "0"},
    {WAIT: "20"},
    NO_PATTERN,
    {"xla_msa_min_overlap_to_async_copy_ratio": "3"},  # copies under which less is computed are not made
)


def max_wait(flags: Options) -> float:
    """Return how long a value may wait in fast memory under these flags, in the units of ``reachable.waits``."""
    return float(flags.get(WAIT, MAX_WAIT))


def hoist_limits_kib(program: Program, capacity_bytes: int) -> list[int]:
    """Return the limits worth trying for copies before loops: what loop-invariant parameters need, and all there is."""
    need = sum(program.tensors[t].size_bytes for t in invariant_parameters(program))
    if not need:
        return []
    limit = capacity_bytes // 1024
    return sorted({min(-(-need * 5 // 4) // 1024 + 64, limit), limit})


def flags_for(program: Program, capacity_bytes: int, mapping: Mapping) -> Iterator[Options]:
    """Yield the flags without which the compiler may not be able to carry out ``mapping``; first none at all."""
    yield {}
    if not any(r.start_step == HELD for r in mapping.residencies):
        yield NOTHING_HELD
    if hoisted(program, mapping):
        for limit in hoist_limits_kib(program, capacity_bytes):
            yield {HOIST_LIMIT: str(limit)}
