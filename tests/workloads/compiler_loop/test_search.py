"""Whole mappings by overrides that are never refused, several evaluations at a time, plans as the compiler copies."""

import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.anneal.candidates import as_compiler_does, candidates
from mallocgame.baselines.anneal.state import BORN
from mallocgame.explanation.reachable import MAX_WAIT, Reach, copy_back_due, elapsed_before, waits
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME, Mapping
from mallocgame.program import Instruction, Program, Tensor, Use, UseKind
from mallocgame.solver import Problem
from mallocgame.workloads import suite
from mallocgame.workloads.compiler_loop.flags import LONG_WAITS
from mallocgame.workloads.compiler_loop.overrides import (
    HOIST_LIMIT,
    SORT_ORDER,
    Action,
    Override,
    definitions,
    options_of,
)
from mallocgame.workloads.compiler_loop.reaction import Reaction, stays, turns_of
from mallocgame.workloads.compiler_loop.realise import OverrideSearch
from mallocgame.workloads.compiler_loop.reorder import reorder
from mallocgame.workloads.compiler_loop.replan import replan
from mallocgame.workloads.compiler_loop.verify import Evaluation
from mallocgame.workloads.compiler_loop.ways import in_the_best_way
from mallocgame.workloads.xla.compiler import Options
from mallocgame.workloads.xla.records import Position
from tests.workloads.compiler_loop.fake import HIERARCHY, FakeCompiler, goal, pinned, program

PROBLEM = Problem(program(), HIERARCHY)


def strict(overrides: Iterable[Override]) -> set[tuple[int, Action]]:
    return {(d.tensor, d.action) for d in overrides if d.action in (Action.PIN, Action.PREFETCH)}


def test_whole_mappings_are_suggested_by_what_is_never_refused() -> None:
    """The fake compiler copies the weight when asked, but leaves make.1 in slow memory: that is planned round."""
    fake = FakeCompiler()
    search = fake.search()
    default = search.best.judged_seconds
    reaches: list[Reach] = []

    def plan(start: Mapping, reach: Reach) -> Mapping:
        reaches.append(reach)
        return goal()

    replan(search, Reaction(problem=PROBLEM), plan)
    assert all(strict(each) == set() for each in fake.asked)
    assert {d.action for d in fake.asked[0]} == {Action.KEEP, Action.PREFER}
    assert search.best.judged_seconds < default
    assert search.best.mapping is not None
    assert any(x.tensor == 0 for x in search.best.mapping.transfers)  # what it obeyed stays
    beginning = (1, False, 1)  # make.1 where it is made, which is the second of all uses
    assert stays(PROBLEM, goal()) == {beginning: 3, (0, True, 0): 0}
    assert reaches[0].allows(beginning, 3)
    assert not reaches[-1].allows(beginning, 1)
    assert reaches[-1].allows((0, True, 0), 0)


def test_one_lane_plans_while_another_compiles() -> None:
    """Every compilation after the first waits until a plan is thought through beside it."""
    fake, compiling, met = FakeCompiler(), threading.Event(), threading.Event()
    search, here, takers = fake.search(), threading.current_thread(), set()
    compiled, took = search.evaluate, search.take

    def evaluate(overrides: Sequence[Override]) -> Evaluation:
        compiling.set()
        met.wait(0.5)
        compiling.clear()
        return compiled(overrides)

    def plan(start: Mapping, reach: Reach) -> Mapping:
        if compiling.wait(0.5):
            met.set()
        return goal()

    def take(chosen: tuple[Override, ...], found: Evaluation) -> Evaluation:
        takers.add(threading.current_thread())
        return took(chosen, found)

    search.evaluate, search.take = evaluate, take  # type: ignore[method-assign]
    default = search.best.judged_seconds
    replan(search, Reaction(problem=PROBLEM), plan, lanes=2)
    assert met.is_set()
    assert takers == {here}
    assert search.best.judged_seconds < default


def test_what_fails_in_a_lane_is_told() -> None:
    def plan(start: Mapping, reach: Reach) -> Mapping:
        raise KeyboardInterrupt

    for lanes in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            replan(FakeCompiler().search(), Reaction(problem=PROBLEM), plan, lanes=lanes)


