"""Idioms of one-chip TPU code in plain JAX: scans, loops of unknown length, branches, callbacks, int8, optimisers."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

BF16 = jnp.bfloat16
F32 = jnp.float32
Tree = Any


def shape(*sizes: int, dtype: Any = BF16) -> Any:
    """Return an array's description."""
    struct: Any = jax.ShapeDtypeStruct
    return struct(sizes, dtype)


def with_args(*arguments: Any) -> Any:
    """Return a decorator that gives a program its arguments."""

    def give(function: Any) -> Any:
        function.example_args = arguments
        return function

    return give


def _norm(x: Array, scale: Array) -> Array:
    y = x.astype(F32)
    return (y * lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6)).astype(x.dtype) * scale


def _layer_shapes(d: int, f: int, *lead: int, dtype: Any = BF16) -> Tree:
    of = partial(shape, dtype=dtype)
    square = {name: of(*lead, d, d) for name in ("q", "k", "v", "o")}
    wide = {"gate": of(*lead, d, f), "up": of(*lead, d, f), "down": of(*lead, f, d)}
    return {**square, **wide, "norm1": of(*lead, d), "norm2": of(*lead, d)}


def _block(x: Array, w: Tree, heads: int = 8) -> Array:
    b, t, d = x.shape
    h = _norm(x, w["norm1"])
    q, k, v = (jnp.reshape(h @ w[name], (b, t, heads, d // heads)) for name in ("q", "k", "v"))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(F32) / (d // heads) ** 0.5
    scores = jnp.where(jnp.tril(jnp.ones((t, t), bool)), scores, -1e9)
    weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
    x = x + jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(b, t, d) @ w["o"]
    h = _norm(x, w["norm2"])
    return x + (jax.nn.silu(h @ w["gate"]) * (h @ w["up"])) @ w["down"]


def _scan_loss(stacked: Tree, x: Array, policy: Any = None) -> Array:
    layer = jax.checkpoint(lambda x, w: (_block(x, w), None), policy=policy)
    y, _ = lax.scan(layer, x, stacked)
    return jnp.mean(y.astype(F32) ** 2)


@with_args(_layer_shapes(1024, 4096, 8), shape(4, 512, 1024))
@partial(jax.jit, donate_argnums=0)
def scan_remat_training(stacked: Tree, x: Array) -> Any:
    """Scan over layers with rematerialisation: one compiled layer, eight sets of weights."""
    value, grads = jax.value_and_grad(_scan_loss)(stacked, x)
    return jax.tree.map(lambda w, g: w - 1e-3 * g, stacked, grads), value


@with_args(_layer_shapes(1024, 4096, 4), shape(4, 512, 1024))
@partial(jax.jit, donate_argnums=0)
def offloaded_activations(stacked: Tree, x: Array) -> Any:
    """Training whose activations wait in the host's memory between forward and backward pass."""
    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["layer"],
        offload_src="device",
        offload_dst="pinned_host",
    )

    def loss(stacked: Tree, x: Array) -> Array:
        def layer(x: Array, w: Tree) -> Any:
            return _block(checkpoint_name(x, "layer"), w), None

        y, _ = lax.scan(jax.checkpoint(layer, policy=policy), x, stacked)
        return jnp.mean(y.astype(F32) ** 2)

    value, grads = jax.value_and_grad(loss)(stacked, x)
    return jax.tree.map(lambda w, g: w - 1e-3 * g, stacked, grads), value


def _token(w: Tree, cache: Array, x: Array, at: Array) -> tuple[Array, Array]:
    """One layer on one token; cache is (2, B, H, T, D)."""
    _, b, heads, t, d = cache.shape
    h = _norm(x, w["norm1"])
    q, k, v = (jnp.reshape(h @ w[name], (b, heads, d)) for name in ("q", "k", "v"))
    cache = lax.dynamic_update_slice(cache, jnp.stack([k, v])[:, :, :, None, :], (0, 0, 0, at, 0))
    scores = jnp.einsum("bhd,bhtd->bht", q, cache[0]).astype(F32) / d**0.5
    weights = jax.nn.softmax(jnp.where(jnp.arange(t) <= at, scores, -1e9), axis=-1).astype(x.dtype)
    x = x + jnp.einsum("bht,bhtd->bhd", weights, cache[1]).reshape(b, heads * d) @ w["o"]
    h = _norm(x, w["norm2"])
    return x + (jax.nn.silu(h @ w["gate"]) * (h @ w["up"])) @ w["down"], cache


_DECODER = ([_layer_shapes(1024, 4096)] * 2, [shape(2, 8, 8, 512, 128)] * 2, shape(32000, 1024))


@with_args(*_DECODER, shape(8, dtype=jnp.int32), shape(dtype=jnp.int32))
@partial(jax.jit, donate_argnums=1)
def decode_until_end(layers: list[Tree], caches: list[Array], table: Array, token: Array, limit: Array) -> Any:
    """Greedy decoding until every sequence has said "end" or the limit is reached."""

    def step(state: Any) -> Any:
        caches, token, at, done = state
        x, new = table[token], []
        for w, cache in zip(layers, caches, strict=True):
            x, cache = _token(w, cache, x, at)
            new.append(cache)
        token = jnp.argmax(x @ table.T, axis=-1).astype(jnp.int32)
        return new, jnp.where(done, 0, token), at + 1, done | (token == 2)

    start = (caches, token, jnp.int32(0), jnp.zeros(token.shape, bool))
    return lax.while_loop(lambda s: (s[2] < limit) & ~jnp.all(s[3]), step, start)[:3]


@with_args(*_DECODER, shape(8, 4, dtype=jnp.int32), shape(dtype=jnp.int32))
@partial(jax.jit, donate_argnums=1)
def speculative_verify(layers: list[Tree], caches: list[Array], table: Array, draft: Array, at: Array) -> Any:
    """Speculative decoding: check four drafted tokens at once, keep the longest agreeing prefix."""
    b, g = draft.shape
    x, new = table[draft], []
    for w, cache in zip(layers, caches, strict=True):
        h = _norm(x, w["norm1"])
        q, k, v = (jnp.reshape(h @ w[name], (b, g, 8, 128)).swapaxes(1, 2) for name in ("q", "k", "v"))
        cache = lax.dynamic_update_slice(cache, jnp.stack([k, v]), (0, 0, 0, at, 0))
        seen = jnp.arange(512)[None, :] <= at + jnp.arange(g)[:, None]
        scores = jnp.einsum("bhgd,bhtd->bhgt", q, cache[0]).astype(F32) / 128**0.5
        weights = jax.nn.softmax(jnp.where(seen, scores, -1e9), axis=-1).astype(x.dtype)
        mixed = jnp.einsum("bhgt,bhtd->bhgd", weights, cache[1]).swapaxes(1, 2).reshape(b, g, 1024)
        x = x + mixed @ w["o"]
        h = _norm(x, w["norm2"])
        x = x + (jax.nn.silu(h @ w["gate"]) * (h @ w["up"])) @ w["down"]
        new.append(cache)
    own = jnp.argmax(x @ table.T, axis=-1).astype(jnp.int32)
    agreed = jnp.cumprod((own[:, :-1] == draft[:, 1:]).astype(jnp.int32), axis=1).sum(1)
    return new, own, agreed


@with_args(*_DECODER, shape(8, dtype=jnp.int32), shape(dtype=jnp.int32), shape(2, dtype=jnp.uint32))
@partial(jax.jit, donate_argnums=1)
def sample_top_p(layers: list[Tree], caches: list[Array], table: Array, token: Array, at: Array, key: Array) -> Any:
    """One decoding step with nucleus sampling: a sort over the vocabulary."""
    x, new = table[token], []
    for w, cache in zip(layers, caches, strict=True):
        x, cache = _token(w, cache, x, at)
        new.append(cache)
    logits = (x @ table.T).astype(F32)
    order = jnp.argsort(-logits, axis=-1)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    kept = jnp.cumsum(jax.nn.softmax(ranked, axis=-1), axis=-1) < 0.9
    chosen = jax.random.categorical(key, jnp.where(kept, ranked, -1e9), axis=-1)
    return new, jnp.take_along_axis(order, chosen[:, None], axis=-1)


@with_args(
    shape(32000, 512),
    _layer_shapes(512, 2048),
    shape(4, 16, 512),
    shape(4, 16, dtype=jnp.int32),
    shape(4, 4, dtype=F32),
)
@jax.jit
def beam_search_step(table: Array, w: Tree, x: Array, tokens: Array, scores: Array) -> Any:
    """One step of beam search: top-k over beams and vocabulary, reordered states."""
    del tokens
    y = _block(x, w)[:, -4:]
    total = scores[:, :, None] + jax.nn.log_softmax((y @ table.T).astype(F32), axis=-1)
    best, place = lax.top_k(total.reshape(4, -1), 4)
    beams, words = place // 32000, place % 32000
    return best, jnp.take_along_axis(y, beams[:, :, None], axis=1), words


@with_args(
    shape(512, 4096, dtype=jnp.int8),
    shape(4096, 16384, dtype=jnp.int8),
    shape(16384, 4096, dtype=jnp.int8),
    shape(16384, dtype=F32),
    shape(4096, dtype=F32),
)
@jax.jit
def int8_mlp(x: Array, up: Array, down: Array, up_scale: Array, down_scale: Array) -> Array:
    """Quantised MLP: int8 products in int32, scales by column, activations quantised again."""
    h = jnp.matmul(x, up, preferred_element_type=jnp.int32).astype(F32) * up_scale
    h = jax.nn.relu(h)
    scale = jnp.max(jnp.abs(h), axis=-1, keepdims=True) / 127.0 + 1e-9
    quantised = jnp.round(h / scale).astype(jnp.int8)
    return jnp.matmul(quantised, down, preferred_element_type=jnp.int32).astype(F32) * scale * down_scale


def _mlp_shapes(dtype: Any = F32) -> list[Any]:
    return [shape(2048, 2048, dtype=dtype) for _ in range(4)]


def _mlp_loss(weights: list[Array], x: Array) -> Array:
    y = x
    for w in weights:
        y = jax.nn.relu(y @ w.astype(BF16))
    return jnp.mean(y.astype(F32) ** 2)


def _state_of(optimiser: optax.GradientTransformation) -> Any:
    return jax.eval_shape(optimiser.init, _mlp_shapes())


_ADAMW = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
_ADAFACTOR = optax.adafactor(1e-3)
_ACCUMULATED = optax.MultiSteps(optax.adam(1e-3), 4)


def _step(optimiser: Any, weights: Any, state: Any, x: Array) -> Any:
    value, grads = jax.value_and_grad(_mlp_loss)(weights, x)
    updates, state = optimiser.update(grads, state, weights)
    return optax.apply_updates(weights, updates), state, value


@with_args(_mlp_shapes(), _state_of(_ADAMW), shape(1024, 2048))
@partial(jax.jit, donate_argnums=(0, 1))
def optax_adamw(weights: list[Array], state: Any, x: Array) -> Any:
    """AdamW with clipping by the global norm."""
    return _step(_ADAMW, weights, state, x)


@with_args(_mlp_shapes(), _state_of(_ADAFACTOR), shape(1024, 2048))
@partial(jax.jit, donate_argnums=(0, 1))
def optax_adafactor(weights: list[Array], state: Any, x: Array) -> Any:
    """Adafactor: factored second moments."""
    return _step(_ADAFACTOR, weights, state, x)


@with_args(_mlp_shapes(), _state_of(_ACCUMULATED), shape(1024, 2048))
@partial(jax.jit, donate_argnums=(0, 1))
def optax_multi_steps(weights: list[Array], state: Any, x: Array) -> Any:
    """Gradients accumulated over four steps: the optimiser runs in one branch of a conditional."""
    return _step(_ACCUMULATED, weights, state, x)


@with_args(shape(8, 2048, 1024), shape(1024, 16, dtype=F32), shape(1024, 32), shape(1024, 1024))
@jax.jit
def selective_scan(x: Array, a: Array, b: Array, step: Array) -> Array:
    """A state-space layer (Mamba) by associative scan."""
    delta = jax.nn.softplus((x @ step).astype(F32))
    decay = jnp.exp(-delta[..., None] * jnp.exp(a))
    given, taken = jnp.split((x @ b).astype(F32), 2, axis=-1)
    driven = (delta * x.astype(F32))[..., None] * given[:, :, None, :]
    join = lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1])  # noqa: E731
    _, states = lax.associative_scan(join, (decay, driven), axis=1)
    return jnp.einsum("btdn,btn->btd", states, taken).astype(x.dtype)


