"""One gradient step: unroll the model K steps from replayed positions and compare with the targets."""

import inspect
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from mallocgame.agents.muzero.categorical import encode
from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.networks import Model, Parameters, predict, project, represent, step
from mallocgame.agents.muzero.replay import Batch
from mallocgame.errors import InputError


class Learner(NamedTuple):
    """The state of training: a pytree, so that it can be saved, sharded and compared bit for bit."""

    parameters: Parameters
    target: Parameters  # the slow copy that searches
    optimizer: Any
    updates: jax.Array  # int32[]


class Losses(NamedTuple):
    """Scalars of one update, and per-row value errors (float32[B]) for the priorities."""

    total: jax.Array
    policy: jax.Array
    value: jax.Array
    reward: jax.Array
    consistency: jax.Array
    errors: jax.Array


Update = Callable[[Learner, dict[str, Any], float], tuple[Learner, Losses]]


def learning_rate(config: Config, progress: float) -> float:
    """Return the rate when a fraction ``progress`` of the training budget (seconds or steps) is spent.

    Source of rex: arXiv 2107.04197.

    >>> [round(learning_rate(Config(learning_rate=1.0), x), 2) for x in (0.0, 0.5, 1.0)]
    [1.0, 0.51, 0.02]
    """
    left = 1.0 - min(max(progress, 0.0), 1.0)
    shapes = {
        "linear": 0.02 + 0.98 * left,
        "cosine": 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * (1.0 - left))),
        "rex": max(left / (0.5 + 0.5 * left), 0.02),
        "constant": 1.0,
    }
    return config.learning_rate * shapes[config.schedule]


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Return gradient clipping followed by any optax optimiser by name; its rate is set at each update.

    Raises:
        InputError: optax has no such optimiser.
    """
    factory = getattr(optax, config.optimizer, None) or getattr(optax.contrib, config.optimizer, None)
    if not callable(factory):
        raise InputError(f"agent configuration: optax has no optimizer named {config.optimizer!r}")
    settings: dict[str, float] = {"learning_rate": config.learning_rate}
    if "weight_decay" in inspect.signature(factory).parameters:
        settings["weight_decay"] = config.weight_decay
    optimizer = optax.inject_hyperparams(factory)(**settings)
    return optax.chain(optax.clip_by_global_norm(config.gradient_clip), optimizer)


def make_learner(model: Model, observation: Any, seed: int) -> tuple[Learner, Update]:
    """Return the initial state and the compiled ``update(learner, batch, rate)``, the same for the same model.

    Args:
        observation: a batch of observations, for its shapes.

    With several local devices, ``shard`` splits the batch over them; the parameters are on all.
    """
    init, update = _compiled(model)
    parameters = init(jax.random.key(seed), observation)
    optimizer = make_optimizer(model.config)
    return Learner(parameters, parameters, optimizer.init(parameters), jnp.zeros((), dtype=jnp.int32)), update


@lru_cache(maxsize=8)
def _compiled(model: Model) -> tuple[Callable[..., Parameters], Update]:
    config, optimizer = model.config, make_optimizer(model.config)

    def update(learner: Learner, batch: dict[str, Any], rate: Any) -> tuple[Learner, Losses]:
        (_, losses), gradient = jax.value_and_grad(loss, has_aux=True)(learner.parameters, model, config, batch)
        clip, inner = learner.optimizer
        inner = inner._replace(hyperparams={**inner.hyperparams, "learning_rate": jnp.asarray(rate, dtype=jnp.float32)})
        change, optimizer_state = optimizer.update(gradient, (clip, inner), learner.parameters)
        fresh = optax.apply_updates(learner.parameters, change)
        slow = optax.incremental_update(fresh, learner.target, 1.0 - config.target_decay)
        return Learner(fresh, slow, optimizer_state, learner.updates + 1), losses

    return jax.jit(model.init), jax.jit(update)


def check_finite(weights: Any, where: str) -> None:
    """See that all weights (a pytree) are finite.

    Raises:
        InputError: some are not; the message begins with ``where``.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(np.asarray(leaf)).all():
            raise InputError(f"{where}: the weights {jax.tree_util.keystr(path)} hold NaN or infinity")


def shard(batch: dict[str, Any]) -> dict[str, Any]:
    """Split a batch's rows over the local devices (one device: nothing to do); XLA then adds the gradients up."""
    devices = jax.local_devices()
    rows = len(batch["weights"])
    if len(devices) == 1 or rows % len(devices):
        return batch
    mesh = jax.sharding.Mesh(np.array(devices), ("rows",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))  # type: ignore[no-untyped-call]
    sharded: dict[str, Any] = jax.device_put(batch, sharding)
    return sharded


def batch_arrays(batch: Batch) -> dict[str, Any]:
    """Return what ``loss`` needs of a batch, as a pytree of arrays."""
    names = ("observations", "next_observations", "actions", "rewards", "values", "policies", "mask", "weights")
    return {name: getattr(batch, name) for name in names}


def loss(parameters: Parameters, model: Model, config: Config, batch: dict[str, Any]) -> tuple[jax.Array, Losses]:
    """Return the weighted loss and its parts; gradients into the latent are halved at each step (MuZero, app. G)."""
    latent = represent(model, parameters, batch["observations"])
    mask, steps = batch["mask"], batch["actions"].shape[1]
    size, scale = config.support_size, config.value_scale
    policy = value = reward = consistency = jnp.zeros(mask.shape[0])
    errors = jnp.zeros(mask.shape[0])
    for k in range(steps + 1):
        logits, value_logits = predict(model, parameters, latent)
        share = 1.0 if k == 0 else 1.0 / steps
        policy += share * mask[:, k] * optax.softmax_cross_entropy(logits, batch["policies"][:, k])
        wanted = encode(batch["values"][:, k], size, scale)
        value += share * optax.softmax_cross_entropy(value_logits, wanted)  # past the end the value is known: 0
        if k == 0:
            errors = jnp.abs(model.value_of(value_logits) - batch["values"][:, 0])
        if k == steps:
            break
        latent, reward_logits = step(model, parameters, latent, batch["actions"][:, k])
        wanted = encode(batch["rewards"][:, k], size, scale)
        reward += share * optax.softmax_cross_entropy(reward_logits, wanted)  # past the end, too: 0, whatever is done
        if k == 0 and config.consistency_weight > 0.0:
            seen = project(model, parameters, latent)
            real = jax.lax.stop_gradient(represent(model, parameters, batch["next_observations"]))
            consistency = mask[:, 1] * -optax.cosine_similarity(seen, real, epsilon=1e-6)
        latent = 0.5 * latent + 0.5 * jax.lax.stop_gradient(latent)
    weights = batch["weights"]
    parts = [(weights * part).mean() for part in (policy, value, reward, consistency)]
    factors = (1.0, config.value_weight, config.reward_weight, config.consistency_weight)
    total = jnp.asarray(sum(f * part for f, part in zip(factors, parts, strict=True)))
    return total, Losses(total, parts[0], parts[1], parts[2], parts[3], errors)
