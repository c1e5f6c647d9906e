"""Rows of another source, moved, scaled or rotated as they are loaded; nothing is copied or written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.sources.base import Chunk, Rows, Source, Weights

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """y = (x - shift) * matrix for a vector of scales, (x - shift) @ matrix for a matrix (D, d).

    The difference is taken first, in float64, so that an offset of the data costs no digit of what is left.
    """

    shift: Array
    matrix: Array

    @property
    def n_features_out(self) -> int:
        return self.matrix.shape[-1]

    def apply(self, rows: NDArray[Any]) -> NDArray[Any]:
        """(n, d) in the dtype of `rows`."""
        centred = rows - self.shift
        if self.matrix.ndim == 1:
            centred *= self.matrix
        else:
            centred = centred @ self.matrix
        return np.ascontiguousarray(centred.astype(rows.dtype, copy=False))

    def linear(self, rows: NDArray[Any]) -> NDArray[Any]:
        """What is left to be done where scales and `shift @ matrix` are somebody else's: (n, D) rows @ matrix."""
        return rows if self.matrix.ndim == 1 else np.ascontiguousarray(rows @ self.matrix)

    def then(self, other: Affine) -> Affine | None:
        """One map that equals this one followed by `other`, or None where no form of this class can hold it."""
        if self.matrix.ndim == 2 or not self.matrix.all():
            return None
        scale = self.matrix if other.matrix.ndim == 1 else self.matrix[:, None]
        return Affine(self.shift + other.shift / self.matrix, scale * other.matrix)


@dataclass(frozen=True, slots=True)
class TransformedChunk(Chunk):
    """A chunk whose rows pass through `affine`."""

    chunk: Chunk
    affine: Affine

    @property
    def index(self) -> int:  # type: ignore[override]
        return self.chunk.index

    @property
    def start(self) -> int | None:  # type: ignore[override]
        return self.chunk.start

    def load(self) -> tuple[Rows, Weights]:
        rows, weight, affine = self.unmoved()
        return affine.apply(rows), weight

    def unmoved(self) -> tuple[Rows, Weights, Affine]:
        """Rows and weights as they are read, and the map, for those who can take it into arithmetic of their own."""
        return *self.chunk.load(), self.affine


class TransformedSource(Source):
    """`source` seen through `affine`; two maps in a row become one where they can.

    Attributes
    ----------
    moments : Moments or None
        Of the transformed rows, where they follow from those of the source: who needs them saves a reading.
    """

    in_memory = False

    def __init__(
        self, source: Source, affine: Affine, *, moments: Any = None, feature_names: tuple[str, ...] | None = None
    ) -> None:
        joined = source.affine.then(affine) if isinstance(source, TransformedSource) else None
        self.source: Source = source.source if isinstance(source, TransformedSource) and joined else source
        self.affine: Affine = joined or affine
        self.moments = moments
        self.name = self.source.name
        self.n_features = self.affine.n_features_out
        self.n_rows = source.n_rows
        self.n_chunks = source.n_chunks
        self.dtype = source.dtype
        self.has_weights = source.has_weights
        self.feature_names = feature_names

    def chunks(self) -> Iterator[Chunk]:
        for chunk in self.source.chunks():
            yield TransformedChunk(chunk, self.affine)

    @property
    def max_chunk_rows(self) -> int | None:
        return self.source.max_chunk_rows

    @property
    def chunk_bytes(self) -> int | None:
        """The chunk as it is read, and beside it what the map makes of it, in float64 on the way."""
        read, rows = self.source.chunk_bytes, self.source.max_chunk_rows
        if read is None or rows is None:
            return None
        return read + 8 * rows * (self.source.n_features + self.n_features)

    def fingerprint(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.affine.shift.tobytes() + self.affine.matrix.tobytes())
        return {
            "kind": "affine",
            "shape": list(self.affine.matrix.shape),
            "sha256": digest.hexdigest(),
            "source": self.source.fingerprint(),
        }
