"""Solvers and agents in one table: what a row says is what the judge says."""

import sys
from math import sqrt
from pathlib import Path
from typing import Any

import pytest

from mallocgame.errors import InputError
from mallocgame.evaluation import Case, make_case, run
from mallocgame.game.scoreboard import find_agent, play, random_policy, score
from mallocgame.judge.simulation import home_seconds
from mallocgame.solver import Limits
from mallocgame.workloads import suite


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [make_case(suite.load(name), hoist=False) for name in ("lstm-v5e", "alexnet-v5e")]


def test_a_row_is_what_the_judge_says(cases: list[Case]) -> None:
    single = [run(case, "xla-heuristic", limits=Limits(seconds=5.0), start="none").speedup_over_xla for case in cases]
    assert all(single)
    row = score(cases, "xla-heuristic", seconds=5.0, seeds=2)
    assert row.speedups == pytest.approx([sqrt(single[0] * single[1])] * 2)  # type: ignore[operator]
    assert row.worst == pytest.approx(min(single))  # type: ignore[type-var]
    assert row.worst_program == cases[single.index(min(single))].name  # type: ignore[type-var]
    assert (row.programs, row.seeds, row.invalid) == (2, 2, 0)
    compiler = score(cases, "xla", seconds=0.0, seeds=3)
    assert (compiler.speedup, compiler.worst, compiler.seeds) == (1.0, 1.0, 1)


def test_agents_play_one_game(cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_agent.py").write_text(
        "def lazy(seed):\n    return lambda observation, info: 0\n\nnumber = 7\n"
        "def seedless(): ...\ndef none(seed): ...\n"
        "def wordy(seed):\n    return lambda observation, info: 'drop'\n"
        "def rash(seed):\n    return lambda observation, info: 7\n"
        "def boxed(seed):\n    return lambda observation, info: info['action_mask'][:1] * 0\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[int] = []
    row = score(cases, "agent:my_agent:lazy", seconds=0.0, seeds=2, done=lambda: seen.append(1))
    assert len(seen) == 4
    at_home = [(case.xla_judged_seconds or 0.0) / home_seconds(*case.problem) for case in cases]
    assert row.speedup == pytest.approx(sqrt(at_home[0] * at_home[1]))
    assert score(cases, "agent:my_agent:boxed", seconds=0.0, seeds=1).speedup == row.speedup
    rash = score(cases, "agent:my_agent:rash", seconds=0.0, seeds=2)
    assert (rash.illegal, rash.speedup, row.illegal) == (4, pytest.approx(row.speedup), 0)
    first, again = (play(cases[0], "agent:random", random_policy(3)) for _ in range(2))
    assert first.mapping == again.mapping
    assert first.violations == ()
    for name, message in (("number", "not callable"), ("seedless", "expected a function of a seed")):
        with pytest.raises(InputError, match=message):
            find_agent(f"agent:my_agent:{name}")
    with pytest.raises(InputError, match="played 'drop', expected an action, a whole number from 0 to 2"):
        score(cases, "agent:my_agent:wordy", seconds=0.0, seeds=1)
    with pytest.raises(InputError, match="expected a policy"):
        score(cases, "agent:my_agent:none", seconds=0.0, seeds=1)
    sys.modules.pop("my_agent")


def test_bad_entries_are_one_line(cases: list[Case]) -> None:
    for entry, message in (
        ("agent:", "needs a name"),
        ("agent:nobody", "unknown agent 'nobody', expected package"),
        ("nobody", "unknown solver 'nobody'"),
    ):
        with pytest.raises(InputError, match=message):
            score(cases, entry, seconds=0.1, seeds=1)
    with pytest.raises(InputError, match="need programs and seeds"):
        score([], "greedy", seconds=0.1, seeds=1)


def test_command(cases: list[Case], capsys: pytest.CaptureFixture[str]) -> None:
    from mallocgame.cli.scoreboard import scoreboard

    options: dict[str, Any] = {"traces": "lstm-v5e,alexnet-v5e", "seconds": 2.0, "seeds": 1}
    scoreboard(["xla", "greedy", "agent:random"], **options)
    table = capsys.readouterr().out
    assert "2 programs" in table
    assert all(name in table for name in ("xla", "greedy", "agent:random", "1.000x"))
    scoreboard(["xla"], **options, json=True)
    assert '"speedup": 1.0' in capsys.readouterr().out
