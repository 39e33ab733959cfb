"""``mallocgame inject``: a mapping as options for the real compiler, verified by compiling."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.common import JsonOption, interrupted, print_json, print_table, say
from mallocgame.cli.compiling import ArgsOption, ChipOfTraceOption, MeshOption, assumptions_in, target_of
from mallocgame.cli.status import status
from mallocgame.cli.traces import open_trace
from mallocgame.errors import InputError

if TYPE_CHECKING:
    from mallocgame.workloads.compiler_loop.inject import InjectionResult
    from mallocgame.workloads.program_reference import ProgramReference
    from mallocgame.workloads.trace import Trace

NO_OPTIONS = "there are no options, and a file of them holds none"


def inject(
    mapping: Annotated[Path, typer.Argument(metavar="MAPPING", help="A mapping file, as evaluate --out writes it.")],
    program: Annotated[
        str, typer.Option("--program", metavar="PACKAGE.MODULE:FUNCTION", help="The JAX function that it is for.")
    ],
    trace: Annotated[str, typer.Option("--trace", help="The trace that it was made for: a file or a shipped name.")],
    chip: ChipOfTraceOption = "",
    mesh: MeshOption = "",
    args: ArgsOption = "",
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Compile, read back what became of it, withdraw what is refused."),
    ] = True,
    seconds: Annotated[
        float,
        typer.Option("--seconds", help="How long you wait: first compilation, search and last check."),
    ] = 60.0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Write the options here, for mallocgame.load_compiler_options; without any where the default is best.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Turn a mapping into options that make XLA:TPU carry it out, and verify that it does.

    Example: mallocgame inject best.json --trace step.json.gz --program my_package.model:step --out step.options.json
    """
    from mallocgame.compiler_options import differing_versions
    from mallocgame.files import check_writable
    from mallocgame.judge.validation import validate
    from mallocgame.workloads.program_reference import parse_reference
    from mallocgame.workloads.trace import load_mapping

    begin = time.monotonic()
    if out is not None:
        check_writable(out)
    made_for = open_trace(trace)
    wanted = load_mapping(mapping, made_for.program, made_for.hierarchy)
    broken = validate(made_for.program, made_for.hierarchy, wanted)
    if broken:
        raise InputError(f"{mapping}: not a valid mapping of {trace}: {broken[0].message}")
    if not 0 <= seconds < float("inf"):
        raise InputError(f"--seconds must be a number >= 0, got {seconds}")
    for line in differing_versions(made_for.provenance):
        say(f"warning: the trace was {line}")
    chip, mesh = target_of(made_for, chip, mesh)
    if not verify:
        _unverified(made_for, wanted, out, json)
        return
    result, about = _verified(made_for, wanted, parse_reference(program, args, mesh=mesh), chip, seconds, begin)
    if result.options or not result.interrupted:
        write_options(result.options, out, about)
    _show(result, made_for.name, json, is_saved=out is not None)
    if result.interrupted:
        raise interrupted("the best so far was kept")


def _unverified(made_for: "Trace", wanted: Any, out: Path | None, json: bool) -> None:
    from mallocgame.workloads.compiler_loop.overrides import options_of, overrides_of

    overrides = overrides_of(made_for.program, wanted)
    options = options_of(overrides, sizes_bytes=made_for.program.sizes_bytes)
    say("not verified: the compiler may refuse these overrides, or do otherwise in silence")
    about: dict[str, str | float | None] = {"program": made_for.name, "verified": "no"}
    write_options(options, out, about | versions(made_for))
    if json:
        print_json([{"trace": made_for.name, "overrides": len(overrides), "compiler_options": options}])
    elif out is None:
        print_options(options)


