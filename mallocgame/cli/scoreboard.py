"""``mallocgame scoreboard``: solvers and agents on held-out programs, one table."""

from typing import TYPE_CHECKING, Annotated

import typer

from mallocgame.cli.cases import HoistOption
from mallocgame.cli.common import JsonOption, interrupted, print_json, print_table, progress, say
from mallocgame.errors import InputError
from mallocgame.text import counted

if TYPE_CHECKING:
    from mallocgame.game.scoreboard import Score


def scoreboard(
    entries: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENTRY]...", help="Solvers by name, agents as agent:NAME or agent:package.module:name."
        ),
    ] = None,
    traces: Annotated[
        str,
        typer.Option("--traces", help="Comma-separated; held-out: the shipped traces that no weights were made from."),
    ] = "held-out",
    seconds: Annotated[float, typer.Option("--seconds", help="A solver's limit on a program.")] = 10.0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each entry, with seeds 0, 1, ...")] = 3,
    hoist: HoistOption = False,
    json: JsonOption = False,
) -> None:
    """Score solvers and agents alike: speed-up over the compiler's own mapping, geometric mean, spread over seeds.

    Solvers start from nothing (--start none). An agent plays one game a program. Ctrl-C: the rows made so far stand.

    Example: mallocgame scoreboard xla greedy agent:random --traces lstm-v5e --seconds 2 --seeds 1
    """
    from mallocgame.cli.cases import open_case
    from mallocgame.evaluation import XLA, find_solver
    from mallocgame.game.scoreboard import AGENT, find_agent, score
    from mallocgame.workloads import suite

    wanted = entries or [XLA, "greedy", "play", "anneal", "agent:random"]
    for entry in wanted:
        if entry.startswith(AGENT):
            find_agent(entry)
        elif entry != XLA:
            find_solver(entry)
    names = (
        list(suite.names(split="eval", base=True))
        if traces == "held-out"
        else [name.strip() for name in traces.split(",")]
    )
    cases = []
    for name in names:
        case = open_case(name, hoist=hoist)
        if case.compiler_mapping is None:
            say(f"{name} is left out: it holds no mapping of the compiler's that is valid here")
        else:
            cases.append(case)
    if not cases:
        raise InputError(f"--traces {traces}: no program with a mapping of the compiler's to compare with")
    rows: list[Score] = []
    stopped = False
    total = len(cases) * sum(1 if entry == XLA else seeds for entry in wanted)
    try:
        with progress("scoring", total=total) as advance:
            count = 0

            def one_more() -> None:
                nonlocal count
                count += 1
                advance(count)

            for entry in wanted:
                rows.append(score(cases, entry, seconds=seconds, seeds=seeds, done=one_more))
                if json:
                    print_json([rows[-1].row()])
    except KeyboardInterrupt:
        stopped = True
    if not json and rows:
        title = f"speed-up over XLA's own mapping, {counted(len(cases), 'program')}, {seconds:g} s a solver"
        columns = ("entry", "speed-up", "seeds", "least to best seed", "worst", "on", "seconds", "invalid", "illegal")
        print_table(title, columns, [_cells(row) for row in sorted(rows, key=lambda row: -row.speedup)])
    if stopped:
        raise interrupted(f"{len(rows)} entries were scored")


def _cells(row: "Score") -> tuple[str, ...]:
    spread = f"{min(row.speedups):.3f} to {max(row.speedups):.3f}" if row.seeds > 1 else ""
    return (
        *(row.entry, f"{row.speedup:.3f}x", str(row.seeds), spread),
        *(f"{row.worst:.3f}x", row.worst_program, f"{row.seconds:.1f}", str(row.invalid), str(row.illegal)),
    )
