"""A JAX function (or a log that someone made) → a trace: program, memory, XLA's own mapping and estimates."""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from mallocgame.errors import InputError, TraceError
from mallocgame.files import read_lines, reader
from mallocgame.hierarchy import Hierarchy, preset
from mallocgame.judge.validation import Violation, validate
from mallocgame.mapping import Mapping
from mallocgame.program import Program
from mallocgame.workloads.anonymise import anonymise
from mallocgame.workloads.hlo.module import HloModule, parse_hlo
from mallocgame.workloads.hlo.schedule import Expectations
from mallocgame.workloads.program_reference import ProgramReference, parse_reference, reference_to
from mallocgame.workloads.trace import Trace, Value
from mallocgame.workloads.xla.compiler import Compilation, Compiler, CompileRequest, Options, newest_module
from mallocgame.workloads.xla.cycles import cycle_estimates
from mallocgame.workloads.xla.estimates import estimates
from mallocgame.workloads.xla.fidelity import disagreement, total_error
from mallocgame.workloads.xla.kernels import has_large_kernel
from mallocgame.workloads.xla.log import parse_log
from mallocgame.workloads.xla.mapping import build_mapping, without_broken
from mallocgame.workloads.xla.network import with_network_times
from mallocgame.workloads.xla.program import XlaProgram, build_program, hidden_definitions
from mallocgame.workloads.xla.records import XlaLog
from mallocgame.workloads.xla.regions import Assumed
from mallocgame.workloads.xla.remarks import Basis
from mallocgame.workloads.xla.remarks import provenance as remarks
from mallocgame.workloads.xla.reschedule import with_moves
from mallocgame.workloads.xla.scheduled import ScheduledModule
from mallocgame.workloads.xla.topology import chip_of, num_devices, parse_mesh

__all__ = ["Assumptions", "capture", "trace_from_compilation", "trace_from_files"]

