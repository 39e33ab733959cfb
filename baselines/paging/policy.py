"""What a paging policy is: two functions and a hint kind. A user adds one in one file (see docs/paging.md)."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame import registry
from mallocgame.errors import InputError

PAGING_POLICIES = "mallocgame.paging_policies"  # group of entry points
State = Any  # whatever `start` returns: a tuple of arrays for a compiled step
Hints = npt.NDArray[Any]
Events = npt.NDArray[np.int32]


class Hint(Enum):
    """What a policy is told with each request."""

    NONE = "none"  # nothing: a classical online policy
    DISCARD = "discard"  # uint8: 1 = "the optimum evicts this page before its next request"
    PHASE = "phase"  # uint8: 1 = "this page is not requested in the next k-phase"
    ARRIVAL = "arrival"  # int64: the predicted index of the page's next request
    PROMPT = "prompt"  # int64: 0 at the start of a prompt, otherwise 1 + the block before it; all 0 without prompts
    PROMPT_DISCARD = "prompt-discard"  # int64: 2 * that + the discard bit
    NEXT_USE = "next-use"  # int32 or int64: the true one, n where there is none (offline policies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """A proved bound: faults <= alpha * OPT + beta * eta0 + gamma * eta1 + constant, in expectation where randomized.

    eta0 counts wrong predicted 0s, eta1 wrong predicted 1s; ``robust`` is a bound over OPT for any predictions, to
    which the constant is added too.
    """

    alpha: float
    beta: Callable[[int], float]  # of the cache size k
    gamma: float
    robust: Callable[[int], float] | None = None
    constant: Callable[[int], float] = lambda k: 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A paging policy over dense page ids.

    ``start(num_pages, num_frames, num_requests, seed)`` returns the state of an empty cache.
    ``step(state, pages, hints, now, events)`` serves int32[n] ``pages``, the first of which is request ``now`` of the
    whole sequence, updates the state in place, writes int32[n] ``events`` and returns the number of faults. An event
    is HIT (-1), FAULT (-2, a frame was free), FLUSH (-3, everything was evicted) or the id of the evicted page.
    ``hints`` has one entry a request of the dtype that ``hint`` says; it is empty for Hint.NONE.
    """

    name: str
    summary: str
    start: Callable[[int, int, int, int], State]
    step: Callable[[State, npt.NDArray[np.int32], Hints, int, Events], int]
    hint: Hint = Hint.NONE
    randomized: bool = False
    guarantee: Guarantee | None = None


_REGISTRY: dict[str, Policy] = {}


def register(policy: Policy) -> Policy:
    """Make ``policy`` known by its name; a name taken by another policy is an error."""
    if _REGISTRY.setdefault(policy.name, policy) is not policy:
        raise InputError(f"there is already a policy called {policy.name!r}")
    return policy


def policy_names() -> list[str]:
    """Names of the registered policies, in the order of registration; then those of installed packages."""
    return [*_REGISTRY, *(name for name in registry.registered(PAGING_POLICIES) if name not in _REGISTRY)]


def get_policy(name: str) -> Policy:
    """Return a policy by its name: ours, an entry point of the group PAGING_POLICIES, or ``package.module:attribute``.

    Raises:
        InputError: there is none (the message lists the names there are), or what is found is no ``Policy``.
    """
    if name in _REGISTRY:
        return _REGISTRY[name]
    if ":" not in name and name not in registry.registered(PAGING_POLICIES):
        known = ", ".join(policy_names())
        raise InputError(f"no policy called {name!r}; there are: {known}, and package.module:attribute of your own")
    found, _ = registry.load(PAGING_POLICIES, name, "policy")
    if not isinstance(found, Policy):
        raise InputError(f"policy {name!r} is {type(found).__name__}, not mallocgame.baselines.paging.Policy")
    return found


def harmonic(k: int) -> float:
    """Return H_k = 1 + 1/2 + ... + 1/k.

    >>> round(harmonic(4), 4)
    2.0833
    """
    return float(np.sum(1.0 / np.arange(1, k + 1)))
