"""Dask arrays and dataframes: each partition is a chunk, of known length or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from streamgmm.errors import ChunkReadError
from streamgmm.sources.base import Chunk, Rows, Source, Weights
from streamgmm.sources.columns import Chosen, Pick, WeightChoice, check_weights, row_dtype, weight_array
from streamgmm.sources.formats.npy import check_two_dimensional
from streamgmm.sources.formats.tables import (
    Columns,
    choose_columns,
    frame_labels,
    frame_rows,
    frame_schema,
    is_frame,
    select,
)
from streamgmm.utils.masked import unmasked


@dataclass(frozen=True, slots=True)
class DaskChunk(Chunk):
    """One partition.

    `parts` are the delayed partition and, where there are weights, theirs. An executor that runs on Dask makes them
    dependencies of its task and puts their results into `values`; everybody else computes them here. `n_stored` columns
    and, where it is known, `n_rows` rows are what an array's metadata promise.
    """

    index: int
    start: int | None
    parts: tuple[Any, ...] = field(repr=False)
    pick: Pick | Columns
    dtype: np.dtype[Any]
    name: str
    weight: Weights = field(repr=False)
    n_stored: int = 0
    n_rows: int | None = None
    values: tuple[Any, ...] = field(default=(), repr=False)

    def load(self) -> tuple[Rows, Weights]:
        import dask

        if not self.values:
            try:
                return self._rows(*dask.compute(*self.parts, scheduler="synchronous"))
            except (ChunkReadError, MemoryError):
                raise
            except OSError as error:
                raise ChunkReadError(self.name, self.index, f"the partition cannot be computed ({error}).") from error
        return self._rows(*self.values)

    def bare(self) -> DaskChunk:
        """The chunk without its partition, for a task that is given the partition."""
        return replace(self, parts=())

    def _rows(self, block: Any, *weights: Any) -> tuple[Rows, Weights]:
        """Rows and weights of a computed partition."""
        if isinstance(self.pick, Columns):
            self._check_frame(block, self.pick)
            rows, found = frame_rows(block, self.pick)
        else:
            rows, found = self.pick.split(self._array(block), self.dtype)
        if found is None and not weights:
            return rows, self.weight
        given = found if found is not None else weights[0]
        if np.shape(given) != (len(rows),) or np.asarray(given).dtype.kind not in "fiub":
            raise ValueError(
                f"{self.name}: partition {self.index} has {len(rows)} rows and weights of shape {np.shape(given)} "
                f"and dtype {np.asarray(given).dtype}; expected one number for each row. Give both the same partitions."
            )
        return rows, check_weights(given, self.name, self.start, self.index)

    def _array(self, block: Any) -> np.ndarray[Any, Any]:
        """A computed partition, after making sure that it is what the collection's metadata say."""
        if hasattr(block, "tocsr"):
            raise TypeError(f"{self.name}: partition {self.index} is sparse; use .map_blocks(lambda b: b.toarray()).")
        if not hasattr(block, "__array__"):
            raise self._unlike(f"a {type(block).__name__}")
        found = np.asarray(unmasked(block))
        width, rows = self.n_stored, "n" if self.n_rows is None else self.n_rows
        if found.ndim != 2 or found.shape[1] != width or self.n_rows not in (None, len(found)):
            raise self._unlike(f"shape {found.shape}", f"({rows}, {width})")
        # Numbers may become wider, never narrower.
        kept = self.dtype.itemsize == 8 or np.promote_types(found.dtype, self.dtype) == self.dtype
        if found.dtype.kind not in "fiub" or not kept:
            raise self._unlike(f"dtype {found.dtype}", str(self.dtype))
        return found

    def _check_frame(self, block: Any, chosen: Columns) -> None:
        if not is_frame(block):
            raise self._unlike(f"a {type(block).__name__}", "a table")
        found = {name: (what, single) for name, what, single in frame_schema(block)}
        absent = [name for name in chosen.all if name not in found]
        if absent:
            raise self._unlike(f"no column {absent[0]!r} among {', '.join(map(repr, list(found)[:20]))}")
        for name in chosen.all:
            if found[name][0] is not None and not select(block, [name]).isna().all(axis=None):
                raise self._unlike(f"{found[name][0]} in the column {name!r}", "numbers")
            if name in chosen.names and chosen.dtype.itemsize == 4 and not found[name][1]:
                raise self._unlike(f"no float32 in the column {name!r}", "float32")

    def _unlike(self, found: str, expected: str | None = None) -> ChunkReadError:
        """The error for a partition that is not what the metadata of its collection say."""
        what = "the rows and columns of the collection's metadata" if expected is None else f"{expected}, as the "
        what += "" if expected is None else "collection's metadata say"
        return ChunkReadError(
            self.name,
            self.index,
            f"the partition has {found}; expected {what}. Mend the function that makes it, or its meta=, dtype= or "
            "shape=.",
        )


