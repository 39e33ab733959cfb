"""What the workers of these tests do; other processes find it by name."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mallocgame.errors import InputError
from mallocgame.sweep import Job, Made, digest_of
from mallocgame.sweep.jobs import Work
from mallocgame.sweep.rows import Columns

COLUMNS: Columns = {"job": str, "case": str, "status": str, "value": float, "error": str}
Task = tuple[str, str]  # what to do, with what


@contextmanager
def working() -> Iterator[Work]:
    """Yield what squares a number, refuses it, or dies over it."""
    yield do


def do(task: Task) -> Made:
    """Do one task."""
    kind, text = task
    if kind == "refuse":
        raise InputError(f"{text} is not a number")
    if kind == "raise":
        raise ZeroDivisionError(text)
    if kind == "die" or (kind == "die once" and not Path(text).exists()):
        if kind == "die once":
            Path(text).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    value = len(text) if kind == "die once" else int(text) ** 2
    status = "interrupted" if kind == "interrupt" else "made"
    return Made(row={"status": status, "value": value}, files={f"{value}.txt": b"x" * value})


def job(kind: str, text: str, group: str = "") -> Job:
    """Return a job that does ``kind``."""
    task: Any = (kind, text)
    return Job(key=digest_of(kind, text), about={"case": text}, task=lambda: task, group=group)
