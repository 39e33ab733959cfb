"""Two slow oracles: a machine that really runs a mapping byte by byte, and a clock in exact fractions."""

import random
from collections.abc import Iterator
from fractions import Fraction

from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import HELD, HOME, Mapping
from mallocgame.program import Conditional, Loop, Program, UseKind

Region = Loop | Conditional
Event = tuple[str, int]  # ("step", t) or ("boundary", b)


def one_execution(
    program: Program, rng: random.Random, start: int, end: int, entered: tuple[Region, ...] = ()
) -> Iterator[Event]:
    """Yield what happens inside [start, end), loops unrolled, of each conditional one branch; edges are not yielded.

    A loop whose expected count is a fraction runs any number of times, at least once.
    """
    at = start
    while at < end:
        region = _outermost(program, at, end, entered)
        if region is None:
            yield "step", at
            at += 1
        elif isinstance(region, Loop):
            count = region.trip_count
            times = int(count) if float(count).is_integer() else rng.randint(1, int(count) + 2)
            for _ in range(times):
                yield from one_execution(program, rng, region.start_step, region.end_step, (*entered, region))
            at = region.end_step
        else:
            first, last, _ = rng.choice(list(region.branches()))
            yield from one_execution(program, rng, first, last, (*entered, region))
            at = region.end_step
        if at < end:
            yield "boundary", at


def all_paths(
    program: Program, start: int, end: int, entered: tuple[Region, ...] = ()
) -> list[tuple[Fraction, list[Event]]]:
    """Return every way through the branches of [start, end) with its probability; loops are walked once."""
    found: list[tuple[Fraction, list[Event]]] = [(Fraction(1), [])]
    at = start
    while at < end:
        region = _outermost(program, at, end, entered)
        if region is None:
            parts, at = [(Fraction(1), [("step", at)])], at + 1
        elif isinstance(region, Loop):
            parts, at = all_paths(program, region.start_step, region.end_step, (*entered, region)), region.end_step
        else:
            parts = []
            for first, last, weight in region.branches():
                for chance, events in all_paths(program, first, last, (*entered, region)):
                    parts.append((chance * Fraction(weight), events))
            at = region.end_step
        edge = [("boundary", at)] if at < end else []
        found = [(a * b, [*before, *after, *edge]) for a, before in found for b, after in parts]
    return found


def _outermost(program: Program, at: int, end: int, entered: tuple[Region, ...]) -> Region | None:
    """Return the widest loop or conditional that begins at a step, ends by ``end``, and was not entered yet."""
    inside = [x for x in (*program.loops, *program.conditionals) if x.start_step == at and x.end_step <= end]
    inside = [x for x in inside if not any(x is other for other in entered)]
    return max(inside, key=lambda x: (x.end_step, isinstance(x, Loop)), default=None)


