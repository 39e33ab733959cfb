"""A few random kills; ``python -m tests.fuzz.kills`` does hundreds, of every long command."""

import random

import pytest

from tests.fuzz.kills import COMMANDS, kill_once


@pytest.mark.parametrize("name", ["pack", "anneal"])
def test_a_killed_command_leaves_nothing_half_done(name: str) -> None:
    rng = random.Random(5)
    assert [line for _ in range(3) for line in kill_once(COMMANDS[name], rng)] == []
