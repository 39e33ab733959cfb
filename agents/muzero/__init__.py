"""A Gumbel MuZero agent for mallocGame: learned model, Monte Carlo tree search, self-play and replay.

Importing this package before JAX makes JAX run on the CPU unless ``JAX_PLATFORMS`` says otherwise (``mallocgame train
--device gpu`` does): where libtpu is installed for captures, JAX would else look for a TPU. What it compiles is kept in
the user's cache folder (``JAX_COMPILATION_CACHE_DIR``), which halves the start of a second run on the same program.
"""

import os
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mallocgame" / "jax"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
