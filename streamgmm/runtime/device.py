"""Rows on a graphics card: which of them stay there from pass to pass, and how the others get there.

Neighbouring chunks of a source are put together to blocks. Where all rows fit the memory of the card, blocks are large
(each costs some tenths of a millisecond a pass) and stay there. Otherwise they are small, as many as fit stay, and the
rest is copied anew in every pass; each thread has a buffer and a stream of its own, so that copies, kernels and the
reading of files overlap. The cuts depend on the source and on whether it fits, never on threads: folds by block index
have the same bits in every run.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, islice
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from streamgmm.errors import ChunkReadError
from streamgmm.kernels.cuda.base import Backend, DeviceArray
from streamgmm.runtime.peak_memory import machine_memory
from streamgmm.sources.base import Chunk, Rows, Source, Weights
from streamgmm.sources.formats.array import ArraySource
from streamgmm.sources.formats.device import DeviceArraySource
from streamgmm.sources.living import LivingSource
from streamgmm.sources.transformed import TransformedSource
from streamgmm.sources.wrapped import WrappedSource
from streamgmm.utils.affine import Affine

__all__ = ["Card", "DeviceBlock", "PlacedSource", "placed"]

SHARE = 0.8
"""Part of the free memory of a card that rows may take; the rest is for the kernels and for others."""
LARGE_ROWS = 2**25
"""Rows of a block, at most, where all blocks stay on the card."""
SMALL_BYTES, MOST_BYTES = 128 * 2**20, 512 * 2**20
"""Bytes of a block otherwise: a 256th of the table between these bounds."""
ANSWER_BYTES = 16 * 2**20
"""Bytes of rows of a block, or of what is told of them, where every row is asked about once."""
PIECE_BYTES = 16 * 2**20
"""Bytes of pinned memory in which one thread copies: one half is filled while the other is on its way."""
THREADS = 8
"""Threads that copy at a time: one fills pinned memory at 10 GB/s, eight at 30."""

Held = tuple[DeviceArray, DeviceArray | None]
"""Rows (n, F) and weights (n,), or None, in device memory."""


class _Pool[T]:
    """At most so many things of a kind, made when they are first needed, each in one hand at a time."""

    def __init__(self, make: Callable[[], T], most: int) -> None:
        self._make = make
        self._more = most
        self._free: list[T] = []
        self._change = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[T]:
        with self._change:
            while not (self._free or self._more):
                self._change.wait()
            if not self._free:
                self._free.append(self._make())
                self._more -= 1
            item = self._free.pop()
        try:
            yield item
        finally:
            with self._change:
                self._free.append(item)
                self._change.notify()


@dataclass(slots=True)
class _Lane:
    """Pinned memory for copies."""

    memory: NDArray[np.uint8]

    def halves(self, row: int, make: Callable[[int], NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], ...]:
        """Two halves of it that hold whole rows of `row` bytes, at least one each."""
        if len(self.memory) < 2 * row:
            self.memory = make(2 * row)
        size = len(self.memory) // 2 // row * row
        return self.memory[:size], self.memory[size : 2 * size]


class _Streams(threading.local):
    def __init__(self) -> None:
        self.held: dict[int, tuple[Backend, AbstractContextManager[Any]]] = {}


_streams = _Streams()


def own_stream(backend: Backend) -> AbstractContextManager[Any]:
    """The stream of this thread on a card: one for all fits, as memory is kept for each stream by itself."""
    found = _streams.held.get(backend.index)
    if found is None or found[0] is not backend:
        found = _streams.held[backend.index] = backend, backend.stream()
    return found[1]


@dataclass(slots=True)
class _Buffer:
    """Device memory for the block at hand; it grows when that is larger than the ones before."""

    backend: Backend
    rows: DeviceArray | None = None
    weight: DeviceArray | None = None

    def take(self, n: int, width: int, dtype: DTypeLike, weighted: bool) -> Held:
        """Rows (n, width) and weights (n,) or None, of any content."""
        if self.rows is None or len(self.rows) < n or self.rows.shape[1] != width:
            self.rows = None  # given back before more is asked for
            self.rows = self.backend.empty((n, width), dtype)
        if weighted and (self.weight is None or len(self.weight) < n):
            self.weight = None
            self.weight = self.backend.empty((n,), np.float64)
        return self.rows[:n], self.weight[:n] if weighted and self.weight is not None else None


@dataclass(slots=True)
class Tally:
    """Work of a card: seconds of copies and of E-steps, summed over threads, and bytes copied."""

    copy: float = 0.0
    compute: float = 0.0
    moved: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, copy: float, compute: float, moved: int) -> None:
        with self._lock:
            self.copy += copy
            self.compute += compute
            self.moved += moved


class Card:
    """The memory of a card for the rows of one source.

    Parameters
    ----------
    backend : see `streamgmm.kernels.cuda.backend`
    source : Source
        What is read, before an affine map.
    room : int
        Bytes for rows.
    piece_bytes, threads : pinned memory of a copy, and copies at a time
    """

    def __init__(self, backend: Backend, source: Source, room: int, *, piece_bytes: int, threads: int) -> None:
        self.backend = backend
        self.source = source
        self.threads = threads
        self.tally = Tally()
        self.kept: dict[int, Held] = {}
        self.buffers: _Pool[_Buffer] = _Pool(lambda: _Buffer(backend), threads)
        self._lanes: _Pool[_Lane] = _Pool(lambda: _Lane(backend.pinned(piece_bytes)), threads)
        self._room = room
        self._reserving = threading.Lock()
        self.array = source.as_stored if isinstance(source, ArraySource) else None
        """All rows, where they lie in memory as they go to the card."""
        self._direct = self.array is not None and len(self.array) > 0 and backend.is_pinned(self.array)
        self._link = threading.Lock()
        self._copies = backend.stream()

    def bytes_of(self, n: int) -> int:
        """Device memory of n rows and their weights."""
        return n * self.source.row_bytes

    def reserve(self, n: int) -> bool:
        """True if n more rows may stay."""
        with self._reserving:
            stays = self.bytes_of(n) <= self._room
            if stays:
                self._room -= self.bytes_of(n)
            return stays

    def fresh(self, n: int, width: int, dtype: DTypeLike, weighted: bool) -> Held:
        """New memory for rows (n, width), and weights."""
        return self.backend.empty((n, width), dtype), self.backend.empty((n,), np.float64) if weighted else None

    def copy_both(self, host: tuple[Rows, Weights], out: Held) -> int:
        """Copy rows and, where there are any, weights; the bytes."""
        rows, weight = host
        return self.copy_in(rows, out[0]) + (0 if weight is None or out[1] is None else self.copy_in(weight, out[1]))

    def pin(self) -> None:
        """Pin an array in memory for as long as this lives, if that can be done: it is copied again in every pass.

        Not one that a file is mapped to, which would be read whole, nor one of more than half of the machine's memory.
        """
        array = self.array
        if array is None or self._direct or not _owned(array) or 2 * array.nbytes > (machine_memory() or 0):
            return
        end = self.backend.pin(array)
        if end is not None:
            self._direct = True
            weakref.finalize(self, _ended, end, array)

    def copy_in(self, host: NDArray[Any], out: DeviceArray) -> int:
        """Copy an array (n, ...) to device memory of the same shape, and wait for it; the bytes."""
        n = len(host)
        if n == 0:
            return 0
        row = out.dtype.itemsize * (host.size // n)
        if self._direct and self.array is not None and np.may_share_memory(host, self.array):
            # One after the other on one stream: each block has the whole link, and is there early.
            with self._link, self._copies:
                self.backend.upload(host, out)
                arrived = self.backend.mark()
            arrived()
            return row * n
        with self._lanes.one() as lane, own_stream(self.backend):
            halves = lane.halves(row, self.backend.pinned)
            step, sent = len(halves[0]) // row, deque[Callable[[], None]]()
            for number, first in enumerate(range(0, n, step)):
                part = host[first : first + step]
                piece = halves[number % 2][: row * len(part)].view(out.dtype).reshape(part.shape)
                if len(sent) == len(halves):
                    sent.popleft()()
                np.copyto(piece, part, casting="safe")
                self.backend.upload(piece, out[first : first + len(part)])
                sent.append(self.backend.mark())
            for arrived in sent:
                arrived()
        return row * n

    def report(self) -> dict[str, Any]:
        """Sizes of the arrays on the card, in bytes."""
        resident = sum(self.bytes_of(len(rows)) for rows, _ in self.kept.values())
        return {
            "name": self.backend.name,
            "resident": resident,
            "resident_blocks": len(self.kept),
            "moved": self.tally.moved,
            "peak": self.backend.peak_bytes(),
        }


def _owned(array: NDArray[Any]) -> bool:
    """Whether the memory of an array is NumPy's own."""
    base: Any = array
    while isinstance(base, np.ndarray) and not base.flags.owndata:
        base = base.base
    return isinstance(base, np.ndarray) and base.flags.owndata


