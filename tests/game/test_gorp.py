"""GORP against every sequence of actions of small games, and the effective horizon where it is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.baselines.play.gorp import Gorp, effective_horizon, gorp, random_legal
from mallocgame.errors import InputError
from mallocgame.game import rules
from mallocgame.game.batch import MallocGameBatch
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind
from mallocgame.workloads.synthetic.generate import FAMILIES, PLANTED, Recipe, generate
from tests.game.oracle import best_play, tiny_chip

SEEDS = st.integers(0, 10_000)


def small(family: str, seed: int, num_layers: int = 2) -> tuple[Program, Hierarchy]:
    """A game of few decisions."""
    chip = tiny_chip(64 * 512, num_layers=num_layers)
    recipe = Recipe(family=family, decisions=6, capacity_pressure=1.5, bandwidth_pressure=0.8)
    instance = generate(recipe, seed=seed, hierarchy=chip)
    return instance.program, chip


@settings(max_examples=12, deadline=None)
@given(seed=SEEDS, family=st.sampled_from(["chain", "residual", "loop", "embedding", PLANTED]))
def test_looking_ahead_to_the_end_is_exact(seed: int, family: str) -> None:
    program, chip = small(family, seed)
    game = rules.make_game(program, chip)
    if game.num_decisions > 9:
        return
    best, _ = best_play(game)
    played = Gorp(program, chip, look_ahead=min(game.num_decisions, 6), rollouts=1, seed=seed).play()
    assert played >= best * (1 - 1e-12)
    if game.num_decisions <= 6:
        assert played == pytest.approx(best, rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, k=st.integers(1, 3), rollouts=st.sampled_from([1, 4]), family=st.sampled_from(list(FAMILIES)))
def test_what_it_plays_is_valid_and_never_beats_the_oracle(seed: int, k: int, rollouts: int, family: str) -> None:
    program, chip = small(family, seed)
    player = Gorp(program, chip, look_ahead=k, rollouts=rollouts, seed=seed)
    seconds = player.play()
    assert player.best_seconds <= min(seconds, player.root.games[0].home_seconds)
    assert validate(program, chip, player.best) == []
    assert simulate(program, chip, player.best).total_seconds == pytest.approx(player.best_seconds, rel=1e-9)
    if player.root.games[0].num_decisions <= 8:
        assert player.best_seconds >= best_play(player.root.games[0])[0] * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_no_play_beats_a_planted_optimum(seed: int) -> None:
    instance = generate(Recipe(family=PLANTED, decisions=6), seed=seed, hierarchy=tiny_chip(64 * 512))
    assert instance.optimum_seconds is not None
    game = rules.make_game(instance.program, instance.hierarchy)
    if game.num_decisions <= 9:
        assert best_play(game)[0] >= instance.optimum_seconds * (1 - 1e-9)
    result = gorp(instance.program, instance.hierarchy, seconds=0.5, seed=seed)
    assert result.seconds >= instance.optimum_seconds * (1 - 1e-9)


def test_random_legal_is_uniform() -> None:
    masks = np.array([[True, True, True], [True, False, True], [False, False, False], [False, True, False]])
    random, actions, counts = np.random.default_rng(0), np.zeros(4, dtype=np.int64), np.zeros((4, 3))
    for _ in range(6000):
        random_legal(masks, random.random(4), actions)
        counts[np.arange(4), actions] += 1
    np.testing.assert_allclose(counts / 6000, [[1 / 3] * 3, [1 / 2, 0, 1 / 2], [1, 0, 0], [0, 1, 0]], atol=0.03)


def trap() -> tuple[Program, Hierarchy]:
    """A value that fills the fast layer and saves a little, then one that needs the same space and saves a lot.

    Small's reads bracket big's whole life, so whoever lets small stay cannot place big at all.
    """
    chip = tiny_chip(512)
    small = [Use(step=0, bytes=512, kind=UseKind.DEFINE), Use(step=4, bytes=512)]
    big = [Use(step=1, bytes=512, kind=UseKind.DEFINE), *(Use(step=s, bytes=8192) for s in (2, 3))]
    tensors = (
        Tensor(name="small", size_bytes=512, uses=tuple(small)),
        Tensor(name="big", size_bytes=512, uses=tuple(big)),
    )
    steps = tuple(Instruction(name=f"s{i}", compute_seconds=0.0) for i in range(5))
    return Program(name="trap", instructions=steps, tensors=tensors), chip


def test_effective_horizon() -> None:
    """One independent choice needs one step and one rollout; a reachable target has a horizon, another has none."""
    easy, chip = trap()
    lone = Program(name="lone", instructions=easy.instructions, tensors=easy.tensors[1:])
    found = effective_horizon(lone, chip, look_aheads=(3, 4), max_horizon=4.0, tolerance=0.0)
    assert (found.horizon, found.look_ahead, found.rollouts, found.num_actions) == (3.0, 3, 1, 3)
    assert found.target_seconds == pytest.approx(best_play(rules.make_game(lone, chip))[0], rel=1e-12)
    deep = effective_horizon(easy, chip, look_aheads=(1, 2, 3), max_horizon=4.0, tolerance=0.0)
    assert deep.target_seconds == pytest.approx(best_play(rules.make_game(easy, chip))[0], rel=1e-12)
    assert deep.horizon == deep.look_ahead + np.log(deep.rollouts) / np.log(3)
    assert sorted(pair[:2] for pair in deep.medians) == [
        *((1, m) for m in (1, 2, 4, 8, 16)),
        *((2, m) for m in (1, 2, 4, 8)),
        *((3, m) for m in (1, 2)),
    ]
    never = effective_horizon(easy, chip, look_aheads=(1,), max_horizon=1.7, target_seconds=1e-9, tolerance=0.0)
    assert (never.horizon, never.look_ahead) == (float("inf"), 0)


def test_the_solver_keeps_its_promises() -> None:
    instance = generate(Recipe(family="residual", decisions=30), seed=4)
    program, chip = instance.program, instance.hierarchy
    told: list[float] = []
    result = gorp(program, chip, seconds=1.0, seed=1, progress=told.append)
    assert validate(program, chip, result.mapping) == []
    assert result.seconds == simulate(program, chip, result.mapping).total_seconds
    assert told[-1] == 1.0
    again = gorp(program, chip, seconds=0.0, seed=1, start=result.mapping)
    assert again.seconds <= result.seconds


def test_bad_arguments() -> None:
    program, chip = trap()
    with pytest.raises(InputError, match="look_ahead >= 1"):
        Gorp(program, chip, look_ahead=0)
    with pytest.raises(InputError, match="rollouts >= 1"):
        Gorp(program, chip, rollouts=0)
    with pytest.raises(InputError, match="need a look-ahead"):
        effective_horizon(program, chip, look_aheads=())


def test_rollouts_leave_the_root_alone() -> None:
    program, chip = trap()
    player = Gorp(program, chip, rollouts=3)
    before = player.root.to_mapping(0)
    player.best_action()
    assert player.root.to_mapping(0) == before
    assert isinstance(player.batch, MallocGameBatch)
    assert player.batch.done.all()
