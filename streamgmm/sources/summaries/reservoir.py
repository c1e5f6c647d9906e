"""Weighted draws without replacement, in one pass, that do not depend on chunking, order or threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def merge_draws(size: int, a: Draw, b: Draw) -> Draw:
    """The draw from both sets of rows."""
    pairs = zip((a.keys, a.numbers, a.rows, a.weight), (b.keys, b.numbers, b.rows, b.weight), strict=True)
    keys, numbers, rows, weight = (np.concatenate(pair) for pair in pairs)
    return largest(keys, numbers, rows, weight, size)
