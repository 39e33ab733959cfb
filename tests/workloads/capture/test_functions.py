"""What a function and its arguments may be (extra: tpu)."""

from pathlib import Path

import pytest

from mallocgame.errors import InputError, TraceError
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.program import UseKind
from mallocgame.workloads.capture import capture
from mallocgame.workloads.program_reference import parse_arguments, parse_reference, reference_to
from mallocgame.workloads.trace import Trace
from mallocgame.workloads.xla.compiler import Compiler
from tests.workloads.capture.programs import reference, tpu


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
@pytest.mark.parametrize("name", ["by_name", "starts,square"])  # arguments by keyword, one static; none used
def test_arguments_of_other_kinds(folder: Path, compiler: Compiler, name: str) -> None:
    trace = capture(reference(folder, name), chip="v5e", compiler=compiler)
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


def test_bad_references_and_arguments() -> None:
    for text in ("module", "module:", ":f", "a-b:f", "m:f:g"):
        with pytest.raises(InputError, match=r"package\.module:function"):
            parse_reference(text)
    for text in ("bf16", "bf16[a]", "b16[2]", "f32[2],,f32[3]"):
        with pytest.raises(InputError, match="TYPE"):
            parse_arguments(text)
    with pytest.raises(InputError, match="a size of 5000 digits"):
        parse_arguments(f"f32[3,{'9' * 5000}]")
    assert parse_arguments("s8[2, 3], pred[]") == [("int8", (2, 3)), ("bool", ())]
    assert reference_to(parse_arguments) is not None
    assert reference_to(lambda: None) is None
