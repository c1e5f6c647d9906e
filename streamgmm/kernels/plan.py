"""The plan, which a kernel is given: one mixture, written in coordinates in which its own covariance is about one.

A row x enters as z = whiten (x - shift). In these coordinates (the *frame*) no offset and no unit can hurt, and

    logit_k(z) = log(pi_k N(x | mu_k, Sigma_k)) = coef[k] . phi(z) (+ common(z) for tied)

with the features phi of the family (see `Family`). All arrays are float64 and C-contiguous.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels.family import DIAG, FACTOR, FULL, SPHERICAL, TIED, Array, Family, phi_length
from streamgmm.kernels.plain.own_mean import Moments, Own

__all__ = [
    "DIAG",
    "FACTOR",
    "FULL",
    "SPHERICAL",
    "TIED",
    "TOLERANCE",
    "Array",
    "Family",
    "Plan",
    "Sums",
    "phi_length",
    "read_only",
]

TOLERANCE = 2e-9
"""Bound, in nats, on the error of a log-density above which rows are left to the centred form.

The bound eps |P| (|z| + |mu|)^2 was measured to be 5 to 20 times the largest error among 3000 rows (D = 2 to 63,
condition 10 to 1e7), so that the error itself stays below 1e-9."""


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only C-contiguous view: the one layout that kernels are compiled for."""
    view = array[:] if array.flags.c_contiguous else np.ascontiguousarray(array)
    view.flags.writeable = False
    return view


class Plan(NamedTuple):
    """One mixture, ready for the kernels."""

    family: Family
    shift: Array
    """(F,) subtracted from every row; F = D, the features of the model, unless the model looks through a rotation."""
    whiten: Array
    """(D, D) lower triangular for FULL and TIED, (D, 1) factors for DIAG and SPHERICAL; any (D, F) through a rotation.
    TIED: z has unit covariance within components, so that the quadratic term is |z|^2."""
    coef: Array
    """(K, p) feature weights; the coefficient of an off-diagonal product z_i z_j is -P_ij."""
    means: Array
    """(K, D) component means in the frame."""
    factor: Array
    """Upper triangular precision factors in the frame, U_k U_k^T = P_k: (K, D, D) for FULL, (1, D, D) for TIED;
    (K, D) reciprocal deviations for DIAG and SPHERICAL."""
    const: Array
    """(K,) log pi_k + log det U_k + log det whiten - D/2 log 2 pi."""
    base: float
    """Constant log-density of a background component, its weight included; -inf where there is none."""
    narrow: Array
    """(K,) eps |P_k|: the feature form errs on logit_k by at most narrow_k (|z| + radius_k)^2 nats."""
    radius: Array
    """(K,) |mu_k| in the frame."""
    own: Own | None = None
    """The components in the units of the data, for rows that this frame cannot hold."""


class Sums(NamedTuple):
    """Raw sums of one run, in the frame of the plan; without statistics only the totals are filled."""

    feature: Array  # (K, p) sum of w r phi; zeros where no block took the feature form
    quad: Array  # (D (D + 1) / 2,) TIED: sum of w z z^T
    centred: tuple[Array, Array, Array, Array] | None  # mu_k; sum of w r, w r (z - mu_k), w r (z - mu_k)(z - mu_k)^T
    totals: Array  # (5,) sum of w log p, w entropy, w log max r, w; rows of positive weight
    own: Moments | None = None  # of the rows that no kernel could take