class DaskSource(Source):
    """A Dask collection. Each pass computes its partitions anew, unless it was persisted."""

    kind = "dask"
    decodes = True

    def __init__(
        self,
        blocks: list[Any],
        lengths: list[int] | None,
        pick: Pick | Columns,
        dtype: np.dtype[Any],
        weight: WeightChoice,
        name: str,
        token: str,
        n_stored: int = 0,
    ) -> None:
        self.n_stored = n_stored
        self.name = name
        self.blocks = blocks
        self.lengths = lengths
        self.pick = pick
        self.dtype = dtype
        self.n_features = pick.n_features(n_stored) if isinstance(pick, Pick) else len(pick.names)
        self.token = token
        self.n_rows = None if lengths is None else sum(lengths)
        self.n_chunks = len(blocks)
        self.has_weights = weight is not None
        self.weight: Weights = None
        self.weight_blocks: list[Any] | None = None
        if type(weight).__module__.startswith("dask"):
            self.weight_blocks = _weight_blocks(weight, lengths, len(blocks), name)
            self.token += str(weight.__dask_tokenize__())  # type: ignore[attr-defined]
        elif weight is not None and not isinstance(weight, (str, int, np.integer)):
            if lengths is None:
                raise ValueError(f"{name}: partitions have unknown lengths, so weights must be a dask array like them.")
            self.weight = weight_array(weight, name, sum(lengths))
        self.starts = None if lengths is None else [0, *np.cumsum(lengths).tolist()]

    def chunks(self) -> Iterator[Chunk]:
        for index, block in enumerate(self.blocks):
            start = None if self.starts is None else self.starts[index]
            weight = None
            if self.weight is not None and self.starts is not None:
                weight = self.weight[start : self.starts[index + 1]]
            parts = (block,) if self.weight_blocks is None else (block, self.weight_blocks[index])
            rows = None if self.lengths is None else self.lengths[index]
            yield DaskChunk(index, start, parts, self.pick, self.dtype, self.name, weight, self.n_stored, rows)

    @property
    def max_chunk_rows(self) -> int | None:
        return None if self.lengths is None else max(self.lengths, default=0)

    @property
    def chunk_bytes(self) -> int | None:
        rows = self.max_chunk_rows
        return None if rows is None else int(2.4 * rows * self.row_bytes)

    def fingerprint(self) -> dict[str, Any]:
        from streamgmm.sources.columns import digest

        return {
            "kind": "dask",
            "token": self.token,
            "n_chunks": self.n_chunks,
            "n_rows": self.n_rows,
            "weight": None if self.weight is None else digest(self.weight),
        }


def open_dask(
    obj: Any, *, columns: Chosen = None, weight: WeightChoice = None, chunk_rows: int | None = None
) -> DaskSource:
    """A source over a dask array, or a dask dataframe.

    Raises
    ------
    ValueError
        Where the columns of an array are spread over several chunks, with the remedy.
    """
    if chunk_rows is not None:
        raise ValueError("chunk_rows does not apply to dask collections; use .rechunk or .repartition.")
    if hasattr(obj, "partitions") and hasattr(obj, "columns"):
        name = "dask DataFrame"
        chosen = choose_columns(name, frame_schema(obj._meta), columns, weight, frame_labels(obj._meta))
        labels = {str(label): label for label in obj.columns}  # a frame's may be numbers
        table = obj[[labels[name] for name in chosen.all]]
        blocks = list(table.to_delayed())
        source = DaskSource(blocks, None, chosen, chosen.dtype, weight, name, str(table.__dask_tokenize__())).named(
            chosen.names
        )
        source.left_out = chosen.left_out
        return source
    if type(obj).__name__ != "Array":
        raise TypeError(f"Expected a dask array or dataframe; got a dask {type(obj).__name__}.")
    name = "dask array"
    if obj.ndim != 2:
        check_two_dimensional(obj.shape, name)
    if len(obj.chunks[1]) > 1:
        raise ValueError(
            f"{name}: the columns are spread over {len(obj.chunks[1])} chunks {obj.chunks[1]}; a row must be in one "
            "chunk. Use X.rechunk({1: -1})."
        )
    if np.isnan(obj.shape[1]):
        raise ValueError(
            f"{name}: the number of columns is not known; expected shape (rows, D), rows may be unknown. Give it: "
            "da.from_delayed(..., shape=(np.nan, D)), or X.compute_chunk_sizes()."
        )
    n_stored = int(obj.shape[1])
    if hasattr(obj._meta, "tocsr"):
        raise TypeError(f"{name}: sparse blocks; dense data is required. Use X.map_blocks(lambda b: b.toarray()).")
    pick = Pick.from_choice(name, n_stored, columns, weight)
    lengths = None if any(np.isnan(n) for n in obj.chunks[0]) else [int(n) for n in obj.chunks[0]]
    blocks = list(obj.to_delayed().ravel())
    return DaskSource(blocks, lengths, pick, row_dtype(obj.dtype, name), weight, name, str(obj.name), n_stored)


def _weight_blocks(weight: Any, lengths: list[int] | None, n_blocks: int, name: str) -> list[Any]:
    if weight.ndim != 1:
        raise ValueError(f"{name}: sample weights must have one dimension; got {weight.ndim}.")
    known = hasattr(weight, "chunks") and not any(np.isnan(n) for n in weight.chunks[0])
    if lengths is not None and known:
        if weight.shape[0] != sum(lengths):
            raise ValueError(f"{name}: {sum(lengths)} rows but {weight.shape[0]} sample weights; expected one each.")
        weight = weight.rechunk((tuple(lengths),))
    blocks = list(np.ravel(weight.to_delayed()))
    if len(blocks) != n_blocks:
        raise ValueError(
            f"{name}: {n_blocks} partitions but {len(blocks)} partitions of weights; expected the same partitions."
        )
    return blocks
