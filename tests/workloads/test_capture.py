"""Capture with the real compiler (extra: tpu), on programs of a user's own."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mallocgame.errors import InputError, TraceError
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.program import UseKind
from mallocgame.workloads.capture import capture, trace_from_files
from mallocgame.workloads.program_reference import ProgramReference, parse_arguments, parse_reference, reference_to
from mallocgame.workloads.trace import load_trace
from mallocgame.workloads.xla.compiler import HLO_PASSES, TOTALS_ONLY, Compiler, Options
from mallocgame.workloads.xla.log import DONE

tpu = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("jax", "libtpu")), reason="needs the tpu extra"
)

PROGRAMS = """
import functools
import jax
import jax.numpy as jnp
from jax import lax

def example_args():
    return jax.ShapeDtypeStruct((256, 2048), jnp.bfloat16), [jnp.zeros((2048, 2048), jnp.bfloat16)] * 3

def network(x, weights):
    for weight in weights:
        x = jax.nn.relu(x @ weight)
    return x

def two(x, y):
    return x @ y

@functools.partial(jax.jit, donate_argnums=(0,))
def update(cache, row):
    return lax.dynamic_update_slice(cache, row, (5, 0)), cache.sum()

def until(x):
    return lax.while_loop(lambda v: v.sum() < 10.0, lambda v: v @ v + 1.0, x)

def branch(x, flag):
    return lax.cond(flag[0] > 0, lambda v: v @ v, lambda v: v @ v @ v, x)

def broken(x):
    raise RuntimeError("no such layer")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("user")
    (path / "users_model.py").write_text(PROGRAMS, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def compiler() -> Iterator[Compiler]:
    with Compiler() as one:
        yield one


def reference(folder: Path, name: str, arguments: str = "") -> ProgramReference:
    return parse_reference(f"users_model:{name}", arguments, folder=str(folder))


@pytest.mark.tpu
@tpu
def test_users_function_with_example_args(folder: Path, compiler: Compiler) -> None:
    trace = capture(reference(folder, "network"), chip="v5e", compiler=compiler)
    assert trace.name == "network-v5e"
    weights = [t for t in trace.program.tensors if t.is_parameter and t.size_bytes == 2048 * 2048 * 2]
    assert len(weights) == 3
    assert trace.mapping is not None
    assert validate(trace.program, trace.hierarchy, trace.mapping) == []
    assert simulate(trace.program, trace.hierarchy, trace.mapping).total_seconds > 0
    assert {i.source.split(":")[0] for i in trace.program.instructions if i.opcode == "fusion"} == {"users_model.py"}


@pytest.mark.tpu
@tpu
@pytest.mark.parametrize(("chip", "capacity"), [("v4", 67108864), ("v5p", 50266112), ("v6e", 100597760)])
def test_arguments_as_text_on_other_chips(folder: Path, compiler: Compiler, chip: str, capacity: int) -> None:
    trace = capture(reference(folder, "two", "bf16[512,4096],bf16[4096,1024]"), chip=chip, compiler=compiler)
    assert trace.hierarchy.layers[1].capacity_bytes == capacity
    assert sorted(t.size_bytes for t in trace.program.tensors) == [2**20, 2**22, 2**23]


@pytest.mark.tpu
@tpu
def test_donated_cache_is_updated_in_place(folder: Path, compiler: Compiler) -> None:
    trace = capture(reference(folder, "update", "f32[4096,1024],f32[1,1024]"), chip="v5e", compiler=compiler)
    cache = max(trace.program.tensors, key=lambda t: t.size_bytes)
    assert cache.is_parameter
    assert cache.is_output
    written = [u for u in cache.uses if u.kind != UseKind.READ]
    assert [u.kind for u in written] == [UseKind.UPDATE]
    assert written[0].bytes < cache.size_bytes / 100


@pytest.mark.tpu
@tpu
@pytest.mark.parametrize(
    ("name", "arguments", "kind", "reason"),
    [
        ("until", "f32[512,512]", TraceError, "trip count is not known"),
        ("branch", "f32[512,512],f32[1]", TraceError, "conditionals are not supported"),
        ("broken", "f32[8]", TraceError, "no such layer"),
        ("missing", "f32[8]", InputError, "no function missing"),
        ("two", "f32[8,4],f32[3,3]", TraceError, "dot_general"),
    ],
)
def test_what_cannot_be_captured_is_refused_by_name(
    folder: Path, compiler: Compiler, name: str, arguments: str, kind: type[InputError], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        capture(reference(folder, name, arguments), chip="v5e", compiler=compiler)


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
    compilation = compiler.compile(wanted, "v5e", dump, hlo=False).check(wanted)
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
        compilation = quick.compile(reference(folder, "network"), "v5e", hlo=False)
    assert compilation.error == ""
    assert DONE in compilation.log
    assert "Initial resource" not in compilation.log


@pytest.mark.tpu
@tpu
def test_full_lets_the_compiler_finish(folder: Path, compiler: Compiler) -> None:
    compilation = compiler.compile(reference(folder, "two", "f32[64,64],f32[64,64]"), "v5e", full=True)
    assert compilation.finished
    assert compilation.error == ""


@pytest.mark.tpu
@tpu
def test_time_limit_is_an_error(folder: Path, compiler: Compiler) -> None:
    compilation = compiler.compile(reference(folder, "network"), "v5e", timeout_seconds=0.05)
    assert "did not finish" in compilation.error


@pytest.mark.tpu
@tpu
def test_command_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "trace.json.gz"
    command = [sys.executable, "-c", "from mallocgame.cli import main; main()", "capture", "users_model:network"]
    done = subprocess.run(
        [*command, "--chip", "v5e", "--out", str(out), "--anonymise", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"chip": "v5e"' in done.stdout
    assert load_trace(out).name == "anonymous"


def test_bad_references_and_arguments() -> None:
    for text in ("module", "module:", ":f", "a b:f", "m:f:g"):
        with pytest.raises(InputError, match=r"package\.module:function"):
            parse_reference(text)
    for text in ("bf16", "bf16[a]", "b16[2]", "f32[2],,f32[3]"):
        with pytest.raises(InputError, match="TYPE"):
            parse_arguments(text)
    assert parse_arguments("s8[2, 3], pred[]") == [("int8", (2, 3)), ("bool", ())]
    assert reference_to(parse_arguments) is not None
    assert reference_to(lambda: None) is None


def test_command_line_wants_a_function_or_a_log() -> None:
    for arguments in ([], ["m:f", "--log", "x", "--hlo-dir", "y"], ["--log", "x"], ["m:f", "--out", "x.txt"]):
        command = [sys.executable, "-c", "from mallocgame.cli import main; main()", "capture", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
