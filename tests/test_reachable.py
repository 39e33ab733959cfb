"""What is left of a mapping when XLA:TPU is told it."""

import pytest

from mallocgame.baselines.anneal import anneal
from mallocgame.baselines.placement.greedy import greedy
from mallocgame.errors import InputError
from mallocgame.evaluation import make_case, run
from mallocgame.explanation.placement import take_apart
from mallocgame.explanation.reachable import MAX_WAIT, copy_back_due, elapsed_before, reachable, waits
from mallocgame.hierarchy import preset
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import HELD, HOME, Mapping
from mallocgame.solver import Limits
from mallocgame.workloads import suite
from tests.cli.run import run as run_command

CASES = ("lstm_training-v5e", "mlp-v4", "decode_loop-v5e")


@pytest.mark.parametrize("case", CASES)
def test_the_compilers_own_mapping_is_what_it_reaches(case: str) -> None:
    trace = suite.load(case)
    assert trace.mapping is not None
    left = reachable(trace.program, trace.hierarchy, trace.mapping, trace.mapping)
    seconds = [simulate(trace.program, trace.hierarchy, m).total_seconds for m in (trace.mapping, left)]
    assert seconds[1] == pytest.approx(seconds[0], rel=0.005)
    assert take_apart(left).keys() == take_apart(trace.mapping).keys()


@pytest.mark.parametrize("case", CASES)
def test_copies_back_are_timed_as_the_compiler_does_and_nothing_is_held(case: str) -> None:
    trace = suite.load(case)
    program, hierarchy = trace.program, trace.hierarchy
    before = elapsed_before(program, hierarchy)
    for mapping in (
        anneal(program, hierarchy, seconds=60, steps=30).mapping,
        greedy(program, hierarchy, seconds=60, steps=10**6).mapping,
    ):
        left = reachable(program, hierarchy, mapping)
        assert validate(program, hierarchy, left) == []
        assert not any(r.start_step == HELD for r in left.residencies)
        assert reachable(program, hierarchy, left) == left
        for copy in left.transfers:
            stay = left.residencies[copy.source]
            if copy.target == HOME:
                steps = [u.step for u in program.tensors[copy.tensor].uses if stay.start_step <= u.step < stay.end_step]
                seconds = copy.size_bytes / hierarchy.links[0].bytes_per_second
                begin = copy.start_after + 1
                due = copy_back_due(before, seconds, begin, max(steps, default=begin))
                around = [x.end_step for x in program.loops if x.start_step < due < x.end_step]
                assert copy.done_before <= max([due, *around])


def test_what_the_compiler_holds_itself_stays_and_nothing_else() -> None:
    trace = next(t for t in map(suite.load, ("mlp-v5e", "llama_decode-v5e", "resnet50-v5e")) if held_tensors(t.mapping))
    assert trace.mapping is not None
    kept = reachable(trace.program, trace.hierarchy, trace.mapping, trace.mapping)
    assert held_tensors(kept) == held_tensors(trace.mapping)
    assert held_tensors(reachable(trace.program, trace.hierarchy, trace.mapping)) == set()


@pytest.mark.parametrize("case", ["gpt2_training-v5e", "unet_training-v4"])
def test_nothing_waits_longer_than_the_compiler_lets_it_nor_is_written_only_to_be_copied_back(case: str) -> None:
    trace = suite.load(case)
    program = trace.program.without_hoisting()
    long, uses = waits(program, trace.hierarchy), program.uses
    mapping = anneal(program, trace.hierarchy, seconds=60, steps=60).mapping

    def broken(mapping: Mapping) -> tuple[int, int]:
        too_long = for_nothing = 0
        for number, stay in enumerate(mapping.residencies):
            rows = range(int(uses.first[stay.tensor]), int(uses.first[stay.tensor + 1]))
            served = [row for row in rows if mapping.fill_boundaries[number] <= uses.step[row] < stay.end_step]
            too_long += max((float(long[row]) for row in served[1:]), default=0.0) > MAX_WAIT
            copied = any(x.target == number for x in mapping.transfers)
            leaves = any(x.source == number for x in mapping.transfers)
            only_written = len({int(uses.step[row]) for row in served}) == 1 and not copied
            for_nothing += leaves and only_written and not program.tensors[stay.tensor].is_output
        return too_long, for_nothing

    assert max(broken(mapping)) > 0
    assert broken(reachable(program, trace.hierarchy, mapping)) == (0, 0)


