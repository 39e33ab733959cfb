"""JAX on the CPU for every test: libtpu is installed for ahead-of-time captures, there is no TPU."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
