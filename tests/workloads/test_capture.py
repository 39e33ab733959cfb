"""Capture with the real compiler (extra: tpu), on programs of a user's own."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mallocgame.errors import InputError, TraceError
from mallocgame.judge.replaced import replaced_copies
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping, serving_layers
from mallocgame.program import UseKind
from mallocgame.workloads.capture import Assumptions, capture, trace_from_files
from mallocgame.workloads.program_reference import ProgramReference, parse_arguments, parse_reference, reference_to
from mallocgame.workloads.trace import Trace, load_trace
from mallocgame.workloads.xla.compiler import HLO_PASSES, TOTALS_ONLY, Compiler, CompileRequest, Options
from mallocgame.workloads.xla.cycles import cycle_sentence, tiny_steps_sentence
from mallocgame.workloads.xla.fidelity import compare
from mallocgame.workloads.xla.log import DONE
from mallocgame.workloads.xla.remarks import sentences

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

def tiny(x):
    return lax.fori_loop(0, 1000, lambda i, v: lax.dynamic_update_slice(v, v[:1] + 1.0, (i % 8, 0)), x)

def nested(n, x):
    return lax.fori_loop(0, n, lambda i, x: lax.fori_loop(0, 3, lambda j, y: jnp.tanh(y @ x), x), x)

def decode(w, cache, at, x):
    y = jnp.tanh(x @ w)
    cache = lax.dynamic_update_slice(cache, y[None], (at, 0, 0))
    return cache, (cache * y).sum(0)

def offload(w, x):
    h = jnp.tanh(x @ w)
    parked = jax.device_put(h, jax.memory.Space.Host)
    return jnp.sin(h) @ w + jax.device_put(parked, jax.memory.Space.Device)

def cholesky(a):
    return jnp.linalg.cholesky(a @ a.T + jnp.eye(a.shape[0]))

def kernel(x, y):
    from jax.experimental import pallas as pl
    spec = pl.BlockSpec((256, 1024), lambda i: (i, 0))
    def add(a, b, o):
        o[...] = a[...] + b[...]
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(add, out_shape=shape, grid=(4,), in_specs=[spec, spec], out_specs=spec)(x, y) @ x

@functools.partial(jax.jit, static_argnums=1, static_argnames="act")
def layered(params, repeats, *, act="relu"):
    x = params["x"]
    for _ in range(repeats):
        x = getattr(jax.nn, act)(x @ params["w"])
    return x

def own_args():
    shape = jax.ShapeDtypeStruct((512, 512), jnp.bfloat16)
    return {"w": shape, "x": shape}, 5

layered.example_args = lambda: ({"w": jnp.zeros((256, 256)), "x": jnp.zeros((256, 256))}, 2)

def by_name(x, scale, kind):
    return jnp.sin(x * scale) if kind == "sine" else x

by_name.example_args = {"x": jnp.zeros((256, 256)), "scale": 2.0, "kind": "sine"}

def one_array(x):
    return x @ x

def square():
    return jax.ShapeDtypeStruct((256, 256), jnp.float32)

def sharded(w, x):
    y = jax.nn.relu(x @ w)
    return y.sum(0)

def sharded_args(mesh):
    from jax.sharding import NamedSharding, PartitionSpec as P
    split = lambda shape, *axes: jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, P(*axes)))
    return split((1024, 1024), "data", "model"), split((4096, 1024), "data", None)

def ring_of_four(x):
    from jax.sharding import PartitionSpec as P
    mesh = jax.make_mesh((4,), ("d",))
    return jax.shard_map(lambda x: lax.psum(x, "d"), mesh=mesh, in_specs=P("d"), out_specs=P())(x)

def constrained(x):
    from jax.sharding import PartitionSpec as P
    return lax.with_sharding_constraint(x, P("data", None)) * 2

def scalar(x):
    return x + 1

def one_number():
    return jax.ShapeDtypeStruct((), jnp.float32)

def ring(x):
    from jax.sharding import PartitionSpec as P
    mesh = jax.make_mesh((len(jax.devices()),), ("d",))
    def run(x):
        size = lax.axis_size("d")
        y = lax.ppermute(x, "d", [(i, (i + 1) % size) for i in range(size)])
        return y + x @ x
    return jax.shard_map(run, mesh=mesh, in_specs=P("d", None), out_specs=P("d", None), check_vma=False)(x)

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
def test_a_full_temporary_folder_is_told(folder: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mallocgame.workloads.xla.compiler.newest_module", lambda dump: "HloModule m\n\nENTRY %ma")
    with pytest.raises(TraceError, match="cut off: is there room in"):
        capture(reference(folder, "two", "bf16[8,16],bf16[16,8]"), chip="v5e", compiler=compiler)


@pytest.mark.tpu
@tpu
def test_donated_cache_is_updated_in_place(folder: Path, compiler: Compiler) -> None:
    trace = capture(reference(folder, "update", "f32[4096,1024],f32[1,1024]"), chip="v5e", compiler=compiler)
    cache = max(trace.program.tensors, key=lambda t: t.size_bytes)
    assert cache.is_parameter
    assert cache.is_output
    assert cache.label == "cache"
    written = [u for u in cache.uses if u.kind != UseKind.READ]
    assert [u.kind for u in written] == [UseKind.UPDATE]
    assert written[0].bytes < cache.size_bytes / 100


@pytest.mark.tpu
@tpu
@pytest.mark.parametrize(
    ("name", "arguments", "kind", "reason"),
    [
        ("broken", "f32[8]", TraceError, r"no such layer \(users_model.py:\d+, in broken\)"),
        ("missing", "f32[8]", InputError, "no function missing"),
        ("two", "f32[8,4],f32[3,3]", TraceError, "dot_general"),
    ],
)
def test_what_cannot_be_captured_is_refused_by_name(
    folder: Path, compiler: Compiler, name: str, arguments: str, kind: type[InputError], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        capture(reference(folder, name, arguments), chip="v5e", compiler=compiler)


def explained(trace: Trace) -> Trace:
    """Return the trace, after the judge has repeated XLA's own figures of it."""
    found = compare(trace)
    assert found.step_share_within_1_percent > 0.99
    assert found.home_share_within_1_percent > 0.99
    assert abs(found.total_error) < 0.01
    return trace


