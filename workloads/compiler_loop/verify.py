"""What the compiler made of orders: compile again, read its allocations back, and judge them.

The judge's time of the mapping that the compiler really chose is what counts. XLA's own estimate and the sum of
``estimated_cycles`` stand beside it: either can fall while the program gets slower (docs/compiler_loop.md).
"""

import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from mallocgame.errors import InputError, TraceError
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HOME, Mapping, serving_layers
from mallocgame.program import Program
from mallocgame.workloads.capture import capture_program
from mallocgame.workloads.compiler_loop.overrides import Action, Decision, options_of
from mallocgame.workloads.program_reference import ProgramReference
from mallocgame.workloads.trace import Trace
from mallocgame.workloads.xla.compiler import Compilation, Options
from mallocgame.workloads.xla.log import parse_mapping_log
from mallocgame.workloads.xla.mapping import build_mapping
from mallocgame.workloads.xla.program import XlaProgram


class CompilesPrograms(Protocol):
    """What is needed of ``mallocgame.workloads.xla.compiler.Compiler``; tests bring their own."""

    def compile(
        self,
        reference: ProgramReference,
        chip: str,
        options: Options | None = None,
        *,
        full: bool = False,
        hlo: bool = True,
        again: bool = False,
        timeout_seconds: float = 600.0,
    ) -> Compilation:
        """Compile once."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One compilation with orders. ``mapping`` is the compiler's, in the tensors of the default compilation."""

    options: Options
    error: str = ""  # why there is no mapping
    mapping: Mapping | None = None
    judged_seconds: float = float("inf")
    xla_seconds: float = float("inf")
    seconds: float = 0.0  # that it took, with reading and judging


