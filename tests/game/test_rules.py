"""The rules against the judge: every state is a valid mapping with the time that ``simulate`` gives."""

import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mallocgame.errors import InputError
from mallocgame.game.rules import (
    Game,
    State,
    actions_of,
    apply,
    decode,
    initial_state,
    is_terminal,
    legal_actions,
    make_game,
    step,
    to_mapping,
    total_seconds,
)
from mallocgame.game.rules.state import COPIED, HELD_OVER, Groups, Moves, Places
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME, Mapping
from mallocgame.program import Instruction, Loop, Program, Tensor, Use, UseKind
from tests.game.cases import games, loopy_game, play, replay
from tests.strategies import small_hierarchy

WALKS = int(os.environ.get("MALLOCGAME_WALKS", "600"))  # fewer where kernels run as Python
slow = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def check(game: Game, state: State, actions: list[int]) -> None:
    """The mapping of ``state`` is valid, and takes as long as the rules say."""
    mapping = to_mapping(game, state)
    assert validate(game.program, game.hierarchy, mapping) == [], actions
    seconds = simulate(game.program, game.hierarchy, mapping).total_seconds
    assert abs(seconds - total_seconds(state)) <= 1e-9 * game.home_seconds, actions


def walk(game: Game, seed: int, eager: float, seen: Counter[str]) -> None:
    """Play at random, checking every state, the return, and that an episode can be replayed."""
    rng = np.random.default_rng(seed)
    state, actions, rewards = initial_state(game), [], []
    while not is_terminal(game, state):
        legal = np.flatnonzero(legal_actions(game, state))
        assert legal[0] == 0
        group = game.rules.decisions[state.turn[0]]
        action = int(rng.choice(legal[1:] if len(legal) > 1 and rng.random() < eager else legal))
        seen["taken back"] += int(action == 0 and state.served[group] >= 0)
        actions.append(action)
        rewards.append(step(game, state, action))
        check(game, state, actions)
    gained = (game.home_seconds - total_seconds(state)) / game.home_seconds
    assert abs(sum(rewards) - gained) <= 1e-9
    assert not legal_actions(game, state).any()
    seconds, taken = decode(game, np.array(actions, dtype=np.int64))
    assert taken.tolist() == actions
    assert seconds == total_seconds(state)
    begun = state.places[:, Places.LAYER] > 0
    copied = begun & (state.places[:, Places.ENTRY] == COPIED)
    seen["held"] += int((begun & (state.places[:, Places.ENTRY] == HELD_OVER)).sum())
    seen["hoisted"] += int((copied & (state.places[:, Places.SINCE] < game.rules.groups[:, Groups.STEP])).sum())
    seen["from a fast layer"] += int((copied & (state.places[:, Places.SOURCE] >= 0)).sum())
    seen["written back"] += int((state.copies[1::2, Moves.QUEUE] >= 0).sum())


def test_every_state_of_programs_with_loops_is_valid_and_exact() -> None:
    seen: Counter[str] = Counter()
    for seed in range(WALKS):
        walk(loopy_game(seed), seed, (0.3, 0.7, 0.95)[seed % 3], seen)
    kinds = ("taken back", "held", "hoisted", "from a fast layer", "written back")
    assert min(seen[kind] for kind in kinds) > WALKS / 20, seen


@settings(max_examples=500, deadline=None, suppress_health_check=slow)
@given(games(), st.integers(0, 2**20), st.sampled_from((0.0, 0.5, 0.9)))
def test_every_state_of_small_programs_is_valid_and_exact(game: Game, seed: int, eager: float) -> None:
    walk(game, seed, eager, Counter())


@settings(max_examples=150, deadline=None, suppress_health_check=slow)
@given(games(), st.integers(0, 2**20))
def test_apply_leaves_its_argument_alone_and_equals_step(game: Game, seed: int) -> None:
    _, actions, rewards = play(game, seed, eager=0.7)
    state = initial_state(game)
    for action, reward in zip(actions, rewards, strict=True):
        turn, total = int(state.turn[0]), total_seconds(state)
        places, copies = state.places.copy(), state.copies.copy()
        after, gained = apply(game, state, action)
        assert gained == reward
        assert (int(state.turn[0]), total_seconds(state)) == (turn, total)
        assert (state.places == places).all()
        assert (state.copies == copies).all()
        state = after


