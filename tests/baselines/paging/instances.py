"""Random request sequences and wrong bits that the theory tests search for violations."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Ints = list[int]
RATES = (0.0, 0.05, 0.1, 0.3, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Instance:
    pages: Ints
    k: int
    flips: np.ndarray  # float[n] in [0, 1)
    rate_zeros: float
    rate_ones: float

    def flip(self, truth: Ints) -> Ints:
        """Turn the truth into predictions."""
        rates = [self.rate_ones if bit else self.rate_zeros for bit in truth]
        return [bit ^ int(draw < rate) for bit, draw, rate in zip(truth, self.flips, rates, strict=True)]


def sequence(rng: np.random.Generator, kind: int, n: int, k: int) -> Ints:
    """The mix that had power: cyclic over k + 1 pages, uniform, runs, and skewed."""
    if kind == 0:
        return [i % (k + 1) for i in range(n)]
    if kind == 1:
        return rng.integers(0, k + 1 + int(rng.integers(1, 4)), n).tolist()
    if kind == 2:
        out: Ints = []
        while len(out) < n:
            start, length = int(rng.integers(0, k + 3)), int(rng.integers(1, k + 2))
            out.extend((start + j) % (k + 3) for j in range(length))
        return out[:n]
    return np.minimum(rng.exponential(k / 1.5, n).astype(int), 2 * k + 2).tolist()


def instances(count: int, *, seed: int, largest_k: int = 5, longest: int = 45) -> Iterator[Instance]:
    rng = np.random.default_rng(seed)
    for number in range(count):
        k, n = int(rng.integers(1, largest_k + 1)), int(rng.integers(5, longest + 1))
        yield Instance(
            pages=sequence(rng, number % 4, n, k),
            k=k,
            flips=rng.random(n),
            rate_zeros=RATES[int(rng.integers(len(RATES)))],
            rate_ones=RATES[int(rng.integers(len(RATES)))],
        )
