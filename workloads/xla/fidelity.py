"""How close the judge is to XLA's own timeline (``python -m tests.benchmarks.fidelity`` makes the table).

XLA's runtime simulator has two errors. (1) It charges every operand whose allocation is final as if it were in the
alternate memory, whatever memory it is in. (2) While copies go both ways under an instruction, it halves the bandwidth
again each time one of them ends, instead of giving each way half. With both repeated here, the judge's instruction
times and a replay of XLA's queues must say what XLA says; with both off, bytes are conserved.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mallocgame.errors import InputError
from mallocgame.judge.simulation import Timeline, simulate
from mallocgame.mapping import HELD, HOME, Mapping, Transfer
from mallocgame.program import Program
from mallocgame.workloads.trace import Trace
from mallocgame.workloads.xla.records import Position, XlaLog

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """One trace's comparison; shares are of XLA's instruction time, ``…_error`` are (judge / XLA) − 1."""

    trace: str
    steps: int  # that XLA's timeline holds
    home_share_within_1_percent: float  # everything in layer 0, against XLA's cost model
    step_share_within_1_percent: float  # XLA's mapping, its error switched on, against its timeline
    steps_outside: int
    total_error: float  # both errors repeated
    fair_error: float  # only the first: the judge's own link model
    honest_error: float  # the honest judge's total against XLA's
    xla_seconds: float
    stall_seconds: float
    copied_back: bool  # XLA's mapping writes back to layer 0


def compare(trace: Trace) -> Fidelity:
    """Compare one trace.

    Raises:
        InputError: the trace has no mapping of XLA's, or not its estimates.
    """
    if "ici_bytes_per_second" in trace.provenance:
        raise InputError(f"{trace.name}: has times of the network, of which XLA's estimates know nothing")
    honest = trace.program
    trace = replace(trace, program=_as_charged(trace))
    program, mapping = trace.program, trace.mapping
    xla = _numbers(trace, "xla_step_seconds")
    home = _numbers(trace, "xla_step_home_seconds")
    total = trace.estimates.get("xla_seconds")
    if (
        mapping is None
        or len(xla) != program.num_steps
        or len(home) != program.num_steps
        or not isinstance(total, float)
    ):
        raise InputError(f"{trace.name}: no estimates of XLA to compare with")
    line = with_known_error(trace)
    trips = program.trip_counts
    here = line.elapsed_seconds / trips
    at_home = simulate(program, trace.hierarchy, Mapping()).elapsed_seconds / trips
    known = _is_known(program, xla)
    counted = np.array([i.opcode not in ("while", "conditional") for i in program.instructions])
    counted &= ~(np.isnan(xla) & (at_home == 0))  # what runs beside others: XLA's timeline leaves it out
    return Fidelity(
        trace=trace.name,
        steps=int(known.sum()),
        home_share_within_1_percent=_share(at_home, home, trips, counted),
        step_share_within_1_percent=_share(here, xla, trips, known),
        steps_outside=int((~_close(here, xla))[known].sum()),
        total_error=replay(trace, line) / total - 1,
        fair_error=line.total_seconds / total - 1,
        honest_error=simulate(honest, trace.hierarchy, mapping).total_seconds / total - 1,
        xla_seconds=total,
        stall_seconds=float(line.stall_seconds[:-1].sum()),
        copied_back=any(x.target == HOME for x in mapping.transfers),
    )


def disagreement(trace: Trace) -> tuple[float, str]:
    """Return the share of XLA's instruction time in which the judge, its errors repeated, is over 1 % off, and where.

    Returns:
        the share, and the name of the instruction where they part most ("": nowhere).
    """
    charged = replace(trace, program=_as_charged(trace))
    xla, trips = _numbers(trace, "xla_step_seconds"), charged.program.trip_counts
    here = with_known_error(charged).elapsed_seconds / trips
    known = _is_known(trace.program, xla)
    parted = np.where(known & ~_close(here, xla), np.abs(here - xla) * trips, 0.0)
    if not parted.any():
        return 0.0, ""
    return 1.0 - _share(here, xla, trips, known), trace.program.instructions[int(parted.argmax())].name


def total_error(trace: Trace) -> float:
    """Return (judge, XLA's errors repeated) / XLA's own total - 1; 0 where XLA assumed other trip counts."""
    total = trace.estimates.get("xla_seconds")
    if not isinstance(total, float) or total <= 0 or "given_trip_counts" in trace.provenance:
        return 0.0
    charged = replace(trace, program=_as_charged(trace))
    return replay(charged, with_known_error(charged)) / total - 1


def _is_known(program: Program, xla: F64) -> npt.NDArray[np.bool_]:
    """Return of which instructions XLA's timeline has a time."""
    known: npt.NDArray[np.bool_] = ~np.isnan(xla)
    known &= np.array([i.opcode != "conditional" for i in program.instructions])
    return known


def _as_charged(trace: Trace) -> Program:
    """Return the program with the steps that XLA charges otherwise charged as it does (errors 3 and 4).

    A step that its cost model does not know takes a cycle or so; what that leaves out takes nothing. All branches of a
    conditional run, and the conditional itself takes time once more: what its timeline says.
    """
    program, instructions = trace.program, list(trace.program.instructions)
    for step in map(int, _numbers(trace, "xla_opaque_steps")):
        instructions[step] = replace(instructions[step], fixed_bytes=())
    unseen = iter(_numbers(trace, "xla_use_unseen"))
    tensors = [
        replace(tensor, uses=tuple(replace(use, bytes=0) if next(unseen, 0) else use for use in tensor.uses))
        for tensor in program.tensors
    ]
    if program.conditionals:
        loops = [
            math.prod(loop.trip_count for loop in program.loops if loop.start_step <= step < loop.end_step)
            for step in range(program.num_steps)
        ]
        instructions = [replace(i, trip_count=count) for i, count in zip(instructions, loops, strict=True)]
        charged = np.nan_to_num(_numbers(trace, "xla_step_seconds"))
        for conditional in program.conditionals:
            after = conditional.end_step
            instructions[after] = replace(instructions[after], compute_seconds=float(charged[after]))
    return replace(program, instructions=tuple(instructions), tensors=tuple(tensors), conditionals=())


def with_known_error(trace: Trace) -> Timeline:
    """Return the judge's timeline with uses charged as XLA's simulator charges them (error 1).

    The cross-program prefetch starts with the program, as XLA has it.
    """
    assert trace.mapping is not None
    flags = trace.estimates.get("xla_use_charged_fast", ())
    serving = np.array(flags, dtype=np.int64)
    return simulate(trace.program, trace.hierarchy, cold_start(trace.mapping, trace), serving=serving)


def replay(trace: Trace, line: Timeline) -> float:
    """Return the total that XLA's own queues give for the instruction times of ``line`` (error 2 included).

    While a step runs that its cost model does not know, XLA lets copies move as much more as that step accesses in the
    alternate memory: it takes that off the nothing which it charges to the default one (part of error 3).
    """
    assert trace.mapping is not None
    program, speed = trace.program, trace.hierarchy.links[0].bytes_per_second
    transfers = cold_start(trace.mapping, trace).transfers
    trips = program.trip_counts
    once = line.elapsed_seconds / trips
    idle = np.maximum(once - line.layer_bytes[:, 0] / trace.hierarchy.layers[0].bytes_per_second, 0.0)
    for step, fast in zip(_numbers(trace, "xla_opaque_steps"), _numbers(trace, "xla_opaque_fast_bytes"), strict=False):
        idle[int(step)] += fast / speed
    issue: dict[int, list[int]] = {}
    due: dict[int, list[int]] = {}
    for i, x in enumerate(transfers):
        issue.setdefault(x.start_after + 1, []).append(i)
        due.setdefault(x.done_before, []).append(i)
    work = [x.size_bytes / speed for x in transfers]
    queues = _Queues(work)
    total = 0.0
    for step in range(program.num_steps):
        late = [i for i in due.get(step, []) if transfers[i].start_after + 1 == step]
        waited = sum(queues.wait_for(i, transfers[i].target == HOME) for i in due.get(step, []) if i not in late)
        for i in issue.get(step, []):
            queues.ways[transfers[i].target == HOME].append(i)
        waited += sum(queues.wait_for(i, transfers[i].target == HOME) for i in late)
        queues.run_under(float(idle[step]))
        total += float(once[step]) * int(trips[step])
        total += waited * program.boundary_trip_count(step, step)
    last = due.get(program.num_steps, [])
    return total + sum(queues.wait_for(i, transfers[i].target == HOME) for i in last)


@dataclass(slots=True)
class _Queues:
    """XLA's two queues, toward the alternate memory and back; work is in seconds at full bandwidth."""

    work: list[float]
    ways: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))

    def run_under(self, seconds: float) -> None:
        """Work while an instruction leaves the link idle, with XLA's error."""
        rate = 1.0
        while seconds > 0 and (self.ways[0] or self.ways[1]):
            if self.ways[0] and self.ways[1]:
                rate *= 0.5  # again in every round: this is the error
            amount = min([seconds * rate, *(self.work[way[0]] for way in self.ways if way)])
            seconds -= amount / rate
            self._advance(amount)

    def wait_for(self, transfer: int, back: bool) -> float:
        """Work until a transfer is complete; return the seconds it takes."""
        waited = 0.0
        while transfer in self.ways[back]:
            rate = 0.5 if self.ways[0] and self.ways[1] else 1.0
            amount = min(self.work[way[0]] for way in self.ways if way)
            waited += amount / rate
            self._advance(amount)
        return waited

    def _advance(self, amount: float) -> None:
        for way in self.ways:
            if way:
                self.work[way[0]] -= amount
                if self.work[way[0]] <= 1e-15:
                    way.pop(0)


