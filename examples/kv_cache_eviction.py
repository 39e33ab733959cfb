"""A paged KV cache that evicts by learned bits: fit on yesterday's prompts, save, load, serve today's.

The cache is a dict of block hashes. Blocks whose bit is 1 go first, the deepest of a prompt before those it continues;
then the least recently used. Run: python examples/kv_cache_eviction.py
"""

import tempfile
from collections import OrderedDict
from pathlib import Path

from mallocgame.baselines.paging import Predictor, chat


class KvCache:
    """``capacity`` blocks; ``bits`` decide who goes first (without a predictor: LRU)."""

    def __init__(self, capacity: int, predictor: Predictor | None) -> None:
        self.capacity, self.predictor = capacity, predictor
        self.first: OrderedDict[int, None] = OrderedDict()  # may go first, in that order
        self.last: OrderedDict[int, None] = OrderedDict()

    def serve(self, blocks: list[int], second: float) -> int:
        """Serve one prompt; return how many leading blocks need not be computed."""
        usable = 0
        while usable < len(blocks) and (blocks[usable] in self.first or blocks[usable] in self.last):
            usable += 1
        bits = [0] * len(blocks)
        if self.predictor is not None:
            bits = list(self.predictor.predict(blocks, second=second))
            self.predictor.observe(blocks, second=second)
        for block in blocks:  # in use now: nobody takes them
            self.first.pop(block, None)
            self.last.pop(block, None)
        while len(self.first) + len(self.last) + len(blocks) > self.capacity and (self.first or self.last):
            (self.first or self.last).popitem(last=False)
        for block, bit in zip(reversed(blocks), reversed(bits), strict=True):  # the deepest is the oldest
            (self.first if bit else self.last)[block] = None
        return usable


def main() -> None:
    """Fit on one day of chats, serve another, and compare with LRU."""
    yesterday, today = chat(num_sessions=600, seed=1), chat(num_sessions=600, seed=2)
    capacity = 3000
    path = Path(tempfile.mkdtemp()) / "bits.npz"
    Predictor.fit(yesterday, capacity).save(path)
    assert today.prompts is not None
    assert today.prompts.seconds is not None
    starts, seconds = today.prompts.starts, today.prompts.seconds
    for name, predictor in (("lru", None), ("learned bits", Predictor.load(path))):
        cache, saved = KvCache(capacity, predictor), 0
        for number in range(today.prompts.num_prompts):
            saved += cache.serve(
                today.pages[starts[number] : starts[number + 1]].tolist(), second=float(seconds[number])
            )
        print(f"{name}: {saved} of {today.num_requests} blocks need not be computed")


if __name__ == "__main__":
    main()
