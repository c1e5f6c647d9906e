"""What a source of rows is: something that can be read again and again, in chunks that can be pickled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]  # (n, D), C-contiguous, float32 or float64, possibly read-only
Weights = NDArray[np.float64] | None  # (n,)


class Chunk(ABC):
    """A run of rows that is read in one go. Picklable and small: a view or a path and a range, never a file's content.

    Attributes
    ----------
    index : int
        Position in the source, from 0. Folds are ordered by it.
    start : int or None
        Absolute number of the first row, or None where the source does not know the lengths before it.
    """

    __slots__ = ()
    index: int
    start: int | None

    @abstractmethod
    def load(self) -> tuple[Rows, Weights]:
        """Read the rows, (n, D) C-contiguous float32 or float64, and their weights, (n,) float64, or None.

        Raises
        ------
        ChunkReadError
            When the rows cannot be read, naming the source and the chunk.
        """


@dataclass(frozen=True, slots=True)
class Slab(Chunk):
    """Part of a chunk whose rows are wanted in smaller pieces; by default the chunk is loaded and cut."""

    chunk: Chunk
    index: int
    start: int | None
    first: int
    stop: int

    def load(self) -> tuple[Rows, Weights]:
        rows, weights = self.chunk.load()
        return rows[self.first : self.stop], None if weights is None else weights[self.first : self.stop]


class Source(ABC):
    """Rows of `n_features` numbers, cut into chunks.

    Attributes
    ----------
    name : str
        What the user called it (a path, or the kind of object), for messages.
    n_features : int
    n_rows, n_chunks : int or None
        None where only a pass over the data can tell.
    dtype : numpy.dtype
        float32 or float64: the type that `Chunk.load` returns.
    feature_names : tuple of str or None
    has_weights : bool
    in_memory : bool
        True where `Chunk.load` costs no reading (a view of an array that already is in memory).
    """

    name: str
    n_features: int
    n_rows: int | None
    n_chunks: int | None
    dtype: np.dtype[Any]
    feature_names: tuple[str, ...] | None = None
    has_weights: bool = False
    in_memory: bool = False

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """The chunks in order, lazily; may be called again for every pass."""

    @property
    @abstractmethod
    def max_chunk_rows(self) -> int | None:
        """Rows of the largest chunk, or None when not known before reading."""

    @property
    def chunk_bytes(self) -> int | None:
        """Peak memory while one chunk is loaded (decoded rows plus what decoding needs), or None if not known."""
        rows = self.max_chunk_rows
        return None if rows is None else rows * self.n_features * self.dtype.itemsize

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """JSON-able facts that identify the data: kind, path, shape, dtype, sizes, times or digests of what is stored.

        Two sources with equal fingerprints hold the same rows in the same chunks, as far as can be told without a pass.
        """
