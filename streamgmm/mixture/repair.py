"""A robust M-step: collapsed components are re-seeded, degenerate directions floored, and both reported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import CollapsedError
from streamgmm.kernels.plain.own_mean import squarable
from streamgmm.mixture.covariance import TIED, Covariance
from streamgmm.mixture.covariance.base import bulk
from streamgmm.mixture.m_step import estimates, m_step, proportions
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.prior import Conjugate
from streamgmm.mixture.stats import Stats

Array = NDArray[np.float64]

DEAD_SHARE = 1e-10
FLOOR = 1e-12
ROUNDING = 1e-14
APART = 1e4
"""Deviations from the others at which a component has no say in what is small, and variance beyond whose square it is
stretched by rows far away."""
COLLINEAR = 1e-8
"""Smallest eigenvalue of the overall correlation below which floors are taken feature by feature."""
MAX_RESEEDS = 2


class Repaired(NamedTuple):
    """A model, how often each component was re-seeded so far, and what was done this time."""

    model: Mixture
    reseeds: tuple[int, ...]
    events: tuple[dict[str, Any], ...]


def bulk_of(stats: Stats) -> NDArray[np.bool_]:
    """(K,) mask of the components that decide what is small and what is constant: far ones would hide it."""
    family = stats.family
    share = stats.weight / stats.weight.sum()
    variances = family.variances(family.unconstrained.estimate(stats, 0.0), *stats.mean.shape)
    return bulk(share, stats.mean, variances, APART)


def overall_covariance(stats: Stats) -> Array:
    """(D, D) covariance of the rows behind `stats`, but for components far from the bulk.

    Variances (D,) for the families that keep no cross products: of thousands of features a matrix is too large.
    """
    within, weight, delta = _about_the_bulk(stats)
    between = weight @ delta**2 if within.ndim == 1 else (weight[:, None] * delta).T @ delta
    overall = (within + between) / weight.sum()
    constant = constant_features(stats)
    overall[constant] = 0.0
    overall[..., constant] = 0.0
    return np.asarray(overall)


def _variances(overall: Array) -> Array:
    return np.diag(overall) if overall.ndim == 2 else overall


def _axis_spread(scale: Array, like: Array) -> Array:
    """Scales (D,) as a spread: (D, D) diagonal beside a covariance, a column (D, 1) beside variances."""
    return np.diag(scale) if like.shape == (len(scale), len(scale)) else scale[:, None]


def _about_the_bulk(stats: Stats) -> tuple[Array, Array, Array]:
    """Scatter within the components of the bulk, their weights (K,), 0 for others, and means less the bulk's (K, D)."""
    near = bulk_of(stats)
    weight = np.where(near, stats.weight, 0.0)
    scatter = stats.scatter
    if stats.family is not TIED and not near.all():
        scatter = np.where(near.reshape(-1, *(1,) * (scatter.ndim - 1)), scatter, 0.0)
    within = stats.family.total_scatter(scatter, stats.mean.shape[1])
    if stats.family is TIED:
        within = within * (weight.sum() / stats.weight.sum())
    if not np.isfinite(within).all():  # a pooled scatter beyond doubles
        within = np.zeros_like(within)
    first = int(np.argmax(weight))
    with np.errstate(over="ignore"):
        delta = squarable(np.where(near[:, None], stats.mean - stats.mean[first], 0.0))
    return within, weight, np.where(near[:, None], delta - weight @ delta / weight.sum(), 0.0)


def constant_features(stats: Stats) -> NDArray[np.bool_]:
    """(D,) mask of the features whose overall variance is no more than the rounding of their mean."""
    within, weight, delta = _about_the_bulk(stats)
    within = np.diag(within) if within.ndim == 2 else within
    variance = (within + weight @ delta**2) / weight.sum()
    centre = stats.mean[int(np.argmax(weight))]
    with np.errstate(over="ignore"):
        return np.asarray(variance <= (ROUNDING * centre) ** 2)


