"""Rows that already are in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.sources.base import Chunk, Rows, Source, Weights


def default_chunk_rows(n_features: int) -> int:
    """Rows of a chunk of about 2 MiB, a power of two from 16384 to 131072: a function of D only, never of threads."""
    rows = 2**21 // (8 * max(1, n_features))
    return min(131_072, max(16_384, 1 << (rows.bit_length() - 1) if rows else 1))


@dataclass(frozen=True, slots=True)
class ArrayChunk(Chunk):
    """A view of some rows."""

    index: int
    start: int | None
    rows: NDArray[Any]
    weight: Weights

    def load(self) -> tuple[Rows, Weights]:
        dtype = np.float32 if self.rows.dtype == np.float32 else np.float64
        return np.ascontiguousarray(self.rows, dtype), self.weight


class ArraySource(Source):
    """A two-dimensional numeric array, cut into views; other layouts and types are converted chunk by chunk."""

    in_memory = True

    def __init__(self, rows: NDArray[Any], weight: Weights = None, *, chunk_rows: int | None = None) -> None:
        self.name = "array"
        self.rows = rows
        self.weight = weight
        self.n_rows, self.n_features = rows.shape
        self.chunk_rows = chunk_rows or default_chunk_rows(self.n_features)
        self.n_chunks = -(-self.n_rows // self.chunk_rows)
        self.dtype = np.dtype(np.float32 if rows.dtype == np.float32 else np.float64)
        self.has_weights = weight is not None

    def chunks(self) -> Iterator[Chunk]:
        for index in range(self.n_chunks or 0):
            part = slice(index * self.chunk_rows, (index + 1) * self.chunk_rows)
            weight = None if self.weight is None else self.weight[part]
            yield ArrayChunk(index, index * self.chunk_rows, self.rows[part], weight)

    @property
    def max_chunk_rows(self) -> int | None:
        return min(self.chunk_rows, self.n_rows or 0)

    def fingerprint(self) -> dict[str, Any]:
        digest = hashlib.sha256(np.ascontiguousarray(self.rows))
        if self.weight is not None:
            digest.update(self.weight)
        return {
            "kind": "array",
            "shape": list(self.rows.shape),
            "dtype": str(self.rows.dtype),
            "sha256": digest.hexdigest(),
        }
