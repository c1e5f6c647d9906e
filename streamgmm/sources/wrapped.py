"""Sources that show the rows of another one in another way: what they share with it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streamgmm.sources.base import Chunk, Source

__all__ = ["SameSource", "WrappedChunk", "WrappedSource"]


@dataclass(frozen=True, slots=True)
class WrappedChunk(Chunk):
    """A chunk of another source, with its place; `load` is left to do."""

    chunk: Chunk

    @property
    def index(self) -> int:  # type: ignore[override]
        return self.chunk.index

    @property
    def start(self) -> int | None:  # type: ignore[override]
        return self.chunk.start

    def check(self) -> None:
        self.chunk.check()

    def texts(self, column: str) -> list[str]:
        return self.chunk.texts(column)

    @property
    def shipped_bytes(self) -> int:
        return self.chunk.shipped_bytes


_SAME = (
    "name", "kind", "n_features", "n_rows", "n_chunks", "dtype", "feature_names", "has_weights", "in_memory", "decodes",
    "left_out", "not_numbers", "notice",
)  # fmt: skip


class WrappedSource(Source):
    """The rows of `source`, in the same chunks; whoever inherits says what is different."""

    def __init__(self, source: Source) -> None:
        self.source = source
        for same in _SAME:
            setattr(self, same, getattr(source, same))

    @abstractmethod
    def over(self, source: Source) -> Source:
        """The same view of another source of the same rows: cut otherwise, or kept in memory."""

    @abstractmethod
    def wrapped(self, chunk: Chunk) -> Chunk:
        """A chunk of the source as it is seen here."""

    def chunks(self) -> Iterator[Chunk]:
        return map(self.wrapped, self.source.chunks())

    def texts(self, column: str) -> Iterator[list[str]]:
        return self.source.texts(column)

    def limited(self, max_rows: int) -> Source:
        return self.over(self.source.limited(max_rows))

    @property
    def lengths(self) -> Sequence[int] | None:
        """Rows of each partition of a Dask collection, where they are known."""
        return getattr(self.source, "lengths", None)

    @property
    def most_rows(self) -> int | None:
        return self.source.most_rows

    @property
    def max_chunk_rows(self) -> int | None:
        return self.source.max_chunk_rows

    @property
    def chunk_bytes(self) -> int | None:
        """The chunk as it is read, and the rows made of it beside that."""
        read, rows = self.source.chunk_bytes, self.source.max_chunk_rows
        return None if read is None or rows is None else read + rows * self.row_bytes


class SameSource(WrappedSource):
    """`source` with the chunks that it has; whoever inherits says what else there is for passes of EM (`for_em`)."""

    def wrapped(self, chunk: Chunk) -> Chunk:
        return chunk

    @property
    def chunk_bytes(self) -> int | None:
        return self.source.chunk_bytes
