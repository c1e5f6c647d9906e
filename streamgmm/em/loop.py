"""EM: a chunk becomes statistics, statistics merge, merged statistics become a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self, cast

from streamgmm.em.variants import Block, Rule
from streamgmm.errors import NonFiniteRowError, non_finite
from streamgmm.mixture.mixture import Mixture
from streamgmm.runtime.device import DeviceBlock
from streamgmm.runtime.executors import Executor, within
from streamgmm.runtime.worker_cards import SentChunk
from streamgmm.sources.base import Chunk, Rows, Source, Weights
from streamgmm.utils.affine import Affine
from streamgmm.utils.phases import reading

Models = tuple[Mixture, ...]


class Statistics(Protocol):
    """Result of the E-step of a chunk: sums over rows, which merge."""

    @property
    def count(self) -> float:
        """Sum of the sample weights."""

    @property
    def rows(self) -> int:
        """Rows of positive weight."""

    def merge(self, other: Self) -> Self:
        """The sums over both sets of rows."""


class Model[S](Protocol):
    """Interface of an E-step to a model with statistics `S`: `Mixture` is one, `em.kmeans.centres.Centres` another."""

    def frame_stats(self, rows: Rows, weight: Weights = None) -> S:
        """Statistics of rows (n, D) with weights (n,), in a frame of the model's choice."""

    def restore(self, stats: S) -> S:
        """The same statistics in the units of the data."""

    def through(self, affine: Affine) -> Self | None:
        """The model as it sees rows that `affine` has still to move; None where it cannot take the map in."""


@dataclass(frozen=True)
class BlockStep[M, S, C, State]:
    """One block: the models after it, what rule and update remember, and the statistics that led to it."""

    models: tuple[M, ...]
    state: State
    candidates: C
    block: Block
    stats: tuple[S, ...]


def em[M: Model[Any], S: Statistics, C, State](
    source: Source,
    models: tuple[M, ...],
    *,
    rule: Rule[State],
    executor: Executor,
    update: Callable[[tuple[M, ...], tuple[S, ...], C], tuple[tuple[M, ...], C]],
    candidates: C = None,  # type: ignore[assignment]
    state: State | None = None,
    task: Callable[[tuple[M, ...], Chunk], tuple[S, ...]] | None = None,
) -> Iterator[BlockStep[M, S, C, State]]:
    """Yield one `BlockStep` per block; stop by ceasing to iterate, or when no model is left.

    Parameters
    ----------
    source : Source
    models : tuple of models, see `Model`
        All share every pass over the data.
    rule : Rule
        Which chunks make a block, and how its statistics enter the total; where it gives none, the models are held.
    executor : Executor
    update : callable (models, totals, candidates) -> (models, candidates)
        The M-step, and whatever is composed with it: acceleration, repair, retirement.
    state, candidates :
        As found in an earlier `BlockStep`, to go on from there.
    task : callable (models, chunk) -> statistics, optional
        Instead of `e_step`, where models do not all see the same rows.
    """
    e_step_of = task or e_step
    state = rule.init(models, source) if state is None else state
    for block in rule.blocks(source):
        with reading(source, "pass"):
            framed = executor.run(within(source, partial(e_step_of, models)), block.chunks, merge_all)
        stats = tuple(model.restore(part) for model, part in zip(models, framed, strict=True))
        state, totals = rule.absorb(state, block, stats)
        if totals is not None:
            models, candidates = update(models, totals, candidates)
        yield BlockStep(models, state, candidates, block, stats)
        if not models:
            return


def e_step[S](models: tuple[Model[S], ...], chunk: Chunk) -> tuple[S, ...]:
    """Statistics of one chunk under every model, each in its model's own frame (`Mixture.restore` leads back)."""
    with seen(models, chunk) as (views, rows, weight):
        return tuple(view.frame_stats(rows, weight) for view in views)


@contextmanager
def seen[M: Model[Any]](models: tuple[M, ...], chunk: Chunk) -> Iterator[tuple[tuple[M, ...], Rows, Weights]]:
    """`absorb_transform`, for chunks on a graphics card too; a row that is not finite is named with its place in the
    data."""
    if isinstance(chunk, DeviceBlock):
        affine = chunk.affine
        views = models if affine is None else _views(models, affine)
        moved = len(views) < len(models)
        with chunk.on_device(moved=moved) as held:
            rows, weight = cast(tuple[Rows, Weights], held)  # arrays of a card, which are indexed as NumPy's
            try:
                yield (models if moved else views), rows, weight
            except NonFiniteRowError as error:
                part, row = chunk.part_of(error.row)
                raise non_finite(part.load()[0], row, part) from None
        return
    views, rows, weight = absorb_transform(models, chunk)
    try:
        if isinstance(chunk, SentChunk):
            with chunk.on_device(rows, weight) as held:
                yield views, *cast(tuple[Rows, Weights], held)
        else:
            yield views, rows, weight
    except NonFiniteRowError as error:
        raise non_finite(rows, error.row, chunk) from None


def _views[M: Model[Any]](models: tuple[M, ...], affine: Affine) -> tuple[M, ...]:
    """The models as they see rows that `affine` has still to move; without those that cannot."""
    return tuple(view for model in models if (view := model.through(affine)) is not None)


def absorb_transform[M: Model[Any]](models: tuple[M, ...], chunk: Chunk) -> tuple[tuple[M, ...], Rows, Weights]:
    """The rows of a chunk, their weights, and the models as they see these rows.

    Where the chunk moves its rows by an affine map that all models can take into their whitening, the rows come as they
    were read and the models as they look through the map: nothing is moved, nothing is copied.
    """
    unmoved = getattr(chunk, "unmoved", None)
    if unmoved is None:
        return models, *chunk.load()
    rows, weight, affine = unmoved()
    views = _views(models, affine)
    return (views, rows, weight) if len(views) == len(models) else (models, affine.apply(rows), weight)


def merge_all[S: Statistics](a: tuple[S, ...], b: tuple[S, ...]) -> tuple[S, ...]:
    """Merge the statistics of two runs of rows, model by model."""
    return tuple(left.merge(right) for left, right in zip(a, b, strict=True))
