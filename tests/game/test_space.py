"""Moving residencies in memory, the order of copies in a queue, and space that finished write-backs give back.

The oracles are ``validate`` and ``simulate`` on the mapping, and plain searches written here.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mallocgame.game.rules import Game, State, initial_state, is_terminal, legal_actions, make_game, step, to_mapping
from mallocgame.game.rules import copy_state as copy_of
from mallocgame.game.rules.addresses import repack
from mallocgame.game.rules.occupancy import has_room, settle
from mallocgame.game.rules.state import HELD_OVER, Groups, Movables, Moves, Places, Rules, Size
from mallocgame.game.rules.step import do_step
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HOME, Mapping
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind
from tests.game.cases import loopy_game, play, replay
from tests.strategies import small_hierarchy

slow = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
READ, DEFINE = UseKind.READ, UseKind.DEFINE


def game_of(
    tensors: list[tuple[int, list[tuple[int, UseKind]]]], num_steps: int, capacity: int, *, outputs: frozenset[int]
) -> Game:
    """Movables of given sizes and uses (4 bytes each), steps of a second, on layers of 1 and 4 bytes a second."""
    program = Program(
        name="hand-made",
        instructions=tuple(Instruction(name=f"i{t}", compute_seconds=1.0) for t in range(num_steps)),
        tensors=tuple(
            Tensor(
                name=f"t{i}",
                size_bytes=size,
                uses=tuple(Use(step=t, bytes=4, kind=kind) for t, kind in uses),
                is_parameter=uses[0][1] == READ,
                is_output=i in outputs,
            )
            for i, (size, uses) in enumerate(tensors)
        ),
    )
    return make_game(program, small_hierarchy(capacity))


def checked(game: Game, state: State) -> Mapping:
    """Return the mapping of ``state``, which is valid and takes as long as the rules say."""
    mapping = to_mapping(game, state)
    assert validate(game.program, game.hierarchy, mapping) == []
    seconds = simulate(game.program, game.hierarchy, mapping).total_seconds
    assert abs(seconds - float(state.total[0])) <= 1e-9 * game.home_seconds
    return mapping


def spans(game: Game, state: State, layer: int) -> dict[int, list[tuple[int, int]]]:
    """Return the steps over which each residency of ``layer`` takes space."""
    found: dict[int, list[tuple[int, int]]] = {}
    for place in np.flatnonzero(state.places[:, Places.LAYER] == layer).tolist():
        row = state.places[place]
        found[place] = [(max(int(row[Places.BEGIN]), 0), int(row[Places.FINISH]))]
        if row[Places.ENTRY] == HELD_OVER:
            found[place].append((int(state.copies[2 * place, Moves.ISSUE]), game.program.num_steps))
    return found


def overlaps(
    taken: dict[int, list[tuple[int, int]]], offsets: dict[int, int], sizes: dict[int, int]
) -> list[tuple[int, int]]:
    """Return the pairs of residencies that share bytes in a step."""
    return [
        (a, b)
        for a, b in combinations(taken, 2)
        if any(x < v and u < y for (x, y), (u, v) in product(taken[a], taken[b]))
        and offsets[a] < offsets[b] + sizes[b]
        and offsets[b] < offsets[a] + sizes[a]
    ]


def test_a_tensor_that_fits_only_in_pieces_moves_the_others() -> None:
    # t0 and t2 stay at the two ends of what t1 leaves; t3 needs the middle and the end together
    uses = [[(0, DEFINE), (9, READ)], [(1, DEFINE), (3, READ)], [(2, DEFINE), (9, READ)], [(4, DEFINE), (8, READ)]]
    sizes = (2, 3, 2, 4)
    game = game_of(list(zip(sizes, uses, strict=True)), 10, 8, outputs=frozenset())
    state = initial_state(game)
    for _ in range(4):
        step(game, state, 2)
    before = {x.tensor: x.offset_bytes for x in checked(game, state).residencies}
    free = sorted(set(range(8)) - {b for i in (0, 2) for b in range(before[i], before[i] + sizes[i])})
    assert len(free) == 4
    assert free[-1] - free[0] > 3  # four bytes are free at step 4, not in one piece
    assert legal_actions(game, state)[2]
    while not is_terminal(game, state):
        step(game, state, 2)
    mapping = checked(game, state)
    assert sorted(x.tensor for x in mapping.residencies) == [0, 1, 2, 3]
    after = {x.tensor: x.offset_bytes for x in mapping.residencies}
    assert any(after[i] != before[i] for i in (0, 1, 2))


def test_packing_anew_is_sound_and_forgets_what_is_not_kept() -> None:
    packed = refused = moved = 0
    for seed in range(250):
        game = loopy_game(seed)
        state, _, _ = play(game, seed, eager=0.9)
        rng = np.random.default_rng(seed)
        rules = game.rules
        sizes = {g: int(rules.tensors[rules.groups[g, Groups.TENSOR], Movables.SIZE]) for g in range(len(rules.groups))}
        for layer in range(1, game.hierarchy.num_layers):
            homeless = np.flatnonzero(state.places[:, Places.LAYER] == 0)
            for own in rng.permutation(homeless)[:4].tolist():
                begin = int(rng.integers(0, rules.num_steps))
                end = int(rng.integers(begin, rules.num_steps)) + 1
                ints, floats = state.ints.copy(), state.floats.copy()
                offset = repack(rules, state, layer, own, (begin, end, -1))
                assert not state.marks.any()
                taken = spans(game, state, layer)
                if offset >= 0:
                    packed += 1
                    planned = {p: int(state.planned[p]) for p in taken}
                    moved += int(any(planned[p] != state.places[p, Places.OFFSET] for p in taken))
                    everyone = {**taken, own: [(begin, end)]}
                    assert overlaps(everyone, {**planned, own: offset}, sizes) == []
                    capacity = game.hierarchy.layers[layer].capacity_bytes
                    assert all(o >= 0 and o + sizes[p] <= capacity for p, o in [*planned.items(), (own, offset)])
                    assert has_room(rules, state, layer, sizes[own], begin, end)
                else:
                    refused += 1
                settle(state, False)
                assert int(state.moved_count[0]) == 0
                assert all(state.planned[p] == state.places[p, Places.OFFSET] for p in taken)
                state.gap_offsets[:], state.gap_tops[:], state.moved[:], state.planned[own] = 0, 0, 0, 0
                kept = game_state(game, ints, floats)
                kept.gap_offsets[:], kept.gap_tops[:], kept.moved[:], kept.planned[own] = 0, 0, 0, 0
                assert (state.ints == kept.ints).all()
                assert (state.floats == kept.floats).all()
    assert packed > 100 < moved, (packed, refused, moved)
    assert refused > 100, (packed, refused, moved)


def game_state(game: Game, ints: np.ndarray, floats: np.ndarray) -> State:
    """Return a state with these contents."""
    state = copy_of(game, game.start)
    state.ints[:], state.floats[:] = ints, floats
    return state


def test_a_copy_is_issued_before_others_early_enough_not_to_delay_them() -> None:
    game = game_of([(4, [(8, READ)]), (4, [(9, READ)])], 10, 8, outputs=frozenset())
    state = replay(game, [1, 1])
    issues = {x.tensor: x.start_after + 1 for x in checked(game, state).transfers}
    # the link is free in step 8 too, but the first copy could not start at 4 if the second began at 1
    assert issues == {0: 4, 1: 0}
    assert float(state.total[0]) == 10.0


def reading_game(rng: np.random.Generator) -> Game:
    """Parameters that are read, without any effect on the steps' times; all fit."""
    num_steps = int(rng.integers(3, 40))
    seconds = rng.integers(0, 3, num_steps) / 2
    program = Program(
        name="readers",
        instructions=tuple(
            Instruction(name=f"i{t}", compute_seconds=float(seconds[t]) + 0.5) for t in range(num_steps)
        ),
        tensors=tuple(
            Tensor(
                name=f"t{i}",
                size_bytes=int(rng.integers(1, 8)),
                uses=tuple(
                    Use(step=int(t), bytes=0) for t in np.flatnonzero(rng.random(num_steps) < 0.1).tolist() or [0]
                ),
                is_parameter=True,
            )
            for i in range(int(rng.integers(1, 8)))
        ),
    )
    return make_game(program, small_hierarchy(1000))