def floor_spread(stats: Stats, overall: Array) -> Array:
    """(D, D) lower triangular: the coordinates in which eigenvalues are floored. Of variances alone a column (D, 1).

    Those that whiten `overall`, where that is possible; scaled features where features are collinear, as no rounding
    would leave anything of a floor in coordinates that are themselves all but singular.
    """
    scale = np.sqrt(np.maximum(_variances(overall), 0.0))
    # A constant feature has no scale of its own: its floor is to be above the rounding of its value.
    size = np.abs(stats.mean[int(np.argmax(stats.weight))])
    scale = np.where(scale > 0, scale, np.maximum(1.0, 1e-7 * size))
    if overall.ndim == 1 or not np.count_nonzero(overall - np.diag(np.diag(overall))):
        return _axis_spread(scale, overall)
    correlation = overall / scale[:, None] / scale
    np.fill_diagonal(correlation, 1.0)
    if np.linalg.eigvalsh(correlation)[0] < COLLINEAR:
        return np.diag(scale)
    return np.linalg.cholesky(correlation) * scale[:, None]


def repairing_m_step(
    stats: Stats,
    *,
    reg_covar: float,
    reseeds: tuple[int, ...],
    prior: Conjugate | None = None,
    previous: Mixture | None = None,
) -> Repaired:
    """`m_step`, with every collapsed component mended.

    Collapsed: a share of the rows below 1e-10, or no Cholesky factor after `reg_covar`. A direction that is degenerate
    in the data as a whole is floored for everybody; a component is re-seeded at most twice by splitting the heaviest
    one, then its eigenvalues are floored at 1e-12 of the overall covariance. Covariances that components share in part
    are mended as if they did not, and brought to their structure again.
    """
    structure, K = stats.family, len(stats.weight)
    family = structure.unconstrained
    share = stats.weight / stats.weight.sum()
    dead = share < DEAD_SHARE
    bare = reg_covar == 0.0 and prior is None  # nothing else gives a constant feature a variance
    if not dead.any() and not (bare and constant_features(stats).any()):
        try:
            return Repaired(m_step(stats, reg_covar=reg_covar, prior=prior, previous=previous), reseeds, ())
        except CollapsedError:
            pass
    means, covariances = estimates(replace(stats, family=family), reg_covar, prior)
    means = means.copy()
    events: list[dict[str, Any]] = []
    overall = overall_covariance(stats)
    spread = floor_spread(stats, overall)
    overall = overall + (reg_covar if overall.ndim == 1 else reg_covar * np.eye(means.shape[1]))
    covariances = _representable(family, covariances, overall, ~dead)
    degenerate = degenerate_features(overall)
    if degenerate:
        covariances = family.floor(covariances, spread, FLOOR, ~dead)
        events.append({"action": "floored", "features": degenerate, "floor": FLOOR})
    covariances, stretched = _unstretched(family, covariances, overall, ~dead)
    events += [{"action": "floored", "component": k, "reason": "stretched", "floor": FLOOR} for k in stretched]
    _, good = family.factor(covariances)
    collapsed = dead | ~good if family is not TIED else dead
    counts = list(reseeds)
    new_share = share.copy()
    healthy = ~collapsed
    for k in np.flatnonzero(collapsed):
        reason = "no mass" if dead[k] else "no Cholesky factor"
        if K > 1 and counts[k] < MAX_RESEEDS and healthy.any() and stats.rows > means.shape[1]:
            j = int(np.argmax(np.where(healthy, new_share, -1.0)))
            step, left = family.split(covariances, j, spread)
            covariances = family.replace_component(covariances, (int(k), j), left)
            means[k], means[j] = means[j] + step, means[j] - step
            new_share[k] = new_share[j] = 0.5 * (new_share[j] + new_share[k])
            healthy[k] = True
            counts[k] += 1
            events.append({"action": "re-seeded", "component": int(k), "reason": reason, "split": j})
        else:
            if dead[k]:
                covariances = family.replace_component(covariances, (int(k),), family.from_overall(overall))
                means[k] = share @ stats.mean
            events.append({"action": "floored", "component": int(k), "reason": reason, "floor": FLOOR})
    factors, good = family.factor(covariances)
    if not good.all() and family is TIED:
        events.append({"action": "floored", "reason": "no Cholesky factor", "floor": FLOOR})
    covariances, factors = _factored(family, covariances, factors, good, spread)
    if structure is not family:
        covariances, factors = _structured(structure, covariances, new_share, spread)
    noise = proportions(stats)[1]
    weights = new_share * ((1.0 - noise) / new_share.sum())
    model = Mixture.trusted(weights, means, covariances, structure, factors, noise, stats.observation)
    return Repaired(model, tuple(counts), tuple(events))


