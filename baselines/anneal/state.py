"""What annealing's kernels work on: candidates as arrays, and what is chosen of them."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

BORN, COPIED, HELD_OVER, FOREVER = 0, 1, 2, 3  # how a residency begins; FOREVER: it never ends either
ROW = 7  # columns of a saved choice: candidate, issue, back, offset, cut, is_low, late


class Tables(NamedTuple):
    """What does not change: int64[C] per candidate, int64[U] per use, float64 and int64 per step, layer and link."""

    tensor: I64
    kin_first: I64  # the first candidate of its tensor, and
    kin_end: I64  # the one after the last: they stand together
    layer: I64
    sliceable: I64  # 0: its copy may not be made in two slices
    base: I64  # the layer that it is copied from and written back to: 0, or where it leans on another candidate
    kind: I64
    first_use: I64
    last_use: I64
    last_write: I64  # the last use that it serves and that writes, -1: none
    start: I64
    latest: I64
    due: I64
    end: I64
    back_issue: I64
    back_due: I64
    hull_start: I64  # the repeating loops that it touches begin here (T + 1: none) and
    hull_end: I64  # end here: what it leans on is there all the while
    size: I64  # rounded up to the layer's alignment
    bytes: I64
    link: I64
    in_seconds: F64  # link seconds of one copy in, and of one write-back
    byte_seconds: F64  # of the link
    latency: F64
    use_step: I64
    use_bytes: I64
    compute: F64  # float64[T]
    trips: I64  # int64[T]
    context: I64  # int64[T + 1]
    context_trips: I64  # int64[T + 1]
    layer_speed: F64
    alignment: I64  # int64[L]
    capacity: I64  # int64[L], rounded down to alignment
    link_layer: I64
    max_in_flight: I64
    cumulative: F64  # float64[C], running sum of the weights with which candidates are drawn


class Choice(NamedTuple):
    """What is chosen now: ``chosen[:number[0]]``, ascending, so that ties on a link never depend on the past.

    Candidates of one tensor are neighbours in that order. A copy in two slices has ``cut`` > 0, the byte at which the
    tensor is cut; the part that is issued at ``late`` is the one above it, or below it where ``is_low`` is 1.
    """

    is_chosen: Bool  # bool[C]
    chosen: I64
    number: I64  # int64[1]
    issue: I64
    back: I64
    offset: I64
    cut: I64
    is_low: I64
    late: I64
    begin: I64  # int64[C, 2], the steps that each part occupies: the residency, and a reload for the next run
    until: I64  # int64[C, 2], exclusive
    layer_bytes: I64  # int64[T, L]
    elapsed: F64
    idle: F64
    total: F64  # float64[1]


def copy_choice(s: Choice) -> Choice:
    """Return an independent copy."""
    return Choice._make(array.copy() for array in s)
