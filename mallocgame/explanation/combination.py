"""From a mapping to a better one in steps: remedies that add up, the one that saves most first.

One by one, remedies tell little: copies share a queue, tensors share the space, and what one change alone saves
another may need. Here a solver's mapping is cut into changes of single tensors, each judged on top of those before it.
"""

import heapq
import time
from dataclasses import dataclass, replace

import numpy as np

from mallocgame.explanation.placement import Placements, TensorPlacement, put_together, take_apart
from mallocgame.explanation.reachable import MAX_WAIT, reachable
from mallocgame.explanation.remedy import NEXT_TO_NOTHING, Remedy, in_words, ordered_by
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.program import Program

LEAST = 1e-3  # of the time, for a change to be told of its own
MAX_STEPS = 40
MAX_ROOM = 24  # tensors that one change may send away
MAX_SECONDS = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """Remedies in order, each with what it saves after those before it.

    Their savings sum to the difference of the two mappings; changes that bring nothing are left out. Between them
    space is checked by its sum: the compiler chooses addresses. ``ordered_seconds`` is the part that XLA can be told,
    or brought, to do.
    """

    seconds: float  # judged, with all of them
    remedies: tuple[Remedy, ...]

    @property
    def ordered_seconds(self) -> float:
        """What the remedies save that an override, a flag or a suggestion of the whole mapping can order."""
        return sum(remedy.saved_seconds for remedy in self.remedies if remedy.ordered_by)


def combine(
    program: Program, hierarchy: Hierarchy, mapping: Mapping, better: Mapping, max_wait: float = MAX_WAIT
) -> Combination | None:
    """Cut the way from one valid mapping to another into remedies; None if the other is not valid or no better.

    ``max_wait`` says how long XLA can be told to let a value wait in fast memory (``reachable.waits``).
    """
    goal = simulate(program, hierarchy, better).total_seconds
    if validate(program, hierarchy, better) or goal >= simulate(program, hierarchy, mapping).total_seconds:
        return None
    way = _Way(program, hierarchy, take_apart(mapping), take_apart(better))
    if hierarchy.num_layers == 2:
        way.reached = take_apart(reachable(program, hierarchy, better, mapping, max_wait))
    remedies = way.walk()
    if way.left and remedies[-1].saved_seconds <= NEXT_TO_NOTHING * goal:
        remedies, goal = remedies[:-1], way.seconds  # what is left helps nothing
    return Combination(seconds=goal, remedies=tuple(remedies))


