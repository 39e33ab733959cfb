"""The learned model: representation h, dynamics g, prediction f (MuZero's letters).

The representation reads any dictionary observation by the rank of its entries: grids [C, H, W] through a small residual
ConvNet, many rows [K, F] (the coming uses, the program's segments) through attention pooled by the current position, a
few rows (what each action would do) and vectors [F] through a dense layer.
"""

from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mallocgame.agents.muzero.categorical import decode
from mallocgame.agents.muzero.config import Config
from mallocgame.game.observation import FORESIGHT, plain_columns

Observation = Mapping[str, jax.Array]
Parameters = Any
FEW = 8  # rows that are read one by one


def plain(observation: Observation) -> Observation:
    """Return a batch of the game's observations without foresight."""
    if FORESIGHT[0] not in observation:
        return observation
    num_layers = observation["globals"].shape[-1] - 3
    shown = {name: array for name, array in observation.items() if name not in FORESIGHT}
    return {**shown, "uses": observation["uses"][..., np.array(plain_columns(num_layers))]}


class _Residual(nn.Module):
    """x + MLP(LayerNorm(x)); starts as the identity."""

    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(nn.Dense(self.hidden)(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros)(y)


class _Convolution(nn.Module):
    """``flax.linen.Conv``, padded to the same size, as one matrix product: quicker on a CPU."""

    features: int
    window: tuple[int, int]
    strides: tuple[int, int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        (height, width), (down, right) = self.window, self.strides
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (height, width, x.shape[-1], self.features), jnp.float32
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        rows, columns = -(-x.shape[1] // down), -(-x.shape[2] // right)
        missing = [max((rows - 1) * down + height - x.shape[1], 0), max((columns - 1) * right + width - x.shape[2], 0)]
        x = jnp.pad(x, ((0, 0), *((size // 2, size - size // 2) for size in missing), (0, 0)))
        cells = [
            x[:, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * right + 1 : right]
            for i in range(height)
            for j in range(width)
        ]
        patches = jnp.concatenate(cells, axis=-1)
        return jnp.asarray(patches @ kernel.reshape(-1, self.features) + bias)


class Representation(nn.Module):
    """Observation batch -> float32[B, latent_size]."""

    config: Config

    @nn.compact
    def __call__(self, observation: Observation) -> jax.Array:
        size = self.config.latent_size
        parts = []
        if not self.config.foresight:
            observation = plain(observation)
        entries = [observation[name].astype(jnp.float32) for name in sorted(observation)]
        fewest = FEW if self.config.foresight else 0
        many = [entry.ndim == 3 and entry.shape[1] > fewest for entry in entries]
        vectors = [
            entry[:, 0] if long else entry.reshape(len(entry), -1)
            for entry, long in zip(entries, many, strict=True)
            if entry.ndim < 4
        ]
        flat = jnp.concatenate(vectors, axis=-1)
        focus = nn.Dense(size)(flat)
        parts.append(focus)
        for entry, long in zip(entries, many, strict=True):
            if entry.ndim == 4:
                parts.append(self._grid(entry))
            elif long:
                parts.append(self._rows(entry, focus))
        x = nn.Dense(size)(nn.relu(jnp.concatenate(parts, axis=-1)))
        x = _Residual(self.config.hidden_size)(x)
        return jnp.asarray(nn.LayerNorm()(x))

    def _grid(self, x: jax.Array) -> jax.Array:
        """Patches of 2 x 4 cells, then one residual convolution over them."""
        channels = self.config.conv_channels
        x = _Convolution(channels, (2, 4), (2, 4), name="Conv_0")(jnp.moveaxis(x, 1, -1))  # [B, H / 2, W / 4, channels]
        x = nn.relu(x + _Convolution(channels, (3, 3), (1, 1), name="Conv_1")(nn.relu(x)))
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
