"""What the compiler made of overrides: compile again, read its allocations back, and judge them.

The judge's time of the mapping that the compiler really chose is what counts. XLA's own estimate and the sum of
``estimated_cycles`` stand beside it: either can fall while the program gets slower (docs/compiler_loop.md).
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Protocol

from mallocgame.errors import InputError, TraceError
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HOME, Mapping, serving_layers
from mallocgame.program import Program
from mallocgame.workloads.capture import Assumptions, CaptureRequest, run_capture
from mallocgame.workloads.compiler_loop.loop_operands import LoopOperands, loop_operands
from mallocgame.workloads.compiler_loop.overrides import Action, Override, is_of_the_pass, options_of, values
from mallocgame.workloads.program_reference import ProgramReference
from mallocgame.workloads.trace import Trace
from mallocgame.workloads.xla.compiler import Compilation, CompileRequest, Options
from mallocgame.workloads.xla.log import DONE, parse_mapping_log
from mallocgame.workloads.xla.mapping import build_mapping, without_broken
from mallocgame.workloads.xla.program import XlaProgram
from mallocgame.workloads.xla.scheduled import ScheduledModule

LEAST_TIMEOUT_SECONDS = 60.0
ANOTHER_PROGRAM = "the program is not the one that was compiled first: it changes from one lowering to the next"
USUAL_TIMES = 30.0  # as long as usual, and a compilation is taken to hang


class CompilesPrograms(Protocol):
    """What is needed of ``mallocgame.workloads.xla.compiler.Compiler``; tests bring their own."""

    def compile(self, asked: CompileRequest) -> Compilation:
        """Compile once."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One compilation with overrides. ``mapping`` is the compiler's, in the tensors of the default compilation."""

    options: Options
    error: str = ""  # why there is no mapping
    inconclusive: bool = False  # the error says nothing about the options: killed, too slow, a log that breaks off
    mapping: Mapping | None = None
    judged_seconds: float = float("inf")
    xla_seconds: float = float("inf")
    seconds: float = 0.0  # that it took, with reading and judging

    def agrees_with(self, other: "Evaluation") -> bool:
        """Whether another compilation with the same options did the same, by the judge and by the compiler."""
        return (self.judged_seconds, self.xla_seconds) == (other.judged_seconds, other.xla_seconds)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A program as the compiler compiles it by default, ready to be compiled again with overrides.

    Raises (``of``, ``evaluate``):
        InputError, TraceError: the program cannot be compiled or read; ``evaluate`` reports a refusal instead.
    """

    reference: ProgramReference
    chip: str
    compiler: CompilesPrograms
    trace: Trace  # of the default compilation: names are those of now
    built: XlaProgram  # its program, and what the compiler calls its parts
    options: Options = field(default_factory=dict)  # of every compilation: without these another program results
    lowering: str = ""  # a hash of the program as it was lowered for the default compilation, empty if not known
    usual_seconds: float = 10.0  # that the default compilation took, with reading
    whole_seconds: float = 10.0  # of that, the first compilation until memory was assigned
    scheduled: ScheduledModule | None = None  # what is compiled in place of the program, to the same end; None: nothing
    is_near: bool = False  # ``scheduled`` leads near that end only: what counts has to be compiled from the program on
    short_seconds: float = 0.0  # that an evaluation takes with ``scheduled`` and no overrides

    @classmethod
    def of(
        cls,
        reference: ProgramReference,
        chip: str,
        compiler: CompilesPrograms,
        on_bytes: Callable[[int], None] | None = None,
        assumptions: Assumptions | None = None,
        nearby: float = 0.0,
    ) -> "Target":
        """Compile by default, and see whether the scheduled module alone leads to the same.

        The compiler adds up what a value's uses gain in an order that its dump does not keep: sums may differ in their
        last bit, and of values that are alike another one then comes first. ``nearby`` is the share of the judged time
        by which the module may lead elsewhere and is taken all the same (``is_near``).
        """
        start = time.perf_counter()
        known = assumptions or Assumptions()
        request = CaptureRequest(reference=reference, chip=chip, assumptions=known, on_bytes=on_bytes, keep=True)
        captured = run_capture(request, compiler)  # type: ignore[arg-type]
        found = cls(
            reference=reference,
            chip=chip,
            compiler=compiler,
            trace=captured.trace,
            built=captured.built,
            options=captured.options,
            lowering=captured.lowering,
            usual_seconds=time.perf_counter() - start,
            whole_seconds=captured.compile_seconds,
            scheduled=captured.scheduled,
        )
        if captured.scheduled is None:
            return found
        default, short = found.default(), found.evaluate(())
        found = replace(found, short_seconds=short.seconds)
        if default.agrees_with(short):
            return found
        if abs(short.judged_seconds - default.judged_seconds) < nearby * default.judged_seconds:
            return replace(found, is_near=True)
        return replace(found, scheduled=None)

    @cached_property
    def loop_operands(self) -> LoopOperands:
        """Where copies are asked for that are made before loops."""
        return loop_operands(self.built)

    @property
    def default_seconds(self) -> float:
        """The judged time of the compiler's own mapping."""
        assert self.trace.mapping is not None
        return simulate(self.trace.program, self.trace.hierarchy, self.trace.mapping).total_seconds

    def default(self) -> Evaluation:
        """Return the default compilation as an evaluation."""
        estimate = self.trace.estimates.get("xla_seconds")
        return Evaluation(
            options={},
            mapping=self.trace.mapping,
            judged_seconds=self.default_seconds,
            xla_seconds=float(estimate) if isinstance(estimate, (int, float)) else float("inf"),
        )

    def evaluate(
        self,
        overrides: Sequence[Override],
        flags: Options | None = None,
        *,
        deadline: float = float("inf"),
    ) -> Evaluation:
        """Compile with overrides until memory-space assignment is done, and judge what it did.

        What fails without a word of the compiler is tried a second time, with more patience. ``deadline`` (on
        ``time.monotonic``'s clock) ends a compilation that is not done by then: ``inconclusive``, not a refusal.
        Options that may change what comes before the pass are compiled from the program on, others from its scheduled
        module.
        """
        options = options_of(overrides, {**self.options, **(flags or {})}, self.trace.program.sizes_bytes)
        act_late = all(key in self.options or is_of_the_pass(key) for key in options)
        return self._evaluate(options, self.scheduled if act_late else None, deadline)

    def seconds_to_repeat(self, evaluation: Evaluation | None = None) -> float:
        """Return how long it takes to repeat an evaluation that began with the scheduled module; 0: none does."""
        if self.scheduled is None:
            return 0.0
        more = evaluation.seconds - self.short_seconds if evaluation is not None else 0.0
        return self.whole_seconds + max(more, 0.0)

    def repeat(self, evaluation: Evaluation, *, deadline: float = float("inf")) -> Evaluation:
        """Compile with the options of an evaluation once more, from the program on."""
        return self._evaluate(evaluation.options, None, deadline)

    def _evaluate(self, options: Options, scheduled: ScheduledModule | None, deadline: float) -> Evaluation:
        start = time.perf_counter()
        patience = max(USUAL_TIMES * self.usual_seconds, LEAST_TIMEOUT_SECONDS)
        found = self._evaluate_once(options, scheduled, min(patience, deadline - time.monotonic()))
        if found.inconclusive and time.monotonic() < deadline:
            found = self._evaluate_once(options, scheduled, min(4 * patience, deadline - time.monotonic()))
        return replace(found, seconds=time.perf_counter() - start)

    def _evaluate_once(self, options: Options, scheduled: ScheduledModule | None, timeout_seconds: float) -> Evaluation:
        asked = CompileRequest(
            reference=self.reference,
            chip=self.chip,
            options=options,
            hlo=False,
            brief=True,
            again=scheduled is self.scheduled,
            scheduled=scheduled,
            timeout_seconds=timeout_seconds,
        )
        done = self.compiler.compile(asked)
        if done.error:
            return Evaluation(options=options, error=last_words(done), inconclusive=done.inconclusive)
        try:
            mapping, estimate = read_mapping(done.log.splitlines(), self.built)
        except OtherScheduleError as error:
            return Evaluation(options=options, error=self._another(done) or str(error))
        except TraceError as error:
            return Evaluation(options=options, error=f"not readable: {error}", inconclusive=True)
        broken = validate(self.trace.program, self.trace.hierarchy, mapping)
        if broken and self.trace.program.conditionals:  # as ``capture`` does: what is left out is judged as slow
            mapping, _ = without_broken(self.trace.program, self.trace.hierarchy, mapping)
            broken = validate(self.trace.program, self.trace.hierarchy, mapping)
        if broken:
            reason = f"what the compiler did breaks a rule of ours: {broken[0].message}"
            return Evaluation(options=options, error=self._another(done) or reason)
        judged = simulate(self.trace.program, self.trace.hierarchy, mapping).total_seconds
        return Evaluation(options=options, mapping=mapping, judged_seconds=judged, xla_seconds=estimate)

    def _another(self, done: Compilation) -> str:
        """Return that a compilation was of another program than the default, empty if it was of the same."""
        return ANOTHER_PROGRAM if self.lowering and done.lowering not in ("", self.lowering) else ""

    def compile_fully(
        self,
        options: Options,
        *,
        timeout_seconds: float = 3600.0,
        background: bool = False,
        stop: threading.Event | None = None,
    ) -> "FullCompile":
        """Let the compiler finish, which finds what is illegal only later, and sum its cycle estimates."""
        asked = CompileRequest(
            reference=self.reference,
            chip=self.chip,
            options={**self.options, **options},
            full=True,
            hlo=False,
            final_hlo=True,
            background=background,
            timeout_seconds=timeout_seconds,
            stop=stop,
        )
        done = self.compiler.compile(asked)
        if done.error:
            return FullCompile(error=last_words(done), inconclusive=done.inconclusive, compile_seconds=done.seconds)
        trips = {i.computation: i.trip_count for i in self.trace.program.instructions}
        cycles = estimated_cycles(done.final_hlo, trips) if done.final_hlo else None
        return FullCompile(cycles=cycles, compile_seconds=done.seconds, xla_seconds=totals(done.log))


