"""Fuzzing of everything that reads a file somebody else wrote: ``python -m tests.fuzz --seconds 600``."""
