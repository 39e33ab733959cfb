"""What the commands share that do the same to many cases: where the work runs, and how it ends."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.common import say
from mallocgame.errors import InputError

if TYPE_CHECKING:
    from mallocgame.sweep import Pool
    from mallocgame.sweep.jobs import Maker

WorkersOption = Annotated[
    int, typer.Option("--workers", min=1, help="Cases at a time: processes that share this machine's cores out.")
]
RayOption = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS|local", help="Work on --workers actors of this Ray cluster (extra: ray)."),
]
MAX_LINES = 20  # about what went wrong


def pool_of(make: "Maker", workers: int, ray: str | None, here: "Maker | None" = None) -> "Pool":
    """Return where the work runs: on a cluster, in several processes, or in this one.

    Args:
        make: what a worker enters; found by name in another process.
        workers: how many.
        ray: the cluster's address.
        here: in the place of ``make`` in this process, where it can show progress.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    from mallocgame.sweep import Inline, Processes

    if ray is not None:
        from mallocgame.sweep.cluster import Cluster

        return Cluster(make, workers, ray)
    return Processes(make, workers) if workers > 1 else Inline(here or make)


def report_errors(rows: Iterable[Mapping[str, Any]], name: str) -> None:
    """Say which rows could not be made.

    Raises:
        InputError: there are any; the column ``name`` says whose.
    """
    wrong = [row for row in rows if row["error"]]
    if not wrong:
        return
    if len({row["error"] for row in wrong}) == 1 or len(wrong) == 1:
        raise InputError(wrong[0]["error"])
    for row in wrong[:MAX_LINES]:
        say(f"{row[name]}: {row['status']}: {row['error']}")
    raise InputError(f"{len(wrong)} rows could not be made{_of_which(wrong)}")


def _of_which(wrong: Sequence[Mapping[str, Any]]) -> str:
    lost = sum(row["status"] == "failed" for row in wrong)
    return f"; the next call tries {lost} of them again" if lost else ""
