"""Whole mappings by overrides that are never refused, several evaluations at a time, plans as the compiler copies."""

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from mallocgame.baselines.anneal import anneal
from mallocgame.explanation.reachable import Reach, copy_back_due, elapsed_before
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME, Mapping
from mallocgame.solver import Problem
from mallocgame.workloads import suite
from mallocgame.workloads.compiler_loop.overrides import Action, Override
from mallocgame.workloads.compiler_loop.reaction import Reaction, stays
from mallocgame.workloads.compiler_loop.replan import replan
from mallocgame.workloads.compiler_loop.verify import Evaluation
from mallocgame.workloads.xla.records import Position
from tests.workloads.compiler_loop.fake import HIERARCHY, FakeCompiler, goal, program

PROBLEM = Problem(program(), HIERARCHY)


def strict(overrides: Iterable[Override]) -> set[tuple[int, Action]]:
    return {(d.tensor, d.action) for d in overrides if d.action in (Action.PIN, Action.PREFETCH)}


def test_whole_mappings_are_suggested_and_what_that_does_not_bring_is_asked_for_strictly() -> None:
    """The fake compiler copies the weight when asked, but pins make.1 only strictly."""
    fake = FakeCompiler()
    search = fake.search()
    default = search.best.judged_seconds
    replan(search, Reaction(problem=PROBLEM), lambda start, reach: goal())
    assert strict(fake.asked[0]) == set()
    assert {d.action for d in fake.asked[0]} == {Action.KEEP, Action.PREFER}
    assert strict(fake.asked[1]) == {(1, Action.PIN)}
    assert search.best.mapping == goal()
    assert search.best.judged_seconds < default
    assert len(fake.asked) == 2  # nothing is left to win


def test_what_is_refused_is_withdrawn_and_planned_round() -> None:
    fake = FakeCompiler(
        lambda given: "defining instruction 'make.1'" if strict(given) else ""  # as the compiler words it
    )
    search = fake.search()
    reaches: list[Reach] = []

    def plan(start: Mapping, reach: Reach) -> Mapping:
        reaches.append(reach)
        return goal()

    replan(search, Reaction(problem=PROBLEM), plan)
    beginning = (1, False, 1)  # make.1 where it is made, which is the second of all uses
    assert stays(PROBLEM, goal()) == {beginning: 3, (0, True, 0): 0}
    assert [strict(each) for each in fake.asked[:3]] == [set(), {(1, Action.PIN)}, set()]
    assert reaches[0].allows(beginning, 3)
    assert not reaches[-1].allows(beginning, 1)
    assert reaches[-1].allows((0, True, 0), 0)
    assert search.best.mapping is not None
    assert any(x.tensor == 0 for x in search.best.mapping.transfers)  # what it obeyed stays


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
    lock = threading.Lock()

    def evaluate(overrides: Sequence[Override]) -> Evaluation:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.2)
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
