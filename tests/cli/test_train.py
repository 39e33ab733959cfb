"""``train``: what it prints, writes and refuses."""

import json
from pathlib import Path

import pytest

from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.workloads.trace import Trace, load_mapping
from tests.cli.conftest import Run

SMALL = "latent_size = 16\nhidden_size = 16\nconv_channels = 2\nnum_games = 8\nnum_simulations = 4\nbatch_size = 16\n"


@pytest.fixture(name="settings_file")
def settings_file_fixture(tmp_path: Path) -> Path:
    (tmp_path / "agent.toml").write_text(SMALL)
    return tmp_path / "agent.toml"


def test_a_run_is_compared_written_resumed_and_played(
    cli: Run, trace_file: Path, toy: Trace, settings_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train = ("train", "--workload", trace_file, "--out", run)
    settings = ("--config", settings_file, "--against", "greedy", "--against", "none", "--solver-seconds", "1")
    result = cli(*train, *settings, "--hybrid", "greedy", "--steps", "400", "--json")
    assert result.code == 0, result.err
    (row,) = result.rows
    home = simulate(toy.program, toy.hierarchy, Mapping()).total_seconds
    assert row["speedup_over_none"] == pytest.approx(home / row["judged_seconds"], rel=1e-12)
    assert row["speedup_over_greedy"] >= 1.0 - 1e-12  # hybrid: never worse than its start
    assert row["speedup_over_xla"] == pytest.approx(row["xla_judged_seconds"] / row["judged_seconds"], rel=1e-12)
    mapping = load_mapping(Path(row["mapping"]), toy.program, toy.hierarchy)
    assert validate(toy.program, toy.hierarchy, mapping) == []
    assert simulate(toy.program, toy.hierarchy, mapping).total_seconds == pytest.approx(row["judged_seconds"])
    assert list((run / "tensorboard").iterdir())
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["steps"] == row["steps"] >= 400

    again = cli(*train, "--resume", "--steps", "800", "--json")
    assert again.code == 0, again.err
    assert again.rows[0]["steps"] >= 800
    played = cli("evaluate", trace_file, "--solver", f"muzero:{run}", "--simulations", "2", "--seconds", "1", "--json")
    assert played.code == 0, played.err
    assert played.rows[0]["valid"]


def test_the_panel_shows_every_rival(cli: Run, trace_file: Path, settings_file: Path, tmp_path: Path) -> None:
    result = cli(
        *("train", "--workload", trace_file, "--out", tmp_path / "run", "--steps", "200"),
        *("--config", settings_file, "--against", "none"),
    )
    assert result.code == 0, result.err
    assert " x xla" in result.err
    assert " x none" in result.err
    assert "best-" in result.out.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--seconds or --steps"),
        (("--steps", "1", "--device", "tpu"), "cpu or gpu"),
        (("--steps", "1", "--against", "nobody"), "nobody"),
        (("--steps", "1", "--resume"), "not a readable run"),
        (("--steps", "1", "--weights", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_line(
    cli: Run, trace_file: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = cli("train", "--workload", trace_file, "--out", tmp_path / "run", *arguments)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