def _ended(end: Callable[[], None], array: NDArray[Any]) -> None:
    """Unpin an array, which was kept until now."""
    end()


# Blocks ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class DeviceBlock(Chunk):
    """Neighbouring chunks whose rows are wanted on a card together.

    Attributes
    ----------
    parts : tuple of Chunk
    lengths : tuple of int
        Rows of each part, or where `exact` is False the most there may be; empty where nobody knows.
    stays : bool
        Whether there is room for it on the card, in every pass.
    affine : Affine or None
        Moves the rows that are read; left to who asks, unless for `moved` ones.
    """

    index: int
    start: int | None
    parts: tuple[Chunk, ...]
    lengths: tuple[int, ...]
    exact: bool
    stays: bool
    affine: Affine | None
    card: Card

    @property
    def n_parts(self) -> int:
        """Chunks of the source in this block."""
        return len(self.parts)

    def load(self) -> tuple[Rows, Weights]:
        loaded = [part.load() for part in self.parts]
        rows = np.concatenate([rows for rows, _ in loaded])
        weight = np.concatenate([w for _, w in loaded if w is not None]) if self.card.source.has_weights else None
        return rows if self.affine is None else self.affine.apply(rows), weight

    @contextmanager
    def on_device(self, *, moved: bool = False) -> Iterator[Held]:
        """Rows and weights on the card, in a stream of this thread, while inside.

        Parameters
        ----------
        moved : the rows as `affine` moves them, not those that were read
        """
        card = self.card
        with card.buffers.one() as buffer, own_stream(card.backend):
            began, size = perf_counter(), 0
            held = None if moved else card.kept.get(self.index)
            if held is None:
                held, size = self._brought(buffer, moved)
            there = perf_counter()
            try:
                yield held
            finally:
                card.tally.add(there - began, perf_counter() - there, size)

    def part_of(self, row: int) -> tuple[Chunk, int]:
        """The chunk that a row of this block comes from, and its number there."""
        for part, length in zip(self.parts, self.lengths or (0,), strict=True):
            n = length if self.exact else len(part.load()[0])
            if row < n:
                return part, row
            row -= n
        raise IndexError(row)

    def _brought(self, buffer: _Buffer, moved: bool) -> tuple[Held, int]:
        """Rows and weights on the card, kept there if they may stay, and the bytes that were copied."""
        card, source = self.card, self.card.source
        first = None if self.lengths else self._loaded(0, moved)
        lengths = self.lengths if first is None else (len(first[0]),)
        stays = not moved and (self.stays or (first is not None and card.reserve(lengths[0])))
        width = self.affine.n_features_out if moved and self.affine is not None else source.n_features
        held = (card.fresh if stays else buffer.take)(sum(lengths), width, source.dtype, source.has_weights)
        if self.exact and first is None:
            size = self._fill_places(held, moved, card.threads if stays else 1)
        else:
            held, size = self._fill_on(held, moved, first)
        if stays:
            card.kept[self.index] = held
        return held, size

    def _fill_places(self, held: Held, moved: bool, threads: int) -> int:
        """Copy every part to its place."""
        rows, weight = held
        array, n = self.card.array, sum(self.lengths)
        if threads == 1 and array is not None and self.start is not None and not moved:
            return self.card.copy_in(array[self.start : self.start + n], rows)
        starts = tuple(accumulate(self.lengths, initial=0))

        def one(i: int) -> int:
            new, w = self._loaded(i, moved)
            part = slice(starts[i], starts[i + 1])
            if len(new) == 0 and weight is not None:  # no row has weight: whatever is there does not count
                return self.card.copy_in(np.zeros(self.lengths[i]), weight[part])
            if len(new) != self.lengths[i]:
                raise ChunkReadError(
                    self.card.source.name, self.parts[i].index,
                    f"expected {self.lengths[i]} rows, found {len(new)}: the data changed. Leave them alone.",
                )  # fmt: skip
            return self.card.copy_both((new, w), (rows[part], None if weight is None else weight[part]))

        if threads == 1 or len(self.parts) == 1:
            return sum(map(one, range(len(self.parts))))
        with ThreadPoolExecutor(min(threads, len(self.parts)), thread_name_prefix="streamgmm-copy") as pool:
            return sum(pool.map(one, range(len(self.parts))))

    def _fill_on(self, held: Held, moved: bool, first: tuple[Rows, Weights] | None) -> tuple[Held, int]:
        """Copy one part after the other, as long as they are; the part of `held` that is filled, and the bytes."""
        rows, weight = held
        n = size = 0
        for i in range(len(self.parts)):
            new, w = self._loaded(i, moved) if first is None else first
            part = slice(n, n + len(new))
            size += self.card.copy_both((new, w), (rows[part], None if weight is None else weight[part]))
            n += len(new)
        return (rows[:n], None if weight is None else weight[:n]), size

    def _loaded(self, i: int, moved: bool) -> tuple[Rows, Weights]:
        rows, weight = self.parts[i].load()
        return (self.affine.apply(rows) if moved and self.affine is not None else rows), weight


