"""A Gumbel MuZero agent for mallocGame: learned model, Monte Carlo tree search, self-play and replay.

Importing this package before JAX makes JAX run on the CPU unless ``JAX_PLATFORMS`` says otherwise (``mallocgame train
--device gpu`` does): where libtpu is installed for captures, JAX would else look for a TPU.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
