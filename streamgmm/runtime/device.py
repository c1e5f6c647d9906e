"""Rows on a graphics card: which of them stay there from pass to pass, and how the others get there.

Neighbouring chunks of a source are put together to blocks. Where all rows fit the memory of the card, blocks are large
(each costs some tenths of a millisecond a pass) and stay there. Otherwise they are small, as many as fit stay, and the
rest is copied anew in every pass; each thread has a buffer and a stream of its own, so that copies, kernels and the
reading of files overlap. An array in memory is pinned and copied block after block on one stream, and the first block
of the next pass at the end of each. The cuts depend on the source and on whether it fits, never on threads: folds by
block index have the same bits in every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, islice
from time import perf_counter
from typing import Any

import numpy as np

from streamgmm.errors import ChunkReadError
from streamgmm.kernels.cuda.base import Backend
from streamgmm.runtime.card_memory import Buffer, Card, Held, own_stream
from streamgmm.sources.base import Chunk, Rows, Source, Weights
from streamgmm.sources.formats.device import DeviceArraySource
from streamgmm.sources.living import LivingSource
from streamgmm.sources.transformed import TransformedSource
from streamgmm.sources.wrapped import SameSource
from streamgmm.utils.affine import Affine

__all__ = ["DeviceBlock", "PlacedSource", "placed"]

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
            ahead = None if moved or held is not None else card.ahead.take(self.index)
            if ahead is not None:
                held, size = ahead, sum(self.lengths) * card.source.row_bytes
            elif held is None:
                held, size = self._brought(buffer, moved)
            there = perf_counter()
            try:
                yield held
            finally:
                if ahead is not None:
                    card.ahead.release()
                card.tally.add(there - began, perf_counter() - there, size)

    def part_of(self, row: int) -> tuple[Chunk, int]:
        """The chunk that a row of this block comes from, and its number there."""
        for part, length in zip(self.parts, self.lengths or (0,), strict=True):
            n = length if self.exact else len(part.load()[0])
            if row < n:
                return part, row
            row -= n
        raise IndexError(row)

    def _brought(self, buffer: Buffer, moved: bool) -> tuple[Held, int]:
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

    def __init__(self, source: Source, card: Card, affine: Affine | None, most_rows: int, *, again: bool) -> None:
        self.source, self.card = source, card
        self._again = again  # whether there is more than one pass
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
        index, first = done, None
        for parts, lengths in self._cuts(skipped):
            exact = self._lengths_known
            stays = bool(lengths) and len(staying) == index and self.card.reserve(sum(lengths))
            block = DeviceBlock(index, parts[0].start, parts, lengths, exact, stays, self._affine, self.card)
            if stays:
                staying.append(block)
            elif first is None:
                first = block
            index += 1
            yield block
        self._whole = len(staying) == index
        if self._again and first is not None and first.start is not None and first.lengths:
            self.card.begin(first.index, first.start, sum(first.lengths))

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


class PlacedSource(SameSource):
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
        room = max(0, room - (THREADS + 1) * small) if keep else 0
    if cuts > 1 and read.n_rows is not None:
        most = max(1, min(most, -(-read.n_rows // cuts)))
    piece = PIECE_BYTES if pinned_bytes is None else max(2**16, min(PIECE_BYTES, pinned_bytes // THREADS))
    threads = max(1, min(THREADS, int((1.0 - SHARE) * free) // max(1, scratch)))
    card = Card(backend, read, room, piece_bytes=piece, threads=threads)
    if keep and not large and pinned_bytes is None:
        card.pin()
    blocks = _Blocks(read, card, affine, most, again=keep)
    if isinstance(inner, DeviceArraySource):
        blocks.lie_in(inner)
    return PlacedSource(source, blocks)


def _small_bytes(total: int, free: int) -> int:
    """Bytes of a block where not everything stays; fewer on a card without room for many of them."""
    small = max(SMALL_BYTES, min(MOST_BYTES, total // 256))
    while small > 2**20 and small > free // (16 * THREADS):
        small //= 2
    return small
