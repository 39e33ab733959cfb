"""``mallocgame suite``: the shipped traces, and how hard each is."""

from typing import TYPE_CHECKING, Any

from mallocgame.cli.cases import BoundSecondsOption, open_case
from mallocgame.cli.common import JsonOption, print_json, print_table, progress

if TYPE_CHECKING:
    from mallocgame.evaluation import Case


def suite(bound_seconds: BoundSecondsOption = 0.0, json: JsonOption = False) -> None:
    """List the shipped traces: size, pressure on the fast memory, XLA's judged time, all-home time, proved bound.

    Example: mallocgame suite
    """
    from mallocgame.workloads import suite as shipped

    names = list(shipped.names())
    table = []
    with progress("judging the shipped traces", total=len(names)) as advance:
        for done, name in enumerate(names):
            case = open_case(name, bound_seconds=bound_seconds)
            row = _row(case)
            if json:
                print_json([row])
            else:
                name, *figures = _cells(case, row)
                table.append((name, shipped.entry(name).split, *figures))
            advance(done + 1)
    if not json:
        columns = (
            "trace",
            "split",
            "steps",
            "decisions",
            "live / capacity",
            "XLA ms",
            "all home ms",
            "bound ms",
            "XLA gap",
        )
        print_table(f"{len(names)} shipped traces", columns, table)


def _row(case: "Case") -> dict[str, Any]:
    from mallocgame.judge.simulation import home_seconds

    return {
        "trace": case.name,
        "chip": case.chip,
        "instructions": case.program.num_steps,
        "decisions": case.program.num_decisions,
        "capacity_bytes": sum(layer.capacity_bytes for layer in case.hierarchy.layers[1:]),
        "xla_judged_seconds": case.xla_judged_seconds,
        "none_judged_seconds": home_seconds(case.program, case.hierarchy),
        "lower_bound_seconds": case.lower_bound_seconds,
    }


def _cells(case: "Case", row: dict[str, Any]) -> tuple[str, ...]:
    from mallocgame.workloads.synthetic.draft import peak_live_bytes

    xla, bound = row["xla_judged_seconds"], row["lower_bound_seconds"]
    pressure = peak_live_bytes(case.program) / row["capacity_bytes"]
    return (
        row["trace"],
        str(row["instructions"]),
        str(row["decisions"]),
        f"{pressure:.1f}×",
        "" if xla is None else f"{1e3 * xla:.4f}",
        f"{1e3 * row['none_judged_seconds']:.4f}",
        f"{1e3 * bound:.4f}",
        "" if xla is None else f"{100 * (1 - bound / xla):.1f} %",
    )
