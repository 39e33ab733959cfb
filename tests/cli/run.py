"""Runs the command line in this process, as the console script would."""

import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from mallocgame.cli import main


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Standard output as strict JSON Lines."""
        return [json.loads(line, parse_constant=_refuse) for line in self.out.splitlines()]


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object, columns: int = 200
) -> Result:
    """Run ``mallocgame ARGUMENTS`` in a terminal that wide and return what it printed and its exit code."""
    monkeypatch.setattr(sys, "argv", ["mallocgame", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    code = stop.value.code
    return Result(code if isinstance(code, int) else 0, captured.out, captured.err)
