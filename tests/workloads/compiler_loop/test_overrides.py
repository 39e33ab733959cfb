"""Overrides: what they say, how they are spelt, and how refusals are met."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mallocgame.errors import InputError
from mallocgame.explanation.placement import TensorPlacement, put_together, take_apart
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME, Mapping, Residency, Transfer
from mallocgame.program import Instruction, Loop, Program, Tensor, Use, UseKind
from mallocgame.workloads.compiler_loop.moves import MoveEstimator, WantedMapping, moves
from mallocgame.workloads.compiler_loop.overrides import (
    PREFERRED,
    SORT_ORDER,
    TENSOR_OVERRIDES,
    Action,
    Override,
    any_of,
    definitions,
    environment_line,
    escape,
    options_of,
    overrides_of,
    stays_only,
    traffic_bytes,
)
from mallocgame.workloads.compiler_loop.realise import (
    MAX_REFUSALS,
    OverrideSearch,
    _accepted,
    blamed,
    complete,
    improve,
    realise,
)
from mallocgame.workloads.compiler_loop.verify import Evaluation, OverrideOutcome, outcome_of
from mallocgame.workloads.xla.records import Position
from tests.workloads.compiler_loop.fake import HIERARCHY, FakeCompiler, goal, pinned, program

REFUSAL = "MSA strict override failed for instruction '{}' operand {}, shape f32[9], defining instruction '{}': Out of"


def pinned_part(tensor: int) -> TensorPlacement:
    return TensorPlacement(residencies=(pinned(tensor, 0, 4),))


def test_toy_goal_is_valid() -> None:
    assert validate(program(), HIERARCHY, goal()) == []


def test_orders_of_a_mapping() -> None:
    told = {(d.action, d.place, d.step, d.start_after) for d in overrides_of(program(), goal())}
    assert told == {
        (Action.PREFETCH, Position(instruction="use_b", operand=1), 3, 0),
        (Action.PIN, Position(instruction="make.1", index=(1,)), 0, -1),
        (Action.KEEP, Position(instruction="use_a.2"), 2, -1),
    }


def test_empty_mapping_keeps_everything_by_its_definition() -> None:
    told = overrides_of(program(), Mapping())
    assert {d.action for d in told} == {Action.KEEP}
    assert {d.place.instruction for d in told} == {"weight.0", "make.1", "use_a.2"}
    assert [d.tensor for d in told] == [1, 0, 2]  # by the bytes that they move


def test_value_that_leaves_fast_memory_is_kept_at_its_later_use() -> None:
    early = Mapping(residencies=(pinned(1, 50, 3),))
    (override,) = [d for d in overrides_of(program(), early) if d.tensor == 1]
    assert (override.action, override.place) == (Action.KEEP, Position(instruction="use_b", operand=0, index=(2, 0)))
    assert outcome_of(override, program(), early) is OverrideOutcome.REALISED
    assert outcome_of(override, program(), Mapping(residencies=(pinned(1, 50, 4),))) is OverrideOutcome.CHANGED


def test_pin_is_realised_only_to_the_last_use() -> None:
    (pin,) = [d for d in overrides_of(program(), goal()) if d.action is Action.PIN]
    assert outcome_of(pin, program(), Mapping(residencies=(pinned(1, 50, 4),))) is OverrideOutcome.REALISED
    assert outcome_of(pin, program(), Mapping(residencies=(pinned(1, 50, 3),))) is OverrideOutcome.CHANGED


def test_copy_that_is_asked_for_earlier_begins_after_the_use_before() -> None:
    longer = Program(
        name="longer",
        instructions=tuple(Instruction(name=n, compute_seconds=1.0) for n in "abcdef"),
        tensors=(
            Tensor(
                name="w",
                size_bytes=50,
                is_parameter=True,
                uses=(Use(step=2, bytes=50, operand=0), Use(step=5, bytes=50, operand=3)),
            ),
        ),
    )
    stay = Residency(tensor=0, layer=1, offset_bytes=0, start_step=5, end_step=6)
    copy = Transfer(tensor=0, source=HOME, target=0, start_after=4, done_before=5, size_bytes=50)
    parts = take_apart(Mapping(residencies=(stay,), transfers=(copy,)))
    found = list(moves(longer, parts, np.ones(7), WantedMapping.of(longer, Mapping())))
    assert {d.start_after for m in found for d in m.overrides if d.action is Action.PREFER} == {3, 2}


def test_use_is_kept_where_sizes_tell_it_from_the_fast_result() -> None:
    both = Mapping(residencies=(pinned(2, 0, 4), pinned(1, 50, 1)))  # 40 bytes are read slowly, 20 are made fast
    told = [d for d in overrides_of(program(), both) if d.tensor == 1]
    assert [d.place.instruction for d in told] == ["use_a.2", "use_b"]
    same = program()
    tensors = tuple(replace(t, size_bytes=40) if t.name == "use_a.2" else t for t in same.tensors)
    hit = [d for d in overrides_of(replace(same, tensors=tensors), both) if d.tensor == 1]
    assert [d.place.instruction for d in hit] == ["use_b"]
    spelt = options_of(told[:1], sizes_bytes=same.sizes_bytes)[TENSOR_OVERRIDES]
    assert "operand_number:0,size_gte:40,size_lte:40}" in str(spelt)


def test_spelling() -> None:
    options = options_of([*overrides_of(program(), goal()), *definitions(program(), 1, Action.FIRST)], {"x": "1"})
    assert options == {
        "x": "1",
        TENSOR_OVERRIDES: (
            "overrides{hlo_position_matcher{instruction_name_regex:'make[.]1',tuple_index{index:1}},"
            "pin_in_alternate_memory{}}"
            "overrides{hlo_operand_filter{instruction_name_regex:'use_b',operand_number:1},"
            "prefetch{logical_time:0,strict_timing:true}}"
            "overrides{hlo_position_matcher{instruction_name_regex:'use_a[.]2'},keep_in_default_memory{}}"
        ),
        SORT_ORDER: (
            "overrides{hlo_position_matcher{instruction_name_regex:'make[.]1',tuple_index{index:1}},"
            "override_options{assign_first:true}}"
        ),
    }
    assert options_of([]) == {}


def test_what_is_asked_of_many_alike_is_one_override_that_matches_them_alone() -> None:
    names = ["fusion.1", "fusion.12", "fusion", "copy-done.3", "fusion.2.remat", "a_b.7"]
    places = [Position(instruction=name) for name in names]
    same = [Override(action=Action.KEEP, tensor=0, place=place, step=0) for place in places]
    other = replace(same[0], tensor=1)
    spelt = str(options_of([*same, other], sizes_bytes=[100, 200])[TENSOR_OVERRIDES])
    assert spelt.count("overrides{") == 2
    assert "size_gte:100" in spelt
    assert "size_gte:200" in spelt
    expression = any_of(names)
    assert f"'{expression}'" in spelt
    assert all(re.fullmatch(expression, name) for name in names)
    others = ["fusion.11", "fusion.", "fusion.2", "fusionx1", "copy-done", "a_b.77", "", "xfusion.1"]
    assert not any(re.fullmatch(expression, name) for name in others)


def test_few_that_come_first_keep_their_order_and_many_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mallocgame.workloads.compiler_loop.overrides.MAX_IN_ORDER", 3)
    names = ["c", "a", "b", "d"]
    first = [
        Override(action=Action.FIRST, tensor=k, place=Position(instruction=name), step=0)
        for k, name in enumerate(names)
    ]
    kept = [replace(override, action=Action.KEEP) for override in first]
    for count, wanted in ((3, ["'c'", "'a'", "'b'"]), (4, ["'(a|b|c|d)'"])):
        told = options_of([*kept, *first[:count]])
        assert re.findall("'[^']*'", str(told[SORT_ORDER])) == wanted
        assert re.findall("'[^']*'", str(told[TENSOR_OVERRIDES])) == ["'(a|b|c|d)'"]


def test_who_has_nothing_to_do_with_a_value() -> None:
    use = Use(step=1, bytes=0, kind=UseKind.UPDATE)
    assert stays_only(use)
    others: list[dict[str, object]] = [{"operand": 0}, {"index": (0,)}, {"bytes": 1}, {"kind": UseKind.DEFINE}]
    assert not any(stays_only(replace(use, **change)) for change in others)  # type: ignore[arg-type]


def test_a_shell_hands_the_line_on_unchanged() -> None:
    options = options_of(overrides_of(program(), goal()))
    assert environment_line({"a": True, "b": 2}) == environment_line({"a": "true", "b": "2"})
    (word,) = shlex.split(environment_line(options))
    assert word == f"LIBTPU_INIT_ARGS=--{TENSOR_OVERRIDES}={options[TENSOR_OVERRIDES]}"
    assert not set(str(options[TENSOR_OVERRIDES])) & set(' \\"\n')


NAMES = st.text(alphabet="abz019_.-", min_size=1)


@given(NAMES, NAMES)
def test_escaped_names_match_themselves_alone(name: str, other: str) -> None:
    assert re.fullmatch(escape(name), name)
    assert bool(re.fullmatch(escape(name), other)) == (name == other)


@pytest.mark.parametrize("name", ["", "a b", "x'", "(.*)", "a\\b", "é"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="not the name of an instruction"):
        escape(name)
    with pytest.raises(InputError, match="not the name of an instruction"):
        any_of(["fusion.1", f"fusion.{name or ' '}"])


def test_obedient_compiler_gets_all_orders_and_reaches_the_goal() -> None:
    fake = FakeCompiler()
    search = fake.search()
    default = search.best.judged_seconds
    realise(search, program(), goal())
    assert {d for d in search.overrides if d.action is not Action.FIRST} == set(overrides_of(program(), goal()))
    assert {d.tensor for d in search.overrides if d.action is Action.FIRST} == {1}  # what is pinned
    assert search.best.mapping is not None
    assert search.best.judged_seconds < default
    outcomes = {outcome_of(d, program(), search.best.mapping) for d in overrides_of(program(), goal())}
    assert outcomes == {OverrideOutcome.REALISED}


def test_refused_order_is_withdrawn_and_the_rest_kept() -> None:
    def refuse(overrides: set[Override]) -> str:
        pins = any(d.action is Action.PIN for d in overrides)
        return REFUSAL.format("use_b", 0, "make.1") if pins else ""

    search = FakeCompiler(refuse).search()
    realise(search, program(), goal())
    assert {d.action for d in search.refused} == {Action.PIN, Action.FIRST}
    assert {d.action for d in search.overrides} == {Action.PREFETCH, Action.KEEP}
    pin = next(d for d in search.refused if d.action is Action.PIN)
    assert outcome_of(pin, program(), search.best.mapping, refused=True) is OverrideOutcome.REFUSED
    assert outcome_of(pin, program(), search.best.mapping) is OverrideOutcome.CHANGED


@pytest.mark.parametrize("reason", ["the compiler ended without a word", REFUSAL.format("other", 3, "other")])
def test_compiler_that_refuses_everything_leaves_the_default(reason: str) -> None:
    fake = FakeCompiler(lambda overrides: reason if overrides else "")
    search = fake.search()
    default = search.best
    realise(search, program(), goal())
    improve(search, program(), HIERARCHY, goal())
    assert search.best is default
    assert search.overrides == ()
    assert len(fake.asked) < 60


def test_refusals_are_met_in_few_compilations() -> None:
    many = [Override(action=Action.PIN, tensor=1, place=Position(instruction=f"x.{i}"), step=0) for i in range(100)]
    fake = FakeCompiler(lambda overrides: "no" if len(overrides) > 40 else "")
    assert 20 < len(_accepted(fake.search(), [], many)) <= 40
    assert len(fake.asked) <= MAX_REFUSALS


def test_a_disobedient_compiler_never_makes_it_worse() -> None:
    class Contrary(FakeCompiler):
        def mapping(self, overrides: set[Override]) -> Mapping:
            return Mapping() if overrides else super().mapping(overrides)

    search = Contrary().search()
    default = search.best
    realise(search, program(), goal())
    improve(search, program(), HIERARCHY, goal())
    assert search.best is default


def test_improve_finds_what_the_first_round_missed() -> None:
    def refuse(overrides: set[Override]) -> str:  # the pin is taken only without the override to place it first
        return (
            REFUSAL.format("use_b", 0, "make.1") if {Action.PIN, Action.FIRST} <= {d.action for d in overrides} else ""
        )

    search = FakeCompiler(refuse).search()
    realise(search, program(), goal())
    missed = search.best.judged_seconds
    improve(search, program(), HIERARCHY, goal())
    assert search.best.judged_seconds < missed
    assert Action.PIN in {d.action for d in search.overrides}


@pytest.mark.parametrize(("judged", "taken"), [(10.0, True), (10.00001, True), (10.1, False), (float("inf"), False)])
def test_mapping_is_completed_where_that_costs_nothing(judged: float, taken: bool) -> None:
    own = Mapping(residencies=(pinned(2, 60, 4),))  # which is to be in slow memory

    def evaluate(overrides: Sequence[Override]) -> Evaluation:
        assert {d.action for d in overrides} == {Action.KEEP}
        return Evaluation(options={"a": "b"}, mapping=None if judged > 1e9 else Mapping(), judged_seconds=judged)

    best = Evaluation(options={}, mapping=own, judged_seconds=10.0)
    search = OverrideSearch(evaluate=evaluate, deadline=lambda: float("inf"), best=best)
    complete(search, program(), Mapping())
    assert (search.best.mapping == Mapping()) == taken
    assert (len(search.overrides) == 3) == taken
    evaluations = search.evaluations
    complete(search, program(), own)  # nothing is missing where it is as wished
    assert search.evaluations == evaluations


def test_no_time_means_no_search() -> None:
    fake = FakeCompiler()
    search = fake.search(seconds=0.0)
    realise(search, program(), goal())
    improve(search, program(), HIERARCHY, goal())
    assert len(fake.asked) == 1


def test_large_value_is_pinned_though_others_must_give_way() -> None:
    """Space is short: the move says who goes, and is expected to pay for that."""
    own = Mapping(
        residencies=(
            Residency(tensor=0, layer=1, offset_bytes=0, start_step=1, end_step=4),
            pinned(2, 60, 4),
        ),
        transfers=(Transfer(tensor=0, source=HOME, target=0, start_after=0, done_before=3, size_bytes=50),),
    )
    tight = replace(HIERARCHY, layers=(HIERARCHY.layers[0], replace(HIERARCHY.layers[1], capacity_bytes=70)))
    estimator = MoveEstimator(program=program(), hierarchy=tight)
    parts = take_apart(own)
    assert put_together(parts) == own
    no_stalls = np.zeros(program().num_steps + 1)
    (pin,) = [
        m for m in moves(program(), parts, no_stalls, WantedMapping.of(program(), goal())) if m.part == pinned_part(1)
    ]
    assert estimator.seconds(pin.expected(parts)) == float("inf")
    roomy = estimator.make_room(parts, pin)
    assert roomy is not None
    assert estimator.seconds(roomy.expected(parts)) < float("inf")
    assert {tensor for tensor, _ in roomy.displaced} == {0, 2}


def test_late_copy_is_asked_for_earlier_but_not_before_its_last_use() -> None:
    weight = Residency(tensor=0, layer=1, offset_bytes=0, start_step=3, end_step=4)
    copy = Transfer(tensor=0, source=HOME, target=0, start_after=2, done_before=3, size_bytes=50)
    late = take_apart(Mapping(residencies=(weight,), transfers=(copy,)))
    stalls = np.array([0.0, 0.0, 0.0, 1.0, 0.0])
    found = [m for m in moves(program(), late, stalls, WantedMapping.of(program(), Mapping())) if m.tensor == 0]
    overrides = {(d.action, d.start_after) for m in found for d in m.overrides}
    assert overrides == {(Action.KEEP, -1), (Action.PREFER, 1), (Action.PREFER, -1)}
    estimator = MoveEstimator(program=program(), hierarchy=HIERARCHY)
    early = min(found, key=lambda m: estimator.seconds(m.expected(late)))
    assert estimator.seconds(early.expected(late)) < estimator.seconds(late)
    assert options_of([d for m in found for d in m.overrides if d.action is Action.PREFER])[PREFERRED] == (
        "overrides{hlo_operand_filter{instruction_name_regex:'use_b',operand_number:1},"
        "override_options{logical_time:1}}"
        "overrides{hlo_operand_filter{instruction_name_regex:'use_b',operand_number:1},"
        "override_options{logical_time:-1}}"
    )


def test_one_of_two_copies_is_left_out_where_the_reader_writes_to_slow_memory() -> None:
    twice = Program(
        name="twice",
        instructions=tuple(Instruction(name=n, compute_seconds=1.0) for n in ("a", "b", "c")),
        tensors=(
            Tensor(
                name="w",
                size_bytes=50,
                is_parameter=True,
                uses=(Use(step=0, bytes=50, operand=0), Use(step=2, bytes=50, operand=3)),
            ),
        ),
    )
    stays = tuple(Residency(tensor=0, layer=1, offset_bytes=0, start_step=s, end_step=e) for s, e in ((0, 1), (2, 3)))
    copies = tuple(
        Transfer(tensor=0, source=HOME, target=i, start_after=2 * i - 1, done_before=2 * i, size_bytes=50)
        for i in (0, 1)
    )
    parts = take_apart(Mapping(residencies=stays, transfers=copies))
    found = [m for m in moves(twice, parts, np.ones(4), WantedMapping.of(twice, Mapping())) if not m.whole]
    kept = {d.place for m in found for d in m.overrides if d.action is Action.KEEP}
    assert kept == set()  # something may be born in fast memory where they begin: not safe
    apart = take_apart(Mapping(residencies=(stays[0], replace(stays[1], start_step=1)), transfers=copies))
    found = [m for m in moves(twice, apart, np.ones(4), WantedMapping.of(twice, Mapping())) if not m.whole]
    (move,) = [m for m in found if m.overrides[0].action is Action.KEEP]
    assert move.overrides[0].place == Position(instruction="c", operand=3)
    assert move.part == TensorPlacement(residencies=stays[:1], transfers=copies[:1])
    assert move.apply([move.overrides[0]]) == move.overrides


def test_blame_falls_on_the_operand_else_on_the_definition() -> None:
    overrides = overrides_of(program(), goal())
    prefetch = [d for d in overrides if d.action is Action.PREFETCH]
    pin = [d for d in overrides if d.action is Action.PIN]
    assert blamed(REFUSAL.format("use_b", 1, "weight.0"), overrides) == prefetch
    assert blamed(REFUSAL.format("use_b", 0, "make.1"), overrides) == pin
    assert blamed("something else", overrides) == []


def _steps(*trips: int) -> tuple[Instruction, ...]:
    return tuple(Instruction(name=f"i{t}", compute_seconds=1.0, trip_count=trip) for t, trip in enumerate(trips))


def _at(tensor: int, start: int, end: int) -> Residency:
    return Residency(tensor=tensor, layer=1, offset_bytes=8 * tensor, start_step=start, end_step=end)


def _copy(tensor: int, source: int, target: int, after: int, due: int) -> Transfer:
    return Transfer(tensor=tensor, source=source, target=target, start_after=after, done_before=due, size_bytes=8)


def _told(program: Program, mapping: Mapping, tensor: int) -> set[tuple[Action, str, int, int]]:
    found = [o for o in overrides_of(program, mapping) if o.tensor == tensor]
    return {(o.action, o.place.instruction, o.place.operand, o.start_after) for o in found}


def test_a_use_is_not_kept_where_a_fast_update_in_place_would_be_hit_too() -> None:
    """A first operand that is fast may be what the instruction writes; a second one never is."""
    define, late = Use(step=0, bytes=8, kind=UseKind.DEFINE), Use(step=1, bytes=8, operand=1)
    for operand, kept in ((0, set()), (1, {(Action.KEEP, "i1", 1, -1)})):
        other = Use(step=1, bytes=8, kind=UseKind.UPDATE, operand=operand)
        tensors = tuple(Tensor(name=f"t{k}", size_bytes=8, uses=(define, use)) for k, use in enumerate((late, other)))
        program = Program(name="update", instructions=_steps(1, 1), tensors=tensors)
        assert _told(program, Mapping(residencies=(_at(0, 0, 1), _at(1, 0, 2))), 0) == kept


def test_a_value_that_an_update_makes_is_kept_where_it_is_made_in_a_loop_by_the_first_operand() -> None:
    define, update = Use(step=0, bytes=8, kind=UseKind.DEFINE), Use(step=1, bytes=8, kind=UseKind.UPDATE, index=(3,))
    tensor = Tensor(name="t", size_bytes=8, uses=(define, update, Use(step=2, bytes=8)))
    program = Program(name="slow", instructions=_steps(1, 1, 1), tensors=(tensor,))
    born = Mapping(residencies=(_at(0, 0, 1),))
    (kept,) = overrides_of(program, born)
    assert (kept.place, kept.step) == (Position(instruction="i1", index=(3,)), 1)
    assert outcome_of(kept, program, born) is OverrideOutcome.REALISED  # though the value before it is fast
    assert outcome_of(kept, program, Mapping(residencies=(_at(0, 0, 3),))) is OverrideOutcome.CHANGED
    body = replace(program.instructions[1], computation="body")
    inside = replace(program, instructions=(program.instructions[0], body, program.instructions[2]))
    (kept,) = overrides_of(inside, born)
    assert kept.place == Position(instruction="i1", operand=0)


def test_what_is_updated_in_place_and_copied_in_later_is_kept_by_the_parameter_alone() -> None:
    """By the operand of the update its result would be hit, and all uses of that."""
    uses = (Use(step=0, bytes=8, kind=UseKind.UPDATE), Use(step=1, bytes=8, operand=1), Use(step=2, bytes=8, operand=0))
    cache = Tensor(name="cache", size_bytes=8, is_parameter=True, is_output=True, uses=uses)
    program = Program(name="cached", instructions=_steps(1, 1, 1), tensors=(cache,))
    copied = Mapping(residencies=(_at(0, 2, 3),), transfers=(_copy(0, HOME, 0, 1, 2),))
    assert _told(program, copied, 0) == {
        (Action.KEEP, "cache", -1, -1),
        (Action.KEEP, "i1", 1, -1),
        (Action.PREFETCH, "i2", 0, 1),
    }


def test_definitions_are_what_makes_a_value() -> None:
    uses = (
        Use(step=0, bytes=8, kind=UseKind.DEFINE),
        Use(step=1, bytes=8, kind=UseKind.UPDATE, operand=0),
        Use(step=2, bytes=8),
        Use(step=3, bytes=8, operand=0),
    )
    tensor, loop = Tensor(name="t", size_bytes=8, uses=uses), Loop(start_step=1, end_step=3, trip_count=5)
    program = Program(name="d", instructions=_steps(1, 5, 5, 1), tensors=(tensor,), loops=(loop,))
    assert [(o.place.instruction, o.step) for o in definitions(program, 0, Action.KEEP)] == [("i0", 0)]
    given = replace(program, tensors=(replace(tensor, is_parameter=True),))
    assert [(o.place.instruction, o.step) for o in definitions(given, 0, Action.KEEP)] == [("t", -1), ("i0", 0)]
    assert traffic_bytes(program).tolist() == [8 * (1 + 5 + 5 + 1)]


def test_an_instruction_during_a_collective_is_not_named_for_what_the_collective_fills() -> None:
    """Its own results may be of that size: a sharded step was asked to keep half of its values in slow memory."""
    flying = (
        Use(step=0, bytes=0, kind=UseKind.DEFINE, index=(1,)),  # collective-permute-start
        Use(step=1, bytes=0, kind=UseKind.UPDATE),  # under way: the step has nothing to do with it
        Use(step=2, bytes=8, operand=0),
    )
    own = (Use(step=1, bytes=8, kind=UseKind.DEFINE), Use(step=1, bytes=8, operand=0), Use(step=2, bytes=8, operand=1))
    tensors = tuple(Tensor(name=f"t{k}", size_bytes=8, uses=uses) for k, uses in enumerate((flying, own[:1] + own[2:])))
    read = Tensor(name="w", size_bytes=8, is_parameter=True, uses=(own[1], own[2]))
    program = Program(name="collective", instructions=_steps(1, 1, 1), tensors=(*tensors, read))
    assert _told(program, Mapping(), 0) == {(Action.KEEP, "i0", -1, -1)}
    early = Mapping(residencies=(_at(0, 0, 2),))  # in slow memory at its last use alone
    assert _told(program, early, 0) == {(Action.KEEP, "i2", 0, -1)}
    slow_first = Mapping(residencies=(_at(0, 0, 3), _at(2, 2, 3)), transfers=(_copy(2, HOME, 1, 1, 2),))
    kept = (Action.KEEP, "i1", 0, -1)  # what flies in fast memory is no result of the step
    assert kept in _told(program, slow_first, 2)


def test_a_prefetch_is_for_the_first_use_that_the_copy_serves() -> None:
    uses = (
        Use(step=0, bytes=8, operand=0),
        Use(step=1, bytes=8),  # no operand that a matcher could name
        Use(step=2, bytes=8, operand=1, home_only=True),
        Use(step=3, bytes=8, operand=2),
        Use(step=4, bytes=8, operand=3),
    )
    weight = Tensor(name="w", size_bytes=8, is_parameter=True, holdable=True, uses=uses)
    program = Program(name="first", instructions=_steps(1, 1, 1, 1, 1), tensors=(weight,))
    slices = tuple(_copy(0, HOME, 0, after, 1) for after in (0, -1))
    kept = {(Action.KEEP, "i0", 0, -1), (Action.KEEP, "i2", 1, -1)}
    told = {*kept, (Action.PREFETCH, "i3", 2, -1)}  # from the first of its slices
    assert _told(program, Mapping(residencies=(_at(0, 0, 5),), transfers=slices), 0) == told
    begun = (_copy(0, HOME, 0, 1, 3), _copy(0, HOME, 1, 2, 3))
    twice = Mapping(residencies=(_at(0, 2, 3), _at(0, 3, 5)), transfers=begun)  # the first ends before it serves
    assert _told(program, twice, 0) == {*kept, (Action.PREFETCH, "i3", 2, 2)}
    held = Mapping(residencies=(_at(0, HELD, 5),), transfers=begun[:1])
    assert _told(program, held, 0) == kept  # nothing is asked of a copy into what is held


def test_what_is_copied_at_all_is_not_pinned() -> None:
    uses = (Use(step=0, bytes=8, kind=UseKind.DEFINE), Use(step=1, bytes=8, operand=0))
    tensors = tuple(Tensor(name=f"t{k}", size_bytes=8, uses=uses) for k in range(3))
    program = Program(name="pin", instructions=_steps(1, 1), tensors=tensors)
    back = (_copy(0, 0, HOME, 0, 2), _copy(2, 2, HOME, 0, 2))
    mapping = Mapping(residencies=(_at(0, 0, 2), _at(1, 0, 2), _at(2, 0, 2)), transfers=back)
    assert (_told(program, mapping, 0), _told(program, mapping, 1)) == (set(), {(Action.PIN, "i0", -1, -1)})


def test_overrides_in_words() -> None:
    place = Position(instruction="dot.1", operand=0, index=(2, 0))
    copy = Override(action=Action.PREFETCH, tensor=0, place=place, step=4, start_after=2)
    assert str(copy) == "prefetch dot.1 operand 0 {2,0} after step 2"
    assert str(replace(copy, action=Action.PREFER)).endswith(" after step 2")
    assert str(replace(copy, action=Action.PIN, place=Position(instruction="dot.1"))) == "pin_in_alternate_memory dot.1"
