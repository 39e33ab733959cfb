"""A bit for every request inside a running server: ``predict(request)``, ``observe(request)``, and a file to keep it.

A request is one key (any hashable: a block hash, the number of an expert) or, for a predictor fitted on prompts, the
list of a prompt's block hashes in order. Features are kept up to date one request at a time (``features.py``,
``conversation.py``), so the bits are the very ones that ``bits`` gives for a recorded trace.
"""

import json
import os
import time
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.paging.closure import CLOSURES, best_closure, close_bits
from mallocgame.baselines.paging.policies.one_bit import LRU0
from mallocgame.baselines.paging.predict.boosting import LEAST_REQUESTS, Boosted, BoostingConfig
from mallocgame.baselines.paging.predict.conversation import ConversationFeatures
from mallocgame.baselines.paging.predict.features import NAMES, new_history, page_features, remember, write_row
from mallocgame.baselines.paging.predict.learned import fit_bits
from mallocgame.baselines.paging.structures import F64, I32, I64, U8
from mallocgame.baselines.paging.trace import PageTrace
from mallocgame.errors import InputError, TraceError
from mallocgame.files import atomic_path, open_input
from mallocgame.files.arrays import load_arrays
from mallocgame.jit import jit

FILE_FORMAT = 1
F32 = npt.NDArray[np.float32]
StrPath = str | os.PathLike[str]
_OWN = len(NAMES)
_SERVED = BoostingConfig(num_trees=60)  # fewer than for recorded traces: each costs about 10 ns a request


@jit
def _score(row: F32, splits: I64, leaves: F32, base: float) -> float:
    """Add up the trees, laid out by ``_flat_trees``: every walk takes the same number of steps and never branches.

    A float and its bits as an integer are in the same order once the bits of negative ones are turned round.
    """
    bits = row.view(np.int32)
    order = np.empty(row.size, np.int64)
    for j in range(row.size):
        value = np.int64(bits[j])
        order[j] = value if value >= 0 else -2147483648 - value
    inner = splits.shape[1]
    total = np.float32(0.0)
    for tree in range(splits.shape[0]):
        node = 0
        while node < inner:
            split = splits[tree, node]
            node = 2 * node + 1 + (order[split & 255] > (split >> 8))
        total += leaves[tree, node - inner]
    return float(np.float32(base) + total)


@jit
def _predict_page(page: int, now: int, history: F64, splits: I64, leaves: F32, base: float, threshold: float) -> int:
    row = np.empty(6, np.float32)
    write_row(history, page, now, row)
    return 1 if _score(row, splits, leaves, base) > threshold else 0


@jit
def _predict_prompt(  # noqa: PLR0913 (a kernel takes arrays one by one)
    pages: I32,
    now: int,
    history: F64,
    context: F32,
    splits: I64,
    leaves: F32,
    base: float,
    threshold: float,
    bits: U8,
) -> None:
    row = np.empty(6 + context.shape[1], np.float32)
    for j in range(pages.size):
        write_row(history, pages[j], now + j, row)
        row[6:] = context[j]
        bits[j] = 1 if _score(row, splits, leaves, base) > threshold else 0


@jit
def _observe(page: int, now: int, history: F64) -> None:
    remember(history, page, now)


@jit
def _observe_prompt(pages: I32, now: int, history: F64) -> None:
    for j in range(pages.size):
        remember(history, pages[j], now + j)


