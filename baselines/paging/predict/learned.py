"""A learned one-bit predictor: trained on a prefix of a sequence, judged on the rest."""

from dataclasses import dataclass

import numpy as np

from mallocgame.baselines.paging.bits import exact_bits
from mallocgame.baselines.paging.engine import Job, simulate
from mallocgame.baselines.paging.policies.marking import MARK_PREDICT
from mallocgame.baselines.paging.policies.one_bit import LRU0
from mallocgame.baselines.paging.policy import Hint, Policy
from mallocgame.baselines.paging.predict.boosting import LEAST_REQUESTS, Boosted, BoostingConfig, fit
from mallocgame.baselines.paging.predict.features import F32, page_features
from mallocgame.baselines.paging.structures import U8
from mallocgame.baselines.paging.trace import PageTrace
from mallocgame.errors import InputError

_SHARES = np.linspace(0.02, 0.98, 33)  # quantiles of the score that are tried as thresholds


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


def train_requests(trace: PageTrace, train_share: float) -> int:
    """Return the length of the prefix that is trained on: whole prompts, at most ``train_share`` of the requests."""
    return trace.prompt_start(int(trace.num_requests * train_share))


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

    Labels are the exact bits of the prefix alone; nothing after it is seen. Each half of the prefix is scored by a
    model that was fitted on the other half; the threshold on those scores is the one at which ``policy`` has the fewest
    faults on the prefix (default: LRU0 for discard bits, MARK&PREDICT for phase bits). Then a model is fitted on all
    of the prefix.

    Raises:
        InputError: ``train_share`` outside (0, 1), or a prefix too short to train on.
    """
    if not 0.0 < train_share < 1.0:
        raise InputError(f"the training share lies in (0, 1), got {train_share}")
    prefix_requests = train_requests(trace, train_share)
    if prefix_requests < LEAST_REQUESTS:
        raise InputError(f"{prefix_requests} requests are too few to train on; need at least {LEAST_REQUESTS}")
    prefix, features = trace[:prefix_requests], page_features(trace)
    fitted = fit_bits(prefix, features[:prefix_requests], num_frames, hint, policy=policy, config=config)
    scores, threshold, model = fitted.model.score(features), fitted.threshold, fitted.model
    bits = (scores > threshold).astype(np.uint8)
    bits[:prefix_requests] = 0
    scores[:prefix_requests] = -np.inf
    return LearnedBits(bits=bits, scores=scores, threshold=threshold, train_requests=prefix_requests, model=model)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedBits:
    """A model and its threshold; ``bits`` are uint8[n] for the training requests, from models that did not see them."""

    model: Boosted
    threshold: float
    bits: U8


def fit_bits(
    prefix: PageTrace,
    features: F32,
    num_frames: int,
    hint: Hint = Hint.DISCARD,
    *,
    policy: Policy | None = None,
    config: BoostingConfig | None = None,
) -> FittedBits:
    """Fit a model on all of ``prefix`` (see ``learned_bits``); ``features`` are its own."""
    policy = policy or (LRU0 if hint is Hint.DISCARD else MARK_PREDICT)
    labels, half = exact_bits(prefix, num_frames, hint), prefix.num_requests // 2
    crossed = np.concatenate(
        (
            fit(features[half:], labels[half:], config).score(features[:half]),
            fit(features[:half], labels[:half], config).score(features[half:]),
        )
    )
    threshold = _best_threshold(prefix, num_frames, policy, crossed)
    model = fit(features, labels, config)
    return FittedBits(model=model, threshold=threshold, bits=(crossed > threshold).astype(np.uint8))


def _best_threshold(prefix: PageTrace, num_frames: int, policy: Policy, scores: F32) -> float:
    thresholds = np.unique(np.quantile(scores, _SHARES))
    jobs = [
        Job(policy=policy, num_frames=num_frames, hints=(scores > threshold).astype(np.uint8))
        for threshold in thresholds
    ]
    faults = [result.faults for result in simulate(prefix, jobs)]
    return float(thresholds[int(np.argmin(faults))])
