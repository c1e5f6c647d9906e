"""Interface of a source of rows: something that can be read again and again, in chunks that can be pickled."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from streamgmm.utils import html
from streamgmm.utils.numbers import size

Rows = NDArray[Any]  # (n, D), C-contiguous, float32 or float64, possibly read-only
Weights = NDArray[np.float64] | None  # (n,)
Readable = object
"""Whatever `open_source` makes a source of: a path or several, an array, a table, a collection, a source."""


class Writable(Protocol):
    """Array that answers are written into, slice by slice: an ndarray, a memmap, a Zarr array."""

    def __len__(self) -> int: ...

    def __setitem__(self, rows: slice, values: NDArray[Any], /) -> None: ...


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

    def texts(self, column: str) -> list[str]:
        """Values of a column of the stored table, feature or not, as text: one for each row that `load` gives.

        Raises
        ------
        ValueError, ChunkReadError
            Where the format has no named columns, or none of this name.
        """
        raise ValueError(
            f"column {column!r}: these rows are no table with named columns. Expected a CSV, Parquet or Arrow file, or "
            "a table in memory."
        )

    def check(self) -> None:  # noqa: B027 - there is nothing to check in memory
        """Make sure, without reading, that the rows are still those that were opened.

        Raises
        ------
        ChunkReadError
            Where the file was changed or is gone. `load` does the same.
        """

    @property
    def shipped_bytes(self) -> int:
        """Bytes of rows that travel with the chunk when it is pickled: 0 for everything that names a file."""
        return 0


@dataclass(frozen=True, slots=True)
class Slab(Chunk):
    """Part of a chunk whose rows are wanted in smaller pieces; the chunk is loaded and cut."""

    chunk: Chunk
    index: int
    start: int | None
    first: int
    stop: int

    def load(self) -> tuple[Rows, Weights]:
        rows, weights = self.chunk.load()
        return rows[self.first : self.stop], None if weights is None else weights[self.first : self.stop]

    def texts(self, column: str) -> list[str]:
        return self.chunk.texts(column)[self.first : self.stop]

    @property
    def shipped_bytes(self) -> int:
        return self.chunk.shipped_bytes


class Source(ABC):
    """Rows of `n_features` numbers, cut into chunks.

    Attributes
    ----------
    name : str
        What the user called it (a path, or the kind of object), for messages.
    kind : str
        The format, for messages and `describe`.
    n_features : int
    n_rows, n_chunks : int or None
        None where only a pass over the data can tell.
    dtype : numpy.dtype
        float32 or float64: the type that `Chunk.load` returns.
    feature_names : tuple of str or None
    has_weights : bool
    in_memory : bool
        True where `Chunk.load` costs no pass (a view of an array that already is in memory).
    decodes : bool
        True where `Chunk.load` decompresses or parses, so that decoded chunks are worth keeping.
    has_checksums : bool or None
        As `verified`, where that is known without looking into the files.
    left_out : tuple of str
        Stored columns that are row labels, and no features.
    not_numbers : tuple of str
        Stored columns that hold no numbers, and are no features for that reason.
    notice : str or None
        What a person should know of how the data were understood.
    """

    name: str
    kind: str = "source"
    n_features: int
    n_rows: int | None
    n_chunks: int | None
    dtype: np.dtype[Any]
    feature_names: tuple[str, ...] | None = None
    has_weights: bool = False
    in_memory: bool = False
    decodes: bool = False
    has_checksums: bool | None = None
    left_out: tuple[str, ...] = ()
    not_numbers: tuple[str, ...] = ()
    notice: str | None = None

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """The chunks in order, lazily; may be called again for every pass."""

    def texts(self, column: str) -> Iterator[list[str]]:
        """`Chunk.texts` of every chunk, in order: ids of rows, which need be no numbers.

        Examples
        --------
        >>> import pandas as pd, streamgmm as sg
        >>> table = pd.DataFrame({"name": ["a", "b"], "size": [1.0, 2.0]})
        >>> list(sg.open_source(table, columns=["size"]).texts("name"))
        [['a', 'b']]
        """
        return (chunk.texts(column) for chunk in self.chunks())

    @property
    @abstractmethod
    def max_chunk_rows(self) -> int | None:
        """Rows of the largest chunk, or None when not known before reading."""

    def for_em(self) -> Source:
        """The same rows as passes of EM take them; another source where they are to lie on a graphics card."""
        return self

    def verified(self) -> bool | None:
        """Whether stored rows are under checksums, so that damage is told from data; None where nothing is stored."""
        return self.has_checksums

    @property
    def row_bytes(self) -> int:
        """Bytes of one decoded row, its weight included."""
        return self.n_features * self.dtype.itemsize + 8 * self.has_weights

    @property
    def chunk_bytes(self) -> int | None:
        """Peak memory while one chunk is loaded (decoded rows plus what decoding needs), or None if not known."""
        rows = self.max_chunk_rows
        return None if rows is None else rows * self.row_bytes

    @property
    def total_bytes(self) -> int | None:
        """Bytes of all rows, decoded, or None if not known."""
        return None if self.n_rows is None else self.n_rows * self.row_bytes

    @property
    def most_rows(self) -> int | None:
        """Rows that there are at most, however they are cut, or None: decides what is worth compiled code."""
        return self.n_rows

    def named(self, names: tuple[str, ...]) -> Self:
        """Itself, with names for its features."""
        self.feature_names = names
        return self

    def limited(self, max_rows: int) -> Source:
        """The same rows in chunks of at most `max_rows`, each read by itself; self where this is not possible."""
        return self

    def _repr_html_(self) -> str:
        names = self.feature_names or ()
        more = f", and {len(names) - 20} more" if len(names) > 20 else ""
        listed = ", ".join(names[:20]) + more if names else None
        return html.wrapped(
            f"{self.kind}: {self.name}",
            html.facts([
                ("rows", "unknown before a pass" if self.n_rows is None else self.n_rows),
                ("features", self.n_features),
                ("names", listed),
                ("type", str(self.dtype)),
                ("chunks", "unknown before a pass" if self.n_chunks is None else self.n_chunks),
                ("rows of the largest chunk", self.max_chunk_rows),
                ("size, decoded", None if self.total_bytes is None else size(self.total_bytes)),
                ("largest chunk, decoded", None if self.chunk_bytes is None else size(self.chunk_bytes)),
                ("weights", self.has_weights or None),
                ("in memory", self.in_memory),
                ("left out", ", ".join(self.left_out) or None),
                ("note", self.notice),
            ]),
        )  # fmt: skip

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """JSON-able facts that identify the data: kind, path, shape, dtype, sizes, times or digests of what is stored.

        Two sources with equal fingerprints hold the same rows in the same chunks, as far as can be told without a pass.
        """


class RunSource(Source):
    """A source of which the row count of every chunk is known: `runs` holds (start, stop) of each."""

    runs: Sequence[tuple[int, int]]
    weight: Weights = None

    @abstractmethod
    def chunk(self, index: int, start: int, stop: int) -> Chunk:
        """The chunk of rows `start` to `stop`."""

    def chunks(self) -> Iterator[Chunk]:
        return (self.chunk(index, start, stop) for index, (start, stop) in enumerate(self.runs))

    def set_runs(self, runs: Sequence[tuple[int, int]]) -> None:
        self.runs = runs
        self.n_chunks = len(runs)
        self.n_rows = sum(stop - start for start, stop in runs)

    def in_runs(self, runs: Sequence[tuple[int, int]]) -> Self:
        """The same rows, cut in another way."""
        cut = copy(self)
        cut.set_runs(runs)
        return cut

    def fingerprint_of_values(self, dtype: np.dtype[Any]) -> dict[str, Any]:
        """The fingerprint of rows that no file holds, of type `dtype` there: all their values."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            rows, weight = chunk.load()
            digest.update(rows)
            if weight is not None:
                digest.update(np.ascontiguousarray(weight))
        return {
            "kind": self.kind,
            "shape": [self.n_rows, self.n_features],
            "dtype": str(dtype),
            "chunk_rows": self.max_chunk_rows,
            "sha256": digest.hexdigest(),
        }

    def weights_of(self, start: int, stop: int) -> Weights:
        """The weights of these rows, where they are not stored among the columns."""
        return None if self.weight is None else self.weight[start:stop]

    @property
    def max_chunk_rows(self) -> int | None:
        return max((stop - start for start, stop in self.runs), default=0)


def all_verified(parts: Iterable[Source]) -> bool | None:
    """`Source.verified` of several together."""
    found = {part.verified() for part in parts}
    return False if False in found else None if None in found else True