@pytest.mark.tpu
@tpu
def test_unknown_trip_counts_are_taken_as_xla_does_and_as_the_user_says(folder: Path, compiler: Compiler) -> None:
    trace = explained(capture(reference(folder, "until", "f32[512,512]"), chip="v5e", compiler=compiler))
    (loop,) = trace.program.loops
    name = str(trace.provenance["assumed_trip_counts"][0]).partition("=")[0]  # type: ignore[index]
    assert loop.trip_count == 5
    assert any(name in line and "--trip-count" in line and "users_model.py" in line for line in sentences(trace))
    for key in ("", name):
        known = Assumptions(trip_counts={key: 40})
        given = capture(reference(folder, "until", "f32[512,512]"), chip="v5e", compiler=compiler, assumptions=known)
        assert given.program.loops[0].trip_count == 40
        assert given.provenance["given_trip_counts"] == (f"{name}=40",)
    known = Assumptions(trip_counts={"wile": 2})
    with pytest.raises(TraceError, match=f"no loop of the program; of unknown count: {name}"):
        capture(reference(folder, "until", "f32[512,512]"), chip="v5e", compiler=compiler, assumptions=known)


@pytest.mark.tpu
@tpu
def test_loops_in_a_loop_of_unknown_count(folder: Path, compiler: Compiler) -> None:
    known = Assumptions(trip_counts={"": 7})
    trace = capture(reference(folder, "nested", "s32[],f32[512,512]"), chip="v5e", compiler=compiler, assumptions=known)
    assert sorted(loop.trip_count for loop in trace.program.loops) == [3, 7]
    assert max(i.trip_count for i in trace.program.instructions) == 21


