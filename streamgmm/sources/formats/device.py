"""Rows that already lie on a graphics card: arrays of CuPy, PyTorch or JAX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamgmm.kernels.cuda import backend as cuda
from streamgmm.kernels.cuda.base import Backend, DeviceArray
from streamgmm.sources.base import Chunk, Rows, RunSource, Weights
from streamgmm.sources.chunking import check_chunk_rows, even_runs
from streamgmm.sources.columns import Chosen, WeightChoice, weight_array
from streamgmm.sources.formats.array import balanced_rows

__all__ = ["DeviceArraySource", "lies_on_card"]


def lies_on_card(obj: object) -> bool:
    """True if an array of whatever library is in the memory of a graphics card of NVIDIA."""
    if obj is None or isinstance(obj, np.ndarray):
        return False
    where = getattr(obj, "__dlpack_device__", None)
    if where is None or isinstance(obj, type):
        return cuda.is_device_array(obj)
    try:
        return where()[0] in _CUDA
    except (RuntimeError, TypeError, ValueError, BufferError):
        return False


_CUDA = (2, 13)
"""kDLCUDA and kDLCUDAManaged of DLPack."""


@dataclass(frozen=True, slots=True)
class DeviceArrayChunk(Chunk):
    """Some rows on a card; `load` brings them here."""

    index: int
    start: int
    stop: int
    backend: Backend
    array: DeviceArray
    weight: Weights

    def load(self) -> tuple[Rows, Weights]:
        return self.backend.download(self.array[self.start : self.stop]), self.weight

    @property
    def shipped_bytes(self) -> int:
        return (self.stop - self.start) * self.array.shape[1] * self.array.dtype.itemsize


class DeviceArraySource(RunSource):
    """A two-dimensional array of float32 or float64 on a card; it is used where it lies.

    Attributes
    ----------
    backend : the card; see `streamgmm.kernels.cuda.backend`
    rows : (N, D) C-contiguous device array

    Raises
    ------
    TypeError, ValueError
        For other types and shapes.
    """

    kind = "device"

    def __init__(
        self, array: DeviceArray, weight: WeightChoice = None, *, columns: Chosen = None, chunk_rows: int | None = None
    ) -> None:
        if columns is not None:
            raise ValueError("columns= does not choose from an array on a graphics card: pass array[:, columns].")
        if isinstance(weight, (str, int)):
            raise ValueError("weight= must be (N,) numbers for an array on a graphics card, not a column of it.")
        self.backend = cuda.backend_of(array)
        rows = self.backend.wrap(array)
        if rows.ndim != 2:
            raise ValueError(
                f"Expected 2D array, got {rows.ndim}D array instead: an array on a graphics card of shape "
                f"{tuple(rows.shape)}. Reshape your data: rows by features, array.reshape(-1, 1) for one feature."
            )
        if rows.dtype not in (np.float32, np.float64):
            raise TypeError(
                f"Expected float32 or float64 numbers on the graphics card; got {rows.dtype}. Convert the array: "
                "array.astype('float64')."
            )
        if 0 in rows.shape:
            raise ValueError(f"Expected rows and features; the array on the graphics card has shape {rows.shape}.")
        self.backend.synchronize()  # what makes the rows has to be done before other streams read them
        self.rows = self.backend.contiguous(rows)
        self.name = f"{type(array).__module__.partition('.')[0]} array on {self.backend.name}"
        self.dtype = np.dtype(rows.dtype)
        self.n_features = int(rows.shape[1])
        if lies_on_card(weight):
            weight = self.backend.download(self.backend.wrap(weight))
        self.weight = weight_array(weight, self.name, len(rows))
        self.has_weights = self.weight is not None
        size = balanced_rows(len(rows), self.n_features) if chunk_rows is None else check_chunk_rows(chunk_rows)
        self.set_runs(even_runs(len(rows), size))

    def chunk(self, index: int, start: int, stop: int) -> Chunk:
        return DeviceArrayChunk(index, start, stop, self.backend, self.rows, self.weights_of(start, stop))

    def fingerprint(self) -> dict[str, Any]:
        return self.fingerprint_of_values(self.dtype)
