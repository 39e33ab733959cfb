"""The command line: thin wiring of workloads, solvers and the judge. Heavy imports happen inside the commands."""

import sys

import typer

from mallocgame.errors import InputError

app = typer.Typer(
    name="mallocgame",
    help="Plan where the tensors of an ML program live on an accelerator, and when they move.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Run the command line: 0 done, 1 a negative answer (invalid mapping), 2 bad input, 130 interrupted."""
    try:
        app()
    except InputError as error:
        sys.stderr.write(f"mallocgame: {error}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("mallocgame: interrupted\n")
        raise SystemExit(130) from None
