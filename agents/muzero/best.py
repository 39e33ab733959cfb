"""The best mapping of each program of a run: judged on the whole program, and never made worse."""

from collections.abc import Mapping as Arrays
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt

from mallocgame.agents.muzero.archive import mapping_arrays, mapping_from
from mallocgame.hierarchy import Hierarchy
from mallocgame.judge.simulation import simulate
from mallocgame.judge.validation import validate
from mallocgame.mapping import Mapping
from mallocgame.program import Program


@dataclass(slots=True, kw_only=True)
class Best:
    """The best mapping met of one program; ``seconds`` is judged on the whole program, not the focused one."""

    mapping: Mapping
    seconds: float
    home_seconds: float


class Bests(dict[str, Best]):
    """By name of program."""

    def __init__(self, pairs: Sequence[tuple[Program, Hierarchy]]) -> None:
        """Begin with everything in layer 0."""
        self._pairs = {program.name: (program, hierarchy) for program, hierarchy in pairs}
        for name, (program, hierarchy) in self._pairs.items():
            home = simulate(program, hierarchy, Mapping()).total_seconds
            self[name] = Best(mapping=Mapping(), seconds=home, home_seconds=home)

    def offer(self, name: str, mapping: Mapping | None, seconds: float = 0.0) -> bool:
        """Keep a mapping that is faster; return whether it is. The validator and the simulator say so, not the rules.

        Args:
            seconds: what the rules say.
        """
        if mapping is None or seconds >= self[name].seconds or validate(*self._pairs[name], mapping):
            return False
        judged = simulate(*self._pairs[name], mapping).total_seconds
        if judged >= self[name].seconds:
            return False
        self[name] = replace(self[name], mapping=mapping, seconds=judged)
        return True

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return all mappings as tables, in the order of the programs."""
        return {
            f"{index}.{name}": table
            for index, best in enumerate(self.values())
            for name, table in mapping_arrays(best.mapping).items()
        }

    def restore(self, arrays: Arrays[str, npt.NDArray[Any]]) -> None:
        """Offer the mappings of ``arrays``.

        Raises:
            KeyError, ValueError: they are not the tables of these programs.
        """
        for index, name in enumerate(self):
            self.offer(name, mapping_from(arrays[f"{index}.residencies"], arrays[f"{index}.transfers"]))
