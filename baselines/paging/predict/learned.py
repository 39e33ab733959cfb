"""A learned one-bit predictor: trained on a prefix of a sequence, judged on the rest."""

from dataclasses import dataclass

import numpy as np

from baselines.paging.bits import exact_bits
from baselines.paging.engine import Job, simulate
from baselines.paging.policies.marking import MARK_PREDICT
from baselines.paging.policies.one_bit import LRU0
from baselines.paging.policy import Hint, Policy
from baselines.paging.predict.boosting import Boosted, BoostingConfig, fit
from baselines.paging.predict.features import F32, page_features
from baselines.paging.structures import U8
from baselines.paging.trace import PageTrace
from mallocgame.errors import InputError

_SHARES = np.linspace(0.02, 0.98, 33)  # quantiles of the score that are tried as thresholds
_FIT_SHARE = 0.7  # of the prefix; the threshold is chosen on what remains of it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LearnedBits:
    """Bits for a whole sequence, of which only those from ``train_requests`` on are predictions.

    Attributes:
        bits: uint8[n]; 0 throughout the prefix, where there is no model yet (so LRU0 is LRU there).
        scores: float32[n], log odds of a 1; -inf in the prefix.
        threshold: a score above it gives a 1.
        train_requests: length of the prefix.
    """

    bits: U8
    scores: F32
    threshold: float
    train_requests: int
    model: Boosted


def _labels(trace: PageTrace, num_frames: int, hint: Hint) -> U8:
    return exact_bits(trace, num_frames, hint)


def learned_bits(
    trace: PageTrace,
    num_frames: int,
    hint: Hint = Hint.DISCARD,
    *,
    train_share: float = 0.5,
    policy: Policy | None = None,
    config: BoostingConfig | None = None,
) -> LearnedBits:
    """Train on the first ``train_share`` of the requests and predict the bits of the others.

    Labels are the exact bits of the prefix alone; nothing after it is seen. The threshold minimises the faults of
    ``policy`` (default: LRU0 for discard bits, MARK&PREDICT for phase bits) on the last 30% of the prefix under a model
    that was fitted on the first 70%; then the model is fitted again on all of the prefix.

    Raises:
        InputError: ``train_share`` outside (0, 1), or a prefix too short to train on.
    """
    if not 0.0 < train_share < 1.0:
        raise InputError(f"the training share lies in (0, 1), got {train_share}")
    prefix_requests = int(trace.num_requests * train_share)
    fit_requests = int(prefix_requests * _FIT_SHARE)
    if fit_requests < 100:
        raise InputError(
            f"{prefix_requests} requests are too few to train on; need at least {int(100 / _FIT_SHARE) + 1}"
        )
    policy = policy or (LRU0 if hint is Hint.DISCARD else MARK_PREDICT)
    prefix = trace[:prefix_requests]
    features = page_features(trace)
    early = fit(features[:fit_requests], _labels(trace[:fit_requests], num_frames, hint), config)
    quantile = _best_quantile(prefix, num_frames, policy, early.score(features[:prefix_requests]), fit_requests)
    model = fit(features[:prefix_requests], _labels(prefix, num_frames, hint), config)
    scores = model.score(features)
    threshold = float(quantile)
    bits = (scores > threshold).astype(np.uint8)
    bits[:prefix_requests] = 0
    scores[:prefix_requests] = -np.inf
    return LearnedBits(bits=bits, scores=scores, threshold=threshold, train_requests=prefix_requests, model=model)


def _best_quantile(prefix: PageTrace, num_frames: int, policy: Policy, scores: F32, fit_requests: int) -> float:
    thresholds = np.unique(np.quantile(scores[fit_requests:], _SHARES))
    jobs = []
    for threshold in thresholds:
        bits = (scores > threshold).astype(np.uint8)
        bits[:fit_requests] = 0
        jobs.append(Job(policy=policy, num_frames=num_frames, hints=bits, judge_from=fit_requests))
    faults = [result.faults for result in simulate(prefix, jobs)]
    return float(thresholds[int(np.argmin(faults))])
