"""A source that counts how often each chunk is read."""

from __future__ import annotations

import threading
from collections import Counter

from streamgmm.sources.base import Chunk, Source


class CountingChunk(Chunk):
    def __init__(self, chunk, source):
        self.chunk, self.source = chunk, source
        self.index, self.start = chunk.index, chunk.start

    def load(self):
        with self.source.lock:
            self.source.reads[self.index] += 1
        return self.chunk.load()


class Counting(Source):
    """Another source, not in memory, that counts passes of its chunks in `reads`."""

    in_memory = False

    def __init__(self, source):
        self.inner = source
        self.name = "counting"
        self.n_features, self.n_rows, self.n_chunks = source.n_features, source.n_rows, source.n_chunks
        self.dtype, self.has_weights = source.dtype, source.has_weights
        self.reads = Counter()
        self.lock = threading.Lock()

    def chunks(self):
        return (CountingChunk(chunk, self) for chunk in self.inner.chunks())

    @property
    def max_chunk_rows(self):
        return self.inner.max_chunk_rows

    def fingerprint(self):
        return self.inner.fingerprint()
