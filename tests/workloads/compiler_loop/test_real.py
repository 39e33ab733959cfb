"""With the real compiler: overrides that it obeys, the flag and the rewrite that mend a loop, the commands."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import mallocgame
from mallocgame.baselines.anneal import anneal
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import HOME, Mapping, Residency, Transfer, hoisted
from mallocgame.solver import Problem
from mallocgame.workloads.compiler_loop.flags import EAGER, ONE_SLICE
from mallocgame.workloads.compiler_loop.overrides import HOIST_LIMIT, Action, Override, definitions, overrides_of
from mallocgame.workloads.compiler_loop.reaction import Reaction
from mallocgame.workloads.compiler_loop.settings import Settings
from mallocgame.workloads.compiler_loop.tune import tune
from mallocgame.workloads.compiler_loop.verify import OverrideOutcome, Target, outcome_of
from mallocgame.workloads.program_reference import ProgramReference
from tests.cli.run import run
from tests.paths import ROOT

pytest.importorskip("libtpu")
pytestmark = pytest.mark.tpu

from mallocgame.workloads.xla.compiler import Compiler, CompileRequest  # noqa: E402

MODULE = "tests.workloads.compiler_loop.programs"
FOLDER = str(ROOT)


@pytest.fixture(scope="module")
def compiler() -> Iterator[Compiler]:
    with Compiler() as found:
        yield found


@pytest.fixture(scope="module")
def loop(compiler: Compiler) -> Target:
    return Target.of(ProgramReference(module=MODULE, name="loop", folder=FOLDER), "v5e", compiler)


def test_what_is_to_stay_in_slow_memory_stays_there(loop: Target) -> None:
    program = loop.trace.program
    everything = [d for i in range(len(program.tensors)) for d in definitions(program, i, Action.KEEP)]
    found = loop.evaluate(everything)
    assert found.error == ""
    assert found.mapping is not None
    assert found.mapping.residencies == ()
    assert {outcome_of(d, program, found.mapping) for d in everything} == {OverrideOutcome.REALISED}
    assert loop.default_seconds < found.judged_seconds


def test_a_copy_before_a_loop_can_be_ordered(loop: Target) -> None:
    program, hierarchy = loop.trace.program, loop.trace.hierarchy
    goal = anneal(program, hierarchy, seconds=60, steps=60, for_compiler=True).mapping
    assert hoisted(program, goal)
    wanted = Reaction(problem=Problem(program, hierarchy), operands=loop.loop_operands).suggestion(goal)
    plain, eager = loop.evaluate(wanted), loop.evaluate(wanted, EAGER)
    assert plain.mapping is not None
    assert eager.mapping is not None
    assert not hoisted(program, plain.mapping)  # too little is computed before the loop
    assert hoisted(program, eager.mapping)
    assert eager.judged_seconds == pytest.approx(simulate(program, hierarchy, goal).total_seconds, rel=1e-3)
    assert eager.judged_seconds < loop.default_seconds / 2


def test_a_copy_before_a_branch_can_be_ordered(compiler: Compiler) -> None:
    target = Target.of(ProgramReference(module=MODULE, name="branch", folder=FOLDER), "v5e", compiler)
    program, (region,) = target.trace.program, target.trace.program.conditionals
    places = {tensor: place for (tensor, step), place in target.loop_operands.items() if step == region.end_step}
    weight = next(t for t in places if program.tensors[t].is_parameter and program.tensors[t].size_bytes == 8 * 2**20)
    start = region.start_step - 2
    stay = Residency(tensor=weight, layer=1, offset_bytes=0, start_step=start + 1, end_step=region.end_step)
    copy = Transfer(
        tensor=weight, source=HOME, target=0, start_after=start, done_before=region.start_step, size_bytes=8 * 2**20
    )
    goal = Mapping(residencies=(stay,), transfers=(copy,))
    (order,) = (o for o in overrides_of(program, goal, target.loop_operands) if o.action is Action.PREFETCH)
    assert order.place == places[weight]
    found = target.evaluate([order], EAGER | ONE_SLICE)
    assert outcome_of(order, program, found.mapping) is OverrideOutcome.REALISED


def test_impossible_order_is_refused_by_name(loop: Target) -> None:
    weight = next(i for i, t in enumerate(loop.trace.program.tensors) if t.size_bytes == 8 * 2**20)
    use = loop.trace.program.tensors[weight].uses[0]
    name = loop.trace.program.instructions[use.step].name
    place = definitions(loop.trace.program, weight, Action.KEEP)[0].place
    copy = place.__class__(instruction=name, operand=use.operand, index=use.index)
    late = Override(action=Action.PREFETCH, tensor=weight, place=copy, step=use.step, start_after=use.step - 1)
    found = loop.evaluate([late])
    assert found.error == "" or name in found.error  # exact or refused, never silently moved
    if not found.error:
        assert outcome_of(late, loop.trace.program, found.mapping) is OverrideOutcome.REALISED


def test_evaluations_of_lowered_programs_agree_with_the_first(loop: Target) -> None:
    program = loop.trace.program
    keep = [d for i in range(len(program.tensors)) for d in definitions(program, i, Action.KEEP)]
    found = [loop.evaluate(overrides) for overrides in ((), keep, (), keep)]
    assert found[0].mapping == found[2].mapping == loop.trace.mapping
    assert found[1].mapping == found[3].mapping != found[0].mapping
    assert found[0].xla_seconds == found[2].xla_seconds == loop.default().xla_seconds


def test_the_scheduled_module_leads_where_the_program_leads(loop: Target) -> None:
    assert loop.scheduled is not None
    program = loop.trace.program
    keep = [d for i in range(len(program.tensors)) for d in definitions(program, i, Action.KEEP)]
    for overrides, flags in (((), {}), (keep, {}), ((), EAGER), ((), {HOIST_LIMIT: "65536"})):
        found = loop.evaluate(overrides, flags)
        again = loop.repeat(found)
        assert again.mapping == found.mapping is not None
        assert again.agrees_with(found)


def test_a_new_process_lowers_the_same_program(compiler: Compiler, loop: Target) -> None:
    done = compiler.compile(CompileRequest(reference=loop.reference, chip="v5e", hlo=False, anew=True))
    assert done.finished
    assert done.lowering == loop.lowering == loop.trace.provenance["lowering"] != ""


def test_a_refusal_reads_alike_both_ways(loop: Target) -> None:
    found = loop.evaluate((), {"xla_msa_no_such_flag": "1"})
    again = loop.repeat(found)
    assert not found.inconclusive
    assert not again.inconclusive
    assert "INVALID_ARGUMENT" in found.error
    assert found.error.partition(": ")[2] == again.error.partition(": ")[2]


def test_a_damaged_module_is_not_compiled(compiler: Compiler, loop: Target) -> None:
    assert loop.scheduled is not None
    damaged = replace(loop.scheduled, hlo=loop.scheduled.hlo[:1000])
    asked = CompileRequest(reference=loop.reference, chip="v5e", brief=True, hlo=False, scheduled=damaged)
    assert "Error: INVALID_ARGUMENT" in compiler.compile(asked).error


def test_child_that_dies_while_it_waits_is_reported_and_replaced(compiler: Compiler, loop: Target) -> None:
    loop.evaluate(())
    assert compiler._server is not None
    parent = compiler._server.pid
    children = Path(f"/proc/{parent}/task/{parent}/children")
    while len(children.read_text().split()) > 1:  # the one that has compiled is being ended
        time.sleep(0.01)
    os.kill(int(children.read_text()), signal.SIGKILL)
    asked = CompileRequest(
        reference=loop.reference, chip="v5e", brief=True, again=True, hlo=False, scheduled=loop.scheduled
    )
    died = compiler.compile(asked)
    assert "ended without a word" in died.error
    assert died.inconclusive
    assert loop.evaluate(()).error == ""


def test_process_that_dies_is_replaced(compiler: Compiler, loop: Target) -> None:
    loop.evaluate(())
    assert compiler._server is not None
    compiler._server.kill()
    assert loop.evaluate(()).error == ""


def started(folder: Path, *more: str) -> subprocess.Popen[str]:
    """``mallocgame tune`` in a process of its own, as soon as it has begun to search."""
    words = [sys.executable, "-c", "from mallocgame.cli import main; main()", "tune", f"{MODULE}:loop", *more]
    environment = dict(os.environ, TMPDIR=str(folder), PYTHONPATH=FOLDER)
    command = subprocess.Popen(
        [*words, "--seconds", "120", "--out", str(folder / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=FOLDER,
    )
    assert command.stderr is not None
    for line in command.stderr:
        if line.startswith("default:"):
            break
    return command


def descendants(process: int) -> set[int]:
    found = {process}
    for _ in range(4):
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(path.read_text().rpartition(") ")[2].split()[1]) in found:
                    found.add(int(path.parent.name))
    return found - {process}


def gone(processes: set[int]) -> bool:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if not any(Path(f"/proc/{p}").exists() for p in processes):
            return True
        time.sleep(0.05)
    return False


HOLDING = f"""
import sys, time
from mallocgame.workloads.program_reference import ProgramReference
from mallocgame.workloads.xla.compiler import Compiler, CompileRequest
reference = ProgramReference(module="{MODULE}", name="loop", folder="{FOLDER}")
with Compiler() as compiler:
    compiler.compile(CompileRequest(reference=reference, chip="v5e", hlo=False, again=True))
    print("compiled", flush=True)
    time.sleep(600)