@with_args(shape(16, 1024, 512), shape(512, 512), shape(512, 512), shape(512, 512))
@jax.jit
def linear_attention(x: Array, wq: Array, wk: Array, wv: Array) -> Array:
    """A recurrent layer (linear attention) by scan over time, with a matrix state."""
    q, k, v = (jnp.swapaxes(x @ w, 0, 1).reshape(1024, 16, 4, 128) for w in (wq, wk, wv))

    def step(state: Array, at: Any) -> Any:
        q, k, v = at
        state = 0.99 * state + k[..., :, None] * v[..., None, :]
        return state, jnp.einsum("bhk,bhkv->bhv", q, state)

    _, out = lax.scan(step, jnp.zeros((16, 4, 128, 128), F32), (q, k, v))
    return out


@with_args(shape(1024, 64, dtype=F32), shape(1024, dtype=F32), shape(256, 64, dtype=F32))
@jax.jit
def gaussian_process(x: Array, y: Array, new: Array) -> Any:
    """Exact Gaussian-process regression: Cholesky and two triangular solves."""
    kernel = lambda a, b: jnp.exp(-0.5 * ((a[:, None] - b[None]) ** 2).sum(-1))  # noqa: E731
    factor = jnp.linalg.cholesky(kernel(x, x) + 0.1 * jnp.eye(1024))
    alpha = jax.scipy.linalg.cho_solve((factor, True), y)
    cross = kernel(new, x)
    left = jax.scipy.linalg.solve_triangular(factor, cross.T, lower=True)
    return cross @ alpha, 1.1 - (left**2).sum(0)


