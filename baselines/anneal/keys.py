"""Ascending lists of integers at the front of an array: what is chosen, what takes space, what queues hold."""

from mallocgame.baselines.anneal.state import I64
from mallocgame.jit import part


@part
def insert_key(keys: I64, count: int, key: int) -> None:
    """Insert a key into ``keys[:count]``, ascending."""
    n = count
    while n > 0 and keys[n - 1] > key:
        keys[n] = keys[n - 1]
        n -= 1
    keys[n] = key


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
def remove_key(keys: I64, count: int, key: int) -> None:
    """Remove a key that is in ``keys[:count]``, ascending."""
    for n in range(where(keys, count, key), count - 1):
        keys[n] = keys[n + 1]
