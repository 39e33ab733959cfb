"""Predicted next arrivals: POPU and PLECO, and the bits that a threshold makes of any of them.

Source: Antoniadis et al., ICML 2020 (POPU; PLECO's constants, from Anderson et al., WWW 2014).
"""

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.paging.predict.boosting import LEAST_REQUESTS, BoostingConfig, fit
from mallocgame.baselines.paging.predict.features import page_features
from mallocgame.baselines.paging.structures import I32, I64, U8
from mallocgame.baselines.paging.trace import PageTrace, next_use
from mallocgame.errors import InputError
from mallocgame.jit import jit

_HORIZON = 16384  # requests; PLECO's weight beyond it is below 1e-18 of the largest


@jit
def _popu(pages: I32, uses: I32, out: I64) -> None:
    for i in range(pages.size):
        uses[pages[i]] += 1
        out[i] = i + (i + 1) // uses[pages[i]] + 1


def popu(trace: PageTrace) -> I64:
    """Return int64[n]: a page requested c times in t requests is expected again after t / c more."""
    out = np.empty(trace.num_requests, np.int64)
    _popu(trace.pages, np.zeros(trace.num_pages, np.int32), out)
    return out


@jit
def _pleco(pages: I32, last: I64, before: I64, horizon: int, out: I64) -> None:
    weights = np.empty(horizon)
    total = 0.0
    for i in range(horizon):
        weights[i] = (i + 11.0) ** -1.8 * np.exp(-(i + 1.0) / 670.0)
    for i in range(pages.size):
        if i < horizon:
            total += weights[i]
        before[i] = last[pages[i]]
        last[pages[i]] = i
        weight, j = 0.0, i
        while j >= 0 and i - j < horizon:
            weight += weights[i - j]
            j = before[j]
        out[i] = i + int(min(total / weight, 1e18))


def pleco(trace: PageTrace) -> I64:
    """Return int64[n]: t - 1 + 1 / p, where p is the page's share of all requests, recent ones weighing more.

    A request of age a weighs (a + 10)**-1.8 * exp(-a / 670), over the last 16,384 requests.
    """
    n = trace.num_requests
    out = np.empty(n, np.int64)
    _pleco(trace.pages, np.full(trace.num_pages, -1), np.empty(n, np.int64), _HORIZON, out)
    return out


def learned_arrivals(trace: PageTrace, prefix_requests: int) -> I64:
    """Return int64[n]: trees that predict the time to the next request, fitted on a prefix; POPU within it.

    The target is log2 of the time; what does not come back within the prefix counts as twice the time to its end, as
    LRB labels what leaves its memory window. Source: Song et al., NSDI 2020.
    """
    if prefix_requests < LEAST_REQUESTS:
        raise InputError(f"{prefix_requests} requests are too few to train on; need at least {LEAST_REQUESTS}")
    features, prefix = page_features(trace), trace[:prefix_requests]
    now = np.arange(prefix_requests)
    ahead = next_use(prefix).astype(np.float64) - now
    ahead[next_use(prefix) == prefix_requests] *= 2.0
    target = np.log2(np.maximum(ahead, 1.0)).astype(np.float32)
    model = fit(features[:prefix_requests], target, BoostingConfig(num_trees=60, squares=True))
    predicted = np.exp2(np.minimum(model.score(features), 60.0)).astype(np.int64) + np.arange(trace.num_requests)
    predicted[:prefix_requests] = popu(prefix)
    return predicted


def threshold_bits(predicted: I64, num_frames: int, factor: float = 1.0) -> U8:
    """Return uint8[n]: 1 iff the next arrival is predicted more than ``factor * num_frames`` requests ahead."""
    if not factor > 0.0:
        raise InputError(f"the threshold factor must be > 0, got {factor}")
    ahead: npt.NDArray[np.int64] = predicted - np.arange(predicted.size)
    return (ahead > factor * num_frames).astype(np.uint8)
