"""Two slow oracles: a machine that really runs a mapping byte by byte, and a clock in exact fractions."""

from collections.abc import Iterator
from fractions import Fraction

from mallocgame.hierarchy import Hierarchy
from mallocgame.mapping import HELD, HOME, Mapping
from mallocgame.program import Program, UseKind


def boundaries_and_steps(program: Program, start: int, end: int) -> Iterator[tuple[str, int]]:
    """Yield ("step", t) and ("boundary", b) for the inside of [start, end), loops unrolled; edges are not yielded."""
    at = start
    while at < end:
        inside = [x for x in program.loops if x.start_step == at and x.end_step <= end]
        inside = [x for x in inside if (x.start_step, x.end_step) != (start, end)]
        loop = max(inside, key=lambda x: x.end_step, default=None)
        if loop is None:
            yield "step", at
            at += 1
        else:
            for _ in range(loop.trip_count):
                yield from boundaries_and_steps(program, loop.start_step, loop.end_step)
            at = loop.end_step
        if at < end:
            yield "boundary", at


class Machine:
    """Runs a program's uses and copies on real bytes; ``errors`` tells what read something that is not there."""

    def __init__(self, program: Program, hierarchy: Hierarchy, mapping: Mapping) -> None:
        self.program, self.mapping = program, mapping
        self.memory: list[dict[int, tuple[int, int]]] = [{} for _ in hierarchy.layers]
        self.version = [0] * len(program.tensors)
        self.home = [0 if t.is_parameter else -1 for t in program.tensors]
        self.under_way: dict[int, list[tuple[int, int]] | None] = {}
        self.errors: list[str] = []
        self.sliced: dict[int, int] = {}
        for x, transfer in enumerate(mapping.transfers):  # where each slice begins
            before = [y for y in mapping.transfers[:x] if y.target == transfer.target != HOME]
            self.sliced[x] = sum(y.size_bytes for y in before)

    def run(self) -> list[str]:
        """Run the program twice (what is held must survive), return the errors."""
        for index, r in enumerate(self.mapping.residencies):
            if r.start_step == HELD:
                for cell in self._cells(index):
                    self.memory[r.layer][cell] = (r.tensor, self.version[r.tensor])
        for _ in range(2):
            self._boundary(0)
            for what, at in boundaries_and_steps(self.program, 0, self.program.num_steps):
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

    def _holds(self, place: int, tensor: int) -> bool:
        if place == HOME:
            return self.home[tensor] == self.version[tensor]
        memory = self.memory[self.mapping.residencies[place].layer]
        return all(memory.get(cell) == (tensor, self.version[tensor]) for cell in self._cells(place))

    def _boundary(self, boundary: int) -> None:
        for x, transfer in enumerate(self.mapping.transfers):
            if transfer.done_before == boundary and transfer.start_after + 1 < boundary:
                self._complete(x)
        for x, transfer in enumerate(self.mapping.transfers):
            if transfer.start_after + 1 == boundary:
                self._issue(x)
                if transfer.done_before == boundary:
                    self._complete(x)

    def _slice(self, x: int, place: int) -> range:
        cells = self._cells(place)
        transfer = self.mapping.transfers[x]
        first = self.sliced[x] if transfer.target != HOME else 0
        return cells[first : first + transfer.size_bytes]

    def _issue(self, x: int) -> None:
        transfer = self.mapping.transfers[x]
        if not self._holds(transfer.source, transfer.tensor):
            self.errors.append(f"copy {x} reads stale contents")
        self.under_way[x] = [(transfer.tensor, self.version[transfer.tensor])]
        if transfer.target != HOME:  # what arrives piece by piece is neither old nor new
            for cell in self._slice(x, transfer.target):
                self.memory[self.mapping.residencies[transfer.target].layer][cell] = (-1, -1)

    def _complete(self, x: int) -> None:
        transfer = self.mapping.transfers[x]
        if x not in self.under_way:
            return
        del self.under_way[x]
        good = self._holds(transfer.source, transfer.tensor)
        content = (transfer.tensor, self.version[transfer.tensor]) if good else (-1, -1)
        if transfer.target == HOME:
            self.home[transfer.tensor] = content[1]
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
        for index, tensor in enumerate(self.program.tensors):
            for use in sorted((u for u in tensor.uses if u.step == step), key=lambda u: u.kind == UseKind.DEFINE):
                place = HOME if use.home_only else self._place(index, step)
                if use.kind != UseKind.DEFINE and not self._holds(place, index):
                    self.errors.append(f"step {step} reads tensor {index}")
                if use.kind != UseKind.READ:
                    self._write(place, index)

    def _write(self, place: int, tensor: int) -> None:
        self.version[tensor] += 1
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
        trips = 1
        for loop in self.program.loops:
            inside = loop.start_step < transfer.start_after + 1 and transfer.done_before < loop.end_step
            trips *= loop.trip_count if inside else 1
        return trips * (
            Fraction(transfer.size_bytes) / Fraction(link.bytes_per_second) + Fraction(link.latency_seconds)
        )

    def run(self) -> Fraction:
        """Return the total seconds."""
        for boundary in range(self.program.num_steps + 1):
            moves = list(enumerate(self.mapping.transfers))
            self._wait([x for x, t in moves if t.done_before == boundary and t.start_after + 1 < boundary])
            for x, transfer in moves:
                if transfer.start_after + 1 == boundary:
                    slower = self._layer(transfer.target) < self._layer(transfer.source)
                    self.queues[self._link(x)][slower].append(x)
            self._wait([x for x, t in moves if t.done_before == boundary])
            if boundary < self.program.num_steps:
                self._execute(boundary)
        return self.now

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
        for k, link in enumerate(self.hierarchy.links):
            busy = times[link.shared_layer] if link.shared_layer is not None else Fraction(0)
            self._advance(k, (seconds - busy) * instruction.trip_count)
        self.now += seconds * instruction.trip_count

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
