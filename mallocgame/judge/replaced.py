"""Copies of the program that transfers do instead: the instruction then takes no time.

A compiler that finds the result of a plain copy wanted in fast memory only does not make it in slow memory first: it
copies from the source, beside other work (XLA: "sync copy replacement"). The mapping says so by what it does: the
result is defined at home, transfers take it from there to a faster layer, and nothing else ever looks at it at home.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mallocgame.mapping import HOME, Mapping
from mallocgame.program import Program, UseKind

I64 = npt.NDArray[np.int64]


def replaced_copies(program: Program, mapping: Mapping, serving: I64) -> list[int]:
    """Return the replaceable steps that transfers of a valid mapping replace.

    Args:
        program: with ``Instruction.is_replaceable``.
        mapping: valid.
        serving: int64[U], the layer that serves each use, see ``serving_layers``.
    """
    found = []
    for step, pair in program.replaceable_copies.items():
        if pair is not None and _Replacing(program, mapping, serving, step, pair).is_replaced():
            found.append(step)
    return found


def with_free_copies(program: Program) -> Program:
    """Return the program with its replaceable copies costing nothing: no mapping of ``program`` can beat it there."""
    copies = program.replaceable_copies
    if not copies:
        return program
    instructions = tuple(
        replace(i, compute_seconds=0.0, fixed_bytes=(), is_replaceable=False) if step in copies else i
        for step, i in enumerate(program.instructions)
    )
    tensors = tuple(
        replace(tensor, uses=tuple(replace(use, bytes=0) if use.step in copies else use for use in tensor.uses))
        for tensor in program.tensors
    )
    return replace(program, instructions=instructions, tensors=tensors)


class _Replacing:
    """One copy. Where loops and branches leave a doubt, it counts as not replaced."""

    def __init__(self, program: Program, mapping: Mapping, serving: I64, step: int, pair: tuple[int, int]) -> None:
        self.program, self.serving, self.step, self.pair = program, serving, step, pair
        self.source, self.result = (int(program.uses.tensor[use]) for use in pair)
        own = mapping.transfer_table[mapping.transfer_table[:, 0] == self.result]
        self.inward = own[own[:, 1] == HOME]
        back = own[own[:, 2] == HOME]
        sure = [row for row in back if row[3] >= step and self._runs_after(int(row[3]) + 1)]
        self.home_again = min((int(row[4]) for row in sure), default=program.num_steps + 1)  # from that boundary on
        changed = mapping.transfer_table[mapping.transfer_table[:, 0] == self.source]
        self.source_changes = [(int(row[3]) + 1, int(row[4])) for row in changed[changed[:, 2] == HOME]]

    def is_replaced(self) -> bool:
        """Whether transfers of the result, and nothing else, look at what the copy would leave at home."""
        read, defined = self.pair
        if self.serving[defined] or not len(self.inward) or (self.serving[read] and not self._is_constant()):
            return False
        if self.program.tensors[self.result].is_output and self.home_again > self.program.num_steps:
            return False
        return not self._is_read_at_home() and self._source_lasts()

    def _is_constant(self) -> bool:
        """Whether the source is at home all the time."""
        tensor = self.program.tensors[self.source]
        return tensor.is_parameter and all(use.kind == UseKind.READ for use in tensor.uses)

    def _is_read_at_home(self) -> bool:
        """Whether anything but a transfer looks at the result at home before it is written there once more."""
        uses = self.program.uses
        span = slice(int(uses.first[self.result]), int(uses.first[self.result + 1]))
        steps = uses.step[span][self.serving[span] == 0].tolist()
        return any(
            step < self.home_again if step > self.step else step < self.step and self._share_a_loop(step)
            for step in steps
        )

    def _source_lasts(self) -> bool:
        """Whether the source at home stays as it is until every transfer of the result is done."""
        last = -1
        for issue, due in self.inward[:, 3:5].tolist():
            if issue < self.step:
                if self._share_a_loop(issue + 1):
                    return False
            elif issue + 1 < self.home_again:
                around = [x.end_step for x in self.program.loops if x.start_step < due and self.step < x.start_step]
                last = max([last, due, *(end for end in around if issue + 1 < end)])
        if last < 0:
            return False
        uses = self.program.uses
        span = slice(int(uses.first[self.source]), int(uses.first[self.source + 1]))
        written = uses.step[span][uses.kind[span] != UseKind.READ]
        is_written = bool(((written > self.step) & (written < last)).any())
        return not is_written and not any(start < last and self.step < end for start, end in self.source_changes)

    def _share_a_loop(self, step: int) -> bool:
        return any(
            x.start_step <= min(step, self.step) and max(step, self.step) < x.end_step for x in self.program.loops
        )

    def _runs_after(self, boundary: int) -> bool:
        """Whether what happens at ``boundary`` does so after each run of the copy: in no branch of its own."""
        for conditional in self.program.conditionals:
            branch = conditional.branch_at(boundary)
            if branch is not None and branch != conditional.branch_at(self.step + 1):
                start, end, _ = list(conditional.branches())[branch]
                if not start <= self.step < end:
                    return False
        return True
