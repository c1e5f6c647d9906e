"""`.npy` files and memory maps. What is sent is a path, an offset and a shape; what is read is read, never mapped.

Reading instead of mapping costs a copy, and buys three things: a file that is cut short while it is read is an error
and not a SIGBUS, resident memory stays what was asked for, and a pickled chunk is small.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import ChunkReadError
from streamgmm.sources.base import Chunk, Source
from streamgmm.sources.buffers import read_into, scratch_array
from streamgmm.sources.chunking import even_runs, wanted_rows
from streamgmm.sources.columns import Chosen, WeightChoice, digest, row_dtype
from streamgmm.sources.formats.stored import StoredChunk, StoredSource
from streamgmm.sources.integrity import Stamp, check_stamp, stamp


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a matrix lies in a file.

    Attributes
    ----------
    path, stamp
    offset : byte of the first element
    dtype : as stored
    shape : (rows, columns)
    fortran : columns are contiguous rather than rows
    """

    path: str
    stamp: Stamp
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, int]
    fortran: bool = False

    @property
    def end(self) -> int:
        return self.offset + self.shape[0] * self.shape[1] * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class FileChunk(StoredChunk):
    """Rows `start` to `stop` of a matrix in a file."""

    layout: Layout

    def check(self) -> None:
        check_stamp(self.layout.path, self.layout.stamp, self.name, self.index)

    def _read(self) -> NDArray[Any]:
        layout = self.layout
        n, D = self.stop - self.start, layout.shape[1]
        size = layout.dtype.itemsize
        with open(layout.path, "rb", buffering=0) as file:
            if layout.fortran:
                values = scratch_array("rows", (D, n), layout.dtype).T
                for j in range(D):
                    self._fill(file, values[:, j], layout.offset + (j * layout.shape[0] + self.start) * size)
            else:
                values = scratch_array("rows", (n, D), layout.dtype)
                self._fill(file, values, layout.offset + self.start * D * size)
        return values

    def _fill(self, file: io.RawIOBase, into: NDArray[Any], offset: int) -> None:
        file.seek(offset)
        missing = read_into(file, into)
        if missing:
            raise ChunkReadError(self.name, self.index, f"the file ends {missing} bytes too early.")


class FileSource(StoredSource):
    """A matrix in a file, C or Fortran order."""

    kind = "npy"
    has_checksums = False

    def __init__(
        self,
        layout: Layout,
        *,
        name: str,
        columns: Chosen = None,
        weight: WeightChoice = None,
        chunk_rows: int | None = None,
    ) -> None:
        self.layout = layout
        self._describe(name, layout.shape, layout.dtype, columns, weight)
        if layout.stamp[0] < layout.end:
            raise ChunkReadError(
                name,
                self._first_missing(chunk_rows),
                f"the file is truncated: {layout.shape[0]} x {layout.shape[1]} values of {layout.dtype} need "
                f"{layout.end} bytes, it has {layout.stamp[0]}. Write it again.",
            )
        self.set_runs(even_runs(layout.shape[0], wanted_rows(chunk_rows, self.n_features)))

    def _first_missing(self, chunk_rows: int | None) -> int:
        if self.layout.fortran:
            return 0
        whole = max(0, self.layout.stamp[0] - self.layout.offset) // (self.layout.shape[1] * self.layout.dtype.itemsize)
        return int(whole // (wanted_rows(chunk_rows, self.n_features)))

    def chunk(self, index: int, start: int, stop: int) -> Chunk:
        return FileChunk(*self._run(index, start, stop), self.layout)

    @property
    def chunk_bytes(self) -> int | None:
        rows = self.max_chunk_rows or 0
        stored = rows * self.n_stored * self.stored_dtype.itemsize
        return stored + (
            rows * self.row_bytes if self._converts or self.layout.fortran else 8 * rows * self.has_weights
        )

    def limited(self, max_rows: int) -> Source:
        if max_rows >= (self.max_chunk_rows or 0):
            return self
        return self.in_runs(even_runs(self.layout.shape[0], max_rows))

    def fingerprint(self) -> dict[str, Any]:
        return {
            "kind": "npy",
            "path": str(Path(self.layout.path).resolve()),
            "stamp": list(self.layout.stamp),
            "offset": self.layout.offset,
            "shape": list(self.layout.shape),
            "dtype": self.layout.dtype.str,
            "columns": self.pick.columns,
            "weight": self.pick.weight if self.weight is None else digest(self.weight),
            "chunk_rows": self.max_chunk_rows,
        }


def npy_layout(path: str) -> Layout:
    """Where the matrix of a `.npy` file lies.

    Raises
    ------
    ValueError
        Where the file is no `.npy` file, or holds no numeric matrix.
    """
    with open(path, "rb") as file:
        mark = stamp(path)
        shape, fortran, dtype = read_header(file, path)
        row_dtype(dtype, path)
        return Layout(path, mark, file.tell(), dtype, check_two_dimensional(shape, path), fortran)


def read_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and type of the array whose `.npy` content begins here.

    Raises
    ------
    ValueError
        Where none begins here.
    """
    try:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reader(file)
    except OSError:
        raise
    except Exception as error:  # damaged headers are parsed as Python literals, and fail in many ways
        raise ValueError(f"{name}: expected a .npy file of numbers; its header cannot be read: {error}.") from error
    if any(side < 0 for side in shape):
        raise ValueError(f"{name}: expected a .npy file of numbers; its header has the shape {shape}.")
    return shape, fortran, dtype


def memmap_layout(array: NDArray[Any]) -> Layout | None:
    """Where `array` lies in a file, or None where it is no plain window of a shared memory map."""
    owner: Any = array
    while owner is not None and not isinstance(owner, np.memmap):
        owner = getattr(owner, "base", None)
    if owner is None or owner.filename is None or owner.mode == "c" or array.ndim != 2 or not array.size:
        return None
    raw = getattr(owner, "_mmap", None)
    if not isinstance(raw, mmap.mmap) or not (array.flags.c_contiguous or array.flags.f_contiguous):
        return None
    path = os.fspath(owner.filename)
    mapped_from = owner.offset - owner.offset % mmap.ALLOCATIONGRANULARITY
    address = np.frombuffer(raw, np.uint8).ctypes.data
    offset = mapped_from + array.ctypes.data - address
    if owner.mode != "r":
        owner.flush()
    layout = Layout(path, stamp(path), offset, array.dtype, array.shape, not array.flags.c_contiguous)
    return layout if offset >= 0 and layout.end <= layout.stamp[0] else None


def check_two_dimensional(shape: Sequence[int], name: str) -> tuple[int, int]:
    """`shape` if it is that of a matrix.

    Raises
    ------
    ValueError
        In scikit-learn's words.
    """
    if len(shape) == 1:
        raise ValueError(
            f"{name}: Expected 2D array, got 1D array instead: shape {tuple(shape)}. Reshape your data either using "
            "array.reshape(-1, 1) if your data has a single feature or array.reshape(1, -1) if it contains a single "
            "sample."
        )
    if len(shape) != 2:
        raise ValueError(
            f"{name}: Found array with dim {len(shape)}, expected 2: rows and features, got shape {tuple(shape)}. "
            "Bring it into two dimensions, for instance with reshape(len(X), -1)."
        )
    return int(shape[0]), int(shape[1])
