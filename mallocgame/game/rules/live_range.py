"""How long a residency must last, which groups it then serves, and what must be written back. Numba kernels."""

from typing import NamedTuple

from mallocgame.game.rules.state import (
    END,
    FIRST,
    HOISTABLE,
    HOME_ONLY,
    IS_OUTPUT,
    LOOP,
    PARENT,
    READS,
    START,
    STEP,
    STEPS,
    STOP,
    TENSOR,
    WRITES,
    Rules,
)
from mallocgame.jit import kernel


class Reach(NamedTuple):
    """How long a residency must last, which groups it then serves, and what must be written back."""

    ok: bool
    end: int  # it lasts at least until here
    last: int  # last group served
    writer: int  # last group that writes in it, -1: none
    needed: bool  # its contents must reach layer 0
    back_from: int  # earliest boundary of issue
    back_by: int  # latest boundary of completion
    back_exit: int  # boundary after the loops that need no write-back in every iteration


@kernel
def entered_loop(r: Rules, step: int, since: int) -> int:
    """Return the outermost loop around ``step`` that contents complete at boundary ``since`` enter; -1: none."""
    found = -1
    loop = r.steps[step, LOOP]
    while loop >= 0 and since <= r.loops[loop, START]:
        found = loop
        loop = r.loops[loop, PARENT]
    return found


@kernel
def first_in_loop(r: Rules, tensor: int, group: int, loop: int) -> int:
    """Return the first group of ``tensor`` in ``loop``, which ``group`` is in."""
    while group > r.tensors[tensor, FIRST] and r.groups[group - 1, STEP] >= r.loops[loop, START]:
        group -= 1
    return group


@kernel
def cover(r: Rules, group: int, since: int) -> tuple[bool, int, int]:
    """Return (possible, end, last group) of serving ``group`` from contents that are complete at ``since``.

    Contents that enter a loop must be in the same place at its end: they serve every group of the loop.
    """
    loop = entered_loop(r, r.groups[group, STEP], since)
    if loop < 0:
        return True, r.groups[group, STEP] + 1, group
    tensor = r.groups[group, TENSOR]
    first = first_in_loop(r, tensor, group, loop)
    writes = False
    at_home = False
    last = group
    k = first
    while k < r.tensors[tensor, END] and r.groups[k, STEP] < r.loops[loop, STOP]:
        writes = writes or r.groups[k, WRITES] == 1
        at_home = at_home or r.groups[k, HOME_ONLY] == 1
        if r.groups[k, HOME_ONLY] == 2:
            return False, 0, 0
        if r.groups[k, HOME_ONLY] == 0 and k > last:
            last = k
        k += 1
    if writes and (at_home or first != group):
        return False, 0, 0
    return True, r.loops[loop, STOP], last


@kernel
def exposure(r: Rules, writer: int, last: int, since: int) -> tuple[bool, int, int, int]:
    """Return (needed, from, by, exit): what layer 0 must get of what ``writer`` writes, if all after ``last`` is there.

    The residency is complete at ``since`` and serves the groups up to ``last``. Follows the schedule and back edges.
    """
    tensor = r.groups[writer, TENSOR]
    step = r.groups[writer, STEP]
    end = r.tensors[tensor, END]
    loop = entered_loop(r, step, since)
    begin = step + 1
    outer = r.steps[step, LOOP]
    if loop >= 0:
        begin = r.loops[loop, STOP]
        outer = r.loops[loop, PARENT]
    by = r.dims[STEPS]
    exit_at = begin
    inside = False
    h = writer + 1
    while h <= last and r.groups[h, HOME_ONLY] == 0:
        h += 1
    while outer >= 0:
        if h < end and r.groups[h, STEP] < r.loops[outer, STOP]:
            break
        if r.groups[first_in_loop(r, tensor, writer, outer), READS] == 1:
            inside = True
            by = min(by, r.loops[outer, STOP] - 1)
        elif not inside:
            exit_at = r.loops[outer, STOP]
        outer = r.loops[outer, PARENT]
    needed = inside
    if h < end:
        if r.groups[h, READS] == 1:
            needed = True
            by = min(by, r.groups[h, STEP])
    elif outer < 0 and r.tensors[tensor, IS_OUTPUT] == 1:
        needed = True
    return needed, begin, by, exit_at


@kernel
def read_again(r: Rules, writer: int, next_writer: int, since: int) -> bool:
    """Whether a loop that ends between two writers reads what the first wrote, in its next iteration, in layer 0."""
    tensor = r.groups[writer, TENSOR]
    step = r.groups[writer, STEP]
    entered = entered_loop(r, step, since)
    loop = r.steps[step, LOOP] if entered < 0 else r.loops[entered, PARENT]
    while loop >= 0 and r.loops[loop, STOP] <= r.groups[next_writer, STEP]:
        first = first_in_loop(r, tensor, writer, loop)
        if r.groups[first, READS] == 1:
            return True
        loop = r.loops[loop, PARENT]
    return False


@kernel
def reach(r: Rules, group: int, since: int, writer: int) -> Reach:
    """Return how a residency that serves ``group`` goes on; ``writer`` is the last group that wrote in it before."""
    bad = Reach(False, 0, 0, -1, False, 0, 0, 0)
    num_steps = r.dims[STEPS]
    stop = r.tensors[r.groups[group, TENSOR], END]
    h = group
    last = group - 1
    end = 0
    while True:
        ok, e, new_last = cover(r, h, since)
        if not ok:
            return bad
        for k in range(last + 1, new_last + 1):
            if r.groups[k, WRITES] == 1:
                if r.groups[k, HOME_ONLY] != 0:
                    return bad
                writer = k
        end = max(end, e)
        last = new_last
        needed, begin, by, exit_at = False, 0, 0, 0
        least = end
        if writer >= 0:
            needed, begin, by, exit_at = exposure(r, writer, last, since)
            if needed:
                if by < begin:
                    return bad
                least = max(end, min(begin + 1, num_steps))
        h = last + 1
        while h < stop and r.groups[h, HOME_ONLY] == 1:
            h += 1
        if h >= stop or r.groups[h, STEP] >= least:
            return Reach(True, least, last, writer, needed, begin, by, exit_at)
        if r.groups[h, HOME_ONLY] == 2:
            return bad


@kernel
def may_hoist(r: Rules, group: int, since: int, finish: int) -> bool:
    """Whether a copy complete at ``since`` stays out of loops that it may not be copied in before."""
    tensor = r.groups[group, TENSOR]
    if r.tensors[tensor, HOISTABLE] == 1:
        return True
    k = group
    while k > r.tensors[tensor, FIRST] and r.groups[k - 1, STEP] >= since:
        k -= 1
    while k < r.tensors[tensor, END] and r.groups[k, STEP] < finish:
        if r.groups[k, STEP] >= since and entered_loop(r, r.groups[k, STEP], since) >= 0:
            return False
        k += 1
    return True
