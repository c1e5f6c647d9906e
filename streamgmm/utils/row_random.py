"""Random numbers of rows: the same for a row wherever and whenever it is read."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = []

Array = NDArray[np.float64]


class Numbered(Protocol):
    """A chunk, as far as its rows are numbered."""

    @property
    def index(self) -> int: ...

    @property
    def start(self) -> int | None: ...


def uniform(seed: int, row: NDArray[np.uint64]) -> Array:
    """Uniform (0, 1] numbers that depend on seed and row number only (splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = (row + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return ((x >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53


def row_keys(chunk: Numbered, n_rows: int, seed: int) -> tuple[NDArray[np.uint64], Array]:
    """(n,) numbers of the rows of a chunk, and log u, which depends on seed and number only."""
    numbers = np.arange(n_rows, dtype=np.uint64)
    numbers += np.uint64(chunk.start) if chunk.start is not None else np.uint64(chunk.index) << np.uint64(40)
    return numbers, np.log(uniform(seed, numbers))
