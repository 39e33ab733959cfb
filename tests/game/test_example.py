"""The example in ``examples/`` runs as it is, and its policy beats masked random play on two families."""

import importlib.util
from types import ModuleType

import pytest

from mallocgame.evaluation import make_case
from mallocgame.game.scoreboard import play
from mallocgame.workloads import suite
from tests.paths import ROOT

pytest.importorskip("sb3_contrib")
SCRIPT = ROOT / "examples" / "maskable_ppo.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    if not SCRIPT.is_file():
        pytest.skip("examples are not part of the installed package")
    spec = importlib.util.spec_from_file_location("maskable_ppo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_maskable_ppo_learns(example: ModuleType) -> None:
    score = example.compare("loop", steps=3072, seed=0, episodes=8)
    assert score.learned > score.random + 0.05


def test_command_line(example: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["maskable_ppo.py", "--family", "chain", "--steps", "64"])
    example.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["family", "chain"]


def test_it_is_an_entry_of_the_scoreboard(example: ModuleType) -> None:
    case = make_case(suite.load("lstm-v5e"), hoist=False)
    policy = example.on_real_traces(0, steps=64)
    first, again = (play(case, "ppo", policy) for _ in range(2))
    assert first.violations == ()
    assert first.mapping == again.mapping
