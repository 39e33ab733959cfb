"""What the network should have said: n-step returns over finished episodes. Discount 1; nothing follows the end."""

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]


def n_step_returns(rewards: F32, root_values: F32, bootstrap_steps: int) -> F32:
    """Return the n-step return from every position of one finished episode.

    Args:
        rewards: float32[T], reward of the action at each position.
        root_values: float32[T], searched value of each position.
        bootstrap_steps: n >= 1.

    Returns:
        float32[T]: r_t + ... + r_{t+n-1} + v_{t+n}, with v = 0 at and past the end.

    Source: MuZero, arXiv 1911.08265, appendix G, with discount 1.

    >>> n_step_returns(np.array([1, 2, 4], np.float32), np.array([9, 8, 7], np.float32), 2).tolist()
    [10.0, 6.0, 4.0]
    """
    length = len(rewards)
    total = np.concatenate([[0.0], np.cumsum(rewards, dtype=np.float64)])
    end = np.minimum(np.arange(length) + bootstrap_steps, length)
    value = np.concatenate([root_values.astype(np.float64), [0.0]])
    return np.asarray(total[end] - total[:length] + value[end], dtype=np.float32)
