"""What a serving system knows about a KV-cache block when the prompt that references it arrives."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.paging.structures import I32

_NEVER_SECONDS = 1e6
_MOST_USES = 16  # counts are capped: those of blocks that every prompt shares only tell how late in the trace it is


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
        self._block_tokens = block_tokens
        self._uses: list[int] = []
        self._last_second: list[float] = []
        self._pause: list[float] = []

    def rows(self, timestamp_ms: float, prompt_tokens: int, pages: I32) -> npt.NDArray[np.float32]:
        """Return float32[len(pages), len(NAMES)] for the blocks of one prompt, then remember the prompt."""
        second, blocks = timestamp_ms / 1000.0, pages.tolist()
        known = 0
        while known < len(blocks) and blocks[known] < len(self._uses):
            known += 1
        deepest = blocks[known - 1] if known else -1
        turns = self._uses[deepest] if known else 0
        silence = second - self._last_second[deepest] if known else _NEVER_SECONDS
        pause = self._pause[deepest] if known else _NEVER_SECONDS
        out = np.zeros((len(blocks), len(self.NAMES)), np.float32)
        last = len(blocks) - 1
        for j, page in enumerate(blocks):
            parent = blocks[j - 1] if j else page
            seen = page < len(self._uses)
            out[j] = (
                j,
                len(blocks),
                last - j,
                j == last and prompt_tokens % self._block_tokens != 0,
                known,
                j - known,
                min(turns, _MOST_USES),
                silence,
                pause,
                min(self._uses[parent], _MOST_USES) if parent < len(self._uses) else 0,
                second - self._last_second[page] if seen else _NEVER_SECONDS,
            )
        for page in blocks:
            if page >= len(self._uses):
                self._uses.append(1)
                self._last_second.append(second)
                self._pause.append(silence if turns > 1 or known > 1 else _NEVER_SECONDS)
            else:
                self._uses[page] += 1
                self._pause[page] = second - self._last_second[page]
                self._last_second[page] = second
        return out
