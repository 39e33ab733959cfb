"""Solvers that play the game: roll-outs and evolution."""
