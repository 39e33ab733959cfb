"""Where JAX runs."""

from typing import Any

import jax

from mallocgame.errors import InputError

PLATFORMS = {"cpu": "cpu", "gpu": "cuda"}  # by the name on the command line


def choose(device: str | None) -> None:
    """Make JAX run on ``device`` (``cpu`` or ``gpu``); None: as ``JAX_PLATFORMS`` says.

    Raises:
        InputError: no such device, none at hand, or JAX has begun on another one.
    """
    if device not in (*PLATFORMS, None):
        raise InputError(f"--device is {device!r}, expected cpu or gpu")
    config: Any = jax.config
    before = config.jax_platforms
    if device is not None:
        config.update("jax_platforms", PLATFORMS[device])
    try:
        found = jax.default_backend()
    except (RuntimeError, AssertionError):  # what JAX raises where there is none
        found = "nothing"
    if found == "nothing" or device not in (found, None):
        config.update("jax_platforms", before)
        raise InputError(f"--device is {device or before}, but JAX finds {found}")


def device_kind() -> str:
    """Return what the first device calls itself."""
    return str(jax.devices()[0].device_kind)
