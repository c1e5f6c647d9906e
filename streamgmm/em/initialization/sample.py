"""Fill the gaps of a sample, so that a start can be sought in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.initialization.far_rows import FARTHEST, sound
from streamgmm.mixture.covariance import FULL
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.observation import Observation
from streamgmm.mixture.repair import repairing_m_step
from streamgmm.runtime.executors import Executor
from streamgmm.sources.base import Source
from streamgmm.sources.gathered import Gathering
from streamgmm.sources.summaries.sample import SampleSummary, merge_parts, survey_chunk
from streamgmm.utils.phases import reading
from streamgmm.utils.sample_weight import check_total, no_rows

Array = NDArray[np.float64]

_STEPS = 30
_TOLERANCE = 1e-5
_RIDGE = 1e-6
"""Added to the variances of features scaled to deviation 1: in a wide table with holes some directions have none."""
_INFLATED = 100.0
"""Deviation, in median distances from the median, up to which rows far away have not decided it."""


class Completed(NamedTuple):
    """Rows without gaps, and the moments of the Gaussian that filled them."""

    rows: Array
    mean: Array
    covariance: Array


def complete(rows: NDArray[Any], weight: Array, seed: int) -> Completed:
    """Replace NaN by one draw from its conditional distribution, under one Gaussian fitted to what was observed.

    A draw, not the conditional mean: filled with means, rows of one pattern lie in a plane, and a component that starts
    there has no volume.

    Parameters
    ----------
    rows : (m, D), every row with something observed
    weight : (m,) >= 0

    Raises
    ------
    ValueError
        Where a feature is never observed.
    """
    never = np.flatnonzero(np.isnan(rows).all(axis=0))
    if never.size:
        raise ValueError(
            f"missing='marginalize': feature(s) {never.tolist()} are missing in every row of the sample, so there is "
            "nothing to learn them from. Drop these columns."
        )
    D = rows.shape[1]
    centre, scale = _centre_and_scale(rows)
    with np.errstate(over="ignore"):
        z = (rows - centre) / scale  # a ridge is to be small for every feature, whatever its unit
    # Rows far away have no say in what the others hold.
    weight = np.where((np.abs(z) > FARTHEST).any(axis=1), 0.0, weight)
    z = np.clip(z, -FARTHEST, FARTHEST)
    model = Mixture(np.ones(1), np.zeros((1, D)), np.eye(D)[None], FULL).observing(Observation(None, True))
    before = -np.inf
    for _ in range(_STEPS):
        stats = model.accumulate(z, weight)
        model = repairing_m_step(stats, reg_covar=_RIDGE, reseeds=(0,)).model
        now = stats.loglik / stats.count
        if now - before < _TOLERANCE:
            break
        before = now
    gaps = np.isnan(rows)
    draws, _ = model.sample(len(rows), np.random.default_rng(seed))
    residual = draws - model.impute(np.where(gaps, np.nan, draws))
    filled = np.where(gaps, (model.impute(z) + residual) * scale + centre, rows)
    return Completed(filled, centre + scale * model.means[0], model.covariances[0] * np.outer(scale, scale))


Filling = Callable[[NDArray[Any], Array, int], Completed]
"""Completes rows (m, D) with NaN of given weights, with a seed."""


def _centre_and_scale(rows: NDArray[Any]) -> tuple[Array, Array]:
    """(D,) mean and deviation of what was observed; median and median distance where a few rows decide those."""
    rows = np.asarray(rows, np.float64)
    middle = np.nanmedian(rows, axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        centre, deviation = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
        typical = np.nanmedian(np.abs(rows - middle), axis=0)
        usual = np.isfinite(deviation) & ((typical == 0) | (deviation <= _INFLATED * typical))
    scale = np.where(usual, deviation, typical)
    return np.where(usual, centre, middle), np.where(scale > 0, scale, 1.0)


def survey(
    source: Source, executor: Executor, *, size: int, seed: int, missing: bool = False, diagonal: bool = False,
    filling: Filling = complete,
) -> SampleSummary:  # fmt: skip
    """One pass: a sample of `size` rows, and the overall mean and covariance.

    The sample keeps the rows with the largest u^(1/w) (Efraimidis & Spirakis 2006), u being a function of seed and
    absolute row number, so it does not depend on chunking, order or threads.

    Parameters
    ----------
    missing : bool
        Take NaN as not observed: the sample is then completed by `filling`, which also gives the moments.
    diagonal : bool
        Of the overall covariance the variances are enough.
    filling : callable
        Of rows with NaN, weights and seed; by default `complete`, under one Gaussian fitted to the sample.

    Raises
    ------
    ValueError
        Where no row has positive weight.
    """
    task = partial(survey_chunk, size=size, seed=seed, missing=missing, diagonal=diagonal)
    with reading(source, "sampling the data"):
        part = executor.run(task, source.chunks(), partial(merge_parts, size=size))
    if part.count <= 0 and missing:
        raise ValueError(
            "missing='marginalize': every row has zero weight, or nothing is observed in it. Expected some numbers."
        )
    if part.count <= 0:
        raise no_rows()
    check_total(part.count)
    whole = part.n_rows <= size
    order = np.argsort(part.numbers)
    rows, weight = part.rows[order], part.weight[order] if whole else np.ones(len(order))
    mean, covariance, wild = part.mean, part.scatter / part.count, False
    if missing and np.isnan(rows).any():
        rows, mean, covariance = filling(rows, weight, seed)
        wild = bool(Gathering(mean, FARTHEST * np.sqrt(np.diag(covariance))).far(rows).any())
        covariance = np.diag(covariance).copy() if diagonal else covariance
    return sound(
        SampleSummary(
            rows, weight, mean, covariance, part.n_rows, part.count, part.box, wild=wild, keys=part.keys[order]
        )
    )
