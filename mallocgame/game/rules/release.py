"""Give back the space that finished write-backs keep. Numba kernels."""

from mallocgame.game.rules.live_range import live_range
from mallocgame.game.rules.occupancy import stretch
from mallocgame.game.rules.state import Boundaries, Moves, Places, Rules, State
from mallocgame.game.rules.transfers import head_position, set_due
from mallocgame.jit import part

LOOK_BACK = 64  # finished write-backs that are looked at


@part
def release(r: Rules, s: State, before: int, now: int) -> None:
    """Let write-backs that are complete by boundary ``now`` be due then; nothing if the game stays at one step.

    When a write-back is placed, the steps after it are undecided. Layer 0 serves them, which leaves the link no time,
    and it seems to need its space for long. Once they are decided, it turns out to be done earlier.
    """
    if now == before:
        return
    for link in range(r.num_links):
        queue = 2 * link + 1
        done = head_position(s, queue, now)
        for i in range(done - 1, max(done - LOOK_BACK, 0) - 1, -1):
            x = s.order[queue, i]
            due = now
            while (
                due < s.copies[x, Moves.DUE]
                and r.boundaries[due, Boundaries.CONTEXT] != r.boundaries[s.copies[x, Moves.ISSUE], Boundaries.CONTEXT]
            ):
                due += 1
            if x % 2 == 0 or due >= s.copies[x, Moves.DUE]:
                continue
            set_due(s, x, due)
            place = s.served[x // 2]
            needed = live_range(r, s.places[place, Places.LAST], s.places[place, Places.SINCE], -1).end
            finish = max(needed, due, min(s.copies[x, Moves.ISSUE] + 1, r.num_steps))
            if finish < s.places[place, Places.FINISH]:
                stretch(r, s, place, finish)
