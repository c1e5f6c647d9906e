"""A row of weight 0 is no row, whatever it holds: for those who fit, it holds what another row holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamgmm.sources.base import Chunk, Rows, Source, Weights
from streamgmm.sources.transformed import TransformedSource

__all__ = ["living", "living_rows"]


def living(source: Source) -> Source:
    """`source` with rows of weight 0 that cannot disturb a sum; itself where it has no weights."""
    if not source.has_weights or isinstance(source, LivingSource):
        return source
    if isinstance(source, TransformedSource):
        return source.over(living(source.source))
    return LivingSource(source)


def living_rows(rows: Rows, weight: Weights) -> tuple[Rows, Weights]:
    """Rows and weights with the rows of weight 0 replaced by the first of the others; none where there is no other.

    The number of a row stays what it is, and NaN, infinity or a wild value of a row without weight reaches nobody.
    """
    if weight is None or weight.all():
        return rows, weight
    dead = weight == 0
    if dead.all():
        return rows[:0], weight[:0]
    rows = np.array(rows)
    rows[dead] = rows[np.argmin(dead)]
    return rows, weight


@dataclass(frozen=True, slots=True)
class LivingChunk(Chunk):
    """A chunk without what its rows of weight 0 hold."""

    chunk: Chunk

    @property
    def index(self) -> int:  # type: ignore[override]
        return self.chunk.index

    @property
    def start(self) -> int | None:  # type: ignore[override]
        return self.chunk.start

    @property
    def columns(self) -> Any:
        """The chosen columns of a table, for messages; None where nothing has a name."""
        return getattr(self.chunk, "columns", None)

    def check(self) -> None:
        self.chunk.check()

    def load(self) -> tuple[Rows, Weights]:
        return living_rows(*self.chunk.load())

    @property
    def shipped_bytes(self) -> int:
        return self.chunk.shipped_bytes


class LivingSource(Source):
    """`source` without what its rows of weight 0 hold."""

    def __init__(self, source: Source) -> None:
        self.source = source
        for same in (
            "name", "kind", "n_features", "n_rows", "n_chunks", "dtype", "has_weights", "in_memory", "decodes",
            "left_out", "feature_names",
        ):  # fmt: skip
            setattr(self, same, getattr(source, same))

    @property
    def lengths(self) -> Any:
        """Rows of each partition of a Dask collection, where they are known."""
        return getattr(self.source, "lengths", None)

    @property
    def most_rows(self) -> int | None:
        return self.source.most_rows

    def chunks(self) -> Iterator[Chunk]:
        return (LivingChunk(chunk) for chunk in self.source.chunks())

    @property
    def max_chunk_rows(self) -> int | None:
        return self.source.max_chunk_rows

    @property
    def chunk_bytes(self) -> int | None:
        read, rows = self.source.chunk_bytes, self.source.max_chunk_rows
        return None if read is None or rows is None else read + rows * self.row_bytes

    def limited(self, max_rows: int) -> Source:
        return LivingSource(self.source.limited(max_rows))

    def fingerprint(self) -> dict[str, Any]:
        return self.source.fingerprint()