def test_what_stays_and_waits_long_is_placed_first() -> None:
    reaction = Reaction(problem=PROBLEM)
    plain = reaction.suggestion(goal())
    wait = reaction.longest_waits[1]
    assert wait == waits(*PROBLEM)[1:4].max() > 0.0
    for above, first in ((wait, []), (wait / 2, definitions(PROBLEM.program, 1, Action.FIRST))):
        reaction.first_above = above
        assert reaction.suggestion(goal()) == (*plain, *first)  # the weight is copied, use_a.2 stays slow
    assert reaction.reach({}).max_wait == MAX_WAIT < reaction.reach(LONG_WAITS).max_wait


def test_a_copy_back_that_was_seen_is_waited_for_when_it_was_seen() -> None:
    trace = suite.load("lstm_training-v5e")
    assert trace.mapping is not None
    problem = Problem(trace.program, trace.hierarchy)
    reaction = Reaction(problem=problem)
    reaction.see(trace.mapping)
    seen = {(x.tensor, x.start_after + 1): x.done_before for x in trace.mapping.transfers if x.target == HOME}
    assert {key[:2]: due for key, due in reaction.copies_back.items()} == seen != {}
    (tensor, begin, last), due = next(iter(reaction.copies_back.items()))
    reach = replace(reaction.reach({}), copy_back={(tensor, begin, last): begin + 1})
    for told, expected in ((reaction.reach({}), due), (reach, begin + 1)):
        pieces = as_compiler_does(*problem, candidates(*problem), told)
        dues = {c.back_due for c in pieces if (c.tensor, c.back_issue, c.last_use) == (tensor, begin, last)}
        assert dues == {min(expected, max(dues))}


def test_plans_for_the_compiler_hold_nothing_for_too_long_and_write_nothing_fast_only_to_copy_it_back() -> None:
    trace = suite.load("unet-v5e")
    problem = Problem(trace.program, trace.hierarchy)
    every, step = candidates(*problem), trace.program.uses.step
    long = waits(*problem)
    for most in (0.5, 2.0):
        kept = list(as_compiler_does(*problem, every, Reach(max_wait=most)))
        assert kept
        for piece in kept:
            assert long[piece.first_use + 1 : piece.last_use + 1].max(initial=0.0) <= most
            assert piece.kind != BORN or piece.back_issue < 0 or step[piece.first_use] < step[piece.last_use]
    assert any(c.kind == BORN and c.back_issue >= 0 and step[c.first_use] == step[c.last_use] for c in every)


@pytest.mark.parametrize("case", ["gpt2_training-v4", "unet-v5e"])
def test_the_compiler_lets_nothing_wait_longer_than_it_is_taken_to(case: str) -> None:
    trace = suite.load(case)
    assert trace.mapping is not None
    problem = Problem(trace.program.without_hoisting(), trace.hierarchy)
    long = waits(*problem)
    within = [long[b[2] + 1 : last + 1].max(initial=0.0) for b, last in stays(problem, trace.mapping).items()]
    assert len(within) > 50
    assert max(within) <= MAX_WAIT


def test_plans_keep_within_what_was_seen() -> None:
    trace = suite.load("mlp-v4")
    problem = Problem(trace.program, trace.hierarchy)
    free = anneal(*problem, seconds=60, steps=40, for_compiler=True).mapping
    longest = max(stays(problem, free).items(), key=lambda row: row[1] - row[0][2])[0]
    reach = Reach(last_use={longest: -1})
    bound = anneal(*problem, seconds=60, steps=40, for_compiler=reach).mapping
    assert bound.residencies
    assert longest not in stays(problem, bound)


def test_several_evaluations_run_at_a_time_and_the_best_stays() -> None:
    running, most = 0, 0
    lock, are_three = threading.Lock(), threading.Event()

    def evaluate(overrides: Sequence[Override]) -> Evaluation:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == 3:
                are_three.set()
        assert are_three.wait(60.0)
        with lock:
            running -= 1
        return Evaluation(options={"n": str(len(overrides))}, mapping=goal(), judged_seconds=10.0 - len(overrides))

    search = FakeCompiler().search()
    search.evaluate, search.workers, search.best = evaluate, 3, replace(search.best, judged_seconds=100.0)
    kinds = [Override(action=Action.KEEP, tensor=i, place=_place(), step=0) for i in range(4)]
    found = search.try_all([kinds[:n] for n in (1, 4, 2, 3)])
    assert most == 3
    assert [each.options["n"] for each in found] == ["1", "4", "2", "3"]
    assert len(search.overrides) == 4
    assert search.evaluations == 4


def test_no_evaluation_begins_when_the_time_is_over() -> None:
    for workers in (1, 2):
        fake = FakeCompiler()
        search = fake.search(seconds=0.0)
        search.workers = workers
        assert search.try_all([[], []]) == []
        assert fake.asked == []


