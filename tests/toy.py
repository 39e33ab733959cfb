"""Traces that look like compiled programs, made up: layers of weights and activations, and a loop."""

import random

from mallocgame.hierarchy import Hierarchy, preset
from mallocgame.mapping import Mapping
from mallocgame.program import Instruction, Loop, Program, Tensor, Use, UseKind
from mallocgame.workloads.trace import Trace

MIB = 2**20


def toy_program(num_layers: int = 24, seed: int = 0, trip_count: int = 1) -> Program:
    """A training-like program: a pass over layers and back; with ``trip_count`` > 1 the middle third is a loop."""
    rng = random.Random(seed)
    num_steps = 2 * num_layers
    loop = Loop(start_step=num_steps // 3, end_step=2 * num_steps // 3, trip_count=trip_count)
    loops = (loop,) if trip_count > 1 and loop.start_step < loop.end_step else ()
    trips = [trip_count if any(x.start_step <= t < x.end_step for x in loops) else 1 for t in range(num_steps)]
    instructions = tuple(
        Instruction(
            name=f"fusion.{t}",
            compute_seconds=rng.uniform(1e-6, 40e-6),
            trip_count=trips[t],
            fixed_bytes=(rng.randrange(MIB),),
            opcode="fusion",
            computation="main",
            source=f"model.py:{t}",
        )
        for t in range(num_steps)
    )
    tensors = [_weight(rng, i, num_steps) for i in range(num_layers)]
    tensors += [_activation(rng, i, num_steps) for i in range(num_layers)]
    return Program(name=f"toy{num_layers}", instructions=instructions, tensors=tuple(tensors), loops=loops)


def toy_trace(num_layers: int = 24, seed: int = 0, trip_count: int = 1, mapping: Mapping | None = None) -> Trace:
    """A trace of ``toy_program`` on v5e; its \"compiler mapping\" is ``mapping``."""
    memory: Hierarchy = preset("v5e")
    return Trace(
        name=f"toy{num_layers}@v5e",
        program=toy_program(num_layers, seed, trip_count),
        hierarchy=memory,
        mapping=mapping,
        estimates={"total_seconds": 1.0, "elapsed_seconds": (1.0, 2.0)},
        provenance={"chip": "v5e", "made_by": "tests/toy.py"},
    )


def _weight(rng: random.Random, layer: int, num_steps: int) -> Tensor:
    size = rng.randrange(MIB, 12 * MIB)
    uses = (Use(step=layer, bytes=size, operand=1), Use(step=num_steps - 1 - layer, bytes=size, operand=1))
    return Tensor(name=f"param.{layer}", size_bytes=size, uses=uses, is_parameter=True, holdable=layer == 0)


def _activation(rng: random.Random, layer: int, num_steps: int) -> Tensor:
    size = rng.randrange(MIB, 16 * MIB)
    uses = [Use(step=layer, bytes=size, kind=UseKind.DEFINE)]
    uses += [Use(step=step, bytes=size, operand=0) for step in sorted({layer + 1, num_steps - 1 - layer} - {layer})]
    return Tensor(name=f"fusion.{layer}", size_bytes=size, uses=tuple(uses), is_output=layer % 5 == 0)
