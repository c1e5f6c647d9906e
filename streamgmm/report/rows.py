"""Rows for a page: one pass gives a sample, sums for each component, and the rows that stand out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.tails import Tails
from streamgmm.runtime.executors import Executor, within
from streamgmm.sources.base import Chunk, Source
from streamgmm.utils.phases import reading
from streamgmm.utils.row_random import row_keys

__all__ = ["Answered", "Answers", "Asked", "Extremes", "PageRows", "read_rows"]

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

SURE = (0.5, 0.8, 0.95)
"""Largest responsibilities below which rows are counted as uncertain."""
KEPT = 100
"""Rows of lowest rank, and rows of most uncertain label, that are kept."""
_BLOCK = 16_384


class Answers(Protocol):
    """Interface of a page to a model: a `Mixture`, or one behind a projection."""

    def responsibilities(self, rows: NDArray[np.floating], /) -> Array: ...

    def log_prob(self, rows: NDArray[np.floating], /) -> Array: ...


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A model and what its rows are ranked by.

    Attributes
    ----------
    answers : for rows of the data
    tails : calibrates densities of rows that miss different values; None where none are missing: density ranks them
    """

    answers: Answers
    tails: Tails | None = None

    @classmethod
    def from_mixture(cls, mixture: Mixture) -> Asked:
        """A mixture that answers for rows of the data itself."""
        return cls(mixture, Tails(mixture) if mixture.missing else None)

    def rank(self, rows: NDArray[np.floating], logp: Array) -> Array:
        """(n,) the smaller, the more unusual; computed row by row."""
        return logp if self.tails is None else self.tails.log_bound(rows, logp)


@dataclass(frozen=True, slots=True, eq=False)
class Extremes:
    """Rows that stand out, the first the most.

    Attributes
    ----------
    key : (m,) what they are ordered by, smallest first
    place : (m, 2) chunk and number of the row in it
    rows : (m, D) as they are stored, NaN where nothing was observed
    logp : (m,) log-densities
    resp : (m, K) responsibilities, (m, K + 1) with a background
    """

    key: Array
    place: Whole
    rows: Array
    logp: Array
    resp: Array

    def first(self, size: int) -> Extremes:
        """The `size` smallest; equal ones in the order of the data."""
        order = np.lexsort((self.place[:, 1], self.place[:, 0], self.key))[:size]
        return Extremes(self.key[order], self.place[order], self.rows[order], self.logp[order], self.resp[order])

    def merge(self, other: Extremes, size: int) -> Extremes:
        """The `size` smallest of both."""
        return Extremes(
            np.concatenate([self.key, other.key]),
            np.concatenate([self.place, other.place]),
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.logp, other.logp]),
            np.concatenate([self.resp, other.resp]),
        ).first(size)


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A model's answers for all rows.

    Attributes
    ----------
    loglik : sum of w log p
    count : sum of w, over rows with something observed
    members : (K + 1,) rows by label, the background last
    certainty : (K + 1,) sum of the largest responsibility over them
    unsure : (3,) rows whose largest responsibility is below `SURE`
    lowest, uncertain : Extremes
        Rows of lowest `Asked.rank`, and of smallest largest responsibility.
    """

    loglik: float
    count: float
    members: Whole
    certainty: Array
    unsure: Whole
    lowest: Extremes
    uncertain: Extremes

    def merge(self, other: Answered) -> Answered:
        """Both together."""
        return Answered(
            self.loglik + other.loglik,
            self.count + other.count,
            self.members + other.members,
            self.certainty + other.certainty,
            self.unsure + other.unsure,
            self.lowest.merge(other.lowest, KEPT),
            self.uncertain.merge(other.uncertain, KEPT),
        )


@dataclass(frozen=True, slots=True, eq=False)
class PageRows:
    """A sample of the data, and what each model says of all of it.

    Attributes
    ----------
    rows : (m, D) sample in the order of the data, as stored, with NaN where nothing was observed
    numbers : (m,) their numbers in the data, from 0
    n_rows : rows of positive weight with something observed
    stored : rows in all
    answers : one `Answered` for each model
    starts : (chunks,) number of the first row of each chunk
    """

    rows: Array
    numbers: Whole
    n_rows: int
    stored: int
    answers: tuple[Answered, ...]
    starts: Whole

    def numbers_of(self, place: Whole) -> Whole:
        """(m,) numbers in the data of rows at `place` (m, 2)."""
        return np.asarray(self.starts[place[:, 0]] + place[:, 1], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Of some chunks: sample with keys and places, lengths of chunks, answers."""

    keys: Array
    place: Whole
    rows: Array
    lengths: dict[int, int]
    n_rows: int
    answers: tuple[Answered, ...]


