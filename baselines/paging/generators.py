"""Request sequences made by rule: Zipf, cyclic, and two accelerator workloads whose future no compiler knows."""

from collections.abc import Callable

import numpy as np

from mallocgame.baselines.paging.predict.conversation import prompt_context
from mallocgame.baselines.paging.structures import I64
from mallocgame.baselines.paging.trace import PageTrace, Prompts, from_ids
from mallocgame.errors import InputError


def _need(**values: float) -> None:
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")


def zipf(
    *, num_pages: int = 1_000_000, num_requests: int = 10_000_000, exponent: float = 1.0, seed: int = 0
) -> PageTrace:
    """Return independent requests, page r with probability proportional to 1 / r**exponent."""
    _need(num_pages=num_pages, num_requests=num_requests)
    cumulative = np.cumsum(1.0 / np.arange(1, num_pages + 1) ** exponent)
    draw = np.random.default_rng(seed).random(num_requests)
    ids = np.searchsorted(cumulative / cumulative[-1], draw).astype(np.int64)
    return from_ids(np.minimum(ids, num_pages - 1), name=f"zipf-{exponent:g}")


def cyclic(*, num_pages: int, num_requests: int) -> PageTrace:
    """Return 0, 1, ..., num_pages - 1, 0, 1, ...: at k = num_pages - 1 the worst case of LRU and of flushing."""
    _need(num_pages=num_pages, num_requests=num_requests)
    return from_ids(np.arange(num_requests, dtype=np.int64) % num_pages, name=f"cyclic-{num_pages}")


def moe_decode(  # noqa: PLR0913 (its options, by name)
    *,
    num_tokens: int = 2000,
    num_layers: int = 16,
    num_experts: int = 64,
    experts_per_token: int = 4,
    dense_tiles: int = 2,
    expert_tiles: int = 4,
    skew: float = 0.8,
    stickiness: float = 0.3,
    seed: int = 0,
) -> PageTrace:
    """Return the weight tiles that a mixture-of-experts model reads while it decodes, token by token.

    Every layer reads its ``dense_tiles`` (attention, router: static) and ``expert_tiles`` of each of
    ``experts_per_token`` experts, drawn without replacement with Zipf popularity of exponent ``skew`` (its own order of
    experts in every layer); with probability ``stickiness`` a token keeps the layer's experts of the token before.
    """
    _need(num_tokens=num_tokens, num_layers=num_layers, num_experts=num_experts, experts_per_token=experts_per_token)
    if experts_per_token > num_experts:
        raise InputError(f"cannot route a token to {experts_per_token} of {num_experts} experts")
    if not 0.0 <= stickiness <= 1.0:
        raise InputError(f"stickiness is a probability, got {stickiness}")
    rng = np.random.default_rng(seed)
    log_weight = -skew * np.log(np.arange(1, num_experts + 1))
    log_weights = np.stack([rng.permutation(log_weight) for _ in range(num_layers)])
    # The largest of log weight + Gumbel noise are a weighted draw without replacement.
    noise = rng.gumbel(size=(num_tokens, num_layers, num_experts))
    chosen = np.argpartition(-(log_weights + noise), experts_per_token - 1, axis=2)[:, :, :experts_per_token]
    keep = rng.random((num_tokens, num_layers)) < stickiness
    for token in range(1, num_tokens):
        chosen[token, keep[token]] = chosen[token - 1, keep[token]]
    layer_tiles = dense_tiles + num_experts * expert_tiles
    base = np.arange(num_layers)[None, :, None] * layer_tiles
    dense = np.broadcast_to(base + np.arange(dense_tiles), (num_tokens, num_layers, dense_tiles))
    experts = base[..., None] + dense_tiles + chosen[..., None] * expert_tiles + np.arange(expert_tiles)
    flat = experts.reshape(num_tokens, num_layers, experts_per_token * expert_tiles)
    return from_ids(np.concatenate((dense, flat), axis=2).ravel().astype(np.int64), name="moe-decode")