MAX_DISAGREEMENT = 0.01  # of XLA's instruction time: what is judged over 1 % otherwise, and said
MAX_TOTAL_DISAGREEMENT = 0.02  # of XLA's total: in its queues, ties alone have come to 1.4 %
SPARSE_CORE = 'async_execution_thread="sparsecore"'
CUSTOM_PARTITIONING = 'custom_call_target="CustomSPMDPartitioning"'
ON_THE_TENSOR_CORE: Options = {
    "xla_tpu_offload_gather_to_sparsecore": "false",
    "xla_tpu_enable_offloading_scatter_to_sparsecore": "false",
    "xla_tpu_enable_offloading_sort_to_sparsecore": "false",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What the user knows and the compiler does not."""

    trip_counts: dict[str, float] = field(default_factory=dict)  # of loops without a constant one; "": of all those
    branch_weights: dict[str, tuple[float, ...]] = field(default_factory=dict)  # of conditionals; "": of all alike
    ici_bytes_per_second: float | None = None  # between chips, each way; None: the network's time is left out

    @property
    def expectations(self) -> Expectations:
        """Of loops and conditionals."""
        return Expectations(trip_counts=self.trip_counts, weights=self.branch_weights)


def capture(  # noqa: PLR0913 (its options, by name)
    function: Callable[..., Any] | ProgramReference | str,
    arguments: str = "",
    *,
    chip: str,
    mesh: str = "",
    compiler_options: Options | None = None,
    assumptions: Assumptions | None = None,
    full: bool = False,
    name: str = "",
    refine: int = 2,
    compiler: Compiler | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Trace:
    """Compile a function ahead of time for TPU chips that need not be there, and return its trace.

    Args:
        function: a reference, ``package.module:function``, or a function that can be imported by that name.
        arguments: shapes such as ``bf16[8,128],f32[]``; empty: the function's or its module's ``example_args``.
        chip: ``v4``, ``v5e``, ``v5p`` or ``v6e``, or several, such as ``v5e:2x2``; the trace is of one of them.
        mesh: axes over the chips, such as ``data=2,model=2``, handed to ``example_args(mesh)``.
        compiler_options: libtpu options, such as overrides.
        assumptions: trip counts and network bandwidth, which the compiler does not know.
        full: let the compilation finish (finds errors that come after memory-space assignment, keeps cycle estimates).
        name: the trace's name; empty: the function's name and the chip.
        refine: at most so many further compilations, with other mappings, where one hides compute times.
        compiler: a warm ``Compiler`` to use again and again; without one, one is started and ended.
        on_bytes: told how many bytes of log have been read.

    Raises:
        InputError: no such function or chip.
        TraceError: the compilation failed, or is of a kind that a trace cannot express.
    """
    asked = CaptureRequest(
        reference=_reference(function, arguments, mesh),
        chip=chip,
        options=dict(compiler_options or {}),
        assumptions=assumptions or Assumptions(),
        full=full,
        name=name,
        refine=refine,
        on_bytes=on_bytes,
    )
    if compiler is not None:
        return run_capture(asked, compiler).trace
    with Compiler() as own:
        return run_capture(asked, own).trace


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRequest:
    """What ``capture`` is asked for."""

    reference: ProgramReference
    chip: str
    options: Options = field(default_factory=dict)
    assumptions: Assumptions = field(default_factory=Assumptions)
    full: bool = False
    name: str = ""
    refine: int = 2
    on_bytes: Callable[[int], None] | None = None
    keep: bool = False  # the scheduled module


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A trace, how its program's parts correspond to the compiler's, and the options it was compiled with."""

    trace: Trace
    built: XlaProgram
    options: Options  # those asked for, and those without which the program could not be captured
    compile_seconds: float  # that the first compilation took
    lowering: str = ""  # a hash of the lowered program, empty if not known
    scheduled: ScheduledModule | None = None  # what the compiler made of the program before it assigned memory


def run_capture(asked: CaptureRequest, compiler: Compiler) -> Captured:
    """Do what ``capture`` does, and say more of it."""
    reference, options = asked.reference, asked.options
    compilation = _compile(asked, options, compiler)
    notes: list[str] = []
    if SPARSE_CORE in compilation.hlo:
        options = ON_THE_TENSOR_CORE | options
        notes.append(
            "compiled with gathers and scatters on the tensor core: what sparse cores do beside is not modelled"
        )
        compilation = _compile(asked, options, compiler)
    late = CUSTOM_PARTITIONING in compilation.hlo or has_large_kernel(compilation.hlo, compilation.log)
    if late and not asked.full:  # what libtpu cannot do shows at the end of a compilation only
        _compile(replace(asked, full=True), options, compiler, hlo=False)
    name = asked.name or f"{reference.name}-{asked.chip.replace(':', '-')}"
    reading = _Reading.of(
        compilation.log.splitlines(), compilation.hlo, asked.chip, name, assumptions=asked.assumptions
    )
    for _ in range(asked.refine):
        hidden = hidden_definitions(reading.log, reading.built)
        if not hidden:
            break
        again = CompileRequest(
            reference=reference,
            chip=asked.chip,
            options=_assign_first(options, hidden),
            hlo=False,
            scheduled=compilation.scheduled,
        )
        other = compiler.compile(again)
        if other.error and again.scheduled is not None:
            other = compiler.compile(replace(again, scheduled=None))
        if other.error or not reading.refine(other.log.splitlines()):
            break
    provenance: dict[str, Value] = {
        "program": str(reference),
        "arguments": reference.arguments,
        "compiler_options": "; ".join(f"{key}={value}" for key, value in sorted(options.items())),
        **_versions(),
    }
    if compilation.lowering:
        provenance["lowering"] = compilation.lowering
    if notes:
        provenance["notes"] = tuple(notes)
    if reference.mesh:
        provenance["mesh"] = reference.mesh
    trace = reading.trace(provenance)
    if compilation.final_hlo:
        cycles = cycle_estimates(with_moves(reading.log, reading.built.moves), compilation.final_hlo)
        trace = replace(trace, estimates=trace.estimates | cycles)
    return Captured(
        trace=_relative(trace, reference),
        built=reading.built,
        options=options,
        compile_seconds=compilation.seconds,
        lowering=compilation.lowering,
        scheduled=compilation.scheduled,
    )


def _compile(asked: CaptureRequest, options: Options, compiler: Compiler, *, hlo: bool = True) -> Compilation:
    request = CompileRequest(
        reference=asked.reference,
        chip=asked.chip,
        options=options,
        full=asked.full,
        hlo=hlo,
        final_hlo=asked.full and hlo,
        keep=asked.keep and hlo,
        on_bytes=asked.on_bytes,
    )
    return compiler.compile(request).check(asked.reference)


def _assign_first(options: Options, instructions: list[str]) -> Options:
    """Return options under which the results of ``instructions`` get the alternate memory before others."""
    names = "|".join(re.sub(r"([^\w])", r"\\\\\1", name) for name in instructions)
    matcher = f'hlo_position_matcher {{ instruction_name_regex: "{names}" }}'
    text = f"overrides {{ {matcher} override_options {{ assign_first: true }} }}"
    key = "xla_tpu_msa_sort_order_overrides"
    return options | {key: f"{text} {options.get(key, '')}".strip()}


def _relative(trace: Trace, reference: ProgramReference) -> Trace:
    """Write source paths relative to the folder that the function, or a library, was imported from."""
    roots = [f"{Path(folder).resolve()}/" for folder in (reference.folder, Path(__file__).parents[1]) if folder]

    def shorten(source: str) -> str:
        shorter = next((source.removeprefix(root) for root in roots if source.startswith(root)), source)
        return shorter.rpartition("/site-packages/")[2]

    instructions = tuple(replace(i, source=shorten(i.source)) for i in trace.program.instructions)
    return replace(trace, program=replace(trace.program, instructions=instructions))


def trace_from_compilation(
    compilation: Compilation, chip: str, *, name: str, provenance: dict[str, Value] | None = None
) -> Trace:
    """Return the trace of a compilation.

    Raises:
        TraceError: what the compiler wrote cannot be read as a trace.
    """
    return _Reading.of(compilation.log.splitlines(), compilation.hlo, chip, name).trace(provenance or {})


@reader("a log of libtpu")
def trace_from_files(
    log: str | os.PathLike[str],
    hlo_folder: str | os.PathLike[str],
    chip: str,
    *,
    name: str = "",
    hide: bool = False,
    assumptions: Assumptions | None = None,
) -> Trace:
    """Return the trace of a log and a dump folder that were made elsewhere (on a TPU host, say).

    ``hide`` replaces names and source paths; ``assumptions`` as for ``capture``.

    Raises:
        TraceError: a file that cannot be read, or is not what it should be.
    """
    module = newest_module(hlo_folder)
    if not module:
        reason = "no HLO from before memory-space assignment: dump with xla_dump_to and xla_dump_hlo_pass_re"
        raise TraceError(hlo_folder, None, f"{reason}='plumb-vmem-info|rename-tensor-core-fusion-ops'")
    trace_name = name or f"{Path(log).stem}-{chip}"
    reading = _Reading.of(
        read_lines(log, errors="replace"), module, chip, trace_name, path=str(log), assumptions=assumptions
    )
    trace = reading.trace({"log": Path(log).name})
    return anonymise(trace) if hide else trace


def hierarchy_of(log: XlaLog, chip: str) -> Hierarchy:
    """Return the chip's memory with the capacity, alignment and limits that the log states.

    Raises:
        InputError: an unknown chip.
        TraceError: options that are missing or not numbers.
    """
    base = preset(chip)
    if len(base.layers) != 2:
        raise InputError(f"{chip} is not a chip that XLA:TPU compiles for, expected v4, v5e, v5p or v6e")
    try:
        capacity, alignment = int(log.options["max_size_in_bytes"]), int(log.options["alignment_in_bytes"])
        limit = max(int(log.options["max_outstanding_prefetches"]), int(log.options["max_outstanding_evictions"]))
    except (KeyError, ValueError) as error:
        raise TraceError(log.path, None, f"the options of memory-space assignment lack a number: {error}") from error
    fast = replace(base.layers[1], capacity_bytes=capacity, alignment_bytes=alignment)
    link = replace(base.links[0], max_in_flight=max(limit, 1))
    return replace(base, layers=(base.layers[0], fast), links=(link,))


@dataclass(slots=True, kw_only=True)
class _Reading:
    """A compilation on its way to a trace."""

    name: str
    target: str
    log: XlaLog
    module: HloModule
    hierarchy: Hierarchy
    assumptions: Assumptions
    assumed: Assumed
    built: XlaProgram
    others: list[XlaLog] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        lines: Iterable[str],
        hlo: str,
        target: str,
        name: str,
        *,
        path: str = "",
        assumptions: Assumptions | None = None,
    ) -> Self:
        log = parse_log(lines, path or f"log of {name}")
        hierarchy, module = hierarchy_of(log, chip_of(target)), parse_hlo(hlo, f"HLO of {name}")
        assumed = Assumed(given=assumptions.expectations if assumptions else Expectations())
        built = build_program(log, module, hierarchy, name=name, assumed=assumed)
        return cls(
            name=name,
            target=target,
            log=log,
            module=module,
            hierarchy=hierarchy,
            assumptions=assumptions or Assumptions(),
            assumed=assumed,
            built=built,
        )

    def refine(self, lines: Iterable[str]) -> bool:
        """Use another compilation's log; False if it is of no use."""
        before = self.built.hidden_seconds
        try:
            self.others.append(parse_log(lines, f"another log of {self.name}"))
            self.built = self._build()
        except TraceError:
            self.others = self.others[:-1]
            return False
        return self.built.hidden_seconds < before

    def _build(self, *, move_copies: bool = False, transfer_only: frozenset[str] | None = None) -> XlaProgram:
        return build_program(
            self.log,
            self.module,
            self.hierarchy,
            name=self.name,
            others=tuple(self.others),
            assumed=self.assumed,
            move_copies=move_copies,
            transfer_only=transfer_only,
        )

    def trace(self, provenance: dict[str, Value]) -> Trace:
        mapping, left_out, broken = self._valid_mapping()
        for transfer_only in (self.built.transferred, frozenset[str]()):  # less and less of what XLA does with copies
            if broken and (self.built.replaced or self.built.transferred):
                self.built = self._build(move_copies=True, transfer_only=transfer_only)
                mapping, left_out, broken = self._valid_mapping()
        if broken:
            reason = f"XLA's own mapping breaks {len(broken)} rules of ours, the first: {broken[0].message}"
            raise TraceError(self.log.path, None, f"{reason} (rule {broken[0].rule}, step {broken[0].step})")
        basis = Basis(
            log=with_moves(self.log, self.built.moves), built=self.built, hierarchy=self.hierarchy, assumed=self.assumed
        )
        facts: dict[str, Value] = {
            "chip": chip_of(self.target),
            "compilations": 1 + len(self.others),
            "unreconciled_bytes": self.built.unreconciled_bytes,
            "hidden_compute_seconds": self.built.hidden_seconds,
            **remarks(basis),
        }
        if left_out:
            facts["xla_placements_left_out"] = tuple(self.built.program.tensors[i].name for i in left_out)
        if self.target != facts["chip"]:
            facts["topology"] = self.target
        trace = Trace(
            name=self.name,
            program=self.built.program,
            hierarchy=self.hierarchy,
            mapping=mapping,
            estimates=estimates(with_moves(self.log, self.built.moves), self.built),
            provenance=provenance | facts,
        )
        share, where = disagreement(trace)
        if share > MAX_DISAGREEMENT:
            facts |= {"disagreeing_share": share, "disagreeing_instruction": where}
        error = total_error(trace)
        if abs(error) > MAX_TOTAL_DISAGREEMENT:
            facts |= {"disagreeing_total": error}
        return replace(trace, program=self._with_network(facts), provenance=provenance | facts)

    def _valid_mapping(self) -> tuple[Mapping, list[int], list[Violation]]:
        """Return XLA's mapping, the tensors left out of it for the sake of branches, and what it still breaks."""
        mapping = build_mapping(self.log, self.built)
        broken = validate(self.built.program, self.hierarchy, mapping)
        if not broken or not self.built.program.conditionals:
            return mapping, [], broken
        mapping, left_out = without_broken(self.built.program, self.hierarchy, mapping)
        results = {self.built.program.tensors[index].name for index in left_out} & self.built.transferred
        return mapping, left_out, broken if results else validate(self.built.program, self.hierarchy, mapping)

    def _with_network(self, facts: dict[str, Value]) -> Program:
        speed = self.assumptions.ici_bytes_per_second
        if speed is None or "collectives" not in facts:
            return self.built.program
        facts["ici_bytes_per_second"] = speed
        aliases, devices = self.built.aliases, num_devices(self.target)
        return with_network_times(self.built.program, self.log, aliases, bytes_per_second=speed, num_devices=devices)


def _reference(
    function: Callable[..., Any] | ProgramReference | str, arguments: str, mesh: str = ""
) -> ProgramReference:
    parse_mesh(mesh)
    if isinstance(function, ProgramReference):
        changes = {"arguments": arguments, "mesh": mesh}
        return replace(function, **{key: value for key, value in changes.items() if value})
    if isinstance(function, str):
        return parse_reference(function, arguments, mesh=mesh)
    reference = reference_to(function)
    if reference is None:
        raise InputError(f"{function!r} cannot be imported by name; define it at the top level of a module")
    return replace(reference, arguments=arguments, mesh=mesh)


def _versions() -> dict[str, Value]:
    found: dict[str, Value] = {}
    for package in ("jax", "jaxlib", "libtpu"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = ""
    return found
