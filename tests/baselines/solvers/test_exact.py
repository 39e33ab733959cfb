"""What the integer-programming planner proposes, before anything repairs it or only keeps what validates."""

from dataclasses import replace

import numpy as np
import pytest

from mallocgame.baselines.bounds.relaxation import Relaxation, relax
from mallocgame.baselines.bounds.route import Leg
from mallocgame.baselines.milp.engine import highs_point
from mallocgame.baselines.milp.place import place
from mallocgame.baselines.milp.stays import Stay, stays
from mallocgame.baselines.milp.timing import retime, time_copies, to_mapping
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HOME, Mapping
from mallocgame.program import Instruction, Loop, Program, Tensor, Use, UseKind
from tests.baselines.solvers.tiny import tiny_hierarchy, tiny_program
from tests.game.cases import loopy_game
from tests.strategies import small_hierarchy


def planned(relaxation: Relaxation) -> list[Stay]:
    """Return the stays of the planner's first point."""
    linear = relaxation.linear
    cost, low, high = (np.array(each) for each in (linear.cost, linear.low, linear.high))
    found = highs_point(relaxation, cost, low, high, seconds=60.0)
    return [] if found.columns is None else stays(relaxation, found.columns)


def proposed(program: Program, hierarchy: Hierarchy) -> Mapping:
    """Return the planner's first proposal with its copies' times; addresses, all 0, come later."""
    chosen = planned(relax(program, hierarchy))
    timed = retime(program, hierarchy, time_copies(program, hierarchy, chosen))
    return to_mapping(program, timed, [0] * len(timed))


def crossings(program: Program, hierarchy: Hierarchy, mapping: Mapping) -> list[str]:
    """Return the validator's complaints about copies across a loop's edge."""
    return [v.message for v in validate(program, hierarchy, mapping) if v.rule == "loop"]


def looped(uses: tuple[Use, ...], loop: Loop, num_steps: int, *, is_parameter: bool, size_bytes: int = 2) -> Program:
    """One tensor in steps of a second each, of which a loop repeats some."""
    trips = [loop.trip_count if loop.start_step <= t < loop.end_step else 1 for t in range(num_steps)]
    tensor = Tensor(name="t", size_bytes=size_bytes, uses=uses, is_parameter=is_parameter, is_output=not is_parameter)
    instructions = tuple(Instruction(name=f"i{t}", compute_seconds=1.0, trip_count=n) for t, n in enumerate(trips))
    return Program(name="looped", instructions=instructions, tensors=(tensor,), loops=(loop,))


def test_write_back_begins_after_the_loop_of_the_write() -> None:
    """The output is written in the loop and copied out when the loop, which ends the program, is over."""
    loop = Loop(start_step=0, end_step=3, trip_count=5)
    program = looped((Use(step=1, bytes=9, kind=UseKind.DEFINE),), loop, 3, is_parameter=False)
    mapping, given_up = place(program, small_hierarchy(), planned(relax(program, small_hierarchy())), seconds=30.0)
    assert given_up == 0
    (back,) = mapping.transfers
    assert (back.target, back.start_after + 1, back.done_before) == (HOME, 3, 3)


@pytest.mark.parametrize(("size_bytes", "issue"), [(1, 3), (2, 1), (6, 1), (12, 0)])
def test_copy_in_goes_around_a_loop_without_uses(size_bytes: int, issue: int) -> None:
    """The link has a second in step 0, ten in the loop of steps 1 and 2, and one in step 3, before the use in step 4.

    One byte fits in step 3 alone; more need the loop, and begin before it; twelve need step 0 too.
    """
    loop = Loop(start_step=1, end_step=3, trip_count=5)
    program = looped((Use(step=4, bytes=40),), loop, 5, is_parameter=True, size_bytes=size_bytes)
    hierarchy = small_hierarchy(capacity_bytes=12)
    mapping, given_up = place(program, hierarchy, planned(relax(program, hierarchy)), seconds=30.0)
    assert given_up == 0
    (fill,) = mapping.transfers
    assert (fill.source, fill.start_after + 1, fill.done_before) == (HOME, issue, 4)


def test_copy_in_that_cannot_go_around_a_loop_begins_after_it() -> None:
    """Another tensor fills the fast layer in the loop's first step; the link time of its second is left to others."""
    loop = Loop(start_step=1, end_step=3, trip_count=5)
    program = looped((Use(step=3, bytes=40),), loop, 4, is_parameter=True)
    other = Tensor(name="u", size_bytes=6, uses=(Use(step=1, bytes=40, kind=UseKind.DEFINE),))
    program = replace(program, tensors=(*program.tensors, other))
    hierarchy = small_hierarchy(capacity_bytes=6)
    mapping, given_up = place(program, hierarchy, planned(relax(program, hierarchy)), seconds=30.0)
    assert given_up == 0
    (fill,) = mapping.transfers
    assert (fill.tensor, fill.start_after + 1, fill.done_before) == (0, 3, 3)


@pytest.mark.parametrize("first_seed", range(0, 80, 20))
def test_no_copy_crosses_a_loops_edge(first_seed: int) -> None:
    copies = 0
    for seed in range(first_seed, first_seed + 20):
        game = loopy_game(seed)
        cases = [(tiny_program(seed, num_steps=4 + seed % 6, num_tensors=1 + seed % 3), tiny_hierarchy(seed))]
        if game.hierarchy.num_layers == 2:
            cases.append((game.program, game.hierarchy))
        for program, hierarchy in cases:
            mapping = proposed(program, hierarchy)
            copies += len(mapping.transfers)
            assert not crossings(program, hierarchy, mapping), program.name
    assert copies > 20


def test_what_has_no_room_for_all_of_it_comes_in_two_slices() -> None:
    """The copy of ``late`` takes six seconds; all of it has room only in the last three of them."""
    seconds = (1.0, 4.0, 1.0, 3.0, 1.0)
    early = Tensor(name="early", size_bytes=4, uses=(Use(step=0, bytes=4, kind=UseKind.DEFINE), Use(step=2, bytes=4)))
    late = Tensor(name="late", size_bytes=6, is_parameter=True, uses=(Use(step=4, bytes=6),))
    program = Program(
        name="slices",
        instructions=tuple(Instruction(name=f"i{t}", compute_seconds=s) for t, s in enumerate(seconds)),
        tensors=(early, late),
    )
    leg = Leg(first_due=1, last_due=4, first_issue=0, trip_count=1.0, from_step=0, to_step=4)
    chosen = [
        Stay(tensor=0, layer=1, start=0, end=3, worth=2.0),
        Stay(tensor=1, layer=1, start=4, end=5, fill=leg, worth=1.0),
    ]
    found = [time_copies(program, small_hierarchy(size), chosen)[1].slices for size in (6, 8, 10)]
    assert [each and each.early_bytes for each in found] == [2, 3, None]  # as much as there is room for; all of it
    mapping, given_up = place(program, small_hierarchy(), chosen, seconds=10.0)
    assert given_up == 0
    assert validate(program, small_hierarchy(), mapping) == []
    assert [(x.start_after + 1, x.done_before, x.size_bytes) for x in mapping.transfers] == [(1, 4, 3), (3, 4, 3)]
    assert simulate(program, small_hierarchy(), mapping).total_seconds == sum(seconds) + 0.5  # 6 bytes at 4 a second
