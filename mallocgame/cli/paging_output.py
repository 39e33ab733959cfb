"""What the commands of `mallocgame paging` write: rows, tables and guarantees; and the options that they share."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.common import print_json, print_table, say
from mallocgame.files import check_name, check_writable

if TYPE_CHECKING:
    from mallocgame.baselines.paging import Row

BitsOption = Annotated[
    str,
    typer.Option(
        "--bits",
        help="lfd (exact), watched (refitted, watched for drift), learned, online, model:FILE, shadow:POLICY, popu, "
        "pleco, zeros, ones, teacher:POLICY, file:PATH.",
    ),
]
OutOption = Annotated[str | None, typer.Option("--out", help="Write the rows to this .jsonl or .csv file too.")]


PLOTS = (".png", ".svg", ".pdf")


def check_outputs(out: str | None, plot: str | None = None, ends: tuple[str, ...] = (".jsonl", ".csv")) -> None:
    """See before the work that its rows and its plot can be written after it.

    Raises:
        InputError: a name that ends otherwise, or that cannot be written.
    """
    if out is not None:
        check_name(out, ends, "--out")
    if plot is not None:
        check_name(plot, PLOTS, "--plot")
    check_writable(out, plot)


def row_fields(row: "Row") -> dict[str, Any]:
    """The fields of one row of JSON; those that only some rows have only where they are known."""
    from dataclasses import asdict

    optional = ("eta0", "eta1", "bound", "usable_hits", "saved_tokens", "total_faults")
    return {key: value for key, value in asdict(row).items() if key not in optional or value is not None}


def figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return str(value)


def show_rows(rows: "list[Row]", json: bool, title: str, *, learned: bool) -> None:
    if json:
        print_json(map(row_fields, rows))
        return

    def text(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    columns = {
        "policy": [row.policy for row in rows],
        "k": [str(row.k) for row in rows],
        "faults": [str(row.faults) for row in rows],
        "/ OPT": [f"{row.opt_ratio:.4f}" if row.opt_ratio == row.opt_ratio else "-" for row in rows],
        "usable hits": [text(row.usable_hits, "d") for row in rows],
        "saved tokens": [text(row.saved_tokens, "d") for row in rows],
        "eta0": [text(row.eta0, "d") for row in rows],
        "eta1": [text(row.eta1, "d") for row in rows],
        "proved bound": [text(row.bound, ".0f") for row in rows],
        "seconds": [f"{row.seconds:.3f}" for row in rows],
    }
    kept = {name: cells for name, cells in columns.items() if any(cells) or name == "policy"}
    print_table(title, list(kept), [list(cells) for cells in zip(*kept.values(), strict=True)])
    if learned:
        _say_guarantees(rows)


def _say_guarantees(rows: "list[Row]") -> None:
    """Say beside the figure of each robust combination what the theorem promises, whatever the bits."""
    faults = {(row.policy, row.k): row.faults if row.total_faults is None else row.total_faults for row in rows}
    for (name, k), had in faults.items():
        a, plus, b = name.rpartition("+")
        if not plus:
            continue
        promise = f"at most 2 min({a}, {b}) + k"
        if (a, k) in faults and (b, k) in faults:
            one, other = faults[a, k], faults[b, k]
            promise += f" = 2 min({one}, {other}) + {k} = {2 * min(one, other) + k}"
        say(f"{name}, k = {k}: {promise} faults whatever the bits, from the first request on; it had {had}")
