"""Mean and covariance of everything in one pass: centred, weighted, mergeable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import non_finite
from streamgmm.sources.base import Chunk, Source
from streamgmm.utils.affine import Affine
from streamgmm.utils.phases import reading
from streamgmm.utils.sample_weight import no_rows

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Weighted moments of rows; a monoid under `merge`.

    Attributes
    ----------
    count : (D,) sum of the sample weights of the rows in which the feature is there
    mean : (D,)
    scatter : (D, D) sum of w (x - mean)(x - mean)^T, or its diagonal (D,)
    rows : number of rows of positive weight
    typical : (2, D) or None
        Median, and median distance from it, of the first rows of some chunks; for each feature of the chunk in which
        that distance is largest. By it one knows where a few rows far away have decided the other moments.
    """

    count: Array
    mean: Array
    scatter: Array
    rows: int
    typical: Array | None = None

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of rows together (Chan, Golub & LeVeque 1983, eq. 2.1)."""
        count = self.count + other.count
        share = np.divide(other.count, count, out=np.zeros_like(count), where=count > 0)
        delta = other.mean - self.mean
        weighted = self.count * share * delta
        between = weighted * delta if self.scatter.ndim == 1 else np.outer(weighted, delta)
        scatter, rows = self.scatter + other.scatter + between, self.rows + other.rows
        return Moments(count, self.mean + share * delta, scatter, rows, _wider(self.typical, other.typical))

    @property
    def variance(self) -> Array:
        """(D,) divided by the sum of weights, as StandardScaler's `var_`."""
        diagonal = self.scatter if self.scatter.ndim == 1 else np.diag(self.scatter)
        return np.divide(diagonal, self.count, out=np.zeros_like(self.count), where=self.count > 0)

    def through(self, affine: Affine) -> Moments | None:
        """Moments of the rows after `affine`, or None where the diagonal alone cannot tell."""
        if affine.matrix.ndim == 1:
            square = affine.matrix**2 if self.scatter.ndim == 1 else np.outer(affine.matrix, affine.matrix)
            return Moments(self.count, (self.mean - affine.shift) * affine.matrix, self.scatter * square, self.rows)
        if self.scatter.ndim == 1:
            return None
        count = np.full(affine.n_features_out, self.count[0])
        mean = (self.mean - affine.shift) @ affine.matrix
        return Moments(count, mean, affine.matrix.T @ self.scatter @ affine.matrix, self.rows)


_FIRST_ROWS = 256
_EVERY = 16
"""One of so many chunks tells what is typical: sorting its first rows costs as much as moments of many more."""


def _typical(rows: NDArray[Any], chunk: Chunk) -> Array | None:
    """(2, D) median of the first rows, and median distance from it; 0 where nothing is there."""
    if chunk.index % _EVERY:
        return None
    x = np.sort(np.ascontiguousarray(rows[:_FIRST_ROWS].T, np.float64), axis=1)
    middle = _lower_median(x)
    with np.errstate(over="ignore", invalid="ignore"):
        apart = np.sort(np.abs(x - middle[:, None]), axis=1)
    return np.nan_to_num(np.stack([middle, _lower_median(apart)]), nan=0.0)


