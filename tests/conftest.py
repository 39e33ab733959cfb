"""JAX on the CPU for every test (libtpu is installed for captures, there is no TPU); signals as Python has them.

Property tests draw the same examples in every run, so that a commit passes or fails by itself and not by luck;
``pytest --hypothesis-profile explore`` draws others each time.
"""

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile("same")
os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(autouse=True)
def signals_fixture() -> Iterator[None]:
    """Undo what ``main`` does to a process that ends after it."""
    hook = sys.unraisablehook
    yield
    if signals := sys.modules.get("mallocgame.cli.signals"):
        signals.restore_signals()
    sys.unraisablehook = hook
