"""A Gumbel MuZero agent for mallocGame: learned model, Monte Carlo tree search, self-play and replay."""
