"""Where JAX runs."""

import jax


def backend() -> str:
    """Return ``cpu``, ``gpu`` or ``tpu``.

    Raises:
        RuntimeError: ``JAX_PLATFORMS`` names none that is at hand.
    """
    return str(jax.default_backend())


def device_kind() -> str:
    """Return what the first device calls itself."""
    return str(jax.devices()[0].device_kind)
