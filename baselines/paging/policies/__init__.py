"""Every policy, one family a module; importing the package registers them all."""

from mallocgame.baselines.paging.policies import (
    adaptive,
    arrival,
    frequency,
    marking,
    offline,
    one_bit,
    prefix,
    recency,
)

__all__ = ["adaptive", "arrival", "frequency", "marking", "offline", "one_bit", "prefix", "recency"]
