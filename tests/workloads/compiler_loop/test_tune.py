"""A tuning run: what it keeps, what it drops, when it ends; a compiler that is recorded, slow, killed or refuses."""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mallocgame
from mallocgame.compiler_options import load_about, save_compiler_options
from mallocgame.errors import InputError, TraceError
from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Program
from mallocgame.solver import Problem, SolveResult
from mallocgame.workloads.capture import Assumptions
from mallocgame.workloads.compiler_loop import tune as tune_module
from mallocgame.workloads.compiler_loop.final_check import FinalCheck
from mallocgame.workloads.compiler_loop.inject import inject
from mallocgame.workloads.compiler_loop.overrides import TENSOR_OVERRIDES, Override
from mallocgame.workloads.compiler_loop.settings import Settings, Tuned
from mallocgame.workloads.compiler_loop.tune import tune
from mallocgame.workloads.compiler_loop.tuning_folder import LOCK, OPTIONS, STATE, SavedSearch, TuningFolder
from mallocgame.workloads.compiler_loop.verify import ANOTHER_PROGRAM, Evaluation, FullCompile, Target
from mallocgame.workloads.program_reference import ProgramReference
from mallocgame.workloads.xla.compiler import Compilation, CompileRequest, Options
from mallocgame.workloads.xla.log import DONE
from mallocgame.workloads.xla.scheduled import ScheduledModule
from tests.cli.run import run as run_command
from tests.paths import ROOT
from tests.workloads.compiler_loop.test_verify import Recorded, default, faster, target

PROGRAM = "mallocgame.workloads.models:lstm"


def on_paper(program: Program, hierarchy: Hierarchy, *, seconds: float = 1.0, **others: Any) -> SolveResult:
    """A solver that promises much at once."""
    return SolveResult(
        mapping=faster(), seconds=1e-9, lower_bound_seconds=0.0, status="feasible", solve_seconds=seconds
    )


def run(folder: Path | None, compiler: Recorded, **settings: Any) -> Tuned:
    given = {"seconds": 120.0, "solver_seconds": 0.2, "folder": folder, **settings}
    return tune(PROGRAM, chip="v5e", settings=Settings(solve=on_paper, **given), compiler=compiler)


@pytest.fixture(autouse=True, scope="module")
def imported() -> None:
    """What a first run imports and compiles takes its time: not that of the tests."""
    run(None, Recorded(), seconds=600.0, evaluations=1)


def improve_each_time(monkeypatch: pytest.MonkeyPatch, most: int = 3) -> None:
    """Let each of the first evaluations be better than the one before, by other options."""
    count = 0

    def evaluate(self: Target, overrides: object, flags: Options | None = None, *, deadline: float = 0.0) -> Evaluation:
        nonlocal count
        count = min(count + 1, most)
        options: Options = {"step": str(count)}
        return replace(self.default(), options=options, judged_seconds=self.default_seconds * (1 - 0.1 * count))

    monkeypatch.setattr(Target, "evaluate", evaluate)


def full_compilation_of(answer: Callable[[Options], Compilation | None]) -> Recorded:
    """A compiler whose full compilations end as ``answer`` says."""

    class Late(Recorded):
        def compile(self, asked: CompileRequest) -> Compilation:
            done = super().compile(asked)
            return (answer(dict(asked.options)) if asked.full else None) or done

    return Late()


def failed(error: str, inconclusive: bool = False) -> Compilation:
    return Compilation(log="", hlo="", seconds=0.1, finished=False, error=error, inconclusive=inconclusive)


def test_what_is_legal_to_the_end_is_recommended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    improve_each_time(monkeypatch)
    found = run(tmp_path, Recorded())
    assert found.options == mallocgame.load_compiler_options(tmp_path / OPTIONS) == {"step": "3"}
    assert found.unchecked == ""
    assert load_about(tmp_path / OPTIONS)["compiled_to_its_end"] == "yes"
    assert found.judged_seconds == pytest.approx(0.7 * found.default_seconds)


