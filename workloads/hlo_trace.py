"""Scheduled HLO text of any backend → a trace with analytic times: for programs without a compiler estimate.

Time is a roofline: operations over the chip's peak, bytes over each layer's bandwidth. Where the text says which
memory its values live in (what XLA:TPU writes after memory-space assignment), that is the compiler's own mapping.
"""

import math
import os
import re
from pathlib import Path

from mallocgame.errors import InputError, TraceError, printable
from mallocgame.files import NOT_TEXT, read_bytes, read_lines, reader
from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Instruction, Program
from mallocgame.workloads.hlo import xla_parser
from mallocgame.workloads.hlo.aliases import Aliases, alias_groups
from mallocgame.workloads.hlo.buffer_assignment import Offsets, read_offsets
from mallocgame.workloads.hlo.module import HloModule, parse_hlo
from mallocgame.workloads.hlo.placement import CompilerPlacement, PlacedText, place
from mallocgame.workloads.hlo.schedule import ASSUMED_TRIP_COUNT, Expectations, Schedule, flatten, opaque_calls
from mallocgame.workloads.hlo.spaces import Spaces
from mallocgame.workloads.hlo.tensors import Tensors, find_tensors
from mallocgame.workloads.hlo.unshared import unshared
from mallocgame.workloads.hlo.verify import verify
from mallocgame.workloads.hlo.work import operations
from mallocgame.workloads.trace import Scalar, Trace, Value

# Peak operations per second (bf16, dense): Google Cloud TPU system architecture pages; NVIDIA H100 SXM data sheet.
PEAK_OPERATIONS = {
    "v4": 275e12,
    "v5e": 197e12,
    "v5p": 459e12,
    "v6e": 918e12,
    "host-v5e": 197e12,
    "h100": 989e12,
}
NO_EXPECTATIONS = Expectations()
MAX_BYTES = 2**30  # of packed text and of a serialized module
COMPILED = "compiled.as_text() or the dump's *after_optimizations.txt have it"
NUMBERED = re.compile(r"module_\d+")
STABLE_HLO = re.compile(r"\s*(?:#loc|module\s+(?:@|attributes|\{)|func\.func|\"builtin\.module\")")


@reader("scheduled HLO text")
def trace_from_hlo(
    file: str | os.PathLike[str],
    hierarchy: Hierarchy,
    *,
    operations_per_second: float | None = None,
    name: str = "",
    expectations: Expectations = NO_EXPECTATIONS,
    dump: str | os.PathLike[str] | None = None,
) -> Trace:
    """Read scheduled HLO text.

    Args:
        file: the text, as ``compiled.as_text()`` or ``xla_dump_to`` writes it, long or short, as it is or packed by
            gzip; or a serialized module (``*.hlo.pb``), which XLA's own parser prints.
        hierarchy: the memory to plan for.
        operations_per_second: the chip's peak; None: the preset's of that name.
        name: the trace's name; empty: the file's.
        expectations: trip counts and branch weights that the text does not give.
        dump: the folder of the same compilation's dump; its ``*buffer-assignment.txt`` has the offsets.

    Raises:
        InputError: no peak is known for the hierarchy.
        TraceError: not scheduled HLO text, or something in it that cannot be read, by line and instruction.
    """
    peak = _peak_operations(hierarchy.name) if operations_per_second is None else operations_per_second
    if not 0 < peak < math.inf:
        raise InputError(f"{hierarchy.name}: need operations per second > 0, got {peak}")
    module = read_module(_text_of(file), file)
    if not module.is_scheduled:
        reason = "the module is not scheduled (no is_scheduled=true): give what it is after optimizations"
        raise TraceError(file, 1, f"{reason}, as {COMPILED}")
    reading = Reading(module, hierarchy, peak, expectations=expectations, path=file)
    program = reading.program(name or _name_of(file, module))
    placed = reading.placement(program, read_offsets(dump, module, Path(file).name) if dump is not None else {})
    return Trace(
        name=program.name,
        program=program,
        hierarchy=hierarchy,
        mapping=placed.mapping,
        provenance={"hlo": Path(file).name, "operations_per_second": peak, **reading.notes(), **placed.notes},
    )


def _text_of(file: str | os.PathLike[str]) -> str:
    if Path(file).is_dir():
        modules = sorted(Path(file).glob("*after_optimizations.txt"), key=lambda path: -path.stat().st_size)
        example = f", such as {modules[0]}" if modules else ""
        raise TraceError(file, None, f"is a folder: name one module in it{example}")
    if not os.fspath(file).endswith(".pb"):
        try:
            return "\n".join(read_lines(file))
        except TraceError as error:
            if error.reason != NOT_TEXT:
                raise
    data = read_bytes(file, max_bytes=MAX_BYTES)
    if b"HloModule" in data[:4096]:  # it was packed
        try:
            return "\n".join(map(printable, data.decode("utf-8").split("\n")))
        except UnicodeDecodeError:
            raise TraceError(file, None, NOT_TEXT) from None
    text, reason = xla_parser.from_proto(data)
    if not text:
        if not xla_parser.available():
            reason = "to read the latter, install jaxlib"
        raise TraceError(file, None, f"neither HLO text nor a serialized HLO module: {reason or 'XLA gave up on it'}")
    return text


