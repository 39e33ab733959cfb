"""A compiler that obeys, refuses and goes its own way as told, on a program of three tensors."""

import time
from collections.abc import Callable, Sequence

from mallocgame.hierarchy import Hierarchy, Link, MemoryLayer
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import HOME, Mapping, Residency, Transfer
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind
from mallocgame.workloads.compiler_loop.overrides import Action, Override
from mallocgame.workloads.compiler_loop.realise import OverrideSearch
from mallocgame.workloads.compiler_loop.verify import Evaluation

HIERARCHY = Hierarchy(
    name="toy",
    layers=(
        MemoryLayer(name="slow", capacity_bytes=10**6, bytes_per_second=1.0),
        MemoryLayer(name="fast", capacity_bytes=100, bytes_per_second=1000.0),
    ),
    links=(Link(name="link", pairs=((0, 1),), bytes_per_second=1.0, shared_layer=0),),
)


def program() -> Program:
    """A weight read late, a value made early and read twice, and one that nothing gains from."""
    names = ("make.1", "long", "use_a.2", "use_b")
    return Program(
        name="toy",
        instructions=tuple(Instruction(name=n, compute_seconds=100.0 * (n == "long")) for n in names),
        tensors=(
            Tensor(name="weight.0", size_bytes=50, is_parameter=True, uses=(Use(step=3, bytes=50, operand=1),)),
            Tensor(
                name="make.1",
                size_bytes=40,
                uses=(
                    Use(step=0, bytes=40, kind=UseKind.DEFINE, index=(1,)),
                    Use(step=2, bytes=40, operand=0),
                    Use(step=3, bytes=40, operand=0, index=(2, 0)),
                ),
            ),
            Tensor(
                name="use_a.2",
                size_bytes=20,
                uses=(Use(step=2, bytes=20, kind=UseKind.DEFINE), Use(step=3, bytes=20, operand=2)),
            ),
        ),
    )


def pinned(tensor: int, offset: int, end: int) -> Residency:
    start = program().tensors[tensor].definition_step
    return Residency(tensor=tensor, layer=1, offset_bytes=offset, start_step=start, end_step=end)


def goal() -> Mapping:
    """Copy the weight in while ``long`` runs, keep ``make.1`` in fast memory, leave ``use_a.2`` in slow memory."""
    weight = Residency(tensor=0, layer=1, offset_bytes=0, start_step=1, end_step=4)
    copy = Transfer(tensor=0, source=HOME, target=0, start_after=0, done_before=3, size_bytes=50)
    return Mapping(residencies=(weight, pinned(1, 50, 4)), transfers=(copy,))


class FakeCompiler:
    """Pins ``use_a.2`` by default; ``refuse`` says which sets of overrides do not compile, and why."""

    def __init__(self, refuse: Callable[[set[Override]], str] = lambda overrides: "") -> None:
        self.refuse = refuse
        self.asked: list[set[Override]] = []
        self.follows_hints = False  # what is placed first gets its place

    def mapping(self, overrides: set[Override]) -> Mapping:
        told = {(d.tensor, d.action) for d in overrides}
        places: list[Residency] = []
        copies: list[Transfer] = []
        if {(0, Action.PREFETCH), (0, Action.PREFER)} & told:
            places, copies = [goal().residencies[0]], [goal().transfers[0]]
        if (1, Action.PIN) in told or (self.follows_hints and (1, Action.FIRST) in told):
            places.append(pinned(1, 50, 4))
        elif (2, Action.KEEP) not in told:
            places.append(pinned(2, 60, 4))
        return Mapping(residencies=tuple(places), transfers=tuple(copies))

    def evaluate(self, overrides: Sequence[Override]) -> Evaluation:
        overrides = set(overrides)
        self.asked.append(overrides)
        error = self.refuse(overrides)
        if error:
            return Evaluation(options={}, error=error)
        mapping = self.mapping(overrides)
        judged = simulate(program(), HIERARCHY, mapping).total_seconds
        return Evaluation(options={"overrides": str(len(overrides))}, mapping=mapping, judged_seconds=judged)

    def search(self, seconds: float = 30.0) -> OverrideSearch:
        default = self.evaluate(())
        self.asked.clear()
        until = time.monotonic() + seconds
        return OverrideSearch(evaluate=self.evaluate, deadline=lambda: until, best=default)
