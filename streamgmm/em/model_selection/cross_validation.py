"""Cross-validation on shared passes: which rows are in which fold, and statistics that leave one out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.candidates import Candidates
from streamgmm.em.loop import Models
from streamgmm.errors import NonFiniteRowError, non_finite
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.stats import Stats
from streamgmm.sources.base import Chunk, Rows, Weights
from streamgmm.utils.row_random import uniform

Array = NDArray[np.float64]


def fold_numbers(chunk: Chunk, n_rows: int, folds: int) -> NDArray[np.int64]:
    """(n_rows,) the fold of each row of a chunk; it depends on the row's number only."""
    numbers = np.arange(n_rows, dtype=np.uint64)
    numbers += np.uint64(chunk.start) if chunk.start is not None else np.uint64(chunk.index) << np.uint64(40)
    return np.minimum((uniform(0x5EED, numbers) * folds).astype(np.int64), folds - 1)


def task_of(
    fold_of: tuple[int, ...], folds: int, candidates: Candidates
) -> Callable[[Models, Chunk], tuple[Stats, ...]]:
    return partial(fold_step, tuple(fold_of[c.index] for c in candidates if c.status == "running"), folds)


def fold_step(left_out: tuple[int, ...], folds: int, models: Models, chunk: Chunk) -> tuple[Stats, ...]:
    """`em.loop.e_step` where each model sees all rows but those of one fold (-1: all)."""
    rows, weight = chunk.load()
    of = fold_numbers(chunk, len(rows), folds)
    parts: dict[int, tuple[Rows, Weights]] = {-1: (rows, weight)}
    for v in set(left_out) - {-1}:
        seen = of != v
        parts[v] = rows[seen], None if weight is None else weight[seen]
    try:
        return tuple(model.frame_stats(*parts[v]) for model, v in zip(models, left_out, strict=True))
    except NonFiniteRowError:
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        raise non_finite(rows, int(bad[0]), chunk) from None


def held_out(judged: tuple[tuple[Mixture, int], ...], folds: int, chunk: Chunk) -> Array:
    """(len(judged), 2) sums of w log p and of w over the fold that each model was not fitted to."""
    rows, weight = chunk.load()
    of = fold_numbers(chunk, len(rows), folds)
    out = []
    for model, v in judged:
        totals = model.totals(rows[of == v], None if weight is None else weight[of == v])
        out.append(totals[[0, 3]])
    return np.stack(out)
