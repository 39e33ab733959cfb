"""What holds scheduled HLO: text, packed text, serialized modules, one file of a dump; and what does not."""

import gzip
from pathlib import Path

import pytest

from mallocgame.errors import TraceError
from mallocgame.hierarchy import preset
from mallocgame.workloads.hlo import xla_parser
from mallocgame.workloads.hlo.buffer_assignment import read_offsets
from mallocgame.workloads.hlo.module import parse_hlo
from mallocgame.workloads.hlo_trace import trace_from_hlo

V5E = preset("v5e")
TEXT = """HloModule jit_step, is_scheduled=true

ENTRY main {
  p = f32[256,256]{1,0} parameter(0)
  n = f32[256,256]{1,0} negate(p)
  ROOT d = f32[256,256]{1,0} dot(n, p), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    size, length = len(data), b""
    while size >= 128:
        length, size = length + bytes([size % 128 + 128]), size // 128
    return bytes([number * 8 + 2]) + length + bytes([size]) + data


@pytest.mark.skipif(not xla_parser.available(), reason="needs jaxlib")
@pytest.mark.parametrize("depth", [0, 1, 2])  # HloModuleProto, HloProto, HloSnapshot
def test_serialized_modules_are_read(depth: int, tmp_path: Path) -> None:
    from jaxlib import _hlo

    data = _hlo.hlo_module_from_text(TEXT).as_serialized_hlo_module_proto()
    for _ in range(depth):
        data = field(1, data) + field(3, b"more")
    (tmp_path / "step.hlo.pb").write_bytes(data)
    (tmp_path / "step.hlo").write_text(TEXT, encoding="utf-8")
    assert trace_from_hlo(tmp_path / "step.hlo.pb", V5E).program == trace_from_hlo(tmp_path / "step.hlo", V5E).program


def test_packed_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "step.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    assert trace_from_hlo(tmp_path / "step.txt.gz", V5E).program.num_steps == 3


def test_a_module_of_a_dump_is_called_what_it_is_called(tmp_path: Path) -> None:
    file = tmp_path / "module_0012.jit_step.cpu_after_optimizations.txt"
    file.write_text(TEXT, encoding="utf-8")
    assert trace_from_hlo(file, V5E).name == "jit_step"
    with pytest.raises(TraceError, match=r"is a folder: name one module in it, such as .*module_0012\.jit_step"):
        trace_from_hlo(tmp_path, V5E)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("module @jit_step attributes {} {\n  func.func public @main() {}\n}\n", "StableHLO, from before"),
        (TEXT.replace(", is_scheduled=true", ""), "not scheduled .*compiled.as_text"),
        (TEXT + TEXT, ":8: a second module begins here"),
    ],
)
def test_what_is_no_scheduled_module_is_told(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(content, encoding="utf-8")
    with pytest.raises(TraceError, match=reason):
        trace_from_hlo(tmp_path / "x.txt", V5E)


@pytest.mark.parametrize("name", ["x.pb", "x.txt"])
def test_bytes_that_are_no_module_are_told(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x0a\xff\xff\xff\xff\x0f\x89PNG")
    with pytest.raises(TraceError, match="neither HLO text nor a serialized HLO module"):
        trace_from_hlo(tmp_path / name, V5E)


def test_offsets_are_those_of_the_module(tmp_path: Path) -> None:
    """Several modules of a dump have one name: the number tells them apart, else what is in them."""
    line = " value: <3 {} @1> (size=4096,offset={}): f32[8,128]\n"
    for number, values in enumerate(("np", "zw", "nq")):  # the last one is not the largest
        text = "".join(line.format(value, number) for value in values) + " value: <9 w @1> (size=1,offset=7): f32[]\n"
        (tmp_path / f"module_{number:04}.jit_step.buffer-assignment.txt").write_text(text, encoding="utf-8")
    module = parse_hlo(TEXT)
    assert read_offsets(tmp_path, module)[("p", ())] == (1, 0)
    assert read_offsets(tmp_path, module, "module_0002.jit_step.txt")[("q", ())] == (1, 2)
