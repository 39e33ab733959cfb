"""Which residencies may go on to a later group, and so would like to keep their space. Numba kernels."""

from mallocgame.game.rules.state import END, FINISH, HOME_ONLY, LAST, READS, STEP, TENSOR, Rules, State
from mallocgame.jit import kernel


@kernel
def drop_wish(s: State, layer: int, place: int) -> None:
    """Forget that ``place`` may go on."""
    n = s.wish_counts[layer]
    i = n - 1
    while i >= 0 and s.wishes[layer, i] != place:
        i -= 1
    if i >= 0:
        for j in range(i, n - 1):
            s.wishes[layer, j] = s.wishes[layer, j + 1]
            s.wish_ends[layer, j] = s.wish_ends[layer, j + 1]
        s.wish_counts[layer] = n - 1


@kernel
def add_wish(r: Rules, s: State, layer: int, place: int) -> None:
    """Note that ``place`` may go on to the next group that reads."""
    h = s.places[place, LAST] + 1
    end = r.tensors[r.groups[place, TENSOR], END]
    while h < end and r.groups[h, HOME_ONLY] == 1:
        h += 1
    if h >= end or r.groups[h, READS] == 0 or r.groups[h, STEP] < s.places[place, FINISH]:
        return
    n = s.wish_counts[layer]
    while n > 0 and s.wish_ends[layer, n - 1] > r.groups[h, STEP] + 1:
        s.wishes[layer, n] = s.wishes[layer, n - 1]
        s.wish_ends[layer, n] = s.wish_ends[layer, n - 1]
        n -= 1
    s.wishes[layer, n] = place
    s.wish_ends[layer, n] = r.groups[h, STEP] + 1
    s.wish_counts[layer] += 1


@kernel
def set_current(s: State, tensor: int, layer: int, place: int) -> None:
    """Let ``place`` (-1: none) be the residency in ``layer`` that may go on."""
    if s.current[tensor, layer] >= 0:
        drop_wish(s, layer, s.current[tensor, layer])
    s.current[tensor, layer] = place
