"""Is what a component took one Gaussian, several, or none? Answered on a sample of the rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.estimators.gaussian_mixture import GaussianMixture
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.support import doubt

Array = NDArray[np.float64]
Beside = Callable[[Array], Array]

MOST_PIECES = 3
DIP = 0.5
"""Two pieces are apart where the density between them falls below this share of the lower of their peaks."""


CLUSTER_ROWS = 5
"""Rows times D + 1 that a group needs to be called a cluster: the end of a long tail has gaps between single rows."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Distance of weighted rows from one Gaussian.

    Attributes
    ----------
    kurtosis : float
        E d^4 over D (D + 2), d being the Mahalanobis distance: 1 for a Gaussian, above for heavy tails, below for
        rings, slabs and gaps (Mardia 1970).
    skewness : float
        Squared length of the tensor of third moments of whitened rows, over D: 0 for a Gaussian.
    beyond : float
        Share of the weight at distances a Gaussian exceeds once in a thousand rows.
    rows : float
        Effective number of rows, (sum w)^2 / sum w^2.
    """

    kurtosis: float
    skewness: float
    beyond: float
    rows: float


@dataclass(frozen=True, slots=True)
class Pieces:
    """Clumps that a component's rows fall into.

    Attributes
    ----------
    groups : number of separated groups of pieces with rows enough for a cluster; 1 where all hang together
    count : number of pieces that BIC asks for
    gain : nats per row of the component that the pieces explain more than one Gaussian does
    shapes : of each group by itself, of those that have rows enough
    parts : (n,) weights of the rows in each group
    """

    groups: int
    count: int
    gain: float
    shapes: tuple[Shape, ...]
    parts: tuple[Array, ...]


def shape_of(rows: Array, weight: Array) -> Shape:
    """Distance of weighted rows (n, D) from the Gaussian of their own moments."""
    from scipy.stats import chi2

    D = rows.shape[1]
    z = whiten(rows, weight)
    total = weight.sum()
    square = (z**2).sum(axis=1)
    kurtosis = float(weight @ square**2 / total / (D * (D + 2)))
    skewness = 0.0
    for i in range(D):  # slices of the (D, D, D) tensor
        third = (z * (weight * z[:, i])[:, None]).T @ z / total
        skewness += float((third**2).sum())
    beyond = float(weight @ (square > chi2.ppf(0.999, D)) / total)
    return Shape(kurtosis, skewness / D, beyond, float(total**2 / (weight @ weight)))


def whiten(rows: Array, weight: Array) -> Array:
    """Rows in coordinates in which their weighted covariance is the identity; directions without variance stay 0."""
    mean = np.average(rows, axis=0, weights=weight)
    delta = rows - mean
    values, vectors = np.linalg.eigh((delta * weight[:, None]).T @ delta / weight.sum())
    scale = np.where(values > 1e-12 * max(values[-1], 1e-300), values, np.inf)
    return np.asarray(delta @ vectors / np.sqrt(scale))


def pieces_of(rows: Array, weight: Array, beside: Beside | None = None) -> Pieces:
    """Split weighted rows into as many Gaussians as BIC asks for, and see which of them hang together.

    Parameters
    ----------
    beside : callable, optional
        (n, D) -> log-density of the other components, per unit of weight of this one. Rows on both sides of a narrow
        component, of whose middle it took the rows, are no clusters.
    """
    fits: list[GaussianMixture] = []
    D = rows.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # not converged; reg_covar large beside a narrow component
        for m in range(1, MOST_PIECES + 1):
            gm = GaussianMixture(m, n_init=min(m, 2), max_iter=40, tol=1e-3, reg_covar=1e-9, random_state=0, n_jobs=1)
            fits.append(gm.fit(rows, sample_weight=weight))
            # A piece on too few rows is no cluster: `select` passes over such a component too.
            splinter = doubt(fits[-1].mixture_, float(weight.sum()), gm.reg_covar) == 2
            if m > 1 and (splinter or _of(fits[-1], "bic") > _of(fits[-2], "bic")):
                fits.pop()
                break
    best = fits[-1]
    model = best.mixture_
    gain = (_of(best, "loglik") - _of(fits[0], "loglik")) / float(weight.sum())
    groups = connected(model, beside)
    resp = model.responsibilities(rows)
    parts = [weight * resp[:, groups == g].sum(axis=1) + 1e-300 for g in range(int(groups.max()) + 1)]
    clusters = sum(
        float(part.sum()) >= CLUSTER_ROWS * (D + 1) and _leads(model, model.means[groups == g], beside)
        for g, part in enumerate(parts)
    )
    # a few rows span no covariance to measure a shape by, and rows of other groups may lie too far away to be squared
    large = [part for part in parts if part.sum() ** 2 > 2 * (D + 1) * float(part @ part)]
    shapes = tuple(shape_of(rows[own], part[own]) for part in large for own in [part > 1e-12 * part.max()])
    return Pieces(max(1, clusters), model.n_components, gain, shapes, tuple(parts))


def _leads(model: Mixture, means: Array, beside: Beside | None) -> bool:
    """Whether the density at one of these means is the component's own: elsewhere its rows belong to another one."""
    return beside is None or bool((model.log_prob(means) >= beside(means)).any())


def _of(gm: GaussianMixture, name: str) -> float:
    number: Any = gm.report_[name]
    return float(number)


def connected(model: Mixture, beside: Beside | None = None) -> NDArray[np.intp]:
    """(K,) group of each component: components without a dip of the density on the line between them are together.

    The density is that of these components, or the one with what is `beside` them.
    """
    K = model.n_components
    group = np.arange(K)
    path = np.linspace(0.0, 1.0, 33)[:, None]
    for a in range(K):
        for b in range(a):
            line = model.means[a] + path * (model.means[b] - model.means[a])
            own = model.log_prob(line)
            seen = [own] if beside is None else [own, np.logaddexp(own, beside(line))]
            if any(d.min() > min(d[0], d[-1]) + np.log(DIP) for d in seen):
                group[group == group[a]] = group[b]
    return np.unique(group, return_inverse=True)[1]