@pytest.mark.tpu
@tpu
def test_branches_are_alternatives_with_weights(folder: Path, compiler: Compiler) -> None:
    wanted = reference(folder, "branch", "f32[1024,1024],f32[1]")
    trace = explained(capture(wanted, chip="v5e", compiler=compiler))
    (conditional,) = trace.program.conditionals
    assert conditional.weights == (0.5, 0.5)
    text = str(trace.provenance["assumed_branch_weights"][0])  # type: ignore[index]
    name = text.partition("=")[0]
    assert text == f"{name}=0.5,0.5"
    assert any(name in line and "--branch-weights" in line for line in sentences(trace))
    known = Assumptions(branch_weights={name: (1.0, 3.0)})
    given = capture(wanted, chip="v5e", compiler=compiler, assumptions=known)
    assert given.program.conditionals[0].weights == (0.25, 0.75)
    for weights in ({name: (1.0, 2.0, 3.0)}, {"cond": (1.0, 1.0)}, {name: (0.0, 1.0)}):
        with pytest.raises(TraceError, match="--branch-weights"):
            capture(wanted, chip="v5e", compiler=compiler, assumptions=Assumptions(branch_weights=weights))


@pytest.mark.tpu
@tpu
def test_what_is_copied_because_it_is_not_donated_is_named(folder: Path, compiler: Compiler) -> None:
    text = "bf16[512,512],bf16[1024,8,512],s32[],bf16[8,512]"
    trace = capture(reference(folder, "decode", text), chip="v5e", compiler=compiler)
    assert any("cache: 8388608 bytes" in line and "donate it" in line for line in sentences(trace))
    program, mapping = trace.program, trace.mapping
    assert mapping is not None
    (copy,) = program.replaceable_copies  # XLA makes it asynchronous, and so does its mapping: it takes no time
    assert replaced_copies(program, mapping, serving_layers(program, mapping)) == [copy]
    assert simulate(program, trace.hierarchy, mapping).elapsed_seconds[copy] == 0.0
    assert simulate(program, trace.hierarchy, Mapping()).elapsed_seconds[copy] > 1e-5
    explained(trace)


@pytest.mark.tpu
@tpu
@pytest.mark.parametrize(
    ("name", "text", "opaque"),
    [
        ("kernel", "f32[1024,1024],f32[1024,1024]", 3 * 2**22),
        ("cholesky", "f32[256,256]", None),
        ("offload", "f32[1024,1024],f32[512,1024]", 0),
    ],
)
def test_what_is_not_ours_to_move_is_captured(
    folder: Path, compiler: Compiler, name: str, text: str, opaque: int | None
) -> None:
    trace = explained(capture(reference(folder, name, text), chip="v5e", compiler=compiler))
    moved = trace.provenance.get("opaque_bytes", 0)
    assert moved == opaque or (opaque is None and moved)
    steps = trace.estimates.get("xla_opaque_steps", ())
    assert isinstance(steps, tuple)
    for step in steps:
        assert isinstance(step, int)
        assert trace.program.instructions[step].opcode == "custom-call"
        assert trace.program.instructions[step].fixed_bytes
    assert bool(moved) == any("cost model does not know" in line for line in sentences(trace))


@pytest.mark.tpu
@tpu
def test_host_copies_hold_what_they_move(folder: Path, compiler: Compiler) -> None:
    trace = capture(reference(folder, "offload", "f32[1024,1024],f32[512,1024]"), chip="v5e", compiler=compiler)
    step = {i.name: number for number, i in enumerate(trace.program.instructions)}
    start, end = step["copy-start.1"], step["copy-done.1"]
    (back,) = [t for t in trace.program.tensors if any(u.step == start and u.kind == UseKind.DEFINE for u in t.uses)]
    assert [u.kind for u in back.uses if u.step == end] == [UseKind.UPDATE]  # a copy of it before would be stale


