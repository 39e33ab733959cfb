"""Homes that move: what a program of two layers becomes with a slower one below."""

from dataclasses import replace

import pytest

from mallocgame.errors import InputError
from mallocgame.hierarchy import preset
from mallocgame.judge.simulation import home_seconds, lower_bound, simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, Mapping, Residency
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind
from mallocgame.rehoming import rehome

KIB = 1024


def _program(pinned_bytes: int = 4 * KIB) -> Program:
    weight = Tensor(name="w", size_bytes=KIB, is_parameter=True, uses=(Use(step=0, bytes=KIB), Use(step=1, bytes=KIB)))
    state = Tensor(
        name="s",
        size_bytes=KIB,
        is_parameter=True,
        is_output=True,
        uses=(Use(step=0, bytes=KIB, home_only=True), Use(step=1, bytes=KIB, kind=UseKind.UPDATE)),
    )
    pinned = Tensor(name="p", size_bytes=pinned_bytes, movable=False, uses=(Use(step=1, bytes=7, kind=UseKind.DEFINE),))
    instructions = tuple(
        Instruction(name=f"i{step}", compute_seconds=1e-9, fixed_bytes=(100 + step, step)) for step in range(2)
    )
    return Program(name="p", instructions=instructions, tensors=(weight, state, pinned))


def test_on_its_own_memory_nothing_changes() -> None:
    v5e = preset("v5e")
    program, hierarchy = rehome(_program(), v5e, v5e)
    assert hierarchy == v5e
    assert program == _program()


def test_what_may_not_move_is_traffic_of_the_old_home_and_takes_its_space() -> None:
    host = preset("host-v5e")
    program, hierarchy = rehome(_program(), preset("v5e"), host)
    assert [i.fixed_bytes for i in program.instructions] == [(0, 100 + KIB, 0), (0, 101 + 7, 1)]
    assert hierarchy.layers[1].capacity_bytes == host.layers[1].capacity_bytes - 4 * KIB
    assert hierarchy.layers[0] == host.layers[0]
    assert hierarchy.layers[2] == host.layers[2]
    weight, state, pinned = program.tensors
    assert weight.holdable
    assert not state.holdable  # something writes it
    assert [(u.bytes, u.home_only) for u in state.uses] == [(0, False), (KIB, False)]
    assert pinned.uses == ()
    assert lower_bound(program, hierarchy) < home_seconds(program, hierarchy)


def test_a_weight_stays_in_the_old_home_for_ever_and_costs_no_copy() -> None:
    program, hierarchy = rehome(_program(), preset("v5e"), preset("host-v5e"))
    held = Mapping(residencies=(Residency(tensor=0, layer=1, offset_bytes=0, start_step=HELD, end_step=2),))
    assert validate(program, hierarchy, held) == []
    assert simulate(program, hierarchy, held).total_seconds < home_seconds(program, hierarchy)


def test_by_name_where_names_agree_and_else_from_the_fastest_layer_down() -> None:
    host = preset("host-v5e")
    other = replace(host, layers=tuple(replace(layer, name=f"x{i}") for i, layer in enumerate(host.layers)))
    assert rehome(_program(), preset("v5e"), other)[0] == rehome(_program(), preset("v5e"), host)[0]


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="may not leave HBM take"):
        rehome(_program(pinned_bytes=16 * 2**30), preset("v5e"), preset("host-v5e"))
