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
from mallocgame.report.scene import Scene, Wait, build_scene

_PROGRAM, _COPIES = 1, 2  # process ids: the tracks' groups
_INSTRUCTIONS, _STALLS = 1, 2  # thread ids


def perfetto_events(
    program: Program, hierarchy: Hierarchy, mapping: Mapping, timeline: Timeline
) -> list[dict[str, Any]]:
    """Return the events: instructions and stalls on tracks, each copy as a slice, occupancy as counters.

    An arrow leads from each copy to the instruction that it is due before, or to the wait for it.
    """
    scene = build_scene(program, hierarchy, mapping, timeline)
    events = [
        _name("process_name", _PROGRAM, 0, f"program {program.name}"),
        _name("thread_name", _PROGRAM, _INSTRUCTIONS, "instructions"),
        _name("thread_name", _PROGRAM, _STALLS, "stalls"),
        _name("process_name", _COPIES, 0, f"copies ({hierarchy.name})"),
        _order(_PROGRAM, _INSTRUCTIONS),
        _order(_PROGRAM, _STALLS),
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
    events += [_stall(program, scene, wait) for wait in scene.stalls]
    events += _copies(program, hierarchy, mapping, scene)
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


def _stall(program: Program, scene: Scene, wait: Wait) -> dict[str, Any]:
    late = [scene.arrows[i] for i in wait.arrows]
    details = {
        "before": _step_name(program, wait.step),
        "source": program.instructions[wait.step].source if wait.step < program.num_steps else "",
        "waits for": ", ".join(dict.fromkeys(arrow.name for arrow in late)),
        "copies": len(late),
        "bytes": sum(arrow.size_bytes for arrow in late),
        "microseconds": 1e6 * (wait.end_seconds - wait.start_seconds),
    }
    return _slice("stall", _STALLS, wait.start_seconds, wait.end_seconds, details)


def _flow(number: int, thread: int, scene: Scene, waits: dict[int, Wait]) -> list[dict[str, Any]]:
    """Return the two ends of the arrow from a copy to what is due after it."""
    arrow = scene.arrows[number]
    wait, num_steps = waits.get(arrow.due_step), len(scene.step_edges_seconds) - 1
    if wait is not None and (number in wait.arrows or arrow.due_step == num_steps):  # no instruction follows the end
        at, there = (wait.start_seconds + wait.end_seconds) / 2, _STALLS
    else:
        step = min(arrow.due_step, num_steps - 1)
        start, end = scene.step_edges_seconds[step : step + 2].tolist()
        if step in waits:  # for something else; the instruction begins after it
            start = waits[step].end_seconds
        at, there = (start + end) / 2, _INSTRUCTIONS
    begin = (arrow.issue_seconds + arrow.finish_seconds) / 2
    shared = {"cat": "copy", "name": "copy to use", "id": number}
    return [
        {"ph": "s", "pid": _COPIES, "tid": thread, "ts": 1e6 * begin, **shared},
        {"ph": "f", "bp": "e", "pid": _PROGRAM, "tid": there, "ts": 1e6 * max(at, begin), **shared},
    ]


def _copies(program: Program, hierarchy: Hierarchy, mapping: Mapping, scene: Scene) -> list[dict[str, Any]]:
    """Return one track per link and direction, more where copies overlap: slices on a track must nest."""
    waits = {wait.step: wait for wait in scene.stalls}
    events: list[dict[str, Any]] = []
    tracks: dict[str, list[float]] = {}  # when each lane of a track is free again
    numbers: dict[tuple[str, int], int] = {}
    arrows = zip(range(len(scene.arrows)), scene.arrows, mapping.transfers, strict=True)
    for number, arrow, transfer in sorted(arrows, key=lambda row: row[1].issue_seconds):
        places = (transfer.source, transfer.target)
        source, target = (0 if p == HOME else mapping.residencies[p].layer for p in places)
        title = f"{hierarchy.layers[source].name} to {hierarchy.layers[target].name}"
        lanes = tracks.setdefault(title, [])
        lane = next((i for i, free in enumerate(lanes) if free <= arrow.issue_seconds), len(lanes))
        if lane == len(lanes):
            lanes.append(0.0)
            numbers[title, lane] = len(numbers) + 1
            shown = title if not lane else f"{title}, at the same time {lane + 1}"
            events.append(_name("thread_name", _COPIES, numbers[title, lane], shown))
            events.append(_order(_COPIES, numbers[title, lane]))
        lanes[lane] = arrow.finish_seconds
        details = {
            "bytes": arrow.size_bytes,
            "executions": arrow.executions,
            "start_after": transfer.start_after,
            "done_before": transfer.done_before,
            "issued after": _step_name(program, transfer.start_after),
            "due before": _step_name(program, transfer.done_before),
        }
        event = _slice(arrow.name, numbers[title, lane], arrow.issue_seconds, arrow.finish_seconds, details)
        events.append({**event, "pid": _COPIES})
        events += _flow(number, numbers[title, lane], scene, waits)
    return events


def _step_name(program: Program, step: int) -> str:
    if step < 0:
        return "the program's start"
    return program.instructions[step].name if step < program.num_steps else "the program's end"


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


def _order(process: int, thread: int) -> dict[str, Any]:
    return {"ph": "M", "pid": process, "tid": thread, "name": "thread_sort_index", "args": {"sort_index": thread}}


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": process, "tid": thread, "name": kind, "args": {"name": name}}
