"""Prompts as JSON Lines: each line asks for the KV-cache blocks of one prompt, in order.

Read are Mooncake's traces (milliseconds, 512 tokens a block), Qwen-Bailian's (seconds, 16 tokens a block) and lists of
the block hashes of vLLM, SGLang or LMCache. Hashes may be integers of any size or text. A block is told apart by its
whole prefix: the same hash under two prefixes is two blocks, as their keys and values differ.
"""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mallocgame.baselines.paging.predict.conversation import ConversationFeatures
from mallocgame.baselines.paging.readers.files import Progress, text_blocks
from mallocgame.baselines.paging.readers.options import ReadOptions
from mallocgame.baselines.paging.trace import Context, PageTrace, Prompts
from mallocgame.errors import TraceError

_IDS = ("hash_ids", "block_hashes", "chunk_hashes", "block_ids", "hashes")
_TOKENS = ("input_length", "prompt_tokens", "num_prompt_tokens", "input_tokens")
_TIMES = ("timestamp", "arrival_time", "time")
_EVENTS = ("BlockStored", "BlockRemoved", "AllBlocksCleared")
_USUAL_TOKENS = (512, 16, 256, 128, 64, 32, 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    when: float | None
    tokens: int | None
    blocks: list[Any]
    bailian: bool


def _lines(path: Path, on_progress: Progress | None) -> Iterator[tuple[int, Any]]:
    number = 0
    for block in text_blocks(path, on_progress):
        for text in block.removesuffix(b"\n").split(b"\n"):
            number += 1
            if not text.strip():
                continue
            try:
                yield number, json.loads(text)
            except (ValueError, RecursionError):
                raise TraceError(
                    path, number, "expected a JSON object with timestamp, input_length and hash_ids"
                ) from None


def _parse(path: Path, number: int, row: Any) -> _Line:
    if not isinstance(row, dict):
        raise TraceError(path, number, "expected a JSON object with timestamp, input_length and hash_ids")
    if str(row.get("event_type", row.get("event", row.get("type")))) in _EVENTS:
        reason = "an event of a KV cache says what was stored, not what was asked for (hits are missing): log requests"
        raise TraceError(path, number, reason)
    ids = next((row[name] for name in _IDS if name in row), None)
    if ids is None:
        raise TraceError(path, number, "expected a JSON object with timestamp, input_length and hash_ids")
    if not isinstance(ids, list) or not all(type(x) is str or (type(x) is int and x >= 0) for x in ids):
        raise TraceError(path, number, "hash_ids must be a list of non-negative integers or of texts")
    when = next((row[name] for name in _TIMES if name in row), None)
    tokens = next((row[name] for name in _TOKENS if name in row), None)
    odd_time = when is not None and (type(when) not in (int, float) or not math.isfinite(when))
    if odd_time or (tokens is not None and (type(tokens) is not int or tokens < 0)):
        raise TraceError(path, number, "timestamp must be a number and input_length a non-negative integer")
    return _Line(when=when, tokens=tokens, blocks=ids, bailian="chat_id" in row)


def infer_block_tokens(lengths: list[tuple[int, int]]) -> int | None:
    """Return the tokens of a block that fit every (tokens, blocks) of a prompt, a usual size if one does, else None.

    >>> infer_block_tokens([(6758, 14), (7322, 15)])
    512
    """
    for whole_only in (False, True):  # the last block may be partial; or only full blocks are listed
        least, most = 1, 1 << 30
        for tokens, blocks in lengths:
            if whole_only:
                least = max(least, tokens // (blocks + 1) + 1)
                most = min(most, tokens // blocks if blocks else most)
            elif blocks:
                least = max(least, -(-tokens // blocks))
                most = min(most, (tokens - 1) // (blocks - 1) if blocks > 1 else most)
            elif tokens:
                most = 0
        if least <= most:
            powers = (1 << j for j in range(31))
            return next((size for size in (*_USUAL_TOKENS, *powers) if least <= size <= most), least)
    return None


def _block_tokens(path: Path, lines: list[_Line], chosen: int | None) -> tuple[int, str]:
    """Return the tokens of a block, and a note where they were assumed."""
    if chosen is not None:
        return chosen, ""
    lengths = [(line.tokens, len(line.blocks)) for line in lines if line.tokens is not None]
    if not lengths:
        return 1, "no prompt lengths in the file: a block counts as one token (--block-tokens)"
    found = infer_block_tokens(lengths)
    if found is None:
        raise TraceError(path, None, "no size of a block fits all prompt lengths; say it with --block-tokens")
    return found, f"a block is taken to hold {found} tokens (--block-tokens)"


def _milliseconds(lines: list[_Line], unit: str | None) -> tuple[float, str]:
    """Return the factor from the file's time unit to milliseconds, and a note where it was assumed."""
    if unit is not None:
        return (1.0 if unit == "ms" else 1000.0), ""
    if any(line.bailian for line in lines):
        return 1000.0, "timestamps are taken as seconds, as in Bailian's traces (--time-unit)"
    if any(line.when is not None and line.when != int(line.when) for line in lines):
        return 1000.0, "timestamps with fractions are taken as seconds (--time-unit)"
    return 1.0, ""


def read_prompts(
    path: str | os.PathLike[str], *, options: ReadOptions | None = None, on_progress: Progress | None = None
) -> PageTrace:
    """Read prompts; see the module.

    The trace carries its prompts, and as context what a serving system knows when the prompt arrives
    (predict/conversation.py); the output length is not among it.

    Raises:
        TraceError: a line that is no such prompt, or lengths that no size of a block fits.
    """
    file, options = Path(path), options or ReadOptions()
    lines = [_parse(file, number, row) for number, row in _lines(file, on_progress)]
    if not lines:
        return PageTrace(name=file.name, pages=np.zeros(0, np.int32), num_pages=0)
    block_tokens, block_note = _block_tokens(file, lines, options.block_tokens)
    factor, time_note = _milliseconds(lines, options.time_unit)
    features = ConversationFeatures(block_tokens)
    nodes: dict[tuple[int, Any], int] = {}
    pages: list[int] = []
    starts, tokens, rows = [0], [], []
    for line in lines:
        parent, first = -1, len(pages)
        for block in line.blocks:
            parent = nodes.setdefault((parent, block), len(nodes))
            pages.append(parent)
        starts.append(len(pages))
        held = len(line.blocks) * block_tokens
        tokens.append(held if line.tokens is None else line.tokens)
        rows.append(features.rows((line.when or 0.0) * factor, tokens[-1], np.array(pages[first:], np.int32)))
    distinct = len({block for _, block in nodes})
    tree_note = (
        f"{distinct} hashes stand under {len(nodes)} different prefixes: each is a block of its own"
        if distinct != len(nodes)
        else ""
    )
    trace = PageTrace(
        name=file.name,
        pages=np.array(pages, np.int32),
        num_pages=len(nodes),
        context=Context(names=ConversationFeatures.NAMES, values=np.concatenate(rows)),
        prompts=Prompts(
            starts=np.array(starts, np.int64),
            tokens=np.array(tokens, np.int64),
            block_tokens=block_tokens,
            seconds=np.array([(line.when or 0.0) * factor / 1000.0 for line in lines]),
        ),
    )
    return trace.noting("" if block_tokens == 512 else block_note, time_note, tree_note)


def read_mooncake(path: str | os.PathLike[str], *, on_progress: Progress | None = None) -> PageTrace:
    """Read a Mooncake trace (``read_prompts`` under its older name)."""
    return read_prompts(path, on_progress=on_progress)