@with_args(shape(2048, 256, dtype=F32), shape(256, dtype=F32), shape(2048, dtype=F32))
@jax.jit
def newton_logistic(x: Array, w: Array, y: Array) -> Array:
    """Logistic regression by Newton's method until the step is small."""

    def step(state: Any) -> Any:
        w, _, count = state
        p = jax.nn.sigmoid(x @ w)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-3 * jnp.eye(256)
        move = jnp.linalg.solve(hessian, x.T @ (p - y))
        return w - move, jnp.abs(move).max(), count + 1

    return lax.while_loop(lambda s: (s[1] > 1e-4) & (s[2] < 50), step, (w, jnp.float32(1.0), 0))[0]


@with_args(shape(512, 1024, dtype=F32), shape(1024, 1024, dtype=F32))
@jax.jit
def adaptive_ode(x: Array, w: Array) -> Array:
    """A neural ODE with step-size control: a while loop with a branch inside."""
    flow = lambda x: jnp.tanh(x @ w)  # noqa: E731

    def step(state: Any) -> Any:
        x, t, h = state
        k1 = flow(x)
        k2 = flow(x + h * k1)
        error = jnp.abs(h * (k2 - k1)).max()
        x, t = lax.cond(error < 1e-2, lambda: (x + 0.5 * h * (k1 + k2), t + h), lambda: (x, t))
        return x, t, h * jnp.clip(jnp.sqrt(1e-2 / (error + 1e-9)), 0.5, 2.0)

    return lax.while_loop(lambda s: s[1] < 1.0, step, (x, jnp.float32(0.0), jnp.float32(0.1)))[0]


