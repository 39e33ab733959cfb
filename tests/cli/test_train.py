"""``train``: what it prints, writes and refuses."""

import json
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import pytest
from tensorboardX.proto.event_pb2 import Event

from mallocgame.agents.muzero import run
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.workloads.trace import Trace, load_mapping, save_mapping
from tests.cli.conftest import Run
from tests.paths import ROOT

SMALL = "latent_size = 16\nhidden_size = 16\nconv_channels = 2\nnum_games = 8\nnum_simulations = 4\nbatch_size = 16\n"


@pytest.fixture(name="settings_file")
def settings_file_fixture(tmp_path: Path) -> Path:
    (tmp_path / "agent.toml").write_text(SMALL)
    return tmp_path / "agent.toml"


def events(folder: Path) -> set[str]:
    """Return the tags in the one event file of a folder."""
    (file,) = folder.iterdir()
    data, found, place = file.read_bytes(), set(), 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        found |= {value.tag for value in Event.FromString(data[place + 12 : place + 12 + length]).summary.value}
        place += length + 16
    return found


def test_a_full_disk_is_one_line_that_names_the_file(
    cli: Run, trace_file: Path, settings_file: Path, tmp_path: Path
) -> None:
    limits, least = resource.getrlimit(resource.RLIMIT_FSIZE), jax.config.jax_persistent_cache_min_compile_time_secs
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # less than the weights take
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)  # nor less than what others would find there
    try:
        train = ("train", "--workload", trace_file, "--out", tmp_path / "run", "--steps", "100", "--json")
        result = cli(*train, "--config", settings_file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
    assert result.code == 2
    assert result.err.splitlines()[-1] == f"mallocgame: {tmp_path}/run/checkpoints/1: cannot write: File too large"
    assert "Traceback" not in result.err
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_only_late_answers_of_writes_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(run, "_shown_by", [shown.append])
    late, *others = RuntimeError("Event loop is closed"), RuntimeError("else"), ValueError("Event loop is closed")
    for error in (late, *others):
        run._except_late_answers(cast(Any, SimpleNamespace(exc_value=error)))
    assert [found.exc_value for found in shown] == others


def test_a_damaged_entry_of_the_compilers_cache_is_no_news() -> None:
    said = "Error reading persistent compilation cache entry for 'jit_init': ZstdError"
    code = f"import warnings, mallocgame.agents.muzero; warnings.warn({said!r}); warnings.warn('something else')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "something else" in done.stderr
    assert "persistent" not in done.stderr.replace(code, "")


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
    name = toy.program.name
    assert {"best_ms/" + name, "map/" + name, "speedup_over_none/" + name} <= events(run / "tensorboard")
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["steps"] == row["steps"] >= 400

    again = cli(*train, "--resume", "--steps", "800", "--json")
    assert again.code == 0, again.err
    assert again.rows[0]["steps"] >= 800
    assert "budget" not in again.err
    spent = cli(*train, "--resume", "--steps", "800", "--json")
    assert spent.rows[0] == again.rows[0]
    assert "has spent this budget before" in spent.err
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
    assert result.err.endswith("╯\n")  # what is said next has a line of its own
    assert "best-" in result.out.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--seconds or --steps"),
        (("--steps", "1", "--device", "tpu"), "cpu or gpu"),
        (("--steps", "1", "--device", "gpu"), "--device is gpu"),
        (("--steps", "1", "--against", "nobody"), "nobody"),
        (("--steps", "1", "--resume"), "run.json"),
        (("--steps", "1", "--weights", "nowhere"), "nowhere"),
        (("--steps", "1", "--resume", "--weights", "pretrained"), "leave --weights out"),
    ],
)
def test_bad_input_is_one_line(
    cli: Run, trace_file: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = cli("train", "--workload", trace_file, "--out", tmp_path / "run", *arguments)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_a_resumed_run_never_writes_a_worse_mapping(
    cli: Run, trace_file: Path, toy: Trace, settings_file: Path, tmp_path: Path
) -> None:
    """The mapping on disk is far better than what a few moves find, and that of no game of the run."""
    run = tmp_path / "run"
    train = ("train", "--workload", trace_file, "--out", run, "--json")
    assert cli(*train, "--config", settings_file, "--steps", "8").code == 0
    best = run / f"best-{toy.program.name}.json"
    assert toy.mapping is not None
    save_mapping(best, toy.mapping, toy.program, toy.hierarchy)
    before = simulate(toy.program, toy.hierarchy, toy.mapping).total_seconds
    result = cli(*train, "--resume", "--steps", "16")
    assert result.code == 0, result.err
    after = load_mapping(best, toy.program, toy.hierarchy)
    assert simulate(toy.program, toy.hierarchy, after).total_seconds <= before
    assert result.rows[0]["judged_seconds"] <= before

    other = settings_file.with_name("other.toml")
    other.write_text(SMALL.replace("batch_size = 16", "batch_size = 8"))
    refused = cli(*train, "--resume", "--steps", "24", "--config", other)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "batch_size is 16, not 8" in refused.err
    best.write_bytes(best.read_bytes()[:100])
    damaged = cli(*train, "--resume", "--steps", "24")
    assert (damaged.code, damaged.err.count("\n")) == (2, 1)
    assert len(best.read_bytes()) == 100
    again = cli(*train, "--steps", "24")
    assert again.code == 2
    assert "--resume" in again.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_training_in_one_line(
    trace_file: Path, settings_file: Path, tmp_path: Path, number: int, code: int
) -> None:
    run = tmp_path / "run"
    command = ("train", "--workload", trace_file, "--out", run, "--config", settings_file, "--seconds", "600", "--json")
    child = subprocess.Popen(
        [sys.executable, "-c", "from mallocgame.cli import main; main()", *map(str, command)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        limit = time.monotonic() + 240
        while not (run / "metrics.jsonl").exists() and time.monotonic() < limit and child.poll() is None:
            time.sleep(0.1)
        child.send_signal(number)
        out, err = child.communicate(timeout=120)
    finally:
        child.kill()
    assert (child.returncode, out, err.count("\n")) == (code, "", 1), err
    assert "--resume" in err
    assert list(run.glob("state-*.json"))
