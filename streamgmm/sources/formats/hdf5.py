"""Datasets in HDF5 files: a matrix, records, or columns. The file is opened for each read, so nothing is locked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import ChunkReadError
from streamgmm.sources.base import Chunk, Source
from streamgmm.sources.chunking import cut_runs, default_chunk_rows, unit_runs, wanted_rows
from streamgmm.sources.columns import Chosen, WeightChoice, digest
from streamgmm.sources.formats.hdf5_decode import Layout
from streamgmm.sources.formats.hdf5_members import dimensions_of, member_of, members_of
from streamgmm.sources.formats.hdf5_records import RecordsSource
from streamgmm.sources.formats.hdf5_storage import check_filters, opened, stored_rows
from streamgmm.sources.formats.joined import join
from streamgmm.sources.formats.members import Member, check_rows_first, choose
from streamgmm.sources.formats.npy import check_two_dimensional
from streamgmm.sources.formats.packed import Packing
from streamgmm.sources.formats.stored import StoredChunk, StoredSource
from streamgmm.sources.integrity import Stamp, check_stamp, stamp

if TYPE_CHECKING:
    import h5py


@dataclass(frozen=True, slots=True)
class Hdf5Chunk(StoredChunk):
    """Rows `start` to `stop` of a dataset, which holds them last where it is `transposed`."""

    path: str
    dataset: str
    stamp: Stamp
    transposed: bool
    layout: Layout | None = field(repr=False)

    def check(self) -> None:
        check_stamp(self.path, self.stamp, self.name, self.index)

    def _read(self) -> NDArray[Any]:
        with opened(self.path, self.name) as file:
            data = file[self.dataset]
            places = None if self.layout is None else self.layout.places(data, self.start, self.stop)
            if self.layout is None or places is None:
                if self.transposed:
                    values = np.asarray(data[:, self.start : self.stop]).T
                else:
                    values = np.asarray(data[self.start : self.stop])
                return values.reshape(self.stop - self.start, self.n_stored)
        return self.layout.read(self.path, places, self.start, self.stop)


class Hdf5Source(StoredSource):
    """A dataset of one or two dimensions of an HDF5 file, opened as `data`; vectors are one column."""

    kind = "hdf5"

    def __init__(
        self,
        data: h5py.Dataset,
        member: Member,
        path: str,
        mark: Stamp,
        *,
        columns: Chosen = None,
        weight: WeightChoice = None,
        chunk_rows: int | None = None,
        missing_chunks: str = "error",
    ) -> None:
        self.path, self.dataset, self.stamp = path, member.path, mark
        name = f"{path}::{self.dataset}"
        shape = check_two_dimensional(member.shape if len(member.shape) != 1 else (member.shape[0], 1), name)
        # Of a vector of MATLAB, which has two dimensions, the longer one is that of the rows.
        self.transposed = member.transposed and (len(member.shape) == 2 or data.shape[0] != shape[0])
        axis = 1 if self.transposed else 0
        check_rows_first(dimensions_of(data), name)
        self.decodes = data.compression is not None or bool(data.shuffle)
        self.has_checksums = bool(data.fletcher32)
        self.layout = None if self.transposed else Layout.from_dataset(data)
        packing = Packing.from_attributes(_attributes(data), data.dtype, name)
        self._describe(name, shape, data.dtype, columns, weight)
        self._unpack(packing)
        self.missing_chunks = missing_chunks
        self.n_stored_rows = shape[0]
        stored = stored_rows(data, axis, name, missing_chunks, wanted_rows(chunk_rows, self.n_features))
        self.unit, self.n_missing = stored.unit, stored.n_missing
        joined = unit_runs(stored.units, chunk_rows, default_chunk_rows(self.n_features))
        self.set_runs(stored.units if self.unit is None else joined)

    def chunk(self, index: int, start: int, stop: int) -> Chunk:
        run = self._run(index, start, stop)
        return Hdf5Chunk(*run, self.path, self.dataset, self.stamp, self.transposed, self.layout)

    @property
    def chunk_bytes(self) -> int | None:
        rows = max(self.max_chunk_rows or 0, min(self.unit or 0, self.n_stored_rows))
        # One stored chunk at a time is decoded beside the result; by ourselves from memory of its own into a third.
        beside = (self.unit or 0) * (1 if self.layout is None else 3)
        stored = (rows + beside) * self.n_stored * self.stored_dtype.itemsize
        return stored + rows * self.row_bytes * self._converts

    def limited(self, max_rows: int) -> Source:
        if max_rows >= (self.max_chunk_rows or 0):
            return self
        least = self.unit or 1
        return self.in_runs(cut_runs(self.runs, max(least, max_rows // least * least)))

    def fingerprint(self) -> dict[str, Any]:
        return {
            "kind": "hdf5",
            "path": str(Path(self.path).resolve()),
            "dataset": self.dataset,
            "stamp": list(self.stamp),
            "columns": self.pick.columns,
            "weight": self.pick.weight if self.weight is None else digest(self.weight),
            "missing_chunks": self.missing_chunks,
            "runs": digest(np.array(self.runs, np.int64)),
        }


def open_hdf5(obj: str | h5py.Dataset | h5py.Group, inner: str = "", **choices: Any) -> Source:
    """A source over ``path, inner``, where `inner` names a dataset or group, or over an object of h5py.

    Raises
    ------
    ValueError
        Where there is no table, or more than one, with the choices.
    ChunkReadError
        Where the file is damaged, or rows were never written.
    """
    if not isinstance(obj, str):
        obj.file.flush()
        obj, inner = os.fspath(obj.file.filename), obj.name.strip("/")
    mark = stamp(obj)
    try:
        with opened(obj, obj) as file:
            return _table(file, obj, mark, inner, **choices)
    except (ChunkReadError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, (ValueError, ImportError)) and not _by_library(error):
            raise
        reason = f"the HDF5 file cannot be opened ({error}). Restore or rewrite it."
        raise ChunkReadError(obj, 0, reason) from error


def _by_library(error: BaseException) -> bool:
    """True where h5py raised it: from a damaged file come errors of every kind."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "h5py" in trace.tb_frame.f_code.co_filename


