"""What a source of rows is: something that can be read again and again, in chunks that can be pickled."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import ChunkReadError
from streamgmm.weights import first_bad

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
        True where `Chunk.load` costs no reading (a view of an array that already is in memory).
    decodes : bool
        True where `Chunk.load` decompresses or parses, so that decoded chunks are worth keeping.
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

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """The chunks in order, lazily; may be called again for every pass."""

    @property
    @abstractmethod
    def max_chunk_rows(self) -> int | None:
        """Rows of the largest chunk, or None when not known before reading."""

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

    def named(self, names: tuple[str, ...]) -> Self:
        """Itself, with names for its features."""
        self.feature_names = names
        return self

    def limited(self, max_rows: int) -> Source:
        """The same rows in chunks of at most `max_rows`, each read by itself; self where this is not possible."""
        return self

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

    def weights_of(self, start: int, stop: int) -> Weights:
        """The weights of these rows, where they are not stored among the columns."""
        return None if self.weight is None else self.weight[start:stop]

    @property
    def max_chunk_rows(self) -> int | None:
        return max((stop - start for start, stop in self.runs), default=0)


# Cutting rows into chunks ---------------------------------------------------------------------------------------------


def default_chunk_rows(n_features: int) -> int:
    """Rows of a chunk of about 2 MiB, a power of two from 16384 to 131072: a function of D only, never of threads."""
    rows = 2**21 // (8 * max(1, n_features))
    return min(131_072, max(16_384, 1 << (rows.bit_length() - 1) if rows else 1))


def wanted_rows(chunk_rows: int | None, n_features: int) -> int:
    """The user's `chunk_rows`, checked, or the default."""
    return default_chunk_rows(n_features) if chunk_rows is None else check_chunk_rows(chunk_rows)


def even_runs(n_rows: int, chunk_rows: int) -> list[tuple[int, int]]:
    """Runs of `chunk_rows` rows from 0 to `n_rows`, the last one shorter."""
    return [(start, min(start + chunk_rows, n_rows)) for start in range(0, n_rows, chunk_rows)]


def unit_runs(units: Sequence[tuple[int, int]], chunk_rows: int | None, wanted: int) -> list[tuple[int, int]]:
    """Runs made of storage units (row ranges that are decoded as a whole): small ones joined, large ones as they are.

    Parameters
    ----------
    units : (start, stop) of each, ascending; neighbours that do not touch are never joined
    chunk_rows : the user's wish, or None; a unit that holds more is cut, and then read once for each piece
    wanted : rows a chunk should have about, where the user has no wish
    """
    target = wanted if chunk_rows is None else check_chunk_rows(chunk_rows)
    runs: list[tuple[int, int]] = []
    for start, stop in units:
        if runs and runs[-1][1] == start and stop - runs[-1][0] <= target:
            runs[-1] = runs[-1][0], stop
        else:
            runs.append((start, stop))
    return runs if chunk_rows is None else cut_runs(runs, chunk_rows)


def cut_runs(runs: Sequence[tuple[int, int]], max_rows: int) -> list[tuple[int, int]]:
    """The same rows in runs of at most `max_rows`; those of zero rows are kept."""
    return [
        (first, min(first + max_rows, stop))
        for start, stop in runs
        for first in (range(start, stop, max_rows) if stop > start else (start,))
    ]


def check_chunk_rows(chunk_rows: int) -> int:
    if not isinstance(chunk_rows, (int, np.integer)) or chunk_rows < 1:
        raise ValueError(f"chunk_rows must be a whole number of at least 1; got {chunk_rows!r}.")
    return int(chunk_rows)


# Values ---------------------------------------------------------------------------------------------------------------


def row_dtype(dtype: Any) -> np.dtype[Any]:
    """float32 for float32, float64 for every other real type.

    Raises
    ------
    TypeError, ValueError
        For text, objects, times, complex numbers and records, with the remedy.
    """
    dtype = np.dtype(dtype)
    if dtype.kind in "iufb":
        return np.dtype(np.float32) if dtype.kind == "f" and dtype.itemsize == 4 else np.dtype(np.float64)
    if dtype.kind == "c":
        raise ValueError(f"Complex data not supported: expected real numbers, got dtype {dtype}. Split the parts.")
    kinds = {"O": "Python objects", "U": "text", "S": "text", "T": "text", "M": "times", "m": "times", "V": "records"}
    raise ValueError(
        f"Expected numbers; got dtype {dtype} ({kinds.get(dtype.kind, 'no numbers')}). "
        "Convert to float64 first, or choose numeric columns with columns=."
    )


def as_rows(values: Any, dtype: np.dtype[Any]) -> Rows:
    """`values` as C-contiguous native `dtype`; a view where nothing has to change."""
    return np.ascontiguousarray(values, dtype)


