"""Bits that survive drift: models refitted as the trace goes on, each watched against what needs no model.

Every ``refit_requests`` requests a model is fitted on the last requests (labels: the optimum of those alone), and from
then on gives bits at three thresholds. Beside them stand the online counters, the bits of classical policies that run
in the shadow, and the constant bit 0, with which LRU0 is LRU. Every source has a shadow cache of full size. The bits of
each window, a sixteenth as long, come from the source with the most usable hits (hits without prompts) in the windows
before it, older ones weighing less; the source changes only for a gain. Nothing after a window is seen in it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.paging.bits import discard_bits
from mallocgame.baselines.paging.closure import with_prompts
from mallocgame.baselines.paging.engine import record, usable_hits
from mallocgame.baselines.paging.policies.one_bit import LRU0
from mallocgame.baselines.paging.policies.prefix import PREFIX_LRU0
from mallocgame.baselines.paging.policy import Hint, Policy
from mallocgame.baselines.paging.predict.boosting import BoostingConfig, fit
from mallocgame.baselines.paging.predict.features import F32, page_features
from mallocgame.baselines.paging.predict.online import online_bits
from mallocgame.baselines.paging.predict.shadow import SHADOWS, shadow_bits
from mallocgame.baselines.paging.structures import I64, U8
from mallocgame.baselines.paging.trace import PageTrace
from mallocgame.errors import InputError

CONSTANT = "constant 0"
_THRESHOLDS = (-1.0, 0.0, 1.0)  # log odds
_WINDOWS, _CHOICES, _HISTORY_WINDOWS, _LEAST_REQUESTS, _MOST_ROWS = 12, 16, 4, 500, 60_000
_GAIN, _CHANCE = 1.01, 0.3  # another source has to be better by this share, and so many standard deviations of chance
_REFIT = BoostingConfig(num_trees=40)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WatchedBits:
    """Bits for a whole sequence, all of them predictions.

    Attributes:
        bits: uint8[n].
        starts: int64[w + 1], where each window starts; the last entry is n.
        chosen: the source of each window's bits.
    """

    bits: U8
    starts: I64
    chosen: tuple[str, ...]


def _window_starts(trace: PageTrace, refit_requests: int) -> I64:
    starts = [trace.prompt_start(t) for t in range(0, trace.num_requests, refit_requests)]
    return np.array([*dict.fromkeys(starts), trace.num_requests], np.int64)


def _refitted(
    trace: PageTrace, num_frames: int, starts: I64, on_progress: Callable[[float], None] | None
) -> dict[str, U8]:
    """Return bits of the refitted models, one array a threshold; 0 in the first window."""
    features = page_features(trace)
    scores: F32 = np.full(trace.num_requests, -np.inf, np.float32)
    for window in range(1, starts.size - 1):
        begin, end = int(starts[max(0, window - _HISTORY_WINDOWS)]), int(starts[window])
        labels = discard_bits(trace[begin:end], num_frames)
        begin_rows = max(begin, end - _MOST_ROWS)
        model = fit(features[begin_rows:end], labels[begin_rows - begin :], _REFIT)
        upcoming = slice(end, int(starts[window + 1]))
        scores[upcoming] = model.score(features[upcoming])
        if on_progress is not None:
            on_progress(window / (starts.size - 2))
    return {f"refitted, log odds > {t:g}": (scores > t).astype(np.uint8) for t in _THRESHOLDS}


def watched_bits(
    trace: PageTrace,
    num_frames: int,
    *,
    refit_requests: int | None = None,
    policy: Policy | None = None,
    memory: float = 0.95,
    on_progress: Callable[[float], None] | None = None,
) -> WatchedBits:
    """Return discard bits from the source that did best lately; see the module.

    Args:
        trace: the sequence.
        num_frames: cache size.
        refit_requests: from one refit to the next; default: a twelfth of the sequence.
        policy: of the shadow caches; default: LRU0, or prefix-lru0 for prompts.
        memory: weight of a window's score one window later.
        on_progress: called with the share of the refits done.

    Raises:
        InputError: windows of fewer than 500 requests, or a memory outside [0, 1].
    """
    n = trace.num_requests
    step = max(_LEAST_REQUESTS, -(-n // _WINDOWS)) if refit_requests is None else refit_requests
    if step < _LEAST_REQUESTS:
        raise InputError(f"a refit needs at least {_LEAST_REQUESTS} requests, got {step}")
    if not 0.0 <= memory <= 1.0:
        raise InputError(f"the memory of a score lies in [0, 1], got {memory}")
    policy = policy or (LRU0 if trace.prompts is None else PREFIX_LRU0)
    refits, starts = _window_starts(trace, step), _window_starts(trace, max(1, step // _CHOICES))
    sources = {CONSTANT: np.zeros(n, np.uint8), "online counters": online_bits(trace, num_frames)}
    sources |= {f"shadow of {name}": shadow_bits(trace, num_frames, name) for name in SHADOWS}
    sources |= _refitted(trace, num_frames, refits, on_progress)
    names, columns = list(sources), np.stack(list(sources.values()))
    gains = np.stack([_window_hits(trace, num_frames, policy, bits, starts) for bits in columns])
    bits, choices = np.zeros(n, np.uint8), choose_sources(gains, memory)
    for window, best in enumerate(choices):
        span = slice(int(starts[window]), int(starts[window + 1]))
        bits[span] = columns[best, span]
    chosen = [names[best] for best in choices]
    return WatchedBits(bits=bits, starts=starts, chosen=tuple(chosen))


def choose_sources(gains: npt.NDArray[np.float64], memory: float) -> list[int]:
    """Return the source of each window by float64[sources, windows] gains, of which only earlier windows count."""
    choices, score, best = [], np.zeros(gains.shape[0]), 0  # the constant bit stands first and wins ties
    for window in range(gains.shape[1]):
        if score.max() > _GAIN * score[best] + _CHANCE * np.sqrt(score[best]):
            best = int(np.argmax(score))
        choices.append(best)
        score = memory * score + gains[:, window]
    return choices


def _window_hits(trace: PageTrace, num_frames: int, policy: Policy, bits: U8, starts: I64) -> npt.NDArray[np.float64]:
    """Return the usable hits of each window with ``bits`` throughout."""
    hints = with_prompts(trace, bits) if policy.hint is Hint.PROMPT_DISCARD else bits
    usable = usable_hits(trace, record(trace, policy, num_frames, hints=hints).events)
    total = np.concatenate(([0], np.cumsum(usable, dtype=np.int64)))
    return np.diff(total[starts]).astype(np.float64)
