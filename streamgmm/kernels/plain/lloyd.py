"""Lloyd's step in NumPy: what `streamgmm.kernels.lloyd` does, for tables that are not worth compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels.plain.own_mean import check_finite
from streamgmm.kernels.plain.reference import blocks
from streamgmm.kernels.plan import Array


def lloyd(
    rows: NDArray[Any], weight: Array | None, shift: Array, centres: Array, label: NDArray[np.int32], distance: Array
) -> tuple[Array, Array, Array]:
    """One pass over `rows` (n, D).

    Parameters
    ----------
    label : (n,) integers or (0,)       # OUT nearest centre, the first of equals
    distance : (n,) or (0,)             # OUT squared distance to it, not weighted

    Returns
    -------
    mass (K,), first (K, D) and totals (4,) as `streamgmm.kernels.lloyd.lloyd` has them.

    Raises
    ------
    NonFiniteRowError
        At the first row with NaN or infinity.
    """
    K, D = centres.shape
    mass, first, totals = np.zeros(K), np.zeros((K, D)), np.zeros(4)
    c = centres - shift
    half = 0.5 * np.einsum("ki,ki->k", c, c)[:, None]
    for block in blocks(len(rows), max(K, D)):
        part = rows[block]
        w = np.ones(len(part)) if weight is None else weight[block]
        with np.errstate(over="ignore", invalid="ignore"):  # rows that are not finite are found below
            z = np.ascontiguousarray((part - shift).T)
            norm = np.einsum("ib,ib->b", z, z)
            scores = half - c @ z
        if not np.isfinite(norm).all():
            check_finite(part, np.arange(block.start, block.stop))
        nearest = scores.argmin(axis=0)
        squared = norm + 2.0 * np.take_along_axis(scores, nearest[None], axis=0)[0]
        if len(label):
            label[block] = nearest
        if len(distance):
            difference = part - centres[nearest]
            squared = np.einsum("bi,bi->b", difference, difference)
            distance[block] = squared
        mass += np.bincount(nearest, w, K)
        first += ((nearest == np.arange(K)[:, None]) * w) @ z.T
        totals += w.sum(), (w > 0).sum(), w @ norm, w @ squared
    return mass, first, totals
