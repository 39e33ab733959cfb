"""Mutation testing: the changes, the process that tries them, and those that nobody can see."""
