"""Give back the space that finished write-backs keep. Numba kernels."""

from mallocgame.game.rules.live_range import reach
from mallocgame.game.rules.occupancy import stretch
from mallocgame.game.rules.state import CONTEXT, DUE, FINISH, ISSUE, LAST, LINKS, SINCE, STEPS, Rules, State
from mallocgame.game.rules.transfers import head_position, set_due
from mallocgame.jit import kernel

LOOK_BACK = 64  # finished write-backs that are looked at


@kernel
def release(r: Rules, s: State, before: int, now: int) -> None:
    """Let write-backs that are complete by boundary ``now`` be due then; nothing if the game stays at one step.

    When a write-back is placed, the steps after it are undecided. Layer 0 serves them, which leaves the link no time,
    and it seems to need its space for long. Once they are decided, it turns out to be done earlier.
    """
    if now == before:
        return
    for link in range(r.dims[LINKS]):
        queue = 2 * link + 1
        done = head_position(s, queue, now)
        for i in range(done - 1, max(done - LOOK_BACK, 0) - 1, -1):
            x = s.order[queue, i]
            due = now
            while due < s.copies[x, DUE] and r.boundaries[due, CONTEXT] != r.boundaries[s.copies[x, ISSUE], CONTEXT]:
                due += 1
            if x % 2 == 0 or due >= s.copies[x, DUE]:
                continue
            set_due(s, x, due)
            place = s.served[x // 2]
            needed = reach(r, s.places[place, LAST], s.places[place, SINCE], -1).end
            finish = max(needed, due, min(s.copies[x, ISSUE] + 1, r.dims[STEPS]))
            if finish < s.places[place, FINISH]:
                stretch(r, s, place, finish)
