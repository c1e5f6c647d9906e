"""Statistics become a model: the M-step, and the value that EM climbs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import CollapsedError
from streamgmm.mixture.covariance.base import LOG_2PI
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.prior import Conjugate
from streamgmm.mixture.stats import Stats

Array = NDArray[np.float64]


def m_step(
    stats: Stats, *, reg_covar: float = 0.0, prior: Conjugate | None = None, previous: Mixture | None = None
) -> Mixture:
    """The mixture that maximises the expected log-likelihood of `stats`, or with a prior the expected log-posterior.

    Parameters
    ----------
    reg_covar : float
        Added to every variance, in squared units of the data.
    prior : Conjugate, optional
    previous : Mixture, optional
        That made `stats`: where the M-step has no closed form its covariances are improved, so that EM climbs.

    Raises
    ------
    CollapsedError
        Where a covariance has no Cholesky factor.
    """
    family = stats.family
    weights, noise = proportions(stats)
    means, covariances = estimates(stats, reg_covar, prior, previous)
    factors, good = family.factor(covariances)
    if not good.all():
        raise CollapsedError(~good)
    return Mixture.trusted(weights, means, covariances, family, factors, noise, stats.observation)


def proportions(stats: Stats) -> tuple[Array, float]:
    """(K,) weights of the components and the weight of the background, together 1."""
    total = stats.weight.sum()
    if stats.observation is None or stats.observation.box is None:
        return stats.weight / total, 0.0
    noise = max(stats.count - total, 0.0)
    return stats.weight / (total + noise), float(noise / (total + noise))


def estimates(
    stats: Stats, reg_covar: float, prior: Conjugate | None, previous: Mixture | None = None
) -> tuple[Array, Array]:
    """Means (K, D) and covariances: maximum likelihood, or with a prior the posterior mode; not yet factored."""
    if prior is None:
        known = None if previous is None else previous.covariances
        return stats.mean, stats.family.estimate(stats, reg_covar, known)
    return prior.estimate(stats, reg_covar)


def objective(model: Mixture, stats: Stats, prior: Conjugate | None = None) -> float:
    """Objective of EM, in nats per row: the mean log-likelihood of `model`, penalised where there is a prior.

    Parameters
    ----------
    model : the mixture that made the responsibilities behind `stats`
    """
    penalty = 0.0 if prior is None else prior.log_density(model)
    return (stats.loglik + penalty) / stats.count


def bound(model: Mixture, stats: Stats) -> float:
    """F = Q + H (Neal & Hinton 1998): expected complete log-likelihood of `stats` under `model`, plus their entropy.

    Equals ``stats.loglik`` where `model` made the statistics, and is below the log-likelihood of the rows otherwise.
    """
    family, present = stats.family, stats.weight > 0
    delta = np.where(present[:, None], stats.mean - model.means, 0.0)
    precisions = family.precisions(model.precisions_cholesky)
    energy = np.sum(precisions * (stats.scatter + family.between(stats.weight, delta)))
    with np.errstate(divide="ignore"):
        log_pi = np.where(present, np.log(model.weights), 0.0)
    K, D = model.means.shape
    const = log_pi - 0.5 * (family.log_det(model.factors, K, D) + D * LOG_2PI)
    value = float(stats.weight @ const - 0.5 * energy + stats.entropy)
    if model.noise_weight > 0.0:
        value += float((stats.count - stats.weight.sum()) * (np.log(model.noise_weight) - model.log_volume))
    return value
