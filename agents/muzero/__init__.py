"""A Gumbel MuZero agent for mallocGame: learned model, Monte Carlo tree search, self-play and replay.

Importing this package before JAX makes JAX run on the CPU unless ``JAX_PLATFORMS`` says otherwise (``mallocgame train
--device gpu`` does): where libtpu is installed for captures, JAX would else look for a TPU. What it compiles is kept in
the user's cache folder (or ``JAX_COMPILATION_CACHE_DIR``): the next run of any program begins ten seconds earlier. An
entry that a full disk or a kill left damaged is compiled anew, and nothing is said of it.
"""

import os
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mallocgame" / "jax"

_config: Any = jax.config
if _config.jax_compilation_cache_dir is None:  # read from the environment when JAX was imported
    _config.update("jax_compilation_cache_dir", str(CACHE))
    _config.update("jax_persistent_cache_min_compile_time_secs", 0.2)  # the default, 1, leaves out the smaller ones
warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry", UserWarning)
