"""Summary of the data by one pass: a weighted sample of rows, moments and the box around them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import non_finite
from streamgmm.sources.base import Chunk
from streamgmm.sources.summaries.moments import _parts, corners, weighted_moments
from streamgmm.utils.row_random import uniform

__all__ = ["SampleSummary", "sample_size"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SampleSummary:
    """Results of the first pass.

    Attributes
    ----------
    rows : (m, D) sample in the order of the data, in the dtype of the source
    weight : (m,) sample weights of those rows; all one where the sample is a true subset (then the draw used them)
    mean, covariance : (D,) and (D, D) of all rows, weighted; variances (D,) where no more was asked for
    n_rows : rows of positive weight in the data
    count : sum of the sample weights in the data
    box : (2, D) smallest and largest value of each feature among the rows of positive weight
    wild : whether the moments are those of the bulk of the sample, as a few rows far away would decide them otherwise
    keys : (m,) what the rows were chosen by, the largest first, or None
    place : (D,) where a fit puts rows far away, or None; see `streamgmm.sources.gathered`
    """

    rows: NDArray[Any]
    weight: Array
    mean: Array
    covariance: Array
    n_rows: int
    count: float
    box: Array
    wild: bool = False
    keys: Array | None = None
    place: Array | None = None

    def among(self, size: int) -> SampleSummary:
        """The sample of `size` rows that the same pass would have taken."""
        m = len(self.rows)
        if self.keys is None or m <= size:
            return self
        kept = np.sort(np.argpartition(self.keys, m - size)[m - size :])
        return replace(self, rows=self.rows[kept], weight=np.ones(size), keys=self.keys[kept])

    @property
    def complete(self) -> bool:
        """True if the sample is all there is."""
        return self.n_rows <= len(self.rows)


def sample_size(n_components: int, n_features: int, *, least: int = 10_000) -> int:
    """Rows of the reservoir: enough for K Gaussians in D dimensions."""
    return max(20 * n_components * n_features, least)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    keys: Array
    numbers: NDArray[np.uint64]
    rows: NDArray[Any]
    weight: Array
    count: float
    n_rows: int
    mean: Array
    scatter: Array
    box: Array


def survey_chunk(chunk: Chunk, *, size: int, seed: int, missing: bool, diagonal: bool = False) -> _Part:
    rows, weight = chunk.load()
    n, D = rows.shape
    first = np.uint64(chunk.start) if chunk.start is not None else np.uint64(chunk.index) << np.uint64(40)
    w = np.ones(n) if weight is None else weight
    gaps = np.isnan(rows) if missing else np.zeros((0, D), bool)
    incomplete = gaps.any(axis=1)
    if incomplete.any():
        w = np.where(gaps.all(axis=1), 0.0, w)
    keys = _keys(seed, first, w)
    present = int(np.count_nonzero(w > 0))
    chosen = np.argpartition(keys, n - size)[n - size :] if size < present else np.flatnonzero(w > 0)
    chosen.sort()
    sample = keys[chosen], first + chosen.astype(np.uint64), rows[chosen], w[chosen]
    count = float(w.sum())
    mean = np.zeros(D)
    scatter = np.zeros(D if diagonal else (D, D))
    box = np.array([np.full(D, np.inf), np.full(D, -np.inf)])
    if count > 0:
        box = corners(rows if present == n else rows[w > 0])
        if incomplete.any():  # the moments are of complete rows only, and made anew from the sample
            rows, w = np.where(gaps, 0.0, rows), np.where(incomplete, 0.0, w)
        mean, scatter = weighted_moments(rows, w, diagonal=diagonal)
        if not np.isfinite(scatter).all():
            if not w.all():  # a row without weight is no row, whatever it holds
                mean, scatter = weighted_moments(rows[w > 0], w[w > 0], diagonal=diagonal)
            bad = np.flatnonzero(~np.isfinite(rows).all(axis=1) & (w > 0))
            if bad.size:
                raise non_finite(rows, int(bad[0]), chunk)
    return _Part(*sample, count, present, mean, scatter, box)


def _keys(seed: int, first: np.uint64, w: Array) -> Array:
    """(n,) log(u) / w of rows `first`, `first` + 1, ...; minus infinity without weight. The largest make the sample."""
    keys = np.empty(len(w))
    for part in _parts(len(w), 1):
        row = first + np.arange(part.start, part.stop, dtype=np.uint64)
        with np.errstate(divide="ignore"):
            np.divide(np.log(uniform(seed, row)), w[part], out=keys[part])
    keys[w <= 0] = -np.inf
    return keys


def merge_parts(a: _Part, b: _Part, *, size: int) -> _Part:
    if a.count == 0 or b.count == 0:
        return b if a.count == 0 else a
    keys = np.concatenate([a.keys, b.keys])
    keep = np.arange(len(keys)) if len(keys) <= size else np.sort(np.argpartition(-keys, size - 1)[:size])
    count = a.count + b.count
    with np.errstate(over="ignore", invalid="ignore"):  # of rows whose squares are beyond doubles: see `_sound`
        delta = b.mean - a.mean
        between = (delta**2 if a.scatter.ndim == 1 else np.outer(delta, delta)) * (a.count * b.count / count)
    return _Part(
        keys[keep],
        np.concatenate([a.numbers, b.numbers])[keep],
        np.concatenate([a.rows, b.rows])[keep],
        np.concatenate([a.weight, b.weight])[keep],
        count,
        a.n_rows + b.n_rows,
        a.mean + delta * (b.count / count),
        a.scatter + b.scatter + between,
        np.array([np.minimum(a.box[0], b.box[0]), np.maximum(a.box[1], b.box[1])]),
    )
