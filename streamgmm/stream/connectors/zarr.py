"""A Zarr array whose first axis grows. The position is a number of rows."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import ChunkReadError
from streamgmm.sources.chunking import default_chunk_rows
from streamgmm.sources.retry import retried
from streamgmm.stream.batch import Batch, Position, StreamPositionError
from streamgmm.stream.connectors import Source

if TYPE_CHECKING:
    import zarr

__all__ = ["GrowingZarr"]

TAIL_ROWS = 64
"""Rows before the position that a snapshot remembers a hash of, at most."""


class GrowingZarr(Source):
    """Rows appended to a two-dimensional Zarr array by somebody else.

    An array is made longer before its chunks are written, and unwritten chunks would read as fill values; they count as
    not there yet. A chunk that is only partly filled cannot be told from a full one, so while `follow` is set the last,
    incomplete chunk waits until the array has grown beyond it.

    Parameters
    ----------
    path : path, store or zarr.Array
    follow : bool
        Wait for more at the end; else everything that is there is read, and that is the end.
    poll : float
        Seconds between looks.
    """

    def __init__(self, path: str | os.PathLike[str], *, follow: bool = False, poll: float = 0.5) -> None:
        self.path, self.follow, self.poll = path, follow, poll

    def _open(self) -> zarr.Array[Any]:
        """The array, after the checks that a fit makes of its metadata."""
        import zarr

        from streamgmm.sources.formats.zarr_members import arrays_in
        from streamgmm.sources.formats.zarr_metadata import check_size, checked_codecs, regular

        try:
            array = zarr.open_array(self.path, mode="r", config={"read_missing_chunks": False})
        except Exception as error:
            inside = arrays_in(self.path)
            if inside is None:
                raise
            raise ValueError(
                f"{self.path}: a stream of rows needs one array; found a group of {', '.join(inside[:10]) or 'none'}. "
                "Give the folder of one array; or fit the group, which reads its arrays as columns."
            ) from error
        if array.ndim != 2:
            raise ValueError(f"{self.path}: a stream of rows needs a 2-dimensional array; got {array.shape}.")
        checked_codecs(array, str(self.path))
        height, width = regular(array.chunks, str(self.path))
        check_size((height, max(width, array.shape[1])), array.dtype, str(self.path))  # whole rows are read
        return array

    def before(self, position: Position, n: int) -> bytes | None:
        array, at = self._open(), int(position)
        if array.shape[0] < at:
            return None  # `open` says so
        rows = n // max(1, array.shape[1] * array.dtype.itemsize)
        return np.ascontiguousarray(array[max(0, at - rows) : at]).tobytes()

    def _holes(self, array: zarr.Array[Any], start: int, stop: int) -> list[int]:
        """First rows, among `start` to `stop` of one shard, of the chunks that the shard does not hold."""
        if array.shards is None:
            return []
        from streamgmm.sources.formats.zarr import holes

        (height, width), step = array.shards, array.chunks[0]
        row, end = start // height, min((start // height + 1) * height, array.shape[0])
        found: set[int] = set()
        for j in range(-(-array.shape[1] // width)):
            key = array.metadata.encode_chunk_key((row, j))
            found.update(holes(array, str(self.path), key, row * height, end))
        return sorted(hole for hole in found if hole < stop and hole + step > start)

    def open(self, position: Position) -> Iterator[Batch]:
        from zarr.errors import ChunkNotFoundError

        from streamgmm.sources.formats.zarr_metadata import packing_of

        at = int(position or 0)
        while True:
            array = self._open()
            length, step = array.shape[0], (array.shards or array.chunks)[0]
            if length < at:
                raise StreamPositionError(
                    f"{self.path} has {length} rows, the snapshot stands at {at}: it was cut or replaced. Give the "
                    "array that was being read, or begin with a new snapshot."
                )
            ready = length // step * step if self.follow else length
            packing, progress = packing_of(array, str(self.path)), False
            # A shard may be larger than memory: it is read some chunks at a time.
            piece = max(1, default_chunk_rows(array.shape[1]) // array.chunks[0]) * array.chunks[0]
            while at < ready:
                stop = min(ready, (at // step + 1) * step, at - at % step + (at % step // piece + 1) * piece)
                try:
                    rows = retried(partial(_rows, array, at, stop), str(self.path), at // step)
                    gone = self._holes(array, at, stop)
                except ChunkReadError as error:
                    if not (self.follow and isinstance(error.__cause__, ChunkNotFoundError)):
                        raise
                    break
                if gone:
                    if self.follow:
                        break
                    raise ChunkReadError(
                        str(self.path),
                        at // step,
                        f"rows from {gone[0]} on are not stored inside their shard, and would be read as "
                        f"{array.fill_value}. Restore them.",
                    )
                self.tail = np.ascontiguousarray(rows[-TAIL_ROWS:]).tobytes()
                if packing is not None:
                    rows = packing.unpack(rows)
                yield Batch(rows, stop, at)
                at, progress = stop, True
            if not self.follow:
                return
            if not progress:
                time.sleep(self.poll)


def _rows(array: zarr.Array[Any], start: int, stop: int) -> NDArray[Any]:
    return np.asarray(array[start:stop])
