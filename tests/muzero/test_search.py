"""The tree search on a perfect hand-made model equals exhaustive search, and never plays an illegal move."""

from itertools import product

import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest

from agents.muzero.config import Config
from agents.muzero.networks import Model
from agents.muzero.search import make_search


@pytest.mark.parametrize("seed", range(5))
def test_search_with_a_perfect_model_equals_exhaustive_search(seed: int) -> None:
    """Three moves of three actions; rewards depend on the whole history. The model is exact, the prior is flat."""
    rewards = np.random.default_rng(seed).normal(size=(3, 27)).astype(np.float32)
    table = jnp.asarray(rewards)

    def recurrent(params: None, key: jax.Array, action: jax.Array, state: jax.Array) -> tuple[object, jax.Array]:
        depth, code = state[:, 0], state[:, 1] * 3 + action
        inside = depth < 3
        reward = jnp.where(inside, table[jnp.minimum(depth, 2), code % 27], 0.0)
        zeros = jnp.zeros((len(action), 3))
        output = mctx.RecurrentFnOutput(reward=reward, discount=inside * 1.0, prior_logits=zeros, value=zeros[:, 0])
        return output, jnp.stack([depth + 1, code], axis=1)

    root = mctx.RootFnOutput(
        prior_logits=jnp.zeros((1, 3)), value=jnp.zeros(1), embedding=jnp.zeros((1, 2), dtype=jnp.int32)
    )
    output = mctx.gumbel_muzero_policy(
        None, jax.random.key(seed), root, recurrent, 400, max_num_considered_actions=3, gumbel_scale=0.0
    )

    def total(actions: tuple[int, ...]) -> float:
        code, score = 0, 0.0
        for depth, action in enumerate(actions):
            code = code * 3 + action
            score += float(rewards[depth, code % 27])
        return score

    best = max(product(range(3), repeat=3), key=total)
    assert int(output.action[0]) == best[0]


@pytest.mark.parametrize(("simulations", "policy"), [(0, "gumbel"), (8, "gumbel"), (8, "muzero")])
def test_illegal_moves_are_never_played(simulations: int, policy: str) -> None:
    model = Model(Config(latent_size=16, hidden_size=16, policy=policy), 3)
    observation = {"grid": jnp.ones((64, 2, 8, 8)), "rows": jnp.ones((64, 4, 5)), "vector": jnp.ones((64, 3))}
    parameters = model.init(jax.random.key(0), observation)
    legal = np.random.default_rng(0).random((64, 3)) < 0.5
    legal[:, 0] |= ~legal.any(axis=1)
    for explore in (False, True):
        search = make_search(model, num_simulations=simulations, explore=explore)
        found = search(parameters, observation, legal, jax.random.key(1))
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
    best = int(greedy(parameters, observation, legal, jax.random.key(0)).action[0])
    played = np.stack([noisy(parameters, observation, legal, jax.random.key(k)).action for k in range(8)])
    assert (played[:, 0] == best).all()
    assert len(set(played[:, -1].tolist())) > 1
