"""The M-step that never dies: collapsed components are re-seeded, degenerate directions floored, and both reported."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamgmm.covariance import TIED, spread_of
from streamgmm.em import CollapsedError, estimates, m_step, proportions
from streamgmm.mixture import Mixture
from streamgmm.prior import Conjugate
from streamgmm.stats import Stats

Array = NDArray[np.float64]

DEAD_SHARE = 1e-10
FLOOR = 1e-12
ROUNDING = 1e-14
MAX_RESEEDS = 2


class Repaired(NamedTuple):
    """A model, how often each component was re-seeded so far, and what was done this time."""

    model: Mixture
    reseeds: tuple[int, ...]
    events: tuple[dict[str, Any], ...]


def overall_covariance(stats: Stats) -> Array:
    """(D, D) covariance of all rows behind `stats`; diagonal for the families that keep no cross products."""
    D = stats.mean.shape[1]
    total = stats.weight.sum()
    centre = stats.weight @ stats.mean / total
    delta = stats.mean - centre
    between = (stats.weight[:, None] * delta).T @ delta
    within = stats.family.total_scatter(stats.scatter, D)
    if within.ndim == 1:
        overall = np.diag(within + np.diag(between)) / total
    else:
        overall = (within + between) / total
    constant = constant_features(stats)
    overall[constant] = 0.0
    overall[:, constant] = 0.0
    return np.asarray(overall)


def constant_features(stats: Stats) -> NDArray[np.bool_]:
    """(D,) mask of the features whose overall variance is no more than the rounding of their mean."""
    within = stats.family.total_scatter(stats.scatter, stats.mean.shape[1])
    within = np.diag(within) if within.ndim == 2 else within
    total = stats.weight.sum()
    centre = stats.weight @ stats.mean / total
    variance = (within + stats.weight @ (stats.mean - centre) ** 2) / total
    return np.asarray(variance <= (ROUNDING * centre) ** 2)


def repairing_m_step(
    stats: Stats, *, reg_covar: float, reseeds: tuple[int, ...], prior: Conjugate | None = None
) -> Repaired:
    """`m_step`, with every collapsed component mended.

    Collapsed: a share of the rows below 1e-10, or no Cholesky factor after `reg_covar`. A direction that is degenerate
    in the data as a whole is floored for everybody; a component is re-seeded at most twice by splitting the heaviest
    one, then its eigenvalues are floored at 1e-12 of the overall covariance.
    """
    family, K = stats.family, len(stats.weight)
    share = stats.weight / stats.weight.sum()
    dead = share < DEAD_SHARE
    bare = reg_covar == 0.0 and prior is None  # nothing else gives a constant feature a variance
    if not dead.any() and not (bare and constant_features(stats).any()):
        try:
            return Repaired(m_step(stats, reg_covar=reg_covar, prior=prior), reseeds, ())
        except CollapsedError:
            pass
    spread = spread_of(overall_covariance(stats))
    means, covariances = estimates(stats, reg_covar, prior)
    means = means.copy()
    events: list[dict[str, Any]] = []
    overall = overall_covariance(stats) + reg_covar * np.eye(means.shape[1])
    degenerate = degenerate_features(overall)
    if degenerate:
        covariances = family.floor(covariances, spread, FLOOR, ~dead)
        events.append({"action": "floored", "features": degenerate, "floor": FLOOR})
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
    if not good.all():
        covariances = family.floor(covariances, spread, FLOOR, np.ones(K, bool))
        factors, good = family.factor(covariances)
        if family is TIED:
            events.append({"action": "floored", "reason": "no Cholesky factor", "floor": FLOOR})
    if not good.all():
        covariances = family.floor(covariances, spread, 1e-8, np.ones(K, bool))
        factors, good = family.factor(covariances)
    if not good.all():
        raise CollapsedError(~good)
    noise = proportions(stats)[1]
    weights = new_share * ((1.0 - noise) / new_share.sum())
    model = Mixture.trusted(weights, means, covariances, family, factors, noise, stats.observation)
    return Repaired(model, tuple(counts), tuple(events))


def degenerate_features(overall: Array) -> list[int]:
    """Features that take part in a direction without variance: constant ones, and collinear groups."""
    scale = np.sqrt(np.maximum(np.diag(overall), 0.0))
    constant = ~(scale > 0)
    scale = np.where(constant, 1.0, scale)
    values, vectors = np.linalg.eigh(overall / np.outer(scale, scale))
    null = vectors[:, values < FLOOR]
    return np.flatnonzero(constant | (np.abs(null) > 1e-6).any(axis=1)).tolist() if null.size else []