def _name_of(file: str | os.PathLike[str], module: HloModule) -> str:
    """Return the file's name without its endings; in a dump that is a number, and the module's name says more."""
    stem = Path(file).name.split(".")[0]
    return module.name if NUMBERED.fullmatch(stem) else stem


def remarks(trace: Trace) -> list[str]:
    """Return what a user should know of a trace that was read from HLO text, a sentence each."""
    facts, found = trace.provenance, []
    if "hlo" not in facts:
        return []
    loops, conditionals = facts.get("assumed_trip_counts"), facts.get("assumed_branch_weights")
    if isinstance(loops, tuple):
        found.append(f"no trip count known of {_listed(loops)}: {ASSUMED_TRIP_COUNT} assumed; --trip-count says better")
    if isinstance(conditionals, tuple):
        found.append(f"branches taken evenly in {_listed(conditionals)}; --branch-weights says better")
    placement = facts.get("placement")
    if isinstance(placement, str) and placement.startswith("not kept"):
        found.append(f"the placement in the text is {placement}")
    elif placement and facts.get("offsets") != "buffer assignment":
        found.append("the text has no offsets, they were found here; --hlo-dir reads the compiler's own")
    return found


def _listed(names: tuple[Scalar, ...]) -> str:
    shown = ", ".join(str(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _peak_operations(name: str) -> float:
    """Return the peak of the chip that a hierarchy is called after: my-v5e has v5e's."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    chips = [name, *(chip for chip in PEAK_OPERATIONS if chip in words)]
    found = next((PEAK_OPERATIONS[chip] for chip in chips if chip in PEAK_OPERATIONS), None)
    if found is None:
        known = ", ".join(PEAK_OPERATIONS)
        raise InputError(f"no peak rate is known for hierarchy {name!r}: let its name hold a chip's ({known}): my-v5e")
    return found


def read_module(text: str, path: object = "HLO") -> HloModule:
    """Parse a module; what this package's parser does not take, XLA's own may, where jaxlib brings it.

    Raises:
        TraceError: neither takes it.
    """
    if STABLE_HLO.match(text):
        raise TraceError(
            path, 1, f"StableHLO, from before XLA compiled it: give the HLO after optimizations, as {COMPILED}"
        )
    try:
        module = parse_hlo(text, path)
        verify(module, path)
    except TraceError as error:
        printed, reason = xla_parser.long_form(text)
        if not printed:
            raise TraceError(path, error.line, f"{error.reason}; XLA's parser: {reason}") from None if reason else error
        module = parse_hlo(printed, path)
    return module


def program_from_hlo(
    module: HloModule, peak: float, *, path: object = "HLO", name: str = "", hierarchy: Hierarchy | None = None
) -> Program:
    """Return the program of a scheduled module, with times from shapes and ``peak`` operations per second."""
    return Reading(module, hierarchy, peak, path=path).program(name)


class Reading:
    """A module on its way to a trace."""

    def __init__(
        self,
        module: HloModule,
        hierarchy: Hierarchy | None,
        peak: float,
        *,
        expectations: Expectations = NO_EXPECTATIONS,
        path: object = "HLO",
    ) -> None:
        self.path, self.peak, self.hierarchy = path, peak, hierarchy
        verify(module, path)
        self.module = unshared(module, path)
        self.aliases: Aliases = alias_groups(self.module, path, opaque_calls(self.module.computations))
        self.schedule: Schedule = flatten(self.aliases, expectations, path)
        self.spaces = Spaces.of(hierarchy)
        self.tensors: Tensors = find_tensors(self.aliases, self.schedule, self.spaces, path)

    def program(self, name: str = "") -> Program:
        """Return the program."""
        instructions = []
        for step, (computation, instruction_name) in enumerate(self.schedule.steps):
            instruction = self.aliases.instruction(instruction_name)
            work = operations(self.module, self.module.computations[computation], instruction)
            instructions.append(
                Instruction(
                    name=instruction_name,
                    compute_seconds=work / self.peak,
                    trip_count=self.schedule.trips[step],
                    opcode=instruction.opcode,
                    computation=computation,
                    source=self.module.source(instruction),
                )
            )
        return Program(
            name=name or self.module.name,
            instructions=tuple(instructions),
            tensors=self.tensors.tensors,
            loops=tuple(self.schedule.loops),
            conditionals=tuple(self.schedule.conditionals),
        )

    def placement(self, program: Program, offsets: Offsets) -> CompilerPlacement:
        """Return the mapping that the text's memory spaces state."""
        assert self.hierarchy is not None
        text = PlacedText(aliases=self.aliases, schedule=self.schedule, tensors=self.tensors, spaces=self.spaces)
        return place(program, self.hierarchy, text, offsets)

    def notes(self) -> dict[str, Value]:
        """Return what had to be assumed."""
        found: dict[str, Value] = {}
        if self.schedule.assumed_loops:
            found["assumed_trip_counts"] = tuple(self.schedule.assumed_loops)
        if self.schedule.assumed_conditionals:
            found["assumed_branch_weights"] = tuple(self.schedule.assumed_conditionals)
        if self.tensors.unplanned_spaces:
            found["memory_spaces_not_planned"] = tuple(f"S({space})" for space in self.tensors.unplanned_spaces)
        return found
