"""Features of a request that any paging runtime can keep: how often and how recently its page was requested.

Features of the neighbours in the sequence are left out on purpose: they tell requests apart so well that the trees
learn the training prompts by heart (Mooncake trace, k = 1827: 131,460 faults with them, 130,883 without).

A page's history is one row of float64: its uses, its last request, the gaps before that, decayed counts of its uses.
"""

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.paging.structures import F64, I32
from mallocgame.baselines.paging.trace import PageTrace
from mallocgame.jit import jit

F32 = npt.NDArray[np.float32]
_NEVER = 40.0  # log2 of a gap that stands for "no earlier request"
_MOST_USES = 64  # a count that grows for ever would tell the time, and the trees would learn it by heart
_GAPS = 2  # gaps between a page's requests that are kept beside the newest
_DECAY_REQUESTS = (1 << 10, 1 << 14)  # half-lives of the exponentially decayed counters
_RATE_0, _RATE_1 = 1.0 / _DECAY_REQUESTS[0], 1.0 / _DECAY_REQUESTS[1]
_USES, _LAST, _GAP, _DECAYED, _COLUMNS = 0, 1, 2, 4, 6
NAMES = ("uses", "gap_1", "gap_2", "gap_3", *(f"decayed_uses_{half_life}" for half_life in _DECAY_REQUESTS))


def new_history(num_pages: int) -> F64:
    """Return float64[num_pages, 6], the history of pages that were never requested."""
    history = np.zeros((num_pages, _COLUMNS))
    history[:, _GAP : _GAP + _GAPS] = _NEVER
    return history


@jit
def write_row(history: F64, page: int, now: int, row: F32) -> None:
    """Write the features of a request for ``page`` as number ``now`` into ``row``[:6]."""
    uses, away = history[page, _USES], now - history[page, _LAST]
    seen = uses > 0.0
    row[0] = np.log2(1.0 + min(uses, _MOST_USES))
    row[1] = np.log2(1.0 + away) if seen else _NEVER
    row[2] = history[page, _GAP]
    row[3] = history[page, _GAP + 1]
    row[4] = history[page, _DECAYED] * np.exp2(-away * _RATE_0) if seen else 0.0
    row[5] = history[page, _DECAYED + 1] * np.exp2(-away * _RATE_1) if seen else 0.0


@jit
def remember(history: F64, page: int, now: int) -> None:
    """Note request number ``now`` in the history of ``page``."""
    uses, away = history[page, _USES], now - history[page, _LAST]
    seen = uses > 0.0
    history[page, _GAP + 1] = history[page, _GAP]
    history[page, _GAP] = np.log2(1.0 + away) if seen else _NEVER
    history[page, _DECAYED] = (history[page, _DECAYED] * np.exp2(-away * _RATE_0) if seen else 0.0) + 1.0
    history[page, _DECAYED + 1] = (history[page, _DECAYED + 1] * np.exp2(-away * _RATE_1) if seen else 0.0) + 1.0
    history[page, _LAST] = now
    history[page, _USES] = uses + 1.0


@jit
def _page_features(pages: I32, history: F64, out: F32) -> None:
    for i in range(pages.size):
        write_row(history, pages[i], i, out[i])
        remember(history, pages[i], i)


def page_features(trace: PageTrace) -> F32:
    """Return float32[n, f]: for each request what is known before it is served (no look-ahead), context included."""
    out = np.empty((trace.num_requests, len(NAMES)), np.float32)
    _page_features(trace.pages, new_history(trace.num_pages), out)
    return out if trace.context is None else np.hstack((out, trace.context.values))


def feature_names(trace: PageTrace) -> tuple[str, ...]:
    """Names of the columns of ``page_features(trace)``."""
    return NAMES if trace.context is None else NAMES + trace.context.names