@dataclass(frozen=True, kw_only=True)
class Target:
    """A program as the compiler compiles it by default, ready to be compiled again with orders.

    Raises (``of``, ``evaluate``):
        InputError, TraceError: the program cannot be compiled or read; ``evaluate`` reports a refusal instead.
    """

    reference: ProgramReference
    chip: str
    compiler: CompilesPrograms
    trace: Trace  # of the default compilation: names are those of now
    built: XlaProgram  # its program, and what the compiler calls its parts
    timeout_seconds: float = 300.0

    @classmethod
    def of(
        cls, reference: ProgramReference, chip: str, compiler: CompilesPrograms, *, timeout_seconds: float = 300.0
    ) -> "Target":
        """Compile by default."""
        trace, built = capture_program(reference, chip, compiler)  # type: ignore[arg-type]
        return cls(
            reference=reference,
            chip=chip,
            compiler=compiler,
            trace=trace,
            built=built,
            timeout_seconds=timeout_seconds,
        )

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

    def evaluate(self, decisions: Sequence[Decision], flags: Options | None = None) -> Evaluation:
        """Compile with orders until memory-space assignment is done, and judge what it did."""
        start = time.perf_counter()
        options = options_of(decisions, flags)
        done = self.compiler.compile(
            self.reference, self.chip, options, hlo=False, again=True, timeout_seconds=self.timeout_seconds
        )
        if done.error:
            return Evaluation(options=options, error=last_words(done), seconds=time.perf_counter() - start)
        try:
            mapping, estimate = read_mapping(done.log.splitlines(), self.built)
        except TraceError as error:
            return Evaluation(options=options, error=f"not readable: {error}", seconds=time.perf_counter() - start)
        broken = validate(self.trace.program, self.trace.hierarchy, mapping)
        if broken:
            return Evaluation(
                options=options,
                error=f"what the compiler did breaks a rule of ours: {broken[0].message}",
                seconds=time.perf_counter() - start,
            )
        return Evaluation(
            options=options,
            mapping=mapping,
            judged_seconds=simulate(self.trace.program, self.trace.hierarchy, mapping).total_seconds,
            xla_seconds=estimate,
            seconds=time.perf_counter() - start,
        )

    def compile_fully(self, options: Options) -> "FullCompile":
        """Let the compiler finish, which finds what is illegal only later, and sum its cycle estimates."""
        with tempfile.TemporaryDirectory(prefix="mallocgame-full-") as folder:
            dump: Options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
            done = self.compiler.compile(
                self.reference, self.chip, options | dump, full=True, hlo=False, timeout_seconds=self.timeout_seconds
            )
            if done.error:
                return FullCompile(error=last_words(done), compile_seconds=done.seconds)
            texts = [p.read_text("utf-8", "replace") for p in sorted(Path(folder).glob("*after_codegen.txt"))]
        trips = {i.computation: i.trip_count for i in self.trace.program.instructions}
        cycles = estimated_cycles(max(texts, key=len), trips) if texts else None
        return FullCompile(cycles=cycles, compile_seconds=done.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class FullCompile:
    """A compilation to its end; ``cycles`` is None where the compiler's dump holds no estimates."""

    cycles: int | None = None
    error: str = ""
    compile_seconds: float = 0.0


def last_words(compilation: Compilation) -> str:
    """Return why a compilation failed, in one line; of a child that died or hung the end of its log."""
    if "FAILED_PRECONDITION" in compilation.error or "Error" in compilation.error:
        return compilation.error
    tail = " | ".join(line.strip()[-160:] for line in compilation.log.splitlines()[-3:] if line.strip())
    return f"{compilation.error}; its log ends: {tail or '(empty)'}"


def estimated_cycles(module: str, trips: dict[str, int]) -> int | None:
    """Return the sum of ``estimated_cycles`` over a module's scheduled computations, each times its trip count.

    ``trips`` names the scheduled computations; None: the text holds no estimate for them.

    >>> text = 'ENTRY %main (p: f32[]) -> f32[] {\\n  %a = f32[] fusion(), "estimated_cycles":"7"\\n}\\n'
    >>> estimated_cycles(text, {"main": 3})
    21
    """
    total, found, weight = 0, False, 0
    for line in module.splitlines():
        if line[:1] not in (" ", "}", "") and line.rstrip().endswith("{"):
            name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
            weight = trips.get(name, 0)
        for cycles in re.findall(r'"estimated_cycles":"(\d+)"', line):
            total, found = total + int(cycles) * weight, found or weight > 0
    return total if found else None


def read_mapping(lines: Iterable[str], built: XlaProgram) -> tuple[Mapping, float]:
    """Return what the compiler did with a program that it has compiled before, and its own estimate in seconds.

    Raises:
        TraceError: the log is incomplete, or of another schedule.
    """
    log = parse_mapping_log(lines)
    if [name for _, name in log.schedule] != [i.name for i in built.program.instructions]:
        raise TraceError(log.path, None, "the compiler scheduled another program than by default")
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
    place = {(u.step, u.operand, u.index): i for i, t in enumerate(now.tensors) for u in t.uses}
    to = {}
    for index in {r.tensor for r in mapping.residencies} | {x.tensor for x in mapping.transfers}:
        tensor = made_for.tensors[index]
        found = {place.get((u.step, u.operand, u.index)) for u in tensor.uses} - {None}
        if len(found) != 1 or now.tensors[next(iter(found)) or 0].size_bytes != tensor.size_bytes:
            raise InputError(f"{made_for.name}: tensor {tensor.name} of the mapping is not in the program of now")
        to[index] = next(iter(found)) or 0
    return Mapping(
        residencies=tuple(replace(r, tensor=to[r.tensor]) for r in mapping.residencies),
        transfers=tuple(replace(x, tensor=to[x.tensor]) for x in mapping.transfers),
    )


class Fate(StrEnum):
    """What became of a decision."""

    REALISED = "realised"  # the compiler did exactly that
    CHANGED = "changed"  # it did something else
    REFUSED = "refused"  # it would not compile with the order, which was withdrawn


def fate_of(decision: Decision, program: Program, got: Mapping | None, refused: bool = False) -> Fate:
    """Return whether the compiler's mapping carries out a decision."""
    if got is None:
        return Fate.REFUSED
    serving, uses = serving_layers(program, got), program.uses
    rows = slice(int(uses.first[decision.tensor]), int(uses.first[decision.tensor + 1]))
    layers = serving[rows]
    own = program.tensors[decision.tensor].uses
    if decision.action is Action.KEEP and decision.place.operand >= 0:
        done = not any(k for u, k in zip(own, layers.tolist(), strict=True) if u.step == decision.step)
    elif decision.action is Action.KEEP:
        done = not layers.any()
    elif decision.action in (Action.PREFETCH, Action.PREFER):
        done = any(
            x.tensor == decision.tensor
            and x.target != HOME
            and x.start_after == decision.start_after
            and x.done_before <= decision.step < got.residencies[x.target].end_step
            for x in got.transfers
        )
    elif decision.action is Action.PIN:  # from the definition to the last use, without leaving
        done = bool(layers.all()) and not any(x.tensor == decision.tensor for x in got.transfers)
    else:
        done = any(u.step == decision.step and u.operand < 0 and k for u, k in zip(own, layers.tolist(), strict=True))
    if done:
        return Fate.REALISED
    return Fate.REFUSED if refused else Fate.CHANGED
