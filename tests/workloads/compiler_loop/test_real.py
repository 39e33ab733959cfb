"""With the real compiler: orders that it obeys, the flag and the rewrite that mend a loop, the commands."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import mallocgame
from mallocgame.workloads.compiler_loop.overrides import Action, Decision, definitions
from mallocgame.workloads.compiler_loop.tune import tune
from mallocgame.workloads.compiler_loop.verify import Fate, Target, fate_of
from mallocgame.workloads.program_reference import ProgramReference
from tests.cli.run import run
from tests.paths import ROOT

pytest.importorskip("libtpu")
pytestmark = pytest.mark.tpu

from mallocgame.workloads.xla.compiler import Compiler  # noqa: E402

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
    assert {fate_of(d, program, found.mapping) for d in everything} == {Fate.REALISED}
    assert loop.default_seconds < found.judged_seconds


def test_impossible_order_is_refused_by_name(loop: Target) -> None:
    weight = next(i for i, t in enumerate(loop.trace.program.tensors) if t.size_bytes == 8 * 2**20)
    use = loop.trace.program.tensors[weight].uses[0]
    name = loop.trace.program.instructions[use.step].name
    place = definitions(loop.trace.program, weight, Action.KEEP)[0].place
    copy = place.__class__(instruction=name, operand=use.operand, index=use.index)
    late = Decision(action=Action.PREFETCH, tensor=weight, place=copy, step=use.step, start_after=use.step - 1)
    found = loop.evaluate([late])
    assert found.error == "" or name in found.error  # exact or refused, never silently moved
    if not found.error:
        assert fate_of(late, loop.trace.program, found.mapping) is Fate.REALISED


def test_evaluations_of_lowered_programs_agree_with_the_first(loop: Target) -> None:
    program = loop.trace.program
    keep = [d for i in range(len(program.tensors)) for d in definitions(program, i, Action.KEEP)]
    found = [loop.evaluate(orders) for orders in ((), keep, (), keep)]
    assert found[0].mapping == found[2].mapping == loop.trace.mapping
    assert found[1].mapping == found[3].mapping != found[0].mapping
    assert found[0].xla_seconds == found[2].xla_seconds == loop.default().xla_seconds


def test_child_that_dies_while_it_waits_is_reported_and_replaced(compiler: Compiler, loop: Target) -> None:
    loop.evaluate(())
    assert compiler._parent is not None
    parent = compiler._parent.pid
    children = Path(f"/proc/{parent}/task/{parent}/children")
    while len(children.read_text().split()) > 1:  # the one that has compiled is being ended
        time.sleep(0.01)
    os.kill(int(children.read_text()), signal.SIGKILL)
    assert "ended without a word" in loop.evaluate(()).error
    assert loop.evaluate(()).error == ""


def test_program_that_cannot_be_lowered_is_told_as_such(compiler: Compiler) -> None:
    missing = ProgramReference(module=MODULE, name="missing", folder=FOLDER)
    for _ in range(2):
        assert "has no function missing" in compiler.compile(missing, "v5e", again=True, hlo=False).error


def test_flag_and_rewrite_mend_the_loop(compiler: Compiler, loop: Target, tmp_path: Path) -> None:
    found = tune(f"{MODULE}:loop", chip="v5e", seconds=8, solve_seconds=1, folder=tmp_path, compiler=compiler)
    assert found.judged_seconds < found.default_seconds / 3
    assert found.cycles is not None
    assert found.default_cycles is not None
    assert found.cycles < found.default_cycles
    assert mallocgame.load_compiler_options(tmp_path / "options.json") == found.options
    said: list[str] = []
    again = tune(
        f"{MODULE}:loop",
        chip="v5e",
        seconds=1,
        solve_seconds=0,
        folder=tmp_path,
        compiler=compiler,
        full=False,
        note=said.append,
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
    assert (row["compiler_options"] == {}) == (not options.exists())
    table = json.loads(trace.read_text())
    table["provenance"]["libtpu"] = "0.0.1"
    trace.write_text(json.dumps(table))
    result = run(
        monkeypatch, capsys, "inject", mapping, "--trace", trace, "--program", program, "--no-verify", "--json"
    )
    assert "libtpu 0.0.1" in result.err
    assert "keep_in_default_memory" in str(result.rows[0]["compiler_options"])
