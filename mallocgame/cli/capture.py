"""``mallocgame capture``: a JAX function, or a log made elsewhere, as a trace."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mallocgame.cli.captured import remarks_of, row_of
from mallocgame.cli.common import JsonOption, print_json, print_table, progress, say
from mallocgame.cli.compiling import (
    ArgsOption,
    BranchWeightsOption,
    ChipOption,
    IciOption,
    MeshOption,
    TripCountOption,
    assumptions_of,
)
from mallocgame.cli.programs import ProgramsOption
from mallocgame.cli.sweeping import RayOption, WorkersOption
from mallocgame.errors import InputError
from mallocgame.files import check_name, check_writable

if TYPE_CHECKING:
    from mallocgame.workloads.capture import Assumptions
    from mallocgame.workloads.trace import Trace


def capture(
    function: Annotated[
        str | None,
        typer.Argument(
            metavar="[PACKAGE.MODULE:FUNCTION]", help="The JAX function; FILE.py:FUNCTION; 'train.py --layers 4:step'."
        ),
    ] = None,
    chip: ChipOption = "v5e",
    mesh: MeshOption = "",
    args: ArgsOption = "",
    trip_count: TripCountOption = None,
    branch_weights: BranchWeightsOption = None,
    ici_gbps: IciOption = None,
    programs: ProgramsOption = None,
    workers: WorkersOption = 1,
    ray: RayOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Save the trace here (.json or .json.gz); default: TRACE.json.gz in this folder."),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="A libtpu compiler option; repeatable.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Let the compilation finish: slower, and finds errors after the assignment.")
    ] = False,
    log: Annotated[
        Path | None, typer.Option("--log", help="Read this log of libtpu instead of compiling (needs --hlo-dir).")
    ] = None,
    hlo_dir: Annotated[
        Path | None,
        typer.Option(
            "--hlo-dir",
            help="The folder that xla_dump_to named for the same compilation (with --hlo: for the offsets).",
        ),
    ] = None,
    hlo: Annotated[
        Path | None,
        typer.Option(
            "--hlo",
            help="Read scheduled HLO text of any backend: times from shapes, its placement (--chip: a preset, or a "
            "hierarchy's file).",
        ),
    ] = None,
    anonymise: Annotated[
        bool, typer.Option("--anonymise", help="Leave out names of tensors and instructions, and source places.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Compile a JAX function for a TPU chip, without the chip, and save what the compiler planned as a trace.

    Example: mallocgame capture my_package.model:step --chip v5e --args "bf16[8,128,768]" --out step.json.gz
    """
    if programs is not None:
        if any((function, log, hlo_dir, hlo, args, mesh)) or out is None:
            raise InputError(
                "--programs needs --out FOLDER, and neither a function, --args and --mesh nor --log and --hlo"
            )
        from mallocgame.cli.capture_many import CaptureSettings, capture_many

        known = assumptions_of(trip_count, branch_weights, ici_gbps)
        how = CaptureSettings(options=_options(option or []), assumptions=known, full=full, anonymise=anonymise)
        capture_many(programs, chip, how, out=out, workers=workers, ray=ray, as_json=json)
        return
    if workers > 1 or ray is not None:
        raise InputError("--workers and --ray are for many functions: give --programs TABLE")
    if sum(source is not None for source in (function, log, hlo)) != 1:
        raise InputError("give one of: a function (package.module:function), --log FILE with --hlo-dir DIR, --hlo FILE")
    if (log is not None and hlo_dir is None) or (hlo_dir is not None and log is None and hlo is None):
        raise InputError("--log and --hlo-dir go together: the log says what moved, the HLO what it is part of")
    if out is not None:
        check_name(out, (".json", ".json.gz"), "--out")
    check_writable(out or Path("trace.json.gz"))
    if function is None and (args or option or full or mesh):
        raise InputError("--args, --mesh, --option and --full are for compiling, not for what was compiled before")
    known = assumptions_of(trip_count, branch_weights, ici_gbps)
    if hlo is not None:
        from mallocgame.cli.cases import find_hierarchy
        from mallocgame.workloads.hlo_trace import trace_from_hlo

        trace = trace_from_hlo(hlo, find_hierarchy(chip), expectations=known.expectations, dump=hlo_dir)
    elif log is not None and hlo_dir is not None:
        from mallocgame.workloads.capture import trace_from_files

        trace = trace_from_files(log, hlo_dir, chip, assumptions=known)
    else:
        trace = _compiled(str(function), (chip, mesh, args), option or [], known, full)
    if anonymise:
        from mallocgame.workloads.anonymise import anonymise as without_names

        trace = without_names(trace)
    from mallocgame.workloads.trace import save_trace

    place = out or Path(re.sub(r"[^\w.-]+", "_", trace.name) + ".json.gz")
    replaced = " (in place of an older file)" if out is None and place.exists() else ""
    save_trace(place, trace)
    _show(trace, json)
    for remark in remarks_of(trace):
        say(remark)
    say(f"saved {place}{replaced}")


def _compiled(
    function: str, target: tuple[str, str, str], option: list[str], known: "Assumptions", full: bool
) -> "Trace":
    from mallocgame.workloads.capture import capture as run

    chip, mesh, args = target
    with progress(f"compiling {function} for {chip}") as advance:
        return run(
            function,
            args,
            chip=chip,
            mesh=mesh,
            compiler_options=_options(option),
            assumptions=known,
            full=full,
            on_bytes=advance,
        )


def _options(option: list[str]) -> dict[str, str | bool]:
    options: dict[str, str | bool] = {}
    for text in option:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise InputError(f"--option {text}: expected KEY=VALUE")
        options[key] = value
    return options


def _show(trace: "Trace", json: bool) -> None:
    row = row_of(trace)
    if json:
        print_json([row])
        return
    from mallocgame.text import bytes_text, seconds_text

    fast, slow = trace.hierarchy.layers[1], trace.hierarchy.layers[0]
    cells = [
        ("chip", str(row["chip"])),
        *((name, str(row[name])) for name in ("instructions", "tensors", "decisions")),
        (f"capacity of {fast.name}", bytes_text(fast.capacity_bytes)),
        ("XLA's own mapping, judged", seconds_text(row["xla_judged_seconds"]) or "no compiler mapping"),
        ("XLA's own estimate", seconds_text(row["xla_estimate_seconds"])),
        (f"all in {slow.name}", seconds_text(row["none_judged_seconds"])),
        ("lower bound (proved)", seconds_text(row["lower_bound_seconds"])),
    ]
    print_table(trace.name, ("", "value"), [(name, cell) for name, cell in cells if cell])
