"""Ascending lists of integers at the front of an array: what is chosen, what takes space, what queues hold."""

import numpy as np

from mallocgame.baselines.anneal.state import I64
from mallocgame.jit import part


@part
def where(keys: I64, count: int, key: int) -> int:
    """Return how many of ``keys[:count]``, ascending, are less than ``key``."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@part
def insert_key(keys: I64, count: int, key: int) -> None:
    """Insert a key into ``keys[:count]``, ascending."""
    at = where(keys, count, key)
    n, last, one = np.uintp(count), np.uintp(at), np.uintp(1)  # unsigned: then the loop becomes vector instructions
    while n > last:
        keys[n] = keys[n - one]
        n -= one
    keys[at] = key


@part
def remove_key(keys: I64, count: int, key: int) -> None:
    """Remove a key that is in ``keys[:count]``, ascending."""
    n, last, one = np.uintp(where(keys, count, key)), np.uintp(count - 1), np.uintp(1)
    while n < last:
        keys[n] = keys[n + one]
        n += one
