"""EM: a chunk becomes statistics, statistics merge, merged statistics become a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.variants import Block, Rule
from streamgmm.errors import NonFiniteRowError, non_finite
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.stats import Stats
from streamgmm.runtime.device import DeviceBlock
from streamgmm.runtime.executors import within
from streamgmm.utils.affine import Affine
from streamgmm.utils.phases import reading

Array = NDArray[np.float64]
Models = tuple[Mixture, ...]
Update = Callable[[Models, tuple[Stats, ...], Any], tuple[Models, Any]]


@dataclass(frozen=True, slots=True)
class Step:
    """One block: the models after it, what rule and update remember, and the statistics that led to it."""

    models: Models
    state: Any
    candidates: Any
    block: Block
    stats: tuple[Stats, ...]


def em(
    source: Any,
    models: Models,
    *,
    rule: Rule,
    executor: Any,
    update: Update,
    state: Any = None,
    candidates: Any = None,
    task: Callable[[Models, Any], tuple[Stats, ...]] | None = None,
) -> Iterator[Step]:
    """Yield one `Step` per block; stop by ceasing to iterate, or when no model is left.

    Parameters
    ----------
    source : Source
    models : tuple of Mixture
        All share every pass over the data.
    rule : Rule
        Which chunks make a block, and how its statistics enter the total; where it gives none, the models are held.
    executor : Executor
    update : callable (models, totals, candidates) -> (models, candidates)
        The M-step, and whatever is composed with it: acceleration, repair, retirement.
    state, candidates :
        As found in an earlier `Step`, to go on from there.
    task : callable (models, chunk) -> statistics, optional
        Instead of `e_step`, where models do not all see the same rows.
    """
    state = rule.init(models, source) if state is None else state
    for block in rule.blocks(source):
        with reading(source, "pass"):
            framed = executor.run(within(source, partial(task or e_step, models)), block.chunks, merge_all)
        stats = tuple(model.restore(part) for model, part in zip(models, framed, strict=True))
        state, totals = rule.absorb(state, block, stats)
        if totals is not None:
            models, candidates = update(models, totals, candidates)
        yield Step(models, state, candidates, block, stats)
        if not models:
            return


def e_step(models: Models, chunk: Any) -> tuple[Stats, ...]:
    """Statistics of one chunk under every model, each in its model's own frame (`Mixture.restore` leads back)."""
    with seen(models, chunk) as (views, rows, weight):
        return tuple(view.frame_stats(rows, weight) for view in views)


@contextmanager
def seen(models: Models, chunk: Any) -> Iterator[tuple[Models, Any, Any]]:
    """`absorb_transform`, for chunks on a graphics card too; a row that is not finite is named with its place in the
    data."""
    if isinstance(chunk, DeviceBlock):
        affine = chunk.affine
        views = models if affine is None else _views(models, affine)
        moved = len(views) < len(models)
        with chunk.on_device(moved=moved) as (rows, weight):
            try:
                yield (models if moved else views), rows, weight
            except NonFiniteRowError as error:
                part, row = chunk.part_of(error.row)
                raise non_finite(part.load()[0], row, part) from None
        return
    views, rows, weight = absorb_transform(models, chunk)
    try:
        yield views, rows, weight
    except NonFiniteRowError as error:
        raise non_finite(rows, error.row, chunk) from None


def _views(models: Models, affine: Affine) -> Models:
    """The models as they see rows that `affine` has still to move; without those that cannot."""
    return tuple(view for model in models if (view := model.through(affine)) is not None)


def absorb_transform(models: Models, chunk: Any) -> tuple[Models, Any, Any]:
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


def merge_all(a: tuple[Stats, ...], b: tuple[Stats, ...]) -> tuple[Stats, ...]:
    """Merge the statistics of two runs of rows, model by model."""
    return tuple(left.merge(right) for left, right in zip(a, b, strict=True))
