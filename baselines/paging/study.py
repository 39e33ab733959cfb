"""Studies: policies x cache sizes on one sequence, each with its faults, its ratio to OPT and its proved bound."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.paging.bits import count_errors, exact_bits, last_in_phase
from mallocgame.baselines.paging.combine import part_of, policy_from_name
from mallocgame.baselines.paging.engine import Job, simulate
from mallocgame.baselines.paging.hints import AUTO, HintSource
from mallocgame.baselines.paging.policies.offline import OPT, OPT_HEAP
from mallocgame.baselines.paging.policy import Hint, Hints, Policy
from mallocgame.baselines.paging.selection import choose_one_bit
from mallocgame.baselines.paging.trace import PageTrace, from_ids, next_use
from mallocgame.errors import InputError

CLASSICAL = ("lru", "fifo", "clock", "lfu", "arc", "s3-fifo", "sieve", "w-tinylfu", "2q", "lirs", "lecar", "marker")
ONE_BIT = ("fwa0", "lru0", "mark0", "mark-predict", "det-mark-predict", "lru0+lru", "guard-lru0", "mark0~marker")
PROMPT = ("prefix-lru", "prefix-lru0", "prefix-lru0+prefix-lru")
_DISCARD = (Hint.DISCARD, Hint.PROMPT_DISCARD)
ARRIVAL = ("blind-oracle", "blind-oracle+lru", "relaxed-belady", "predictive-marker", "lmarker", "lnonmarker+marker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One policy at one cache size.

    ``usable_hits`` and ``saved_tokens`` are those of a prefix cache (see ``Result``), None without prompts. Every hit
    of OPT is an upper bound on the usable hits of any policy, and OPT reaches it up to what it evicts inside a prompt.

    ``opt_ratio`` is faults over OPT's (NaN where OPT has none). ``eta0``, ``eta1`` and ``bound`` are None for policies
    without bits. ``bound`` is what the theorem proves of the whole sequence, from an empty cache on, and
    ``total_faults`` is what the policy had there; wrong bits are counted in the judged part.
    """

    policy: str
    k: int
    requests: int
    faults: int
    opt_ratio: float
    seconds: float
    usable_hits: int | None = None
    saved_tokens: int | None = None
    eta0: int | None = None
    eta1: int | None = None
    bound: float | None = None
    total_faults: int | None = None


def parse_sizes(text: str, trace: PageTrace) -> list[int]:
    """Parse cache sizes: "100,1000" are frames, "1%" is a share of the trace's distinct pages (at least 1 frame).

    >>> parse_sizes("2,50%", from_ids([0, 1, 2, 3]))
    [2, 2]
    """
    sizes = []
    for part in text.split(","):
        item = part.strip()
        try:
            if item.endswith("%"):
                size = max(1, round(trace.num_pages * float(item[:-1]) / 100.0)) if float(item[:-1]) > 0 else 0
            else:
                size = int(item)
        except (ValueError, OverflowError):
            raise InputError(f"a cache size is a number of frames or a percentage, got {item!r}") from None
        if size < 1:
            raise InputError(f"the cache needs at least 1 frame, got k = {item}")
        sizes.append(size)
    return sizes


def _warm_up(policies: Sequence[Policy]) -> None:
    """Compile (or load from Numba's cache) before anything is timed."""
    tiny = from_ids([0, 1, 0])
    for policy in policies:
        dtype = {Hint.DISCARD: np.uint8, Hint.PHASE: np.uint8, Hint.NEXT_USE: np.int32}.get(policy.hint, np.int64)
        hints = next_use(tiny).astype(dtype) if policy.hint is Hint.NEXT_USE else np.zeros(3, dtype)
        simulate(tiny, [Job(policy=policy, num_frames=2, hints=hints)], num_threads=1)