@settings(max_examples=300, deadline=None, suppress_health_check=slow)
@given(games(), st.integers(0, 2**20))
def test_wanted_actions_are_taken_where_legal_and_mappings_replay(game: Game, seed: int) -> None:
    wanted = np.random.default_rng(seed).integers(0, game.num_actions, game.num_decisions)
    totals = np.zeros(game.num_decisions)
    seconds, taken = decode(game, wanted, totals=totals)
    state = initial_state(game)
    for want, action, total in zip(wanted.tolist(), taken.tolist(), totals.tolist(), strict=True):
        legal = legal_actions(game, state)
        other = want + 1 if want % 2 else want - 1
        if legal[want]:
            assert action == want
        else:
            assert action == (other if want and legal[other] else 0)
        step(game, state, action)
        assert total == total_seconds(state)
    assert seconds == total_seconds(state)
    assert decode(game, wanted, limits=totals)[0] == seconds
    if game.num_decisions:
        limits = totals.copy()
        at = seed % game.num_decisions
        limits[at] *= 0.999
        given_up, begun = decode(game, wanted, limits=limits)
        assert given_up == np.inf
        assert begun[: at + 1].tolist() == taken[: at + 1].tolist()
    assert len(actions_of(game, to_mapping(game, state))) == game.num_decisions


def one_tensor(
    uses: list[tuple[int, UseKind]], num_steps: int, *, loops: tuple[Loop, ...] = (), **flags: bool
) -> tuple[Program, Hierarchy]:
    """One tensor of 4 bytes, 8 bytes a use, steps of a second, on two layers of 1 and 4 bytes a second."""
    instructions = []
    for t in range(num_steps):
        inside = [loop.trip_count for loop in loops if loop.start_step <= t < loop.end_step]
        instructions.append(Instruction(name=f"i{t}", compute_seconds=1.0, trip_count=int(np.prod(inside))))
    tensor = Tensor(
        name="t",
        size_bytes=4,
        uses=tuple(Use(step=t, bytes=8, kind=kind) for t, kind in uses),
        **{"is_parameter": True, **flags},
    )
    program = Program(name="one", instructions=tuple(instructions), tensors=(tensor,), loops=loops)
    return program, small_hierarchy(8)


def mapping_of(program: Program, memory: Hierarchy, actions: list[int]) -> Mapping:
    game = make_game(program, memory)
    state = replay(game, actions)
    check(game, state, actions)
    return to_mapping(game, state)


def test_a_copy_starts_as_late_as_its_supply_allows() -> None:
    mapping = mapping_of(*one_tensor([(9, UseKind.READ)], 10), [1])
    (transfer,) = mapping.transfers
    assert (transfer.start_after, transfer.done_before) == (4, 9)  # four seconds of link time, four idle steps before 9


def test_a_copy_that_cannot_be_hidden_is_paid_as_a_stall() -> None:
    program, memory = one_tensor([(1, UseKind.READ)], 2)
    game = make_game(program, memory)
    state = replay(game, [1])
    assert total_seconds(state) == 1.0 + 3.0 + 2.0  # one second hidden, three waited, eight bytes at 4 a second


def test_a_definition_is_written_back_only_if_layer_0_needs_it() -> None:
    uses = [(0, UseKind.DEFINE), (5, UseKind.READ)]
    kept = mapping_of(*one_tensor(uses, 6, is_parameter=False), [2, 2])
    assert kept.transfers == ()
    dropped = mapping_of(*one_tensor(uses, 6, is_parameter=False), [2, 0])
    assert [x.target for x in dropped.transfers] == [HOME]
    output = mapping_of(*one_tensor(uses, 6, is_parameter=False, is_output=True), [2, 2])
    assert [x.target for x in output.transfers] == [HOME]


def several(*uses: list[int]) -> Game:
    """Movables of 4 bytes, each defined at its first step and read at the others, and 8 fast bytes."""
    tensors = tuple(
        Tensor(
            name=f"t{i}",
            size_bytes=4,
            uses=tuple(Use(step=t, bytes=8, kind=UseKind.READ if n else UseKind.DEFINE) for n, t in enumerate(steps)),
        )
        for i, steps in enumerate(uses)
    )
    last = max(max(steps) for steps in uses)
    instructions = tuple(Instruction(name=f"i{t}", compute_seconds=1.0) for t in range(last + 1))
    return make_game(Program(name="several", instructions=instructions, tensors=tensors), small_hierarchy(8))


def offsets_of(game: Game, actions: list[int]) -> dict[int, list[int]]:
    """Return the offsets of each tensor's residencies after a whole episode."""
    state = replay(game, actions)
    assert is_terminal(game, state)
    check(game, state, actions)
    found: dict[int, list[int]] = {}
    for residency in to_mapping(game, state).residencies:
        found.setdefault(residency.tensor, []).append(residency.offset_bytes)
    return found


