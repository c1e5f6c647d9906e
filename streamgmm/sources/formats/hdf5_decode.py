"""Stored chunks of an HDF5 dataset, read and decoded in the caller's thread.

HDF5 reads and decodes under one lock for the whole process. Here only the question where a chunk lies is asked under
it; for whole rows under gzip, with or without shuffle, or under no filter. Everything else HDF5 reads.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.sources.buffers import scratch_array
from streamgmm.sources.formats.zarr_decode import content

if TYPE_CHECKING:
    import h5py

_DEFLATE, _SHUFFLE = 1, 2  # numbers of the filters in the file format, IV.A.2.l


@dataclass(frozen=True, slots=True)
class Layout:
    """Decoding of stored chunks into rows.

    Attributes
    ----------
    shape : (rows, columns) of a stored chunk
    dtype : of its values, as for `numpy.dtype`
    filters : numbers of its filters, in the order in which they were applied
    """

    shape: tuple[int, int]
    dtype: str
    filters: tuple[int, ...]

    @classmethod
    def from_dataset(cls, data: h5py.Dataset) -> Layout | None:
        """The layout of a `h5py.Dataset`, or None where only HDF5 itself can read it."""
        settings = data.id.get_create_plist()
        filters = tuple(settings.get_filter(i)[0] for i in range(settings.get_nfilters()))
        plain = data.dtype.kind in "fiu" and data.dtype.newbyteorder("=") == data.dtype and data.dtype.isnative
        whole = data.chunks is not None and data.chunks[1:] == data.shape[1:]
        if not whole or not plain or data.file.userblock_size:
            return None
        if filters not in ((), (_DEFLATE,), (_SHUFFLE, _DEFLATE)):
            return None
        return cls((int(data.chunks[0]), math.prod(map(int, data.chunks[1:]))), data.dtype.str, filters)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a decoded chunk."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def places(self, data: h5py.Dataset, start: int, stop: int) -> list[tuple[int, int]] | None:
        """First byte and length of the stored chunks of rows `start` to `stop`.

        None where one is not stored, or was stored without some of the filters.
        """
        found = []
        for row in range(start // self.shape[0] * self.shape[0], stop, self.shape[0]):
            place = data.id.get_chunk_info_by_coord((row, 0)[: len(data.shape)])
            if place.byte_offset is None or place.filter_mask:
                return None
            found.append((int(place.byte_offset), int(place.size)))
        return found

    def read(self, path: str, places: list[tuple[int, int]], start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop` of the dataset.

        Raises
        ------
        OSError, ValueError, zlib.error
            Where the file is cut short or a chunk cannot be decoded.
        """
        height = self.shape[0]
        rows = scratch_array("rows", (len(places) * height, self.shape[1]), self.dtype)
        out = rows.reshape(-1).view(np.uint8).reshape(len(places), -1)
        for (offset, length), part in zip(places, out, strict=True):
            self._decode(content(path, offset, length), part)
        above = start // height * height
        first, last = start - above, stop - above
        # Part of a chunk is copied: whoever keeps it would hold on to the whole.
        return rows if (first, last) == (0, len(rows)) else rows[first:last].copy()

    def _decode(self, stored: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        if _DEFLATE in self.filters:
            stored = np.frombuffer(_inflated(stored, len(out)), np.uint8)
        if len(stored) != len(out):
            raise ValueError(f"a stored chunk holds {len(stored)} bytes, not {len(out)}")
        if _SHUFFLE in self.filters:
            size = np.dtype(self.dtype).itemsize
            out.reshape(-1, size)[:] = stored.reshape(size, -1).T
        else:
            out[:] = stored


_LARGE = 2**20
"""Bytes that can become a gigabyte at most: deflate makes nothing smaller than a thousandth."""


def _inflated(stored: NDArray[np.uint8], size: int) -> bytes:
    """Contents of a zlib stream, `size` bytes as it should be."""
    if len(stored) <= _LARGE:
        return zlib.decompress(stored, bufsize=size)
    inflate = zlib.decompressobj()
    content = inflate.decompress(stored, size + 1)  # no more than that is made, whatever it claims to hold
    if not inflate.eof:
        raise ValueError(f"a stored chunk ends too early, or holds more than {size} bytes")
    return content