def _lower_median(x: Array) -> Array:
    """(D,) medians of sorted rows (D, m) in which NaN stands last."""
    here = x.shape[1] - np.isnan(x).sum(axis=1)
    return np.take_along_axis(x, np.maximum(here - 1, 0)[:, None] // 2, axis=1)[:, 0]


def _wider(one: Array | None, other: Array | None) -> Array | None:
    if one is None or other is None:
        return other if one is None else one
    return np.where(one[1] >= other[1], one, other)


def _chunk_moments(full: bool, skip_nan: bool, chunk: Chunk) -> Moments:
    rows, weight = chunk.load()
    n, D = rows.shape
    if n == 0:
        return Moments(np.zeros(D), np.zeros(D), np.zeros((D, D) if full else D), 0)
    w = np.ones(n) if weight is None else weight
    n_rows = n if weight is None else int((weight > 0).sum())
    if skip_nan:
        found = _present_moments(np.asarray(rows, np.float64), w, n_rows, chunk)
        return replace(found, typical=_typical(rows, chunk))
    origin = rows[0].astype(np.float64)
    total = w.sum()
    with np.errstate(invalid="ignore", over="ignore"):
        x = rows - origin
        mean = (w @ x) / total if total > 0 else np.zeros(D)
        x -= mean
        weighted = x if weight is None else x * w[:, None]
        scatter = weighted.T @ x if full else np.einsum("ij,ij->j", weighted, x)
    if not np.isfinite(scatter).all():
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if bad.size:
            raise non_finite(rows, int(bad[0]), chunk)
    return Moments(np.full(D, total), mean + origin, scatter, n_rows, _typical(rows, chunk))


def _present_moments(x: Array, w: Array, n_rows: int, chunk: Chunk | None) -> Moments:
    """Feature by feature, over the rows in which it is there."""
    here = ~np.isnan(x)
    if np.isinf(x).any():
        raise non_finite(np.where(here, x, 0.0), int(np.argmax(np.isinf(x).any(axis=1))), chunk)
    weight = w[:, None] * here
    count = weight.sum(axis=0)
    origin = np.where(here, x, 0.0)[here.argmax(axis=0), np.arange(x.shape[1])]
    x = np.where(here, x - origin, 0.0)
    mean = np.divide((weight * x).sum(axis=0), count, out=np.zeros_like(count), where=count > 0)
    return Moments(count, mean + origin, (weight * (x - mean) ** 2).sum(axis=0), n_rows)


def finite_moments(rows: NDArray[Any], weight: Array | None) -> Moments:
    """Moments of rows, each feature over those in which it is finite; the diagonal of the scatter."""
    n, D = rows.shape
    total = Moments(np.zeros(D), np.zeros(D), np.zeros(D), 0)
    for part in _parts(n, D):
        x = rows[part].astype(np.float64)
        x[np.isinf(x)] = np.nan
        w = np.ones(len(x)) if weight is None else weight[part]
        total = total.merge(_present_moments(x, w, int((w > 0).sum()), None))
    return total


def moments_of(source: Source, executor: Any, *, full: bool, skip_nan: bool = False) -> Moments:
    """Moments of `source`: one pass, or none where the source knows them.

    Parameters
    ----------
    full : bool
        The whole covariance, not only the variances.
    skip_nan : bool
        Take each feature over the rows in which it is not NaN; variances only.

    Raises
    ------
    ValueError
        On NaN (unless skipped) and infinity, naming the row, and where no row has positive weight.
    """
    known: Moments | None = getattr(source, "moments", None)
    if known is not None and (known.scatter.ndim == 2 or not full) and not skip_nan:
        return known
    with reading(source, "means and variances"):
        total: Moments = executor.run(partial(_chunk_moments, full, skip_nan), source.chunks(), Moments.merge)
    if total.rows == 0:
        raise no_rows()
    return total


def _parts(n: int, D: int) -> Iterator[slice]:
    """Runs of rows that stay in the cache while they are worked on: copies of a chunk would be many chunks."""
    step = max(256, 2**14 // D)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def weighted_moments(rows: NDArray[Any], w: Array, *, diagonal: bool = False) -> tuple[Array, Array]:
    """(D,) mean and (D, D) scatter of rows with weights; of the scatter the `diagonal` (D,) alone where asked for."""
    n, D = rows.shape
    origin = rows[0].astype(np.float64)
    first, scatter = np.zeros(D), np.zeros(D if diagonal else (D, D))
    with np.errstate(invalid="ignore", over="ignore"):
        for part in _parts(n, D):
            first += w[part] @ (rows[part] - origin)
        mean = origin + first / max(float(w.sum()), np.finfo(float).tiny)
        for part in _parts(n, D):
            delta = rows[part] - mean
            scatter += w[part] @ delta**2 if diagonal else (delta * w[part, None]).T @ delta
    return mean, scatter


def corners(rows: NDArray[Any]) -> Array:
    """(2, D) smallest and largest observed value of each feature; NaN is passed over."""
    n, D = rows.shape
    beside = max(1, 256 // D) if rows.flags.c_contiguous else 1
    wide = rows[: n // beside * beside].reshape(-1, beside * D)  # short rows would be compared one by one
    found = []
    for extreme in (np.fmin, np.fmax):
        some = extreme.reduce(wide, axis=0).reshape(-1, D) if len(wide) else rows[:0]
        found.append(extreme.reduce(np.concatenate([some, rows[wide.size // D :]]), axis=0))
    return np.array(found, np.float64)
