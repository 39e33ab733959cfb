"""Traces and what is written about them: mappings, hierarchies, compiler options, tuning folders."""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tests.fuzz.readers.shared import Reader, packed, written
from tests.toy import toy_trace


@cache
def toy_with_mapping() -> Any:
    from mallocgame.baselines.placement.greedy import greedy

    bare = toy_trace(num_layers=3, trip_count=3)
    return toy_trace(
        num_layers=3, trip_count=3, mapping=greedy(bare.program, bare.hierarchy, seconds=1.0, seed=0).mapping
    )


def _traces() -> list[bytes]:
    from mallocgame.workloads.trace import save_trace

    return packed([written(lambda p: save_trace(p, toy_with_mapping()), "t.json")])


def _mappings() -> list[bytes]:
    from mallocgame.workloads.trace import save_mapping

    toy = toy_with_mapping()
    return packed([written(lambda p: save_mapping(p, toy.mapping, toy.program, toy.hierarchy), "m.json")])


def _read_trace(path: Path) -> Any:
    from mallocgame.workloads.trace import load_trace

    return load_trace(path)


def _read_mapping(path: Path) -> Any:
    from mallocgame.judge.validation import validate
    from mallocgame.workloads.trace import load_mapping

    toy = toy_with_mapping()
    found = load_mapping(path, toy.program, toy.hierarchy)
    validate(toy.program, toy.hierarchy, found)
    return found


def _write_mapping(path: Path, mapping: Any) -> None:
    from mallocgame.workloads.trace import save_mapping

    toy = toy_with_mapping()
    save_mapping(path, mapping, toy.program, toy.hierarchy)


def _write_trace(path: Path, trace: Any) -> None:
    from mallocgame.workloads.trace import save_trace

    save_trace(path, trace)


def _hierarchies() -> list[bytes]:
    from mallocgame.hierarchy import preset
    from mallocgame.workloads.formats.hierarchy_file import save_hierarchy

    return [written(lambda p: save_hierarchy(p, preset("host-v5e")), "h.json")]


HIERARCHY_TOML = b"""name = "mine"  # as a user writes one
[[layers]]
name = "HBM"
capacity_bytes = 1_000_000
bytes_per_second = 8.0e11
[[layers]]
name = "VMEM"
capacity_bytes = 4096
bytes_per_second = 1e13
alignment_bytes = 512
[[links]]
name = "HBM-VMEM"
pairs = [[0, 1]]
bytes_per_second = 8e11
latency_seconds = 1e-6
"""


def _read_hierarchy(path: Path) -> Any:
    from mallocgame.workloads.formats.hierarchy_file import load_hierarchy

    return load_hierarchy(path)


def _write_hierarchy(path: Path, hierarchy: Any) -> None:
    from mallocgame.workloads.formats.hierarchy_file import save_hierarchy

    save_hierarchy(path, hierarchy)


def _options() -> list[bytes]:
    from mallocgame.compiler_options import save_compiler_options

    about = {"jax": "0.10.2", "libtpu": "0.0.1", "program": "lstm", "seconds": 1.5, "none": None}
    return [written(lambda p: save_compiler_options(p, {"xla_a": True, "xla_b": "text"}, about), "o.json")]


def _read_options(path: Path) -> Any:
    from mallocgame.compiler_options import load_compiler_options, versions_that_differ

    versions_that_differ(path)
    return load_compiler_options(path)


def _write_options(path: Path, options: Any) -> None:
    from mallocgame.compiler_options import save_compiler_options

    save_compiler_options(path, options, {"program": "m:f"})


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


def _tuned() -> list[bytes]:
    from mallocgame.compiler_options import save_compiler_options

    about = {"program": "m:f", "chip": "v5e", "judged_seconds": 1e-3}
    return [written(lambda p: save_compiler_options(p, {"xla_a": True, "xla_b": "text"}, about), "o.json")]


def _read_tuned(path: Path) -> Any:
    from mallocgame.workloads.compiler_loop.tuning_folder import TuningFolder

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "options.json").symlink_to(path.resolve())
        return TuningFolder(Path(folder), {"program": "m:f", "chip": "v5e"}).best_seconds()


def _policies() -> list[bytes]:
    from mallocgame.workloads.checkpointing.policy import CheckpointPolicy, FunctionPlan, save_checkpoint_policy
    from mallocgame.workloads.checkpointing.regions import EquationRange

    regions = (EquationRange(start=0, end=3, names={1: "attention", 2: "mlp"}, entries={0: "embedding"}, label="0"),)
    plan = FunctionPlan(fingerprint="f", regions=regions)
    made = CheckpointPolicy(save=frozenset(("attention", "mlp")), offload=frozenset(("embedding",)), functions=(plan,))
    return [written(lambda p: save_checkpoint_policy(p, made), "p.json")]


def _read_policy(path: Path) -> Any:
    from mallocgame.workloads.checkpointing.policy import load_checkpoint_policy

    return load_checkpoint_policy(path)


def _write_policy(path: Path, policy: Any) -> None:
    from mallocgame.workloads.checkpointing.policy import save_checkpoint_policy

    save_checkpoint_policy(path, policy)


def _calibrations() -> list[bytes]:
    from mallocgame.workloads.checkpointing.chips import CHIPS, save_calibration

    return [written(lambda p: save_calibration(p, CHIPS["h100"]), "c.json")]


def _read_calibration(path: Path) -> Any:
    from mallocgame.workloads.checkpointing.chips import find_chip

    return find_chip("a100", path)


READERS = (
    Reader(name="policy", suffix=".json", seeds=_policies, read=_read_policy, write=_write_policy),
    Reader(name="calibration", suffix=".json", seeds=_calibrations, read=_read_calibration),
    Reader(name="trace", suffix=".json", seeds=_traces, read=_read_trace, write=_write_trace),
    Reader(name="mapping", suffix=".json", seeds=_mappings, read=_read_mapping, write=_write_mapping),
    Reader(name="hierarchy", suffix=".json", seeds=_hierarchies, read=_read_hierarchy, write=_write_hierarchy),
    Reader(
        name="hierarchy-toml",
        suffix=".toml",
        seeds=lambda: [HIERARCHY_TOML],
        read=_read_hierarchy,
    ),
    Reader(name="options", suffix=".json", seeds=_options, read=_read_options, write=_write_options),
    Reader(name="tuned", suffix=".json", seeds=_tuned, read=_read_tuned),
    Reader(name="tuning", suffix=".json", seeds=_states, read=_read_tuning),
)
