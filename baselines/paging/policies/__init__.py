"""Every policy, one family a module; importing the package registers them all."""

from mallocgame.baselines.paging.policies import (
    adaptive,
    arrival,
    frequency,
    guard,
    lecar,
    lirs,
    marking,
    offline,
    one_bit,
    prefix,
    recency,
    relaxed,
    two_queue,
)

__all__ = [
    "adaptive",
    "arrival",
    "frequency",
    "guard",
    "lecar",
    "lirs",
    "marking",
    "offline",
    "one_bit",
    "prefix",
    "recency",
    "relaxed",
    "two_queue",
]
