"""Components that their rows do not support: too few rows, or a variance that is nothing but regularisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.repair import APART

__all__ = ["doubt", "supported", "unsupported"]

Array = NDArray[np.float64]

NARROW = 1e-10
"""Variance, as a part of the overall one in the same direction, that no rows of full rank have."""
ISOLATED = 30.0
"""Distance from the components of most rows, in their overall deviations, from which a few rows are a group of their
own; larger groups from `APART`."""
SMALL = 0.05
"""Share of the rows up to which a component can be one that lies far from all others."""
WIDER = 100.0
"""Overall variance, in units of the floor, from which a direction is not narrow in the data as a whole."""


def unsupported(model: Mixture, rows: float, reg_covar: float) -> dict[int, str]:
    """Faults of each component that are no finding about the data, in words; empty where there is none.

    A likelihood has no upper bound: a component on D rows or fewer, or on rows that lie in a plane, raises it as far as
    `reg_covar` lets it (Day 1969), and BIC counts that as a gain.

    Components far from all others are not judged: a row with a fill value is a group of its own, however small.

    Parameters
    ----------
    rows : float
        Rows that the model was fitted to.
    reg_covar : float
        What was added to its variances.
    """
    K, D = model.means.shape
    if K == 1:
        return {}
    share, near = model.weights / model.weights.sum(), _near(model, rows, reg_covar)
    least = f"{D + 1}, too few to be a group" if model.family.shared else f"the {D + 1} that span a covariance"
    found = {
        int(k): f"component {k} holds {share[k] * rows:.1f} rows, fewer than {least}"
        for k in np.flatnonzero(_few(model, rows, near))
    }
    thin = near & _thin(model, np.where(near, share, 0.0) / share[near].sum(), reg_covar)
    where = f"reg_covar={reg_covar:g}" if reg_covar > 0 else "rounding"
    found |= {
        int(k): f"component {k} has a direction without variance of its own, at {where}"
        for k in np.flatnonzero(thin)
        if int(k) not in found
    }
    return found


def _near(model: Mixture, rows: float, reg_covar: float) -> NDArray[np.bool_]:
    """(K,) mask of the components that are judged: not those of a small part of the rows, far from all others."""
    share = model.weights / model.weights.sum()
    heavy = share > SMALL
    if heavy.all() or not heavy.any():
        return np.ones(len(share), bool)
    part, means = share[heavy] / share[heavy].sum(), model.means[heavy]
    centre = part @ means
    variance = part @ (model.family.variances(model.covariances, *model.means.shape)[heavy] + (means - centre) ** 2)
    limit = np.where(share * rows < model.n_features + 1, ISOLATED, APART)[:, None]
    varied = variance > 2.0 * reg_covar  # where nothing varies, nothing is far
    with np.errstate(over="ignore"):
        far = (np.abs(model.means - centre) > limit * np.sqrt(variance)) & varied
    return np.asarray(heavy | ~far.any(axis=1))


def _few(model: Mixture, rows: float, near: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(K,) mask of the judged components of fewer rows than span a covariance."""
    return np.asarray((model.weights / model.weights.sum() * rows < model.n_features + 1) & near)


def _thin(model: Mixture, share: Array, reg_covar: float) -> NDArray[np.bool_]:
    """(K,) mask of components as narrow as `reg_covar` in a direction in which the rows in all are not."""
    K, D = model.means.shape
    covariances = model.family.dense(model.covariances, K, D)
    values, vectors = np.linalg.eigh(covariances)
    counted = share > 0
    delta = np.where(counted[:, None], model.means - share[counted] @ model.means[counted], 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        overall = np.tensordot(share[counted], covariances[counted], 1) + (share[:, None] * delta).T @ delta
        overall = np.nan_to_num(overall)
        along = np.einsum("kdj,kdj->kj", vectors, overall @ vectors)
    floor = np.maximum(2.0 * reg_covar, NARROW * along)
    return np.asarray(((values <= floor) & (along > WIDER * 2.0 * reg_covar)).any(axis=1))


def doubt(model: Mixture, rows: float, reg_covar: float) -> int:
    """Degree of doubt about a model: 0 none, 1 a direction without variance, 2 a component of too few rows.

    The second can be a property of the data (features that are constant or whole numbers within a group); the third
    never is one.
    """
    if model.n_components > 1 and _few(model, rows, _near(model, rows, reg_covar)).any():
        return 2
    return int(bool(unsupported(model, rows, reg_covar)))


def supported(model: Mixture, rows: float, reg_covar: float) -> bool:
    """True if every component is a finding about the data."""
    return not unsupported(model, rows, reg_covar)
