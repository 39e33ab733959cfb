"""One gradient step: unroll the model K steps from replayed positions and compare with the targets."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agents.muzero.categorical import encode
from agents.muzero.config import Config
from agents.muzero.networks import Model, Parameters, predict, project, represent, step
from agents.muzero.replay import Batch
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


Update = Callable[[Learner, dict[str, Any]], tuple[Learner, Losses]]


def learning_rate(config: Config, num_updates: int) -> optax.Schedule:
    """Return the schedule over ``num_updates`` updates. REX: arXiv 2107.04197."""
    peak, horizon = config.learning_rate, max(num_updates, 1)
    if config.schedule == "linear":
        return optax.linear_schedule(peak, 0.02 * peak, horizon)
    if config.schedule == "cosine":
        return optax.cosine_decay_schedule(peak, horizon, alpha=0.02)
    if config.schedule == "constant":
        return optax.constant_schedule(peak)

    def rex(count: Any) -> Any:
        left = 1.0 - jnp.minimum(count / horizon, 1.0)
        return peak * jnp.maximum(left / (0.5 + 0.5 * left), 0.02)

    return rex


def make_optimizer(config: Config, num_updates: int) -> optax.GradientTransformation:
    """Return gradient clipping followed by any optax optimiser by name.

    Raises:
        InputError: optax has no such optimiser.
    """
    factory = getattr(optax, config.optimizer, None) or getattr(optax.contrib, config.optimizer, None)
    if not callable(factory):
        raise InputError(f"agent configuration: optax has no optimizer named {config.optimizer!r}")
    rate = learning_rate(config, num_updates)
    try:
        optimizer = factory(rate, weight_decay=config.weight_decay)
    except TypeError:
        optimizer = factory(rate)
    return optax.chain(optax.clip_by_global_norm(config.gradient_clip), optimizer)


def make_learner(model: Model, config: Config, num_updates: int, observation: Any, seed: int) -> tuple[Learner, Update]:
    """Return the initial state and the compiled update.

    Args:
        observation: a batch of observations, for its shapes.
    """
    optimizer = make_optimizer(config, num_updates)
    parameters = model.init(jax.random.key(seed), observation)
    state = Learner(parameters, parameters, optimizer.init(parameters), jnp.zeros((), dtype=jnp.int32))

    def update(learner: Learner, batch: dict[str, Any]) -> tuple[Learner, Losses]:
        (_, losses), gradient = jax.value_and_grad(loss, has_aux=True)(learner.parameters, model, config, batch)
        change, optimizer_state = optimizer.update(gradient, learner.optimizer, learner.parameters)
        fresh = optax.apply_updates(learner.parameters, change)
        slow = optax.incremental_update(fresh, learner.target, 1.0 - config.target_decay)
        return Learner(fresh, slow, optimizer_state, learner.updates + 1), losses

    return state, jax.jit(update)


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
        reward += share * mask[:, k] * optax.softmax_cross_entropy(reward_logits, wanted)
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
