"""The compiler process, its failures, and the files of a compilation elsewhere (extra: tpu)."""

from pathlib import Path

import pytest

from mallocgame.errors import TraceError
from mallocgame.workloads.capture import capture, trace_from_files
from mallocgame.workloads.trace import load_trace
from mallocgame.workloads.xla.compiler import HLO_PASSES, TOTALS_ONLY, Compiler, CompileRequest, Options
from mallocgame.workloads.xla.cycles import cycle_sentence, tiny_steps_sentence
from mallocgame.workloads.xla.log import DONE
from tests.cli.run import run
from tests.workloads.capture.programs import reference, tpu


@pytest.mark.tpu
@tpu
def test_a_full_temporary_folder_is_told(folder: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mallocgame.workloads.xla.compiler.newest_module", lambda dump: "HloModule m\n\nENTRY %ma")
    with pytest.raises(TraceError, match="cut off: is there room in"):
        capture(reference(folder, "two", "bf16[8,16],bf16[16,8]"), chip="v5e", compiler=compiler)


@pytest.mark.tpu
@tpu
def test_infeasible_override_is_reported_in_the_compilers_words(folder: Path, compiler: Compiler) -> None:
    text = "overrides { hlo_operand_filter { size_gte: 1 } prefetch { logical_time: 0 strict_timing: true } }"
    with pytest.raises(TraceError, match="MSA strict override failed"):
        capture(
            reference(folder, "network"),
            chip="v5e",
            compiler=compiler,
            compiler_options={"xla_tpu_msa_tensor_overrides": text},
        )


@pytest.mark.tpu
@tpu
def test_log_and_dump_of_a_user_give_the_same_trace(folder: Path, compiler: Compiler, tmp_path: Path) -> None:
    wanted = reference(folder, "network")
    dump: Options = {
        "xla_dump_to": str(tmp_path / "dump"),
        "xla_dump_hlo_as_text": True,
        "xla_dump_hlo_pass_re": HLO_PASSES,
    }
    compilation = compiler.compile(CompileRequest(reference=wanted, chip="v5e", options=dump, hlo=False)).check(wanted)
    assert not compilation.finished
    assert DONE in compilation.log
    (tmp_path / "tpu.log").write_text(compilation.log, encoding="utf-8")
    from_files = trace_from_files(tmp_path / "tpu.log", tmp_path / "dump", "v5e")
    captured = capture(wanted, chip="v5e", compiler=compiler)
    assert from_files.mapping == captured.mapping
    assert from_files.program.tensors == captured.program.tensors


@pytest.mark.tpu
@tpu
def test_totals_only_is_enough_to_score_options(folder: Path) -> None:
    with Compiler(vmodule=TOTALS_ONLY) as quick:
        compilation = quick.compile(CompileRequest(reference=reference(folder, "network"), chip="v5e", hlo=False))
    assert compilation.error == ""
    assert DONE in compilation.log
    assert "Initial resource" not in compilation.log


@pytest.mark.tpu
@tpu
def test_full_lets_the_compiler_finish(folder: Path, compiler: Compiler) -> None:
    compilation = compiler.compile(
        CompileRequest(reference=reference(folder, "two", "f32[64,64],f32[64,64]"), chip="v5e", full=True)
    )
    assert compilation.finished
    assert compilation.error == ""


@pytest.mark.tpu
@tpu
def test_full_keeps_cycles_and_without_it_tiny_steps_are_said(folder: Path, compiler: Compiler) -> None:
    target = reference(folder, "tiny", "f32[8,128]")
    fast, full = (capture(target, chip="v5e", full=each, compiler=compiler) for each in (False, True))
    assert full.program == fast.program
    cycles = full.estimates["estimated_cycles"]
    assert isinstance(cycles, tuple)
    assert len(cycles) == full.program.num_steps
    assert "the fixed cost of a step" in cycle_sentence(full)
    assert not cycle_sentence(fast)
    assert "capture --full" in tiny_steps_sentence(fast)


@pytest.mark.tpu
@tpu
def test_time_limit_is_an_error(folder: Path, compiler: Compiler) -> None:
    compilation = compiler.compile(
        CompileRequest(reference=reference(folder, "network"), chip="v5e", timeout_seconds=0.05)
    )
    assert "did not finish" in compilation.error


@pytest.mark.tpu
@tpu
def test_command_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    out = tmp_path / "trace.json.gz"
    arguments = ("users_model:network", "--chip", "v5e", "--out", out, "--anonymise", "--json")
    done = run(monkeypatch, capsys, "capture", *arguments)
    assert done.code == 0, done.err
    assert done.rows[0]["chip"] == "v5e"
    assert load_trace(out).name == "anonymous"


def test_command_line_wants_a_function_or_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([], ["m:f", "--log", "x", "--hlo-dir", "y"], ["--log", "x"], ["m:f", "--out", "x.txt"]):
        done = run(monkeypatch, capsys, "capture", *arguments)
        assert done.code == 2
        assert done.err.count("\n") == 1
