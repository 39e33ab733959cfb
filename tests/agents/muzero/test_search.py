"""The tree search on a perfect hand-made model equals exhaustive search, and never plays an illegal move."""

from itertools import product
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mallocgame.agents.muzero.config import Config
from mallocgame.agents.muzero.networks import Model
from mallocgame.agents.muzero.search import key_of, make_search

MOVES, ACTIONS = 3, 3
Tables = tuple[jax.Array, jax.Array]


class Perfect:
    """A hand-made model of a game of three moves with three actions, whose rewards depend on the whole history.

    A state is (moves made, their code in base 3). The parameters are the rewards, float32[3, 27], and the values of the
    states, float32[4, 27]. The prior says nothing.
    """

    num_actions = ACTIONS
    config = Config()

    def apply(self, tables: Tables, *inputs: jax.Array, method: str) -> jax.Array | tuple[jax.Array, jax.Array]:
        state, (rewards, values) = inputs[0], tables
        depth, code = state[:, 0], state[:, 1]
        if method == "represent":
            return state
        if method == "predict":
            return jnp.zeros((len(state), ACTIONS)), values[jnp.minimum(depth, MOVES), code % 27]
        code = ACTIONS * code + inputs[1]
        reward = jnp.where(depth < MOVES, rewards[jnp.minimum(depth, MOVES - 1), code % 27], 0.0)
        return jnp.stack([depth + 1, code], axis=1), reward

    def value_of(self, numbers: jax.Array) -> jax.Array:
        return numbers


def exhaustive(rewards: np.ndarray) -> np.ndarray:
    """Return float32[4, 27], the most that can still be won in each state."""
    values = np.zeros((MOVES + 1, 27), dtype=np.float32)
    for depth in reversed(range(MOVES)):
        for code in range(ACTIONS**depth):
            after = slice(ACTIONS * code, ACTIONS * (code + 1))
            values[depth, code] = (rewards[depth, after] + values[depth + 1, after]).max()
    return values


@pytest.mark.parametrize(("known", "simulations", "agreement"), [(True, 3, 1.0), (False, 256, 0.95)])
def test_search_with_a_perfect_model_equals_exhaustive_search(known: bool, simulations: int, agreement: float) -> None:
    """From every position of many games, whatever is legal there, it plays what trying everything plays.

    A model that knows the values needs one look at each move. From rewards alone the search finds nearly all: it takes
    the mean of what it tried after a move for what the move is worth.
    """
    search = make_search(cast(Model, Perfect()), num_simulations=simulations, explore=False)
    states = [(depth, code) for depth in range(MOVES) for code in range(ACTIONS**depth)]
    masks = np.array([mask for mask in product((False, True), repeat=ACTIONS) if any(mask)])
    positions = np.array([state for state in states for _ in masks])
    legal = np.tile(masks, (len(states), 1))
    equal = []
    for seed in range(5):
        rewards = np.random.default_rng(seed).normal(size=(MOVES, 27)).astype(np.float32)
        values = exhaustive(rewards)
        tables = jnp.asarray(rewards), jnp.asarray(values if known else np.zeros_like(values))
        found = search(tables, jnp.asarray(positions), legal, key_of(seed))
        depth, after = positions[:, :1], ACTIONS * positions[:, 1:] + np.arange(ACTIONS)
        wins = np.where(legal, rewards[depth, after] + values[depth + 1, after], -np.inf)
        equal += (np.asarray(found.action) == wins.argmax(axis=1)).tolist()
    assert np.mean(equal) >= agreement


@pytest.mark.parametrize(("simulations", "policy"), [(0, "gumbel"), (8, "gumbel"), (8, "muzero")])
def test_illegal_moves_are_never_played(simulations: int, policy: str) -> None:
    model = Model(Config(latent_size=16, hidden_size=16, policy=policy), 3)
    observation = {"grid": jnp.ones((64, 2, 8, 8)), "rows": jnp.ones((64, 4, 5)), "vector": jnp.ones((64, 3))}
    parameters = model.init(jax.random.key(0), observation)
    legal = np.random.default_rng(0).random((64, 3)) < 0.5
    legal[:, 0] |= ~legal.any(axis=1)
    for explore in (False, True):
        search = make_search(model, num_simulations=simulations, explore=explore)
        found = search(parameters, observation, legal, key_of(1))
        assert legal[np.arange(64), np.asarray(found.action)].all()
        assert float(jnp.where(legal, 0.0, found.policy).max()) < 1e-6
        assert found.policy.sum(axis=-1) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("simulations", [0, 4])
def test_the_first_row_is_played_without_noise(simulations: int) -> None:
    model = Model(Config(latent_size=16, hidden_size=16), 3)
    observation = {"rows": jnp.ones((16, 4, 5)), "vector": jnp.ones((16, 3))}
    parameters = model.init(jax.random.key(0), observation)
    legal = np.ones((16, 3), dtype=np.bool_)
    greedy, noisy = (make_search(model, num_simulations=simulations, explore=explore) for explore in (False, True))
    best = int(greedy(parameters, observation, legal, key_of(0)).action[0])
    played = np.stack([noisy(parameters, observation, legal, key_of(k)).action for k in range(8)])
    assert (played[:, 0] == best).all()
    assert len(set(played[:, -1].tolist())) > 1
