"""Gradient-boosted trees for one yes/no question, in NumPy and Numba (no further dependency).

Histogram splits over at most 64 quantile bins a feature, logistic loss, second-order leaf weights, fixed depth.
Source of the method: Friedman 2001; Chen and Guestrin, KDD 2016.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mallocgame.baselines.paging.structures import F64, I64, U8
from mallocgame.errors import InputError
from mallocgame.jit import jit

F32 = npt.NDArray[np.float32]
NUM_BINS = 64
LEAST_REQUESTS = 200  # fewer are not worth a fit


@dataclass(frozen=True, slots=True, kw_only=True)
class BoostingConfig:
    """Size and regularisation of the ensemble."""

    num_trees: int = 80
    depth: int = 5
    learning_rate: float = 0.1
    min_leaf_weight: float = 40.0  # sum of second derivatives in a leaf
    leaf_penalty: float = 10.0
    row_share: float = 0.5  # drawn afresh for every tree
    squares: bool = False  # predict a number by least squares; otherwise the chance of a yes
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Boosted:
    """A fitted ensemble; ``feature[t, node]`` < 0 marks a leaf. Node i has children 2i+1 (bin <= cut) and 2i+2."""

    edges: tuple[F32, ...]  # one array of bin edges a feature
    base: float
    feature: npt.NDArray[np.int16]
    cut: U8
    value: F32

    def score(self, values: F32) -> F32:
        """Return float32[n] for float32[n, f] ``values``: the log odds of a yes, or the number of least squares."""
        if values.shape[1] != len(self.edges):
            raise InputError(f"the model was fitted on {len(self.edges)} features, got {values.shape[1]}")
        out = np.full(values.shape[0], self.base, np.float32)
        _add_trees(_to_bins(values, self.edges), self.feature, self.cut, self.value, out)
        return out


def _bin_edges(column: F32) -> F32:
    return np.unique(np.quantile(column, np.linspace(0, 1, NUM_BINS + 1)[1:-1]).astype(np.float32))


def _to_bins(values: F32, edges: tuple[F32, ...]) -> U8:
    bins = np.empty((len(edges), values.shape[0]), np.uint8)
    for f, cuts in enumerate(edges):
        bins[f] = np.searchsorted(cuts, values[:, f], side="left")
    return bins


@jit
def _add_trees(bins: U8, feature: npt.NDArray[np.int16], cut: U8, value: F32, out: F32) -> None:
    for i in range(out.size):
        total = np.float32(0.0)
        for tree in range(feature.shape[0]):
            node = 0
            while feature[tree, node] >= 0:
                node = 2 * node + (1 if bins[feature[tree, node], i] <= cut[tree, node] else 2)
            total += value[tree, node]
        out[i] += total


@jit
def _histograms(bins: U8, rows: I64, node_of: I64, first: int, count: int, slope: F32, curve: F32, out: F64) -> None:
    """Sum slopes and curvatures by (node of this level, feature, bin) into float64[count, f, bins, 2]."""
    out[:] = 0.0
    for f in range(bins.shape[0]):
        for at in range(rows.size):
            i = rows[at]
            node = node_of[i] - first
            if 0 <= node < count:
                out[node, f, bins[f, i], 0] += slope[i]
                out[node, f, bins[f, i], 1] += curve[i]


@jit
def _best_split(histogram: F64, penalty: float, least: float) -> tuple[int, int]:
    """Return (feature, cut) of the best split of one node, feature -1 where none helps."""
    best, best_feature, best_cut = 1e-6, -1, 0
    for f in range(histogram.shape[0]):
        slope, curve = 0.0, 0.0
        for b in range(histogram.shape[1]):
            slope += histogram[f, b, 0]
            curve += histogram[f, b, 1]
        whole = slope * slope / (curve + penalty)
        left_slope, left_curve = 0.0, 0.0
        for b in range(histogram.shape[1] - 1):
            left_slope += histogram[f, b, 0]
            left_curve += histogram[f, b, 1]
            right_slope, right_curve = slope - left_slope, curve - left_curve
            if left_curve < least or right_curve < least:
                continue
            gain = left_slope**2 / (left_curve + penalty) + right_slope**2 / (right_curve + penalty) - whole
            if gain > best:
                best, best_feature, best_cut = gain, f, b
    return best_feature, best_cut


@jit
def _grow(  # noqa: PLR0913 (a kernel takes arrays one by one)
    bins: U8,
    rows: I64,
    slope: F32,
    curve: F32,
    depth: int,
    penalty: float,
    least: float,
    rate: float,
    feature: npt.NDArray[np.int16],
    cut: U8,
    value: F32,
    score: F32,
) -> None:
    """Grow one tree on ``rows``, level by level, and add it to the score of every row."""
    n = score.size
    node_of = np.zeros(n, np.int64)
    feature[:] = -1
    for level in range(depth):
        first, count = (1 << level) - 1, 1 << level
        histogram = np.zeros((count, bins.shape[0], 64, 2))
        _histograms(bins, rows, node_of, first, count, slope, curve, histogram)
        for node in range(count):
            feature[first + node], cut[first + node] = _best_split(histogram[node], penalty, least)
        for i in range(n):
            node = node_of[i]
            if node >= first and feature[node] >= 0:
                node_of[i] = 2 * node + (1 if bins[feature[node], i] <= cut[node] else 2)
    slopes, curves = np.zeros(value.size), np.zeros(value.size)
    for at in range(rows.size):
        i = rows[at]
        slopes[node_of[i]] += slope[i]
        curves[node_of[i]] += curve[i]
    for node in range(value.size):
        value[node] = -rate * slopes[node] / (curves[node] + penalty)
    for i in range(n):
        score[i] += value[node_of[i]]


def fit(values: F32, labels: U8 | F32, config: BoostingConfig | None = None) -> Boosted:
    """Fit P(label = 1 | row).

    Args:
        values: float32[n, f], finite.
        labels: uint8[n], 0 or 1; with ``squares`` float32[n].
        config: size of the ensemble.

    Raises:
        InputError: shapes that do not match, no rows, or values that are not finite.
    """
    config = config or BoostingConfig()
    if values.ndim != 2 or values.shape[0] == 0 or labels.shape != values.shape[:1]:
        raise InputError(f"need one label a row: rows {values.shape}, labels {labels.shape}")
    if not np.isfinite(values).all():
        raise InputError("features must be finite")
    edges = tuple(_bin_edges(values[:, f]) for f in range(values.shape[1]))
    bins = _to_bins(values, edges)
    share = float(np.clip(labels.mean(), 1e-4, 1 - 1e-4))
    base = float(labels.mean()) if config.squares else float(np.log(share / (1.0 - share)))
    nodes = (1 << (config.depth + 1)) - 1
    feature = np.full((config.num_trees, nodes), -1, np.int16)
    cut = np.zeros((config.num_trees, nodes), np.uint8)
    value = np.zeros((config.num_trees, nodes), np.float32)
    score = np.full(labels.size, base, np.float32)
    rng = np.random.default_rng(config.seed)
    for tree in range(config.num_trees):
        chance = score if config.squares else 1.0 / (1.0 + np.exp(-score))
        curve = np.ones_like(score) if config.squares else (chance * (1.0 - chance)).astype(np.float32)
        slope = (chance - labels).astype(np.float32)
        rows = np.flatnonzero(rng.random(labels.size) < config.row_share)
        _grow(
            bins,
            rows,
            slope,
            curve,
            config.depth,
            config.leaf_penalty,
            config.min_leaf_weight,
            config.learning_rate,
            feature[tree],
            cut[tree],
            value[tree],
            score,
        )
    return Boosted(edges=edges, base=base, feature=feature, cut=cut, value=value)
