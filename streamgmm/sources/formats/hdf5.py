"""Datasets in HDF5 files. The file is opened for each read: nothing is locked or shared in between."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import ChunkReadError
from streamgmm.sources.base import Chunk, Source
from streamgmm.sources.chunking import check_filled, cut_runs, default_chunk_rows, even_runs, unit_runs, wanted_rows
from streamgmm.sources.columns import digest
from streamgmm.sources.formats.hdf5_decode import Layout
from streamgmm.sources.formats.npy import check_two_dimensional
from streamgmm.sources.formats.packed import Packing
from streamgmm.sources.formats.stored import StoredChunk, StoredSource
from streamgmm.sources.integrity import Stamp, check_stamp, stamp


@contextmanager
def _opened(path: str, name: str) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"{name}: reading HDF5 needs h5py; install it with: pip install 'streamgmm[hdf5]'."
        ) from error

    with h5py.File(path, "r") as file:
        yield file


@dataclass(frozen=True, slots=True)
class Hdf5Chunk(StoredChunk):
    """Rows `start` to `stop` of a dataset."""

    path: str
    dataset: str
    stamp: Stamp
    layout: Layout | None = field(repr=False)

    def check(self) -> None:
        check_stamp(self.path, self.stamp, self.name, self.index)

    def _read(self) -> NDArray[Any]:
        with _opened(self.path, self.name) as file:
            data = file[self.dataset]
            places = None if self.layout is None else self.layout.places(data, self.start, self.stop)
            if self.layout is None or places is None:
                return np.asarray(data[self.start : self.stop])
        return self.layout.read(self.path, places, self.start, self.stop)


class Hdf5Source(StoredSource):
    """A two-dimensional dataset of an HDF5 file."""

    kind = "hdf5"

    def __init__(
        self,
        path: str,
        dataset: str,
        *,
        columns: Any = None,
        weight: Any = None,
        chunk_rows: int | None = None,
        missing_chunks: str = "error",
    ) -> None:
        self.path = path
        self.stamp = stamp(path)
        try:
            with _opened(path, path) as file:
                self.dataset = dataset or _only_dataset(file, path)
                name = f"{path}::{self.dataset}"
                if self.dataset not in file:
                    raise ValueError(f"{name}: there is no such dataset. {_choices(file, path)}")
                data = file[self.dataset]
                if not hasattr(data, "shape"):
                    raise ValueError(f"{name}: expected a dataset, found a group. {_choices(file, path)}")
                shape, dtype = check_two_dimensional(data.shape, name), data.dtype
                self.unit = data.chunks[0] if data.chunks else None
                self.decodes = data.compression is not None or bool(data.shuffle)
                self.has_checksums = bool(data.fletcher32)
                self.layout = Layout.of(data)
                there, lacking = _stored(data), _lacking(data)
                fill_value = data.fillvalue
                packing = Packing.of(_attributes(data), dtype, name)
        except (OSError, RuntimeError) as error:
            raise ChunkReadError(
                path, 0, f"the HDF5 file cannot be opened ({error}). Restore or rewrite it."
            ) from error
        self._describe(name, shape, dtype, columns, weight)
        self._unpack(packing)
        n_rows = shape[0]
        self.missing_chunks = missing_chunks
        self.n_stored_rows = n_rows
        wanted = wanted_rows(chunk_rows, self.n_features)
        if lacking is not None and missing_chunks != "fill":
            raise ChunkReadError(
                self.name, 0, f"its rows are in other files, and {lacking} (HDF5 reads {fill_value}). Restore them."
            )
        height = self.unit or max(1, n_rows)
        declared = -(-n_rows // height)
        self.n_missing = 0 if there is None else declared - len(there)
        if there is not None and missing_chunks == "error":
            first = next((row for row, found in zip(count(0, height), there, strict=False) if row != found), None)
            first = len(there) * height if first is None else first
            raise ChunkReadError(
                self.name,
                first // (self.unit or wanted),
                f"rows {first} to {min(first + height, n_rows) - 1} were never written (HDF5 reads them as "
                f"{fill_value}); {self.n_missing} of {declared} row chunks are missing. Write them; or say what "
                "absence means with missing_chunks='skip' (leave these rows out) or 'fill'.",
            )
        if missing_chunks == "fill" and there is not None:
            check_filled(max(declared, n_rows // wanted), len(there), self.name)
        if self.unit is None:
            self.set_runs([] if there is not None and missing_chunks == "skip" else even_runs(n_rows, wanted))
            return
        firsts = there if missing_chunks == "skip" and there is not None else range(0, n_rows, height)
        units = [(row, min(row + height, n_rows)) for row in firsts]
        self.set_runs(unit_runs(units, chunk_rows, default_chunk_rows(self.n_features)))

    def chunk(self, index: int, start: int, stop: int) -> Chunk:
        return Hdf5Chunk(*self._run(index, start, stop), self.path, self.dataset, self.stamp, self.layout)

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


def open_hdf5(obj: Any, dataset: str = "", **choices: Any) -> Hdf5Source:
    """A source over ``path, dataset`` or a `h5py.Dataset`."""
    if isinstance(obj, str):
        return Hdf5Source(obj, dataset, **choices)
    if not hasattr(obj, "shape"):
        raise ValueError(f"Expected a h5py.Dataset; got a {type(obj).__name__}. Choose one of its datasets.")
    obj.file.flush()
    return Hdf5Source(os.fspath(obj.file.filename), obj.name, **choices)


def _attributes(data: Any) -> dict[str, Any]:
    """The attributes that say what stored numbers mean; others may be of types that cannot be read."""
    names = ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned")
    found = {name: data.attrs[name] for name in names if name in data.attrs}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def _tables(file: Any) -> list[str]:
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if getattr(item, "ndim", None) == 2 and item.dtype.kind in "iufb":
            found.append(name)

    file.visititems(visit)
    return found


def _choices(file: Any, path: str) -> str:
    return "Choose one of: " + (", ".join(f"{path}::{name}" for name in _tables(file)) or "(no table of numbers here)")


def _only_dataset(file: Any, path: str) -> str:
    tables = _tables(file)
    if len(tables) != 1:
        raise ValueError(
            f"{path}: expected path::dataset, as the file has {len(tables)} tables. {_choices(file, path)}"
        )
    return tables[0]


def _stored(data: Any) -> list[int] | None:
    """First rows of the stored chunks that are there, ascending; None where all are.

    Costs what is stored, whatever the shape says.
    """
    n_rows, n_columns = data.shape
    if n_rows == 0 or data.external or data.is_virtual:
        return None
    if data.chunks is None:
        return [] if data.id.get_storage_size() == 0 else None
    height, width = data.chunks
    across = -(-n_columns // width)
    if data.id.get_num_chunks() == -(-n_rows // height) * across:
        return None
    present: dict[int, int] = {}

    def visit(info: Any) -> None:
        present[info.chunk_offset[0]] = present.get(info.chunk_offset[0], 0) + 1

    data.id.chunk_iter(visit)
    return sorted(row for row, n in present.items() if n == across and row < n_rows)


def _lacking(data: Any) -> str | None:
    """What is not there of the files that hold the rows of an external or virtual dataset, or None.

    HDF5 gives fill values for a source of a virtual dataset that is not there, and for the end of a short file.
    """
    folder = os.path.dirname(os.path.abspath(data.file.filename))
    for name, offset, size in data.external or ():
        path = os.path.join(folder, name)
        needed = offset + (math.prod(data.shape) * data.dtype.itemsize if size == _UNLIMITED else size)
        held = os.path.getsize(path) if os.path.exists(path) else 0
        if held < needed:
            return f"{path} holds {held} bytes of {needed}"
    if not data.is_virtual:
        return None
    mapped = 0
    for source in data.virtual_sources():
        mapped += source.vspace.get_select_npoints()
        path = data.file.filename if source.file_name == "." else os.path.join(folder, source.file_name)
        if not os.path.exists(path):
            return f"{path} is not there"
        with _opened(path, path) as file:
            if source.dset_name not in file:
                return f"{path} has no dataset {source.dset_name}"
            inner = file[source.dset_name]
            if len(inner.shape) == 2 and _stored(inner) is not None:
                return f"{path}::{source.dset_name} lacks chunks"
    return None if mapped >= math.prod(data.shape) else f"its sources cover {mapped} of {math.prod(data.shape)} values"


_UNLIMITED = 2**64 - 1
