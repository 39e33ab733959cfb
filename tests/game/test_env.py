"""The Gymnasium environment: conformity, the observation against an independent look at the mapping, pictures."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from mallocgame.errors import InputError
from mallocgame.game.batch import ILLEGAL_REWARD
from mallocgame.game.env import MallocEnv
from mallocgame.game.features import feature_names
from mallocgame.game.observation import ObservationConfig, Observations, global_names, use_names
from mallocgame.game.render import LEFT, RIGHT, TOP, WIDTH, tensor_colour
from mallocgame.hierarchy import preset
from mallocgame.judge.simulation import home_seconds, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.program import Program, UseKind
from mallocgame.workloads.make import find_programs, make_env
from mallocgame.workloads.synthetic.generate import FAMILIES, Recipe, generate
from mallocgame.workloads.trace import Trace, save_trace
from tests.game.oracle import tiny_chip

SEEDS = st.integers(0, 10_000)


def make(**source: Any) -> MallocEnv:
    """Return the bare environment, made through Gymnasium."""
    env = gymnasium.make("MallocGame-v0", **source).unwrapped
    assert isinstance(env, MallocEnv)
    return env


def play(env: MallocEnv, seed: int, drop: float = 0.2) -> list[tuple[Observations, Mapping, int]]:
    """Play at random; return each observation, the mapping at that time, and the turn; and check the score."""
    random = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    seen, total, done = [], 0.0, False
    while not done:
        seen.append((observation, env.to_mapping(), len(seen)))
        mask = info["action_mask"].astype(bool)
        assert (mask == env.action_masks()).all()
        legal = np.flatnonzero(mask)
        action = 0 if random.random() < drop else random.choice(legal)
        observation, reward, done, truncated, info = env.step(action)
        assert not truncated
        assert np.isfinite(reward)
        total += reward
    game = env.batch.games[env.batch.which[0]]
    home, judged = home_seconds(game.program, game.hierarchy), simulate(game.program, game.hierarchy, env.to_mapping())
    assert total == pytest.approx((home - judged.total_seconds) / home, abs=1e-9)
    assert info["seconds"] == pytest.approx(judged.total_seconds, rel=1e-9)
    assert validate(game.program, game.hierarchy, env.to_mapping()) == []
    assert env.action_masks().tolist() == [True, *[False] * (env.batch.num_actions - 1)]  # Drop does nothing now
    return seen


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"family": "training", "decisions": 40},
        {"family": ["loop", "embedding"], "count": 2, "decisions": 20},
        {"family": "residual", "hierarchy": "host-v5e", "decisions": 30, "observation": ObservationConfig(next_uses=0)},
    ],
)
def test_conforms_to_gymnasium_by_id(source: dict[str, Any]) -> None:
    env = make(**source)
    assert env.spec is not None
    check_env(env)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=6, deadline=None)
@given(seed=SEEDS)
def test_observations_stay_in_their_space(family: str, seed: int) -> None:
    env = make(family=family, decisions=40, seed=seed, capacity_pressure=1.5)
    for observation, _, _ in play(env, seed):
        assert env.observation_space.contains(observation)


def tensors_and_steps(program: Program) -> list[tuple[int, int]]:
    """The decisions in order of play, from the program alone."""
    found = {
        (use.step, i)
        for i, tensor in enumerate(program.tensors)
        for use in tensor.uses
        if tensor.movable and not any(u.home_only for u in tensor.uses if u.step == use.step)
    }
    return [(tensor, step) for step, tensor in sorted(found)]


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, family=st.sampled_from(list(FAMILIES)), num_layers=st.integers(2, 3))
def test_the_memory_grid_is_the_mapping(seed: int, family: str, num_layers: int) -> None:
    """Each cell, recomputed from the residencies of ``to_mapping`` with exact overlaps."""
    chip = tiny_chip(64 * 512, num_layers=num_layers)
    instance = generate(Recipe(family=family, decisions=30, bandwidth_pressure=0.7), seed=seed, hierarchy=chip)
    program = instance.program
    config = ObservationConfig(past_cells=3, future_cells=5, address_cells=7, next_uses=3)
    env = make(program=program, hierarchy=chip, observation=config)
    order, edges = tensors_and_steps(program), config.time_edges
    for observation, mapping, turn in play(env, seed, drop=0.1):
        tensor, step = order[turn]
        expected = np.zeros((2 * (num_layers - 1), 8, 7))
        for c in range(8):
            span = range(step + int(edges[c]), step + int(edges[c + 1]))
            expected[::2, c] = sum(not 0 <= t < program.num_steps for t in span) / len(span)
            for r in mapping.residencies:
                shared = sum(max(r.start_step, 0) <= t < r.end_step for t in span) / len(span)
                cell = chip.layers[r.layer].capacity_bytes / 7
                end = r.offset_bytes + program.tensors[r.tensor].size_bytes
                for row in range(7):
                    part = max(min(end, (row + 1) * cell) - max(r.offset_bytes, row * cell), 0.0) / cell
                    expected[2 * r.layer - 2, c, row] += shared * part
                    expected[2 * r.layer - 1, c, row] += shared * part * (r.tensor == tensor)
        np.testing.assert_allclose(observation["memory"], expected, atol=1e-5)
        taken = dict(zip(global_names(num_layers), observation["globals"], strict=True))
        timeline = simulate(program, chip, mapping)
        for layer in range(1, num_layers):
            part = timeline.occupancy_bytes[step, layer] / chip.layers[layer].capacity_bytes
            assert taken[f"taken.{layer}"] == pytest.approx(part, abs=1e-6)
        home = home_seconds(program, chip)
        assert taken["score"] == pytest.approx(max(1 - timeline.total_seconds / home, -1), abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, family=st.sampled_from(list(FAMILIES)))
def test_the_rows_of_uses(seed: int, family: str) -> None:
    instance = generate(Recipe(family=family, decisions=30), seed=seed)
    program, chip = instance.program, instance.hierarchy
    env = make(program=program, hierarchy=chip)
    order, names = tensors_and_steps(program), use_names(2)
    seen = play(env, seed, drop=0.1)
    assert len(seen) == len(order)
    for observation, mapping, turn in seen:
        rows = order[turn : turn + 9]
        table = {name: observation["uses"][:, i] for i, name in enumerate(names)}
        assert table["present"].tolist() == [1.0] * len(rows) + [0.0] * (9 - len(rows))
        first = [[t for t, _ in rows].index(tensor) for tensor, _ in rows]
        assert observation["same_as"].tolist() == first + [-1] * (9 - len(rows))
        for row, (tensor, step) in enumerate(rows):
            value = program.tensors[tensor]
            kinds = {use.kind for use in value.uses if use.step == step}
            assert table["define"][row] == (kinds == {UseKind.DEFINE})
            assert table["parameter"][row] == value.is_parameter
            assert table["size.1"][row] == pytest.approx(min(value.size_bytes / chip.layers[1].capacity_bytes, 1.0))
            assert table["ahead"][row] == pytest.approx(np.log1p(step - rows[0][1]) / np.log1p(program.num_steps))
            later = len({u.step for u in value.uses if u.step > step})
            assert table["uses_left"][row] == pytest.approx(np.log1p(later) / np.log1p(program.num_steps))
            if table["resident.1"][row]:  # then it has a residency that began before
                assert any(r.tensor == tensor and r.start_step < step for r in mapping.residencies)


def test_supply_is_the_link_time_that_nobody_uses() -> None:
    """Before any choice all idle time is free; a prefetch takes from it what the copy costs."""
    instance = generate(Recipe(family="residual", decisions=30, bandwidth_pressure=0.3, capacity_pressure=0.5), seed=2)
    program, chip = instance.program, instance.hierarchy
    edges = ObservationConfig().time_edges
    env = make(program=program, hierarchy=chip)
    moved = np.zeros(program.num_steps)
    for tensor in program.tensors:
        for use in tensor.uses:
            moved[use.step] += use.bytes / chip.layers[0].bytes_per_second
    elapsed = np.maximum(program.compute_seconds, moved)
    observation, _ = env.reset(seed=0)
    for c, value in enumerate(observation["supply"][0]):
        span = slice(max(int(edges[c]), 0), max(int(edges[c + 1]), 0))
        busy = elapsed[span].sum()
        assert value == pytest.approx((elapsed - moved)[span].sum() / busy if busy else 0.0, abs=1e-5)
    order = tensors_and_steps(program)
    turn = next(
        i for i in range(20, 30) if order[i][1] == order[i + 1][1] and program.tensors[order[i][0]].is_parameter
    )
    for _ in range(turn):
        before = env.step(0)[0]
    after = env.step(1)[0]
    tensor, step = order[turn]
    (copy,) = env.to_mapping().transfers
    past = [elapsed[max(step + a, 0) : max(step + b, 0)].sum() for a, b in pairwise(edges[:7])]
    taken = (before["supply"][0, :6] - after["supply"][0, :6]) @ np.array(past)
    assert copy.start_after + 1 >= step - 32
    assert taken == pytest.approx(program.tensors[tensor].size_bytes / chip.links[0].bytes_per_second, rel=1e-4)


def test_an_illegal_action_ends_the_game_with_a_penalty() -> None:
    env = make(family="chain", decisions=30)
    env.reset(seed=0)
    while env.action_masks().all():
        env.step(0)
    wrong = int(np.flatnonzero(~env.action_masks())[0])
    observation, reward, terminated, truncated, info = env.step(np.int64(wrong))
    assert (reward, terminated, truncated) == (ILLEGAL_REWARD, True, False)
    assert env.observation_space.contains(observation)
    assert info["action_mask"].tolist() == [1, 0, 0]
    game = env.batch.games[0]
    assert validate(game.program, game.hierarchy, env.to_mapping()) == []
    assert env.step(0)[1:3] == (0.0, True)  # over is over


def test_reset_draws_from_a_set_of_programs() -> None:
    env = make(family=["chain", "training"], count=3, decisions=20)
    names = {env.reset(seed=seed)[1]["program"] for seed in range(60)}
    assert names == {f"{family}-20-{seed}" for family in ("chain", "training") for seed in range(3)}
    assert env.reset(seed=7)[1]["program"] == env.reset(seed=7)[1]["program"]
    assert env.reset(options={"program": 4})[1]["program"] == "training-20-1"
    assert env.reset(options={"program": "training-20-1"})[1]["program"] == "training-20-1"
    with pytest.raises(InputError, match="an index below 6 or one of chain-20-0"):
        env.reset(options={"program": 6})


def test_sources(tmp_path: Path) -> None:
    instance = generate(Recipe(family="loop", decisions=20), seed=1)
    path = tmp_path / "loop.json.gz"
    save_trace(path, Trace(name="mine", program=instance.program, hierarchy=instance.hierarchy))
    from_file = make(trace=path)
    assert from_file.batch.games[0].program == instance.program
    assert make(trace=str(path), hierarchy="v4").batch.games[0].hierarchy == preset("v4")
    assert make(programs=[(instance.program, instance.hierarchy)]).batch.games[0].program == instance.program
    for source, message in (
        ({"trace": path, "family": "chain"}, "give one of .*, not trace and family"),
        ({"family": "chian"}, "unknown family 'chian'"),
        ({"family": "chain", "decision": 3}, "decision"),
        ({"decisions": 30}, "'decisions'; the fields of a recipe need family"),
        ({"suite": "no-such"}, "no shipped trace 'no-such'"),
        ({"trace": tmp_path / "absent.json"}, "absent.json"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            find_programs(**source)  # type: ignore[arg-type]
        assert "\n" not in str(refused.value)


def test_a_program_without_decisions_is_refused() -> None:
    program = generate(Recipe(family="chain", decisions=10)).program
    fixed = tuple(replace(tensor, movable=False) for tensor in program.tensors)
    with pytest.raises(InputError, match="nothing to decide"):
        make(program=Program(name="fixed", instructions=program.instructions, tensors=fixed))


def test_pictures() -> None:
    instance = generate(Recipe(family="planted", decisions=60), seed=1)
    env = make(program=instance.program, hierarchy=instance.hierarchy, render_mode="rgb_array")
    env.reset(seed=0)
    blank = env.render()
    done = False
    while not done:
        done = env.step(int(np.flatnonzero(env.action_masks())[-1]))[2]
    image = env.render()
    assert image.dtype == np.uint8
    assert image.shape == blank.shape
    assert image.shape[1:] == (LEFT + WIDTH + RIGHT, 3)
    mapping, program = env.to_mapping(), instance.program
    capacity = instance.hierarchy.layers[1].capacity_bytes
    big = max(mapping.residencies, key=lambda r: program.tensors[r.tensor].size_bytes * (r.end_step - r.start_step))
    row = TOP + 240 - int((big.offset_bytes + program.tensors[big.tensor].size_bytes / 2) / capacity * 240) - 1
    used = sorted({use.step for tensor in program.tensors for use in tensor.uses})
    left, right = (sum(step < edge for step in used) for edge in (big.start_step, big.end_step))
    column = LEFT + int((left + right) / 2 / len(used) * WIDTH) + 1
    assert tuple(image[row, column]) == tensor_colour(big.tensor)
    assert tuple(blank[row, column]) != tensor_colour(big.tensor)
    text = make(program=program, hierarchy=instance.hierarchy, render_mode="ansi")
    text.reset(seed=0)
    assert "decision 0 of" in text.render()
    assert "step 0 (step.0) uses " in text.render()
    frames = gymnasium.make("MallocGame-v0", family="chain", decisions=8, render_mode="rgb_array_list")
    frames.reset(seed=0)
    frames.step(0)
    assert [frame.dtype for frame in frames.render()] == [np.uint8] * 2
    metadata: Any = make_env.metadata  # type: ignore[attr-defined]
    assert metadata == MallocEnv.metadata
    with pytest.raises(InputError, match="unknown render mode"):
        MallocEnv([(program, instance.hierarchy)], render_mode="human")


@pytest.mark.parametrize("order", ["mallocgame, gymnasium", "gymnasium, mallocgame"])
def test_registration_needs_no_gymnasium(order: str) -> None:
    lazy = "import mallocgame, sys; assert 'gymnasium' not in sys.modules; " if order[0] == "m" else ""
    code = f"{lazy}import {order}; gymnasium.spec('MallocGame-v0')"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_names_match_columns() -> None:
    env = make(family="chain", decisions=20, hierarchy="host-v5e")
    observation, _ = env.reset(seed=0)
    assert observation["uses"].shape[1] == len(use_names(3)) == len(feature_names(3)) + 3
    assert observation["globals"].shape == (len(global_names(3)),)