def test_what_is_illegal_at_the_end_gives_way_to_what_was_best_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    improve_each_time(monkeypatch)
    refused = failed("JaxRuntimeError: INTERNAL: late")
    found = run(tmp_path, full_compilation_of(lambda options: refused if options.get("step") == "3" else None))
    assert found.options == mallocgame.load_compiler_options(tmp_path / OPTIONS) == {"step": "2"}
    assert found.judged_seconds == pytest.approx(0.8 * found.default_seconds)
    assert mallocgame.load_compiler_options(tmp_path / "illegal-options.json") == {"step": "3"}


def test_when_all_are_illegal_the_default_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    improve_each_time(monkeypatch)
    compiler = full_compilation_of(lambda options: failed("JaxRuntimeError: late") if options else None)
    found = run(tmp_path, compiler)
    assert found.options == {}
    assert found.judged_seconds == found.default_seconds
    assert mallocgame.load_compiler_options(tmp_path / OPTIONS) == {}  # a script finds its file
    assert load_about(tmp_path / OPTIONS)["judged_seconds"] == found.default_seconds
    assert mallocgame.load_compiler_options(tmp_path / "illegal-options.json") == {"step": "3"}
    improve_each_time(monkeypatch)  # and a later run replaces it
    assert run(tmp_path, Recorded()).options == mallocgame.load_compiler_options(tmp_path / OPTIONS) == {"step": "3"}
    result = inject(target(compiler), faster(), seconds=1.0)
    assert result.options == {}
    assert result.judged_seconds == result.default_seconds


def test_what_the_compiler_does_from_the_program_on_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    improve_each_time(monkeypatch)

    def repeated(self: FinalCheck, candidate: Evaluation, say: object) -> tuple[str, Evaluation]:
        return "", replace(candidate, judged_seconds=0.75 * self._target.default().judged_seconds)

    monkeypatch.setattr(FinalCheck, "_repeated", repeated)
    found = run(tmp_path, Recorded(), full=False)
    assert found.options == mallocgame.load_compiler_options(tmp_path / OPTIONS) == {"step": "3"}
    assert found.judged_seconds == load_about(tmp_path / OPTIONS)["judged_seconds"] == 0.75 * found.default_seconds
    result = inject(target(Recorded()), faster(), seconds=1.0, full=False)
    assert result.options == {"step": "3"}
    assert result.judged_seconds == 0.75 * result.default_seconds


