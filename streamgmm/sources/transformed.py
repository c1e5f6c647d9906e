"""Rows of another source, moved, scaled or rotated as they are loaded, or by who reads them (`unmoved`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from streamgmm.sources.base import Chunk, Rows, Source, Weights
from streamgmm.sources.summaries.moments import Moments
from streamgmm.sources.wrapped import WrappedChunk, WrappedSource
from streamgmm.utils.affine import Affine


@dataclass(frozen=True, slots=True)
class TransformedChunk(WrappedChunk):
    """A chunk whose rows pass through `affine`."""

    affine: Affine

    def load(self) -> tuple[Rows, Weights]:
        rows, weight, affine = self.unmoved()
        return affine.apply(rows), weight

    def unmoved(self) -> tuple[Rows, Weights, Affine]:
        """Rows and weights as they are read, and the map, for those who can take it into arithmetic of their own."""
        return *self.chunk.load(), self.affine


class TransformedSource(WrappedSource):
    """`source` seen through `affine`; two maps in a row become one where they can.

    Attributes
    ----------
    moments : Moments or None
        Of the transformed rows, where they follow from those of the source: who needs them saves a pass.
    """

    def __init__(
        self,
        source: Source,
        affine: Affine,
        *,
        moments: Moments | None = None,
        feature_names: tuple[str, ...] | None = None,
    ) -> None:
        joined = source.affine.then(affine) if isinstance(source, TransformedSource) else None
        super().__init__(source.source if isinstance(source, TransformedSource) and joined else source)
        self.affine: Affine = joined or affine
        self.moments = moments
        self.kind = Source.kind  # rows of a Dask collection that are moved are not its partitions any more
        self.in_memory = False
        self.n_features = self.affine.n_features_out
        self.feature_names = feature_names

    def over(self, source: Source) -> TransformedSource:
        """The same map of a source of the same rows: cut otherwise, or kept in memory."""
        return TransformedSource(source, self.affine, moments=self.moments, feature_names=self.feature_names)

    def wrapped(self, chunk: Chunk) -> Chunk:
        return TransformedChunk(chunk, self.affine)

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
