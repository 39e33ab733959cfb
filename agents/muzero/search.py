"""Monte Carlo tree search on the learned model, through mctx. The one place where legal masks are inverted."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mctx
import numpy as np
import numpy.typing as npt

from mallocgame.agents.muzero.networks import Model, Observation, Parameters, predict, represent, step


class SearchResult(NamedTuple):
    """What a search says of B positions."""

    action: Any  # int32[B], to play; like the others of JAX or NumPy
    policy: Any  # float32[B, A], the improved policy
    value: Any  # float32[B], the searched value of the position
    prior: Any = None  # float32[B, A], the network's own policy, from a search on the rules


Key = npt.NDArray[np.uint32]  # uint32[2], what JAX makes a random key of: splitting JAX's own takes as long as a move
Search = Callable[[Parameters, Any, Any, Key], SearchResult]  # observation and mask: NumPy or JAX arrays


def key_of(seed: int) -> Key:
    """Return the key of a seed, as ``jax.random.key`` does."""
    return np.array([0, seed], dtype=np.uint32)


def next_key(random: np.random.Generator) -> Key:
    """Draw a key."""
    return random.integers(2**32, size=2, dtype=np.uint32)


def make_search(model: Model, *, num_simulations: int, explore: bool) -> Search:
    """Return a compiled ``search(parameters, observation, legal_mask, key)``.

    ``legal_mask`` is bool[B, A], True = legal; ``key`` is uint32[2]. With ``explore`` actions are sampled (Gumbel
    noise, or visit counts at the configured temperature), without it the best is taken. The noise differs between rows:
    none in the first, full in the last (``noise_of``). ``num_simulations`` = 0: the network's own policy. One
    compilation per shape of the observation and process: who asks for the same search again gets it compiled.
    """
    return _compiled(model, num_simulations, explore)


@lru_cache(maxsize=8)
def _compiled(model: Model, num_simulations: int, explore: bool) -> Search:
    return jax.jit(partial(_search, model, num_simulations, explore))


def noise_of(batch_size: int) -> npt.NDArray[np.float32]:
    """Return float32[B, 1], the scale of each row's Gumbel noise, from 0 to 1: most games stay near the best known.

    In a game of hundreds of decisions even a few percent of other actions ruin a good plan.
    """
    return np.square(np.linspace(0.0, 1.0, batch_size, dtype=np.float32))[:, None]


def _search(
    model: Model,
    num_simulations: int,
    explore: bool,
    parameters: Parameters,
    observation: Observation,
    legal_mask: jax.Array,
    drawn: jax.Array,
) -> SearchResult:
    key = jax.random.wrap_key_data(drawn)
    latent = represent(model, parameters, observation)
    logits, value_logits = predict(model, parameters, latent)
    value = model.value_of(value_logits)
    noise = noise_of(len(logits)) if explore else 0.0
    if num_simulations == 0:
        masked = jnp.where(legal_mask, logits, -jnp.inf)
        action = jnp.argmax(masked + noise * jax.random.gumbel(key, masked.shape), axis=-1)
        return SearchResult(action.astype(jnp.int32), jax.nn.softmax(masked, axis=-1), value)
    root = mctx.RootFnOutput(prior_logits=logits, value=value, embedding=latent)
    recurrent = partial(_recurrent, model)
    invalid = 1.0 - legal_mask.astype(jnp.float32)  # mctx: 1 = invalid
    if model.config.policy == "gumbel":
        output = mctx.gumbel_muzero_policy(
            parameters,
            key,
            root,
            recurrent,
            num_simulations,
            invalid_actions=invalid,
            qtransform=_qtransform(model.config.value_unit, num_simulations),
            max_num_considered_actions=model.num_actions,
            gumbel_scale=noise,
        )
    else:
        output = mctx.muzero_policy(
            parameters,
            key,
            root,
            recurrent,
            num_simulations,
            invalid_actions=invalid,
            dirichlet_fraction=0.25 if explore else 0.0,
            temperature=model.config.temperature if explore else 0.0,
        )
    summary = output.search_tree.summary()
    return SearchResult(output.action.astype(jnp.int32), output.action_weights, summary.value)


def _qtransform(value_unit: float, num_simulations: int) -> Callable[..., jax.Array]:
    """Return mctx's completed Q-values in units of ``value_unit``; with 0 stretched to the same range at every node.

    Stretching makes the least difference between two actions count as the largest does, noise of the model too.
    """
    if value_unit <= 0:
        found: Callable[..., jax.Array] = mctx.qtransform_completed_by_mix_value
        return found
    scale = 1.0 / (value_unit * (50.0 + num_simulations))  # mctx multiplies by 50 + the visits of the most visited
    return partial(mctx.qtransform_completed_by_mix_value, value_scale=scale, rescale_values=False)


def _recurrent(
    model: Model, parameters: Parameters, key: jax.Array, action: jax.Array, latent: jax.Array
) -> tuple[mctx.RecurrentFnOutput, jax.Array]:
    del key
    following, reward_logits = step(model, parameters, latent, action)
    logits, value_logits = predict(model, parameters, following)
    output = mctx.RecurrentFnOutput(
        reward=model.value_of(reward_logits),
        discount=jnp.ones_like(action, dtype=jnp.float32),
        prior_logits=logits,
        value=model.value_of(value_logits),
    )
    return output, following