@pytest.mark.tpu
@tpu
@pytest.mark.parametrize("chip", ["v5e:2x2", "v6e:2x2"])
def test_several_chips_and_a_mesh_by_name(folder: Path, compiler: Compiler, chip: str) -> None:
    wanted = parse_reference("users_model:sharded,sharded_args", folder=str(folder), mesh="data=2,model=2")
    trace = explained(capture(wanted, chip=chip, compiler=compiler))
    assert trace.provenance["topology"] == chip
    assert trace.provenance["mesh"] == "data=2,model=2"
    assert int(str(trace.provenance["collectives"])) > 0
    assert max(t.size_bytes for t in trace.program.tensors if t.is_parameter) == 2048 * 1024 * 2  # a chip's share
    assert any("network" in line for line in sentences(trace))
    slow = Assumptions(ici_bytes_per_second=1e9)
    networked = capture(wanted, chip=chip, compiler=compiler, assumptions=slow)
    assert not any("network" in line for line in sentences(networked))
    assert networked.program.compute_seconds.sum() > trace.program.compute_seconds.sum() + 0.5e-3


@pytest.mark.tpu
@tpu
def test_program_that_makes_its_own_mesh(folder: Path, compiler: Compiler) -> None:
    trace = explained(capture(reference(folder, "ring", "f32[2048,512]"), chip="v5e:2x2", compiler=compiler))
    step = {i.opcode: number for number, i in enumerate(trace.program.instructions)}
    start, end = step["collective-permute-start"], step["collective-permute-done"]
    written = [t for t in trace.program.tensors if any(u.step == start and u.kind == UseKind.DEFINE for u in t.uses)]
    between = [u for u in written[0].uses if start < u.step <= end]
    assert between
    assert {(u.kind, u.bytes) for u in between} == {(UseKind.UPDATE, 0)}


@pytest.mark.tpu
@tpu
@pytest.mark.parametrize(
    ("text", "size"), [("layered", 2**18), ("layered,own_args", 2**19), ("one_array,square", 2**18)]
)
def test_functions_bring_their_arguments(folder: Path, compiler: Compiler, text: str, size: int) -> None:
    trace = capture(parse_reference(f"users_model:{text}", folder=str(folder)), chip="v5e", compiler=compiler)
    assert {t.size_bytes for t in trace.program.tensors if t.is_parameter} == {size}


@pytest.mark.tpu
@tpu
def test_keyword_arguments_and_static_ones(folder: Path, compiler: Compiler) -> None:
    trace = capture(reference(folder, "by_name"), chip="v5e", compiler=compiler)
    assert trace.program.num_steps > 1


@pytest.mark.tpu
@tpu
@pytest.mark.parametrize(
    ("text", "chip", "mesh", "reason"),
    [
        ("sharded,sharded_args", "v5e", "", "takes a mesh: give --topology .* and --mesh"),
        ("sharded,sharded_args", "v5e", "data=2,model=2", "v5e is one chip; .* needs --topology"),
        ("ring_of_four,square", "v5e", "", r"Number of devices 1 .*ring_of_four\); .* needs --topology"),
        ("constrained,square", "v5e", "", r"constrained\); .* needs --topology"),
        ("constrained,square", "v5e:2x2", "", r"constrained\); --mesh AXIS=N,… sets a mesh"),
        ("scalar,one_number", "v5e", "", "nothing to plan: the compiler lets no array of this program live in fast"),
        ("sharded,sharded_args", "v5e:2x2", "data=2,model=4", "8 places, v5e:2x2 has 4"),
        ("sharded,sharded_args", "v5e:2x2", "data", "AXIS=SIZE"),
        ("sharded,none_such", "v5e:2x2", "data=2,model=2", "no function none_such"),
        ("two", "v5e:3x77", "", "libtpu has no topology v5e:3x77"),
        ("two", "v9", "", "unknown chip"),
        ("two,own args", "v5e", "", "args_function"),
    ],
)
def test_bad_targets_and_arguments(
    folder: Path, compiler: Compiler, text: str, chip: str, mesh: str, reason: str
) -> None:
    def run() -> Trace:
        wanted = parse_reference(f"users_model:{text}", folder=str(folder))
        return capture(wanted, chip=chip, mesh=mesh, compiler=compiler)

    with pytest.raises(InputError, match=reason):
        run()


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
