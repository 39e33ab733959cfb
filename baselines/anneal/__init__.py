"""Simulated annealing over residencies with their addresses and copy times: the strong cheap baseline."""

from mallocgame.baselines.anneal.solve import anneal

__all__ = ["anneal"]
