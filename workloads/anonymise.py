"""Traces without the names that would tell what a program is."""

from dataclasses import replace

from mallocgame.workloads.trace import Trace


def anonymise(trace: Trace) -> Trace:
    """Replace instruction, tensor and computation names, drop source places and where the trace was made.

    What stays is what a solver sees: sizes, times, opcodes, structure.
    """
    program = trace.program
    computations = {name: f"c{i}" for i, name in enumerate(dict.fromkeys(x.computation for x in program.instructions))}
    instructions = tuple(
        replace(x, name=f"i{step}", computation=computations[x.computation], source="")
        for step, x in enumerate(program.instructions)
    )
    tensors = tuple(replace(tensor, name=f"t{i}", label="") for i, tensor in enumerate(program.tensors))
    hidden = replace(program, name="anonymous", instructions=instructions, tensors=tensors)
    kept = ("chip", "jax", "jaxlib", "libtpu", "unreconciled_bytes", "hidden_compute_seconds", "compilations")
    provenance = {key: value for key, value in trace.provenance.items() if key in kept}
    return replace(trace, name="anonymous", program=hidden, provenance=provenance)
