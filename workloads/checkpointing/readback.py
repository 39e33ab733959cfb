"""What XLA made of a plan: the copies to and from the host in a compiled step, and what runs while they are under way.

``python -m mallocgame.workloads.checkpointing.readback MODULE:STEP CHIP FOLDER [POLICY [ARGS]]`` compiles a step for a
TPU chip that need not be there and prints one JSON line: a process of its own, as libtpu wants its environment set.
"""

import contextlib
import json
import os
import re
import sys
from dataclasses import asdict, dataclass
from typing import Any

from mallocgame.errors import InputError

HOST = "S(5)"  # host memory in XLA's layouts
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\]\{[^}]*\}")
_OPERAND = re.compile(r"%?([\w.\-]+)")
_COPIES = {"copy", "dynamic-slice", "dynamic-update-slice"}
_COPIES |= {f"{opcode}-start" for opcode in _COPIES}
_WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCopy:
    """One copy between device and host in scheduled HLO.

    Steps are positions in its computation; ``hiding_share`` is the part of that computation's estimated cycles (of its
    instructions where the backend gives none) that runs between start and done, 0 for a copy that is not asynchronous.
    """

    computation: str
    name: str
    to_host: bool
    size_bytes: int
    start_step: int
    done_step: int
    num_steps: int
    hiding_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    rest: str

    @property
    def cycles(self) -> int:
        """The backend's estimate, 0 where it gives none."""
        match = _CYCLES.search(self.rest)
        return int(match[1]) if match else 0


def host_copies(hlo: str) -> list[HostCopy]:
    """Return the copies to and from host memory of scheduled HLO text, in order."""
    found = []
    for name, instructions in _computations(hlo):
        for step, instruction in enumerate(instructions):
            if instruction.opcode in _COPIES:
                copy = _copy(name, instructions, step)
                if copy is not None:
                    found.append(copy)
    return found


def _computations(hlo: str) -> list[tuple[str, list[_Instruction]]]:
    found: list[tuple[str, list[_Instruction]]] = []
    for line in hlo.splitlines():
        if not line.startswith(" "):
            match = _COMPUTATION.match(line)
            if match:
                found.append((match[1], []))
        elif found:
            match = _INSTRUCTION.match(line)
            if match:
                found[-1][1].append(_Instruction(name=match[1], shape=match[2], opcode=match[3], rest=match[4]))
    return found


def _copy(computation: str, instructions: list[_Instruction], step: int) -> HostCopy | None:
    instruction = instructions[step]
    shapes = {i.name: i.shape for i in instructions}
    operands = [shapes.get(name, "") for name in _OPERAND.findall(instruction.rest.split(")")[0])]
    result = instruction.shape
    last = step
    if instruction.opcode.endswith("-start"):
        done = next(
            (i for i in instructions[step:] if i.opcode.endswith("-done") and _reads(i, instruction.name)), None
        )
        if done is None:
            return None
        last, result = instructions.index(done), done.shape
    moved = operands[1] if "update-slice" in instruction.opcode and len(operands) > 1 else result
    to_host = HOST in result
    if not to_host and not any(HOST in operand for operand in operands):
        return None
    return HostCopy(
        computation=computation,
        name=instruction.name,
        to_host=to_host,
        size_bytes=_bytes(moved),
        start_step=step,
        done_step=last,
        num_steps=len(instructions),
        hiding_share=_share(instructions, step, last),
    )


def _reads(instruction: _Instruction, name: str) -> bool:
    return name in _OPERAND.findall(instruction.rest.split(")")[0])


def _share(instructions: list[_Instruction], start: int, done: int) -> float:
    weights = [i.cycles for i in instructions]
    if not any(weights):
        weights = [int(i.opcode in ("fusion", "dot", "convolution", "custom-call", "call")) for i in instructions]
    return sum(weights[start + 1 : done]) / max(sum(weights), 1)


def _bytes(shape: str) -> int:
    match = _ARRAY.search(shape)
    if not match:
        return 0
    size = _WIDTHS.get(match[1], 4)
    for length in match[2].split(",") if match[2] else ():
        size *= int(length)
    return size


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledStep:
    """A compiled step: XLA's own figures beside ours. ``error`` says why there are none."""

    peak_bytes: int = 0
    host_bytes: int = 0
    copies: tuple[HostCopy, ...] = ()
    error: str = ""

    def hiding_share(self, *, to_host: bool) -> float | None:
        """Return the share of computing that copies in one direction overlap, weighted by bytes; None: no copies."""
        copies = [copy for copy in self.copies if copy.to_host == to_host]
        total = sum(copy.size_bytes for copy in copies)
        return sum(copy.hiding_share * copy.size_bytes for copy in copies) / total if total else None


def read_compiled(stage: Any) -> CompiledStep:
    """Return what a ``jax.stages.Compiled`` says of itself: peak is arguments, results and temporaries."""
    memory = stage.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return CompiledStep(
        peak_bytes=int(peak - memory.alias_size_in_bytes),
        host_bytes=int(getattr(memory, "host_temp_size_in_bytes", 0)),
        copies=tuple(host_copies(stage.as_text())),
    )


def compile_for_tpu(function: str, chip: str, folder: str, policy: str = "", args: str = "") -> CompiledStep:
    """Compile a step under a policy (a file; empty: as written) ahead of time.

    Raises:
        InputError: no such function, chip or policy.
    """
    from jax.experimental import topologies

    from mallocgame.workloads.calls import prepare
    from mallocgame.workloads.checkpointing.policy import load_checkpoint_policy
    from mallocgame.workloads.program_reference import parse_reference, resolve
    from mallocgame.workloads.xla.lower import lower_ready, placed_on
    from mallocgame.workloads.xla.topology import topology_name

    call = resolve(parse_reference(function, args, folder))
    device = next(iter(topologies.get_topology_desc(platform="tpu", topology_name=topology_name(chip)).devices))
    ready = prepare(call, placed_on(device))
    with load_checkpoint_policy(policy).applied() if policy else contextlib.nullcontext():
        lowered = lower_ready(ready, device)
    return read_compiled(lowered.compile())


def main(arguments: list[str]) -> None:
    """Print a ``CompiledStep`` as JSON."""
    try:
        row = asdict(compile_for_tpu(*arguments))
    except InputError as error:
        row = asdict(CompiledStep(error=str(error)))
    except (Exception, SystemExit) as error:  # the user's; the compiler's own: out of memory, say
        row = asdict(CompiledStep(error=f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"))
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    main(sys.argv[1:])