"""


def holding(folder: Path) -> subprocess.Popen[str]:
    """A process with a warm compiler that has compiled, and has the program lowered for the next time."""
    environment = dict(os.environ, TMPDIR=str(folder), PYTHONPATH=FOLDER)
    command = subprocess.Popen(
        [sys.executable, "-c", HOLDING], stdout=subprocess.PIPE, text=True, env=environment, cwd=FOLDER
    )
    assert command.stdout is not None
    assert command.stdout.readline() == "compiled\n"
    return command


def test_killed_command_leaves_nothing(tmp_path: Path) -> None:
    command = holding(tmp_path)
    children = descendants(command.pid)
    assert len(children) >= 2  # the warm process and what it has forked
    command.kill()
    command.communicate()
    assert gone(children)
    assert list(tmp_path.iterdir()) == []


def test_killed_tree_leaves_no_folder_to_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: Target
) -> None:
    command = holding(tmp_path)
    children = descendants(command.pid)
    for process in (command.pid, *children):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    command.communicate()
    assert gone(children)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Compiler() as other:
        other.compile(CompileRequest(reference=loop.reference, chip="v5e", hlo=False))
    assert list(tmp_path.iterdir()) == []


def test_asked_to_end_it_keeps_the_best(tmp_path: Path) -> None:
    command = started(tmp_path, "--json", "--plot", str(tmp_path / "out" / "map.html"))
    children = descendants(command.pid)
    until = time.monotonic() + 30
    while not (tmp_path / "out" / "options.json").exists() and time.monotonic() < until:
        time.sleep(0.05)
    command.terminate()  # Ctrl-C comes as the same exception: test_tune.py
    out, err = command.communicate(timeout=20)
    assert command.returncode == 128 + signal.SIGTERM
    assert gone(children)
    assert re.match(r"mallocgame: terminated; the best so far is [\d.]+ times faster", err.splitlines()[-1])
    assert "Traceback" not in err
    (row,) = map(json.loads, out.splitlines())
    assert row["options"] == mallocgame.load_compiler_options(tmp_path / "out" / "options.json")
    assert row["judged_seconds"] < row["default_seconds"]
    assert '"label":"before"' in (tmp_path / "out" / "map.html").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_program_that_cannot_be_lowered_is_told_as_such(compiler: Compiler) -> None:
    missing = ProgramReference(module=MODULE, name="missing", folder=FOLDER)
    asked = CompileRequest(reference=missing, chip="v5e", again=True, hlo=False)
    for _ in range(2):
        assert "has no function missing" in compiler.compile(asked).error


def test_flag_and_rewrite_mend_the_loop(compiler: Compiler, loop: Target, tmp_path: Path) -> None:
    found = tune(
        f"{MODULE}:loop",
        chip="v5e",
        settings=Settings(solve=anneal, seconds=240, solver_seconds=1, folder=tmp_path),
        compiler=compiler,
    )
    assert found.judged_seconds < found.default_seconds / 3
    assert found.unchecked == ""
    assert found.cycles is not None
    cycles = found.default_cycles or loop.compile_fully({}).cycles
    assert cycles is not None
    assert found.cycles < cycles
    assert mallocgame.load_compiler_options(tmp_path / "options.json") == found.options
    said: list[str] = []
    again = tune(
        f"{MODULE}:loop",
        chip="v5e",
        settings=Settings(
            solve=anneal, seconds=60, solver_seconds=0, folder=tmp_path, full=False, evaluations=1, say=said.append
        ),
        compiler=compiler,
    )
    assert any(line.startswith("going on from") for line in said)
    assert again.judged_seconds <= found.judged_seconds
    rewritten = Target.of(ProgramReference(module=MODULE, name="hoisted", folder=FOLDER), "v5e", compiler)
    assert rewritten.default_seconds < loop.default_seconds / 3
    assert rewritten.compile_fully({}).error == ""


def test_inject_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace, mapping, options = tmp_path / "t.json", tmp_path / "m.json", tmp_path / "o.json"
    monkeypatch.chdir(FOLDER)
    program = f"{MODULE}:loop"
    assert run(monkeypatch, capsys, "capture", program, "--chip", "v5e", "--out", trace).code == 0
    assert run(monkeypatch, capsys, "evaluate", trace, "--solver", "none", "--out", mapping).code == 0
    result = run(monkeypatch, capsys, "inject", mapping, "--trace", trace, "--program", program, "--json",
                 "--seconds", "5", "--out", options)  # fmt: skip
    (row,) = result.rows
    assert result.code == 0
    assert row["judged_seconds"] <= row["default_judged_seconds"]
    assert row["compiler_options"] == mallocgame.load_compiler_options(options)
    assert row["is_faster"] == bool(row["compiler_options"])
    table = json.loads(trace.read_text())
    table["provenance"]["libtpu"] = "0.0.1"
    trace.write_text(json.dumps(table))
    result = run(
        monkeypatch, capsys, "inject", mapping, "--trace", trace, "--program", program, "--no-verify", "--json"
    )
    assert "libtpu 0.0.1" in result.err
    assert "keep_in_default_memory" in str(result.rows[0]["compiler_options"])


def test_explain_tries_remedies_and_shows_the_stack(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(FOLDER)
    program, trace = f"{MODULE}:loop", tmp_path / "t.json"
    assert run(monkeypatch, capsys, "capture", program, "--chip", "v5e", "--out", trace).code == 0
    wanted = ("explain", trace, "--program", program, "--seconds", "20", "--solver-seconds", "1")
    rows = run(monkeypatch, capsys, *wanted, "--json").rows
    best = next(row for row in rows if row["kind"] == "remedy")
    assert best["ordered_by"].startswith("prefetch of what the loop is given")
    saved = rows[0]["total_seconds"] - best["compiled_judged_seconds"]
    assert saved == pytest.approx(best["saved_seconds"], rel=0.1)  # the compiler does what the judge said
    stack = next(row["stack"] for row in rows if row["kind"] == "stall" and row["stack"])
    assert any("programs.py" in line and "(loop" in line for line in stack)
