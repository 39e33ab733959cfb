"""A small trace with a compiler mapping, in a file, and the command line to read it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mallocgame.baselines.placement.greedy import greedy
from mallocgame.workloads.trace import Trace, save_trace
from tests.cli.run import Result, run
from tests.toy import toy_trace

Run = Callable[..., Result]


@pytest.fixture(name="cli")
def cli_fixture(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *arguments, columns=200: run(monkeypatch, capsys, *arguments, columns=columns)


@pytest.fixture(name="toy", scope="session")
def toy_fixture() -> Trace:
    bare = toy_trace(num_layers=12, trip_count=3)
    return toy_trace(num_layers=12, trip_count=3, mapping=greedy(bare.program, bare.hierarchy).mapping)


@pytest.fixture(name="trace_file")
def trace_file_fixture(tmp_path: Path, toy: Trace) -> Path:
    save_trace(tmp_path / "toy.json.gz", toy)
    return tmp_path / "toy.json.gz"


@pytest.fixture(name="bare_file")
def bare_file_fixture(tmp_path: Path) -> Path:
    """A trace without a compiler mapping."""
    save_trace(tmp_path / "bare.json", toy_trace(num_layers=6, seed=1))
    return tmp_path / "bare.json"