@with_args(shape(64, 256, 256, 16, dtype=F32), shape(16, 16, 32, 32, dtype=F32))
@jax.jit
def fourier_operator(x: Array, weights: Array) -> Array:
    """A Fourier neural operator layer: FFT, a product of low modes, inverse FFT."""
    modes = jnp.fft.rfft2(x, axes=(1, 2))[:, :32, :32]
    mixed = jnp.einsum("bxyi,ioxy->bxyo", modes, weights.astype(jnp.complex64))
    whole = jnp.zeros((64, 256, 129, 16), jnp.complex64).at[:, :32, :32].set(mixed)
    return jax.nn.gelu(jnp.fft.irfft2(whole, axes=(1, 2)))


@with_args(shape(dtype=jnp.int32), _layer_shapes(1024, 4096), _layer_shapes(1024, 2048), shape(8, 256, 1024))
@jax.jit
def switched_experts(which: Array, large: Tree, small: Tree, x: Array) -> Array:
    """One of three networks, by a switch."""
    return lax.switch(which, [lambda x: _block(x, large), lambda x: _block(x, small), lambda x: x], x)


@with_args([_layer_shapes(1024, 4096)] * 4, shape(1024, 1), shape(8, 256, 1024))
@jax.jit
def early_exit(layers: list[Tree], judge: Array, x: Array) -> Array:
    """Each layer runs only while a classifier is unsure."""
    for w in layers:
        unsure = jnp.mean((x @ judge).astype(F32)) > 0.5
        x = lax.cond(unsure, lambda x, w: _block(x, w), lambda x, w: x, x, w)
    return x


