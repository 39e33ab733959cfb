"""Static packing (dynamic storage allocation): offsets for buffers with given lifetimes.

The names are loaded when they are asked for: value types, the CSV and the validator need no compiler.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mallocgame.baselines.packing.incremental import IncrementalPacker
    from mallocgame.baselines.packing.problem import PackingProblem
    from mallocgame.baselines.packing.result import SOLVERS, PackResult, SolverName, Status
    from mallocgame.baselines.packing.solve import pack, pack_problem

__all__ = [
    "SOLVERS",
    "IncrementalPacker",
    "PackResult",
    "PackingProblem",
    "SolverName",
    "Status",
    "pack",
    "pack_problem",
]

_HOMES = {"IncrementalPacker": "incremental", "PackingProblem": "problem", "pack": "solve", "pack_problem": "solve"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'result')}"), name)
