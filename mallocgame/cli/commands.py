"""Every command, by name. Heavy imports happen inside the commands."""

from typing import Annotated

import typer

from mallocgame.cli.capture import capture
from mallocgame.cli.compare import compare
from mallocgame.cli.convert import convert
from mallocgame.cli.demo import demo
from mallocgame.cli.evaluate import evaluate
from mallocgame.cli.explain import explain
from mallocgame.cli.fit import fit
from mallocgame.cli.inject import inject
from mallocgame.cli.pack import pack
from mallocgame.cli.paging import app as paging
from mallocgame.cli.robust import app as robust
from mallocgame.cli.scoreboard import scoreboard
from mallocgame.cli.show import show
from mallocgame.cli.suite import suite
from mallocgame.cli.train import train
from mallocgame.cli.tune import tune
from mallocgame.cli.validate import validate
from mallocgame.cli.warm_up import warm_up


def _print_version(wanted: bool) -> None:
    if wanted:
        import mallocgame

        typer.echo(f"mallocgame {mallocgame.__version__}")
        raise typer.Exit


app = typer.Typer(
    name="mallocgame",
    help="Plan where the tensors of an ML program live on an accelerator, and when they move.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode="rich",
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None: ...


for _command in (
    demo,
    suite,
    show,
    capture,
    evaluate,
    compare,
    explain,
    inject,
    tune,
    fit,
    train,
    validate,
    convert,
    pack,
    scoreboard,
    warm_up,
):
    app.command()(_command)
app.add_typer(paging, name="paging")
app.add_typer(robust, name="robust")
