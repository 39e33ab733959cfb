"""Play: valid, never worse than its start, on time, repeatable, and as good as any game where games are small."""

import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.placement.greedy import greedy
from mallocgame.baselines.play import play as module
from mallocgame.baselines.play.play import play
from mallocgame.game import relay, rules
from mallocgame.game.variations import Variations
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.workloads.make import find_programs
from mallocgame.workloads.synthetic.generate import Recipe, generate
from tests.game.oracle import best_play
from tests.paths import ROOT

FAMILIES = ("chain", "residual", "training", "loop")


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(FAMILIES), st.integers(5, 40), st.integers(0, 99), st.booleans())
def test_never_worse_than_its_starts_and_the_same_each_time(family: str, size: int, seed: int, started: bool) -> None:
    case = generate(Recipe(family=family, decisions=size, capacity_pressure=2.0), seed=seed)
    program, hierarchy = case.program, case.hierarchy
    start = greedy(program, hierarchy).mapping if started else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay, "DECISIONS", 500)  # so that annealing has its steps, too
        found = play(program, hierarchy, steps=3000, seed=seed, start=start)
        again = play(program, hierarchy, steps=3000, seed=seed, start=start)
    assert validate(program, hierarchy, found.mapping) == []
    assert found.seconds == simulate(program, hierarchy, found.mapping).total_seconds
    assert found.seconds <= greedy(program, hierarchy).seconds
    assert found.lower_bound_seconds <= found.seconds * (1.0 + 1e-9)
    assert again.mapping == found.mapping
    assert [seconds for _, seconds in again.history] == [seconds for _, seconds in found.history]


@pytest.mark.parametrize("family", FAMILIES)
def test_small_games_are_solved(family: str) -> None:
    """The oracle tries every episode."""
    for seed in range(3):
        case = generate(Recipe(family=family, decisions=7, capacity_pressure=2.0), seed=seed)
        optimum, _ = best_play(rules.make_game(case.program, case.hierarchy))
        found = play(case.program, case.hierarchy, steps=20_000, seed=seed)
        assert found.seconds <= optimum * (1.0 + 1e-12)


def test_more_moves_find_more_and_small_tensors_are_decided_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOCUS", 0.1)
    ((program, hierarchy),) = find_programs(family="residual", decisions=60)
    found = [play(program, hierarchy, steps=steps).seconds for steps in (0, 500, 200_000)]
    assert found[2] < found[1] < found[0]
    focused = program.focused(module.FOCUS)
    small = {i for i, (a, b) in enumerate(zip(program.tensors, focused.tensors, strict=True)) if a.movable > b.movable}
    assert small
    moved = {residency.tensor for residency in play(program, hierarchy, steps=200_000).mapping.residencies}
    assert moved & small


def test_it_is_on_time_and_says_how_far_it_is() -> None:
    ((program, hierarchy),) = find_programs(family="training", decisions=200)
    play(program, hierarchy, steps=1)  # compiles
    shares: list[float] = []
    for seconds in (0.0, 0.3, 1.0):
        begun = time.process_time()
        result = play(program, hierarchy, seconds=seconds, progress=shares.append)
        assert time.process_time() - begun <= 1.1 * seconds + 0.5  # its own: others may work here
        assert (result.mapping == Mapping()) == (seconds == 0.0)
    assert max(shares) == pytest.approx(1.0, abs=0.1)


def test_a_program_without_decisions_is_answered_at_once() -> None:
    ((program, hierarchy),) = find_programs(family="chain", decisions=12)
    fixed = program.focused(1.0)
    assert fixed.num_decisions == 0
    result = play(fixed, hierarchy, seconds=5.0)
    assert result.mapping == Mapping()
    assert result.solve_seconds < 4.0


def test_an_interrupt_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    ((program, hierarchy),) = find_programs(family="training", decisions=60)
    search, calls = Variations.search, [0]

    def stopped(self: Variations, count: int, random: np.random.Generator, temperature: float) -> bool:
        calls[0] += 1
        if calls[0] > 50:
            raise KeyboardInterrupt
        return search(self, count, random, temperature)

    monkeypatch.setattr(Variations, "search", stopped)
    result = play(program, hierarchy, steps=10**6)  # of which a tenth is annealed first
    assert result.status == "interrupted"
    assert validate(program, hierarchy, result.mapping) == []
    assert result.seconds < greedy(program, hierarchy).seconds


def test_it_needs_no_network() -> None:
    heavy = ("jax", "flax", "mctx", "optax", "gymnasium", "torch")
    script = f"import sys; import mallocgame.baselines.play.play; print([m for m in {heavy} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.strip() == "[]"