@pytest.mark.parametrize("reason", ["did not finish within 3 s", "ended without a word"])
def test_a_slow_or_killed_full_compilation_is_no_refusal(
    reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    improve_each_time(monkeypatch)
    asked: list[Options] = []

    def answer(options: Options) -> Compilation | None:
        asked.append(options)
        return failed(reason, inconclusive=True) if options else None

    found = run(tmp_path, full_compilation_of(answer))
    assert found.options == mallocgame.load_compiler_options(tmp_path / OPTIONS) == {"step": "3"}
    assert reason in found.unchecked
    assert reason in str(load_about(tmp_path / OPTIONS)["compiled_to_its_end"])
    assert [options for options in asked if options] == [{"step": "3"}] * 2  # tried again, then kept
    result = inject(target(full_compilation_of(answer)), faster(), seconds=1.0)
    assert result.options == {"step": "3"}
    assert reason in result.why_not_full


def test_a_killed_evaluation_is_tried_again_and_is_no_refusal() -> None:
    class Dying(Recorded):
        def __init__(self, deaths: int) -> None:
            super().__init__()
            self.deaths = deaths

        def compile(self, asked: CompileRequest) -> Compilation:
            done = super().compile(asked)
            self.deaths -= not asked.hlo
            return done if asked.hlo or self.deaths < 0 else failed("ended without a word", inconclusive=True)

    assert target(Dying(1)).evaluate(()).error == ""
    found = target(Dying(9)).evaluate(())
    assert found.inconclusive
    assert found.mapping is None


def test_a_log_that_breaks_off_is_no_refusal() -> None:
    class Cut(Recorded):
        def compile(self, asked: CompileRequest) -> Compilation:
            done = super().compile(asked)
            return done if asked.hlo else replace(done, log=done.log[: len(done.log) // 2])

    found = target(Cut()).evaluate(())
    assert found.inconclusive
    assert "not readable" in found.error


def test_a_run_that_cannot_evaluate_keeps_what_an_earlier_one_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patched:
        improve_each_time(patched)
        run(tmp_path, Recorded())
    before = [(tmp_path / name).read_bytes() for name in (STATE, OPTIONS)]

    class Slow(Recorded):
        def compile(self, asked: CompileRequest) -> Compilation:
            done = super().compile(asked)
            return done if asked.hlo else failed("did not finish within 60 s", inconclusive=True)

    said: list[str] = []
    found = run(tmp_path, Slow(), say=said.append)
    assert found.options == {}
    assert [(tmp_path / name).read_bytes() for name in (STATE, OPTIONS)] == before
    assert any("is kept" in line for line in said)


def test_worse_options_never_replace_better_ones(tmp_path: Path) -> None:
    with TuningFolder.open_for(tmp_path, {"chip": "v5e"}) as folder:
        for judged, expected in ((3.0, 3.0), (2.0, 2.0), (2.5, 2.0), (1.0, 1.0)):
            state = SavedSearch(rounds=1, judged_seconds=judged, flags={}, overrides=())
            folder.save(state, {"a": str(judged)}, {"judged_seconds": judged})
            assert mallocgame.load_compiler_options(tmp_path / OPTIONS) == {"a": str(expected)}
            assert json.loads((tmp_path / STATE).read_text())["judged_seconds"] == expected
        folder.set_aside(1.5)  # refused: something else than the earlier run's
        assert mallocgame.load_compiler_options(tmp_path / OPTIONS) == {"a": "1.0"}
        folder.set_aside(1.0)
        assert not (tmp_path / OPTIONS).exists()
    save_compiler_options(tmp_path / OPTIONS, {"other": True}, {"chip": "v4", "judged_seconds": 9.0})
    with pytest.raises(InputError, match="'v4', not 'v5e'"), TuningFolder.open_for(tmp_path, {"chip": "v5e"}):
        pass


def test_two_runs_in_a_folder_are_told(tmp_path: Path) -> None:
    with TuningFolder.open_for(tmp_path, {}):
        with pytest.raises(InputError, match=rf"another run works in this folder \(process {os.getpid()}\)"):
            run(tmp_path, Recorded())
        with pytest.raises(InputError, match="another run"), TuningFolder.open_for(tmp_path, {}):
            pass
    with (tmp_path / LOCK).open() as lock:  # it is free again
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Changing(Recorded):
    """A program that is another one each time that it is lowered: ``schedules`` says what is put before a name then."""

    def __init__(self, *schedules: str) -> None:
        super().__init__()
        self.schedules, self.lowered = schedules, 0

    def compile(self, asked: CompileRequest) -> Compilation:
        done = replace(super().compile(asked), scheduled=ScheduledModule(hlo=b"", options=b""))
        if asked.scheduled is not None:
            return replace(done, scheduled=None)
        self.lowered += 1
        name = default().program.instructions[3].name
        before = self.schedules[min(self.lowered, len(self.schedules)) - 1]
        log, hlo = (text.replace(name, f"{before}{name}") for text in (done.log, done.hlo))
        return replace(done, lowering=str(self.lowered), log=log, hlo=hlo)


def test_a_program_that_changes_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    compiler = Changing("", "another_")
    monkeypatch.setattr(FinalCheck, "is_affordable", lambda self: False)
    monkeypatch.setattr(Evaluation, "agrees_with", lambda self, other: other.mapping is not None)
    improve_each_time(monkeypatch)
    found = run(tmp_path, compiler, full=False, say=said.append, phase=said.append)
    assert (found.options, found.lowers_alike) == ({}, False)
    assert any("is another program in a new process" in line for line in said)
    assert said.count(ANOTHER_PROGRAM) == 1  # and no worse options are tried
    assert mallocgame.load_compiler_options(tmp_path / "illegal-options.json") == {"step": "3"}


def test_a_program_that_has_changed_since_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    improve_each_time(monkeypatch)
    assert run(tmp_path, Changing(""), full=False).options == {"step": "3"}
    said: list[str] = []
    later = Changing("")
    later.lowered = 1
    run(tmp_path, later, full=False, say=said.append)
    assert any("has changed since" in line and "its schedule is the same" in line for line in said)


KILLED = """
import os, signal, sys
from pathlib import Path
from mallocgame import files
from mallocgame.workloads.compiler_loop.tuning_folder import TuningFolder, SavedSearch

def saves(folder):
    with TuningFolder.open_for(folder, {"chip": "v5e"}) as found:
        for judged in (3.0, 2.0, 1.0):
            state = SavedSearch(rounds=1, judged_seconds=judged, flags={"a": "1"}, overrides=())
            found.save(state, {"a": "1", "judged": str(judged)}, {"judged_seconds": judged})
            print(judged, flush=True)

def dies(limit):
    count = 0
    def counted(function):
        def call(*given, **others):
            nonlocal count
            count += 1
            if count == limit:
                os.kill(os.getpid(), signal.SIGKILL)
            done = function(*given, **others)
            count += 1
            if count == limit:
                os.kill(os.getpid(), signal.SIGKILL)
            return done
        return call
    for name in ("link", "replace", "fchmod"):
        setattr(os, name, counted(getattr(os, name)))
    Path.write_bytes = counted(Path.write_bytes)

for limit in range(1, 10**6):
    folder = Path(sys.argv[1]) / str(limit)
    child = os.fork()
    if child == 0:
        dies(limit)
        saves(folder)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    with TuningFolder.open_for(folder, {"chip": "v5e"}) as found:
        state, best = found.load(), found.best_seconds()
    kept = sorted(x.name for x in folder.iterdir())
    print("after", limit, state and state.judged_seconds, best, ",".join(kept), flush=True)
    if not status:
        break
"""


def test_a_run_may_be_killed_at_any_write(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    said, deaths = float("inf"), 0
    for line in done.stdout.splitlines():
        if not line.startswith("after"):
            said = float(line)  # was told to be saved
            continue
        _, _, state, best, names = line.split()
        assert state == "None" or float(state) <= said
        assert float(best) <= said
        assert state == "None" or float(state) <= float(best)  # what is recommended can be gone on from
        assert set(names.split(",")) <= {LOCK, STATE, OPTIONS}  # nothing is left behind
        said, deaths = float("inf"), deaths + 1
    assert deaths > 36  # 3 saves of 2 files, 2 to 4 calls each, before and after


def test_ctrl_c_keeps_the_best(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = 0

    def evaluate(self: Target, overrides: object, flags: Options | None = None, *, deadline: float = 0.0) -> Evaluation:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise KeyboardInterrupt
        return replace(self.default(), options={"a": "b"}, judged_seconds=self.default_seconds / (1 + calls))

    monkeypatch.setattr(Target, "evaluate", evaluate)
    found = run(tmp_path, Recorded(), seconds=60)
    assert found.interrupted
    assert found.options == mallocgame.load_compiler_options(tmp_path / OPTIONS) == {"a": "b"}
    assert found.unchecked == "interrupted"


def test_nothing_to_win_on_paper_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_module, "LEAST_HEADROOM", 1.0)
    compiler, said = Recorded(), list[str]()
    run(None, compiler, seconds=60, say=said.append)
    assert any("the search ends" in line for line in said)
    assert not any(TENSOR_OVERRIDES in options for options in compiler.asked)


@pytest.mark.parametrize("status", ["optimal", "feasible"])
def test_where_the_default_is_proved_best_no_more_time_is_asked_for(status: Any) -> None:
    said: list[str] = []

    def solve(program: Program, hierarchy: Hierarchy, **others: Any) -> SolveResult:
        own = default().mapping
        assert own is not None
        seconds = target(Recorded()).default_seconds
        return SolveResult(mapping=own, seconds=seconds, lower_bound_seconds=seconds, status=status, solve_seconds=0.0)

    tune(PROGRAM, chip="v5e", settings=Settings(solve=solve, seconds=0.01, say=said.append), compiler=Recorded())
    assert any("no time is left" in line for line in said) == (status != "optimal")


def test_nothing_unchanged_is_compiled_to_its_end_at_the_end() -> None:
    full: list[Options] = []
    run(None, full_compilation_of(lambda options: full.append(options)))  # type: ignore[func-returns-value]
    assert full == [{}]  # beside the search, to learn how long it takes


def test_tuning_is_resumed_and_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    run(tmp_path, Recorded(), full=False)
    state = json.loads((tmp_path / STATE).read_text())
    assert state["rounds"] >= 1
    said: list[str] = []
    run(tmp_path, Recorded(), full=False, say=said.append)
    assert any("going on from" in line for line in said)
    assert json.loads((tmp_path / STATE).read_text())["rounds"] > state["rounds"]
    for changed, reason in (
        ({"libtpu": "0.0.1"}, r"libtpu '0\.0\.1'"),
        ({"schedule": "x"}, "has changed since, or changes"),
    ):
        (tmp_path / STATE).write_text(json.dumps(state | changed))
        with pytest.raises(InputError, match=reason):
            run(tmp_path, Recorded(), full=False)
    (tmp_path / STATE).write_text('{"overrides": 3}')
    with pytest.raises(TraceError, match="not the state of a tuning run"):
        run(tmp_path, Recorded(), full=False)


def test_a_state_of_the_first_version_is_read(tmp_path: Path) -> None:
    run(tmp_path, Recorded(), full=False)
    state = json.loads((tmp_path / STATE).read_text())
    old = {key: value for key, value in state.items() if key not in ("schedule", "overrides")}
    (tmp_path / STATE).write_text(json.dumps(old | {"version": 1, "decisions": []}))
    said: list[str] = []
    run(tmp_path, Recorded(), full=False, say=said.append)
    assert any("going on from" in line for line in said)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_budget(seconds: float) -> None:
    with pytest.raises(InputError, match="budget > 0"):
        Settings(solve=on_paper, seconds=seconds)


class Taking(Recorded):
    """Full compilations take some time, and are ended when that is told."""

    def __init__(self, full_seconds: float) -> None:
        super().__init__()
        self.full_seconds = full_seconds

    def compile(self, asked: CompileRequest) -> Compilation:
        done = super().compile(asked)
        begin, stop = time.monotonic(), asked.stop
        while asked.full and time.monotonic() - begin < self.full_seconds:
            if time.monotonic() - begin > asked.timeout_seconds or (stop is not None and stop.is_set()):
                return failed("did not finish", inconclusive=True)
            time.sleep(0.01)
        return replace(done, seconds=time.monotonic() - begin)


def test_the_search_ends_in_time_for_the_check() -> None:
    whole = replace(target(Taking(0.2)), usual_seconds=0.01)
    with FinalCheck(whole, time.monotonic(), 10.0) as final:
        time.sleep(0.6)
        assert final.default is not None
        assert final.deadline - final.search_deadline() == pytest.approx(1.25 * final.default.compile_seconds)
        assert final.check([Evaluation(options={"a": "b"})], lambda text: None).why_not == ""
    assert time.monotonic() < final.deadline


def test_where_the_check_takes_too_long_there_is_none() -> None:
    whole = replace(target(Taking(9.0)), usual_seconds=0.01)
    begin = time.monotonic()
    with FinalCheck(whole, begin, 1.0) as final:
        time.sleep(0.8)
        assert not final.is_affordable()
        assert final.search_deadline() == final.deadline
        checked = final.check([Evaluation(options={"a": "b"})], lambda text: None)
    assert re.search(r"takes about \d s", checked.why_not)
    assert time.monotonic() - begin < 7.0  # and not 9


def test_a_run_takes_as_long_as_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    improve_each_time(monkeypatch, most=9)
    begin = time.monotonic()
    found = run(None, Taking(0.5), seconds=40.0)
    assert found.unchecked == ""
    assert time.monotonic() - begin < 43.0


def test_kernels_are_made_ready_meanwhile_and_their_compilation_is_not_counted() -> None:
    class Solver:
        options = ()
        is_ready = False

        def prepare(self, problem: Problem) -> None:
            time.sleep(3.0)
            self.is_ready = True

        def __call__(self, *problem: Any, **given: Any) -> SolveResult:
            assert self.is_ready
            return on_paper(*problem)

    said: list[str] = []
    settings = Settings(solve=Solver(), seconds=2.0, solver_seconds=0.1, full=False, say=said.append)
    found = tune(PROGRAM, chip="v5e", settings=settings, compiler=Recorded())
    assert found.evaluations > 0
    assert any("kernels were compiled, once" in line for line in said)
    times = [at for at, _ in found.history]
    assert times == sorted(times)


def test_overrides_survive_the_disk(tmp_path: Path) -> None:
    from mallocgame.workloads.compiler_loop.overrides import overrides_of
    from tests.workloads.compiler_loop.fake import goal, program

    given: tuple[Override, ...] = overrides_of(program(), goal())
    with TuningFolder.open_for(tmp_path, {"chip": "v5e"}) as folder:
        folder.save(SavedSearch(rounds=2, judged_seconds=1.0, flags={"f": "1"}, overrides=given), {"f": "1"}, {})
        assert folder.load() == SavedSearch(rounds=2, judged_seconds=1.0, flags={"f": "1"}, overrides=given)


def test_a_limit_in_evaluations_ends_the_search() -> None:
    compiler = Recorded()
    found = run(None, compiler, seconds=600, evaluations=5, full=False)
    assert found.evaluations <= 6  # two may be on their way at the last look


SHARDED = ("--topology", "v5e:2x2", "--mesh", "data=4", "--args", "f32[8]", "--trip-count", "7", "--ici-gbps", "90")


@pytest.mark.parametrize("words", [("--out", "--solver-seconds"), ("--folder", "--solve-seconds")])
def test_command_words_of_now_and_of_before(
    words: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seen: list[tuple[ProgramReference, str, Settings, Assumptions]] = []

    def stop(reference: ProgramReference, *, chip: str, settings: Settings, assumptions: Assumptions) -> Tuned:
        seen.append((reference, chip, settings, assumptions))
        raise InputError("seen")

    monkeypatch.setattr(tune_module, "tune", stop)
    out, solver = words
    result = run_command(monkeypatch, capsys, "tune", "a.b:c", out, tmp_path, solver, "3", "--seconds", "7", *SHARDED)
    assert (result.code, result.err.splitlines()[-1].split(" (")[0]) == (2, "mallocgame: seen")
    ((reference, chip, given, known),) = seen
    assert (str(reference), reference.mesh, reference.arguments, chip) == ("a.b:c", "data=4", "f32[8]", "v5e:2x2")
    assert (known.trip_counts, known.ici_bytes_per_second) == ({"": 7}, 9e10)
    assert (given.folder, given.solver_seconds, given.seconds) == (tmp_path, 3.0, 7.0)
    hidden = run_command(monkeypatch, capsys, "tune", "--help").out
    assert "--solver-seconds" in hidden
    assert "--solve-seconds" not in hidden
    wrong = run_command(monkeypatch, capsys, "tune", "a.b:c", "--plot", tmp_path / "map.pdf")
    assert wrong.code == 2
    assert "expected a name that ends in .html or .png" in wrong.err


def test_where_there_is_no_time_for_the_check_the_best_is_compiled_from_the_program_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = ScheduledModule(hlo=b"module", options=b"options")
    begun = replace(target(Taking(9.0)), usual_seconds=0.01, whole_seconds=0.01, scheduled=module)
    true, untrue = begun.evaluate(()), replace(begun.evaluate(()), judged_seconds=1e-9)
    refused: list[str] = []
    with FinalCheck(begun, time.monotonic(), 1.0, wanted=False) as final:
        assert final.deadline - final.search_deadline() == pytest.approx(1.25 * 0.01)
        checked = final.check([untrue, true], refused.append)
    assert checked.index == 1
    assert any("does otherwise" in line for line in refused)
    default = begun.default()
    found = replace(true, judged_seconds=0.9 * default.judged_seconds)  # other than promised, and good: it counts
    monkeypatch.setattr(Target, "repeat", lambda *_, **__: found)
    with FinalCheck(begun, time.monotonic(), 1.0, wanted=False) as final:
        checked = final.check([untrue, true], refused.append)
    assert (checked.index, checked.stands) == (0, found)


def test_a_scheduled_module_that_leads_elsewhere_is_not_used() -> None:
    class Elsewhere(Recorded):
        def compile(self, asked: CompileRequest) -> Compilation:
            done = super().compile(asked)
            if asked.scheduled is not None:
                return failed("RuntimeError: INTERNAL: no such thing")
            return replace(done, scheduled=ScheduledModule(hlo=b"module", options=b"") if asked.keep else None)

    compiler = Elsewhere()
    assert target(compiler).scheduled is None


class Nearby(Recorded):
    """Its scheduled module leads to what the program leads to, but for the last digit of the compiler's estimate."""

    def compile(self, asked: CompileRequest) -> Compilation:
        done = super().compile(asked)
        if asked.scheduled is not None:
            return replace(done, log=re.sub(rf"({re.escape(DONE)} .*)", r"\g<1>1", done.log))
        return replace(done, scheduled=ScheduledModule(hlo=b"module", options=b"") if asked.keep else None)


def test_a_scheduled_module_that_leads_near_is_searched_with_and_what_counts_is_from_the_program_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference = ProgramReference(module="mallocgame.workloads.models", name="lstm")
    near = Target.of(reference, "v5e", Nearby(), nearby=1e-3)
    assert near.is_near
    assert Target.of(reference, "v5e", Nearby()).scheduled is None
    guess = replace(near.default(), options={"a": "b"}, judged_seconds=0.5 * near.default_seconds, seconds=0.5)
    true = replace(guess, judged_seconds=0.8 * near.default_seconds)
    monkeypatch.setattr(Target, "repeat", lambda *_, **__: true)
    slow = replace(near, whole_seconds=3.0, short_seconds=0.25)
    with FinalCheck(slow, time.monotonic() - 10.0, 10.0, wanted=False) as final:
        final.best = guess
        assert final.deadline - final.search_deadline() == pytest.approx(1.25 * 3.25)  # overrides make it slower
        assert final.check([guess], lambda text: None).stands == true  # though the time is over
        monkeypatch.setattr(Target, "repeat", lambda *_, **__: replace(true, mapping=None, inconclusive=True))
        checked = final.check([guess], lambda text: None)
    assert checked.stands == guess
    assert "is a guess" in checked.why_not


@pytest.mark.parametrize("error", ["", "did not finish"])
def test_what_is_near_is_compiled_from_the_program_on_whatever_the_compilation_to_its_end_says(
    monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    near = replace(target(Recorded()), scheduled=ScheduledModule(hlo=b"", options=b""), is_near=True)
    guess = replace(near.default(), options={"a": "b"}, judged_seconds=0.5 * near.default_seconds)
    true = replace(guess, judged_seconds=0.8 * near.default_seconds)
    whole = FullCompile(error=error, inconclusive=bool(error), xla_seconds=(guess.xla_seconds,))
    monkeypatch.setattr(Target, "compile_fully", lambda *_, **__: whole)
    for found, stands in ((true, true), (replace(true, mapping=None, inconclusive=True), guess)):
        monkeypatch.setattr(Target, "repeat", lambda *_, found=found, **__: found)
        with FinalCheck(near, time.monotonic(), 9.0) as final:
            checked = final.check([guess], lambda text: None)
        assert checked.stands == stands
        assert ("is a guess" in checked.why_not) == (stands == guess)


def test_a_guess_takes_its_true_time_in_the_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    improve_each_time(monkeypatch)
    true = 0.9

    def repeat(self: Target, evaluation: Evaluation, *, deadline: float = 0.0) -> Evaluation:
        return replace(evaluation, judged_seconds=true * self.default_seconds)

    monkeypatch.setattr(Target, "repeat", repeat)
    near = replace(target(Recorded()), scheduled=ScheduledModule(hlo=b"", options=b""), is_near=True)
    monkeypatch.setattr(Target, "of", lambda *_, **__: near)
    for given, judged in ((true, true), (1.1, 1.0)):
        true, folder = given, tmp_path / str(given)
        found = run(folder, Recorded(), full=False)
        assert found.judged_seconds == pytest.approx(judged * found.default_seconds)
        assert load_about(folder / OPTIONS)["judged_seconds"] == found.judged_seconds
        assert bool(mallocgame.load_compiler_options(folder / OPTIONS)) == (judged < 1.0)
