"""XLA:TPU: the compiler as a function, what it logs, and the program and mapping in that log."""
