"""Weighted draws without replacement, in one pass, that do not depend on chunking, order or threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import non_finite
from streamgmm.sources.base import Chunk
from streamgmm.utils.row_random import row_keys

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """Rows with the largest keys, by falling key; equal keys by position.

    With keys log(u) / chance the rows are a draw with those chances (Efraimidis & Spirakis 2006).
    """

    keys: Array
    numbers: NDArray[np.uint64]
    rows: Array
    weight: Array


def largest(keys: Array, numbers: NDArray[np.uint64], rows: NDArray[Any], weight: Array, size: int) -> Draw:
    """The `size` rows with the largest keys."""
    if len(keys) > size:
        keep = np.argpartition(-keys, size - 1)[:size]
        keys, numbers, rows, weight = keys[keep], numbers[keep], rows[keep], weight[keep]
    order = np.lexsort((numbers, -keys))
    return Draw(keys[order], numbers[order], rows[order].astype(np.float64), weight[order])


def draw_rows(size: int, seed: int, missing: bool, chunk: Chunk) -> Draw:
    """A draw of `size` rows of one chunk with chances as their weights, missing values and all.

    Raises
    ------
    ValueError
        At a row of positive weight that is not finite, where `missing` does not allow NaN.
    """
    rows, weight = chunk.load()
    w = np.ones(len(rows)) if weight is None else weight
    kept = np.flatnonzero(w > 0)
    bad = np.isinf(rows).any(axis=1) if missing else ~np.isfinite(rows).all(axis=1)
    if bad[kept].any():
        raise non_finite(rows, int(kept[bad[kept]][0]), chunk)
    numbers, log_u = row_keys(chunk, len(rows), seed)
    return largest(log_u[kept] / w[kept], numbers[kept], rows[kept], w[kept], size)


def merge_draws(size: int, a: Draw, b: Draw) -> Draw:
    """The draw from both sets of rows."""
    pairs = zip((a.keys, a.numbers, a.rows, a.weight), (b.keys, b.numbers, b.rows, b.weight), strict=True)
    keys, numbers, rows, weight = (np.concatenate(pair) for pair in pairs)
    return largest(keys, numbers, rows, weight, size)
