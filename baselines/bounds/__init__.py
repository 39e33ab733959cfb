"""Proved lower bounds on the judged time of any valid mapping (docs/bounds.md)."""

from mallocgame.baselines.bounds.bound import Bound, capacity_bound

__all__ = ["Bound", "capacity_bound"]