def kv_cache(
    *,
    num_sequences: int = 400,
    batch: int = 16,
    block_tokens: int = 16,
    mean_prompt_tokens: int = 256,
    mean_output_tokens: int = 128,
    shared_prefix_blocks: int = 4,
    seed: int = 0,
) -> PageTrace:
    """Return the blocks of a paged KV cache that continuous batching reads: one decode step, every running sequence.

    A sequence reads all its blocks at each of its steps and opens a new one every ``block_tokens`` tokens; lengths are
    geometric, so neither the end of a sequence nor its next block is known in advance. All prompts start with
    ``shared_prefix_blocks`` common blocks (a system prompt). ``batch`` sequences run at a time.
    """
    _need(
        num_sequences=num_sequences,
        batch=batch,
        block_tokens=block_tokens,
        mean_prompt_tokens=mean_prompt_tokens,
        mean_output_tokens=mean_output_tokens,
    )
    rng = np.random.default_rng(seed)
    prompts = rng.geometric(1.0 / mean_prompt_tokens, num_sequences)
    outputs = rng.geometric(1.0 / mean_output_tokens, num_sequences)
    next_block, waiting = shared_prefix_blocks, 0
    running: list[tuple[list[int], int, int]] = []  # blocks, tokens held, tokens still to come
    parts: list[I64] = []
    while running or waiting < num_sequences:
        while len(running) < batch and waiting < num_sequences:
            own = -(-int(prompts[waiting]) // block_tokens)
            blocks = [*range(shared_prefix_blocks), *range(next_block, next_block + own)]
            next_block += own
            running.append((blocks, int(prompts[waiting]), int(outputs[waiting])))
            waiting += 1
        step = []
        for blocks, held, left in running:
            if held % block_tokens == 0:
                blocks.append(next_block)
                next_block += 1
            parts.append(np.array(blocks, np.int64))
            if left > 1:
                step.append((blocks, held + 1, left - 1))
        running = step
    return from_ids(np.concatenate(parts), name="kv-cache")


def chat(  # noqa: PLR0913 (its options, by name)
    *,
    num_sessions: int = 4000,
    sessions_a_second: float = 1.0,
    block_tokens: int = 16,
    num_system_prompts: int = 40,
    mean_system_tokens: int = 700,
    mean_user_tokens: int = 120,
    mean_output_tokens: int = 220,
    mean_turns: float = 3.0,
    mean_pause_seconds: float = 60.0,
    seed: int = 0,
) -> PageTrace:
    """Return prompts of chats with several turns, as a service with small blocks sees them (Qwen-Bailian's format).

    Sessions come at random times; each starts with one of the system prompts, of Zipf popularity. Every turn repeats
    the whole conversation and adds what the user writes; the answer is part of the next turn's prompt. The number of
    turns is geometric, as are all lengths; pauses are log-normal. Only full blocks are kept, as servers do.
    """
    _need(num_sessions=num_sessions, block_tokens=block_tokens, num_system_prompts=num_system_prompts)
    _need(mean_turns=mean_turns, mean_user_tokens=mean_user_tokens, mean_output_tokens=mean_output_tokens)
    rng = np.random.default_rng(seed)
    popularity = 1.0 / np.arange(1, num_system_prompts + 1)
    system = rng.choice(num_system_prompts, num_sessions, p=popularity / popularity.sum())
    system_tokens = rng.geometric(1.0 / max(1, mean_system_tokens), num_system_prompts)
    begins = np.cumsum(rng.exponential(1.0 / sessions_a_second, num_sessions))
    turns: list[tuple[float, int, int]] = []  # second, session, tokens
    for session in range(num_sessions):
        second, tokens = float(begins[session]), int(system_tokens[system[session]])
        for _ in range(int(rng.geometric(1.0 / mean_turns))):
            tokens += int(rng.geometric(1.0 / mean_user_tokens))
            turns.append((second, session, tokens))
            tokens += int(rng.geometric(1.0 / mean_output_tokens))
            second += float(rng.lognormal(np.log(mean_pause_seconds) - 0.5, 1.0))
    turns.sort()
    nodes: dict[tuple[int, int], int] = {}
    pages, starts, held = [], [0], []
    for _, session, tokens in turns:
        shared = int(system_tokens[system[session]]) // block_tokens
        for block in range(tokens // block_tokens):
            owner = -1 - int(system[session]) if block < shared else session
            pages.append(nodes.setdefault((owner, block), len(nodes)))
        starts.append(len(pages))
        held.append(tokens // block_tokens * block_tokens)
    ids, first, lengths = np.array(pages, np.int32), np.array(starts, np.int64), np.array(held, np.int64)
    seconds = np.array([second for second, _, _ in turns])
    return PageTrace(
        name="chat",
        pages=ids,
        num_pages=len(nodes),
        context=prompt_context(ids, first, seconds, lengths, block_tokens),
        prompts=Prompts(starts=first, tokens=lengths, block_tokens=block_tokens, seconds=seconds),
    )


GENERATORS: dict[str, Callable[..., PageTrace]] = {
    "zipf": zipf,
    "cyclic": cyclic,
    "moe": moe_decode,
    "kv": kv_cache,
    "chat": chat,
}