def issued_at(mapping: Mapping, index: int, boundary: int) -> Mapping:
    """Return ``mapping`` with transfer ``index`` issued at ``boundary``; copies of one boundary go by what is due."""
    moved = replace(mapping.transfers[index], start_after=boundary - 1)
    residencies = list(mapping.residencies)
    residencies[moved.target] = replace(residencies[moved.target], start_step=boundary)
    transfers = [*mapping.transfers[:index], moved, *mapping.transfers[index + 1 :]]
    transfers.sort(key=lambda x: x.done_before)
    return Mapping(residencies=tuple(residencies), transfers=tuple(transfers))


def tell_copies(game: Game, seed: int) -> Iterator[tuple[int, list[int], list[int]]]:
    """Play until a copy cannot be hidden; yield the issue of each, of the others, and the issues that add no stall."""
    rng = np.random.default_rng(seed)
    state = initial_state(game)
    while not is_terminal(game, state) and float(state.total[0]) == game.home_seconds:
        known = {(x.tensor, x.done_before): x.start_after + 1 for x in to_mapping(game, state).transfers}
        legal = np.flatnonzero(legal_actions(game, state))
        step(game, state, 1 if 1 in legal and rng.random() < 0.8 else int(rng.choice(legal)))
        mapping = checked(game, state)
        for i, transfer in enumerate(mapping.transfers):
            if (transfer.tensor, transfer.done_before) not in known:
                boundaries = range(transfer.done_before + 1)
                trials = [simulate(game.program, game.hierarchy, issued_at(mapping, i, b)) for b in boundaries]
                silent = [b for b in boundaries if trials[b].total_seconds <= game.home_seconds + 1e-9]
                yield transfer.start_after + 1, list(known.values()), silent


