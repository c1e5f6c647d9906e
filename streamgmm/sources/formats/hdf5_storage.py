"""Storage of an HDF5 dataset: which rows were ever written, in which files they are, and how they are coded."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from streamgmm.errors import ChunkReadError
from streamgmm.sources.chunking import check_filled, even_runs

if TYPE_CHECKING:
    import h5py
    from h5py._hl.vds import VDSmap

__all__ = ["Stored", "check_filters", "opened", "stored_rows"]

_UNLIMITED = 2**64 - 1


@contextmanager
def opened(path: str, name: str) -> Iterator[Any]:
    """The file, for reading."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"{name}: reading HDF5 needs h5py; install it with: pip install 'streamgmm[hdf5]'."
        ) from error

    with h5py.File(path, "r") as file:
        yield file


@dataclass(frozen=True, slots=True)
class Stored:
    """The rows of a dataset that are read.

    Attributes
    ----------
    units : (start, stop) of what is decoded as a whole, ascending
    unit : rows of a stored chunk, or None where the dataset is one piece
    n_missing : stored chunks that are not there
    """

    units: list[tuple[int, int]]
    unit: int | None
    n_missing: int


def stored_rows(data: h5py.Dataset, axis: int, name: str, missing_chunks: str, wanted: int) -> Stored:
    """Rows, counted along `axis`, that are read of a dataset.

    Parameters
    ----------
    wanted : rows of a chunk where the dataset is one piece

    Raises
    ------
    ChunkReadError
        Where rows were never written or are in files that are not there, unless `missing_chunks` says what to do.
    """
    n_rows, unit = data.shape[axis], data.chunks[axis] if data.chunks else None
    lacking = _too_small(data) or (None if missing_chunks == "fill" else _lacking(data, axis))
    if lacking is not None:
        raise ChunkReadError(name, 0, f"its rows are in other files, and {lacking}. Restore them.")
    there, height = _there(data, axis), unit or max(1, n_rows)
    declared = -(-n_rows // height)
    n_missing = 0 if there is None else declared - len(there)
    if there is not None and missing_chunks == "error":
        first = next((row for row, found in zip(count(0, height), there, strict=False) if row != found), None)
        first = len(there) * height if first is None else first
        raise ChunkReadError(
            name,
            first // (unit or wanted),
            f"rows {first} to {min(first + height, n_rows) - 1} were never written (HDF5 reads them as "
            f"{data.fillvalue}); {n_missing} of {declared} row chunks are missing. Write them; or say what "
            "absence means with missing_chunks='skip' (leave these rows out) or 'fill'.",
        )
    if missing_chunks == "fill" and there is not None:
        check_filled(max(declared, n_rows // wanted), len(there), name)
    if unit is None:
        whole = there is None or missing_chunks != "skip"
        return Stored(even_runs(n_rows, wanted) if whole else [], None, n_missing)
    firsts = there if missing_chunks == "skip" and there is not None else range(0, n_rows, unit)
    return Stored([(row, min(row + unit, n_rows)) for row in firsts], unit, n_missing)


def _there(data: h5py.Dataset, axis: int) -> list[int] | None:
    """First rows of the stored chunks that are there, ascending; None where all are.

    Costs what is stored, whatever the shape says.
    """
    n_rows = data.shape[axis]
    if n_rows == 0 or data.external or data.is_virtual:
        return None
    if data.chunks is None:
        return [] if data.id.get_storage_size() == 0 else None
    grid = [-(-side // chunk) for side, chunk in zip(data.shape, data.chunks, strict=True)]
    if data.id.get_num_chunks() == math.prod(grid):
        return None
    across = math.prod(grid) // grid[axis]
    present: dict[int, int] = {}

    def visit(info: h5py.h5d.StoreInfo) -> None:
        present[info.chunk_offset[axis]] = present.get(info.chunk_offset[axis], 0) + 1

    data.id.chunk_iter(visit)
    return sorted(row for row, n in present.items() if n == across and row < n_rows)


def _lacking(data: h5py.Dataset, axis: int) -> str | None:
    """Files that are missing of those that hold the rows of an external or virtual dataset, in words, or None.

    HDF5 gives fill values for a source of a virtual dataset that is not there, and for the end of a short file.
    """
    instead = f"(HDF5 reads {data.fillvalue})"
    folder = os.path.dirname(os.path.abspath(data.file.filename))
    for name, offset, size in data.external or ():
        path = os.path.join(folder, name)
        needed = offset + (math.prod(data.shape) * data.dtype.itemsize if size == _UNLIMITED else size)
        held = os.path.getsize(path) if os.path.exists(path) else 0
        if held < needed:
            return f"{path} holds {held} bytes of {needed} {instead}"
    if not data.is_virtual:
        return None
    from h5py import h5s

    covered, odd = h5s.create_simple(data.shape), 0
    covered.select_none()
    for source in data.virtual_sources():
        path = _source_path(data, source.file_name)
        if not os.path.exists(path):
            return f"{path} is not there {instead}"
        if not source.vspace.is_regular_hyperslab():
            odd += source.vspace.get_select_npoints()
        elif _UNLIMITED in (slab := source.vspace.get_regular_hyperslab())[2]:
            return f"its layout has no fixed size, so that missing rows {instead} cannot be told"
        else:
            start, stride, times, block = slab
            covered.select_hyperslab(start, times, stride, block, op=h5s.SELECT_OR)
        with opened(path, path) as file:
            if source.dset_name not in file:
                return f"{path} has no dataset {source.dset_name} {instead}"
            inner = file[source.dset_name]
            if len(inner.shape) == len(data.shape) and _there(inner, axis) is not None:
                return f"{path}::{source.dset_name} lacks chunks {instead}"
    mapped, values = covered.get_select_npoints() + odd, math.prod(data.shape)
    return None if mapped >= values else f"its sources cover {mapped} of {values} values {instead}"


def _too_small(data: h5py.Dataset) -> str | None:
    """A source that has less than a virtual dataset takes from it, in words, or None.

    Of such a source HDF5 leaves in the rows what was in memory before, and says nothing.
    """
    for source in data.virtual_sources() if data.is_virtual else ():
        path = _source_path(data, source.file_name)
        if not os.path.exists(path):
            continue
        with opened(path, path) as file:
            shape = file[source.dset_name].shape if source.dset_name in file else None
        if shape is not None and not _holds(shape, source):
            return f"{path}::{source.dset_name} has the shape {shape}, less than is taken from it"
    return None


def _holds(shape: tuple[int, ...], source: VDSmap) -> bool:
    """True if a dataset of `shape` has every value that is taken from it."""
    from h5py import h5s

    taken = source.src_space
    if taken.get_select_type() == h5s.SEL_ALL:
        return math.prod(shape) >= source.vspace.get_select_npoints()
    if taken.is_regular_hyperslab() and _UNLIMITED in taken.get_regular_hyperslab()[2]:
        return True
    last = taken.get_select_bounds()[1]
    return len(last) == len(shape) and all(most < side for most, side in zip(last, shape, strict=True))


def _source_path(data: h5py.Dataset, file_name: str) -> str:
    """Path of the file in which a virtual dataset has a source."""
    here = os.path.abspath(data.file.filename)
    return here if file_name == "." else os.path.join(os.path.dirname(here), file_name)


def check_filters(data: h5py.Dataset, name: str) -> None:
    """Refuse what HDF5 cannot decode here.

    Raises
    ------
    ChunkReadError
    """
    from h5py import h5z

    settings = data.id.get_create_plist()
    for i in range(settings.get_nfilters()):
        number, _, _, label = settings.get_filter(i)
        if not h5z.filter_avail(number):
            raise ChunkReadError(
                name,
                0,
                f"it is compressed with {label.decode('utf-8', 'replace') or number}, which is not installed. Import "
                "hdf5plugin before, or write it with gzip.",
            )
