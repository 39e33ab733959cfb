"""A request sequence over dense page ids, and the facts about it that need the whole of it."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.paging.structures import F64, I32, I64, U64
from mallocgame.errors import InputError
from mallocgame.jit import jit

MAX_PAGES = 2**31 - 2


class _SpillFolder:
    """A temporary folder that is removed when nothing refers to it any more."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="mallocgame-paging-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    @contextmanager
    def written(self, name: str) -> Iterator[IO[bytes]]:
        """Open a new file.

        Raises:
            InputError: what is then written does not fit on the disk.
        """
        try:
            with (self.path / name).open("wb") as file:
                yield file
        except OSError as error:
            place = f"{self.path.parent}: cannot write what --spill keeps there"
            raise InputError(f"{place}: {error.strerror or error} (TMPDIR names another folder)") from None

    def array(self, name: str, dtype: npt.DTypeLike, count: int) -> npt.NDArray[Any]:
        """Return a new memory map of ``count`` numbers that has its room on the disk.

        A map that has none ends the process when it is written to.

        Raises:
            InputError: there is no room.
        """
        with self.written(name) as file:
            reserve = getattr(os, "posix_fallocate", lambda descriptor, _, size: os.truncate(descriptor, size))
            reserve(file.fileno(), 0, count * np.dtype(dtype).itemsize)
        return np.asarray(np.memmap(self.path / name, dtype, mode="r+", shape=(count,)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a runtime knows about each request beside its page id, when the request arrives (for learned bits).

    Attributes:
        names: one name a column.
        values: float32[num_requests, len(names)].
    """

    names: tuple[str, ...]
    values: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompts:
    """Which requests belong together: a prompt asks for its KV-cache blocks in order, from its first token on.

    A block holds the keys and values of its tokens after all tokens before them, so a cached block saves work only if
    every earlier block of the prompt is cached too. Ids of blocks stand for the whole prefix up to them (as the hashes
    of serving systems do), so every block has one parent, the block before it.

    Attributes:
        starts: int64[num_prompts + 1], the request at which each prompt starts; the last entry is the number of
            requests.
        tokens: int64[num_prompts], tokens of each prompt.
        block_tokens: tokens of a full block; only the last block of a prompt may have fewer.
        seconds: float64[num_prompts], when each prompt comes, or None.
    """

    starts: I64
    tokens: I64
    block_tokens: int
    seconds: F64 | None = None

    def __post_init__(self) -> None:
        if self.starts.size != self.tokens.size + 1 or self.starts[0] != 0 or (np.diff(self.starts) < 0).any():
            raise InputError(f"need {self.tokens.size + 1} non-decreasing starts from 0, got {self.starts.size}")
        if self.block_tokens < 1:
            raise InputError(f"a block has at least 1 token, got {self.block_tokens}")

    @property
    def num_prompts(self) -> int:
        """How many prompts there are."""
        return int(self.tokens.size)

    def part(self, start: int, stop: int) -> "Prompts":
        """Return the prompts of requests [start, stop), numbered from 0; what is cut off a prompt is forgotten."""
        cut = np.clip(self.starts, start, stop)
        some = cut[1:] > cut[:-1]
        before = (cut[:-1] - self.starts[:-1]) * self.block_tokens
        held = np.minimum(self.tokens - before, (cut[1:] - cut[:-1]) * self.block_tokens)
        starts = np.concatenate((cut[:-1][some] - start, [max(0, stop - start)]))
        seconds = None if self.seconds is None else self.seconds[some]
        return Prompts(starts=starts, tokens=np.maximum(held[some], 0), block_tokens=self.block_tokens, seconds=seconds)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PageTrace:
    """Requests to unit pages.

    Attributes:
        name: for tables and plots.
        pages: int32[n], dense ids in [0, num_pages) in order of first request; may be a memory map of a file.
        num_pages: number of distinct pages.
        context: what else is known with each request, or None.
        prompts: which requests are one prompt, or None where there are none.
        notes: what was assumed or left out when the file was read, one sentence each.
    """

    name: str
    pages: I32
    num_pages: int
    context: Context | None = None
    prompts: Prompts | None = None
    notes: tuple[str, ...] = ()
    _spill: "_SpillFolder | None" = field(default=None, repr=False)  # lives as long as the memory map in it

    @property
    def num_requests(self) -> int:
        """Length n of the sequence."""
        return int(self.pages.size)

    @property
    def is_spilled(self) -> bool:
        """Whether the sequence lies in a temporary file, not in memory."""
        return self._spill is not None

    def noting(self, *notes: str) -> "PageTrace":
        """Return the same trace with further notes; empty ones are left out."""
        return replace(self, notes=(*self.notes, *filter(None, notes)))

    def parents(self) -> I32:
        """Return int32[n], for each request the page before it in its prompt; -1 at a start, or without prompts."""
        out = np.full(self.num_requests, -1, np.int32)
        if self.prompts is not None and self.num_requests:
            out[1:] = self.pages[:-1]
            starts = self.prompts.starts[:-1]
            out[starts[starts < self.num_requests]] = -1
        return out

    def prompt_start(self, request: int) -> int:
        """Return the first request of the prompt that holds ``request``; the request itself without prompts."""
        if self.prompts is None or not 0 <= request < self.num_requests:
            return request
        starts = self.prompts.starts
        return int(starts[np.searchsorted(starts, request, side="right") - 1])

    def __getitem__(self, span: slice) -> "PageTrace":
        """Return a contiguous part of the sequence; ids stay as they are."""
        start, stop, step = span.indices(self.num_requests)
        if step != 1:
            raise InputError("a part of a trace is contiguous: step must be 1")
        context = None if self.context is None else Context(names=self.context.names, values=self.context.values[span])
        prompts = None if self.prompts is None else self.prompts.part(start, max(start, stop))
        return replace(self, pages=self.pages[start:stop], context=context, prompts=prompts)


@jit
def _densify(ids: U64, table_ids: U64, table_dense: I32, count: int, out: I32) -> int:
    """Map ids to dense ids by open addressing; stop before the table is over half full; return requests mapped."""
    mask = np.uint64(table_ids.size - 1)
    for i in range(ids.size):
        key = ids[i]
        h = (key ^ (key >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
        at = (h ^ (h >> np.uint64(29))) & mask
        while table_dense[at] >= 0 and table_ids[at] != key:
            at = (at + np.uint64(1)) & mask
        if table_dense[at] < 0:
            if 2 * count >= table_ids.size:
                return i
            table_ids[at] = key
            table_dense[at] = count
            count += 1
        out[i] = table_dense[at]
    return int(ids.size)


class Densifier:
    """Gives ids the numbers 0, 1, 2, ... in order of first appearance, chunk by chunk; memory is O(distinct ids)."""

    def __init__(self) -> None:
        self._ids = np.zeros(1 << 16, np.uint64)
        self._dense = np.full(1 << 16, -1, np.int32)
        self.num_pages = 0

    def __call__(self, ids: U64) -> I32:
        """Return int32[n], the dense ids of uint64[n] ``ids``."""
        out = np.empty(ids.size, np.int32)
        done = 0
        while True:
            done += _densify(ids[done:], self._ids, self._dense, self.num_pages, out[done:])
            self.num_pages = max(self.num_pages, int(out[:done].max(initial=-1)) + 1)
            if done == ids.size:
                return out
            if self.num_pages > MAX_PAGES:
                raise InputError(f"more than {MAX_PAGES} distinct pages")
            self._grow()

    def _grow(self) -> None:
        used = self._dense >= 0
        ids, order = self._ids[used], np.argsort(self._dense[used])
        self._ids = np.zeros(2 * self._ids.size, np.uint64)
        self._dense = np.full(self._ids.size, -1, np.int32)
        _densify(ids[order], self._ids, self._dense, 0, np.empty(ids.size, np.int32))


def from_ids(ids: Any, *, name: str = "trace", context: Context | None = None) -> PageTrace:
    """Make a trace of any non-negative integer ids.

    Raises:
        InputError: not one-dimensional, not integers, or negative.

    >>> from_ids([70, 10, 70]).pages.tolist()
    [0, 1, 0]
    """
    array = np.asarray(ids)
    if array.ndim != 1:
        raise InputError(f"page ids must be one-dimensional, got shape {array.shape}")
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise InputError(f"page ids must be integers, got {array.dtype}")
    if array.dtype.kind == "i" and array.size and int(array.min()) < 0:
        at = int(np.argmax(array < 0))
        raise InputError(f"page ids must not be negative, got {int(array[at])} at request {at}")
    if context is not None and context.values.shape[0] != array.size:
        raise InputError(f"context has {context.values.shape[0]} rows for {array.size} requests")
    densify = Densifier()
    pages = densify(np.ascontiguousarray(array, np.uint64))
    return PageTrace(name=name, pages=pages, num_pages=densify.num_pages, context=context)


def from_keys(keys: Iterable[Hashable], *, name: str = "trace") -> PageTrace:
    """Make a trace of keys of any hashable kind (text, bytes, tuples, integers of any size), compared as Python does.

    >>> from_keys(["user:17", b"17", "user:17"]).pages.tolist()
    [0, 1, 0]
    """
    numbers: dict[Hashable, int] = {}
    pages = np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int32)
    return PageTrace(name=name, pages=pages, num_pages=len(numbers))


def from_chunks(chunks: Iterable[U64], *, name: str, spill: bool = False, notes: tuple[str, ...] = ()) -> PageTrace:
    """Make a trace from chunks of ids; with ``spill`` the dense ids go to a temporary file, not to memory."""
    densify = Densifier()
    if not spill:
        parts = [densify(chunk) for chunk in chunks]
        pages = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        return PageTrace(name=name, pages=pages, num_pages=densify.num_pages, notes=notes)
    folder = _SpillFolder()
    path = folder.path / "pages.i32"
    with folder.written(path.name) as file:
        for chunk in chunks:
            file.write(densify(chunk).tobytes())
    if path.stat().st_size == 0:
        return PageTrace(name=name, pages=np.zeros(0, np.int32), num_pages=0, notes=notes)
    pages = np.asarray(np.memmap(path, np.int32, mode="r"))
    return PageTrace(name=name, pages=pages, num_pages=densify.num_pages, notes=notes, _spill=folder)


@jit
def _next_use(pages: I32, last: I64, out: npt.NDArray[Any]) -> None:
    for i in range(pages.size - 1, -1, -1):
        page = pages[i]
        out[i] = last[page]
        last[page] = i


def next_use(trace: PageTrace) -> npt.NDArray[Any]:
    """Return for each request the index of the page's next request, n where there is none.

    Returns:
        int32[n], or int64[n] from 2**31 requests; a temporary memory map where the trace itself is one.
    """
    n = trace.num_requests
    dtype = np.int32 if n < 2**31 - 1 else np.int64
    out: npt.NDArray[Any] = np.empty(n, dtype)
    if trace._spill is not None and n:
        out = trace._spill.array(f"next_use-{n}", dtype, n)
    _next_use(trace.pages, np.full(trace.num_pages, n, dtype), out)
    return out