def read_rows(source: Source, models: Sequence[Asked], executor: Executor, *, size: int, seed: int = 0) -> PageRows:
    """Read the data once.

    Rows without weight, and rows of which nothing was observed, are left out. The sample is that of
    `streamgmm.em.initialization.sample.survey`: it does not depend on chunking, order or threads.

    Parameters
    ----------
    models : each `Asked.answers` for rows of the source
    size : rows of the sample

    Raises
    ------
    ValueError
        Where no row is left.
    """
    task = within(source, partial(_read_chunk, tuple(models), size, seed))
    with reading(source, "report"):
        part = executor.run(task, source.chunks(), partial(_merged, size=size))
    if not part.n_rows:
        raise ValueError("the report needs rows; expected some of positive weight with something observed, got none.")
    lengths = np.array([part.lengths[index] for index in range(len(part.lengths))], np.int64)
    starts = np.cumsum(lengths) - lengths
    numbers = starts[part.place[:, 0]] + part.place[:, 1]
    order = np.argsort(numbers)
    return PageRows(part.rows[order], numbers[order], part.n_rows, int(lengths.sum()), part.answers, starts)


def _read_chunk(models: tuple[Asked, ...], size: int, seed: int, chunk: Chunk) -> _Part:
    rows, weight = chunk.load()
    w = np.ones(len(rows)) if weight is None else weight
    here = np.flatnonzero((w > 0) & ~np.isnan(rows).all(axis=1))
    _, log_u = row_keys(chunk, len(rows), seed)
    keys = log_u[here] / w[here]
    kept = here[np.argpartition(-keys, size - 1)[:size]] if size < len(here) else here
    blocks = [here[i : i + _BLOCK] for i in range(0, len(here), _BLOCK)] or [here]
    return _Part(
        log_u[kept] / w[kept],
        _places(chunk, kept),
        np.asarray(rows[kept], np.float64),
        {chunk.index: len(rows)},
        len(here),
        tuple(_answered(model, rows, w, blocks, chunk) for model in models),
    )


def _answered(
    model: Asked, rows: NDArray[np.floating], weight: Array, blocks: list[NDArray[np.intp]], chunk: Chunk
) -> Answered:
    found = [_of_block(model, rows[block], weight[block], _places(chunk, block)) for block in blocks]
    total = found[0]
    for more in found[1:]:
        total = total.merge(more)
    return total


def _of_block(model: Asked, rows: NDArray[np.floating], weight: Array, place: Whole) -> Answered:
    resp, logp = model.answers.responsibilities(rows), model.answers.log_prob(rows)
    label, largest = resp.argmax(axis=1), resp.max(axis=1, initial=0.0)
    width = resp.shape[1]
    lowest, uncertain = (
        Extremes(key[few], place[few], np.asarray(rows[few], np.float64), logp[few], resp[few]).first(KEPT)
        for key in (model.rank(rows, logp), largest)
        for few in [_smallest(key, KEPT)]
    )
    return Answered(
        float(weight @ logp),
        float(weight.sum()),
        np.bincount(label, minlength=width),
        np.bincount(label, largest, minlength=width),
        np.array([(largest < limit).sum() for limit in SURE]),
        lowest,
        uncertain,
    )


def _smallest(key: Array, size: int) -> NDArray[np.intp]:
    """Where the `size` smallest stand; of equal ones the first, so that chunks do not matter."""
    if len(key) <= size:
        return np.arange(len(key))
    limit = np.partition(key, size - 1)[size - 1]
    below = np.flatnonzero(key < limit)
    return np.concatenate([below, np.flatnonzero(key == limit)[: size - len(below)]])


def _places(chunk: Chunk, numbers: NDArray[np.intp]) -> Whole:
    return np.stack([np.full(len(numbers), chunk.index), numbers], axis=1)


def _merged(a: _Part, b: _Part, *, size: int) -> _Part:
    keys = np.concatenate([a.keys, b.keys])
    kept = np.argpartition(-keys, size - 1)[:size] if size < len(keys) else np.arange(len(keys))
    return _Part(
        keys[kept],
        np.concatenate([a.place, b.place])[kept],
        np.concatenate([a.rows, b.rows])[kept],
        a.lengths | b.lengths,
        a.n_rows + b.n_rows,
        tuple(one.merge(other) for one, other in zip(a.answers, b.answers, strict=True)),
    )