def cold_start(mapping: Mapping, trace: Trace) -> Mapping:
    """Return the mapping with held residencies copied in at the start of the run instead."""
    residencies, transfers = [], []
    for index, r in enumerate(mapping.residencies):
        if r.start_step != HELD:
            residencies.append(r)
            continue
        tensor = trace.program.tensors[r.tensor]
        residencies.append(replace(r, start_step=0))
        first = min((use.step for use in tensor.uses if use.step < r.end_step), default=r.end_step - 1)
        transfers.append(
            Transfer(
                tensor=r.tensor,
                source=HOME,
                target=index,
                start_after=-1,
                done_before=max(first, 1),
                size_bytes=tensor.size_bytes,
            )
        )
    return Mapping(residencies=tuple(residencies), transfers=(*transfers, *mapping.transfers))


def _numbers(trace: Trace, key: str) -> F64:
    values = trace.estimates.get(key, ())
    entries = values if isinstance(values, tuple) else ()
    return np.array([math.nan if value is None else float(value) for value in entries], dtype=np.float64)


def _close(ours: F64, theirs: F64) -> npt.NDArray[np.bool_]:
    return np.asarray(np.abs(ours - theirs) <= 0.01 * np.abs(theirs) + 1e-15)


def _share(ours: F64, theirs: F64, trips: npt.NDArray[np.int64], counted: npt.NDArray[np.bool_]) -> float:
    weight = np.where(counted, theirs * trips, 0.0)
    return float(weight[_close(ours, theirs) & counted].sum() / weight[counted].sum())