@settings(max_examples=200, deadline=None, suppress_health_check=slow)
@given(st.integers(0, 2**20))
def test_a_copy_that_is_the_last_in_its_queue_is_issued_as_late_as_nothing_waits(seed: int) -> None:
    game = reading_game(np.random.default_rng(seed))
    for issue, others, silent in tell_copies(game, seed):
        if silent and max(others, default=-1) < silent[-1]:
            assert issue == silent[-1]


def test_copies_that_go_before_others_seldom_delay_them_where_they_need_not() -> None:
    before = quiet = 0
    for seed in range(1500):
        game = reading_game(np.random.default_rng(seed))
        for issue, others, silent in tell_copies(game, seed):
            if silent and max(others, default=-1) >= silent[-1]:
                before += 1
                quiet += int(issue in silent)
    assert before > 50
    assert quiet > 0.65 * before, (quiet, before)


def back_due(game: Game, state: State, tensor: int) -> int:
    """Return when the write-back of ``tensor`` is due."""
    (found,) = [x for x in to_mapping(game, state).transfers if x.tensor == tensor and x.target == HOME]
    return found.done_before


def test_the_space_of_a_finished_write_back_serves_the_next_tensor() -> None:
    uses = [[(0, DEFINE)], [(1, DEFINE), (2, READ), (3, READ), (4, READ), (5, READ)], [(6, DEFINE), (7, READ)]]
    game = game_of(list(zip((4, 4, 8), uses, strict=True)), 9, 8, outputs=frozenset({0}))
    state = replay(game, [2])
    assert back_due(game, state, 0) > 6  # steps 1 to 7 read and write layer 0, as far as is known
    for _ in range(5):
        step(game, state, 2)
        checked(game, state)
    assert back_due(game, state, 0) <= 6
    assert legal_actions(game, state)[2]
    step(game, state, 2)
    step(game, state, 2)
    assert {x.tensor: x.offset_bytes for x in checked(game, state).residencies}[2] == 0


def test_giving_space_back_changes_no_time() -> None:
    released = shorter = 0
    for seed in range(200):
        game = loopy_game(seed)
        _, actions, _ = play(game, seed, eager=0.9)
        state = initial_state(game)
        for turn, action in enumerate(actions):
            layout = game.rules.layout.copy()
            layout[Size.DECISIONS] = turn + 1
            kept = copy_of(game, state)  # as if this were the last decision: nothing is given back after it
            do_step(Rules(layout, game.rules.ints, game.rules.floats), kept, action)
            step(game, state, action)
            assert abs(float(kept.total[0]) - float(state.total[0])) <= 1e-12 * game.home_seconds
            seconds = simulate(game.program, game.hierarchy, checked(game, kept)).total_seconds
            again = simulate(game.program, game.hierarchy, checked(game, state)).total_seconds
            assert abs(again - seconds) <= 1e-12 * game.home_seconds
            assert (state.copies[:, Moves.DUE] <= kept.copies[:, Moves.DUE]).all()
            assert (state.occupied <= kept.occupied).all()
            released += int((state.copies[:, Moves.DUE] < kept.copies[:, Moves.DUE]).sum())
            shorter += int((state.places[:, Places.FINISH] < kept.places[:, Places.FINISH]).sum())
    assert released > 30 < shorter, (released, shorter)
