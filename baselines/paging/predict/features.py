"""Features of a request that any paging runtime can keep: how often and how recently its page was requested.

Features of the neighbours in the sequence are left out on purpose: they tell requests apart so well that the trees
learn the training prompts by heart (Mooncake trace, k = 1827: 131,460 faults with them, 130,883 without).
"""

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.paging.structures import F64, I32, I64
from mallocgame.baselines.paging.trace import PageTrace
from mallocgame.jit import jit

F32 = npt.NDArray[np.float32]
_NEVER = 40.0  # log2 of a gap that stands for "no earlier request"
_MOST_USES = 64  # a count that grows for ever would tell the time, and the trees would learn it by heart
HISTORY = 3  # gaps between a page's last requests
_DECAY_REQUESTS = (1 << 10, 1 << 14)  # half-lives of the exponentially decayed counters
NAMES = (
    "uses",
    *(f"gap_{j + 1}" for j in range(HISTORY)),
    *(f"decayed_uses_{half_life}" for half_life in _DECAY_REQUESTS),
)


@jit
def _page_features(pages: I32, last: I64, gaps: F32, uses: I32, decayed: F64, rates: F64, out: F32) -> None:
    for i in range(pages.size):
        page = pages[i]
        seen = uses[page] > 0
        gap = np.log2(1.0 + i - last[page]) if seen else _NEVER
        out[i, 0] = np.log2(1.0 + min(uses[page], _MOST_USES))
        out[i, 1] = gap
        for j in range(gaps.shape[1]):
            out[i, 2 + j] = gaps[page, j]
        column = 2 + gaps.shape[1]
        for j in range(rates.size):
            weight = decayed[page, j] * np.exp2(-(i - last[page]) * rates[j]) if seen else 0.0
            out[i, column + j] = weight
            decayed[page, j] = weight + 1.0
        for j in range(gaps.shape[1] - 1, 0, -1):
            gaps[page, j] = gaps[page, j - 1]
        if gaps.shape[1] > 0:
            gaps[page, 0] = gap
        last[page] = i
        uses[page] += 1


def page_features(trace: PageTrace) -> F32:
    """Return float32[n, f]: for each request what is known before it is served (no look-ahead), context included."""
    num = trace.num_pages
    out = np.empty((trace.num_requests, len(NAMES)), np.float32)
    rates = 1.0 / np.array(_DECAY_REQUESTS, np.float64)
    _page_features(
        trace.pages,
        np.zeros(num, np.int64),
        np.full((num, HISTORY - 1), _NEVER, np.float32),
        np.zeros(num, np.int32),
        np.zeros((num, rates.size)),
        rates,
        out,
    )
    return out if trace.context is None else np.hstack((out, trace.context.values))


def feature_names(trace: PageTrace) -> tuple[str, ...]:
    """Names of the columns of ``page_features(trace)``."""
    return NAMES if trace.context is None else NAMES + trace.context.names
