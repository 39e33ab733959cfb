"""Abstract interpretation of a mapping: which places hold each tensor's current contents, round every loop."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from mallocgame.mapping import HELD, HOME, Mapping
from mallocgame.program import Loop, Program, Use, UseKind


def stale_uses(program: Program, mapping: Mapping) -> Iterator[tuple[int, int, str]]:
    """Yield (tensor, step, message) for each use, copy or output that does not find the current contents."""
    residencies: dict[int, list[int]] = {}
    for index, r in enumerate(mapping.residencies):
        residencies.setdefault(r.tensor, []).append(index)
    transfers: dict[int, list[int]] = {}
    for index, x in enumerate(mapping.transfers):
        transfers.setdefault(x.tensor, []).append(index)
    for tensor in sorted(residencies.keys() | transfers.keys()):
        walk = _Walk(program, mapping, tensor, residencies.get(tensor, []), transfers.get(tensor, []))
        for step, message in walk.to_fixed_point():
            yield tensor, step, message


@dataclass(slots=True)
class _Walk:
    """One tensor's states along the schedule. ``current`` holds residency indices, and HOME for layer 0."""

    program: Program
    mapping: Mapping
    tensor: int
    residencies: list[int]
    transfers: list[int]
    allowed: dict[Loop, set[int]] = field(default_factory=dict)  # places that survive the way back to a loop's start
    current: set[int] = field(default_factory=set)
    arriving: dict[int, int] = field(default_factory=dict)  # residency: slices still to come
    intact: dict[int, bool] = field(default_factory=dict)  # transfer under way: nothing was written since its issue
    found: list[tuple[int, str]] = field(default_factory=list)

    def to_fixed_point(self) -> list[tuple[int, str]]:
        """Walk until no loop's entry state shrinks any more; return what the last walk found."""
        while not self._walk_once():
            pass
        return self.found

    def _walk_once(self) -> bool:
        tensor = self.program.tensors[self.tensor]
        uses: dict[int, list[Use]] = {}
        for use in tensor.uses:
            uses.setdefault(use.step, []).append(use)
        rows = [self.mapping.residencies[i] for i in self.residencies]
        moves = [self.mapping.transfers[i] for i in self.transfers]
        boundaries = {0, self.program.num_steps} | uses.keys() | {r.end_step for r in rows}
        boundaries |= {x.start_after + 1 for x in moves} | {x.done_before for x in moves}
        loops = [loop for loop in self.program.loops if loop.trip_count > 1]
        boundaries |= {b for loop in loops for b in (loop.start_step, loop.end_step)}
        self.found, self.intact, self.arriving = [], {}, {}
        self.current = {HOME} if tensor.is_parameter else set()
        self.current |= {i for i in self.residencies if self.mapping.residencies[i].start_step == HELD}
        for i in self.transfers:
            target = self.mapping.transfers[i].target
            self.arriving[target] = self.arriving.get(target, 0) + (target != HOME)
        for boundary in sorted(boundaries):
            self._complete(boundary)
            if not self._close_loops(boundary, loops):
                return False
            if boundary < self.program.num_steps:
                self.current -= {i for i in self.residencies if self.mapping.residencies[i].end_step == boundary}
            self._issue(boundary)
            for loop in loops:
                if loop.start_step == boundary and loop in self.allowed:
                    self.current &= self.allowed[loop]
            self._use(boundary, uses.get(boundary, []))
        self._finish(tensor.is_output)
        return True

    def _complete(self, boundary: int) -> None:
        for i in self.transfers:
            x = self.mapping.transfers[i]
            if x.done_before == boundary and i in self.intact:
                self._arrive(i)

    def _arrive(self, i: int) -> None:
        target = self.mapping.transfers[i].target
        if not self.intact.pop(i):
            self.current.discard(target)  # old contents land on whatever was there
        elif target == HOME:
            self.current.add(HOME)
        else:
            self.arriving[target] -= 1
            if self.arriving[target] == 0:
                self.current.add(target)

    def _close_loops(self, boundary: int, loops: list[Loop]) -> bool:
        """Follow the back edges that leave this boundary; False if a loop's entry state must shrink."""
        for loop in loops:
            if loop.end_step != boundary:
                continue
            alive = [self.mapping.residencies[i] for i in self.current if i != HOME]
            places = {(r.layer, r.offset_bytes) for r in alive if r.end_step >= loop.end_step}
            back = {HOME} & self.current
            for i in self.residencies:
                r = self.mapping.residencies[i]
                if r.start_step <= loop.start_step < r.end_step and (r.layer, r.offset_bytes) in places:
                    back.add(i)
            old = self.allowed.get(loop)
            new = back if old is None else old & back
            if old != new:
                self.allowed[loop] = new
                return False
        return True

    def _issue(self, boundary: int) -> None:
        for i in self.transfers:
            x = self.mapping.transfers[i]
            if x.start_after + 1 != boundary:
                continue
            if x.source not in self.current:
                self.found.append((x.start_after, f"a copy issued after step {x.start_after} reads {_name(x.source)}"))
            self.intact[i] = x.source in self.current
            if x.done_before == boundary:
                self._arrive(i)

    def _use(self, step: int, uses: list[Use]) -> None:
        for use in sorted(uses, key=lambda u: u.kind == UseKind.DEFINE):
            place = HOME if use.home_only else self._serving(step)
            if use.kind != UseKind.DEFINE and place not in self.current:
                self.found.append((step, f"step {step} reads {_name(place)}, which does not hold the current contents"))
            if use.kind != UseKind.READ:
                self.current = {place}
                self.intact = dict.fromkeys(self.intact, False)

    def _serving(self, step: int) -> int:
        best, layer = HOME, 0
        for i in self.residencies:
            r = self.mapping.residencies[i]
            if self.mapping.fill_boundaries[i] <= step < r.end_step and r.layer > layer:
                best, layer = i, r.layer
        return best

    def _finish(self, is_output: bool) -> None:
        end = self.program.num_steps
        if is_output and HOME not in self.current:
            self.found.append((end, "the program's output is not in layer 0 at the end"))
        for i in self.transfers:
            x = self.mapping.transfers[i]
            if x.done_before == end and x.target != HOME and x.target not in self.current:
                self.found.append((end, "what is loaded at the end for the next run is not the current contents"))


def _name(place: int) -> str:
    return "layer 0" if place == HOME else f"residency {place}"
