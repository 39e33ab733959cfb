"""A cheap online one-bit predictor: sampled optimum and saturating counters, no training run and no look-ahead.

A sample of the pages (one in ``s``) is replayed against the optimum of a cache scaled down by ``s``: when such a page
comes back, it would have been a hit iff the occupancy of every moment since its last request is below the capacity
(OPTgen). The verdict moves a 3-bit counter, found by the signature that the page's last request had: how often it was
used, how long ago, whether the request before it was to a new page and how long the run it stands in is. A page
that leaves the window without coming back counts as a miss. The bit is 1 where the counter is low.

Source: Jain and Lin, Back to the Future: Leveraging Belady's Algorithm for Improved Cache Replacement, ISCA 2016.
"""

import numpy as np

from mallocgame.baselines.paging.structures import I32, U8
from mallocgame.baselines.paging.trace import PageTrace
from mallocgame.errors import InputError
from mallocgame.jit import jit

_SAMPLED_FRAMES = 256  # the scaled-down cache has at most so many
_WINDOW_FACTOR = 8  # window length in sampled requests, over the scaled capacity
_USES, _GAPS, _RUNS = 4, 8, 8  # buckets of a signature
_KEEP_FROM, _HIGHEST = 4, 7  # of a counter


@jit
def _online_bits(pages: I32, num_pages: int, capacity: int, sample: int, window: int, bits: U8) -> None:
    counters = np.full(_USES * _GAPS * _RUNS * 2, _KEEP_FROM, np.uint8)
    uses, last = np.zeros(num_pages, np.uint8), np.zeros(num_pages, np.int64)
    occupancy, owner = np.zeros(window, np.int32), np.full(window, -1, np.int32)  # rings over sampled requests
    owner_signature, position = np.zeros(window, np.int32), np.full(num_pages, -1, np.int64)
    clock, run = 0, 0
    was_new = False
    for i in range(pages.size):
        page = pages[i]
        new = uses[page] == 0
        run = 0 if (new != was_new) else run + 1
        gap = 0
        if not new:
            distance = i - last[page]
            while distance > 4 and gap < _GAPS - 1:
                distance >>= 2
                gap += 1
        length, rest = 0, run
        while rest > 0 and length < _RUNS - 1:
            rest >>= 1
            length += 1
        signature = ((min(uses[page], _USES - 1) * _GAPS + gap) * _RUNS + length) * 2 + (1 if was_new else 0)
        bits[i] = 1 if counters[signature] < _KEEP_FROM else 0
        was_new = new
        last[page] = i
        uses[page] = min(uses[page] + 1, 255)
        mixed = np.uint64(page + 1) * np.uint64(0x9E3779B97F4A7C15)
        if (mixed >> np.uint64(40)) % np.uint64(sample) != 0:
            continue
        at = clock % window
        old = owner[at]
        if old >= 0 and position[old] == clock - window:  # it leaves the window without having come back
            position[old] = -1
            if counters[owner_signature[at]] > 0:
                counters[owner_signature[at]] -= 1
        since = position[page]
        if since >= 0:
            fits = True
            for j in range(since, clock):
                if occupancy[j % window] >= capacity:
                    fits = False
                    break
            trained = owner_signature[since % window]
            if fits:
                for j in range(since, clock):
                    occupancy[j % window] += 1
                if counters[trained] < _HIGHEST:
                    counters[trained] += 1
            elif counters[trained] > 0:
                counters[trained] -= 1
        occupancy[at], owner[at], owner_signature[at], position[page] = 0, page, signature, clock
        clock += 1


def online_bits(trace: PageTrace, num_frames: int) -> U8:
    """Return uint8[n] discard bits, each from requests before it alone; one pass, O(num_pages) memory."""
    if num_frames < 1:
        raise InputError(f"the cache needs at least 1 frame, got k = {num_frames}")
    sample = max(1, num_frames // _SAMPLED_FRAMES)
    capacity = max(1, num_frames // sample)
    bits = np.empty(trace.num_requests, np.uint8)
    _online_bits(trace.pages, trace.num_pages, capacity, sample, _WINDOW_FACTOR * capacity, bits)
    return bits