def check_weights(weights: Any, name: str, start: int | None, index: int) -> NDArray[np.float64]:
    """`weights` of one chunk as float64.

    Raises
    ------
    ValueError
        Where one is negative, NaN or infinite, naming the row.
    """
    weights = np.ascontiguousarray(weights, np.float64)
    row = first_bad(weights)
    if row is not None:
        where = f"row {start + row}" if start is not None else f"row {row} of chunk {index}"
        raise ValueError(
            f"{name}: sample weights must be finite and >= 0 (0 leaves a row out); {where} has {weights[row]}."
        )
    return weights


@dataclass(frozen=True, slots=True)
class Pick:
    """Which stored columns are features, in which order, and which one holds the sample weights."""

    columns: tuple[int, ...] | None
    weight: int | None

    @classmethod
    def of(cls, name: str, n_stored: int, columns: Any, weight: Any, names: Sequence[str] | None = None) -> Pick:
        """Resolve positions and, where there are `names`, names.

        Raises
        ------
        ValueError
            For a column that does not exist, and where no feature is left.
        """

        def position(column: Any) -> int:
            if isinstance(column, str) and names is not None and column in names:
                return list(names).index(column)
            if isinstance(column, str) and names is None and column.isdecimal():
                column = int(column)  # as a terminal gives it
            if isinstance(column, (int, np.integer)) and -n_stored <= column < n_stored:
                return int(column) % n_stored
            known = (
                f"columns 0 to {n_stored - 1}"
                if names is None
                else ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
            )
            raise ValueError(f"{name}: there is no column {column!r}; expected some of {known}.")

        at = None if weight is None or not isinstance(weight, (str, int, np.integer)) else position(weight)
        if columns is None:
            chosen = None if at is None else tuple(i for i in range(n_stored) if i != at)
        else:
            if isinstance(columns, (str, int, np.integer)):
                columns = [columns]
            chosen = tuple(position(column) for column in columns)
            repeated = {i for i in chosen if chosen.count(i) > 1}
            if repeated:
                raise ValueError(f"{name}: columns= names a column twice: {sorted(repeated)}. Name each once.")
        if chosen == () or n_stored == 0:
            raise ValueError(f"{name}: 0 feature(s) are left; expected at least one column besides the weights.")
        return cls(chosen, at)

    def n_features(self, n_stored: int) -> int:
        return n_stored if self.columns is None else len(self.columns)

    def split(self, values: NDArray[Any], dtype: np.dtype[Any]) -> tuple[Rows, NDArray[Any] | None]:
        """Features as rows, and the raw weights, of stored `values` (n, all columns)."""
        weights = None if self.weight is None else values[:, self.weight]
        return as_rows(values if self.columns is None else values[:, self.columns], dtype), weights


def weight_array(weight: Any, name: str, n_rows: int) -> Weights:
    """A `weight=` argument that is not a column: one number for each of `n_rows` rows, or None."""
    if weight is None or isinstance(weight, (str, int, np.integer)):
        return None
    array = np.ascontiguousarray(weight, np.float64)
    if array.shape != (n_rows,):
        raise ValueError(f"{name}: sample weights must have shape ({n_rows},), one for each row; got {array.shape}.")
    return check_weights(array, name, 0, 0)


def digest(values: NDArray[Any]) -> str:
    """SHA-256 of the values, for fingerprints."""
    return hashlib.sha256(np.ascontiguousarray(values)).hexdigest()


# Files ----------------------------------------------------------------------------------------------------------------

Stamp = tuple[int, int]
"""Size in bytes and time of the last change in ns."""


def stamp(path: str | os.PathLike[str]) -> Stamp:
    """What changes when somebody replaces the file."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def check_stamp(path: str, expected: Stamp, name: str, index: int) -> None:
    """Refuse a file that is not the one that was opened.

    Raises
    ------
    ChunkReadError
    """
    try:
        found = stamp(path)
    except OSError as error:
        raise ChunkReadError(
            name, index, f"{path} was there when the data were opened and cannot be read now: {error.strerror}."
        ) from error
    if found != expected:
        raise ChunkReadError(
            name,
            index,
            f"{path} has changed since it was opened ({expected[0]} bytes then, {found[0]} now). A fit needs the same "
            "rows in every pass; leave the data alone and start again.",
        )


def check_shape(found: tuple[int, ...], expected: tuple[int, ...], name: str, index: int) -> None:
    """Refuse a chunk whose shape is not what the metadata promised."""
    if found != expected:
        raise ChunkReadError(
            name, index, f"expected {expected[0]} rows of {expected[1:]} values, read an array of shape {found}."
        )
