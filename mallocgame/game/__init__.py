"""mallocGame: the memory-mapping problem as a single-player game, behind Gymnasium."""
