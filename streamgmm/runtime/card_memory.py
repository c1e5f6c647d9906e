"""Copies of rows to a graphics card, and memory of the card and of the host for them."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from streamgmm.kernels.cuda.base import Backend, DeviceArray
from streamgmm.runtime.peak_memory import machine_memory
from streamgmm.sources.base import Rows, Source, Weights
from streamgmm.sources.formats.array import ArraySource

__all__ = ["Buffer", "Card", "Held", "Lane", "copy_through", "own_stream"]

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
class Lane:
    """Pinned memory for copies."""

    memory: NDArray[np.uint8]

    def halves(self, row: int, make: Callable[[int], NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], ...]:
        """Two halves of it that hold whole rows of `row` bytes, at least one each."""
        if len(self.memory) < 2 * row:
            self.memory = make(2 * row)
        size = len(self.memory) // 2 // row * row
        return self.memory[:size], self.memory[size : 2 * size]


def _row_bytes(host: NDArray[Any], out: DeviceArray) -> int:
    return int(out.dtype.itemsize) * (host.size // len(host))


def copy_through(lane: Lane, backend: Backend, host: NDArray[Any], out: DeviceArray) -> None:
    """Copy an array (n, ...) to device memory of the same shape through pinned memory, on the current stream, and wait.

    One half of it is filled while the other is on its way.
    """
    row = _row_bytes(host, out)
    halves = lane.halves(row, backend.pinned)
    step, sent = len(halves[0]) // row, deque[Callable[[], None]]()
    for number, first in enumerate(range(0, len(host), step)):
        part = host[first : first + step]
        piece = halves[number % 2][: row * len(part)].view(out.dtype).reshape(part.shape)
        if len(sent) == len(halves):
            sent.popleft()()
        np.copyto(piece, part, casting="safe")
        backend.upload(piece, out[first : first + len(part)])
        sent.append(backend.mark())
    for arrived in sent:
        arrived()


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
class Buffer:
    """Device memory for the block at hand; it is made anew for a larger one, or one of another kind."""

    backend: Backend
    rows: DeviceArray | None = None
    weight: DeviceArray | None = None

    def take(self, n: int, width: int, dtype: DTypeLike, weighted: bool) -> Held:
        """Rows (n, width) and weights (n,) or None, of any content."""
        rows = self.rows
        if rows is None or len(rows) < n or rows.shape[1] != width or rows.dtype != np.dtype(dtype):
            rows = self.rows = None  # given back before more is asked for
            rows = self.rows = self.backend.empty((n, width), dtype)
        if weighted and (self.weight is None or len(self.weight) < n):
            self.weight = None
            self.weight = self.backend.empty((n,), np.float64)
        return rows[:n], self.weight[:n] if weighted and self.weight is not None else None


class _Ahead:
    """The first block that does not stay, copied while the pass before comes to its end: so the link is never idle."""

    def __init__(self, backend: Backend) -> None:
        self._buffer = Buffer(backend)
        self._lock = threading.Lock()
        self._free = True
        self._found: tuple[int, Held, Callable[[], None]] | None = None

    def begin(self, index: int, rows: NDArray[Any]) -> None:
        """Queue the copy of block `index` on the current stream, unless the one before is still in use."""
        with self._lock:
            if not self._free or self._found is not None:
                return
            held = self._buffer.take(len(rows), rows.shape[1], rows.dtype, False)
            self._buffer.backend.upload(rows, held[0])
            self._found = index, held, self._buffer.backend.mark()

    def take(self, index: int) -> Held | None:
        """The block, once it is there, to be given back with `release`; None where another one was copied, or none."""
        with self._lock:
            if self._found is None or self._found[0] != index:
                return None
            _, held, arrived = self._found
            self._free, self._found = False, None
        arrived()
        return held

    def release(self) -> None:
        self._free = True

    def finish(self) -> None:
        """Wait for a copy that nobody has taken: both memories are given back after this."""
        if self._found is not None:
            self._found[2]()


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
        self.buffers: _Pool[Buffer] = _Pool(lambda: Buffer(backend), threads)
        self._lanes: _Pool[Lane] = _Pool(lambda: Lane(backend.pinned(piece_bytes)), threads)
        self._room = room
        self._reserving = threading.Lock()
        self.array = source.as_stored if isinstance(source, ArraySource) else None
        """All rows, where they lie in memory as they go to the card."""
        self._direct = self.array is not None and len(self.array) > 0 and backend.is_pinned(self.array)
        self._link = threading.Lock()
        self._copies = backend.stream()
        self.ahead = _Ahead(backend)
        weakref.finalize(self, self.ahead.finish)

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

    def begin(self, index: int, start: int, n: int) -> None:
        """Begin to copy a block for the next pass, where its rows go to the card as they lie in memory."""
        if self._direct and self.array is not None:
            with self._link, self._copies:
                self.ahead.begin(index, self.array[start : start + n])

    def copy_in(self, host: NDArray[Any], out: DeviceArray) -> int:
        """Copy an array (n, ...) to device memory of the same shape, and wait for it; the bytes."""
        n = len(host)
        if n == 0:
            return 0
        row = _row_bytes(host, out)
        if self._direct and self.array is not None and np.may_share_memory(host, self.array):
            # One after the other on one stream: each block has the whole link, and is there early.
            with self._link, self._copies:
                self.backend.upload(host, out)
                arrived = self.backend.mark()
            arrived()
            return row * n
        with self._lanes.one() as lane, own_stream(self.backend):
            copy_through(lane, self.backend, host, out)
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
