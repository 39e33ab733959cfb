"""What compilers write: HLO, buffer offsets, the log of libtpu and its dump."""

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from tests.fuzz.readers.shared import Reader, shipped_files
from tests.paths import DATA

HLO = b"""HloModule jit_step, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias) }

FileNames
1 "/home/user/model.py"

FunctionNames
1 "step"

FileLocations
1 {file_name_id=1 function_name_id=1 line=3 end_line=3 column=4 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%cond (p: (s32[], f32[8,128])) -> pred[] {
  %p = (s32[], f32[8,128]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%body (q: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %q = (s32[], f32[8,128]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %v = f32[8,128]{1,0} get-tuple-element(%q), index=1
  %one = s32[] constant(1)
  %k = s32[] add(%j, %one)
  %w = f32[8,128]{1,0} multiply(%v, %v), metadata={op_name="mul" stack_frame_id=1}
  ROOT %t = (s32[], f32[8,128]{1,0}) tuple(%k, %w)
}

ENTRY %main (a: f32[8,128], b: f32[128,16]) -> (f32[8,128], f32[8,16]) {
  %a = f32[8,128]{1,0} parameter(0)
  %b = f32[128,16]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %init = (s32[], f32[8,128]{1,0}) tuple(%zero, %a)
  %loop = (s32[], f32[8,128]) while(%init), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %last = f32[8,128]{1,0} get-tuple-element(%loop), index=1
  %dot = f32[8,16]{1,0} dot(%last, %b), lhs_contracting_dims={1}, metadata={source_file="m.py" source_line=7}
  ROOT %out = (f32[8,128]{1,0}, f32[8,16]{1,0}) tuple(%last, %dot)
}
"""


def _read_hlo(path: Path) -> Any:
    from mallocgame.hierarchy import preset
    from mallocgame.workloads.hlo import xla_parser
    from mallocgame.workloads.hlo_trace import trace_from_hlo

    with mock.patch.object(xla_parser, "available", return_value=False):  # XLA's own parser is a process for each text
        return trace_from_hlo(path, preset("v5e"))


def _read_log(path: Path) -> Any:
    from mallocgame.workloads.capture import trace_from_files

    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder) / "module_0001.jit_step.Pre_memory_space_assignment.txt"
        module.symlink_to(DATA / ("tiny-v5e.hlo" if _is_tiny(path) else "lstm-v5e.hlo"))
        return trace_from_files(path, folder, "v5e")


def _is_tiny(path: Path) -> bool:
    """Tell whether a log or dump was the small one."""
    return path.stat().st_size < 15_000


def _read_dump(path: Path) -> Any:
    from mallocgame.workloads.capture import trace_from_files

    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder) / "module_0001.jit_step.Pre_memory_space_assignment.txt"
        module.symlink_to(path.resolve())
        return trace_from_files(DATA / ("tiny-v5e.log" if _is_tiny(path) else "lstm-v5e.log"), folder, "v5e")


OFFSETS = b"""BufferAssignment:
allocation 0: size 4096, parameter 0:
 value: <3 a @0> (size=4096,offset=0): f32[8,128]{1,0}
 value: <5 loop{1} @1> (size=4096,offset=128): f32[8,128]{1,0}
"""


def _read_offsets(path: Path) -> Any:
    from mallocgame.hierarchy import preset
    from mallocgame.workloads.hlo import xla_parser
    from mallocgame.workloads.hlo_trace import trace_from_hlo

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(xla_parser, "available", return_value=False):
        (Path(folder) / "module_0001.jit_step.buffer-assignment.txt").symlink_to(path.resolve())
        (Path(folder) / "step.hlo").write_bytes(HLO)
        return trace_from_hlo(Path(folder) / "step.hlo", preset("v5e"), dump=folder)


READERS = (
    Reader(name="hlo", suffix=".hlo", seeds=lambda: [HLO], read=_read_hlo),
    Reader(name="hlo-offsets", suffix=".txt", seeds=lambda: [OFFSETS], read=_read_offsets),
    Reader(name="xla-log", suffix=".log", seeds=shipped_files("tiny-v5e.log", "lstm-v5e.log"), read=_read_log),
    Reader(name="xla-dump", suffix=".txt", seeds=shipped_files("tiny-v5e.hlo", "lstm-v5e.hlo"), read=_read_dump),
)
