"""Zarr arrays, v2 and v3, local or behind a URL. Strict: a chunk that is not there is an error, not a row of zeros."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count, product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import ChunkReadError
from streamgmm.sources.base import Chunk, Source
from streamgmm.sources.chunking import check_filled, cut_runs, default_chunk_rows, unit_runs
from streamgmm.sources.columns import Chosen, WeightChoice, digest
from streamgmm.sources.formats.joined import join
from streamgmm.sources.formats.members import Member, check_rows_first, choose
from streamgmm.sources.formats.npy import check_two_dimensional
from streamgmm.sources.formats.stored import StoredChunk, StoredSource
from streamgmm.sources.formats.zarr_decode import ABSENT, Layout, Shards
from streamgmm.sources.formats.zarr_members import dimensions_of, member_of, members_of, store_in
from streamgmm.sources.formats.zarr_metadata import (
    check_size,
    checked_codecs,
    has_checksums,
    notes,
    packing_of,
    regular,
)
from streamgmm.sources.integrity import Stamp, check_stamp, stamp

if TYPE_CHECKING:
    import zarr


@dataclass(frozen=True, slots=True)
class Presence:
    """Rows of an array that are stored, in units that are read as a whole.

    Attributes
    ----------
    units : first rows of those that are there, ascending
    n_units : how many there should be
    first_gone : first row and key of the first that is not there, or None
    """

    units: list[int]
    n_units: int
    first_gone: tuple[int, str] | None

    @property
    def n_gone(self) -> int:
        return self.n_units - len(self.units)


def presence(source: ZarrSource, array: zarr.Array[Any]) -> Presence:
    """Stored objects and their sizes, and stamps of local files; its cost follows what is stored, not the metadata."""
    n_rows, height, unit = source.n_stored_rows, source.stored_shape[0], source.unit_shape[0]
    down, across = -(-n_rows // height), -(-source.n_stored // source.stored_shape[1])
    columns: dict[int, set[int]] = {}

    def key_of(place: tuple[int, ...]) -> str:
        return str(source.chunk_key(place[: source.axes]))

    for key in _stored_keys(source, array):
        i, j = _place(key, key_of)
        if 0 <= i < down and 0 <= j < across:
            columns.setdefault(i, set()).add(j)
    units: list[int] = []
    gone: list[tuple[int, str]] = []
    for i in sorted(i for i, stored in columns.items() if len(stored) == across):
        first, stop = i * height, min((i + 1) * height, n_rows)
        absent: dict[int, str] = {}
        if array.shards is not None:
            for key in (key_of((i, j)) for j in range(across)):
                absent |= dict.fromkeys(holes(array, source.name, key, first, stop), f"{key} (inside the shard)")
        units += [row for row in range(first, stop, unit) if row not in absent]
        gone += absent.items()
    i = next(i for i in count() if len(columns.get(i, ())) < across)
    if i < down:
        j = next(j for j in count() if j not in columns.get(i, ()))
        gone.append((i * height, key_of((i, j))))
    return Presence(units, -(-n_rows // unit), min(gone, default=None))


def _place(key: str, key_of: Callable[[tuple[int, ...]], str]) -> tuple[int, int]:
    """Where a stored chunk stands in the grid, (-1, -1) where the key names none."""
    found = re.fullmatch(r"(?:c[./])?(\d{1,18})(?:[./](\d{1,18}))?", key, re.ASCII)
    place = (int(found[1]), int(found[2] or 0)) if found else (-1, -1)
    return place if found and key_of(place) == key else (-1, -1)


def _stored_keys(source: ZarrSource, array: zarr.Array[Any]) -> set[str]:
    from zarr.core.sync import sync

    store, path = array.store, array.path
    prefix = path + "/" if path else ""
    if source.place.is_zip:
        source.stamps[source.place.store] = stamp(source.place.store)
    elif isinstance(source.place.store, str) and "://" not in source.place.store:
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


def holes(array: zarr.Array[Any], name: str, key: str, first: int, stop: int) -> Sequence[int]:
    """First rows of inner chunks that a present shard does not hold: Zarr reads these as the fill value, always."""
    from zarr.abc.store import RangeByteRequest, SuffixByteRequest
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    shards = Shards.from_array(array)
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
    across = min(shards.grid[1], math.prod(-(-n // c) for n, c in zip(array.shape[1:], array.chunks[1:], strict=True)))
    absent = (index[:, :across, 0] == ABSENT).any(axis=1)
    return [row for row, hole in zip(range(first, stop, unit), absent, strict=False) if hole]


PEAK = 2.4
"""Peak memory of a read by Zarr over the bytes it returns, as measured where a read crosses stored chunks."""


@dataclass(frozen=True, slots=True)
class ZarrPlace:
    """Arguments that open the array again, in this process or another one.

    Attributes
    ----------
    store : path, URL, or a store that pickles
    path : array within the store
    fill : read chunks that are not stored as the fill value
    options : of the file system behind a URL
    token : tells this opening from others of the same path, which may have been written anew in between
    """

    store: Any
    path: str
    fill: bool
    options: tuple[tuple[str, Any], ...] = ()
    token: str = field(default_factory=lambda: uuid4().hex)

    @property
    def is_zip(self) -> bool:
        return isinstance(self.store, str) and "://" not in self.store and os.path.isfile(self.store)

    def open(self) -> Any:
        if isinstance(self.store, str) and not self.options:
            return _open_cached(self.store, self.path, self.fill, self.token)
        return _open(self.store, self.path, self.fill, dict(self.options))


def _open(store: Any, path: str, fill: bool, options: dict[str, Any]) -> Any:
    import zarr

    worker = sys.modules.get("distributed.worker")
    if worker is not None and hasattr(worker.thread_state, "execution_state"):
        # A worker runs many tasks at once: each reads one chunk or a few small ones.
        zarr.config.set({"async.concurrency": 2})
    return zarr.open_array(
        store_in(store), mode="r", path=path, storage_options=options or None, config={"read_missing_chunks": fill}
    )


@lru_cache(maxsize=32)
def _open_cached(store: str, path: str, fill: bool, token: str) -> Any:
    return _open(store, path, fill, {})


@dataclass(frozen=True, slots=True)
class ZarrChunk(StoredChunk):
    """Rows `start` to `stop` of a Zarr array; `files` are the stored chunks behind them, with stamps, where local."""

    place: ZarrPlace
    files: tuple[tuple[str, Stamp], ...] = field(repr=False)
    layout: Layout | None = field(repr=False)

    def check(self) -> None:
        for path, expected in self.files:
            check_stamp(path, expected, self.name, self.index)

    def _read(self) -> NDArray[Any]:
        if self.layout is not None:
            height = self.layout.file_rows
            above = self.start // height
            if len(self.files) == -(-self.stop // height) - above:  # else some are not stored, and read as fill value
                return self.layout.read(self.files, self.start - above * height, self.stop - above * height)
        return np.asarray(self.place.open()[self.start : self.stop]).reshape(-1, self.n_stored)

    @property
    def shipped_bytes(self) -> int:
        if type(self.place.store).__name__ != "MemoryStore":
            return 0
        return (self.stop - self.start) * self.n_stored * self.out.itemsize


class ZarrSource(StoredSource):
    """A Zarr array of two dimensions, or of one, which is a column."""

    kind = "zarr"

    def __init__(
        self,
        array: zarr.Array[Any],
        place: ZarrPlace,
        *,
        name: str,
        columns: Chosen = None,
        weight: WeightChoice = None,
        chunk_rows: int | None = None,
        missing_chunks: str = "error",
    ) -> None:
        self.place = place
        wide = array.shape if len(array.shape) != 1 else (array.shape[0], 1)
        n_rows, n_stored = shape = check_two_dimensional(wide, name)
        check_rows_first(dimensions_of(array), name)
        self.codecs = checked_codecs(array, name)
        self.has_checksums = has_checksums(array)
        self.decodes = bool(set(self.codecs) - {"bytes", "crc32c"})
        names, marked = notes(array, n_stored)
        self._describe(name, shape, array.dtype, columns, marked if weight is None else weight, names)
        self._unpack(packing_of(array, name))
        # What is read as a whole: an inner chunk of a shard, or a stored chunk.
        self.unit_shape = regular(array.chunks, name)
        self.stored_shape = regular(array.shards, name) if array.shards is not None else self.unit_shape
        self.zarr_format = array.metadata.zarr_format
        check_size(self.unit_shape, array.dtype, name)
        self.n_stored_rows = n_rows
        self.missing_chunks = missing_chunks
        self.stamps: dict[str, Stamp] = {}
        self.chunk_key = array.metadata.encode_chunk_key
        self.axes = len(array.shape)
        self.unit = unit = self.unit_shape[0]
        # In memory there is nothing to count: what is not stored is the fill value.
        counted = missing_chunks != "fill" or isinstance(place.store, str)
        there = presence(self, array) if counted else Presence([], 0, None)
        if there.first_gone is not None and missing_chunks == "error":
            row, key = there.first_gone
            raise ChunkReadError(
                name,
                row // unit,
                f"stored chunk {key} (rows {row} to {min(row + unit, n_rows) - 1}) is not there; "
                f"{there.n_gone} of {there.n_units} row chunks are missing. Restore it; or say what absence means with "
                "missing_chunks='skip' (leave these rows out) or 'fill' (rows of the fill value "
                f"{array.fill_value}; writers may leave out chunks that hold nothing else).",
            )
        if missing_chunks == "fill":
            check_filled(-(-n_rows // unit), len(there.units), name)
        firsts = range(0, n_rows, unit) if missing_chunks == "fill" else there.units
        units = [(row, min(row + unit, n_rows)) for row in firsts]
        self.n_missing = there.n_gone
        self.layout = Layout.from_array(array) if self.stamps and not place.is_zip else None
        if self.layout is not None and self.layout.shards is not None and missing_chunks == "fill":
            self.layout = None  # Zarr knows how to fill holes in a shard
        self._largest_file = max((size for size, _ in self.stamps.values()), default=0)
        wanted = default_chunk_rows(self.n_features)
        self.set_runs(self._within_shards(unit_runs(units, chunk_rows, wanted), wanted))

    def _within_shards(self, runs: list[tuple[int, int]], wanted: int) -> list[tuple[int, int]]:
        """Cut runs at the borders of shards larger than a chunk: each read then opens one shard."""
        shard = self.stored_shape[0]
        if shard <= wanted:
            return runs
        parts = []
        for start, stop in runs:
            while start // shard != (stop - 1) // shard:
                border = (start // shard + 1) * shard
                parts.append((start, border))
                start = border
            parts.append((start, stop))
        return parts

    def chunk(self, index: int, start: int, stop: int) -> Chunk:
        files = tuple(self._files(start, stop)) if self.stamps else ()
        return ZarrChunk(*self._run(index, start, stop), self.place, files, self.layout)

    def _files(self, start: int, stop: int) -> Iterable[tuple[str, Stamp]]:
        if self.place.is_zip:
            yield from self.stamps.items()
            return
        rows = range(start // self.stored_shape[0], -(-stop // self.stored_shape[0]))
        for coordinates in product(rows, range(-(-self.n_stored // self.stored_shape[1]))):
            path = os.path.join(self.place.store, self.place.path, self.chunk_key(coordinates[: self.axes]))
            if path in self.stamps:
                yield path, self.stamps[path]

    @property
    def chunk_bytes(self) -> int | None:
        rows = max(self.max_chunk_rows or 0, min(self.unit_shape[0], self.n_stored_rows))
        beside = rows * self.row_bytes if self._converts else 8 * rows * self.has_weights
        if self.layout is not None and self.missing_chunks != "fill":
            stored = -(-rows // self.unit_shape[0]) * self.layout.chunk_bytes
            part = rows * self.n_stored * self.stored_dtype.itemsize * (rows % self.unit_shape[0] > 0)
            held = self._largest_file if self.layout.shards is None else self.layout.stored_bytes
            return stored + part + held + beside
        stored = max(rows * self.n_stored, math.prod(self.unit_shape)) * self.stored_dtype.itemsize
        return int(PEAK * stored) + beside

    def limited(self, max_rows: int) -> Source:
        if max_rows >= (self.max_chunk_rows or 0):
            return self
        unit = self.unit_shape[0]
        # Part of a stored chunk costs as much as the whole one: never below.
        return self.in_runs(cut_runs(self.runs, max(unit, max_rows // unit * unit)))

    def fingerprint(self) -> dict[str, Any]:
        store = self.place.store
        return {
            "kind": "zarr",
            "path": str(Path(store).resolve()) if isinstance(store, str) and "://" not in store else str(store),
            "array": self.place.path,
            "shape": [self.n_stored_rows, self.n_stored],
            "dtype": self.stored_dtype.str,
            "codecs": self.codecs,
            "columns": self.pick.columns,
            "weight": self.pick.weight if self.weight is None else digest(self.weight),
            "missing_chunks": self.missing_chunks,
            "runs": digest(np.array(self.runs, np.int64)),
            **({} if self.packing is None else {"packing": repr(self.packing)}),
            "stamps": digest(np.array([self.stamps[key] for key in sorted(self.stamps)], np.int64)),
        }


def open_zarr(
    obj: Any, *, name: str | None = None, path: str = "", storage_options: dict[str, Any] | None = None, **choices: Any
) -> Source:
    """A source over a Zarr array or group given as path, URL, zip file, or object of zarr.

    Parameters
    ----------
    path : array or group within the store; "" is the only table that there is

    Raises
    ------
    ValueError, ChunkReadError
    """
    fill = choices.get("missing_chunks", "error") == "fill"
    if isinstance(obj, str):
        place = ZarrPlace(obj, path.strip("/"), fill, tuple(sorted((storage_options or {}).items())))
        name = name or (f"{obj}::{path}" if path else obj)
    else:
        root = getattr(obj.store, "root", None)
        local = type(obj.store).__name__ == "LocalStore" and root is not None
        place = ZarrPlace(str(root) if local else obj.store, obj.path, fill)
        name = name or str(obj.store_path)
    try:
        array = place.open()
    except Exception as error:
        if "shutdown" in str(error):
            raise RuntimeError(
                f"{name}: Zarr reads nothing while Python is exiting ({error}). Fit before the main program ends, and "
                "wait for the threads that do."
            ) from error
        members = members_of(place)
        if members is not None:
            return _of_group(place, path if isinstance(obj, str) else obj.path, members, **choices)
        if isinstance(error, FileNotFoundError):
            raise ValueError(f"{name}: expected a Zarr array; there is none.") from error
        raise ValueError(f"{name}: the Zarr metadata cannot be read: {error}") from error
    if len(array.shape) == 1:
        member = member_of(array, place.path)
        return _of_group(place, place.path, [member], **choices)
    return ZarrSource(array, place, name=name, **choices)


def _of_group(
    place: ZarrPlace, inner: str, members: Sequence[Member],
    *, columns: Chosen, weight: WeightChoice, chunk_rows: int | None,
    missing_chunks: str,
) -> Source:  # fmt: skip
    store = place.store if isinstance(place.store, str) else str(place.store)
    chosen = choose(store, inner, members, columns)
    first = chosen[0]

    def open_member(member: Member, positions: tuple[int, ...] | None) -> ZarrSource:
        there = replace(place, path=member.path)
        return ZarrSource(
            there.open(), there, name=f"{store}::{member.path}", columns=positions, missing_chunks=missing_chunks
        )

    if len(chosen) == 1 and first.is_matrix:
        there = replace(place, path=first.path)
        name = f"{store}::{first.path}" if first.path else store
        return ZarrSource(
            there.open(), there, name=name, columns=columns, weight=weight, chunk_rows=chunk_rows,
            missing_chunks=missing_chunks,
        )  # fmt: skip
    group = first.path if len(chosen) == 1 else first.group
    name = f"{store}::{group}" if group else store
    return join(name, "zarr", chosen, open_member, columns=columns, weight=weight, chunk_rows=chunk_rows)
