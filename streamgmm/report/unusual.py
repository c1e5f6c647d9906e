"""Reasons why a row is unusual: its features in deviations of its component, alone and given the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Deviation", "deviations"]

Array = NDArray[np.float64]

GIVEN_UP_TO = 256
"""Features observed up to which a feature is judged given the others too; beyond, the factorisation costs too much."""
LARGE = 2.0
"""Deviations from which a feature is worth a word."""
MANY = 3
"""Features named of one row."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """One feature of a row.

    Attributes
    ----------
    feature : int
    value : float
    expected : float
        Mean of the component; with `given` its mean given the other features of the row.
    deviations : float
        (value - expected) in standard deviations of what `expected` is the mean of.
    given : bool
        Unusual because of the other features, and not by itself.
    """

    feature: int
    value: float
    expected: float
    deviations: float
    given: bool


def deviations(row: Array, mean: Array, covariance: Array) -> list[Deviation]:
    """The features that make a row unusual under one Gaussian, the largest first.

    Alone, z_j = (x_j - mu_j) / sigma_j. Given the other observed features, with precision P of what was observed,
    z_j = (P (x - mu))_j / sqrt(P_jj), the standardised residual of the regression of x_j on them.

    Parameters
    ----------
    row : (D,) with NaN where nothing was observed
    mean : (D,)
    covariance : (D, D); features without variance are passed over

    Returns
    -------
    At most `MANY`, each of at least `LARGE` deviations; if none is so large, the largest alone.

    Examples
    --------
    >>> import numpy as np
    >>> found = deviations(np.array([2.0, -2.0]), np.zeros(2), np.array([[1.0, 0.9], [0.9, 1.0]]))
    >>> [(one.feature, round(one.deviations, 2), one.given) for one in found]
    [(0, 8.72, True), (1, -8.72, True)]
    """
    variance = np.diag(covariance)
    seen = np.flatnonzero(~np.isnan(row) & (variance > 0))
    if not seen.size:
        return []
    delta, sigma = (row - mean)[seen], np.sqrt(variance[seen])
    alone = delta / sigma
    given, residual = _given(delta, sigma, covariance[np.ix_(seen, seen)])
    broken = np.abs(given) > 1.5 * np.abs(alone)
    strength = np.where(broken, given, alone)
    order = np.argsort(-np.abs(strength), kind="stable")
    order = order[np.abs(strength[order]) >= LARGE][:MANY] if abs(strength[order[0]]) >= LARGE else order[:1]
    return [
        Deviation(
            int(seen[j]),
            float(row[seen[j]]),
            float(row[seen[j]] - (residual if broken[j] else delta)[j]),
            float(strength[j]),
            bool(broken[j]),
        )
        for j in map(int, order)
    ]


def _given(delta: Array, sigma: Array, covariance: Array) -> tuple[Array, Array]:
    """(d,) standardised and plain residuals given the others; zeros where the covariance cannot tell."""
    none = np.zeros_like(delta)
    if not 1 < len(delta) <= GIVEN_UP_TO:
        return none, none
    try:
        root = np.linalg.cholesky(covariance / np.outer(sigma, sigma))
    except np.linalg.LinAlgError:
        return none, none
    inverse = np.linalg.inv(root)
    precision = (inverse**2).sum(axis=0)  # the diagonal
    pulled = inverse.T @ (inverse @ (delta / sigma))
    return pulled / np.sqrt(precision), pulled / precision * sigma
