"""The command line: thin wiring of workloads, solvers and the judge. Heavy imports happen inside the commands."""

import os
import sys
from importlib import import_module
from importlib.util import find_spec

import typer

from mallocgame.cli.compare import compare
from mallocgame.cli.convert import convert
from mallocgame.cli.evaluate import evaluate
from mallocgame.cli.show import show
from mallocgame.cli.suite import suite
from mallocgame.cli.validate import validate
from mallocgame.errors import InputError

app = typer.Typer(
    name="mallocgame",
    help="Plan where the tensors of an ML program live on an accelerator, and when they move.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)

for _command in (suite, show, evaluate, compare, validate, convert):
    app.command()(_command)
for _name in ("capture", "pack"):
    if find_spec(f"mallocgame.cli.{_name}"):
        app.command()(getattr(import_module(f"mallocgame.cli.{_name}"), _name))
for _name in ("paging", "robust"):
    if find_spec(f"mallocgame.cli.{_name}"):
        app.add_typer(import_module(f"mallocgame.cli.{_name}").app, name=_name)


def main() -> None:
    """Run the command line: 0 done, 1 a negative answer (invalid mapping), 2 bad input, 130 interrupted, 141 pipe."""
    try:
        app()
    except InputError as error:
        sys.stderr.write(f"mallocgame: {error}\n")
        raise SystemExit(2) from None
    except BrokenPipeError:  # the reader of our output, such as head, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush does not fail again
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        sys.stderr.write("mallocgame: interrupted\n")
        raise SystemExit(130) from None
