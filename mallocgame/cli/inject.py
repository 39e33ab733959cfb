"""``mallocgame inject``: a mapping as options for the real compiler, verified by compiling."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.common import JsonOption, print_json, print_table, progress, say
from mallocgame.cli.traces import open_trace
from mallocgame.errors import InputError

if TYPE_CHECKING:
    from mallocgame.workloads.compiler_loop.inject import Verdict
    from mallocgame.workloads.trace import Trace


def inject(
    mapping: Annotated[Path, typer.Argument(metavar="MAPPING", help="A mapping file, as evaluate --save writes it.")],
    program: Annotated[
        str, typer.Option("--program", metavar="PACKAGE.MODULE:FUNCTION", help="The JAX function that it is for.")
    ],
    trace: Annotated[str, typer.Option("--trace", help="The trace that it was made for: a file or a shipped name.")],
    chip: Annotated[str, typer.Option("--chip", help="v4, v5e, v5p or v6e; none: the trace's.")] = "",
    args: Annotated[str, typer.Option("--args", help="The function's arguments, e.g. 'bf16[8,128]'.")] = "",
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Compile, read back what became of it, withdraw what is refused."),
    ] = True,
    seconds: Annotated[
        float, typer.Option("--seconds", help="Search for orders that the compiler takes so long.")
    ] = 60.0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the options here, for mallocgame.load_compiler_options.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Turn a mapping into options that make XLA:TPU carry it out, and verify that it does.

    Example: mallocgame inject best.json --trace step.json.gz --program my_package.model:step --out step.options.json
    """
    from mallocgame.cli.traces import chip_of
    from mallocgame.compiler_options import differing_versions
    from mallocgame.judge.validation import validate
    from mallocgame.workloads.trace import load_mapping

    made_for = open_trace(trace)
    wanted = load_mapping(mapping, made_for.program, made_for.hierarchy)
    broken = validate(made_for.program, made_for.hierarchy, wanted)
    if broken:
        raise InputError(f"{mapping}: not a valid mapping of {trace}: {broken[0].message}")
    if not 0 <= seconds < float("inf"):
        raise InputError(f"--seconds must be a number >= 0, got {seconds}")
    for line in differing_versions(made_for.provenance):
        say(f"warning: the trace was {line}")
    chip = chip or chip_of(made_for)
    if not verify:
        _unverified(made_for, wanted, out, json)
        return
    _verified(made_for, wanted, program, args, chip, seconds, out, json)


def _unverified(made_for: "Trace", wanted: Any, out: Path | None, json: bool) -> None:
    from mallocgame.workloads.compiler_loop.overrides import decisions_of, options_of

    decisions = decisions_of(made_for.program, wanted)
    options = options_of(decisions)
    say("not verified: the compiler may refuse these orders, or do otherwise in silence")
    about: dict[str, str | float | None] = {"program": made_for.name, "verified": "no"}
    write_options(options, out, about | versions(made_for))
    if json:
        print_json([{"trace": made_for.name, "orders": len(decisions), "compiler_options": options}])
    else:
        print_options(options)


def _verified(
    made_for: "Trace", wanted: Any, program: str, args: str, chip: str, seconds: float, out: Path | None, json: bool
) -> None:
    from mallocgame.workloads.compiler_loop.inject import inject as run
    from mallocgame.workloads.compiler_loop.verify import Target, carry_over, renamed
    from mallocgame.workloads.program_reference import parse_reference
    from mallocgame.workloads.xla.compiler import Compiler

    reference = parse_reference(program, args)
    with Compiler() as compiler, progress(f"compiling {program} for {chip}"):
        target = Target.of(reference, chip, compiler)
        changed = renamed(made_for.program, target.trace.program)
        if changed:
            shown = ", ".join(changed[:8]) + (", …" if len(changed) > 8 else "")
            say(f"warning: {len(changed)} instructions have other names now; found again by their place: {shown}")
        now = carry_over(wanted, made_for.program, target.trace.program)
        verdict = run(target, now, seconds=seconds)
    about: dict[str, str | float | None] = {
        "program": str(reference),
        "arguments": args,
        "chip": chip,
        "verified": "yes",
        "default_judged_seconds": verdict.default_seconds,
        "judged_seconds": verdict.judged_seconds,
    }
    if verdict.options:
        write_options(verdict.options, out, about | versions(target.trace))
    _show(verdict, made_for.name, json)


def _show(verdict: "Verdict", name: str, json: bool) -> None:
    row: dict[str, Any] = {
        "trace": name,
        **verdict.counts,
        "wanted_judged_seconds": verdict.wanted_seconds,
        "default_judged_seconds": verdict.default_seconds,
        "judged_seconds": verdict.judged_seconds,
        "default_xla_estimate_seconds": verdict.default_xla_seconds,
        "xla_estimate_seconds": verdict.xla_seconds,
        "default_estimated_cycles": verdict.default_full and verdict.default_full.cycles,
        "estimated_cycles": verdict.full and verdict.full.cycles,
        "compilations": verdict.evaluations,
        "refused_orders": verdict.refusals,
    }
    if json:
        fates = [{"decision": str(d), "step": d.step, "fate": fate.value} for d, fate in verdict.fates]
        print_json([{**row, "decisions": fates, "compiler_options": verdict.options}])
        return
    cells = [(key.replace("_", " "), f"{v:.6g}" if isinstance(v, float) else str(v)) for key, v in row.items()]
    print_table(name, ("", "value"), cells)
    left = [(str(d), fate.value) for d, fate in verdict.fates if fate.value != "realised"]
    if left:
        shown = left[:20]
        print_table(f"not realised: {len(left)}, the largest first", ("decision", "fate"), shown)
    if verdict.options:
        print_options(verdict.options)
    else:
        say("nothing that the compiler takes is faster than its default: no options written")


def write_options(options: dict[str, str | bool], out: Path | None, about: dict[str, str | float | None]) -> None:
    """Write the options file, if one is asked for."""
    if out is not None:
        from mallocgame.compiler_options import save_compiler_options

        save_compiler_options(out, options, about)
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
