"""Which memory layer a memory space of XLA is: ``S(0)`` default, ``S(5)`` the host's, ``S(1)`` VMEM, ``S(3)`` CMEM.

Of the last two it is the one that the hierarchy's fastest layer is: XLA:TPU plans CMEM where a chip has it (v4).
"""

from dataclasses import dataclass
from typing import Self

from mallocgame.hierarchy import Hierarchy

DEFAULT, VMEM, CMEM, HOST = 0, 1, 3, 5


@dataclass(frozen=True, slots=True)
class Spaces:
    """Layers by memory space; spaces that are not in it (semaphores, scalar memory) are not planned."""

    layers: dict[int, int]
    has_host: bool
    fast: int  # the memory space of the fastest layer

    @classmethod
    def of(cls, hierarchy: Hierarchy | None) -> Self:
        """Return the spaces of a hierarchy; without one, those of two layers."""
        has_host = hierarchy is not None and hierarchy.layers[0].name == "host" and hierarchy.num_layers > 2
        last = hierarchy.num_layers - 1 if hierarchy is not None else 1
        fast = CMEM if hierarchy is not None and hierarchy.layers[last].name == "CMEM" else VMEM
        if has_host:
            return cls({HOST: 0, DEFAULT: 1, fast: last}, True, fast)
        return cls({DEFAULT: 0, fast: last}, False, fast)
