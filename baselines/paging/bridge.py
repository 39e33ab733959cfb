"""From a scheduled Program to page requests: every tensor is split into equal tiles, every tile is a page.

Loops are unrolled (at most ``max_requests`` requests in all). A use of fewer bytes than the tensor has touches so many
tiles, and moves on by as many at its next execution, as a loop over slices does. Within one instruction a tile counts
once. A static schedule makes the discard bits exact: they are what a compiler can emit as evict-first hints.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mallocgame.baselines.paging.bits import discard_bits
from mallocgame.baselines.paging.sized import DEFINE, READ, UPDATE, AccessTrace
from mallocgame.baselines.paging.structures import I32, I64, U8
from mallocgame.baselines.paging.trace import from_ids, next_use
from mallocgame.errors import InputError
from mallocgame.program import Program, Use, UseKind


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TiledProgram:
    """A program as page requests.

    Attributes:
        accesses: the requests, with kinds, bundles (one an executed instruction) and dead contents marked.
        tile_bytes: bytes of one page.
        tensor_of_page: int32[num_pages], index into ``program.tensors``.
        tile_of_page: int64[num_pages], which tile of the tensor.
        truncated: the unrolled program has more requests than were asked for.
        instructions: names of the program's instructions.
        tensors: names of the program's tensors.
        step_of_bundle: int64[bundles], the instruction that each bundle executes.
    """

    accesses: AccessTrace
    tile_bytes: int
    tensor_of_page: I32
    tile_of_page: I64
    truncated: bool
    instructions: tuple[str, ...]
    tensors: tuple[str, ...]
    step_of_bundle: I64

    def evict_first_bits(self, num_frames: int) -> U8:
        """Return the exact discard bits for a cache of ``num_frames`` tiles: 1 = this operand may go first."""
        return discard_bits(self.accesses.pages, num_frames)

    def evict_first_rows(self, num_frames: int) -> list[dict[str, Any]]:
        """Return the hints that a compiler can emit: one row for each operand of each instruction that is executed.

        A row has the step, the instruction, the tensor, how often its tiles are touched there, the share of those
        touches with bit 1 (in a loop it may change from one iteration to the next) and ``evict_first``, the majority.
        """
        bits = self.evict_first_bits(num_frames)
        steps = self.step_of_bundle[self.accesses.bundles]
        owners = self.tensor_of_page[self.accesses.pages.pages].astype(np.int64)
        keys, place = np.unique(steps * max(1, len(self.tensors)) + owners, return_inverse=True)
        touches, ones = np.bincount(place, minlength=keys.size), np.bincount(place, bits, minlength=keys.size)
        rows = []
        for key, count, share in zip(
            keys.tolist(), touches.tolist(), (ones / np.maximum(1, touches)).tolist(), strict=True
        ):
            step, tensor = divmod(key, max(1, len(self.tensors)))
            rows.append(
                {
                    "step": step,
                    "instruction": self.instructions[step],
                    "tensor": self.tensors[tensor],
                    "touches": count,
                    "evict_first_share": share,
                    "evict_first": int(share > 0.5),
                }
            )
        return rows


def tile_program(program: Program, tile_bytes: int, *, max_requests: int = 10_000_000) -> TiledProgram:
    """Turn ``program`` into requests to tiles of ``tile_bytes``.

    Raises:
        InputError: ``tile_bytes`` or ``max_requests`` below 1.
    """
    if tile_bytes < 1 or max_requests < 1:
        raise InputError(f"need tile_bytes and max_requests >= 1, got {tile_bytes} and {max_requests}")
    tiles = np.array([-(-t.size_bytes // tile_bytes) for t in program.tensors], np.int64)
    first_tile = np.concatenate(([0], np.cumsum(tiles)))
    uses_at: list[list[tuple[int, Use]]] = [[] for _ in range(program.num_steps)]
    for index, tensor in enumerate(program.tensors):
        for use in tensor.uses:
            uses_at[use.step].append((index, use))
    executions: dict[tuple[int, int], int] = {}
    ids: list[int] = []
    kinds: list[int] = []
    bundles: list[int] = []
    truncated = False
    steps: list[int] = []
    for bundle, step in enumerate(_executed_steps(program, 0, program.num_steps)):
        touched: dict[int, int] = {}
        for number, (index, use) in enumerate(sorted(uses_at[step], key=lambda u: u[1].kind != UseKind.READ)):
            count = min(-(-use.bytes // tile_bytes), int(tiles[index]))
            start = executions.get((step, number), 0)
            executions[step, number] = start + count
            for j in range(start, start + count):
                page = int(first_tile[index] + j % tiles[index])
                touched[page] = _merge(touched.get(page), use.kind)
        if len(ids) + len(touched) > max_requests:
            truncated = True
            break
        steps.append(step)
        ids.extend(touched)
        kinds.extend(touched.values())
        bundles.extend([bundle] * len(touched))
    trace = from_ids(np.array(ids, np.int64), name=program.name)
    owner = np.zeros(trace.num_pages, np.int64)
    owner[trace.pages] = ids
    owners = (np.searchsorted(first_tile, owner, side="right") - 1).astype(np.int32)
    output = np.array([t.is_output for t in program.tensors], bool)[owners] if trace.num_pages else np.zeros(0, bool)
    kind_array = np.array(kinds, np.uint8)
    last_tile = owner == first_tile[owners + 1] - 1
    sizes = np.array([t.size_bytes for t in program.tensors], np.int64)[owners] if trace.num_pages else owner
    accesses = AccessTrace(
        pages=trace,
        size_bytes=np.where(last_tile, sizes - (tiles[owners] - 1) * tile_bytes, tile_bytes).astype(np.int64),
        kinds=kind_array,
        bundles=np.array(bundles, np.int64),
        dead_after=_dead_after(trace.pages, next_use(trace), kind_array, output, truncated),
    )
    return TiledProgram(
        accesses=accesses,
        tile_bytes=tile_bytes,
        tensor_of_page=owners,
        tile_of_page=owner - first_tile[owners],
        truncated=truncated,
        instructions=tuple(instruction.name for instruction in program.instructions),
        tensors=tuple(tensor.name for tensor in program.tensors),
        step_of_bundle=np.array(steps, np.int64),
    )


def _executed_steps(program: Program, start: int, stop: int, depth: int = 0) -> Iterator[int]:
    """Yield the steps of [start, stop) in the order of execution, loops inside unrolled."""
    outer = [(loop.start_step, loop.end_step, loop.trip_count) for loop in program.loops]
    inside = sorted((a, -b, trips) for a, b, trips in outer if start <= a and b <= stop)
    # Loops that span the same steps as their parent are told apart by how many of them were entered (depth).
    same = [entry for entry in inside if (entry[0], -entry[1]) == (start, stop)]
    inside = same[depth:] + [entry for entry in inside if (entry[0], -entry[1]) != (start, stop)]
    step = start
    for a, negative_end, trips in inside:
        if a < step:
            continue
        yield from range(step, a)
        end = -negative_end
        again = depth + 1 if (a, end) == (start, stop) else 1
        for _ in range(max(round(trips), 1)):  # an expected count may be a fraction
            yield from _executed_steps(program, a, end, again)
        step = end
    yield from range(step, stop)


def _merge(before: int | None, kind: UseKind) -> int:
    """Combine two touches of one tile by one instruction: contents are needed unless every touch overwrites them."""
    now = {UseKind.READ: READ, UseKind.DEFINE: DEFINE, UseKind.UPDATE: UPDATE}[kind]
    if before is None or before == now:
        return now
    return UPDATE


def _dead_after(pages: I32, following: I64, kinds: U8, output: U8, truncated: bool) -> U8:
    """Contents are dead if the next touch overwrites them, or there is none and the tensor is no output."""
    n = pages.size
    ends = following == n
    overwritten = np.zeros(n, bool)
    overwritten[~ends] = kinds[following[~ends]] == DEFINE
    at_end = np.zeros(n, bool) if truncated else ends & ~output[pages].astype(bool)
    dead: U8 = (overwritten | at_end).astype(np.uint8)
    return dead