class _Blocks(Source):
    """The rows of a source as blocks on a card."""

    def __init__(self, source: Source, card: Card, affine: Affine | None, most_rows: int) -> None:
        self.source, self.card = source, card
        self._affine = affine
        self._most_rows = most_rows
        self._staying: list[DeviceBlock] = []
        self._whole = False  # whether those that stay are all there is
        for same in ("name", "kind", "n_features", "n_rows", "dtype", "has_weights", "feature_names"):
            setattr(self, same, getattr(source, same))
        if affine is not None:
            self.n_features = affine.n_features_out
        self.n_chunks = sum(1 for _ in self._cuts()) if self._lengths_known else None

    @property
    def most_rows(self) -> int | None:
        return self.source.most_rows

    @property
    def max_chunk_rows(self) -> int | None:
        return None if self.source.max_chunk_rows is None else max(self._most_rows, self.source.max_chunk_rows)

    @property
    def _lengths_known(self) -> bool:
        return self.source.n_rows is not None and _starts_known(self.source)

    def chunks(self) -> Iterator[Chunk]:
        if self._whole:
            return iter(self._staying)
        return self._from(self._staying)

    def _from(self, staying: list[DeviceBlock]) -> Iterator[Chunk]:
        """The blocks that stay, and those after them; blocks that are found to stay are remembered, in order."""
        yield from list(staying)
        done, skipped = len(staying), sum(block.n_parts for block in staying)
        index = done
        for parts, lengths in self._cuts(skipped):
            exact = self._lengths_known
            stays = bool(lengths) and len(staying) == index and self.card.reserve(sum(lengths))
            block = DeviceBlock(index, parts[0].start, parts, lengths, exact, stays, self._affine, self.card)
            if stays:
                staying.append(block)
            index += 1
            yield block
        self._whole = len(staying) == index

    def lie_in(self, array: DeviceArraySource) -> None:
        """The rows are on the card already."""
        for index, (parts, lengths) in enumerate(self._cuts()):
            start, n = parts[0].start or 0, sum(lengths)
            weight = array.weights_of(start, start + n)
            self.card.kept[index] = (
                array.rows[start : start + n], None if weight is None else array.backend.upload(weight)
            )  # fmt: skip
            self._staying.append(DeviceBlock(index, start, parts, lengths, True, True, self._affine, self.card))
        array.backend.synchronize()
        self._whole = True

    def _cuts(self, skip: int = 0) -> Iterator[tuple[tuple[Chunk, ...], tuple[int, ...]]]:
        """Runs of chunks that make a block, without the first `skip` chunks, and the rows of each chunk."""
        parts: list[Chunk] = []
        lengths: list[int] = []
        for chunk, n in self._measured(skip):
            if n is None:
                yield (chunk,), ()
                continue
            if parts and sum(lengths) + n > self._most_rows:
                yield tuple(parts), tuple(lengths)
                parts, lengths = [], []
            parts.append(chunk)
            lengths.append(n)
        if parts:
            yield tuple(parts), tuple(lengths)

    def _measured(self, skip: int) -> Iterator[tuple[Chunk, int | None]]:
        """Chunks and their rows, the most there can be, or None."""
        chunks = islice(self.source.chunks(), skip, None)
        if not self._lengths_known:
            yield from ((chunk, self.source.max_chunk_rows) for chunk in chunks)
            return
        before = next(chunks, None)
        for chunk in chunks:
            assert before is not None
            yield before, chunk.start - before.start  # type: ignore[operator]
            before = chunk
        if before is not None:
            yield before, self.source.n_rows - before.start  # type: ignore[operator]

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": "on a card", "block_rows": self._most_rows, "source": self.source.fingerprint()}