def test_space_for_a_tensors_next_use_is_left_alone_while_there_is_other() -> None:
    game = several([0, 1, 16], [12, 13, 18])
    assert offsets_of(game, [2] * 6) == {0: [0], 1: [4]}


def test_space_for_the_furthest_next_use_is_taken_first() -> None:
    game = several([0, 1, 16], [2, 3, 20], [12, 13, 18])
    found = offsets_of(game, [2, 2, 2, 2, 2, 2, 2, 2, 0])
    assert found == {0: [0], 1: [4], 2: [4]}


def test_a_tensor_without_further_use_goes_to_the_upper_end_of_the_gap() -> None:
    assert offsets_of(several([0, 1]), [2, 2]) == {0: [4]}


def test_a_loop_invariant_tensor_is_copied_once_before_the_loop_if_it_may() -> None:
    loops = (Loop(start_step=2, end_step=8, trip_count=5),)
    uses = [(4, UseKind.READ), (6, UseKind.READ)]
    (before,) = mapping_of(*one_tensor(uses, 9, loops=loops), [1, 2]).transfers
    assert before.done_before == 2
    (inside,) = mapping_of(*one_tensor(uses, 9, loops=loops, hoistable=False), [1, 2]).transfers
    assert 2 < inside.start_after + 1 <= inside.done_before == 4


def test_dropping_a_loops_later_use_takes_the_hoisted_copy_back() -> None:
    loops = (Loop(start_step=2, end_step=8, trip_count=5),)
    program, memory = one_tensor([(4, UseKind.READ), (6, UseKind.READ)], 9, loops=loops)
    game = make_game(program, memory)
    state = replay(game, [1])
    assert legal_actions(game, state).tolist() == [True, False, True]
    assert step(game, state, 0) < 0
    assert to_mapping(game, state) == Mapping()
    assert total_seconds(state) == game.home_seconds


def test_a_carried_tensor_keeps_its_place_round_the_loop() -> None:
    loops = (Loop(start_step=1, end_step=4, trip_count=3),)
    uses = [(0, UseKind.DEFINE), (1, UseKind.READ), (3, UseKind.DEFINE), (5, UseKind.READ)]
    mapping = mapping_of(*one_tensor(uses, 6, loops=loops, is_parameter=False, is_output=True), [2, 2, 2, 2])
    (residency,) = mapping.residencies
    (transfer,) = mapping.transfers
    assert residency.end_step == 6
    assert transfer.start_after + 1 == 4  # after the last iteration, not in each


def test_a_held_parameter_is_loaded_again_at_the_end() -> None:
    program, memory = one_tensor([(0, UseKind.READ), (2, UseKind.READ)], 12, holdable=True)
    mapping = mapping_of(program, memory, [2, 2])
    assert mapping.residencies[0].start_step == HELD
    (reload,) = mapping.transfers
    assert (reload.target, reload.done_before) == (1, 12)
    plain, _ = one_tensor([(0, UseKind.READ)], 12)
    game = make_game(plain, memory)
    assert not legal_actions(game, initial_state(game))[2]


def test_bad_actions_are_one_line_and_change_nothing() -> None:
    program, memory = one_tensor([(3, UseKind.READ)], 4)
    game = make_game(program, memory)
    state = initial_state(game)
    for action in (2, 3, -1):
        with pytest.raises(InputError, match=f"decision 0: action {action} is illegal"):
            step(game, state, action)
    step(game, state, 1)
    with pytest.raises(InputError, match="the game is over"):
        apply(game, state, 0)


def test_a_program_that_takes_no_time_is_refused() -> None:
    tensor = Tensor(name="t", size_bytes=1, uses=(Use(step=0, bytes=0),), is_parameter=True)
    program = Program(name="idle", instructions=(Instruction(name="i", compute_seconds=0.0),), tensors=(tensor,))
    with pytest.raises(InputError, match="idle: takes no time"):
        make_game(program, small_hierarchy())


def test_a_tensor_larger_than_layer_0_is_refused_by_name() -> None:
    program, memory = one_tensor([(3, UseKind.READ)], 4)
    home = replace(memory.layers[0], capacity_bytes=program.tensors[0].size_bytes - 1)
    with pytest.raises(InputError, match=r"tensor 0 .*do not fit home"):
        make_game(program, replace(memory, layers=(home, *memory.layers[1:])))


def test_the_program_knows_how_many_decisions_its_game_has() -> None:
    for seed in range(40):
        game = loopy_game(seed)
        assert game.program.num_decisions == game.num_decisions
