"""What every command shares: tables, JSON Lines, progress and one-line errors. Imports nothing heavy."""

import json
import math
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from mallocgame.errors import printable

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON Lines (one row a line) instead of a table.")]


_FIGURE = ("", "–", "∞", *"+-−.0123456789")  # how cells of figures begin


def print_json(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print each row as one line of strict JSON (NaN and infinities become null)."""
    for row in rows:
        sys.stdout.write(json.dumps({key: _finite(value) for key, value in row.items()}) + "\n")
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; the first column is text and never broken, columns of figures are aligned right.

    Where the terminal is too narrow for it, each row becomes a block of ``column value`` pairs: no figure is cut.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    cells = [[printable(cell) for cell in row] for row in rows]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        figures = index > 0 and all(row[index][:1] in _FIGURE and len(row[index]) <= 16 for row in cells)
        table.add_column(Text(column), justify="right" if figures else "left", no_wrap=index == 0, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))  # as it is: names may hold brackets, which are markup in plain strings
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=200)  # a file or a pipe has no edge
    wanted = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    console.print(Text(printable(title)), style="italic")  # above it: a narrow table would break its title
    if wanted <= console.width or len(columns) <= 2:
        console.print(table)
        return
    for row in cells:
        first = f"{columns[0]} {row[0]}" if _is_figure(row[0]) else row[0]
        console.print(Text(first, style="bold"))
        pairs = [f"{column} {cell}".strip() for column, cell in zip(columns[1:], row[1:], strict=True) if cell]
        for line in _packed(pairs, console.width):
            console.print(Text(line), soft_wrap=True)


def _is_figure(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _packed(parts: Sequence[str], width: int) -> Iterator[str]:
    """Yield indented lines that hold the parts in order; a part that is too long goes on in the next line."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 5 + len(part) <= width:
            lines[-1] += f"   {part}"
        else:
            lines.append(part)
    for line in lines:
        yield from textwrap.wrap(
            line, width, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )


@contextmanager
def progress(description: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """Show a progress bar on standard error; the yielded function takes the amount done so far."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.update(task, completed=done)


def interrupted(what: str) -> BaseException:
    """Return the exit to raise where a command was interrupted and kept something, which one line will say."""
    from mallocgame.cli.signals import kept

    return typer.Exit(kept(what))


def say(text: str) -> None:
    """Print one line about what happened on standard error (standard output holds only results)."""
    sys.stderr.write("\n".join(map(printable, text.split("\n"))) + "\n")