def _place() -> Position:

    return Position(instruction="make.1")


@pytest.mark.parametrize("case", ["lstm_training-v5e", "mlp-v4"])
def test_plans_for_the_compiler_time_copies_back_as_it_does(case: str) -> None:
    trace = suite.load(case)
    found = anneal(trace.program, trace.hierarchy, seconds=60, steps=40, for_compiler=True).mapping
    before = elapsed_before(trace.program, trace.hierarchy)
    assert found.residencies
    assert validate(trace.program, trace.hierarchy, found) == []
    assert not any(r.start_step == HELD for r in found.residencies)
    for x in found.transfers:
        if x.target == HOME:
            stay = found.residencies[x.source]
            steps = [u.step for u in trace.program.tensors[x.tensor].uses if stay.start_step <= u.step < stay.end_step]
            served = [step for step in steps if step > x.start_after]
            seconds = x.size_bytes / trace.hierarchy.links[0].bytes_per_second
            due = copy_back_due(before, seconds, x.start_after + 1, max(served, default=-1))
            assert x.done_before <= max(due, x.start_after + 1)


def test_orders_take_the_place_of_the_flag_for_copies_before_loops() -> None:
    reaction = Reaction(problem=PROBLEM)
    given: dict[str, str | bool] = {HOIST_LIMIT: "64", "other": "1"}
    *ways, (flags, overrides) = reaction.ways_from(goal(), given)
    assert ways
    assert all(HOIST_LIMIT not in way and way["other"] == "1" for way, _ in ways)
    assert given.items() <= flags.items()
    assert overrides == reaction.suggestion(goal())
    assert len(list(reaction.ways_from(goal(), {"other": "1"}))) == len(ways)


@pytest.mark.parametrize("offsets", [(50, 0), (0, 40)])
def test_what_stays_is_placed_from_the_lowest_address_up(
    offsets: tuple[int, int],
) -> None:
    both = Mapping(residencies=tuple(pinned(i + 1, offset, 4) for i, offset in enumerate(offsets)))
    reaction = Reaction(problem=PROBLEM, first_above=-1.0)
    order = [d.tensor for d in reaction.suggestion(both) if d.action is Action.FIRST]
    assert order == sorted((1, 2), key=lambda tensor: offsets[tensor - 1])
    text = options_of(reaction.suggestion(both), {}, [20, 20, 20])[SORT_ORDER]
    assert str(text).count("overrides{") == 2
    names = [PROBLEM.program.tensors[i].name.partition(".")[0] for i in order]
    assert str(text).index(names[0]) < str(text).index(names[1])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4), st.integers(1, 3)), max_size=9), st.randoms())
def test_turns_lead_to_the_places_of_the_whole_order(lives: list[tuple[int, int, int]], random: Random) -> None:
    tensors = tuple(
        Tensor(
            name=f"t{n}",
            size_bytes=size,
            uses=(Use(step=start, bytes=1, kind=UseKind.DEFINE), Use(step=start + length, bytes=1, operand=0)),
        )
        for n, (start, length, size) in enumerate(lives)
    )
    steps = tuple(Instruction(name=f"i{n}", compute_seconds=0.0) for n in range(14))
    program = Program(name="lives", instructions=steps, tensors=tensors)
    order = random.sample(range(len(lives)), len(lives))
    turns = turns_of(program, order)
    in_turns = sorted(order, key=lambda tensor: (turns[tensor], random.random()))
    assert _first_fit(lives, in_turns) == _first_fit(lives, order)


def _first_fit(lives: list[tuple[int, int, int]], order: list[int]) -> dict[int, int]:
    """Place each at the lowest address that is free while it is live."""
    places: dict[int, int] = {}
    for n in order:
        start, length, size = lives[n]
        taken = {
            byte
            for m, place in places.items()
            if lives[m][0] <= start + length and start <= lives[m][0] + lives[m][1]
            for byte in range(place, place + lives[m][2])
        }
        places[n] = next(a for a in range(99) if taken.isdisjoint(range(a, a + size)))
    return places


def test_one_turn_of_one_size_is_one_override() -> None:
    first = [
        Override(action=Action.FIRST, tensor=k, place=Position(instruction=name), step=0, turn=turn)
        for k, (name, turn) in enumerate(zip("abcd", (0, 0, 1, 1), strict=True))
    ]
    text = str(options_of(first, {}, [8, 8, 8, 4])[SORT_ORDER])
    assert re.findall("'[^']*'", text) == ["'(a|b)'", "'c'", "'d'"]


