"""The rewrite keeps values; on a backend without fast memory it is not there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mallocgame

DTYPES = ("bfloat16", "float16", "float32", "float8_e4m3fn", "int8", "uint8", "int16", "int32", "uint32")


@pytest.mark.parametrize("name", DTYPES)
def test_forced_rewrite_keeps_every_bit_pattern(name: str) -> None:
    dtype = jnp.dtype(name)
    bits = {1: np.uint8, 2: np.uint16, 4: np.uint32}[dtype.itemsize]
    if dtype.itemsize <= 2:
        patterns = np.arange(2 ** (8 * dtype.itemsize), dtype=np.uint32).astype(bits)
    else:
        patterns = np.random.default_rng(0).integers(0, 2**32, size=100_000, dtype=np.uint32)
        patterns = np.concatenate([patterns, np.array([0x7F800001, 0xFFC00000, 1, 0x80000000], dtype=np.uint32)])
    values = patterns.view(dtype)
    got = np.asarray(jax.jit(lambda w: mallocgame.hoist(w, force=True))(values))
    assert got.dtype == dtype
    number = ~np.isnan(values.astype(np.float32)) if jnp.issubdtype(dtype, jnp.floating) else np.ones(len(values), bool)
    np.testing.assert_array_equal(got.view(bits)[number], patterns[number])
    if jnp.issubdtype(dtype, jnp.floating):
        assert np.isnan(got.astype(np.float32)[~number]).all()


def test_trees_keep_their_shape_and_other_leaves() -> None:
    tree = {"w": jnp.ones((2, 3), jnp.bfloat16), "flag": jnp.array([True]), "n": 3, "none": None}
    got = mallocgame.hoist(tree, force=True)
    assert got["n"] == 3
    assert got["flag"] is tree["flag"]
    assert got["none"] is None
    assert got["w"].shape == (2, 3)


def test_it_is_there_when_forced_and_not_otherwise_on_cpu() -> None:
    weight = jnp.ones((4, 4), jnp.bfloat16)
    forced = jax.jit(lambda w: mallocgame.hoist(w, force=True)).lower(weight).as_text()
    plain = jax.jit(mallocgame.hoist).lower(weight).as_text()
    assert "xor" in forced
    assert "xor" not in plain


@pytest.mark.parametrize("force", [False, True])
def test_derivatives_are_those_of_the_identity(force: bool) -> None:
    def energy(tree: dict[str, jax.Array]) -> jax.Array:
        kept = mallocgame.hoist(tree, force=force)
        return jnp.sum(kept["w"] ** 3)

    weights = {"w": jnp.arange(3.0)}
    np.testing.assert_array_equal(jax.grad(energy)(weights)["w"], 3 * np.arange(3.0) ** 2)
    np.testing.assert_array_equal(jax.jit(jax.hessian(energy))(weights)["w"]["w"], np.diag(6 * np.arange(3.0)))
    np.testing.assert_array_equal(
        jax.vmap(lambda w: mallocgame.hoist(w, force=force) * 2)(jnp.ones((4, 2))), np.full((4, 2), 2.0)
    )
