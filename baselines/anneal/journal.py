"""What a move did to the choice, so that it can be undone: one row of ``Choice.journal`` for each change."""

from mallocgame.baselines.anneal.copies import follow, schedule, unschedule
from mallocgame.baselines.anneal.space import enter, leave, set_span
from mallocgame.baselines.anneal.state import MAX_CHANGES, Choice, Tables
from mallocgame.baselines.anneal.timing import lay, lift, put, take, unserve
from mallocgame.jit import part

TAKEN, PUT, LIFTED, MOVED, OPENED, TIMED = range(6)


@part
def note(s: Choice, what: int, c: int) -> int:
    """Note what is about to happen to c, with its times, offset and slices; return the row, -1: there is no room."""
    n = s.changes[0]
    if n == MAX_CHANGES:
        return -1
    row = s.journal[n]
    row[0], row[1], row[2], row[3] = what, c, s.issue[c], s.back[c]
    row[4], row[5], row[6], row[7] = s.offset[c], s.cut[c], s.is_low[c], s.late[c]
    s.changes[0] = n + 1
    return int(n)


@part
def take_noted(p: Tables, s: Choice, c: int) -> bool:
    """Take c out; False: there is no room to note it."""
    if note(s, TAKEN, c) < 0:
        return False
    take(p, s, c)
    return True


@part
def put_noted(p: Tables, s: Choice, c: int) -> bool:
    """Choose c, whose times and offset are set; False: there is no room to note it."""
    if note(s, PUT, c) < 0:
        return False
    put(p, s, c)
    return True


@part
def lift_noted(p: Tables, s: Choice, c: int) -> bool:
    """Lift c; False: there is no room to note it."""
    if note(s, LIFTED, c) < 0:
        return False
    lift(p, s, c)
    return True


@part
def lay_noted(p: Tables, s: Choice, row: int, offset: int) -> None:
    """Lay what was lifted in a row at another offset; below 0: nowhere, so that it is taken out."""
    c = s.journal[row, 1]
    if offset < 0:
        s.journal[row, 0] = TAKEN
        unserve(p, s, c)
        return
    s.journal[row, 0] = MOVED
    s.offset[c] = offset
    lay(p, s, c)
    follow(p, s, c)


@part
def lay_later(p: Tables, s: Choice, row: int) -> None:
    """Lay what was lifted in a row at the offset, times and slices that it has now."""
    c = s.journal[row, 1]
    s.journal[row, 0] = TIMED
    unschedule(p, s, c)
    lay(p, s, c)
    schedule(p, s, c)
    follow(p, s, c)


@part
def begin_timing(p: Tables, s: Choice, c: int) -> bool:
    """Let c, which is chosen, get other times, offset or slices until ``end_timing``; False: no room to note it."""
    if note(s, OPENED, c) < 0:
        return False
    unschedule(p, s, c)
    leave(s, c)
    return True


@part
def end_timing(p: Tables, s: Choice, c: int) -> bool:
    """Let the new times of c, whose change was noted last, count; True."""
    s.journal[s.changes[0] - 1, 0] = TIMED
    set_times(p, s, c)
    return True


@part
def set_times(p: Tables, s: Choice, c: int) -> None:
    """Let the times, offset and slices of c count."""
    set_span(p, s, c)
    enter(s, c)
    schedule(p, s, c)
    follow(p, s, c)


@part
def undo(p: Tables, s: Choice) -> None:
    """Undo what is noted, the latest first."""
    for n in range(s.changes[0] - 1, -1, -1):
        row = s.journal[n]
        what, c = row[0], row[1]
        if what == PUT:
            take(p, s, c)
        elif what == TIMED:
            unschedule(p, s, c)
        if what in (TIMED, MOVED):
            leave(s, c)
        s.issue[c], s.back[c], s.offset[c] = row[2], row[3], row[4]
        s.cut[c], s.is_low[c], s.late[c] = row[5], row[6], row[7]
        if what == TAKEN:
            set_span(p, s, c)
            put(p, s, c)
        elif what == LIFTED:
            lay(p, s, c)
            follow(p, s, c)
        elif what == MOVED:
            enter(s, c)
        elif what in (OPENED, TIMED):
            set_times(p, s, c)
    s.changes[0] = 0
