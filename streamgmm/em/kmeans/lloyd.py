"""Lloyd's steps for several starts at once: when a start is done, and what happens to centres without rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.kmeans.centres import Centres, LloydStats
from streamgmm.runtime.executors import Executor, within
from streamgmm.sources.base import Chunk, Source
from streamgmm.utils.sample_weight import no_rows

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One start on its way.

    Attributes
    ----------
    centres : Centres
        After the last step.
    inertias : tuple of float
        Inertia found by each pass, of the centres before its step.
    status : {"running", "settled", "moved little", "stopped"}
        "settled": the last step moved nothing, so the last inertia is that of the final centres.
    tolerance : float
        Squared movement, summed over centres, below which a run stops; NaN before the first pass.
    extra_passes : int
        Spent on finding rows for centres that had lost all of theirs.
    mass : (K,) weight of the rows of each centre, found by the last pass
    """

    centres: Centres
    inertias: tuple[float, ...] = ()
    status: str = "running"
    tolerance: float = np.nan
    extra_passes: int = 0
    empty: int = 0
    mass: Array | None = None


Runs = tuple[Run, ...]
Relocate = Callable[[Centres, LloydStats], LloydStats]


@dataclass(frozen=True, slots=True)
class LloydUpdate:
    """Lloyd's step for every running start, in the place of the M-step; a start that is done leaves the loop."""

    tol: float
    max_iter: int
    relocate: Relocate

    def __call__(
        self, models: tuple[Centres, ...], totals: tuple[LloydStats, ...], candidates: Runs
    ) -> tuple[tuple[Centres, ...], Runs]:
        stats = iter(totals)
        after = tuple(self._advance(run, next(stats)) if run.status == "running" else run for run in candidates)
        return tuple(run.centres for run in after if run.status == "running"), after

    def _advance(self, run: Run, stats: LloydStats) -> Run:
        if stats.count <= 0:
            raise no_rows()
        inertias = (*run.inertias, stats.inertia)
        tolerance = self.tol * stats.variance if np.isnan(run.tolerance) else run.tolerance
        empty = int((stats.mass == 0).sum())
        if empty:
            stats = self.relocate(run.centres, stats)
        centres = run.centres.moved(stats)
        movement = float(((centres.points - run.centres.points) ** 2).sum())
        status = "running"
        if movement <= tolerance:
            status = "settled" if movement == 0 else "moved little"
        elif len(inertias) >= self.max_iter:
            status = "stopped"
        extra = run.extra_passes + (empty > 0)
        return replace(
            run,
            centres=centres,
            inertias=inertias,
            status=status,
            tolerance=tolerance,
            extra_passes=extra,
            empty=empty,
            mass=stats.mass,
        )


# Centres without rows -------------------------------------------------------------------------------------------------

Far = list[tuple[float, int, int, int, float, Array]]  # -distance^2, chunk, row, label, weight, coordinates


def _farthest(centres: Centres, size: int, chunk: Chunk) -> Far:
    rows, weight = chunk.load()
    label, distance = centres.assign(rows)
    if weight is not None:
        distance = np.where(weight > 0, distance, -1.0)
    result: Far = []
    for i in np.argsort(-distance, kind="stable")[:size]:
        if distance[i] > 0:
            w = 1.0 if weight is None else float(weight[i])
            result.append((-float(distance[i]), chunk.index, int(i), int(label[i]), w, np.array(rows[i], np.float64)))
    return result


def _join_far(size: int, a: Far, b: Far) -> Far:
    return sorted([*a, *b], key=lambda row: row[:3])[:size]


def relocate(source: Source, executor: Executor, centres: Centres, stats: LloydStats) -> LloydStats:
    """Give each centre without rows the row farthest from its own, as scikit-learn does; one more pass.

    Where every row lies on a centre there is nothing to give, and the centres stay.
    """
    empty = np.flatnonzero(stats.mass == 0)
    task = within(source, partial(_farthest, centres, len(empty)))
    far = executor.run(task, source.chunks(), partial(_join_far, len(empty)))
    mass, first = stats.mass.copy(), stats.first.copy()
    for k, (_, _, _, label, weight, row) in zip(empty, far, strict=False):
        moment = weight * (row - centres.shift)
        mass[label] -= weight
        first[label] -= moment
        mass[k], first[k] = weight, moment
    return replace(stats, mass=mass, first=first)
