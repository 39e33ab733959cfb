"""Traces as cases: what the commands that judge share, from reading a trace to proving a bound for it."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mallocgame.cli.traces import chip_of, open_trace
from mallocgame.errors import InputError

if TYPE_CHECKING:
    from mallocgame.evaluation import Case
    from mallocgame.hierarchy import Hierarchy
    from mallocgame.mapping import Mapping
    from mallocgame.solver import Problem
    from mallocgame.workloads.trace import Trace

SecondsOption = Annotated[float, typer.Option("--seconds", help="Time limit of a solver, its start included.")]
StepsOption = Annotated[
    int | None, typer.Option("--steps", min=0, help="Limit a solver in its own steps, not in time: repeatable.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of a solver.")]
StartOption = Annotated[
    str,
    typer.Option(
        "--start",
        metavar="auto|none|FILE|SOLVER",
        help="What a solver improves; auto: the best of the compiler's mapping and greedy.",
    ),
]
BoundSecondsOption = Annotated[
    float, typer.Option("--bound-seconds", help="Time to prove a bound that respects capacity; 0: the simple one.")
]
HierarchyOption = Annotated[
    str | None,
    typer.Option("--hierarchy", metavar="NAME|FILE", help="Another memory than the trace's: a preset or a JSON file."),
]
HoistOption = Annotated[
    bool,
    typer.Option(
        "--hoist/--no-hoist",
        help="Allow copies before a loop that stay through it; without, only those that the compiler made itself.",
    ),
]
ForOption = Annotated[
    str,
    typer.Option(
        "--for",
        metavar="hardware|compiler",
        help="compiler: only what XLA:TPU can be brought to do counts (needs two layers).",
    ),
]


def open_case(
    text: str,
    *,
    hoist: bool = True,
    bound_seconds: float = 0.0,
    hierarchy: str | None = None,
    plan_for: str = "hardware",
) -> "Case":
    """Read a trace (file or shipped name), judge the compiler's own mapping and prove a bound in about that time."""
    if plan_for not in ("hardware", "compiler"):
        raise InputError(f"--for {plan_for}: expected hardware or compiler")
    from mallocgame.evaluation import make_case

    trace = open_trace(text)
    if hierarchy is not None:
        trace = on_hierarchy(trace, find_hierarchy(hierarchy))
    case = make_case(trace, hoist=hoist, chip=chip_of(trace), for_compiler=plan_for == "compiler")
    if case.for_compiler and trace.hierarchy.num_layers != 2:
        raise InputError(f"--for compiler: {text} has {trace.hierarchy.num_layers} layers, XLA:TPU compiles for two")
    if bound_seconds == 0:
        return case
    return replace(case, lower_bound_seconds=prove_bound(case.problem, bound_seconds))


def prove_bound(problem: "Problem", seconds: float) -> float:
    """Return seconds that no mapping can beat, the best proved in about ``seconds``."""
    if not 0 <= seconds < float("inf"):
        raise InputError(f"--bound-seconds must be a number >= 0, got {seconds}")
    from mallocgame.baselines.bounds import capacity_bound

    return capacity_bound(*problem, seconds=seconds, integer=False).seconds


def find_hierarchy(text: str) -> "Hierarchy":
    """Return a preset, or the hierarchy in a file.

    Raises:
        InputError: neither.
    """
    from mallocgame.hierarchy import PRESETS, preset

    if text in PRESETS or not Path(text).exists():
        return preset(text)
    from mallocgame.workloads.formats.hierarchy_file import load_hierarchy

    return load_hierarchy(text)


def on_hierarchy(trace: "Trace", hierarchy: "Hierarchy") -> "Trace":
    """Return the trace as it would run with another memory; the compiler's mapping is of the old one and is left out.

    Raises:
        InputError: what may not move does not fit.
    """
    from mallocgame.rehoming import rehome

    program, found = rehome(trace.program, trace.hierarchy, hierarchy)
    same = hierarchy.layers == trace.hierarchy.layers and hierarchy.links == trace.hierarchy.links
    return replace(trace, program=program, hierarchy=found, mapping=trace.mapping if same else None)


def find_start(text: str, case: "Case") -> "str | Mapping":
    """Return the mapping in the file that ``--start`` names, or the name as it is.

    Raises:
        InputError: the file is not a mapping of this program, or the mapping is not valid.
    """
    if text in ("auto", "none") or not Path(text).exists():
        return text
    from mallocgame.judge.validation import validate
    from mallocgame.workloads.trace import load_mapping

    mapping = load_mapping(text, *case.problem)
    broken = validate(*case.problem, mapping)
    if broken:
        raise InputError(f"--start {text}: the mapping breaks {len(broken)} rules, first {broken[0].message}")
    return mapping