def _factored(
    family: Covariance, covariances: Array, factors: Array, good: NDArray[np.bool_], spread: Array
) -> tuple[Array, Array]:
    """Covariances that have factors, and those: floored as little as it takes, at last those of the whole."""
    for floor in (FLOOR, 1e-10, 1e-8):
        if good.all():
            return covariances, factors
        covariances = family.floor(covariances, spread, floor, ~good)
        factors, good = family.factor(covariances)
    if good.all():
        return covariances, factors
    whole = _of_axes(family, spread)
    covariances = whole if family is TIED else family.replace_component(covariances, _numbers(~good), whole)
    factors, good = family.factor(covariances)
    if not good.all():
        raise CollapsedError(~good, repairing=True)
    return covariances, factors


def _structured(structure: Covariance, covariances: Array, share: Array, spread: Array) -> tuple[Array, Array]:
    """Covariances in their structure again, and their factors: floored as little as it takes, at last scales alone."""
    family, everyone = structure.unconstrained, np.ones(len(share), bool)
    for floor in (0.0, 1e-10, 1e-8, 1e-6, np.inf):
        raised = covariances
        if floor == np.inf:
            whole = _of_axes(family, spread)
            raised = family.replace_component(covariances, _numbers(everyone), whole)
        elif floor > 0.0:
            raised = family.floor(covariances, spread, floor, everyone)
        found = structure.constrained(raised, share, len(spread))
        factors, good = structure.factor(found)
        if good.all():
            return found, factors
    raise CollapsedError(~good, repairing=True)


def _of_axes(family: Covariance, spread: Array) -> Array:
    """One component's covariance: the variances behind `spread`, and nothing else."""
    scale = np.einsum("ij,ij->i", spread, spread)
    return family.from_overall(np.diag(scale) if len(scale) == spread.shape[1] else scale)


def _representable(family: Covariance, covariances: Array, overall: Array, present: NDArray[np.bool_]) -> Array:
    """The covariances, with that of the bulk where a variance is beyond doubles: of rows beyond 1e150, or nearly."""
    K, D = len(present), len(overall)
    lost = present & ~np.isfinite(family.variances(covariances, K, D)).all(axis=1)
    if family is TIED:
        return family.from_overall(overall) if lost.any() else covariances
    return family.replace_component(covariances, _numbers(lost), family.from_overall(overall))


def _numbers(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(k) for k in np.flatnonzero(mask))


def _unstretched(
    family: Covariance, covariances: Array, overall: Array, present: NDArray[np.bool_]
) -> tuple[Array, list[int]]:
    """Floor components without a factor that reach far beyond the bulk, in their own scale; and which they are.

    A component that has taken one row at 1e20 beside a thousand others is as good as flat. It is on its way to that row
    alone, and gives the others back in the next steps; a new start would meet the same row again.
    """
    K, D = len(present), len(overall)
    _, good = family.factor(covariances)
    if good.all():
        return covariances, []
    own = family.variances(covariances, K, D)
    usual = np.maximum(_variances(overall), np.finfo(float).tiny)
    far = present & (own > APART**2 * usual).any(axis=1) & np.isfinite(own).all(axis=1)
    if family is TIED:
        far = np.full(1, far.any())
    far = far & ~good
    for k in _numbers(far):
        scale = np.sqrt(np.maximum(own[k], usual * FLOOR))
        only = np.zeros(K, bool)
        only[k] = True
        covariances = family.floor(covariances, _axis_spread(scale, overall), FLOOR, only)
    return covariances, [int(k) for k in _numbers(far)]


def degenerate_features(overall: Array) -> list[int]:
    """Features that take part in a direction without variance: constant ones, and collinear groups."""
    scale = np.sqrt(np.maximum(_variances(overall), 0.0))
    constant = ~(scale > 0)
    scale = np.where(constant, 1.0, scale)
    if overall.ndim == 1 or not np.count_nonzero(overall - np.diag(np.diag(overall))):
        return np.flatnonzero(constant).tolist()
    values, vectors = np.linalg.eigh(overall / np.outer(scale, scale))
    null = vectors[:, values < FLOOR]
    return np.flatnonzero(constant | (np.abs(null) > 1e-6).any(axis=1)).tolist() if null.size else []
