"""``mallocgame show``: what a trace holds."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mallocgame.cli.common import JsonOption, print_json, print_table
from mallocgame.cli.traces import TraceArgument, chip_of, open_trace

if TYPE_CHECKING:
    from mallocgame.evaluation import Case
    from mallocgame.workloads.trace import Trace


def show(
    trace: TraceArgument,
    top: Annotated[int, typer.Option("--top", min=0, help="How many tensors and instructions to list.")] = 10,
    json: JsonOption = False,
) -> None:
    """Describe a trace: its memory, where it came from, its heaviest instructions and tensors.

    Example: mallocgame show lstm-v5e --top 5
    """
    from mallocgame.evaluation import make_case

    opened = open_trace(trace)
    case = make_case(opened, chip=chip_of(opened))
    sections = {
        "trace": [_summary(case, opened)],
        "layer": _layers(case),
        "instruction": _instructions(case, top),
        "tensor": _tensors(case, top),
        "peak": _peaks(opened, top),
    }
    if json:
        print_json({"row": kind, **row} for kind, rows in sections.items() for row in rows)
        return
    print_table(case.name, ("", "value"), [(key, str(value)) for key, value in sections["trace"][0].items()])
    titles = {
        "layer": "memory",
        "instruction": f"the {top} longest instructions, everything in layer 0",
        "tensor": f"the {top} tensors that move most bytes",
        "peak": f"the {min(top, 10)} largest tensors where each memory is fullest",
    }
    for kind, title in titles.items():
        if rows := sections[kind]:
            print_table(title, tuple(rows[0]), [tuple(_text(v) for v in row.values()) for row in rows])


def _peaks(trace: "Trace", top: int) -> list[dict[str, Any]]:
    from mallocgame.explanation.peaks import peaks
    from mallocgame.mapping import Mapping

    found = peaks(trace.program, trace.hierarchy, trace.mapping or Mapping(), trace.padding_bytes)
    return [
        {
            "memory": peak.layer,
            "fullest_at": peak.instruction,
            "occupied_bytes": peak.occupied_bytes,
            "tensor": each.tensor,
            "size_bytes": each.size_bytes,
            "padding_bytes": "" if each.padding_bytes is None else each.padding_bytes,
            "is_parameter": each.is_parameter,
            "source": each.source,
        }
        for peak in found
        for each in peak.largest[:top]
    ]


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _summary(case: "Case", trace: "Trace") -> dict[str, Any]:
    program = case.program
    mapping = trace.mapping
    about = {f"provenance_{key}": _short(value) for key, value in trace.provenance.items()}
    estimates = {f"estimate_{key}": _short(value) for key, value in trace.estimates.items()}
    return {
        "program": program.name,
        "chip": case.chip,
        "instructions": program.num_steps,
        "loops": len(program.loops),
        "tensors": len(program.tensors),
        "movable_tensors": sum(tensor.movable for tensor in program.tensors),
        "decisions": program.num_decisions,
        "tensor_bytes": int(program.sizes_bytes.sum()),
        "XLA judged seconds": case.xla_judged_seconds,
        "lower_bound_seconds": case.lower_bound_seconds,
        "XLA residencies": None if mapping is None else len(mapping.residencies),
        "XLA copies": None if mapping is None else len(mapping.transfers),
        **estimates,
        **about,
    }


def _short(value: Any) -> Any:
    return f"{len(value)} values" if isinstance(value, tuple) and len(value) > 8 else value


def _layers(case: "Case") -> list[dict[str, Any]]:
    return [
        {
            "name": layer.name,
            "capacity_bytes": layer.capacity_bytes,
            "bytes_per_second": layer.bytes_per_second,
            "alignment_bytes": layer.alignment_bytes,
        }
        for layer in case.hierarchy.layers
    ]


def _instructions(case: "Case", top: int) -> list[dict[str, Any]]:
    from mallocgame.judge.simulation import simulate
    from mallocgame.mapping import Mapping

    program = case.program
    timeline = simulate(program, case.hierarchy, Mapping())
    order = sorted(range(program.num_steps), key=lambda step: (-timeline.elapsed_seconds[step], step))[:top]
    return [
        {
            "name": program.instructions[step].name,
            "step": step,
            "seconds": float(timeline.elapsed_seconds[step]),
            "compute_seconds": program.instructions[step].compute_seconds * program.instructions[step].trip_count,
            "trip_count": program.instructions[step].trip_count,
            "opcode": program.instructions[step].opcode,
            "source": program.instructions[step].source,
        }
        for step in order
    ]


def _tensors(case: "Case", top: int) -> list[dict[str, Any]]:
    program = case.program
    trips = program.trip_counts
    moved = [round(sum(use.bytes * float(trips[use.step]) for use in tensor.uses)) for tensor in program.tensors]
    order = sorted(range(len(moved)), key=lambda index: (-moved[index], index))[:top]
    return [
        {
            "name": program.tensors[index].title,
            "tensor": index,
            "size_bytes": program.tensors[index].size_bytes,
            "bytes_moved": moved[index],
            "uses": len(program.tensors[index].uses),
            "first_step": program.tensors[index].definition_step,
            "movable": program.tensors[index].movable,
            "is_parameter": program.tensors[index].is_parameter,
            "is_output": program.tensors[index].is_output,
        }
        for index in order
    ]
