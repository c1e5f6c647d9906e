"""Variants of EM: how a block's statistics enter the total. Exact, incremental and stepwise EM differ in nothing else.

Statistics are any values with `count`, `merge` and `scaled`; one per model, side by side in a tuple.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice, pairwise
from typing import Any

from streamgmm.em.step_sizes import Decay, Schedule
from streamgmm.errors import MemoryLimitError
from streamgmm.sources.base import Chunk, Rows, Slab, Source, Weights
from streamgmm.utils.numbers import size as bytes_text

All = tuple[Any, ...]
_PIECE_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Block:
    """The chunks between two updates.

    Attributes
    ----------
    pass_number : int
        Which pass over the data this is, from 0.
    index : int
        Position of the block in its pass.
    chunks : iterable of Chunk
    last : bool
        True for the block that ends its pass.
    """

    pass_number: int
    index: int
    chunks: Iterable[Chunk]
    last: bool = True


class Rule[State](ABC):
    """A pair of pure functions over a small state."""

    @abstractmethod
    def blocks(self, source: Source) -> Iterator[Block]:
        """Blocks without end; whoever iterates decides when to stop."""

    @abstractmethod
    def init(self, models: All, source: Source) -> State:
        """The state before the first block."""

    @abstractmethod
    def absorb(self, state: State, block: Block, stats: All) -> tuple[State, All | None]:
        """The state after a block, and the totals that the M-step sees; None where the models are to be held."""

    def keep(self, state: State, which: Sequence[int]) -> State:
        """The state without the models that left; `which` are the positions of those that stay."""
        return state


class Exact(Rule[None]):
    """Full-batch EM: one block, which is everything; the total is its statistics."""

    def blocks(self, source: Source) -> Iterator[Block]:
        return (Block(pass_number, 0, source.chunks()) for pass_number in count())

    def init(self, models: All, source: Source) -> None:
        return None

    def absorb(self, state: None, block: Block, stats: All) -> tuple[None, All]:
        return None, stats


# Incremental ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class FoldTree:
    """A fold tree whose leaves can be replaced: node i covers nodes 2i and 2i + 1, leaf b is node `size` + b.

    Nothing is ever subtracted, so nothing can drift; a replacement costs log2(size) merges.
    """

    nodes: tuple[All | None, ...]

    @classmethod
    def empty(cls, n_leaves: int) -> FoldTree:
        return cls((None,) * (2 << (n_leaves - 1).bit_length()))

    def replace(self, leaf: int, value: All) -> FoldTree:
        nodes = list(self.nodes)
        i = len(nodes) // 2 + leaf
        nodes[i] = value
        while i > 1:
            i //= 2
            left, right = nodes[2 * i], nodes[2 * i + 1]
            if left is None or right is None:
                nodes[i] = right if left is None else left
            else:
                nodes[i] = tuple(a.merge(b) for a, b in zip(left, right, strict=True))
        return FoldTree(tuple(nodes))

    @property
    def total(self) -> All | None:
        return self.nodes[1]

    def keep(self, which: Sequence[int]) -> FoldTree:
        return FoldTree(tuple(None if node is None else tuple(node[i] for i in which) for node in self.nodes))


@dataclass(frozen=True, slots=True)
class Incremental(Rule[FoldTree]):
    """Incremental EM (Neal & Hinton 1998): after each block an M-step on the newest statistics of every block.

    The first pass holds the models, so it is an exact E-step; from then on the bound F = Q + H never falls
    (`streamgmm.mixture.m_step.bound`).

    Parameters
    ----------
    n_blocks : int
        Blocks per pass at most; 10 to 20 give nearly all of the gain. A source that cannot be cut without reading a
        chunk twice has as many as it has chunks.
    max_bytes : int, optional
        Memory the remembered statistics may take.
    """

    n_blocks: int = 16
    max_bytes: int | None = None

    def count(self, source: Source) -> int:
        """Blocks per pass of `source`."""
        chunks = number_of_chunks(source)
        if source.in_memory and source.n_rows:
            return min(self.n_blocks, source.n_rows) if chunks < self.n_blocks else self.n_blocks
        return max(1, min(self.n_blocks, chunks))

    def blocks(self, source: Source) -> Iterator[Block]:
        n = self.count(source)
        if number_of_chunks(source) < n:
            assert source.n_rows is not None  # as in all sources in memory
            cuts = [source.n_rows * b // n for b in range(n + 1)]
            for pass_number in count():
                pieces = iter(slabs(source, cuts))
                for b in range(n):
                    yield Block(pass_number, b, next(pieces), b == n - 1)
        chunks = number_of_chunks(source)
        for pass_number in count():
            iterator = source.chunks()
            for b in range(n):
                size = chunks * (b + 1) // n - chunks * b // n
                yield Block(pass_number, b, islice(iterator, size), b == n - 1)

    def init(self, models: All, source: Source) -> FoldTree:
        leaves = FoldTree.empty(self.count(source))
        needed = len(leaves.nodes) * sum(model.stats_bytes for model in models)
        if self.max_bytes is not None and needed > self.max_bytes:
            raise MemoryLimitError(
                f"solver='incremental' remembers statistics of {self.count(source)} blocks for {len(models)} model(s): "
                f"{bytes_text(needed)} are needed, {bytes_text(self.max_bytes)} may be used. Raise memory_limit, "
                "lower n_init or n_components, or use solver='squarem'."
            )
        return leaves

    def absorb(self, state: FoldTree, block: Block, stats: All) -> tuple[FoldTree, All | None]:
        complete = state.nodes[len(state.nodes) // 2 + block.index] is not None
        state = state.replace(block.index, stats)
        return state, state.total if complete or block.last else None

    def keep(self, state: FoldTree, which: Sequence[int]) -> FoldTree:
        return state.keep(which)


# Stepwise -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Online:
    """State of stepwise EM.

    Attributes
    ----------
    step : int
        Updates so far; the hold has none.
    seen, lap_seen : float
        Weight of all rows so far, and of those of the present pass.
    inverse_size : float
        1 / effective number of rows in `mean` (Kish): with rates rho, q <- (1 - rho)^2 q + rho^2 / n.
    mean : tuple of statistics, one per model, scaled to one row; None before the first batch
    late : the running average of `mean` over late steps, and their number
    lap_rows, lap_dropped : int
        Rows of the present pass, and those of them with nothing observed: `mean` cannot tell, it sums those of all
        passes.
    """

    step: int = 0
    seen: float = 0.0
    inverse_size: float = 0.0
    mean: All | None = None
    late: All | None = None
    n_late: int = 0
    lap_seen: float = 0.0
    lap_rows: int = 0
    lap_dropped: int = 0

    @property
    def totals(self) -> All | None:
        """The statistics at their effective number of rows."""
        return None if self.mean is None else tuple(s.scaled(1.0 / self.inverse_size) for s in self.mean)

    @property
    def averaged(self) -> All | None:
        """The same from the average over late steps, where there is one."""
        if self.late is None:
            return self.totals
        return tuple(s.scaled(1.0 / self.inverse_size) for s in self.late)


@dataclass(frozen=True, slots=True)
class Stepwise(Rule[Online]):
    """Stepwise EM: each batch is blended into running statistics, s <- (1 - rho) s + rho s_batch.

    Parameters
    ----------
    schedule : Schedule
    batch_rows : int, optional
        Rows per update, about; None takes each chunk as it comes. Larger chunks are read once and cut, smaller ones
        are put together.
    hold_rows : float
        Rows to see before the first update; they are accumulated, and the models stay as they are.
    average_from : float
        Rows of a pass to see before statistics are averaged (Polyak); infinity never does.
    order : sequence of int, optional
        Order of the chunks within a pass, where the order of storage may carry meaning.
    """

    schedule: Schedule = field(default_factory=Decay)
    batch_rows: int | None = None
    hold_rows: float = 0.0
    average_from: float = math.inf
    order: Sequence[int] | None = None

    def blocks(self, source: Source) -> Iterator[Block]:
        for pass_number in count():
            pending: tuple[int, tuple[Chunk, ...]] | None = None
            for index, pieces in enumerate(self._batches(source)):
                if pending is not None:
                    yield Block(pass_number, *pending, last=False)
                pending = index, pieces
            if pending is None:
                return
            yield Block(pass_number, *pending, last=True)

    def _batches(self, source: Source) -> Iterator[tuple[Chunk, ...]]:
        chunks: Iterable[Chunk] = source.chunks()
        if self.order is not None:
            listed = list(chunks)
            chunks = (listed[i] for i in self.order)
        if self.batch_rows is None:
            yield from ((chunk,) for chunk in chunks)
            return
        waiting: list[LoadedChunk] = []
        rows = 0
        for chunk in chunks:
            loaded = chunk.load()
            n = len(loaded[0])
            batches = max(1, round(n / self.batch_rows))
            cuts = [n * b // batches for b in range(batches + 1)]
            for low, high in pairwise(cuts):
                # Several pieces, so that several threads have something to do.
                for first in range(low, high, _PIECE_ROWS):
                    part = slice(first, min(first + _PIECE_ROWS, high))
                    waiting.append(LoadedChunk.cut(chunk, loaded, len(waiting), part))
                rows += high - low
                if rows >= 0.75 * self.batch_rows:
                    yield tuple(waiting)
                    waiting, rows = [], 0
        if waiting:
            yield tuple(waiting)

    def init(self, models: All, source: Source) -> Online:
        return Online()

    def absorb(self, state: Online, block: Block, stats: All) -> tuple[Online, All | None]:
        batch = stats[0].count
        if block.index == 0:
            state = replace(state, lap_seen=0.0, lap_rows=0, lap_dropped=0, late=None, n_late=0)
        state = replace(
            state, lap_rows=state.lap_rows + stats[0].rows, lap_dropped=state.lap_dropped + stats[0].dropped
        )
        if batch <= 0:
            return state, None
        seen = state.seen + batch
        hold = seen < self.hold_rows
        if state.mean is None:
            rho = 1.0
        else:
            rho = batch / seen if hold else min(1.0, self.schedule.rate(state.step, batch, seen))
        newest = tuple(s.scaled(rho / batch) for s in stats)
        if state.mean is None:
            mean = newest
        else:
            mean = tuple(a.scaled(1.0 - rho).merge(b) for a, b in zip(state.mean, newest, strict=True))
        state = replace(
            state,
            step=state.step + (not hold),
            seen=seen,
            lap_seen=state.lap_seen + batch,
            inverse_size=(1.0 - rho) ** 2 * state.inverse_size + rho * rho / batch,
            mean=mean,
        )
        if hold:
            return state, None
        if state.lap_seen >= self.average_from:
            n = state.n_late + 1
            late = (
                mean if state.late is None else tuple(a.blend(b, 1 / n) for a, b in zip(state.late, mean, strict=True))
            )
            state = replace(state, late=late, n_late=n)
        return state, state.totals

    def keep(self, state: Online, which: Sequence[int]) -> Online:
        def some(stats: All | None) -> All | None:
            return None if stats is None else tuple(stats[i] for i in which)

        return replace(state, mean=some(state.mean), late=some(state.late))


# Pieces of sources ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class LoadedChunk(Chunk):
    """Rows that have been read already, so that several batches can be cut from one pass."""

    index: int
    start: int | None
    rows: Rows
    weight: Weights

    @classmethod
    def cut(cls, chunk: Chunk, loaded: tuple[Rows, Weights], index: int, part: slice) -> LoadedChunk:
        rows, weight = loaded
        start = None if chunk.start is None else chunk.start + part.start
        return cls(index, start, rows[part], None if weight is None else weight[part])

    def load(self) -> tuple[Rows, Weights]:
        return self.rows, self.weight


def number_of_chunks(source: Source) -> int:
    """Chunks of a source, counted without reading where it does not know."""
    return int(source.n_chunks if source.n_chunks is not None else sum(1 for _ in source.chunks()))


def slabs(source: Source, cuts: Sequence[int]) -> Iterator[list[Slab]]:
    """For each pair of neighbouring cuts (absolute rows, ascending) the slabs of chunks between them.

    Only for sources in memory, where reading part of a chunk costs no more than the part.
    """
    chunks = list(source.chunks())
    starts = [start for start in (*(chunk.start for chunk in chunks), source.n_rows) if start is not None]
    index = count()
    for low, high in pairwise(cuts):
        part = []
        for chunk, first, stop in zip(chunks, starts, starts[1:], strict=False):
            a, b = max(low, first), min(high, stop)
            if a < b:
                part.append(Slab(chunk, next(index), a, a - first, b - first))
        yield part
