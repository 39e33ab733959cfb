"""Abstract interpretation of a mapping: which places hold each tensor's current contents, on every way through.

A loop is walked until the places that survive the way back to its start shrink no more. Of a conditional, every branch
is walked from the state at its entry; after it, a place holds the current contents if it does after each branch.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import HELD, HOME, Mapping
from mallocgame.program import Program, Use, UseKind
from mallocgame.regions import Loop, Region, nested


def stale_uses(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> Iterator[tuple[int, int, str]]:
    """Yield (tensor, step, message) for each use, copy or output that does not find the current contents."""
    residencies: dict[int, list[int]] = {}
    for index, r in enumerate(mapping.residencies):
        residencies.setdefault(r.tensor, []).append(index)
    transfers: dict[int, list[int]] = {}
    for index, x in enumerate(mapping.transfers):
        transfers.setdefault(x.tensor, []).append(index)
    regions = _regions(program)
    for tensor in sorted(residencies.keys() | transfers.keys()):
        own = residencies.get(tensor, []), transfers.get(tensor, [])
        walk = _Walk(program, hierarchy, mapping, tensor, *own, regions)
        for step, message in walk.to_fixed_point():
            yield tensor, step, message


@dataclass(slots=True)
class _State:
    """What holds at one moment. ``current`` has residency indices, and HOME for layer 0."""

    current: set[int] = field(default_factory=set)
    arriving: dict[int, int] = field(default_factory=dict)  # residency: slices still to come
    intact: dict[int, bool] = field(default_factory=dict)  # transfer under way: nothing was written since its issue

    def copy(self) -> "_State":
        return _State(set(self.current), dict(self.arriving), dict(self.intact))

    def meet(self, other: "_State") -> None:
        """Keep what holds in both."""
        self.current &= other.current
        for residency, slices in other.arriving.items():  # both have every target of a copy
            self.arriving[residency] = max(self.arriving[residency], slices)
        for transfer, is_intact in other.intact.items():
            self.intact[transfer] = self.intact.get(transfer, is_intact) and is_intact


@dataclass(slots=True)
class _Fork:
    """A conditional under way: the state at its entry, and what holds after the branches walked so far."""

    entry: _State
    after: _State | None = None

    def end(self, state: _State) -> None:
        if self.after is None:
            self.after = state.copy()
        else:
            self.after.meet(state)


@dataclass(slots=True)
class _Walk:
    """One tensor's states along the schedule."""

    program: Program
    hierarchy: Hierarchy
    mapping: Mapping
    tensor: int
    residencies: list[int]
    transfers: list[int]
    regions: list[Region]  # what encloses stands before what is enclosed
    allowed: dict[int, set[int]] = field(default_factory=dict)  # loop: places that survive the way back to its start
    state: _State = field(default_factory=_State)
    forks: dict[int, _Fork] = field(default_factory=dict)  # conditional: its branches so far
    found: list[tuple[int, str]] = field(default_factory=list)
    slices: Counter[int] = field(init=False)  # residency that copies fill: of how many slices

    def __post_init__(self) -> None:
        targets = (self.mapping.transfers[i].target for i in self.transfers)
        self.slices = Counter(target for target in targets if target != HOME)

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
        boundaries = {0, self.program.num_steps} | uses.keys()
        boundaries |= {self.mapping.residencies[i].end_step for i in self.residencies}
        moves = [self.mapping.transfers[i] for i in self.transfers]
        boundaries |= {x.start_after + 1 for x in moves} | {x.done_before for x in moves}
        regions = self.regions
        boundaries |= {b for region in regions for b in (region.start_step, region.end_step)}
        self._begin()
        for boundary in sorted(boundaries):
            if not self._leave(boundary, regions):
                return False
            self._complete(boundary)
            if boundary < self.program.num_steps:
                self.state.current -= {i for i in self.residencies if self.mapping.residencies[i].end_step == boundary}
            self._issue(boundary)
            self._enter(boundary, regions)
            self._use(boundary, uses.get(boundary, []))
        self._finish(tensor.is_output)
        return True

    def _begin(self) -> None:
        self.found, self.forks = [], {}
        self.state = _State({HOME} if self.program.tensors[self.tensor].is_parameter else set())
        self.state.current |= {i for i in self.residencies if self.mapping.residencies[i].start_step == HELD}
        self.state.arriving = dict(self.slices)

    def _enter(self, boundary: int, regions: list[Region]) -> None:
        for region in regions:
            if region.start_step != boundary:
                continue
            if region.kind == "loop" and region.number in self.allowed:
                self.state.current &= self.allowed[region.number]
            elif region.kind == "conditional":
                self.forks[region.number] = _Fork(self.state.copy())
                conditional = self.program.conditionals[region.number]
                if any(start == end for start, end, _ in conditional.branches()):
                    self.forks[region.number].end(self.state)  # a branch that does nothing

    def _leave(self, boundary: int, regions: list[Region]) -> bool:
        """Close what ends here, inner regions first; False if a loop's entry state must shrink."""
        for region in reversed(regions):
            if region.end_step != boundary:
                continue
            if region.kind == "loop":
                if not self._close_loop(region.number, self.program.loops[region.number]):
                    return False
            elif region.kind == "branch":
                self._close_branch(region, boundary)
        return True

    def _close_branch(self, region: Region, boundary: int) -> None:
        fork = self.forks[region.number]
        fork.end(self.state)
        assert fork.after is not None
        is_last = boundary == self.program.conditionals[region.number].end_step
        self.state = fork.after if is_last else fork.entry.copy()
        alive = {i for i in self.residencies if self.mapping.residencies[i].end_step > boundary}
        if not is_last:  # what ended in another branch is not there in the next one
            self.state.current &= alive | {HOME}

    def _complete(self, boundary: int) -> None:
        for i in self.transfers:
            x = self.mapping.transfers[i]
            if x.done_before == boundary and i in self.state.intact:
                self._arrive(i)

    def _arrive(self, i: int) -> None:
        target = self.mapping.transfers[i].target
        if not self.state.intact.pop(i):
            self.state.current.discard(target)  # old contents land on whatever was there
        elif target == HOME:
            self.state.current.add(HOME)
        else:
            self.state.arriving[target] -= 1
            if self.state.arriving[target] == 0:
                self.state.current.add(target)

    def _close_loop(self, index: int, loop: Loop) -> bool:
        """Follow the way back from a loop's end; False if its entry state must shrink."""
        alive = [self.mapping.residencies[i] for i in self.state.current if i != HOME]
        places = {(r.layer, r.offset_bytes) for r in alive if r.end_step >= loop.end_step}
        back = {HOME} & self.state.current
        for i in self.residencies:
            r = self.mapping.residencies[i]
            if r.start_step <= loop.start_step < r.end_step and (r.layer, r.offset_bytes) in places:
                back.add(i)
        old = self.allowed.get(index)
        new = back if old is None else old & back
        self.allowed[index] = new
        return old == new

    def _issue(self, boundary: int) -> None:
        """Begin the copies that are issued here; one that is due at once brings its target to those after it.

        To those on the same link only: it is busy with one or the other, so their order costs nothing. One on another
        link would run before what it reads came.
        """
        before = set(self.state.current)
        brought: dict[int, int] = {}  # place: the link that its contents just came by
        for i in self.transfers:
            x = self.mapping.transfers[i]
            if x.start_after + 1 != boundary:
                continue
            link = self.hierarchy.link_index(self._layer(x.source), self._layer(x.target))
            is_in_time = x.source in before or brought.get(x.source) == link
            is_there = is_in_time and x.source in self.state.current  # of a copy in slices all have come
            if not is_there:
                self.found.append((x.start_after, f"a copy issued after step {x.start_after} reads {_name(x.source)}"))
            self.state.intact[i] = is_there
            if x.done_before == boundary:
                self._arrive(i)
                brought[x.target] = link

    def _layer(self, place: int) -> int:
        return 0 if place == HOME else self.mapping.residencies[place].layer

    def _use(self, step: int, uses: list[Use]) -> None:
        for use in sorted(uses, key=lambda u: u.kind == UseKind.DEFINE):
            place = HOME if use.home_only else self._serving(step)
            if use.kind != UseKind.DEFINE and place not in self.state.current:
                self.found.append((step, f"step {step} reads {_name(place)}, which does not hold the current contents"))
            if use.kind != UseKind.READ:
                self.state.current = {place}
                self.state.intact = dict.fromkeys(self.state.intact, False)
                self.state.arriving = dict(self.slices)  # what came before is old: those that follow do not complete it

    def _serving(self, step: int) -> int:
        best, layer = HOME, 0
        for i in self.residencies:
            r = self.mapping.residencies[i]
            if self.mapping.fill_boundaries[i] <= step < r.end_step and r.layer > layer:
                best, layer = i, r.layer
        return best

    def _finish(self, is_output: bool) -> None:
        end = self.program.num_steps
        if is_output and HOME not in self.state.current:
            self.found.append((end, "the program's output is not in layer 0 at the end"))
        for i in self.transfers:
            x = self.mapping.transfers[i]
            if x.done_before == end and x.target != HOME and x.target not in self.state.current:
                self.found.append((end, "what is loaded at the end for the next run is not the current contents"))
        for i in self.residencies:
            r = self.mapping.residencies[i]
            if r.start_step == HELD and r.end_step == end and not {i, HOME} <= self.state.current:
                self.found.append((end, "what is held for ever is not what the next run starts with"))


def _regions(program: Program) -> list[Region]:
    """Return loops that repeat, conditionals and branches; what encloses stands before what is enclosed."""
    found = nested(program.loops, program.conditionals)
    return [r for r in found if r.kind != "loop" or program.loops[r.number].trip_count > 1]


def _name(place: int) -> str:
    return "layer 0" if place == HOME else f"residency {place}"
