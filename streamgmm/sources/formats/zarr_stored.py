"""Which chunks of a Zarr array are stored, and the holes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from streamgmm.errors import ChunkReadError
from streamgmm.sources.formats.zarr_decode import ABSENT, Shards

if TYPE_CHECKING:
    from streamgmm.sources.formats.zarr import ZarrSource


def missing_units(source: ZarrSource, array: Any) -> list[tuple[int, str]]:
    """(first row, key) of every unit of which a stored chunk is absent; stamps of local files are kept on the way."""
    if source.place.fill and not isinstance(source.place.store, str):
        return []
    stored = _stored_keys(source, array)
    n_rows, n_columns = source.n_stored_rows, source.n_stored
    height, width = source.stored_shape
    unit = source.unit_shape[0]
    gone: dict[int, str] = {}
    for i in range(-(-n_rows // height)):
        for j in range(-(-n_columns // width)):
            key = source.chunk_key((i, j))
            first, stop = i * height, min((i + 1) * height, n_rows)
            if key not in stored:
                for row in range(first, stop, unit):
                    gone.setdefault(row, key)
            elif array.shards is not None:
                for row in holes(array, source.name, key, first, stop):
                    gone.setdefault(row, f"{key} (inside the shard)")
    return sorted(gone.items())


def _stored_keys(source: ZarrSource, array: Any) -> set[str]:
    from zarr.core.sync import sync

    store, path = array.store, array.path
    prefix = path + "/" if path else ""
    if isinstance(source.place.store, str) and "://" not in source.place.store:
        root = os.path.join(source.place.store, path)
        found = set()
        for folder, _, files in os.walk(root):
            for file in files:
                full = os.path.join(folder, file)
                if file not in ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"):
                    status = os.stat(full)
                    key = os.path.relpath(full, root).replace(os.sep, "/")
                    source.stamps[os.path.join(source.place.store, path, key)] = status.st_size, status.st_mtime_ns
                    found.add(key)
        return found

    async def listed() -> set[str]:
        return {key.removeprefix(prefix) async for key in store.list_prefix(prefix)}

    return set(sync(listed()))


def holes(array: Any, name: str, key: str, first: int, stop: int) -> Sequence[int]:
    """First rows of inner chunks that a present shard does not hold: Zarr reads these as the fill value, always."""
    from zarr.abc.store import RangeByteRequest, SuffixByteRequest
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    shards = Shards.of(array)
    if shards is None:
        return ()
    length, unit = shards.index_bytes, int(array.chunks[0])
    wanted = SuffixByteRequest(length) if shards.at_end else RangeByteRequest(0, length)
    full_key = f"{array.path}/{key}" if array.path else key
    buffer = sync(array.store.get(full_key, default_buffer_prototype(), wanted))
    try:
        index = shards.index(np.frombuffer(b"" if buffer is None else buffer.to_bytes(), np.uint8))
    except ValueError as error:
        raise ChunkReadError(
            name, first // unit, f"shard {key} is truncated or damaged: {error}. Restore it."
        ) from error
    across = min(shards.grid[1], -(-array.shape[1] // array.chunks[1]))
    absent = (index[:, :across, 0] == ABSENT).any(axis=1)
    return [row for row, hole in zip(range(first, stop, unit), absent, strict=False) if hole]