class Machine:
    """Runs a program's uses and copies on real bytes; ``errors`` tells what read something that is not there.

    The steps in ``replaced`` do not run: what transfers take of their result at home comes from their source there.
    """

    def __init__(
        self, program: Program, hierarchy: Hierarchy, mapping: Mapping, replaced: tuple[int, ...] = ()
    ) -> None:
        self.program, self.hierarchy, self.mapping, self.replaced = program, hierarchy, mapping, replaced
        self.instead: dict[int, tuple[int, int]] = {}  # result of a replaced copy: its source, and that one's version
        self.memory: list[dict[int, tuple[int, int]]] = [{} for _ in hierarchy.layers]
        self.version = [0] * len(program.tensors)
        self.home = [0 if t.is_parameter else -1 for t in program.tensors]
        self.under_way: dict[int, int] = {}  # copy: the version that it began to move
        self.errors: list[str] = []
        self.sliced: dict[int, int] = {}
        for x, transfer in enumerate(mapping.transfers):  # where each slice begins
            before = [y for y in mapping.transfers[:x] if y.target == transfer.target != HOME]
            self.sliced[x] = sum(y.size_bytes for y in before)

    def run(self, seed: int = 0) -> list[str]:
        """Run the program twice (what is held must survive), with random branches; return the errors."""
        rng = random.Random(seed)
        for index, r in enumerate(self.mapping.residencies):
            if r.start_step == HELD:
                for cell in self._cells(index):
                    self.memory[r.layer][cell] = (r.tensor, self.version[r.tensor])
        for _ in range(2):
            self._boundary(0)
            for what, at in one_execution(self.program, rng, 0, self.program.num_steps):
                if what == "step":
                    self._step(at)
                else:
                    self._boundary(at)
            self._boundary(self.program.num_steps)
            for index, tensor in enumerate(self.program.tensors):
                if tensor.is_output and self.home[index] != self.version[index]:
                    self.errors.append(f"output {index}")
                if tensor.is_parameter:
                    self.home[index] = self.version[index]
            for index, tensor in enumerate(self.program.tensors):
                self.home[index] = self.version[index] if tensor.is_parameter else -1
        return self.errors

    def _cells(self, residency: int) -> range:
        r = self.mapping.residencies[residency]
        return range(r.offset_bytes, r.offset_bytes + self.program.tensors[r.tensor].size_bytes)

    def _gives(self, place: int, tensor: int) -> bool:
        """Whether a copy finds the tensor's contents."""
        if place == HOME and tensor in self.instead:
            source, version = self.instead[tensor]
            return self.home[source] == version
        return self._holds(place, tensor)

    def _holds(self, place: int, tensor: int) -> bool:
        if place == HOME:
            return self.home[tensor] == self.version[tensor]
        memory = self.memory[self.mapping.residencies[place].layer]
        return all(memory.get(cell) == (tensor, self.version[tensor]) for cell in self._cells(place))

    def _link(self, x: int) -> int:
        places = (self.mapping.transfers[x].source, self.mapping.transfers[x].target)
        return self.hierarchy.link_index(
            *(0 if place == HOME else self.mapping.residencies[place].layer for place in places)
        )

    def _boundary(self, boundary: int) -> None:
        self._delivered: dict[tuple[int, int], int] = {}  # at this boundary: tensor and place, by which link
        for x, transfer in enumerate(self.mapping.transfers):
            if transfer.done_before == boundary and transfer.start_after + 1 < boundary:
                self._complete(x)
        for x, transfer in enumerate(self.mapping.transfers):
            if transfer.start_after + 1 == boundary:
                before = self._delivered.get((transfer.tensor, transfer.source))
                if before is not None and before != self._link(x):
                    self.errors.append(f"copy {x} reads what another link has yet to bring")
                was_there = self._holds(transfer.target, transfer.tensor)
                self._issue(x)
                if transfer.done_before == boundary:
                    self._complete(x)
                    if not was_there:
                        self._delivered[transfer.tensor, transfer.target] = self._link(x)

    def _slice(self, x: int, place: int) -> range:
        cells = self._cells(place)
        transfer = self.mapping.transfers[x]
        first = self.sliced[x] if transfer.target != HOME else 0
        return cells[first : first + transfer.size_bytes]

    def _issue(self, x: int) -> None:
        transfer = self.mapping.transfers[x]
        if not self._gives(transfer.source, transfer.tensor):
            self.errors.append(f"copy {x} reads stale contents")
        self.under_way[x] = self.version[transfer.tensor]  # a write before it is done leaves a mixture
        if transfer.target != HOME:  # what arrives piece by piece is neither old nor new
            for cell in self._slice(x, transfer.target):
                self.memory[self.mapping.residencies[transfer.target].layer][cell] = (-1, -1)

    def _complete(self, x: int) -> None:
        transfer = self.mapping.transfers[x]
        if x not in self.under_way:
            return
        began = self.under_way.pop(x)
        good = began == self.version[transfer.tensor] and self._gives(transfer.source, transfer.tensor)
        content = (transfer.tensor, self.version[transfer.tensor]) if good else (-1, -1)
        if transfer.target == HOME:
            self.home[transfer.tensor] = content[1]
            self.instead.pop(transfer.tensor, None)
            return
        for cell in self._slice(x, transfer.target):
            self.memory[self.mapping.residencies[transfer.target].layer][cell] = content

    def _place(self, tensor: int, step: int) -> int:
        best, layer = HOME, 0
        for index, r in enumerate(self.mapping.residencies):
            filled = max([x.done_before for x in self.mapping.transfers if x.target == index] + [r.start_step])
            if r.tensor == tensor and filled <= step < r.end_step and r.layer > layer:
                best, layer = index, r.layer
        return best

    def _step(self, step: int) -> None:
        if step in self.replaced:
            source, result = (
                next(
                    i for i, t in enumerate(self.program.tensors) if (step, kind) in {(u.step, u.kind) for u in t.uses}
                )
                for kind in (UseKind.READ, UseKind.DEFINE)
            )
            self.version[result] += 1
            self.instead[result] = source, self.version[source]
            return
        for index, tensor in enumerate(self.program.tensors):
            for use in sorted((u for u in tensor.uses if u.step == step), key=lambda u: u.kind == UseKind.DEFINE):
                place = HOME if use.home_only else self._place(index, step)
                if use.kind != UseKind.DEFINE and not self._holds(place, index):
                    self.errors.append(f"step {step} reads tensor {index}")
                if use.kind != UseKind.READ:
                    self._write(place, index)

    def _write(self, place: int, tensor: int) -> None:
        self.version[tensor] += 1
        self.instead.pop(tensor, None)
        if place == HOME:
            self.home[tensor] = self.version[tensor]
            return
        for cell in self._cells(place):
            self.memory[self.mapping.residencies[place].layer][cell] = (tensor, self.version[tensor])