def held_tensors(mapping: Mapping | None) -> set[int]:
    return {r.tensor for r in (mapping or Mapping()).residencies if r.start_step == HELD}


def test_a_case_for_the_compiler_judges_what_it_reaches() -> None:
    trace = suite.load("lstm_training-v5e")
    free, told = (make_case(trace, for_compiler=wanted) for wanted in (False, True))
    limits = Limits(seconds=60, steps=30)
    judged = run(told, "anneal", limits=limits)
    assert judged.mapping == reachable(*told.problem, judged.mapping, told.compiler_mapping)
    planned = run(free, "greedy", limits=Limits(seconds=60, steps=10**6)).mapping
    left = run(told, "greedy", limits=Limits(seconds=60, steps=10**6)).judged_seconds
    assert planned is not None
    wanted = reachable(*free.problem, planned, free.compiler_mapping)
    assert left == pytest.approx(simulate(*free.problem, wanted).total_seconds)
    assert run(told, "xla", limits=limits).mapping is told.compiler_mapping


def test_what_gets_worse_when_it_is_told_is_not_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    told = make_case(suite.load("lstm_training-v5e"), for_compiler=True)
    monkeypatch.setattr("mallocgame.explanation.reachable.reachable", lambda *_: Mapping())
    limits = Limits(seconds=60, steps=30)
    assert run(told, "anneal", limits=limits).mapping is told.compiler_mapping
    assert run(told, "greedy", limits=limits).mapping == Mapping()


def test_three_layers_are_refused() -> None:
    trace = suite.load("mlp-v4")
    with pytest.raises(InputError, match="two layers of memory, not 3"):
        reachable(trace.program, preset("host-v5e"), Mapping())


def test_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("evaluate", "mlp-v4", "--solver", "greedy", "--bound-seconds", "0", "--json")
    free, told = (run_command(monkeypatch, capsys, *given, "--for", what) for what in ("hardware", "compiler"))
    assert free.code == told.code == 0
    assert told.rows[0]["judged_seconds"] >= free.rows[0]["judged_seconds"] * (1 - 1e-9)
    wrong = run_command(monkeypatch, capsys, *given, "--for", "both")
    assert (wrong.code, wrong.err) == (2, "mallocgame: --for both: expected hardware or compiler\n")
    three = run_command(monkeypatch, capsys, *given, "--hierarchy", "host-v5e", "--for", "compiler")
    assert three.code == 2
    assert "XLA:TPU compiles for two" in three.err


def test_copies_begin_in_the_computation_in_which_they_end() -> None:
    trace = suite.load("decode_loop-v5e")
    program, hierarchy = trace.program, trace.hierarchy
    steps = program.instructions
    crossing = 0
    for seed in range(3):
        mapping = anneal(program.without_hoisting(), hierarchy, seconds=60, steps=30, seed=seed).mapping
        for given, kept in ((mapping, False), (reachable(program, hierarchy, mapping), True)):
            for x in given.transfers:
                if x.target != HOME and x.done_before < program.num_steps:
                    apart = steps[x.start_after + 1].computation != steps[x.done_before - 1].computation
                    assert not (kept and apart)
                    crossing += apart
    assert crossing  # the condition of the loop stands before its body
    told = anneal(program, hierarchy, seconds=60, steps=30, for_compiler=True).mapping
    within = reachable(program, hierarchy, told)
    assert [x for x in within.transfers if x.target != HOME] == [x for x in told.transfers if x.target != HOME]