@dataclass(frozen=True, slots=True, kw_only=True)
class FullCompile:
    """A compilation to its end; ``cycles`` is None where the compiler's dump holds no estimates."""

    cycles: int | None = None
    error: str = ""
    inconclusive: bool = False  # the error says nothing about the options
    compile_seconds: float = 0.0
    xla_seconds: tuple[float, ...] = ()  # the compiler's estimates, one each time that it assigned memory


def totals(log: str) -> tuple[float, ...]:
    """Return the estimates in a log, whatever its verbosity.

    >>> totals(f"I1128 1 a.cc:614] {DONE} (sec): 0.00400315")
    (0.00400315,)
    """
    return tuple(float(text) for text in re.findall(rf"{re.escape(DONE)} \(sec\): ([0-9.e+-]+)", log))


def last_words(compilation: Compilation) -> str:
    """Return why a compilation failed, in one line; of a child that died or hung the end of its log."""
    if "FAILED_PRECONDITION" in compilation.error or "Error" in compilation.error:
        return compilation.error
    tail = " | ".join(line.strip()[-160:] for line in compilation.log.splitlines()[-3:] if line.strip())
    return f"{compilation.error}; its log ends: {tail or '(empty)'}"


def estimated_cycles(module: str, trips: dict[str, float]) -> int | None:
    """Return the sum of ``estimated_cycles`` over a module's scheduled computations, each times its trip count.

    ``trips`` names the scheduled computations; None: the text holds no estimate for them.

    >>> text = 'ENTRY %main (p: f32[]) -> f32[] {\\n  %a = f32[] fusion(), "estimated_cycles":"7"\\n}\\n'
    >>> estimated_cycles(text, {"main": 3})
    21
    """
    total, found, weight = 0.0, False, 0.0
    for line in module.splitlines():
        if line[:1] not in (" ", "}", "") and line.rstrip().endswith("{"):
            name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
            weight = trips.get(name, 0)
        for cycles in re.findall(r'"estimated_cycles":"(\d+)"', line):
            total, found = total + int(cycles) * weight, found or weight > 0
    return round(total) if found else None


