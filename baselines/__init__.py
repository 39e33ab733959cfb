"""Solvers that do not learn, and their neighbours: packing, robust pinning, paging."""
