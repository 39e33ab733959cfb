"""Seeded generators of programs, some with a known optimum."""