class Clock:
    """The judge's model in exact fractions, event by event: every completion on every link is a moment of its own."""

    def __init__(self, program: Program, hierarchy: Hierarchy, mapping: Mapping) -> None:
        self.program, self.hierarchy, self.mapping = program, hierarchy, mapping
        self.queues: list[list[list[int]]] = [[[], []] for _ in hierarchy.links]
        self.left = [self._work(x) for x in range(len(mapping.transfers))]
        self.now = Fraction(0)

    def _layer(self, place: int) -> int:
        return 0 if place == HOME else self.mapping.residencies[place].layer

    def _link(self, x: int) -> int:
        transfer = self.mapping.transfers[x]
        pair = tuple(sorted((self._layer(transfer.source), self._layer(transfer.target))))
        return next(k for k, link in enumerate(self.hierarchy.links) if pair in link.pairs)

    def _work(self, x: int) -> Fraction:
        transfer, link = self.mapping.transfers[x], self.hierarchy.links[self._link(x)]
        trips = Fraction(1)
        for loop in self.program.loops:
            inside = loop.start_step < transfer.start_after + 1 and transfer.done_before < loop.end_step
            trips *= Fraction(loop.trip_count) if inside else 1
        return trips * (
            Fraction(transfer.size_bytes) / Fraction(link.bytes_per_second) + Fraction(link.latency_seconds)
        )

    def run(self) -> Fraction:
        """Return the expected total seconds: every path through the branches, by its probability."""
        total = Fraction(0)
        for chance, events in all_paths(self.program, 0, self.program.num_steps):
            self.queues = [[[], []] for _ in self.hierarchy.links]
            self.left = [self._work(x) for x in range(len(self.mapping.transfers))]
            self.now = Fraction(0)
            for what, at in [("boundary", 0), *events, ("boundary", self.program.num_steps)]:
                if what == "step":
                    self._execute(at)
                else:
                    self._boundary(at)
            total += chance * self.now
        return total

    def _boundary(self, boundary: int) -> None:
        moves = list(enumerate(self.mapping.transfers))
        self._wait([x for x, t in moves if t.done_before == boundary and t.start_after + 1 < boundary])
        for x, transfer in moves:
            if transfer.start_after + 1 == boundary:
                slower = self._layer(transfer.target) < self._layer(transfer.source)
                self.queues[self._link(x)][slower].append(x)
        self._wait([x for x, t in moves if t.done_before == boundary])

    def _execute(self, step: int) -> None:
        instruction = self.program.instructions[step]
        times = [Fraction(0)] * self.hierarchy.num_layers
        for layer, size in enumerate(instruction.fixed_bytes):
            times[layer] += Fraction(size) / Fraction(self.hierarchy.layers[layer].bytes_per_second)
        machine = Machine(self.program, self.hierarchy, self.mapping)
        for index, tensor in enumerate(self.program.tensors):
            for use in tensor.uses:
                if use.step == step:
                    layer = 0 if use.home_only else self._layer(machine._place(index, step))
                    times[layer] += Fraction(use.bytes) / Fraction(self.hierarchy.layers[layer].bytes_per_second)
        seconds = max(Fraction(instruction.compute_seconds), sum(times, Fraction(0)))
        count = Fraction(1)
        for loop in self.program.enclosing_loops(step):
            count *= Fraction(loop.trip_count)
        for k, link in enumerate(self.hierarchy.links):
            busy = times[link.shared_layer] if link.shared_layer is not None else Fraction(0)
            self._advance(k, (seconds - busy) * count)
        self.now += seconds * count

    def _wait(self, due: list[int]) -> None:
        while any(x in q for x in due for link in self.queues for q in link):
            next_event = min(
                self.left[q[0]] * sum(1 for other in link if other) for link in self.queues for q in link if q
            )
            for k in range(len(self.queues)):
                self._advance(k, next_event)
            self.now += next_event

    def _advance(self, k: int, seconds: Fraction) -> None:
        self._pop(k)
        while seconds > 0 and any(self.queues[k]):
            heads = [q[0] for q in self.queues[k] if q]
            step = min([seconds] + [self.left[x] * len(heads) for x in heads])
            for x in heads:
                self.left[x] -= step / len(heads)
            seconds -= step
            self._pop(k)

    def _pop(self, k: int) -> None:
        for q in self.queues[k]:
            while q and self.left[q[0]] == 0:
                q.pop(0)
