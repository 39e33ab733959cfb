"""What a serving system knows about a KV-cache block when the prompt that references it arrives."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.paging.structures import F64, I32, I64
from mallocgame.baselines.paging.trace import Context
from mallocgame.jit import jit

_NEVER_SECONDS = 1e6
_MOST_USES = 16  # counts are capped: those of blocks that every prompt shares only tell how late in the trace it is
F32 = npt.NDArray[np.float32]


@jit
def _rows(blocks: I32, second: float, partial_last: int, uses: I64, last: F64, pause: F64, out: F32) -> None:
    """Write the features of one prompt; ``uses`` is 0 for a block that was never seen."""
    known = 0
    while known < blocks.size and uses[blocks[known]] > 0:
        known += 1
    turns, silence, between = 0, _NEVER_SECONDS, _NEVER_SECONDS
    if known:
        deepest = blocks[known - 1]
        turns, silence, between = uses[deepest], second - last[deepest], pause[deepest]
    for j in range(blocks.size):
        page = blocks[j]
        parent = blocks[j - 1] if j else page
        out[j, 0] = j
        out[j, 1] = blocks.size
        out[j, 2] = blocks.size - 1 - j
        out[j, 3] = partial_last if j == blocks.size - 1 else 0
        out[j, 4] = known
        out[j, 5] = j - known
        out[j, 6] = min(turns, _MOST_USES)
        out[j, 7] = silence
        out[j, 8] = between
        out[j, 9] = min(uses[parent], _MOST_USES)
        out[j, 10] = second - last[page] if uses[page] > 0 else _NEVER_SECONDS


@jit
def _remember(blocks: I32, second: float, uses: I64, last: F64, pause: F64) -> None:
    known = 0
    while known < blocks.size and uses[blocks[known]] > 0:
        known += 1
    turns, silence = 0, _NEVER_SECONDS
    if known:
        turns, silence = uses[blocks[known - 1]], second - last[blocks[known - 1]]
    first = silence if turns > 1 or known > 1 else _NEVER_SECONDS
    for j in range(blocks.size):
        page = blocks[j]
        pause[page] = second - last[page] if uses[page] > 0 else first
        uses[page] += 1
        last[page] = second


class ConversationFeatures:
    """Turns prompts, in order of arrival, into one row of features a block; keeps O(distinct blocks) of history.

    A prompt that continues a conversation starts with the blocks of the turn before, so the longest prefix of known
    blocks tells which conversation it is, and the deepest known block when it spoke last and how often.
    """

    NAMES: ClassVar[tuple[str, ...]] = (
        "position",
        "blocks",
        "blocks_after",
        "partial_last",
        "known_prefix",
        "beyond_prefix",
        "turns",
        "seconds_since_turn",
        "seconds_between_turns",
        "parent_uses",
        "seconds_since_use",
    )

    def __init__(self, block_tokens: int = 512) -> None:
        self.block_tokens = block_tokens
        self._uses, self._last, self._pause = np.zeros(1024, np.int64), np.zeros(1024), np.zeros(1024)

    def _make_room(self, num_pages: int) -> None:
        if num_pages > self._uses.size:
            more = max(num_pages - self._uses.size, self._uses.size)
            self._uses = np.concatenate((self._uses, np.zeros(more, np.int64)))
            self._last = np.concatenate((self._last, np.zeros(more)))
            self._pause = np.concatenate((self._pause, np.zeros(more)))

    def look(self, second: float, prompt_tokens: int, pages: I32) -> F32:
        """Return float32[len(pages), len(NAMES)] for the blocks of one prompt, without remembering it."""
        self._make_room(int(pages.max(initial=-1)) + 1)
        out = np.empty((pages.size, len(self.NAMES)), np.float32)
        partial = int(prompt_tokens % self.block_tokens != 0)
        _rows(pages, second, partial, self._uses, self._last, self._pause, out)
        return out

    def remember(self, second: float, pages: I32) -> None:
        """Note that a prompt came."""
        self._make_room(int(pages.max(initial=-1)) + 1)
        _remember(pages, second, self._uses, self._last, self._pause)

    def rows(self, timestamp_ms: float, prompt_tokens: int, pages: I32) -> F32:
        """Return the features of one prompt, then remember it."""
        second = timestamp_ms / 1000.0
        out = self.look(second, prompt_tokens, pages)
        self.remember(second, pages)
        return out


def prompt_context(pages: I32, starts: I64, seconds: F64, tokens: I64, block_tokens: int) -> Context:
    """Return the context of prompts: prompt p asks for ``pages[starts[p]:starts[p + 1]]`` at ``seconds[p]``."""
    features = ConversationFeatures(block_tokens)
    rows = [np.zeros((0, len(ConversationFeatures.NAMES)), np.float32)]
    for number in range(tokens.size):
        blocks = pages[starts[number] : starts[number + 1]]
        rows.append(features.rows(1000.0 * float(seconds[number]), int(tokens[number]), blocks))
    return Context(names=ConversationFeatures.NAMES, values=np.concatenate(rows))