def _table(
    file: h5py.File, path: str, mark: Stamp, inner: str,
    *, columns: Chosen, weight: WeightChoice, chunk_rows: int | None,
    missing_chunks: str,
) -> Source:  # fmt: skip
    named = file[inner] if inner.strip("/") and inner in file else None  # what is damaged raises, unlike with get
    if hasattr(named, "shape"):
        alone = member_of(named, inner.strip("/"))
        members: Sequence[Member] = () if alone is None else (alone,)
    else:
        members = members_of(file)
    chosen = choose(path, inner, members, columns)
    first = chosen[0]

    def open_member(member: Member, positions: tuple[int, ...] | None) -> Hdf5Source:
        data = file[member.path]
        check_filters(data, f"{path}::{member.path}")
        return Hdf5Source(data, member, path, mark, columns=positions, missing_chunks=missing_chunks)

    if first.is_records:
        data = file[first.path]
        check_filters(data, f"{path}::{first.path}")
        return RecordsSource(
            data, path, first.path, mark, columns=columns, weight=weight, chunk_rows=chunk_rows,
            missing_chunks=missing_chunks,
        )  # fmt: skip
    if len(chosen) == 1 and first.is_matrix:
        data = file[first.path]
        check_filters(data, f"{path}::{first.path}")
        return Hdf5Source(
            data, first, path, mark, columns=columns, weight=weight, chunk_rows=chunk_rows,
            missing_chunks=missing_chunks,
        )  # fmt: skip
    group = first.frame if first.frame is not None else first.path if len(chosen) == 1 else first.group
    name = f"{path}::{group}" if group else path
    return join(name, "hdf5", chosen, open_member, columns=columns, weight=weight, chunk_rows=chunk_rows)


def _attributes(data: h5py.Dataset) -> dict[str, Any]:
    """The attributes that say what stored numbers mean; others may be of types that cannot be read."""
    names = ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned")
    found = {name: data.attrs[name] for name in names if name in data.attrs}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}
