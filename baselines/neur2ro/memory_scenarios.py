"""What a compiled program may meet when it runs: larger batches or sequences, and neighbours on the memory's bandwidth.

A scenario (growth, contention) makes every temporary, the bytes read and written of it and the compute of the
instructions that touch it ``growth`` times as large (parameters keep their sizes), and leaves ``1 - contention`` of the
slow memory's and the copy engines' bandwidth. The set is budgeted: growth and contention are not both at their worst,
(growth - 1) / (most growth - 1) + contention / most contention <= 1.
"""

import itertools
import math
import re
from dataclasses import dataclass, replace

import numpy as np

from mallocgame.errors import InputError
from mallocgame.hierarchy import Hierarchy
from mallocgame.program import Instruction, Program, Tensor

GRID = (0.0, 0.5, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryScenario:
    """One case; the compiled program's own is growth 1, contention 0."""

    growth: float = 1.0
    contention: float = 0.0

    @property
    def name(self) -> str:
        """Return it in a few characters for tables."""
        return f"x{self.growth:.3g}, -{100 * self.contention:.3g} %"


NOMINAL = MemoryScenario()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUncertainty:
    """The set of scenarios.

    Raises:
        InputError: growth below 1 or contention outside [0, 1).
    """

    growth: float = 1.5  # at most
    contention: float = 0.5  # at most
    grows: str = ""  # regular expression of parameters that grow too (caches); "" for none

    def __post_init__(self) -> None:
        if not (math.isfinite(self.growth) and self.growth >= 1.0 and 0.0 <= self.contention < 1.0):
            found = f"growth is {self.growth} and contention {self.contention}"
            raise InputError(f"{found}; expected growth >= 1 and contention in [0, 1)")
        try:
            re.compile(self.grows)
        except re.error as error:
            raise InputError(f"{self.grows!r} is no regular expression ({error})") from None

    def at(self, growth_share: float, contention_share: float) -> MemoryScenario:
        """Return the scenario at shares of the largest growth and contention."""
        return MemoryScenario(
            growth=1.0 + growth_share * (self.growth - 1.0), contention=contention_share * self.contention
        )

    def grid(self) -> tuple[MemoryScenario, ...]:
        """Return the scenarios that plans are made for, the nominal one first."""
        pairs = [pair for pair in itertools.product(GRID, GRID) if sum(pair) <= 1.0]
        return tuple(dict.fromkeys(self.at(*pair) for pair in pairs))

    def sample(self, rng: np.random.Generator, count: int) -> tuple[MemoryScenario, ...]:
        """Return scenarios drawn uniformly from the set."""
        pairs = rng.random((count, 2))
        pairs = np.where(pairs.sum(axis=1, keepdims=True) > 1.0, 1.0 - pairs, pairs)
        return tuple(self.at(*pair) for pair in pairs.tolist())

    def apply(self, program: Program, hierarchy: Hierarchy, scenario: MemoryScenario) -> tuple[Program, Hierarchy]:
        """Return what the scenario makes of the program and the hierarchy."""
        slow = (program, hierarchy) if scenario.growth == 1.0 else (self._grown(program, scenario.growth), hierarchy)
        return slow[0], _contended(hierarchy, scenario.contention)

    def _grown(self, program: Program, growth: float) -> Program:
        growing = [self._grows(tensor) for tensor in program.tensors]
        steps = {use.step for tensor, yes in zip(program.tensors, growing, strict=True) if yes for use in tensor.uses}
        return replace(
            program,
            instructions=tuple(
                _slower(instruction, growth) if step in steps else instruction
                for step, instruction in enumerate(program.instructions)
            ),
            tensors=tuple(
                _larger(tensor, growth) if yes else tensor for tensor, yes in zip(program.tensors, growing, strict=True)
            ),
        )

    def _grows(self, tensor: Tensor) -> bool:
        return not tensor.is_parameter or bool(self.grows and re.search(self.grows, tensor.name))


def _larger(tensor: Tensor, growth: float) -> Tensor:
    uses = tuple(replace(use, bytes=math.ceil(use.bytes * growth)) for use in tensor.uses)
    return replace(tensor, size_bytes=math.ceil(tensor.size_bytes * growth), uses=uses)


def _slower(instruction: Instruction, growth: float) -> Instruction:
    return replace(instruction, compute_seconds=instruction.compute_seconds * growth)


def _contended(hierarchy: Hierarchy, contention: float) -> Hierarchy:
    """Layer 0 and every copy engine lose the share; fast memory is the core's own."""
    if contention == 0.0:
        return hierarchy
    left = 1.0 - contention
    home = replace(hierarchy.layers[0], bytes_per_second=hierarchy.layers[0].bytes_per_second * left)
    links = tuple(replace(link, bytes_per_second=link.bytes_per_second * left) for link in hierarchy.links)
    return replace(hierarchy, layers=(home, *hierarchy.layers[1:]), links=links)
