"""A judged mapping as a trace that ui.perfetto.dev (and chrome://tracing) opens.

Source of the format: "Trace Event Format", the JSON that Chromium's tracing reads. Times are microseconds.
"""

import os
from typing import Any

from mallocgame.errors import InputError
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import Timeline
from mallocgame.mapping import HOME, Mapping
from mallocgame.program import Program
from mallocgame.report.scene import Scene, build_scene

_PROGRAM, _COPIES = 1, 2  # process ids: the tracks' groups
_INSTRUCTIONS, _STALLS = 1, 2  # thread ids


def perfetto_events(
    program: Program, hierarchy: Hierarchy, mapping: Mapping, timeline: Timeline
) -> list[dict[str, Any]]:
    """Return the events: instructions and stalls on tracks, each copy as a slice, occupancy as counters."""
    scene = build_scene(program, hierarchy, mapping, timeline)
    events = [
        _name("process_name", _PROGRAM, 0, f"program {program.name}"),
        _name("thread_name", _PROGRAM, _INSTRUCTIONS, "instructions"),
        _name("thread_name", _PROGRAM, _STALLS, "stalls"),
        _name("process_name", _COPIES, 0, f"copies ({hierarchy.name})"),
    ]
    for step, instruction in enumerate(program.instructions):
        details = {
            "step": step,
            "executions": instruction.trip_count,
            "opcode": instruction.opcode,
            "source": instruction.source,
            "compute_us": 1e6 * instruction.compute_seconds * instruction.trip_count,
            **{f"bytes in {x.name}": int(b) for x, b in zip(hierarchy.layers, timeline.layer_bytes[step], strict=True)},
        }
        start, elapsed = float(timeline.start_seconds[step]), float(timeline.elapsed_seconds[step])
        events.append(_slice(instruction.name, _INSTRUCTIONS, start, start + elapsed, details))
    events += [_slice("stall", _STALLS, start, end, {}) for start, end in scene.stalls]
    events += _copies(hierarchy, mapping, scene)
    for step in range(program.num_steps):
        occupied = {x.name: int(b) for x, b in zip(hierarchy.layers, timeline.occupancy_bytes[step], strict=True)}
        del occupied[hierarchy.layers[0].name]
        at = 1e6 * float(scene.step_edges_seconds[step])
        events.append({"ph": "C", "pid": _PROGRAM, "name": "occupied bytes", "ts": at, "args": occupied})
    return events


def save_perfetto(
    path: str | os.PathLike[str], program: Program, hierarchy: Hierarchy, mapping: Mapping, timeline: Timeline
) -> None:
    """Write the events as JSON, gzip-compressed if the name ends in ``.gz``.

    Raises:
        InputError: the file cannot be written.
    """
    import gzip
    import json

    from mallocgame.files import write_bytes

    events = perfetto_events(program, hierarchy, mapping, timeline)
    text = json.dumps({"displayTimeUnit": "ns", "traceEvents": events}, allow_nan=False, separators=(",", ":"))
    data = text.encode("utf-8")
    try:
        write_bytes(path, gzip.compress(data, mtime=0) if os.fspath(path).endswith(".gz") else data)
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror or error}") from None


def _copies(hierarchy: Hierarchy, mapping: Mapping, scene: Scene) -> list[dict[str, Any]]:
    """Return one track per link and direction, more where copies overlap: slices on a track must nest."""
    events: list[dict[str, Any]] = []
    tracks: dict[str, list[float]] = {}  # when each lane of a track is free again
    numbers: dict[tuple[str, int], int] = {}
    arrows = sorted(zip(scene.arrows, mapping.transfers, strict=True), key=lambda pair: pair[0].issue_seconds)
    for arrow, transfer in arrows:
        places = (transfer.source, transfer.target)
        source, target = (0 if p == HOME else mapping.residencies[p].layer for p in places)
        title = f"{hierarchy.layers[source].name} to {hierarchy.layers[target].name}"
        lanes = tracks.setdefault(title, [])
        lane = next((i for i, free in enumerate(lanes) if free <= arrow.issue_seconds), len(lanes))
        if lane == len(lanes):
            lanes.append(0.0)
            numbers[title, lane] = len(numbers) + 1
            events.append(_name("thread_name", _COPIES, numbers[title, lane], title))
        lanes[lane] = arrow.finish_seconds
        details = {
            "bytes": arrow.size_bytes,
            "executions": arrow.executions,
            "start_after": transfer.start_after,
            "done_before": transfer.done_before,
        }
        event = _slice(arrow.name, numbers[title, lane], arrow.issue_seconds, arrow.finish_seconds, details)
        events.append({**event, "pid": _COPIES})
    return events


def _slice(name: str, thread: int, start: float, end: float, details: dict[str, Any]) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": _PROGRAM,
        "tid": thread,
        "name": name,
        "ts": 1e6 * start,
        "dur": 1e6 * (end - start),
        "args": details,
    }


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": process, "tid": thread, "name": kind, "args": {"name": name}}
