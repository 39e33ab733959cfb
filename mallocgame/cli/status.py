"""What a long command is doing: a bar with the time on a terminal, else one line for each phase."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mallocgame.cli.common import say


class Status:
    """What a long command is doing, on standard error: a bar on a terminal, else one line a phase."""

    def __init__(self, seconds: float) -> None:
        from rich.console import Console

        self._seconds, self._begin = seconds, time.monotonic()
        self._console = Console(stderr=True)
        self._phase = "starting"

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        if self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False)
        else:
            say(text)

    def phase(self, text: str) -> None:
        """Tell what is being done now."""
        before, self._phase = self._phase, text
        if not self._console.is_terminal and before.partition(":")[0] != text.partition(":")[0]:
            say(text)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the bar."""
        if not self._console.is_terminal:
            yield
            return
        from rich.live import Live

        with Live(get_renderable=self._render, console=self._console, transient=True, redirect_stdout=False):
            yield

    def _render(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        spent = time.monotonic() - self._begin
        row = Table.grid(padding=(0, 1))
        times = f"{spent:.0f} of {self._seconds:.0f} s"
        row.add_row(
            ProgressBar(total=self._seconds, completed=min(spent, self._seconds), width=24), times, Text(self._phase)
        )
        return row


@contextmanager
def status(seconds: float) -> Iterator[Status]:
    """Show what a command of about ``seconds`` is doing."""
    shown = Status(seconds)
    with shown.live():
        yield shown
