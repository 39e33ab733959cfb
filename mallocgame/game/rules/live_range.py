"""How long a residency must last, which groups it then serves, and what must be written back. Numba kernels."""

from typing import NamedTuple

from mallocgame.game.rules.state import ANYWHERE, AT_HOME, MIXED, Groups, Loops, Movables, Rules, Steps
from mallocgame.jit import part


class LiveRange(NamedTuple):
    """How long a residency must last, which groups it then serves, and what must be written back."""

    ok: bool
    end: int  # it lasts at least until here
    last: int  # last group served
    writer: int  # last group that writes in it, -1: none
    needed: bool  # its contents must reach layer 0
    back_from: int  # earliest boundary of issue
    back_by: int  # latest boundary of completion
    back_exit: int  # boundary after the loops that need no write-back in every iteration


@part
def entered_loop(r: Rules, step: int, since: int) -> int:
    """Return the outermost loop around ``step`` that contents complete at boundary ``since`` enter; -1: none."""
    found = -1
    loop = r.steps[step, Steps.LOOP]
    while loop >= 0 and since <= r.loops[loop, Loops.START]:
        found = loop
        loop = r.loops[loop, Loops.PARENT]
    return found


@part
def first_in_loop(r: Rules, tensor: int, group: int, loop: int) -> int:
    """Return the first group of ``tensor`` in ``loop``, which ``group`` is in."""
    while group > r.tensors[tensor, Movables.FIRST] and r.groups[group - 1, Groups.STEP] >= r.loops[loop, Loops.START]:
        group -= 1
    return group


@part
def extend(r: Rules, group: int, since: int) -> tuple[bool, int, int]:
    """Return (possible, end, last group) of serving ``group`` from contents that are complete at ``since``.

    Contents that enter a loop must be in the same place at its end: they serve every group of the loop.
    """
    loop = entered_loop(r, r.groups[group, Groups.STEP], since)
    if loop < 0:
        return True, r.groups[group, Groups.STEP] + 1, group
    tensor = r.groups[group, Groups.TENSOR]
    first = first_in_loop(r, tensor, group, loop)
    writes = False
    at_home = False
    last = group
    k = first
    while k < r.tensors[tensor, Movables.END] and r.groups[k, Groups.STEP] < r.loops[loop, Loops.STOP]:
        writes = writes or r.groups[k, Groups.WRITES] == 1
        at_home = at_home or r.groups[k, Groups.HOME_ONLY] == AT_HOME
        if r.groups[k, Groups.HOME_ONLY] == MIXED:
            return False, 0, 0
        if r.groups[k, Groups.HOME_ONLY] == ANYWHERE and k > last:
            last = k
        k += 1
    if writes and (at_home or first != group):
        return False, 0, 0
    return True, r.loops[loop, Loops.STOP], last


@part
def write_back_window(r: Rules, writer: int, last: int, since: int) -> tuple[bool, int, int, int]:
    """Return (needed, from, by, exit): what layer 0 must get of what ``writer`` writes, if all after ``last`` is there.

    The residency is complete at ``since`` and serves the groups up to ``last``. Follows the schedule and back edges.
    """
    tensor = r.groups[writer, Groups.TENSOR]
    step = r.groups[writer, Groups.STEP]
    end = r.tensors[tensor, Movables.END]
    loop = entered_loop(r, step, since)
    begin = step + 1
    outer = r.steps[step, Steps.LOOP]
    if loop >= 0:
        begin = r.loops[loop, Loops.STOP]
        outer = r.loops[loop, Loops.PARENT]
    by = r.num_steps
    exit_at = begin
    inside = False
    h = writer + 1
    while h <= last and r.groups[h, Groups.HOME_ONLY] == ANYWHERE:
        h += 1
    while outer >= 0:
        if h < end and r.groups[h, Groups.STEP] < r.loops[outer, Loops.STOP]:
            break
        if r.groups[first_in_loop(r, tensor, writer, outer), Groups.READS] == 1:
            inside = True
            by = min(by, r.loops[outer, Loops.STOP] - 1)
        elif not inside:
            exit_at = r.loops[outer, Loops.STOP]
        outer = r.loops[outer, Loops.PARENT]
    needed = inside
    if h < end:
        if r.groups[h, Groups.READS] == 1:
            needed = True
            by = min(by, r.groups[h, Groups.STEP])
    elif outer < 0 and r.tensors[tensor, Movables.IS_OUTPUT] == 1:
        needed = True
    return needed, begin, by, exit_at


@part
def read_again(r: Rules, writer: int, next_writer: int, since: int) -> bool:
    """Whether a loop that ends between two writers reads what the first wrote, in its next iteration, in layer 0."""
    tensor = r.groups[writer, Groups.TENSOR]
    step = r.groups[writer, Groups.STEP]
    entered = entered_loop(r, step, since)
    loop = r.steps[step, Steps.LOOP] if entered < 0 else r.loops[entered, Loops.PARENT]
    while loop >= 0 and r.loops[loop, Loops.STOP] <= r.groups[next_writer, Groups.STEP]:
        first = first_in_loop(r, tensor, writer, loop)
        if r.groups[first, Groups.READS] == 1:
            return True
        loop = r.loops[loop, Loops.PARENT]
    return False


@part
def live_range(r: Rules, group: int, since: int, writer: int) -> LiveRange:
    """Return how a residency that serves ``group`` goes on; ``writer`` is the last group that wrote in it before."""
    bad = LiveRange(False, 0, 0, -1, False, 0, 0, 0)
    num_steps = r.num_steps
    stop = r.tensors[r.groups[group, Groups.TENSOR], Movables.END]
    h = group
    last = group - 1
    end = 0
    while True:
        ok, e, new_last = extend(r, h, since)
        if not ok:
            return bad
        for k in range(last + 1, new_last + 1):
            if r.groups[k, Groups.WRITES] == 1:
                if r.groups[k, Groups.HOME_ONLY] != ANYWHERE:
                    return bad
                writer = k
        end = max(end, e)
        last = new_last
        needed, begin, by, exit_at = False, 0, 0, 0
        least = end
        if writer >= 0:
            needed, begin, by, exit_at = write_back_window(r, writer, last, since)
            if needed:
                if by < begin:
                    return bad
                least = max(end, min(begin + 1, num_steps))
        h = last + 1
        while h < stop and r.groups[h, Groups.HOME_ONLY] == AT_HOME:
            h += 1
        if h >= stop or r.groups[h, Groups.STEP] >= least:
            return LiveRange(True, least, last, writer, needed, begin, by, exit_at)
        if r.groups[h, Groups.HOME_ONLY] == MIXED:
            return bad


@part
def may_hoist(r: Rules, group: int, since: int, finish: int) -> bool:
    """Whether a copy complete at ``since`` stays out of loops that it may not be copied in before."""
    tensor = r.groups[group, Groups.TENSOR]
    if r.tensors[tensor, Movables.HOISTABLE] == 1:
        return True
    k = group
    while k > r.tensors[tensor, Movables.FIRST] and r.groups[k - 1, Groups.STEP] >= since:
        k -= 1
    while k < r.tensors[tensor, Movables.END] and r.groups[k, Groups.STEP] < finish:
        if r.groups[k, Groups.STEP] >= since and entered_loop(r, r.groups[k, Groups.STEP], since) >= 0:
            return False
        k += 1
    return True