def _starts_known(source: Source) -> bool:
    first = list(islice(source.chunks(), 2))
    return bool(first) and all(chunk.start is not None for chunk in first)


class PlacedSource(WrappedSource):
    """A source as it is, for those who want rows in this process, and in blocks on a card for passes of EM (`for_em`).

    Attributes
    ----------
    blocks : Source
    """

    def __init__(self, source: Source, blocks: _Blocks) -> None:
        super().__init__(source)
        self.blocks = blocks

    def for_em(self) -> Source:
        return self.blocks

    def over(self, source: Source) -> Source:
        return PlacedSource(source, self.blocks)

    def wrapped(self, chunk: Chunk) -> Chunk:
        return chunk

    @property
    def chunk_bytes(self) -> int | None:
        return self.source.chunk_bytes

    def fingerprint(self) -> dict[str, Any]:
        return {**self.blocks.fingerprint(), "source": self.source.fingerprint()}

    def report(self) -> dict[str, Any]:
        """The work of the card in this fit: `Card.report`."""
        return self.blocks.card.report()

    def seconds(self) -> dict[str, float]:
        """Seconds of copies to the card and of E-steps on it, each summed over threads."""
        tally = self.blocks.card.tally
        return {"copy": tally.copy, "compute": tally.compute}


def placed(
    source: Source,
    backend: Backend,
    *,
    cuts: int = 1,
    keep: bool = True,
    answer_bytes: int = 0,
    scratch: int = 0,
    pinned_bytes: int | None = None,
) -> PlacedSource:
    """`source` with its rows on a card for passes of EM.

    Parameters
    ----------
    backend : see `streamgmm.kernels.cuda.backend`
    cuts : int
        Blocks that are wanted at least, if there are as many chunks.
    keep : bool
        False where there is one pass only.
    answer_bytes : int
        Of what is told of each row.
    scratch : int
        Bytes of the card that a kernel takes beside its rows: where they are many, fewer blocks are in work at a time.
    pinned_bytes : int, optional
        Memory of this process for copies.
    """
    affine = source.affine if isinstance(source, TransformedSource) else None
    read = source.source if isinstance(source, TransformedSource) else source
    inner = read.source if isinstance(read, LivingSource) else read
    free = backend.free_bytes()
    room = int(SHARE * free)
    total = read.total_bytes
    large = keep and total is not None and total <= room and _starts_known(read)
    lies_there = isinstance(inner, DeviceArraySource)
    most = LARGE_ROWS
    if not (large or (lies_there and keep)):
        small = _small_bytes(total or 0, free) if keep else ANSWER_BYTES
        most = max(1, small // max(read.row_bytes, answer_bytes))
        room = max(0, room - THREADS * small) if keep else 0
    if cuts > 1 and read.n_rows is not None:
        most = max(1, min(most, -(-read.n_rows // cuts)))
    piece = PIECE_BYTES if pinned_bytes is None else max(2**16, min(PIECE_BYTES, pinned_bytes // THREADS))
    threads = max(1, min(THREADS, int((1.0 - SHARE) * free) // max(1, scratch)))
    card = Card(backend, read, room, piece_bytes=piece, threads=threads)
    if keep and not large and pinned_bytes is None:
        card.pin()
    blocks = _Blocks(read, card, affine, most)
    if isinstance(inner, DeviceArraySource):
        blocks.lie_in(inner)
    return PlacedSource(source, blocks)


def _small_bytes(total: int, free: int) -> int:
    """Bytes of a block where not everything stays; fewer on a card without room for many of them."""
    small = max(SMALL_BYTES, min(MOST_BYTES, total // 256))
    while small > 2**20 and small > free // (16 * THREADS):
        small //= 2
    return small
