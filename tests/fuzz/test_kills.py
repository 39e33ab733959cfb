"""A few random kills; ``python -m tests.fuzz.kills`` does hundreds, of every long command."""

import random

import pytest

from mallocgame.evaluation import find_solver
from mallocgame.warm_up import tiny_problem
from tests.fuzz.kills import COMMANDS, kill_once


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """A signal waits until LLVM has finished a kernel, which takes a minute where nothing is compiled yet."""
    for name in ("anneal", "lns"):  # lns packs
        find_solver(name)[0].prepare(tiny_problem())


@pytest.mark.parametrize("name", ["pack", "anneal"])
def test_a_killed_command_leaves_nothing_half_done(name: str) -> None:
    rng = random.Random(5)
    assert [line for _ in range(3) for line in kill_once(COMMANDS[name], rng).wrong] == []
