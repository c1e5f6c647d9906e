"""Statistics of rows whose components are given: labels or responsibilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels.plain.own_mean import squarable
from streamgmm.mixture.covariance import TIED, Covariance
from streamgmm.mixture.stats import Stats

__all__ = []

Array = NDArray[np.float64]


def stats_from_responsibilities(
    rows: NDArray[Any], weight: Array, resp: NDArray[Any], K: int, family: Covariance, origin: Array | None = None
) -> Stats:
    """Statistics of the sample under given labels (m,) or responsibilities (m, K).

    Sums are taken about `origin` (D,): the rows' mean, unless rows far away would cost the others their digits.
    """
    m, D = rows.shape
    origin = rows.mean(axis=0, dtype=np.float64) if origin is None else origin
    x = rows - origin
    if resp.ndim == 1:
        mass, mean, scatter = _labelled(x, weight, resp, K, family)
    else:
        dense = resp * weight[:, None]
        mass = dense.sum(axis=0)
        mean = np.divide(dense.T @ x, mass[:, None], out=np.zeros((K, D)), where=mass[:, None] > 0)
        scatter = family.scatter_of(x, dense, mean)
    return Stats(mass, mean + origin, scatter, 0.0, 0.0, 0.0, float(weight.sum()), m, family)


def _labelled(x: Array, weight: Array, labels: NDArray[Any], K: int, family: Covariance) -> tuple[Array, Array, Array]:
    """Mass (K,), mean (K, D) and scatter of rows that belong to one component each: every row is touched once."""
    mass, mean = np.zeros(K), np.zeros((K, x.shape[1]))
    scatter = np.zeros(family.scatter_shape(K, x.shape[1]))
    order = np.argsort(labels, kind="stable")
    nothing = np.zeros((1, x.shape[1]))
    for k, mine in enumerate(np.split(order, np.searchsorted(labels[order], np.arange(1, K)))):
        own, w = x[mine], weight[mine]
        mass[k] = w.sum()
        if mass[k] > 0:
            mean[k] = own[0] + w @ (own - own[0]) / mass[k]  # of equal rows it is that row, to the last digit
            part = family.scatter_of(squarable(own - mean[k]), w[:, None], nothing)
            if family is TIED:
                scatter += part
            else:
                scatter[k] = part[0]
    return mass, mean, scatter
