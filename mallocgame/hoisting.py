"""A rewrite for programs whose loops read the same weights in every iteration.

XLA:TPU copies a program *parameter* into its fast memory again in every iteration. Of a *value* of the program it
makes one copy before the loop, where it fits. ``hoist`` makes one of the other; a plain copy would be optimised away.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

Tree = TypeVar("Tree")


def hoist(tree: Tree, *, force: bool = False) -> Tree:
    """Return a tree of arrays with the same values, which XLA:TPU may keep in fast memory through a loop.

    Call it inside of the jitted function, on the weights, before the loop that reads them. Every array keeps its bits,
    NaNs included: they are combined by exclusive or with a zero that the compiler cannot see through. Where the
    program is not lowered for a TPU, and for leaves that are not arrays of 1, 2 or 4 bytes an element, the argument
    is returned. Derivatives are those of the identity.

    Args:
        tree: a pytree of arrays.
        force: rewrite on every backend; for tests.

    >>> import jax.numpy as jnp
    >>> hoist({"w": jnp.ones((2, 2), jnp.bfloat16)})["w"].dtype.name
    'bfloat16'
    """
    import jax

    rewrite = _differentiable(force)
    result: Tree = jax.tree.map(lambda leaf: rewrite(leaf) if _can_be_rewritten(leaf) else leaf, tree)
    return result


@cache
def _differentiable(force: bool) -> Callable[[Any], Any]:
    """Return the rewrite of one array as the identity that it is; through its integers no derivative would flow."""
    import jax

    lax: Any = jax.lax

    def forward(leaf: Any) -> Any:
        return _rewritten(leaf) if force else lax.platform_dependent(leaf, tpu=_rewritten, default=lambda same: same)

    identity: Any = jax.custom_jvp(forward)
    identity.defjvp(lambda primals, tangents: (identity(*primals), *tangents))
    return lambda leaf: identity(leaf)


def _rewritten(leaf: Any) -> Any:
    import jax
    import jax.numpy as jnp

    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    lax: Any = jax.lax
    zero = lax.optimization_barrier(jnp.zeros((), unsigned))
    return lax.bitcast_convert_type(lax.bitcast_convert_type(leaf, unsigned) ^ zero, leaf.dtype)


def _can_be_rewritten(leaf: Any) -> bool:
    import jax.numpy as jnp

    dtype = getattr(leaf, "dtype", None)
    if dtype is None or dtype == jnp.bool_ or not hasattr(leaf, "shape"):
        return False
    is_number = jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    return bool(is_number and dtype.itemsize in (1, 2, 4) and dtype.name not in ("int4", "uint4", "int2", "uint2"))
