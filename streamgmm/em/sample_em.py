"""Rows in memory as a source whose chunks are alike: dealt out like cards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.loop import Models, e_step, merge_all
from streamgmm.em.update import Maximize
from streamgmm.mixture.mixture import Mixture
from streamgmm.runtime.executors import Executor, within
from streamgmm.sources import Source
from streamgmm.sources.base import Chunk
from streamgmm.sources.formats.array import ArraySource
from streamgmm.sources.summaries.sample import SampleSummary

Array = NDArray[np.float64]

CHUNK = 16_384
"""Rows of a chunk of few features. A step on 10,000 x 8, K = 16, takes 2.2 ms in one chunk, 3.6 in three."""
WIDE, HAND = 12, 8192
"""Features from which rows are dealt, and rows that a chunk then has at most.

From so many features on kernels leave out components that cannot matter to a row. Neighbours in the data are alike, and
a chunk of them in which a component has no row at all is done a second time, with nothing left out; and what a chunk
costs beside its rows is a product of components and squared features.
"""
CHEAP = 2e9
"""Rows x components x features^2 up to which an EM step on rows in memory counts for nothing."""

OVERHEAD = 4e5
"""Cost of a step beside its rows, in rows x (components + components x features^2 / 50)."""


def cheap(m: int, K: int, D: int) -> bool:
    """True if EM steps on m rows count for nothing; see `CHEAP`."""
    return m * K * D**2 <= CHEAP


def step_rows(m: int, K: int, D: int) -> float:
    """Cost of an EM step on m rows in memory, in rows."""
    return m + OVERHEAD / (K + K * D**2 / 50)


def cheap_rows(K: int, D: int) -> int:
    """Rows up to which EM steps count for nothing."""
    return int(CHEAP / (K * D**2))


class _Sample(ArraySource):
    """Rows drawn from `rows_in_all`: passes over them have the form of passes over all, whose code is loaded anyway."""

    rows_in_all: int = 0
    sampled = True

    @property
    def most_rows(self) -> int:
        return max(self.rows_in_all, self.n_rows or 0)


def in_memory(rows: NDArray[Any], weight: NDArray[np.float64] | None = None, of: int = 0) -> Source:
    """A source over rows (m, D) and weights (m,), drawn from `of` where that is more.

    Of `WIDE` rows each chunk takes one from each run of neighbours.

    Chunks of wide rows are of equal length but for one row, and an even number unless there is but one: a power of two
    of threads has as much to do each. Which rows are where follows from m and D alone.
    """
    m, D = rows.shape
    rows = np.ascontiguousarray(rows)
    if D < WIDE:
        return _sample(rows, weight, CHUNK, of)
    n = 2 * -(-m // (2 * HAND)) if 2 * m >= HAND else 1
    if n > 1:
        # A hand may be a row short: the longer ones come first, and chunks are cut at the length of the longest.
        order = np.concatenate([np.arange(i, m, n) for i in range(n)])
        rows, weight = rows[order], None if weight is None else weight[order]
    return _sample(rows, weight, -(-m // n), of)


def _sample(rows: NDArray[Any], weight: NDArray[np.float64] | None, chunk_rows: int, of: int) -> Source:
    source = _Sample(rows, weight, chunk_rows=chunk_rows)
    source.rows_in_all = of
    return source


def mean_log_likelihoods(models: Models, source: Source, executor: Executor) -> Array:
    """(len(models),) nats per row."""
    totals: Array = executor.run(within(source, partial(_totals, models)), source.chunks(), np.add)
    return np.asarray(totals[:, 0] / totals[:, 3])


def _totals(models: Models, chunk: Chunk) -> Array:
    rows, weight = chunk.load()
    return np.stack([model.totals(rows, weight) for model in models])


@dataclass(frozen=True, slots=True, eq=False)
class SampleStep:
    """One plain EM step on the sample; nothing is repaired."""

    source: Source
    scale: float
    maximize: Maximize
    executor: Executor

    @classmethod
    def from_survey(cls, survey: SampleSummary, maximize: Maximize, executor: Executor) -> SampleStep:
        weight = survey.weight if survey.complete else None
        source = in_memory(survey.rows, weight, survey.n_rows)
        return cls(source, 1.0 if survey.complete else survey.count / len(survey.rows), maximize, executor)

    def __call__(self, model: Mixture) -> Mixture:
        task = within(self.source, partial(e_step, (model,)))
        (stats,) = self.executor.run(task, self.source.chunks(), merge_all)
        # As heavy as the data, which matters to a prior.
        stats = model.restore(stats).scaled(self.scale)
        return self.maximize.step(stats, model)
