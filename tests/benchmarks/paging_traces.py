"""Traces for ``tests.benchmarks.paging``: shared, made, or fetched; six kinds.

* two Mooncake traces from shared/data (prompts, 512 tokens a block, milliseconds);
* chats with blocks of 16 tokens and seconds, made by ``chat`` (the format of Qwen-Bailian's traces, which cannot be
  had here);
* the experts that a small mixture of experts asks for while it reads text: a byte-level model that is trained here in
  JAX, on Python's standard library, and then run on files that it has not seen;
* a storage trace and a key-value cache trace that libCacheSim ships: taken out of its source package, which pip fetches
  from PyPI once (``pip download --no-binary``), into the folder named by ``--cache``.
"""

import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mallocgame.baselines.paging import PageTrace, chat, from_ids, read_mooncake, read_trace
from tests.paths import SHARED_DATA

LIBCACHESIM = "libcachesim==0.3.5"
_SHIPPED = {"cloud-physics": "cloudPhysicsIO.oracleGeneral.bin", "twitter": "twitter_cluster52.csv"}
LAYERS, EXPERTS, TOP, WIDTH, CONTEXT = 4, 32, 2, 48, 64


def shipped(name: str, cache: Path) -> PageTrace:
    """Return a trace that libCacheSim's source package holds, fetched once."""
    path = cache / _SHIPPED[name]
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "libcachesim"]
        subprocess.run([*command, "-d", str(cache), LIBCACHESIM], check=True)
        with tarfile.open(next(cache.glob("libcachesim-*.tar.gz"))) as package:
            member = next(m for m in package.getmembers() if m.name.endswith("/data/" + path.name))
            source = package.extractfile(member)
            assert source is not None
            path.write_bytes(source.read())
    return read_trace(path)


def _texts(first: int, count: int) -> bytes:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[first : first + count]
    return b"\n".join(path.read_bytes() for path in files)


def _forward(parameters: Any, tokens: Any) -> tuple[Any, Any, Any]:
    """Return (logits, chosen experts [layers, batch, time, TOP], load-balance loss) of the small model."""
    import jax
    import jax.numpy as jnp

    x = parameters["embed"][tokens] + parameters["position"][: tokens.shape[1]]
    mask = jnp.tril(jnp.ones((tokens.shape[1], tokens.shape[1])))
    chosen, balance = [], 0.0
    for layer in parameters["layers"]:
        y = x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
        q, k, v = (y @ layer[name] for name in ("q", "k", "v"))
        scores = jnp.where(mask > 0, q @ k.swapaxes(1, 2) / WIDTH**0.5, -1e9)
        x = x + jax.nn.softmax(scores) @ v
        y = x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
        gates = jax.nn.softmax(y @ layer["router"])
        top, experts = jax.lax.top_k(gates, TOP)
        weights = (
            jnp.zeros_like(gates)
            .at[jnp.arange(gates.shape[0])[:, None, None], jnp.arange(gates.shape[1])[None, :, None], experts]
            .set(top / top.sum(-1, keepdims=True))
        )
        hidden = jax.nn.gelu(jnp.einsum("btd,edh->bteh", y, layer["up"]))
        x = x + jnp.einsum("bteh,ehd,bte->btd", hidden, layer["down"], weights)
        chosen.append(experts)
        balance = balance + EXPERTS * jnp.sum(jnp.mean(gates, (0, 1)) * jnp.mean(weights > 0, (0, 1)))
    return x @ parameters["embed"].T, jnp.stack(chosen), balance


def _new_parameters(seed: int) -> Any:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        return (rng.standard_normal(shape) * 0.5 / shape[-2] ** 0.5).astype(np.float32)

    layers = [
        {
            "q": normal(WIDTH, WIDTH),
            "k": normal(WIDTH, WIDTH),
            "v": normal(WIDTH, WIDTH),
            "router": normal(WIDTH, EXPERTS),
            "up": normal(EXPERTS, WIDTH, WIDTH),
            "down": normal(EXPERTS, WIDTH, WIDTH),
        }
        for _ in range(LAYERS)
    ]
    return {"embed": normal(256, WIDTH), "position": normal(CONTEXT, WIDTH), "layers": layers}


def moe_routing(*, steps: int = 200, sequences: int = 240, seed: int = 0) -> PageTrace:
    """Train the small model and return the experts that it asks for on unseen text, eight sequences at a time.

    A page is one expert of one layer; at every position each sequence of the batch asks for its experts, by layer.
    """
    import jax
    import jax.numpy as jnp
    import optax

    data = np.frombuffer(_texts(0, 60), np.uint8)
    rng, parameters = np.random.default_rng(seed), _new_parameters(seed)
    optimiser = optax.adam(2e-3)
    state = optimiser.init(parameters)

    def loss(p: Any, batch: Any) -> Any:
        logits, _, balance = _forward(p, batch[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean() + 0.01 * balance

    @jax.jit
    def update(p: Any, s: Any, batch: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(p, batch)
        change, s = optimiser.update(gradient, s)
        return optax.apply_updates(p, change), s, value

    value = 0.0
    for _ in range(steps):
        at = rng.integers(0, data.size - CONTEXT - 1, 8)
        batch = jnp.asarray(data[at[:, None] + np.arange(CONTEXT + 1)], jnp.int32)
        parameters, state, value = update(parameters, state, batch)
    print(f"mixture of experts: {steps} steps, loss {float(value):.2f} nats a byte (uniform: {np.log(256):.2f})")
    unseen = np.frombuffer(_texts(80, 60), np.uint8)[: sequences * CONTEXT].reshape(-1, 8, CONTEXT)
    route = jax.jit(lambda p, tokens: _forward(p, tokens)[1])
    parts = []
    for tokens in unseen:
        experts = np.asarray(route(parameters, jnp.asarray(tokens, jnp.int32)))  # layer, sequence, position, TOP
        ids = experts + (np.arange(LAYERS) * EXPERTS)[:, None, None, None]
        parts.append(ids.transpose(2, 0, 1, 3).ravel())
    return from_ids(np.concatenate(parts).astype(np.int64), name="moe-routing")


def mooncake(name: str) -> PageTrace:
    """Return one of the shared Mooncake traces."""
    return read_mooncake(SHARED_DATA / "mooncake" / f"{name}_trace.jsonl")


def traces(cache: Path) -> dict[str, tuple[Callable[[], PageTrace], str]]:
    """Return each trace's maker and its five cache sizes."""
    usual = "0.25%,1%,4%,10%,20%"
    return {
        "conversation": (lambda: mooncake("conversation"), usual),
        "synthetic": (lambda: mooncake("synthetic"), usual),
        "chat": (lambda: chat(num_sessions=1500, seed=3), usual),
        "moe-routing": (moe_routing, "10%,20%,30%,50%,70%"),
        "cloud-physics": (lambda: shipped("cloud-physics", cache), usual),
        "twitter": (lambda: shipped("twitter", cache)[:300_000], usual),
    }
