"""What annealing's kernels work on: candidates as arrays, and what is chosen of them."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

BORN, COPIED, HELD_OVER, FOREVER = 0, 1, 2, 3  # how a residency begins; FOREVER: it never ends either
MAX_CHANGES = 32  # of one move
ROW = 7  # columns of a saved choice: candidate, issue, back, offset, cut, is_low, late


class Tables(NamedTuple):
    """What does not change: int64[C] per candidate, int64[U] per use, float64 and int64 per step, layer and link."""

    tensor: I64
    kin_first: I64  # the first candidate of its tensor, and
    kin_end: I64  # the one after the last: they stand together
    layer: I64
    sliceable: I64  # 0: its copy may not be made in two slices
    again_start: I64  # it is copied again for the next iteration of a loop: from this boundary on
    again_due: I64  # and complete by this one, which is the last of the loop's body; -1: it is not
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
    weight: F64  # float64[C], how often candidates are drawn, before anything is chosen


class Choice(NamedTuple):
    """What is chosen now: ``chosen[:number[0]]``, ascending, so that ties on a link never depend on the past.

    Candidates of one tensor are neighbours in that order. A copy in two slices has ``cut`` > 0, the byte at which the
    tensor is cut; the part that is issued at ``late`` is the one above it, or below it where ``is_low`` is 1.
    What is copied again for a loop's next iteration, whole, is so at ``late``.
    M is the number of candidates that can be chosen at once, K of links; ``copies`` says how copies are kept.
    """

    is_chosen: Bool  # bool[C]
    chosen: I64
    number: I64  # int64[1], how many
    by_offset: I64  # int64[M], or int64[2M + B * BUCKET_ROOM]: lists of where they are, ascending, see ``space``
    listed: I64  # int64[1], or int64[2 + B], how many are in each list
    bucket_bits: I64  # int64[1], log2 of the steps in a bucket
    is_long: Bool  # bool[C], whether it is in the list of long stays
    issue: I64
    back: I64
    offset: I64
    cut: I64
    is_low: I64
    late: I64
    begin: I64  # int64[C, 2], the steps that each part occupies: the residency, and what comes again for the next run
    until: I64  # int64[C, 2], exclusive
    span: I64  # int64[C], the first of them packed: begin * 2**32 + until * 2 + (1 if there is another)
    layer_bytes: I64  # int64[T, L]
    elapsed: F64
    idle: F64
    total: F64  # float64[1]
    running: F64  # float64[1], the sum of ``elapsed``
    copy_issue: I64  # int64[3C], of each copy: -1 where it is not made
    copy_due: I64  # int64[3C]
    copy_work: F64  # float64[3C], link seconds
    order: I64  # int64[2K, 2M], keys of each queue's copies as they are issued
    by_due: I64  # int64[2K, 2M], keys of the same copies as they are due
    queued: I64  # int64[2K], copies in each queue
    window: I64  # int64[2], the first and the last boundary that changed since ``keep``
    heads: I64  # int64[T + 2, 2K], the copy at the head of each queue before each boundary, -1: none
    lefts: F64  # float64[T + 2, 2K], what is left of it in link seconds
    waited: F64  # float64[T + 2], seconds waited before each boundary
    new_heads: I64  # the same for what was judged last, from boundary stretch[0] to stretch[1]
    new_lefts: F64
    new_waited: F64
    stretch: I64  # int64[2]
    head: I64  # int64[2K], scratch of the walk: where each queue begins
    tail: I64  # int64[2K], and ends, of what is issued
    due: I64  # int64[2K], where in ``by_due`` begins what is not waited for yet
    left: F64  # float64[2K], link seconds left of the copy at its head
    drawn: F64  # float64[C], running sum of the weights with which candidates are drawn now
    could_save: F64  # float64[U + 1], scratch of ``weigh``
    near: I64  # int64[2, M, 3], scratch: neighbours
    journal: I64  # int64[MAX_CHANGES, 8], what a move did: see ``journal``
    changes: I64  # int64[1], how many rows of it


def copy_choice(s: Choice) -> Choice:
    """Return an independent copy."""
    return Choice._make(array.copy() for array in s)
