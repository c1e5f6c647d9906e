"""A row of weight 0 is no row, whatever it holds: for those who fit, it holds what another row holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamgmm.sources.base import Chunk, Rows, Source, Weights
from streamgmm.sources.transformed import TransformedSource
from streamgmm.sources.wrapped import WrappedChunk, WrappedSource

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
class LivingChunk(WrappedChunk):
    """A chunk without what its rows of weight 0 hold."""

    @property
    def columns(self) -> Any:
        """The chosen columns of a table, for messages; None where nothing has a name."""
        return getattr(self.chunk, "columns", None)

    def load(self) -> tuple[Rows, Weights]:
        return living_rows(*self.chunk.load())


class LivingSource(WrappedSource):
    """`source` without what its rows of weight 0 hold."""

    def over(self, source: Source) -> Source:
        return LivingSource(source)

    def wrapped(self, chunk: Chunk) -> Chunk:
        return LivingChunk(chunk)

    def fingerprint(self) -> dict[str, Any]:
        return self.source.fingerprint()
