"""Stored chunks of a local Zarr array, read and decoded in the caller's thread.

Zarr passes every read through one event loop and a pool of its own, and copies what was decoded into a fresh array:
measured on two threads, two thirds of the speed of this path, and a third for the chunks within a shard. It is taken
for whole rows under the usual codecs; for everything else Zarr reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numcodecs import blosc, zstd
from numpy.typing import NDArray

from streamgmm.sources.buffers import read_into, scratch, scratch_array
from streamgmm.sources.integrity import Stamp

if TYPE_CHECKING:
    import zarr

Bytes = NDArray[np.uint8]


ABSENT = np.uint64(2**64 - 1)
"""Offset and length, in the index of a shard, of a chunk that is not stored."""


@dataclass(frozen=True, slots=True)
class Shards:
    """Layout of the chunks of an array in its shards.

    Attributes
    ----------
    grid : (down, across), chunks in a shard
    crc32c : whether a checksum follows the index
    at_end : whether the index is at the end of the shard, or at its beginning
    """

    grid: tuple[int, int]
    crc32c: bool
    at_end: bool

    @classmethod
    def from_array(cls, array: zarr.Array[Any]) -> Shards | None:
        """Of a sharded Zarr array; None where the index is coded in an unusual way."""
        metadata: dict[str, Any] = array.metadata.to_dict()
        settings = metadata["codecs"][0]["configuration"]
        first, *more = settings["index_codecs"]
        names = [codec["name"] for codec in more]
        if first["name"] != "bytes" or _endian(first) != "little" or names not in ([], ["crc32c"]):
            return None
        down, *across = (shard // chunk for shard, chunk in zip(array.shards or (), array.chunks, strict=True))
        return cls((down, math.prod(across)), bool(names), str(settings.get("index_location", "end")) == "end")

    @property
    def index_bytes(self) -> int:
        return 16 * math.prod(self.grid) + 4 * self.crc32c

    def index(self, stored: Bytes) -> NDArray[np.uint64]:
        """Offset and length of each chunk, (down, across, 2), from what is stored of the index.

        Raises
        ------
        ValueError
            Where it is cut short or does not pass its checksum.
        """
        if len(stored) != self.index_bytes:
            raise ValueError(f"the index of a shard has {self.index_bytes} bytes; {len(stored)} are there")
        content = _checked(stored) if self.crc32c else stored
        return np.frombuffer(content.tobytes(), "<u8").reshape(*self.grid, 2)


@lru_cache(maxsize=64)
def _index(shards: Shards, path: str, stamp: Stamp) -> list[tuple[int, int]]:
    """Offset and length of the chunks of a local shard of whole rows."""
    size = stamp[0]
    first = size - shards.index_bytes if shards.at_end else 0
    stored = content(path, max(0, first), min(size, shards.index_bytes))
    return [(int(offset), int(length)) for offset, length in shards.index(stored)[:, 0]]


@dataclass(frozen=True, slots=True)
class Layout:
    """Decoding of stored chunks into rows.

    Attributes
    ----------
    shape : (rows, columns) of a stored chunk
    dtype : of its values, as for `numpy.dtype`
    codec : "zstd", "blosc", or None where they are not compressed
    crc32c : whether a checksum of four bytes follows what is stored
    shards : where a file holds several chunks
    """

    shape: tuple[int, int]
    dtype: str
    codec: str | None
    crc32c: bool
    shards: Shards | None = None

    @classmethod
    def from_array(cls, array: zarr.Array[Any]) -> Layout | None:
        """The layout of a Zarr array, or None where only Zarr itself can read it."""
        rows, columns = array.chunks[0], math.prod(array.chunks[1:])
        if array.chunks[1:] != array.shape[1:]:
            return None
        metadata: dict[str, Any] = array.metadata.to_dict()
        shards = None
        if array.shards is not None:
            shards = Shards.from_array(array)
            if shards is None or shards.grid[1] != 1:
                return None
            metadata = metadata["codecs"][0]["configuration"]
        steps = _steps_v3(metadata) if array.metadata.zarr_format == 3 else _steps_v2(metadata)
        if steps is None:
            return None
        crc32c = steps[-1:] == ["crc32c"]
        codecs = steps[:-1] if crc32c else steps
        if codecs not in ([], ["zstd"], ["blosc"]):
            return None
        return cls((int(rows), int(columns)), array.dtype.str, codecs[0] if codecs else None, crc32c, shards)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a decoded chunk."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def stored_bytes(self) -> int:
        """Bytes that a stored chunk can have: no codec here makes it longer than this."""
        return self.chunk_bytes + self.chunk_bytes // 128 + 1024

    @property
    def file_rows(self) -> int:
        """Rows in a file."""
        return self.shape[0] * (1 if self.shards is None else self.shards.grid[0])

    def read(self, files: Sequence[tuple[str, Stamp]], first: int, stop: int) -> NDArray[Any]:
        """Rows `first` to `stop`, counted from the first row of the first of `files`, which follow each other.

        Raises
        ------
        OSError, ValueError, RuntimeError
            Where a file is cut short, does not pass its checksum, or cannot be decoded.
        """
        height = self.shape[0]
        low, high = first // height, -(-stop // height)
        rows = scratch_array("rows", ((high - low) * height, self.shape[1]), self.dtype)
        out = rows.reshape(-1).view(np.uint8).reshape(high - low, -1)
        for (path, offset, length), part in zip(self._places(files, low, high), out, strict=True):
            self._decode(content(path, offset, length), part)
        first, stop = first - low * height, stop - low * height
        # Part of a chunk is copied: whoever keeps it would hold on to the whole.
        return rows if (first, stop) == (0, len(rows)) else rows[first:stop].copy()

    def _places(self, files: Sequence[tuple[str, Stamp]], low: int, high: int) -> Iterator[tuple[str, int, int]]:
        """Path, first byte and length of stored chunks `low` to `high`, counted from the first of `files`."""
        for unit in range(low, high):
            if self.shards is None:
                path, (size, _) = files[unit]
                yield path, 0, size
                continue
            file, within = divmod(unit, self.shards.grid[0])
            path, stamp = files[file]
            offset, length = _index(self.shards, path, stamp)[within]
            if offset + length > stamp[0] or length > self.stored_bytes:
                raise ValueError(
                    f"the index of the shard {path} names bytes {offset} to {offset + length} of {stamp[0]}"
                )
            yield path, offset, length

    def _decode(self, stored: Bytes, out: Bytes) -> None:
        if self.crc32c:
            stored = _checked(stored)
        held = {None: len, "zstd": _zstd_size, "blosc": _blosc_size}[self.codec](stored)
        if held is None:
            zstd.decompress(stored, out)  # fails where it holds more or less than that
            return
        if held == len(out) and self.codec is not None:
            (zstd if self.codec == "zstd" else blosc).decompress(stored, out)
            return
        if held != len(out):
            raise ValueError(f"a stored chunk holds {held} bytes, not {len(out)}")
        out[:] = stored


def _steps_v3(metadata: dict[str, Any]) -> list[str] | None:
    """Names of the codecs after the one that makes bytes, or None where that one is not plain."""
    first, *more = metadata["codecs"]
    return [codec["name"] for codec in more] if first["name"] == "bytes" and _endian(first) == "little" else None


def _endian(codec: dict[str, Any]) -> str:
    return str(codec.get("configuration", {}).get("endian", "little"))


def _steps_v2(metadata: dict[str, Any]) -> list[str] | None:
    if metadata.get("filters") or metadata.get("order", "C") != "C":
        return None
    compressor = metadata.get("compressor")
    return [] if compressor is None else [compressor["id"]]


def content(path: str, offset: int, size: int) -> Bytes:
    """`size` bytes of a file, read-only."""
    content = scratch("stored", size)
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        missing = read_into(file, content)
    if missing:
        raise ValueError(f"{path} ends {missing} bytes too early")
    content.flags.writeable = False
    return content


def _checked(stored: Bytes) -> Bytes:
    """The bytes before the checksum, where that fits."""
    content, expected = stored[:-4], int.from_bytes(stored[-4:].tobytes(), "little")
    found = google_crc32c.value(content) if len(stored) >= 4 else None
    if found != expected:
        raise ValueError(f"the crc32c checksum does not fit: {expected} is stored, the content has {found}")
    return content


def _blosc_size(stored: Bytes) -> int:
    """Bytes that a Blosc buffer claims to hold.

    Blosc believes the header, and would read past the end of a buffer that was cut short.
    """
    head = np.frombuffer(stored[:16].tobytes(), "<u4") if len(stored) >= 16 else None
    if head is None or head[3] > len(stored):
        raise ValueError(f"a Blosc buffer of {16 if head is None else head[3]} bytes ends after {len(stored)}")
    return int(head[1])


def _zstd_size(stored: Bytes) -> int | None:
    """Bytes that the Zstandard frame claims to hold (RFC 8878, 3.1.1.1), or None where it does not say.

    libzstd itself checks only that they fit into what they are decoded to.
    """
    head = stored[:18].tobytes()
    if head[:4] != b"\x28\xb5\x2f\xfd" or len(head) < 6:
        raise ValueError("there is no Zstandard frame")
    flags = head[4]
    single = flags >> 5 & 1
    width = (single, 2, 4, 8)[flags >> 6]
    if width == 0:
        return None
    at = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
    return int.from_bytes(head[at : at + width], "little") + 256 * (width == 2)
