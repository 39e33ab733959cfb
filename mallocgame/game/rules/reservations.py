"""Which residencies may go on to a later group, and so would like to keep their space. Numba kernels."""

from mallocgame.game.rules.state import AT_HOME, Groups, Movables, Places, Rules, State
from mallocgame.jit import part


@part
def drop_reservation(s: State, layer: int, place: int) -> None:
    """Forget that ``place`` may go on."""
    n = s.reservation_counts[layer]
    i = n - 1
    while i >= 0 and s.reservations[layer, i] != place:
        i -= 1
    if i >= 0:
        for j in range(i, n - 1):
            s.reservations[layer, j] = s.reservations[layer, j + 1]
            s.reservation_ends[layer, j] = s.reservation_ends[layer, j + 1]
        s.reservation_counts[layer] = n - 1


@part
def add_reservation(r: Rules, s: State, layer: int, place: int) -> None:
    """Note that ``place`` may go on to the next group that reads."""
    h = s.places[place, Places.LAST] + 1
    end = r.tensors[r.groups[place, Groups.TENSOR], Movables.END]
    while h < end and r.groups[h, Groups.HOME_ONLY] == AT_HOME:
        h += 1
    if h >= end or r.groups[h, Groups.READS] == 0 or r.groups[h, Groups.STEP] < s.places[place, Places.FINISH]:
        return
    n = s.reservation_counts[layer]
    while n > 0 and s.reservation_ends[layer, n - 1] > r.groups[h, Groups.STEP] + 1:
        s.reservations[layer, n] = s.reservations[layer, n - 1]
        s.reservation_ends[layer, n] = s.reservation_ends[layer, n - 1]
        n -= 1
    s.reservations[layer, n] = place
    s.reservation_ends[layer, n] = r.groups[h, Groups.STEP] + 1
    s.reservation_counts[layer] += 1


@part
def set_current(s: State, tensor: int, layer: int, place: int) -> None:
    """Let ``place`` (-1: none) be the residency in ``layer`` that may go on."""
    if s.current[tensor, layer] >= 0:
        drop_reservation(s, layer, s.current[tensor, layer])
    s.current[tensor, layer] = place