def _verified(
    made_for: "Trace", wanted: Any, reference: "ProgramReference", chip: str, seconds: float, begin: float
) -> "tuple[InjectionResult, dict[str, str | float | None]]":
    """Compile, give the mapping to the compiler; return what became of it, and what the options are for."""
    from mallocgame.workloads.compiler_loop.inject import inject as run
    from mallocgame.workloads.compiler_loop.verify import Target, carry_over, renamed
    from mallocgame.workloads.xla.compiler import Compiler

    with Compiler() as compiler, status(seconds) as shown:
        shown.phase(f"compiling {reference} for {chip}")
        target = Target.of(reference, chip, compiler, assumptions=assumptions_in(made_for))
        changed = renamed(made_for.program, target.trace.program)
        if changed:
            names = ", ".join(changed[:8]) + (", …" if len(changed) > 8 else "")
            shown.say(f"warning: {len(changed)} instructions have other names now; found again by their place: {names}")
        then = made_for.provenance.get("lowering")
        if then and target.lowering not in ("", then):
            shown.say("warning: the program has changed since the trace was captured; its schedule is the same")
        now = carry_over(wanted, made_for.program, target.trace.program)
        result = run(target, now, seconds=seconds, begin=begin, say=shown.phase)
    about: dict[str, str | float | None] = {
        "program": str(reference),
        "arguments": reference.arguments,
        "chip": chip,
        "verified": "yes",
        "compiled_to_its_end": result.why_not_full or "yes",
        "default_judged_seconds": result.default_seconds,
        "judged_seconds": result.judged_seconds,
    }
    return result, about | versions(target.trace)


def _cell(key: str, value: Any) -> tuple[str, str]:
    from mallocgame.text import seconds_text

    if key.endswith("_seconds") and isinstance(value, float):
        return key.removesuffix("_seconds").replace("_", " "), seconds_text(value)
    return key.replace("_", " "), f"{value:.6g}" if isinstance(value, float) else str(value)


def _show(result: "InjectionResult", name: str, json: bool, *, is_saved: bool) -> None:
    row: dict[str, Any] = {
        "trace": name,
        **result.counts,
        "wanted_judged_seconds": result.wanted_seconds,
        "default_judged_seconds": result.default_seconds,
        "judged_seconds": result.judged_seconds,
        "default_xla_estimate_seconds": result.default_xla_seconds,
        "xla_estimate_seconds": result.xla_seconds,
        "default_estimated_cycles": result.default_full and result.default_full.cycles,
        "estimated_cycles": result.full and result.full.cycles,
        "compilations": result.evaluations,
        "refused_overrides": result.refusals,
        "is_faster": bool(result.options),
    }
    if json:
        outcomes = [{"override": str(d), "step": d.step, "outcome": outcome.value} for d, outcome in result.outcomes]
        print_json([{**row, "overrides": outcomes, "compiler_options": result.options}])
        return
    print_table(
        name,
        ("", "value"),
        [_cell(key, value) for key, value in row.items() if value is not None and key != "is_faster"],
    )
    left = [(str(d), outcome.value) for d, outcome in result.outcomes if outcome.value != "realised"]
    if left:
        shown = left[:20]
        print_table(f"not realised: {len(left)}, the largest first", ("override", "outcome"), shown)
    if result.options and not is_saved:
        print_options(result.options)
    if not result.options:
        say(f"nothing that the compiler takes is faster than its default: {NO_OPTIONS}")
    if result.options and result.why_not_full and not result.interrupted:
        say(f"not compiled to its end ({result.why_not_full}): what is illegal only there is not known")


def write_options(options: dict[str, str | bool], out: Path | None, about: dict[str, str | float | None]) -> None:
    """Write the options file, if one is asked for."""
    if out is not None:
        from mallocgame.compiler_options import is_better, save_compiler_options

        if is_better(out, about):
            say(f"kept {out}: the options in it are judged faster than these")
            return
        save_compiler_options(out, options, about)
        say_saved(out)


def say_saved(out: Path) -> None:
    """Say how the options in a file are used."""
    say(f"saved {out}: compile(compiler_options=mallocgame.load_compiler_options({str(out)!r}))")


def print_options(options: dict[str, str | bool]) -> None:
    """Print the options as Python and as a shell setting."""
    import pprint
    import sys

    from mallocgame.workloads.compiler_loop.overrides import environment_line

    sys.stdout.write(f"compiler_options = {pprint.pformat(options, width=10**6)}\n{environment_line(options)}\n")


def versions(trace: "Trace") -> dict[str, str | float | None]:
    """Return the versions that a trace was made with."""
    return {package: str(trace.provenance.get(package) or "") for package in ("jax", "jaxlib", "libtpu")}
