"""Programs for several chips (extra: tpu)."""

from pathlib import Path

import pytest

from mallocgame.program import UseKind
from mallocgame.workloads.capture import Assumptions, capture
from mallocgame.workloads.program_reference import parse_reference
from mallocgame.workloads.xla.compiler import Compiler
from mallocgame.workloads.xla.remarks import sentences
from tests.workloads.capture.programs import explained, reference, tpu


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