class Predictor:
    """A fitted model with the history of what it has observed.

    Attributes:
        model: the boosted trees.
        threshold: a score above it gives a 1.
        num_frames: the cache size that it was fitted for.
        block_tokens: of the prompts that it was fitted on; None where it was fitted on single requests.
        closure: how the bits of one prompt are closed, see ``closure.py``.
    """

    def __init__(
        self, *, model: Boosted, threshold: float, num_frames: int, block_tokens: int | None, closure: str = "none"
    ) -> None:
        features = _OWN + (0 if block_tokens is None else len(ConversationFeatures.NAMES))
        if len(model.edges) != features or closure not in CLOSURES:
            raise InputError(f"the model has {len(model.edges)} features, not {features}, or closure {closure!r}")
        self.model, self.threshold, self.num_frames = model, float(threshold), num_frames
        self.block_tokens, self.closure = block_tokens, closure
        self._splits, self._leaves = _flat_trees(model)
        self.forget()

    def forget(self) -> None:
        """Forget all requests observed so far; the model stays."""
        self._numbers: dict[Hashable, int] = {}
        self._history, self._now = new_history(1024), 0
        self._talk = None if self.block_tokens is None else ConversationFeatures(self.block_tokens)

    @classmethod
    def fit(cls, trace: PageTrace, num_frames: int, *, config: BoostingConfig | None = None) -> "Predictor":
        """Fit on all of a recorded trace; nothing of it is remembered as observed.

        Raises:
            InputError: too few requests, or a context other than that of prompts.
        """
        if trace.num_requests < LEAST_REQUESTS:
            raise InputError(f"{trace.num_requests} requests are too few to train on; need at least {LEAST_REQUESTS}")
        if trace.context is not None and trace.context.names != ConversationFeatures.NAMES:
            raise InputError("a predictor knows the context of prompts only, not " + ", ".join(trace.context.names))
        fitted = fit_bits(trace, page_features(trace), num_frames, config=config or _SERVED)
        block_tokens = None if trace.prompts is None or trace.context is None else trace.prompts.block_tokens
        return cls(
            model=fitted.model,
            threshold=fitted.threshold,
            num_frames=num_frames,
            block_tokens=block_tokens,
            closure=best_closure(trace, num_frames, fitted.bits, LRU0),
        )

    def bits(self, trace: PageTrace) -> U8:
        """Return uint8[n], the bits of a recorded trace from its start; what was observed before plays no part.

        Raises:
            InputError: fitted on prompts and the trace has none, or the other way round.
        """
        features = page_features(trace)
        if features.shape[1] != len(self.model.edges):
            kinds = ("single requests", "prompts")
            wanted = kinds[self.block_tokens is not None]
            raise InputError(f"the model was fitted on {wanted}; {trace.name} has {kinds[trace.prompts is not None]}")
        return close_bits(trace, (self.model.score(features) > self.threshold).astype(np.uint8), self.closure)

    def _number(self, key: Hashable) -> int:
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers)
            if number >= self._history.shape[0]:
                self._history = np.concatenate((self._history, new_history(number)))
        return number

    def predict(self, request: Any, *, second: float | None = None, tokens: int | None = None) -> Any:
        """Return the bit of a request that is about to be served: 1 = may be evicted first.

        Args:
            request: a key; of a predictor fitted on prompts, the sequence of a prompt's block hashes.
            second: of a prompt, when it comes, by any clock that only goes forward; default: the monotonic clock.
            tokens: of a prompt, its length; default: full blocks.

        Returns:
            0 or 1, or uint8[number of blocks].
        """
        if self.block_tokens is None:
            page = self._numbers.get(request)
            if page is None:
                page = self._number(request)
            return _predict_page(
                page, self._now, self._history, self._splits, self._leaves, self.model.base, self.threshold
            )
        return self._predict_prompt(request, second, tokens)

    def observe(self, request: Any, *, second: float | None = None) -> None:
        """Note that a request was served; the same arguments as of ``predict``."""
        if self.block_tokens is None:
            page = self._numbers.get(request)
            if page is None:
                page = self._number(request)
            _observe(page, self._now, self._history)
            self._now += 1
            return
        pages = self._pages(request)
        assert self._talk is not None
        self._talk.remember(time.monotonic() if second is None else second, pages)
        _observe_prompt(pages, self._now, self._history)
        self._now += pages.size

    def _pages(self, blocks: Sequence[Hashable]) -> I32:
        if isinstance(blocks, (str, bytes)) or not isinstance(blocks, Sequence):
            raise InputError(f"this predictor was fitted on prompts: give the list of block hashes, not {blocks!r}")
        return np.array([self._number(block) for block in blocks], np.int32)

    def _predict_prompt(self, blocks: Sequence[Hashable], second: float | None, tokens: int | None) -> U8:
        pages = self._pages(blocks)
        assert self._talk is not None
        assert self.block_tokens is not None
        length = pages.size * self.block_tokens if tokens is None else tokens
        context = self._talk.look(time.monotonic() if second is None else second, length, pages)
        bits = np.empty(pages.size, np.uint8)
        _predict_prompt(
            pages,
            self._now,
            self._history,
            context,
            self._splits,
            self._leaves,
            self.model.base,
            self.threshold,
            bits,
        )
        if self.closure == "up":
            return np.minimum.accumulate(bits[::-1])[::-1]
        return bits if self.closure == "none" else np.maximum.accumulate(bits)

    def save(self, path: StrPath) -> None:
        """Write the model (not the history) as an .npz file of plain arrays."""
        about = {
            "format": FILE_FORMAT,
            "threshold": self.threshold,
            "base": self.model.base,
            "num_frames": self.num_frames,
            "block_tokens": self.block_tokens,
            "closure": self.closure,
        }
        try:
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(
                    file,
                    about=np.frombuffer(json.dumps(about).encode(), np.uint8),
                    edge_counts=np.array([edges.size for edges in self.model.edges]),
                    edges=np.concatenate(self.model.edges),
                    feature=self.model.feature,
                    cut=self.model.cut,
                    value=self.model.value,
                )
        except OSError as error:
            raise InputError(f"cannot write {os.fspath(path)}: {error.strerror}") from None

    @classmethod
    def load(cls, path: StrPath) -> "Predictor":
        """Read what ``save`` wrote; nothing in it is executed.

        Raises:
            TraceError: the file cannot be read, or is no such file.
        """
        try:
            with open_input(path) as file:
                data = load_arrays(file)
            _check_kinds({name: data[name].dtype for name in _KINDS})
            about = json.loads(data["about"].tobytes())
            if about["format"] != FILE_FORMAT:
                raise TraceError(path, None, f"a predictor of format {about['format']}, not {FILE_FORMAT}")
            edges = tuple(np.split(data["edges"].astype(np.float32), np.cumsum(data["edge_counts"])[:-1]))
            model = Boosted(
                edges=edges,
                base=float(about["base"]),
                feature=data["feature"].astype(np.int16),
                cut=data["cut"].astype(np.uint8),
                value=data["value"].astype(np.float32),
            )
            _check_model(model)
            return cls(
                model=model,
                threshold=about["threshold"],
                num_frames=int(about["num_frames"]),
                block_tokens=about["block_tokens"],
                closure=about["closure"],
            )
        except TraceError:
            raise
        except Exception as error:  # whatever zipfile and NumPy raise for damage
            raise TraceError(path, None, f"not a saved predictor ({error})") from None


