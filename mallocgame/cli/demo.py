"""``mallocgame demo``: what the tool does, in under a minute, on shipped traces of real compiled programs."""

from pathlib import Path
from typing import Annotated

import typer

from mallocgame.cli.common import say
from mallocgame.files import check_folder

TRACES = ("lstm-v5e", "moe_decode-v5e", "gpt2_training-v5e")
SOLVERS = "xla,none,greedy,xla-heuristic,anneal"
SECONDS = 3.0


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the picture and the report go.")] = Path(
        "mallocgame-demo"
    ),
) -> None:
    """Compare solvers on three shipped traces and draw the memory map of the best mapping.

    Example: mallocgame demo --out out
    """
    from mallocgame.cli.compare import compare
    from mallocgame.cli.evaluate import evaluate

    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    say(f"comparing {SOLVERS} on {', '.join(TRACES)}, {SECONDS:.0f} s a solver")
    compare(list(TRACES), solvers=SOLVERS, seconds=SECONDS, bound_seconds=SECONDS, plot=out / "compare.png")
    report = out / f"{TRACES[-1]}.html"
    evaluate(
        TRACES[-1],
        solver="anneal",
        seconds=SECONDS,
        bound_seconds=SECONDS,
        plot=report,
        out=out / f"{TRACES[-1]}.mapping.json",
    )
    say(f"figure: {out / 'compare.png'}; memory map: {report.resolve()} (open it in a browser)")
