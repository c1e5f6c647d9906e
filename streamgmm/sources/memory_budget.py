"""Sources under a budget: smaller chunks, and decoded chunks that stay in memory."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from streamgmm.sources.base import Chunk, Rows, Source, Weights
from streamgmm.sources.transformed import TransformedSource
from streamgmm.sources.wrapped import WrappedChunk, WrappedSource


def limit_chunks(source: Source, max_rows: int) -> Source:
    """The same rows in chunks of at most `max_rows`, as far as the format can read parts of its chunks.

    Parameters
    ----------
    max_rows : int >= 1
        A format that decodes a stored chunk as a whole keeps at least that many rows together; see
        `Source.max_chunk_rows` and `Source.chunk_bytes` of the result.
    """
    if max_rows < 1:
        raise ValueError(f"max_rows must be at least 1; got {max_rows}.")
    return source.limited(max_rows)


class _Kept:
    """Decoded chunks of one source in this process. Pickles as nothing, so that no content travels."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self.loaded: dict[int, tuple[Rows, Weights]] = {}
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Kept, (0,)

    def keep(self, index: int, rows: Rows, weights: Weights) -> None:
        size = rows.nbytes + (0 if weights is None else weights.nbytes)
        with self.lock:
            # First come, first kept: a pass reads in order, so whoever made room would throw out what is next.
            if index not in self.loaded and self.used + size <= self.budget:
                self.loaded[index] = rows, weights
                self.used += size


@dataclass(frozen=True, slots=True)
class _KeptChunk(WrappedChunk):
    kept: _Kept

    def load(self) -> tuple[Rows, Weights]:
        found = self.kept.loaded.get(self.index)
        if found is not None:
            self.chunk.check()
        else:
            found = self.chunk.load()
            self.kept.keep(self.index, *found)
        return found


class CachedSource(WrappedSource):
    """A source whose decoded chunks are kept in memory, the first ones that fit the budget."""

    def __init__(self, source: Source, budget: int) -> None:
        super().__init__(source)
        self.in_memory = self.decodes = False
        self.kept = _Kept(budget)

    @property
    def bytes_kept(self) -> int:
        return self.kept.used

    def over(self, source: Source) -> Source:
        return CachedSource(source, self.kept.budget)

    def wrapped(self, chunk: Chunk) -> Chunk:
        return _KeptChunk(chunk, self.kept)

    @property
    def chunk_bytes(self) -> int | None:
        return self.source.chunk_bytes

    def fingerprint(self) -> dict[str, Any]:
        return self.source.fingerprint()


def cached(source: Source, budget: int) -> Source:
    """`source` with decoded chunks kept while `budget` bytes last; itself where nothing would be gained."""
    if isinstance(source, TransformedSource):  # keep what was read: who moves the rows must not depend on what is kept
        return source.over(cached(source.source, budget))
    return CachedSource(source, budget) if source.decodes and budget > 0 else source