_KINDS = {"edges": "f", "edge_counts": "iu", "feature": "iu", "cut": "iu", "value": "f"}


def _check_kinds(found: dict[str, np.dtype[Any]]) -> None:
    wrong = [name for name, kinds in _KINDS.items() if found[name].kind not in kinds]
    if wrong:
        raise ValueError(f"{wrong[0]} is of type {found[wrong[0]]}")


def _check_model(model: Boosted) -> None:
    """Refuse trees that would read past their arrays."""
    trees, nodes = model.feature.shape
    if model.cut.shape != (trees, nodes) or model.value.shape != (trees, nodes) or (nodes + 1) & nodes:
        raise ValueError("the trees have different shapes")
    if not (np.isfinite(model.value).all() and np.isfinite(model.base)):
        raise ValueError("a leaf is no finite number")
    inner = nodes // 2
    if (model.feature[:, inner:] >= 0).any() or int(model.feature.max(initial=-1)) >= len(model.edges):
        raise ValueError("a tree has a split where a leaf must be, or on a feature that does not exist")


def _flat_trees(model: Boosted) -> tuple[I64, F32]:
    """Return the splits, int64[trees, 2**depth - 1], and the leaves, float32[trees, 2**depth], of complete trees.

    A split is ``(threshold << 8) + feature``, the threshold as an ordered integer (see ``_score``); below a leaf that
    lies higher up every walk goes left, to a leaf of the same value.
    """
    trees, nodes = model.feature.shape
    inner = nodes // 2
    splits, leaves = np.full((trees, inner), 2**31 << 8, np.int64), np.zeros((trees, inner + 1), np.float32)
    value = model.value.copy()
    reached = np.zeros((trees, nodes), bool)
    reached[:, 0] = True
    for node in range(inner):
        split = reached[:, node] & (model.feature[:, node] >= 0)
        for tree in np.flatnonzero(split):
            edges, cut = model.edges[model.feature[tree, node]], model.cut[tree, node]
            bits = int((edges[cut : cut + 1] + np.float32(0.0)).view(np.int32)[0]) if cut < edges.size else 2**31 - 1
            ordered = bits if bits >= 0 else -(2**31) - bits
            splits[tree, node] = (ordered << 8) + int(model.feature[tree, node])
        leaf = reached[:, node] & ~split
        value[leaf, 2 * node + 1] = value[leaf, node]
        reached[:, 2 * node + 1] |= reached[:, node]
        reached[:, 2 * node + 2] |= split
    leaves[:] = value[:, inner:]
    return splits, leaves
