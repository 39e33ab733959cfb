"""The learned model: representation h, dynamics g, prediction f (MuZero's letters).

The representation reads any dictionary observation by the rank of its entries: grids [C, H, W] through a small residual
ConvNet, rows [K, F] (the coming uses) through attention pooled by the current use, vectors [F] through a dense layer.
"""

from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from mallocgame.agents.muzero.categorical import decode
from mallocgame.agents.muzero.config import Config

Observation = Mapping[str, jax.Array]
Parameters = Any


class _Residual(nn.Module):
    """x + MLP(LayerNorm(x)); starts as the identity."""

    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(nn.Dense(self.hidden)(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros)(y)


class Representation(nn.Module):
    """Observation batch -> float32[B, latent_size]."""

    config: Config

    @nn.compact
    def __call__(self, observation: Observation) -> jax.Array:
        size = self.config.latent_size
        parts = []
        entries = [observation[name].astype(jnp.float32) for name in sorted(observation)]
        vectors = [entry for entry in entries if entry.ndim == 2] + [
            entry[:, 0] for entry in entries if entry.ndim == 3
        ]
        flat = jnp.concatenate(vectors, axis=-1)
        focus = nn.Dense(size)(flat)
        parts.append(focus)
        for entry in entries:
            if entry.ndim == 4:
                parts.append(self._grid(entry))
            elif entry.ndim == 3:
                parts.append(self._rows(entry, focus))
        x = nn.Dense(size)(nn.relu(jnp.concatenate(parts, axis=-1)))
        x = _Residual(self.config.hidden_size)(x)
        return jnp.asarray(nn.LayerNorm()(x))

    def _grid(self, x: jax.Array) -> jax.Array:
        """Patches of 2 x 4 cells, then one residual convolution over them."""
        channels = self.config.conv_channels
        x = nn.Conv(channels, (2, 4), strides=(2, 4))(jnp.moveaxis(x, 1, -1))  # to [B, H / 2, W / 4, channels]
        x = nn.relu(x + nn.Conv(channels, (3, 3))(nn.relu(x)))
        return nn.Dense(self.config.latent_size)(x.reshape(x.shape[0], -1))

    def _rows(self, rows: jax.Array, focus: jax.Array) -> jax.Array:
        size = self.config.latent_size // 2
        keys = nn.relu(nn.Dense(size)(rows))
        query = nn.Dense(size)(focus)[:, None, :]
        weights = nn.softmax((keys * query).sum(-1) / size**0.5, axis=-1)
        attended = (weights[..., None] * nn.Dense(size)(keys)).sum(axis=1)
        return jnp.concatenate([attended, keys.max(axis=1), keys[:, 0]], axis=-1)


class Dynamics(nn.Module):
    """Latent, action -> next latent, reward logits."""

    config: Config
    num_actions: int

    @nn.compact
    def __call__(self, latent: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        chosen = jax.nn.one_hot(action, self.num_actions)
        x = latent + nn.Dense(self.config.latent_size)(jnp.concatenate([latent, chosen], axis=-1))
        for _ in range(self.config.num_blocks):
            x = _Residual(self.config.hidden_size)(x)
        x = nn.LayerNorm()(x)
        hidden = nn.relu(nn.Dense(self.config.hidden_size)(x))
        atoms = 2 * self.config.support_size + 1
        return x, nn.Dense(atoms, kernel_init=nn.initializers.zeros)(hidden)


class Prediction(nn.Module):
    """Latent -> policy logits, value logits."""

    config: Config
    num_actions: int

    @nn.compact
    def __call__(self, latent: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = latent
        for _ in range(self.config.num_blocks - 1):
            x = _Residual(self.config.hidden_size)(x)
        hidden = nn.relu(nn.Dense(self.config.hidden_size)(x))
        atoms = 2 * self.config.support_size + 1
        policy = nn.Dense(self.num_actions, kernel_init=nn.initializers.zeros)(hidden)
        return policy, nn.Dense(atoms, kernel_init=nn.initializers.zeros)(hidden)


class Model(nn.Module):
    """The three functions over one set of parameters."""

    config: Config
    num_actions: int

    def setup(self) -> None:
        self.representation = Representation(self.config)
        self.dynamics = Dynamics(self.config, self.num_actions)
        self.prediction = Prediction(self.config, self.num_actions)
        self.projection = nn.Dense(self.config.latent_size)

    def __call__(self, observation: Observation) -> tuple[jax.Array, jax.Array]:
        """Touch every parameter (for initialisation); return policy and value logits."""
        latent = self.represent(observation)
        following, _ = self.step(latent, jnp.zeros(latent.shape[0], dtype=jnp.int32))
        self.project(following)
        return self.predict(latent)

    def represent(self, observation: Observation) -> jax.Array:
        """h."""
        latent: jax.Array = self.representation(observation)
        return latent

    def step(self, latent: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        """g."""
        following: tuple[jax.Array, jax.Array] = self.dynamics(latent, action)
        return following

    def predict(self, latent: jax.Array) -> tuple[jax.Array, jax.Array]:
        """f."""
        both: tuple[jax.Array, jax.Array] = self.prediction(latent)
        return both

    def project(self, latent: jax.Array) -> jax.Array:
        """Return what the consistency loss compares."""
        projected: jax.Array = self.projection(latent)
        return projected

    def value_of(self, logits: jax.Array) -> jax.Array:
        """Return the scalar that value or reward logits stand for."""
        return decode(logits, self.config.support_size, self.config.value_scale)


def represent(model: Model, parameters: Parameters, observation: Observation) -> jax.Array:
    """Return h(observation), float32[B, latent_size]."""
    latent: Any = model.apply(parameters, observation, method="represent")
    return cast(jax.Array, latent)


def step(model: Model, parameters: Parameters, latent: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return g(latent, action): the next latent and reward logits."""
    following: Any = model.apply(parameters, latent, action, method="step")
    return cast(tuple[jax.Array, jax.Array], following)


def predict(model: Model, parameters: Parameters, latent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return f(latent): policy logits and value logits."""
    both: Any = model.apply(parameters, latent, method="predict")
    return cast(tuple[jax.Array, jax.Array], both)


def project(model: Model, parameters: Parameters, latent: jax.Array) -> jax.Array:
    """Return what the consistency loss compares."""
    projected: Any = model.apply(parameters, latent, method="project")
    return cast(jax.Array, projected)
