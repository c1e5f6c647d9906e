"""Rows on the graphics cards of a cluster: each chunk is copied to the card of the worker that takes it.

A cluster has one worker for each card, as dask-cuda starts them; "cuda" is the first card that a worker sees. Nothing
stays there from pass to pass, as any worker may be asked for any chunk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamgmm.kernels.cuda import backend as cuda
from streamgmm.kernels.cuda.base import Backend
from streamgmm.runtime.card_memory import Buffer, Held, Lane, copy_through, own_stream
from streamgmm.sources.base import Chunk, Rows, Source, Weights
from streamgmm.sources.wrapped import SameSource, WrappedChunk

__all__ = ["SentChunk", "SentSource"]

PIECE_BYTES = 16 * 2**20
"""Bytes of pinned memory of each thread."""


class _Held(threading.local):
    """Memory of this thread for copies to a card."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[Backend, Lane, Buffer]] = {}

    def of(self, backend: Backend) -> tuple[Lane, Buffer]:
        found = self._found.get(backend.index)
        if found is None or found[0] is not backend:
            found = backend, Lane(backend.pinned(PIECE_BYTES)), Buffer(backend)
            self._found[backend.index] = found
        return found[1:]


_held = _Held()


@dataclass(frozen=True, slots=True)
class SentChunk(WrappedChunk):
    """A chunk whose rows go to a card of whoever works on it."""

    device: str

    def load(self) -> tuple[Rows, Weights]:
        return self.chunk.load()

    @property
    def unmoved(self) -> Any:
        """That of the chunk: see `streamgmm.sources.transformed.TransformedChunk`."""
        return getattr(self.chunk, "unmoved", None)

    @contextmanager
    def on_device(self, rows: Rows, weight: Weights) -> Iterator[Held]:
        """These rows (n, F) and weights on the card, while inside.

        Raises
        ------
        DeviceError
            Where this process has no card, or one of slow float64 that was not named by its number.
        """
        backend = cuda.chosen(self.device)
        lane, buffer = _held.of(backend)
        with own_stream(backend):
            there = buffer.take(len(rows), rows.shape[1], rows.dtype, weight is not None)
            for host, out in zip((rows, weight), there, strict=True):
                if host is not None and out is not None and len(host):
                    copy_through(lane, backend, np.ascontiguousarray(host), out)
            yield there


class SentSource(SameSource):
    """A source as it is, and in passes of EM (`for_em`) one whose chunks go to the cards of workers."""

    def __init__(self, source: Source, device: str) -> None:
        super().__init__(source)
        self._device = device

    def for_em(self) -> Source:
        return _Sent(self.source, self._device)

    def over(self, source: Source) -> Source:
        return SentSource(source, self._device)

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": "on the cards of workers", "source": self.source.fingerprint()}


class _Sent(SentSource):
    def wrapped(self, chunk: Chunk) -> Chunk:
        return SentChunk(chunk, self._device)
