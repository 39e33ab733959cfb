"""JAX on the CPU for every test (libtpu is installed for captures, there is no TPU); signals as Python has them."""

import os
import sys
from collections.abc import Iterator

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(autouse=True)
def signals_fixture() -> Iterator[None]:
    """Undo what ``main`` does to a process that ends after it."""
    hook = sys.unraisablehook
    yield
    if signals := sys.modules.get("mallocgame.cli.signals"):
        signals.restore_signals()
    sys.unraisablehook = hook
