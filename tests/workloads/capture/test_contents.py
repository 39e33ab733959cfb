"""What a captured trace says of loops, branches, copies and what is not ours to move (extra: tpu)."""

from dataclasses import replace
from pathlib import Path

import pytest

from mallocgame.errors import TraceError
from mallocgame.judge.replaced import replaced_copies
from mallocgame.judge.simulation import simulate
from mallocgame.mapping import Mapping, serving_layers
from mallocgame.program import UseKind
from mallocgame.workloads.capture import Assumptions, capture
from mallocgame.workloads.xla.compiler import Compiler
from mallocgame.workloads.xla.fidelity import total_error
from mallocgame.workloads.xla.remarks import sentences
from tests.workloads.capture.programs import explained, reference, tpu


@pytest.mark.tpu
@tpu
def test_unknown_trip_counts_are_taken_as_xla_does_and_as_the_user_says(folder: Path, once: Compiler) -> None:
    trace = explained(capture(reference(folder, "until", "f32[512,512]"), chip="v5e", compiler=once))
    (loop,) = trace.program.loops
    name = str(trace.provenance["assumed_trip_counts"][0]).partition("=")[0]  # type: ignore[index]
    assert loop.trip_count == 5
    assert any(name in line and "--trip-count" in line and "users_model.py" in line for line in sentences(trace))
    for key in ("", name):
        known = Assumptions(trip_counts={key: 40})
        given = capture(reference(folder, "until", "f32[512,512]"), chip="v5e", compiler=once, assumptions=known)
        assert given.program.loops[0].trip_count == 40
        assert given.provenance["given_trip_counts"] == (f"{name}=40",)
    known = Assumptions(trip_counts={"wile": 2})
    with pytest.raises(TraceError, match=f"no loop of the program; of unknown count: {name}"):
        capture(reference(folder, "until", "f32[512,512]"), chip="v5e", compiler=once, assumptions=known)


@pytest.mark.tpu
@tpu
def test_loops_in_a_loop_of_unknown_count(folder: Path, compiler: Compiler) -> None:
    known = Assumptions(trip_counts={"": 7})
    trace = capture(reference(folder, "nested", "s32[],f32[512,512]"), chip="v5e", compiler=compiler, assumptions=known)
    assert sorted(loop.trip_count for loop in trace.program.loops) == [3, 7]
    assert max(i.trip_count for i in trace.program.instructions) == 21


@pytest.mark.tpu
@tpu
def test_branches_are_alternatives_with_weights(folder: Path, once: Compiler) -> None:
    wanted = reference(folder, "branch", "f32[1024,1024],f32[1]")
    trace = explained(capture(wanted, chip="v5e", compiler=once))
    (conditional,) = trace.program.conditionals
    assert conditional.weights == (0.5, 0.5)
    text = str(trace.provenance["assumed_branch_weights"][0])  # type: ignore[index]
    name = text.partition("=")[0]
    assert text == f"{name}=0.5,0.5"
    assert any(name in line and "--branch-weights" in line for line in sentences(trace))
    known = Assumptions(branch_weights={name: (1.0, 3.0)})
    given = capture(wanted, chip="v5e", compiler=once, assumptions=known)
    assert given.program.conditionals[0].weights == (0.25, 0.75)
    for weights in ({name: (1.0, 2.0, 3.0)}, {"cond": (1.0, 1.0)}, {name: (0.0, 1.0)}):
        with pytest.raises(TraceError, match="--branch-weights"):
            capture(wanted, chip="v5e", compiler=once, assumptions=Assumptions(branch_weights=weights))


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
        ("kernels_in_place", "f32[1024,512],f32[1024,512]", 9 * 2**21),
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
def test_what_is_closed_over_is_read_from_slow_memory(folder: Path, compiler: Compiler) -> None:
    trace = explained(capture(reference(folder, "closed", "f32[64,1024]"), chip="v5e", compiler=compiler))
    (constant,) = (tensor for tensor in trace.program.tensors if tensor.size_bytes >= 2**20)
    assert constant.is_parameter  # nothing can put it into fast memory without reading it
    assert [use.kind for use in constant.uses] == [UseKind.READ]
    longer = {"xla_seconds": 1.25 * float(str(trace.estimates["xla_seconds"]))}
    assert abs(total_error(replace(trace, estimates=trace.estimates | longer)) - (1 / 1.25 - 1)) < 0.01


@pytest.mark.tpu
@tpu
def test_what_a_scatter_adds_is_read(folder: Path, compiler: Compiler) -> None:
    """XLA's cost model charges such a scatter for its result alone, as if nothing read what is added."""
    text = "f32[8192,128],f32[128,128],s32[8192]"
    trace = explained(capture(reference(folder, "segments", text), chip="v5e", compiler=compiler))
    added = next(tensor for tensor in trace.program.tensors if tensor.size_bytes == 2**22 and not tensor.is_parameter)
    assert [use.bytes for use in added.uses if use.kind == UseKind.READ] == [2**22]
    assert any("1 scatter: XLA's cost model leaves out 4.0 MiB" in line for line in sentences(trace))


@pytest.mark.tpu
@tpu
def test_callbacks_are_told(folder: Path, compiler: Compiler) -> None:
    trace = capture(reference(folder, "asks", "f32[512,512],f32[64,512]"), chip="v5e", compiler=compiler)
    assert trace.provenance["host_transfers"] == 2  # there and back
    assert any("2 transfers with the host" in line for line in sentences(trace))


@pytest.mark.tpu
@tpu
def test_host_copies_hold_what_they_move(folder: Path, compiler: Compiler) -> None:
    trace = capture(reference(folder, "offload", "f32[1024,1024],f32[512,1024]"), chip="v5e", compiler=compiler)
    step = {i.name: number for number, i in enumerate(trace.program.instructions)}
    start, end = step["copy-start.1"], step["copy-done.1"]
    (back,) = [t for t in trace.program.tensors if any(u.step == start and u.kind == UseKind.DEFINE for u in t.uses)]
    assert [u.kind for u in back.uses if u.step == end] == [UseKind.UPDATE]  # a copy of it before would be stale
    assert (trace.provenance["host_copies"], trace.provenance["host_copy_bytes"]) == (2, 2 * 512 * 1024 * 4)
    assert any("2 asynchronous copies to or from the host, 4.0 MiB a run" in line for line in sentences(trace))