def held_out(trace: Trace, log: XlaLog) -> tuple[float, int, int]:
    """Predict another compilation's instruction times from ``trace``'s program.

    Returns:
        the share of XLA's instruction time that is predicted within 1 %, the instructions outside, and how many
        instructions take another time than in ``trace``'s own compilation.
    """
    program = trace.program
    steps = [name for _, name in log.schedule]
    if steps != [i.name for i in program.instructions]:
        raise InputError(f"{trace.name}: another schedule, nothing to compare")
    places = [
        Position(instruction=steps[use.step], operand=use.operand, index=use.index)
        for tensor in program.tensors
        for use in tensor.uses
    ]
    serving = np.array([int(place in log.charged_fast) for place in places], dtype=np.int64)
    line = simulate(program, trace.hierarchy, Mapping(), serving=serving)
    seconds = {row.name: row.elapsed_seconds for row in log.simulated}
    xla = np.array([seconds.get(step, math.nan) for step in steps])
    known = ~np.isnan(xla)
    ours, trips = line.elapsed_seconds / program.trip_counts, program.trip_counts
    moved = ~_close(_numbers(trace, "xla_step_seconds"), xla) & known
    return _share(ours, xla, trips, known), int((~_close(ours, xla))[known].sum()), int(moved.sum())
