"""Static packing (dynamic storage allocation): offsets for buffers with given lifetimes."""

from mallocgame.baselines.packing.incremental import IncrementalPacker
from mallocgame.baselines.packing.problem import Problem
from mallocgame.baselines.packing.solve import SOLVERS, PackResult, SolverName, Status, pack, pack_problem

__all__ = ["SOLVERS", "IncrementalPacker", "PackResult", "Problem", "SolverName", "Status", "pack", "pack_problem"]
