"""``mallocgame fit``: what a training step keeps, offloads and recomputes, so that it fits and is fast."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.common import JsonOption, print_json, print_table, progress, say
from mallocgame.errors import InputError, MissingExtraError
from mallocgame.files import MAX_INTEGER, check_name, check_writable

if TYPE_CHECKING:
    from mallocgame.cli.fitting import Fitting, Planned, PolicyRow

_SIZE = re.compile(r"(\d+(?:\.\d+)?(?:[eE]\d+)?)\s*((?:[kmgt]i?)?)b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
MAX_VALUES = 40  # rows of --values


def fit(
    function: Annotated[str, typer.Argument(metavar="PACKAGE.MODULE:STEP", help="The training step.")],
    budget: Annotated[
        str, typer.Option("--budget", help="Device memory for the whole step, e.g. 40GB; none: what the chip has.")
    ] = "",
    chip: Annotated[str, typer.Option("--chip", help="h100, a100, v4, v5e or v6e.")] = "h100",
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="Measured figures (tests/benchmarks/fit_gpu.py writes them).")
    ] = None,
    args: Annotated[
        str,
        typer.Option("--args", help="Its arguments, e.g. 'bf16[8,128],f32[]'; none: its or its module's example_args."),
    ] = "",
    own_names: Annotated[
        bool, typer.Option("--own-names", help="Decide only about the names that the code has (checkpoint_name).")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Save the policy here, for mallocgame.load_checkpoint_policy (.json).")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw time against budget (.png).")] = None,
    curve: Annotated[int, typer.Option("--curve", min=0, max=64, help="Plans for so many other budgets.")] = 0,
    values: Annotated[
        bool, typer.Option("--values", help="Show each value: bytes, times, what becomes of it.")
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", help="Save keep-or-offload as a trace for the other commands (.json or .json.gz)."),
    ] = None,
    solver: Annotated[
        str, typer.Option("--solver", help="Also let this solver decide between keep and offload, e.g. anneal.")
    ] = "",
    read_back: Annotated[
        bool,
        typer.Option("--read-back", help="Compile the plan for the TPU chip, without it: XLA's peak and copies."),
    ] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Limit of the planning.")] = 20.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the solver.")] = 0,
    json: JsonOption = False,
) -> None:
    """Plan, per value of a training step, what to keep, to offload and to recompute within a memory budget.

    Example: mallocgame fit my_package.train:step --budget 40GB --chip h100 --out policy.json
    """
    _check_outputs(out, plot, trace)
    if solver:
        from mallocgame.evaluation import find_solver

        find_solver(solver)
    if read_back:
        from mallocgame.cli.fit_read_back import check_chip

        check_chip(chip)
    from mallocgame.cli.fitting import Fitting
    from mallocgame.workloads.checkpointing.chips import find_chip

    target = find_chip(chip, calibration)
    size = parse_bytes(budget) if budget else target.memory_bytes
    with _telling(function):
        fitting = Fitting(step=_step(function, args, own_names), chip=target, seconds=seconds, seed=seed)
        fitting.prepare()
    count = curve or (8 if plot is not None else 0)
    planned = fitting.plan(size, seconds / 2 if count or solver else seconds)
    if planned is None:
        raise fitting.too_small(size)
    points: list[Planned] = []
    if count:
        with progress("budgets", 1.0) as done:
            points = fitting.curve(count, done)
    more, unplaced = _by_solver(fitting, planned, solver, seconds / 2, trace, function)
    saved = []
    if out is not None:
        from mallocgame.workloads.checkpointing.policy import save_checkpoint_policy

        save_checkpoint_policy(out, planned.row.policy)
        saved.append(f"{out}: step = jax.jit(mallocgame.load_checkpoint_policy({str(out)!r}).apply(step), ...)")
    if plot is not None:
        from mallocgame.cli.fit_plot import draw

        draw(plot, fitting, planned, points)
        saved.append(str(plot))
    _print(fitting, planned, [*fitting.rows, *more], points, values, json)
    for what in saved:
        say(f"saved {what}")
    if read_back:
        from mallocgame.cli.fit_read_back import show

        show(function, args, chip, planned, json)
    if unplaced:
        raise InputError(f"{'--trace' if trace is not None else '--solver'}: {unplaced}")


def parse_bytes(text: str) -> int:
    """Parse a size with a unit.

    Raises:
        InputError: not of that form, 0, or more than any memory.

    >>> parse_bytes("40GB"), parse_bytes("1.5GiB"), parse_bytes("2e9"), parse_bytes("3kb")
    (40000000000, 1610612736, 2000000000, 3000)
    """
    match = _SIZE.fullmatch(text.strip())
    size = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    if not 1 <= size <= MAX_INTEGER:
        raise InputError(f"--budget {text[:40]}: expected bytes such as 40GB, 512MiB or 4e10")
    return int(size)


def _check_outputs(out: Path | None, plot: Path | None, trace: Path | None) -> None:
    for path, option, suffixes in (
        (out, "--out", (".json", ".json.gz")),
        (plot, "--plot", (".png",)),
        (trace, "--trace", (".json", ".json.gz")),
    ):
        if path is not None:
            check_name(path, suffixes, option)
    check_writable(out, plot, trace)


def _step(function: str, args: str, own_names: bool) -> Any:
    try:
        import jax  # noqa: F401
    except ImportError:
        raise MissingExtraError("jax", "tpu") from None
    from mallocgame.workloads.checkpointing.step import TrainingStep
    from mallocgame.workloads.program_reference import parse_reference, resolve

    return TrainingStep(call=resolve(parse_reference(function, args)), own_names=own_names)


@contextmanager
def _telling(function: str) -> Iterator[None]:
    """Tell in a line what the user's code raises while it is imported or traced."""
    try:
        yield
    except MissingExtraError:
        raise
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(function) else f"{function}: {text}") from error
    except (Exception, SystemExit) as error:
        from mallocgame.workloads.xla.lower import describe_failure

        raise InputError(f"{function}: cannot be traced: {describe_failure(error, os.getcwd())}") from error


