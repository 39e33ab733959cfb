"""The space of each layer: what is taken when, and where there is a gap. Numba kernels."""

import numpy as np

from mallocgame.game.rules.state import HELD_OVER, Groups, Layers, Movables, Moves, Places, Rules, State
from mallocgame.game.rules.views import I64
from mallocgame.jit import part


@part
def settle(s: State, keep: bool) -> None:
    """Let the offsets that the last plan would change count (``keep``), or forget them."""
    for i in range(s.moved_count[0]):
        place = s.moved[i]
        if keep:
            s.places[place, Places.OFFSET] = s.planned[place]
        else:
            s.planned[place] = s.places[place, Places.OFFSET]
    s.moved_count[0] = 0


@part
def extent(s: State, place: int) -> tuple[int, int, int]:
    """Return (begin, end, reload_step): a residency takes space over [begin, end), and from reload_step on if >= 0."""
    reload_step = s.copies[2 * place, Moves.ISSUE] if s.places[place, Places.ENTRY] == HELD_OVER else np.int64(-1)
    return int(max(s.places[place, Places.BEGIN], 0)), int(s.places[place, Places.FINISH]), int(reload_step)


@part
def meet(a: tuple[int, int, int], b: tuple[int, int, int]) -> bool:
    """Whether two extents have a step in common."""
    if a[0] < b[1] and b[0] < a[1]:
        return True
    if a[2] >= 0 and (b[1] > a[2] or b[2] >= 0):
        return True
    return b[2] >= 0 and a[1] > b[2]


@part
def rect_begin(s: State, rect: int) -> int:
    """Return the first step of a rectangle: residency ``rect // 2``, or its reload if odd."""
    if rect % 2:
        return int(s.copies[rect - 1, Moves.ISSUE])
    return int(max(s.places[rect // 2, Places.BEGIN], 0))


@part
def put_sorted(offsets: I64, tops: I64, count: int, offset: int, top: int) -> None:
    """Insert [offset, top) into ``count`` intervals that are sorted by offset."""
    j = count
    while j > 0 and offsets[j - 1] > offset:
        offsets[j] = offsets[j - 1]
        tops[j] = tops[j - 1]
        j -= 1
    offsets[j] = offset
    tops[j] = top


@part
def tightest(offsets: I64, tops: I64, count: int, size: int, unit: int, capacity: int, high: bool) -> int:
    """Return an aligned offset in the tightest gap between ``count`` intervals that holds ``size``, -1: none.

    The lowest in that gap, or with ``high`` the highest.
    """
    free = np.int64(0)
    answer = np.int64(-1)
    slack = np.int64(1) << 62
    for i in range(count + 1):
        until = offsets[i] if i < count else capacity
        if until - free - size >= 0 and until - free - size < slack:
            slack = until - free - size
            answer = free
        if i < count and tops[i] > free:
            free = (tops[i] + unit - 1) // unit * unit
    return int(answer + slack // unit * unit if high and answer >= 0 else answer)


@part
def has_room(r: Rules, s: State, layer: int, size: int, begin: int, end: int) -> bool:
    """Whether ``size`` bytes are free in every step of [begin, end), in one piece or not."""
    room = r.layers[layer, Layers.CAPACITY] - size
    t = begin
    while t < end and s.occupied[t, layer] <= room:
        t += 1
    return bool(t >= end)


@part
def free_until(r: Rules, s: State, layer: int, size: int, offset: int, begin: int, own: int) -> int:
    """Return the first step from ``begin`` on at which another residency than ``own`` takes part of the space."""
    until = r.num_steps
    for i in range(s.rect_counts[layer] - 1, -1, -1):
        if s.rect_ends[layer, i] <= begin:
            break
        rect = s.rects[layer, i]
        place = rect // 2
        if place == own:
            continue
        other = s.planned[place]
        if other < offset + size and offset < other + r.tensors[r.groups[place, Groups.TENSOR], Movables.SIZE]:
            until = min(until, rect_begin(s, rect))
    return int(max(until, begin))


@part
def add_rect(s: State, layer: int, rect: int, begin: int, end: int, size: int) -> None:
    """Take space over [begin, end)."""
    n = s.rect_counts[layer]
    while n > 0 and s.rect_ends[layer, n - 1] > end:
        s.rects[layer, n] = s.rects[layer, n - 1]
        s.rect_ends[layer, n] = s.rect_ends[layer, n - 1]
        n -= 1
    s.rects[layer, n] = rect
    s.rect_ends[layer, n] = end
    s.rect_counts[layer] += 1
    for t in range(begin, end):
        s.occupied[t, layer] += size


@part
def drop_rect(s: State, layer: int, rect: int, begin: int, end: int, size: int) -> None:
    """Undo ``add_rect``."""
    n = s.rect_counts[layer] - 1
    carried = s.rects[layer, n]
    carried_end = s.rect_ends[layer, n]
    while carried != rect:
        n -= 1
        carried, s.rects[layer, n] = s.rects[layer, n], carried
        carried_end, s.rect_ends[layer, n] = s.rect_ends[layer, n], carried_end
    s.rect_counts[layer] -= 1
    for t in range(begin, end):
        s.occupied[t, layer] -= size


@part
def stretch(r: Rules, s: State, place: int, finish: int) -> None:
    """Let a residency end at ``finish``."""
    size = r.tensors[r.groups[place, Groups.TENSOR], Movables.SIZE]
    if s.places[place, Places.FINISH] != finish:
        begin = max(s.places[place, Places.BEGIN], 0)
        drop_rect(s, s.places[place, Places.LAYER], 2 * place, begin, s.places[place, Places.FINISH], size)
        s.places[place, Places.FINISH] = finish
        add_rect(s, s.places[place, Places.LAYER], 2 * place, begin, finish, size)