class OtherScheduleError(TraceError):
    """A log tells of another schedule than the program's by default."""


def read_mapping(lines: Iterable[str], built: XlaProgram) -> tuple[Mapping, float]:
    """Return what the compiler did with a program that it has compiled before, and its own estimate in seconds.

    Raises:
        TraceError: the log is incomplete, or of another schedule.
    """
    log = parse_mapping_log(lines)
    if [name for _, name in log.schedule] != [i.name for i in built.program.instructions]:
        raise OtherScheduleError(log.path, None, "the compiler scheduled another program than by default")
    assert log.seconds_with_copies is not None
    return build_mapping(log, built), log.seconds_with_copies


def renamed(made_for: Program, now: Program) -> list[str]:
    """Check that two compilations of a program agree but for names; return the instructions whose names changed.

    Raises:
        InputError: they do not: the mapping says nothing about the program as it is compiled now.
    """
    if made_for.num_steps != now.num_steps:
        reason = f"{made_for.num_steps} scheduled instructions then, {now.num_steps} now"
        raise InputError(f"{made_for.name}: the mapping was made for another program: {reason}")
    for step, (old, new) in enumerate(zip(made_for.instructions, now.instructions, strict=True)):
        if (old.opcode, old.trip_count) != (new.opcode, new.trip_count):
            reason = f"step {step} was {old.opcode} {old.name}, is {new.opcode} {new.name}"
            raise InputError(f"{made_for.name}: the mapping was made for another program: {reason}")
    return [old.name for old, new in zip(made_for.instructions, now.instructions, strict=True) if old.name != new.name]