def _by_solver(
    fitting: "Fitting", planned: "Planned", solver: str, seconds: float, trace: Path | None, function: str
) -> "tuple[list[PolicyRow], str]":
    """Save keep-or-offload as a trace, and let a solver decide it, where asked for; say why that cannot be done."""
    if not solver and trace is None:
        return [], ""
    from mallocgame.baselines.checkpointing.as_program import as_program, choices_of
    from mallocgame.checkpointing import Choice

    problem = fitting.problem
    choices = planned.plan.choices if planned.plan is not None else (Choice.RECOMPUTE,) * len(problem.nodes)
    rate = fitting.chip.hbm_bytes_per_second
    try:
        program, hierarchy = as_program(problem, choices, planned.budget_bytes, hbm_bytes_per_second=rate)
    except InputError as error:  # what was planned stands
        return [], str(error)
    if trace is not None:
        from mallocgame.workloads.trace import Trace, Value, save_trace

        provenance: dict[str, Value] = {
            "step": function,
            "chip": fitting.chip.name,
            "budget_bytes": planned.budget_bytes,
        }
        save_trace(trace, Trace(name=program.name, program=program, hierarchy=hierarchy, provenance=provenance))
        say(f"saved {trace}")
    if not solver:
        return [], ""
    from mallocgame.evaluation import find_solver

    call, options = find_solver(solver)
    result = call(program, hierarchy, seconds=seconds, seed=fitting.seed, **options)
    row = fitting.judge(choices_of(problem, choices, program, result.mapping), f"plan, {solver} for the copies")
    return [row], ""