def study(
    trace: PageTrace,
    names: Sequence[str],
    sizes: Sequence[int],
    source: HintSource | None = None,
    *,
    seed: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> list[Row]:
    """Run every policy at every size, OPT always among them, in one pass; return one row each, sizes outermost.

    Args:
        trace: the sequence.
        names: policies ("lru", "fwa0+lru", ...); OPT is added in front where it is missing.
        sizes: cache sizes in frames.
        source: what the policies are told; exact hints by default.
        seed: of randomised policies.
        on_progress: called with the share done, in [0, 1].
    """
    source = source or HintSource()
    unique = dict.fromkeys((OPT.name, *names))
    policies = [policy_from_name(name) for name in unique if name != AUTO]
    if trace.is_spilled:  # the bit tree keeps 4 bytes a request in memory, the heap 12 a frame
        policies = [replace(OPT_HEAP, name=OPT.name) if policy is OPT else policy for policy in policies]
    _warm_up(policies)
    start = source.judge_from(trace, names)
    jobs: list[Job] = []
    known: dict[tuple[int, Hint, str], Hints | None] = {}
    memo: dict[object, npt.NDArray[np.uint8]] = {}
    for k in sizes:
        for policy in policies:
            own = policy.name if source.closure == "auto" and policy.hint in _DISCARD else ""
            key = (k if policy.hint in (*_DISCARD, Hint.PHASE) else 0, policy.hint, own)
            if key not in known:
                known[key] = source.hints(trace, k, policy, memo=memo)
            jobs.append(Job(policy=policy, num_frames=k, hints=known[key], seed=seed, judge_from=start))
        if AUTO in unique:
            choice = choose_one_bit(trace, k, source.discard_bits(trace, k, memo), start)
            chosen = replace(choice.policy, name=f"{AUTO}: {choice.policy.name}")
            jobs.append(Job(policy=chosen, num_frames=k, hints=choice.hints, seed=seed, judge_from=start))

    def progressed(done: float) -> None:
        if on_progress is not None:
            on_progress(done / trace.num_requests)

    results = simulate(trace, jobs, on_progress=progressed)
    best = {r.num_frames: r.faults for r in results if r.policy == OPT.name}
    whole = {r.num_frames: r.total_faults for r in results if r.policy == OPT.name}
    rows = []
    for job, result in zip(jobs, results, strict=True):
        optimum = best[result.num_frames]
        eta0, eta1, bound = _bound(trace, job, whole[result.num_frames])
        rows.append(
            Row(
                policy=result.policy,
                k=result.num_frames,
                requests=result.num_requests,
                faults=result.faults,
                opt_ratio=result.faults / optimum if optimum else float("nan"),
                seconds=result.seconds,
                usable_hits=result.usable_hits,
                saved_tokens=result.saved_tokens,
                eta0=eta0,
                eta1=eta1,
                bound=bound,
                total_faults=result.total_faults if start else None,
            )
        )
    return rows


def _bound(trace: PageTrace, job: Job, optimum: int) -> tuple[int | None, int | None, float | None]:
    policy, k = job.policy, job.num_frames
    if policy.hint not in (*_DISCARD, Hint.PHASE) or job.hints is None:
        return None, None, None
    kind = Hint.PHASE if policy.hint is Hint.PHASE else Hint.DISCARD
    truth = exact_bits(trace, k, kind)
    counted = last_in_phase(trace, k) if policy.hint is Hint.PHASE else np.ones(trace.num_requests, bool)
    told = part_of(job.hints, policy.hint, kind)
    whole = count_errors(told, truth, counted=counted.copy())
    counted[: job.judge_from] = False
    errors = count_errors(told, truth, counted=counted)
    guarantee = policy.guarantee
    if guarantee is None:
        return errors.eta0, errors.eta1, None
    bound = guarantee.alpha * optimum + guarantee.beta(k) * whole.eta0 + guarantee.gamma * whole.eta1
    if guarantee.robust is not None:
        bound = min(bound, guarantee.robust(k) * optimum) if guarantee.alpha else guarantee.robust(k) * optimum
    return errors.eta0, errors.eta1, bound + guarantee.constant(k)


def flip_study(
    trace: PageTrace,
    names: Sequence[str],
    num_frames: int,
    rates: Sequence[float],
    *,
    adversarial: bool = False,
    seed: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> dict[float, list[Row]]:
    """Run the policies with exact bits of which a share is wrong, once for each rate (0s and 1s alike)."""
    out = {}
    for done, rate in enumerate(rates):
        source = HintSource(flip_zeros=rate, flip_ones=rate, adversarial=adversarial, seed=seed)
        out[rate] = study(trace, names, [num_frames], source, seed=seed)
        if on_progress is not None:
            on_progress((done + 1) / len(rates))
    return out


def point_study(
    trace: PageTrace, names: Sequence[str], num_frames: int, sources: Sequence[str], *, seed: int = 0
) -> dict[str, list[tuple[float, Row]]]:
    """Run the policies that are told bits with each predictor; return (share of bits that are wrong, row) of each."""
    out: dict[str, list[tuple[float, Row]]] = {}
    for bits in sources:
        rows = study(trace, names, [num_frames], HintSource(bits=bits), seed=seed)
        judged = max(1, trace.num_requests)
        out[bits] = [
            ((row.eta0 + row.eta1) / judged, row) for row in rows if row.eta0 is not None and row.eta1 is not None
        ]
    return out
