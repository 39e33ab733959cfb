"""Whole mappings by overrides that are never refused, several evaluations at a time, plans as the compiler copies."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from mallocgame.baselines.anneal import anneal
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME
from mallocgame.workloads import suite
from mallocgame.workloads.compiler_loop.overrides import Action, Override
from mallocgame.workloads.compiler_loop.realise import suggest
from mallocgame.workloads.compiler_loop.verify import Evaluation
from mallocgame.workloads.xla.records import Position
from tests.workloads.compiler_loop.fake import FakeCompiler, goal, program


def test_suggestions_are_such_as_are_never_refused_and_reach_the_goal() -> None:
    def refuse(overrides: set[Override]) -> str:
        return "strict" if {Action.PIN, Action.PREFETCH} & {d.action for d in overrides} else ""

    fake = FakeCompiler(refuse)
    fake.follows_hints = True
    search = fake.search()
    default = search.best.judged_seconds
    suggest(search, program(), goal())
    assert len(fake.asked) == 2
    assert search.refused == {}
    assert {d.action for d in search.overrides} == {Action.KEEP, Action.PREFER, Action.FIRST}
    assert search.best.mapping == goal()
    assert search.best.judged_seconds < default


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
    assert found.residencies
    assert validate(trace.program, trace.hierarchy, found) == []
    assert not any(r.start_step == HELD for r in found.residencies)
    for x in found.transfers:
        if x.target == HOME:
            stay = found.residencies[x.source]
            steps = [u.step for u in trace.program.tensors[x.tensor].uses if stay.start_step <= u.step < stay.end_step]
            served = [step for step in steps if step > x.start_after]
            assert not served or x.done_before <= max(served) + 1