@pytest.mark.parametrize("bound", ["MAX_IN_ORDER", "LARGE"])
def test_too_many_to_place_in_order_are_placed_by_size(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"mallocgame.workloads.compiler_loop.reaction.{bound}", 1)
    monkeypatch.setattr("mallocgame.workloads.compiler_loop.overrides.MAX_IN_ORDER", 1)
    both = Mapping(residencies=(pinned(1, 50, 4), pinned(2, 0, 4)))
    reaction = Reaction(problem=PROBLEM, first_above=-1.0)
    overrides = reaction.suggestion(both)
    order = [d.tensor for d in overrides if d.action is Action.FIRST]
    assert order == sorted((1, 2), key=lambda tensor: -PROBLEM.program.tensors[tensor].size_bytes)
    places = [d.place for d in overrides if d.action is Action.FIRST]
    text = str(options_of(overrides, {}, [20, 20, 20])[SORT_ORDER])
    alike = places[0].index == places[1].index
    assert text.count("overrides{") == (1 if alike else 2)


class OnePlace(FakeCompiler):
    """Has room for one of two values that are both planned, for the one that comes first; else for ``use_a.2``."""

    def mapping(self, overrides: set[Override]) -> Mapping:
        chosen = 1 if any(d.tensor == 1 and d.action is Action.FIRST for d in overrides) else 2
        return Mapping(residencies=(pinned(chosen, 50, 4),))


def test_what_was_lost_is_placed_first_until_nothing_more_comes_of_it() -> None:
    fake = OnePlace()
    search, reaction = fake.search(), Reaction(problem=PROBLEM)
    both = Mapping(residencies=(pinned(1, 50, 4), pinned(2, 0, 4)))
    found = search.try_out(reaction.suggestion(both))
    assert reaction.lost(both, found.mapping or Mapping()) == [1]
    best = reorder(search, reaction, both, found)
    assert best == search.best
    assert best.judged_seconds < found.judged_seconds
    assert reaction.ahead == [1]  # of the best, for plans that come after it
    for reaction.ahead in ([1], [2, 1]):
        assert [d.tensor for d in reaction.suggestion(both) if d.action is Action.FIRST] == reaction.ahead
    assert not any(d.action is Action.FIRST for d in reaction.suggestion(Mapping()))  # only what is wanted
    told = [{d.tensor for d in asked if d.action is Action.FIRST} for asked in fake.asked]
    assert told == [set(), {1}, {1, 2}]  # then use_a.2 is lost, in vain comes first, and is first already
    assert reorder(search, reaction, Mapping(), best) == best  # nothing was planned, so nothing is lost
    assert len(fake.asked) == len(told)


def test_a_copy_that_begins_later_than_suggested_is_lost() -> None:
    own = goal()
    late = replace(own, transfers=(replace(own.transfers[0], start_after=2),))
    late = replace(late, residencies=(replace(own.residencies[0], start_step=3), own.residencies[1]))
    assert not validate(*PROBLEM, late)
    reaction = Reaction(problem=PROBLEM)
    assert stays(PROBLEM, late) == stays(PROBLEM, own)
    assert (reaction.lost(own, late), reaction.lost(own, own), reaction.lost(late, own)) == ([0], [], [])


@pytest.mark.parametrize("times", [1, 2, 9])
def test_the_way_goes_on_that_is_best_once_what_it_lost_is_placed_first(times: int) -> None:
    """Without the flag for long waits the fake has its one place for what comes first, with it for ``use_a.2``."""
    searches: list[OverrideSearch] = []
    both = Mapping(residencies=(pinned(1, 50, 4), pinned(2, 0, 4)))
    begun = FakeCompiler().search()

    def new_search(flags: Options) -> OverrideSearch:
        fake = FakeCompiler() if LONG_WAITS.items() <= flags.items() else OnePlace()
        searches.append(replace(fake.search(), flags=flags))
        return searches[-1]

    asked = iter(range(times))
    reaction = Reaction(problem=PROBLEM)
    chosen = in_the_best_way(begun, new_search, both, reaction, lambda: next(asked, None) is not None)
    assert chosen in searches
    assert chosen.best.judged_seconds == min(search.best.judged_seconds for search in searches)
    assert len(searches) == min(times + 1, 3)  # a way that asks the same with like flags is left out
    assert reaction.ahead == [1]
    assert not LONG_WAITS.items() <= chosen.flags.items()
