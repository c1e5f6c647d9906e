"""First models from the rows at hand, and M-steps that stay sound where a component has next to no rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.initialization.far_rows import sound
from streamgmm.em.initialization.methods import Wanted, made, prepared
from streamgmm.errors import CollapsedError
from streamgmm.mixture.covariance import spread_of
from streamgmm.mixture.init_parameters import NOTHING, Given
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.repair import MAX_RESEEDS, overall_covariance, repairing_m_step
from streamgmm.mixture.stats import Stats
from streamgmm.sources.summaries.sample import SampleSummary

__all__ = ["begin", "e_step", "steady_m_step"]

Array = NDArray[np.float64]

FLOOR = 1e-3
"""Least variance, in units of the overall one, of a component with fewer than 2 (D + 1) effective rows."""


def e_step(model: Mixture, rows: Array, weight: Array | None) -> Stats:
    """Statistics of rows (n, D), in their units; `loglik` is predictive where the model has not seen them."""
    return model.restore(model.frame_stats(rows, weight))


def steady_m_step(totals: Stats, reg_covar: float, fallback: Mixture | None) -> tuple[Mixture, list[dict[str, Any]]]:
    """The repairing M-step, with thin components floored; `fallback` where the rows have no variance at all."""
    K, D = totals.mean.shape
    try:
        model, _, repairs = repairing_m_step(totals, reg_covar=reg_covar, reseeds=(MAX_RESEEDS,) * K)
    except CollapsedError:
        if fallback is None:
            raise
        # Nothing but one value for many half-lives: the statistics go on, the parameters wait.
        return fallback, [{"action": "held", "reason": "the rows have no variance left"}]
    family = totals.family
    thin = totals.weight < 2 * family.least_rows(D)
    if thin.all() if family.shared else thin.any():
        overall = overall_covariance(totals)
        spread = spread_of(overall) if overall.ndim == 2 else np.sqrt(np.where(overall > 0, overall, 1.0))[:, None]
        covariances = family.floor(model.covariances, spread, FLOOR, thin)
        covariances = family.constrained(covariances, model.weights, D)
        factors, good = family.factor(covariances)
        if good.all():
            model = Mixture.trusted(model.weights, model.means, covariances, family, factors)
    return model, list(repairs)


def begin(
    rows: Array,
    weight: Array | None,
    wanted: Wanted,
    *,
    polish: int,
    reg_covar: float,
    rng: np.random.RandomState,
    given: Given = NOTHING,
    fallback: Mixture | None = None,
) -> Mixture:
    """The best of the starts that are wanted on these rows, each followed by `polish` EM steps on them.

    Parameters
    ----------
    rows : (n, D)
    weight : (n,) or None
    given : what the user gave takes the place of what was found
    fallback : see `steady_m_step`
    """
    K, family, n_init = wanted.K, wanted.family, wanted.n_init
    if K == 1:  # the first model is the whole answer
        n_init = polish = 1
    w = np.ones(len(rows)) if weight is None else weight
    count = float(w.sum())
    mean = rows[0] + w @ (rows - rows[0]) / count
    delta = rows - mean
    box = np.array([rows.min(axis=0), rows.max(axis=0)])
    scatter = w @ delta**2 if family.n_factors else (delta * w[:, None]).T @ delta
    survey = sound(SampleSummary(rows, w, mean, scatter / count, len(rows), count, box))
    weights, means, covariances = given
    found: list[tuple[float, Mixture]] = []
    for attempt in range(n_init):
        # k-means makes the same mistake twice; every other start comes from rows drawn at random.
        way = "random_from_data" if attempt % 2 else wanted.init
        (model,) = made([prepared(survey, K, family, init=way, rng=rng, reg_covar=reg_covar, centres=means)])
        if weights is not None or means is not None or covariances is not None:
            model = Mixture(
                model.weights if weights is None else weights,
                model.means if means is None else means,
                model.covariances if covariances is None else covariances,
                family,
            )
        loglik = -math.inf
        for _ in range(polish):
            stats = e_step(model, rows, weight)
            loglik = stats.loglik
            model, _ = steady_m_step(stats, reg_covar, fallback)
        found.append((loglik, model))
    return max(found, key=lambda pair: pair[0])[1]