def carry_over(mapping: Mapping, made_for: Program, now: Program) -> Mapping:
    """Return a mapping in the tensors of the program as it is compiled now (``renamed`` has checked the schedule).

    Raises:
        InputError: a tensor that is another one now.
    """
    to = tensors_now({r.tensor for r in mapping.residencies} | {x.tensor for x in mapping.transfers}, made_for, now)
    return Mapping(
        residencies=tuple(replace(r, tensor=to[r.tensor]) for r in mapping.residencies),
        transfers=tuple(replace(x, tensor=to[x.tensor]) for x in mapping.transfers),
    )


def tensors_now(tensors: Iterable[int], made_for: Program, now: Program) -> dict[int, int]:
    """Return the numbers that tensors have in the program as it is compiled now; their uses tell which they are.

    Raises:
        InputError: a tensor that is another one now.
    """
    place = {(u.step, u.operand, u.index): i for i, t in enumerate(now.tensors) for u in t.uses}
    to = {}
    for index in tensors:
        tensor = made_for.tensors[index]
        found = {place.get((u.step, u.operand, u.index)) for u in tensor.uses} - {None}
        if len(found) != 1 or now.tensors[next(iter(found)) or 0].size_bytes != tensor.size_bytes:
            raise InputError(f"{made_for.name}: tensor {tensor.name} of the mapping is not in the program of now")
        to[index] = next(iter(found)) or 0
    return to


class OverrideOutcome(StrEnum):
    """What became of an override."""

    REALISED = "realised"  # the compiler did exactly that
    CHANGED = "changed"  # it did something else
    REFUSED = "refused"  # it would not compile with the override, which was withdrawn


def outcome_of(override: Override, program: Program, got: Mapping | None, refused: bool = False) -> OverrideOutcome:
    """Return whether the compiler's mapping carries out an override."""
    if got is None:
        return OverrideOutcome.REFUSED
    serving, uses = serving_layers(program, got), program.uses
    rows = slice(int(uses.first[override.tensor]), int(uses.first[override.tensor + 1]))
    layers = serving[rows]
    own = program.tensors[override.tensor].uses
    if override.action is Action.KEEP and override.place.operand >= 0:
        done = not any(k for u, k in zip(own, layers.tolist(), strict=True) if u.step == override.step)
    elif override.action is Action.KEEP:
        rows_of = {step: rows for _, step, rows in values(program, override.tensor)}
        done = not layers[rows_of[override.step]].any() if override.step in rows_of else not layers.any()
    elif override.action in (Action.PREFETCH, Action.PREFER):
        done = any(
            x.tensor == override.tensor
            and x.target != HOME
            and x.start_after == override.start_after
            and x.done_before <= override.step < got.residencies[x.target].end_step
            for x in got.transfers
        )
    elif override.action is Action.PIN:  # from the definition to the last use, without leaving
        done = bool(layers.all()) and not any(x.tensor == override.tensor for x in got.transfers)
    else:
        done = any(u.step == override.step and u.operand < 0 and k for u, k in zip(own, layers.tolist(), strict=True))
    if done:
        return OverrideOutcome.REALISED
    return OverrideOutcome.REFUSED if refused else OverrideOutcome.CHANGED