@with_args(_mlp_shapes(), shape(1024, 2048))
@partial(jax.jit, donate_argnums=0)
def debug_print_training(weights: list[Array], x: Array) -> Any:
    """A training step that prints its loss."""
    value, grads = jax.value_and_grad(_mlp_loss)(weights, x)
    jax.debug.print("loss {}", value)
    return jax.tree.map(lambda w, g: w - 1e-3 * g, weights, grads)


def _host(x: Any) -> Any:
    return x


@with_args(_mlp_shapes(), shape(1024, 2048))
@jax.jit
def pure_callback_layer(weights: list[Array], x: Array) -> Any:
    """A layer whose activation runs on the host."""
    y = x @ weights[0].astype(BF16)
    y = jax.pure_callback(_host, jax.ShapeDtypeStruct(y.shape, y.dtype), y)
    return y @ weights[1].astype(BF16)


@with_args(shape(256, 4, 84, 84, dtype=F32), shape(256, 3136, dtype=F32))
@jax.jit
def policy_rollout(frames: Array, weights: Array) -> Any:
    """A rollout of 64 steps of a small policy in a toy environment, by scan."""
    w = jnp.zeros((84 * 84, 128), F32) + weights.mean()
    head = jnp.zeros((128, 8), F32) + 0.1

    def step(state: Any, key: Array) -> Any:
        frame = state
        features = jax.nn.relu(frame[:, 0].reshape(256, -1) @ w)
        action = jax.random.categorical(key, features @ head)
        new = jnp.roll(frame, 1, axis=1).at[:, 0].add(action[:, None, None] * 0.01)
        return new, (action, new.mean())

    return lax.scan(step, frames, jax.random.split(jax.random.key(0), 64))


@with_args(shape(4, 4096, 8, 64), shape(4, 4096, 8, 64), shape(4, 4096, 8, 64))
@jax.jit
def chunked_attention(q: Array, k: Array, v: Array) -> Array:
    """Memory-efficient attention: a scan over blocks of keys with an online softmax."""

    def turn(carry: Any, at: Any) -> Any:
        top, total, out = carry
        k, v = at
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(F32) / 8.0
        new = jnp.maximum(top, scores.max(-1))
        weights = jnp.exp(scores - new[..., None])
        scale = jnp.exp(top - new)
        out = out * scale[..., None] + jnp.einsum("bhqk,bkhd->bhqd", weights.astype(v.dtype), v)
        return (new, total * scale + weights.sum(-1), out), None

    parts = [jnp.swapaxes(x.reshape(4, 8, 512, 8, 64), 0, 1) for x in (k, v)]
    start = (jnp.full((4, 8, 4096), -1e30), jnp.zeros((4, 8, 4096)), jnp.zeros((4, 8, 4096, 64)))
    (_, total, out), _ = lax.scan(turn, start, tuple(parts))
    return (out / total[..., None]).astype(q.dtype)


@with_args(shape(1024, 256, dtype=F32), shape(1024, 256, dtype=F32))
@jax.jit
def sinkhorn(x: Array, y: Array) -> Array:
    """Entropic optimal transport: 100 rounds of log-sum-exp."""
    cost = ((x[:, None] - y[None]) ** 2).mean(-1)

    def turn(_: Any, duals: Any) -> Any:
        f, g = duals
        f = -0.05 * jax.nn.logsumexp((g[None] - cost) / 0.05, axis=1)
        g = -0.05 * jax.nn.logsumexp((f[:, None] - cost) / 0.05, axis=0)
        return f, g

    f, g = lax.fori_loop(0, 100, turn, (jnp.zeros(1024), jnp.zeros(1024)))
    return jnp.sum(jnp.exp((f[:, None] + g[None] - cost) / 0.05) * cost)
