"""Placements: one tensor's stay in fast memory with its copies, and the solvers that choose them one by one."""
