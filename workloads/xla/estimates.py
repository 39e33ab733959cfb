"""XLA's own figures of a compilation, as a trace keeps them."""

from mallocgame.workloads.hlo.aliases import Aliases
from mallocgame.workloads.hlo.movement import DUPLICATE, movement_of
from mallocgame.workloads.trace import Value
from mallocgame.workloads.xla.program import XlaProgram, padding_bytes
from mallocgame.workloads.xla.records import Position, XlaLog


def estimates(log: XlaLog, built: XlaProgram) -> dict[str, Value]:
    """Return XLA's own figures: totals, per step, and which uses its simulation charges as fast."""
    simulated = {row.name: row.elapsed_seconds for row in log.simulated}
    steps = [name for _, name in log.schedule]
    fast, unseen = [], []
    for tensor in built.program.tensors:
        for use in tensor.uses:
            place = Position(instruction=steps[use.step], operand=use.operand, index=use.index)
            fast.append(int(place in log.charged_fast))
            unseen.append(int(place in built.times[use.step].unseen))
    opaque = tuple(step for step, times in enumerate(built.times) if times.is_opaque)
    padding = padding_bytes(built)
    aliases = built.aliases
    moving = [_movement(aliases, name) for name in steps]
    fusions = [step for step, kind in enumerate(moving) if kind]
    return {
        **({"moving_fusion_steps": tuple(fusions)} if fusions else {}),
        **({"moving_fusion_kinds": tuple(moving[step] for step in fusions)} if fusions else {}),
        **({"xla_opaque_steps": opaque, "xla_opaque_fast_bytes": _fast_bytes(log, opaque)} if opaque else {}),
        **({"xla_use_unseen": tuple(unseen)} if any(unseen) else {}),
        **({"tensor_padding_bytes": padding} if any(padding) else {}),
        "xla_seconds": log.seconds_with_copies,
        "xla_seconds_without_copies": log.seconds_without_copies,
        "xla_step_seconds": tuple(simulated.get(step) for step in steps),
        "xla_step_home_seconds": tuple(log.home_seconds[step] for step in range(len(steps))),
        "xla_use_charged_fast": tuple(fast),
    }


def _fast_bytes(log: XlaLog, opaque: tuple[int, ...]) -> tuple[int, ...]:
    """Return how much each of these steps is said to access of what XLA's simulation has in the alternate memory."""
    names = {log.schedule[step][1]: 0 for step in opaque}
    for place, accessed in log.accessed_bytes.items():
        if place.instruction in names and place in log.charged_fast:
            names[place.instruction] += accessed
    return tuple(names[log.schedule[step][1]] for step in opaque)


def _movement(aliases: Aliases, name: str) -> str:
    """Return how an instruction only moves data, where its name alone does not say it: a fusion, a copy as it lies."""
    instruction = aliases.instruction(name)
    if instruction.opcode == "copy":
        source = aliases.module.computations[aliases.computation_of[name]].instructions[instruction.operands[0]]
        return DUPLICATE if str(source.shape) == str(instruction.shape) else ""
    return movement_of(aliases.module, instruction)