class _Way:
    """The placements so far, and those that are wanted."""

    def __init__(self, program: Program, hierarchy: Hierarchy, now: Placements, goal: Placements) -> None:
        self.program, self.hierarchy, self.now, self.goal = program, hierarchy, now, goal
        self.reached: Placements = {}  # what XLA would make of the goal
        self.left = {t for t in now.keys() | goal.keys() if _form(now.get(t)) != _form(goal.get(t))}
        self.seconds = self._judged(now)
        self.until = time.monotonic() + MAX_SECONDS

    def walk(self) -> list[Remedy]:
        """Take steps until nothing is left that is worth telling; the rest is one."""
        found: list[Remedy] = []
        least = LEAST * self.seconds
        queue = self._queue()
        while self.left and len(found) < MAX_STEPS and time.monotonic() < self.until:
            step = self._best(queue, least) or self._group(least)
            if step is None:
                break
            found.append(self._take(step))
        if self.left:
            found.append(self._rest())
        return found

    def _rest(self) -> Remedy:
        by = [self._ordered_by(t) for t in self.left]
        return Remedy(
            action=f"{len(self.left)} more changes" if len(self.left) > 1 else "one more change",
            saved_seconds=self.seconds - self._judged(self.goal),
            ordered_by=", ".join(dict.fromkeys(by)) if all(by) else "",
            tensors=tuple(sorted(self.left)),
        )

    def _ordered_by(self, tensor: int) -> str:
        wanted = self.goal.get(tensor, TensorPlacement())
        is_reached = _form(self.reached.get(tensor)) == _form(wanted)
        return ordered_by(self.program, tensor, wanted, is_reached)

    def _queue(self) -> list[tuple[float, int]]:
        queue = []
        for tensor in sorted(self.left):
            if time.monotonic() > self.until:
                break
            step = self._step((tensor,))
            queue.append((-(self.seconds - step[1]) if step else 0.0, tensor))
        heapq.heapify(queue)
        return queue

    def _best(self, queue: list[tuple[float, int]], least: float) -> "tuple[Placements, float] | None":
        """Return the step that saves most now, by a queue of what each saved when it was looked at last."""
        while queue and -queue[0][0] > least:
            _, tensor = heapq.heappop(queue)
            if tensor not in self.left:
                continue
            step = self._step((tensor,))
            saved = self.seconds - step[1] if step else 0.0
            if step and saved > least and (not queue or saved >= -queue[0][0]):
                return step
            heapq.heappush(queue, (-saved, tensor))
            if saved <= least and all(-gain <= least for gain, _ in queue):
                return None
        return None

    def _group(self, least: float) -> "tuple[Placements, float] | None":
        """Return the fewest changes, those first without which the goal is furthest, that save something together."""
        goal = self._judged(self.goal)
        lost = []
        for tensor in sorted(self.left):
            if time.monotonic() > self.until:
                return None
            lost.append((goal - self._judged(self._with((tensor,), self.goal, self.now)), tensor))
        order, count = [tensor for _, tensor in sorted(lost)], 2
        while count < 2 * len(order):
            step = self._step(tuple(order[:count]))
            if step and self.seconds - step[1] > least:
                return step
            count *= 2
        return None

    def _step(self, tensors: tuple[int, ...]) -> "tuple[Placements, float] | None":
        """Return the changes of ``tensors`` with those that make room for them, and the time after; None: no room."""
        changed = {t: self.goal.get(t, TensorPlacement()) for t in tensors}
        capacities = np.array([layer.capacity_bytes for layer in self.hierarchy.layers])[1:]
        for _ in range(MAX_ROOM):
            timeline = simulate(self.program, self.hierarchy, put_together(self.now | changed))
            excess = (timeline.occupancy_bytes[:, 1:] - capacities).max(axis=1)
            step = int(np.argmax(excess))
            if excess[step] <= 0:
                return changed, timeline.total_seconds
            leaving = [t for t in self.left - changed.keys() if self._leaves(t, step)]
            if not leaving:
                return None
            tensor = max(leaving, key=lambda t: self.program.tensors[t].size_bytes)
            changed[tensor] = self.goal.get(tensor, TensorPlacement())
        return None

    def _leaves(self, tensor: int, step: int) -> bool:
        def there(placement: TensorPlacement | None) -> bool:
            rows = placement.residencies if placement else ()
            return any(r.start_step <= step < r.end_step for r in rows)

        return there(self.now.get(tensor)) and not there(self.goal.get(tensor))

    def _take(self, step: tuple[Placements, float]) -> Remedy:
        changed, seconds = step
        saved, self.seconds = self.seconds - seconds, seconds
        self.now = self.now | changed
        self.left -= changed.keys()
        by = [self._ordered_by(t) for t in changed]
        said = [in_words(self.program, t, p) for t, p in changed.items()]
        action = said[0] + (f"; {said[1]}" if len(said) == 2 else "")
        if len(said) > 2:
            action += f", and {len(said) - 1} more with it: " + "; ".join(said[1:4]) + ("; …" if len(said) > 4 else "")
        kinds = ", ".join(dict.fromkeys(by)) if all(by) else ""
        return Remedy(action=action, saved_seconds=saved, ordered_by=kinds, tensors=tuple(changed))

    def _judged(self, placements: Placements) -> float:
        return simulate(self.program, self.hierarchy, put_together(placements)).total_seconds

    @staticmethod
    def _with(tensors: tuple[int, ...], base: Placements, other: Placements) -> Placements:
        return base | {t: other.get(t, TensorPlacement()) for t in tensors}


def _form(placement: TensorPlacement | None) -> object:
    """Return a placement without its addresses, which cost nothing."""
    if placement is None or not placement.residencies:
        return None
    stays = [(r.layer, r.start_step, r.end_step) for r in placement.residencies]
    return stays, frozenset(replace(x) for x in placement.transfers)