def _print(
    fitting: "Fitting",
    planned: "Planned",
    rows: "list[PolicyRow]",
    points: "list[Planned]",
    values: bool,
    json: bool,
) -> None:
    from mallocgame.cli.fitting import gigabytes

    ours = _ours(planned)
    if json:
        print_json(
            [
                *(_json_row("policy", row, planned.budget_bytes) for row in rows),
                _json_row("plan", ours, planned.budget_bytes) | {"gap": planned.gap, "policy": planned.row.name},
                *(
                    _json_row("curve", point.row, point.budget_bytes) | {"gap": point.gap, "policy": point.row.name}
                    for point in points
                ),
                *(_value_rows(fitting, planned) if values else ()),
            ]
        )
        return
    title = f"one step on {fitting.chip.name}, budget {gigabytes(planned.budget_bytes)}: predicted"
    columns = ("policy", "step", "peak", "fits", "to the host", "waits for copies", "over the plan")
    print_table(title, columns, [_cells(row, planned) for row in (*rows, ours)])
    if points:
        headings = ("budget", "step", "peak", "policy", "gap")
        print_table("other budgets", headings, [_curve_cells(point) for point in points])
    if values:
        _print_values(fitting, planned)


def _ours(planned: "Planned") -> "PolicyRow":
    from dataclasses import replace

    gap = "" if planned.plan is None else (" (optimal)" if planned.plan.is_optimal else f" (gap {planned.gap:.2%})")
    name = f"plan{gap}" if planned.plan is not None or planned.row.name == "plan" else f"plan: {planned.row.name}"
    return replace(planned.row, name=name)


def _cells(row: "PolicyRow", planned: "Planned") -> tuple[str, ...]:
    from mallocgame.cli.fitting import gigabytes
    from mallocgame.text import seconds_text

    price = row.price
    return (
        row.name,
        seconds_text(price.seconds),
        gigabytes(price.peak_bytes),
        "yes" if row.fits(planned.budget_bytes) else "no",
        gigabytes(price.out_bytes) if price.out_bytes else "",
        seconds_text(price.exposed_seconds) if price.out_bytes else "",
        f"{price.seconds / planned.row.price.seconds - 1:+.1%}",
    )


def _curve_cells(point: "Planned") -> tuple[str, ...]:
    from mallocgame.cli.fitting import gigabytes
    from mallocgame.text import seconds_text

    price = point.row.price
    size, peak = gigabytes(point.budget_bytes), gigabytes(price.peak_bytes)
    gap = f"{point.gap:.2%}" if point.plan is not None else ""
    return size, seconds_text(price.seconds), peak, point.row.name, gap


def _json_row(kind: str, row: "PolicyRow", budget_bytes: int) -> dict[str, Any]:
    price = row.price
    return {
        "kind": kind,
        "name": row.name,
        "budget_bytes": budget_bytes,
        "predicted_seconds": price.seconds,
        "predicted_peak_bytes": price.peak_bytes,
        "fits": row.fits(budget_bytes),
        "host_bytes": price.out_bytes,
        "exposed_seconds": price.exposed_seconds,
    }


def _value_rows(fitting: "Fitting", planned: "Planned") -> list[dict[str, Any]]:
    from mallocgame.cli.fit_values import value_rows

    return value_rows(fitting.problem, planned.plan)


def _print_values(fitting: "Fitting", planned: "Planned") -> None:
    from mallocgame.cli.fitting import gigabytes
    from mallocgame.text import seconds_text

    rows = _value_rows(fitting, planned)
    columns = ("value", "what", "size", "to recompute", "to copy out", "to copy back", "needed after", "choice")
    table = [
        (
            row["name"],
            row["origin"],
            gigabytes(row["size_bytes"]),
            seconds_text(row["recompute_seconds"]),
            seconds_text(row["out_seconds"]),
            seconds_text(row["in_seconds"]),
            seconds_text(row["needed_after_seconds"]),
            row["choice"],
        )
        for row in rows[:MAX_VALUES]
    ]
    left = len(rows) - len(table)
    title = "values, largest saving first" + (f" ({left} more with --json)" if left > 0 else "")
    print_table(title, columns, table)
