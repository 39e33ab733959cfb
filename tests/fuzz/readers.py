"""Every reader of a file that somebody else may have written, with whole files to start from, all made here."""

import gzip
import io
import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from tests.paths import DATA
from tests.toy import toy_trace


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One reader: ``seeds`` are whole files, ``read`` takes the path of one; ``suffix`` ends its name."""

    name: str
    suffix: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], Any]


def _written(write: Callable[[Path], Any], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


def _packed(seeds: Iterable[bytes]) -> list[bytes]:
    found = list(seeds)
    return [*found, gzip.compress(found[0], mtime=0)]


# Traces and what is written about them


@cache
def _toy() -> Any:
    from mallocgame.baselines.placement.greedy import greedy

    bare = toy_trace(num_layers=3, trip_count=3)
    return toy_trace(
        num_layers=3, trip_count=3, mapping=greedy(bare.program, bare.hierarchy, seconds=1.0, seed=0).mapping
    )


def _traces() -> list[bytes]:
    from mallocgame.workloads.trace import save_trace

    return _packed([_written(lambda p: save_trace(p, _toy()), "t.json")])


def _mappings() -> list[bytes]:
    from mallocgame.workloads.trace import save_mapping

    toy = _toy()
    return _packed([_written(lambda p: save_mapping(p, toy.mapping, toy.program, toy.hierarchy), "m.json")])


def _read_trace(path: Path) -> Any:
    from mallocgame.workloads.trace import load_trace

    return load_trace(path)


def _read_mapping(path: Path) -> Any:
    from mallocgame.judge.validation import validate
    from mallocgame.workloads.trace import load_mapping

    toy = _toy()
    return validate(toy.program, toy.hierarchy, load_mapping(path, toy.program, toy.hierarchy))


def _hierarchies() -> list[bytes]:
    from mallocgame.hierarchy import preset
    from mallocgame.workloads.formats.hierarchy_file import save_hierarchy

    return [_written(lambda p: save_hierarchy(p, preset("host-v5e")), "h.json")]


def _read_hierarchy(path: Path) -> Any:
    from mallocgame.workloads.formats.hierarchy_file import load_hierarchy

    return load_hierarchy(path)


def _options() -> list[bytes]:
    from mallocgame.compiler_options import save_compiler_options

    about = {"jax": "0.10.2", "libtpu": "0.0.1", "program": "lstm", "seconds": 1.5, "none": None}
    return [_written(lambda p: save_compiler_options(p, {"xla_a": True, "xla_b": "text"}, about), "o.json")]


def _read_options(path: Path) -> Any:
    from mallocgame.compiler_options import load_compiler_options, versions_that_differ

    return load_compiler_options(path), versions_that_differ(path)


# What compilers write

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
        module.write_bytes((DATA / "lstm-v5e.hlo").read_bytes())
        return trace_from_files(path, folder, "v5e")


def _read_dump(path: Path) -> Any:
    from mallocgame.workloads.capture import trace_from_files

    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder) / "module_0001.jit_step.Pre_memory_space_assignment.txt"
        module.write_bytes(path.read_bytes())
        return trace_from_files(DATA / "lstm-v5e.log", folder, "v5e")


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


# Packing and paging

PACKING = (
    b"id,lower,upper,size,gaps,conflicts\na,0,10,8,2-4 6-8,\nb,2,4,8,,a\nc,0,9,4,1-3@0:2,a;b\n",
    b"id,lower,upper,size\na,0,4,8\nb,1,3,16\nc,2,6,8\n",
    b"buffer_id,start,end,size,alignment,offset,hint\n0,0,3,8,8,-1,0\n1,1,2,16,16,32,5\n2,2,5,8,1,,\n",
)


def _read_packing(path: Path) -> Any:
    from mallocgame.baselines.packing.buffers import read_buffers

    return read_buffers(path)


def _read_pages(kind: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        from mallocgame.baselines.paging import read_trace

        return read_trace(path, kind=kind)

    return read


def _read_sized(path: Path) -> Any:
    from mallocgame.baselines.paging.readers import read_sized

    return read_sized(path)


def _read_bits(path: Path) -> Any:
    from mallocgame.baselines.paging.hints import read_bits

    return read_bits(str(path), 6)


PAGES_TEXT = b"# a comment\n1 2 3\n2\n18446744073709551615\n\n7 7\n"
PAGES_CSV = b"page,size\n5,4096\n6,4096\n5,4096\n7,10\n"
PAGES_MOONCAKE = b"".join(
    json.dumps({"timestamp": t * 100, "input_length": 600 + t, "output_length": 5, "hash_ids": [0, 1, t]}).encode()
    + b"\n"
    for t in range(6)
)


def _oracle() -> list[bytes]:
    from mallocgame.baselines.paging.readers import ORACLE_RECORD

    rows = np.zeros(8, ORACLE_RECORD)
    rows["page"], rows["size_bytes"], rows["second"] = [1, 2, 3, 1, 2, 3, 9, 1], 4096, range(8)
    return [rows.tobytes()]


def _predictors() -> list[bytes]:
    from mallocgame.baselines.paging.predict.boosting import Boosted
    from mallocgame.baselines.paging.predict.predictor import Predictor

    model = Boosted(
        edges=tuple(np.array([0.5], np.float32) for _ in range(6)),
        base=0.1,
        feature=np.array([[0, -1, -1]], np.int16),
        cut=np.zeros((1, 3), np.uint8),
        value=np.array([[0.0, 1.0, 2.0]], np.float32),
    )
    made = Predictor(model=model, threshold=0.5, num_frames=10, block_tokens=None)
    return [_written(lambda p: made.save(p), "p.npz")]


def _read_predictor(path: Path) -> Any:
    from mallocgame.baselines.paging.predict.predictor import Predictor

    found = Predictor.load(path)
    assert np.isfinite(found.model.value).all()
    return found


# Robust plans

KNAPSACK = b"4 20 2\n10 2 1 5 3\n8 1 2 4 2\n9 3 1 6 4\n7 1 1 3 2\n"
LOANS = b"3 50 10 10 0.12 0.144 0.8 0 2\n10 5 0.1 0.2\n12 6 0.3 0.1\n9 4 0.2 0.2\n"
TABLE = b"File name,Time,Best primal bound,a,b,Solved\nx_1,3.5,100,1,2,1\ny,TIME_LIMIT,90,1,2,0\n"


def _read_knapsack(path: Path) -> Any:
    from mallocgame.baselines.neur2ro.problems.knapsack import read_knapsack

    return read_knapsack(path)


def _read_loans(path: Path) -> Any:
    from mallocgame.baselines.neur2ro.problems.loans import read_loans

    return read_loans(path)


def _read_table(path: Path) -> Any:
    from mallocgame.baselines.neur2ro.formats import read_branch_and_price

    return read_branch_and_price(path)


def _pretrained(name: str) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        from mallocgame.baselines.neur2ro.registry import PRETRAINED

        return [(PRETRAINED / "knapsack" / name).read_bytes()]

    return seeds


def _read_network(name: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        from mallocgame.baselines.neur2ro.network import load_network
        from mallocgame.baselines.neur2ro.registry import PRETRAINED

        return _in_folder(path, name, PRETRAINED / "knapsack", load_network)

    return read


def _in_folder(path: Path, name: str, source: Path, read: Callable[[Path], Any]) -> Any:
    """Read a copy of the folder ``source`` in which ``path`` takes the place of file ``name``."""
    with tempfile.TemporaryDirectory() as folder:
        for file in source.iterdir():
            if file.is_file() and file.name != name:
                (Path(folder) / file.name).symlink_to(file)
        (Path(folder) / name).symlink_to(path.resolve())
        return read(Path(folder))


def _examples() -> list[bytes]:
    arrays = {f"0.{name}": np.zeros((2, 3, 2), np.float32) for name in ("x_points", "xi_points")}
    arrays |= {f"0.{name}": np.zeros((3, 2), np.float32) for name in ("x_items", "xi_items")}
    return [_npz({**arrays, "0.labels": np.zeros((2, 2), np.float32)})]


def _read_examples(path: Path) -> Any:
    from mallocgame.baselines.neur2ro.data import DataPlan, load_examples

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "shard-00000.npz").symlink_to(path.resolve())
        return load_examples(folder, DataPlan(instances=1, plans=2, scenarios=2, worst_cases=0))


# The agent


def _npz(arrays: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _runs() -> list[bytes]:
    return [(_shipped_run() / "run.json").read_bytes()]


@cache
def _shipped_run() -> Path:
    import mallocgame.agents.muzero

    return Path(mallocgame.agents.muzero.__file__).parent / "pretrained"


def _read_run(path: Path) -> Any:
    from mallocgame.agents.muzero.config import Config
    from mallocgame.agents.muzero.run import RunFolder

    shipped = json.loads(_runs()[0])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run.json").symlink_to(path.resolve())
        run = RunFolder(Path(folder))
        run.config()
        run.fine_tuning()
        run.check_network(Config())
        return run.check(shipped["observation_shapes"], shipped["num_actions"])


def _read_toml(path: Path) -> Any:
    from mallocgame.agents.muzero.config import Config

    return Config.from_toml(path)


def _read_state(path: Path) -> Any:
    from mallocgame.agents.muzero.run import RunFolder

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "state-7.json").symlink_to(path.resolve())
        return RunFolder(Path(folder)).newest()


STATE = b'{"number": 7, "records": {"p": "0.npz"}, "kept": [[0, 0, 5, "p"]], "cursor": 3, "steps": 7}'
WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}


def _read_weights(path: Path) -> Any:
    from mallocgame.agents.muzero.run import RunFolder

    like: Any = SimpleNamespace(target=WEIGHTS)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "weights.npz").symlink_to(path.resolve())
        found = RunFolder(Path(folder)).load_parameters(like)
    assert all(np.isfinite(array).all() and array.dtype == np.float32 for array in found.values()), (
        "bad weights accepted"
    )
    return found


def _episodes() -> list[bytes]:
    arrays: dict[str, Any] = {
        "observation.memory": np.zeros((2, 2, 4), np.float32),
        "legal": np.ones((2, 3), bool),
        "actions": np.zeros(2, np.int32),
        "rewards": np.zeros(2, np.float32),
        "policies": np.full((2, 3), 1 / 3, np.float32),
        "root_values": np.zeros(2, np.float32),
        "program": np.array("toy"),
    }
    return [_npz(arrays)]


def _read_records(path: Path) -> Any:
    from mallocgame.agents.muzero.run import RunFolder

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "records").mkdir()
        (Path(folder) / "records" / "0.npz").symlink_to(path.resolve())
        return RunFolder(Path(folder)).load_records({"records": {"p": "0.npz"}})


def _file(name: str) -> Callable[[], list[bytes]]:
    return lambda: [(DATA / name).read_bytes()]


def _states() -> list[bytes]:
    place = {"instruction": "fusion.1", "operand": 0, "index": []}
    row = {"action": "prefetch", "tensor": 3, "place": place, "step": 7, "start_after": 2}
    head = {"version": 2, "program": "m:f", "rounds": 3, "judged_seconds": 1e-3, "flags": {"xla_a": True}}
    return [json.dumps({**head, "overrides": [row]}).encode()]


def _read_tuning(path: Path) -> Any:
    from mallocgame.workloads.compiler_loop.tuning_folder import TuningFolder

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "state.json").symlink_to(path.resolve())
        return TuningFolder(Path(folder), {"program": "m:f"}).load()


# Sweeps


def _rows(suffix: str) -> Callable[[], list[bytes]]:
    from mallocgame.cli.compare_jobs import COLUMNS
    from mallocgame.sweep import RowFile

    def write(path: Path) -> None:
        with RowFile.open(path, COLUMNS) as table:
            for key, error in (("a1", None), ("b2", "why, then")):
                table.append(
                    {"job": key, "trace": "t", "status": "feasible", "valid": True, "gap": 0.5, "error": error}
                )

    return lambda: [_written(write, f"rows{suffix}")]


def _read_rows(path: Path) -> Any:
    from mallocgame.cli.compare_jobs import COLUMNS
    from mallocgame.errors import InputError
    from mallocgame.sweep import RowFile

    before = path.read_bytes()
    try:
        with RowFile.open(path, COLUMNS) as table:
            return table.rows
    except InputError:
        assert path.read_bytes() == before, "a file that is refused was changed"
        raise


def _read_programs(path: Path) -> Any:
    from mallocgame.cli.programs import read_programs

    return read_programs(path, "v5e")


PROGRAMS = b'function,args,chip,mesh,name\nm:f,"bf16[8,128],f32[]",v4,,a\nm:f,,,data=2,b\n'

READERS = {
    reader.name: reader
    for reader in (
        Reader(name="trace", suffix=".json", seeds=_traces, read=_read_trace),
        Reader(name="mapping", suffix=".json", seeds=_mappings, read=_read_mapping),
        Reader(name="hierarchy", suffix=".json", seeds=_hierarchies, read=_read_hierarchy),
        Reader(name="options", suffix=".json", seeds=_options, read=_read_options),
        Reader(name="hlo", suffix=".hlo", seeds=lambda: [HLO], read=_read_hlo),
        Reader(name="hlo-offsets", suffix=".txt", seeds=lambda: [OFFSETS], read=_read_offsets),
        Reader(name="xla-log", suffix=".log", seeds=_file("lstm-v5e.log"), read=_read_log),
        Reader(name="xla-dump", suffix=".txt", seeds=_file("lstm-v5e.hlo"), read=_read_dump),
        Reader(name="tuning", suffix=".json", seeds=_states, read=_read_tuning),
        Reader(name="rows-csv", suffix=".csv", seeds=_rows(".csv"), read=_read_rows),
        Reader(name="rows-jsonl", suffix=".jsonl", seeds=_rows(".jsonl"), read=_read_rows),
        Reader(name="programs", suffix=".csv", seeds=lambda: [PROGRAMS], read=_read_programs),
        Reader(name="packing", suffix=".csv", seeds=lambda: list(PACKING), read=_read_packing),
        Reader(name="pages-text", suffix=".txt", seeds=lambda: [PAGES_TEXT], read=_read_pages("text")),
        Reader(name="pages-gz", suffix=".txt.gz", seeds=lambda: [gzip.compress(PAGES_TEXT)], read=_read_pages("auto")),
        Reader(name="pages-csv", suffix=".csv", seeds=lambda: [PAGES_CSV], read=_read_pages("csv")),
        Reader(name="pages-oracle", suffix=".bin", seeds=_oracle, read=_read_pages("oracle")),
        Reader(name="pages-sized", suffix=".bin", seeds=_oracle, read=_read_sized),
        Reader(name="pages-mooncake", suffix=".jsonl", seeds=lambda: [PAGES_MOONCAKE], read=_read_pages("mooncake")),
        Reader(name="pages-arc", suffix=".lis", seeds=lambda: [b"100 3 0 0\n7 1 0 1\n"], read=_read_pages("arc")),
        Reader(name="pages-lirs", suffix=".trc", seeds=lambda: [b"5\n6\n5\n*\n"], read=_read_pages("lirs")),
        Reader(name="bits", suffix=".txt", seeds=lambda: [b"0 1 1\n0,0,1\n"], read=_read_bits),
        Reader(name="predictor", suffix=".npz", seeds=_predictors, read=_read_predictor),
        Reader(name="knapsack", suffix=".txt", seeds=lambda: [KNAPSACK], read=_read_knapsack),
        Reader(name="loans", suffix=".txt", seeds=lambda: [LOANS], read=_read_loans),
        Reader(name="branch-and-price", suffix=".csv", seeds=lambda: [TABLE], read=_read_table),
        Reader(
            name="network-head", suffix=".json", seeds=_pretrained("network.json"), read=_read_network("network.json")
        ),
        Reader(
            name="network-weights",
            suffix=".safetensors",
            seeds=_pretrained("network.safetensors"),
            read=_read_network("network.safetensors"),
        ),
        Reader(name="examples", suffix=".npz", seeds=_examples, read=_read_examples),
        Reader(name="run", suffix=".json", seeds=_runs, read=_read_run),
        Reader(name="state", suffix=".json", seeds=lambda: [STATE], read=_read_state),
        Reader(
            name="config",
            suffix=".toml",
            seeds=lambda: [b'latent_size = 64\npolicy = "gumbel"\nlearning_rate = 1e-3\n'],
            read=_read_toml,
        ),
        Reader(
            name="weights",
            suffix=".npz",
            seeds=lambda: [_npz({"arr_0": WEIGHTS["a"], "arr_1": WEIGHTS["b"]})],
            read=_read_weights,
        ),
        Reader(name="records", suffix=".npz", seeds=_episodes, read=_read_records),
    )
}
