"""Packing instances with a known answer, made for tests: each is cut out of a full rectangle of time × address."""

import random

from mallocgame.baselines.packing.buffers import Buffer


def planted(
    seed: int, *, num_buffers: int, capacity_bytes: int, num_steps: int, unit_bytes: int = 1, slack: float = 0.0
) -> tuple[list[Buffer], list[int]]:
    """Return buffers and the offsets of a packing within ``capacity_bytes``, without gaps where ``slack`` is 0.

    The rectangle is cut again and again by guillotine cuts and by pinwheels (five pieces round a core, which no
    guillotine cut makes).
    ``slack`` is the share of buffers that lose a part of their lifetime.
    """
    rng = random.Random(seed)
    pieces = [(0, num_steps, 0, capacity_bytes // unit_bytes)]
    stuck = 0
    while len(pieces) < num_buffers and stuck < 1000:
        k = max(rng.sample(range(len(pieces)), min(3, len(pieces))), key=lambda i: _area(pieces[i]))
        new = _cut(rng, pieces[k])
        if new is None:
            stuck += 1
            continue
        pieces[k : k + 1] = new
    rng.shuffle(pieces)
    buffers, offsets = [], []
    for i, (t0, t1, a0, a1) in enumerate(pieces):
        if rng.random() < slack and t1 - t0 > 2:
            t0 += rng.randint(0, (t1 - t0) // 3)
            t1 -= rng.randint(0, (t1 - t0) // 3)
        buffers.append(Buffer(name=f"b{i}", lower=t0, upper=t1, size_bytes=(a1 - a0) * unit_bytes))
        offsets.append(a0 * unit_bytes)
    return buffers, offsets


def _area(piece: tuple[int, int, int, int]) -> int:
    return (piece[1] - piece[0]) * (piece[3] - piece[2])


def _cut(rng: random.Random, piece: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]] | None:
    t0, t1, a0, a1 = piece
    kind = rng.random()
    if kind < 0.25 and t1 - t0 >= 3 and a1 - a0 >= 3:
        ta, tb = sorted(rng.sample(range(t0 + 1, t1), 2))
        aa, ab = sorted(rng.sample(range(a0 + 1, a1), 2))
        return [(t0, tb, a0, aa), (tb, t1, a0, ab), (ta, t1, ab, a1), (t0, ta, aa, a1), (ta, tb, aa, ab)]
    if kind < 0.6 and t1 - t0 >= 2:
        t = rng.randint(t0 + 1, t1 - 1)
        return [(t0, t, a0, a1), (t, t1, a0, a1)]
    if a1 - a0 >= 2:
        a = rng.randint(a0 + 1, a1 - 1)
        return [(t0, t1, a0, a), (t0, t1, a, a1)]
    return None


def random_buffers(seed: int, *, num_buffers: int, num_steps: int, max_size: int) -> list[Buffer]:
    """Return buffers of random size and lifetime; nothing is known about their best height."""
    rng = random.Random(seed)
    buffers = []
    for i in range(num_buffers):
        lower = rng.randrange(num_steps)
        upper = rng.randint(lower + 1, num_steps)
        buffers.append(Buffer(name=f"b{i}", lower=lower, upper=upper, size_bytes=rng.randint(1, max_size)))
    return buffers
