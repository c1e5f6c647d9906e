"""The covariance families, one object each: scikit-learn's four, the other structures of mclust, factor analysers."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from streamgmm.mixture.covariance.base import INSTANCES, Array, Covariance
from streamgmm.mixture.covariance.cholesky import spread_of
from streamgmm.mixture.covariance.diag_spherical import DIAG, SPHERICAL
from streamgmm.mixture.covariance.factor import KINDS, Factor, factor_family
from streamgmm.mixture.covariance.full_tied import FULL, TIED, Triangular
from streamgmm.mixture.covariance.structures import STRUCTURES

__all__ = [
    "DIAG",
    "FACTORS",
    "FAMILIES",
    "FULL",
    "MCLUST",
    "SPHERICAL",
    "TIED",
    "Covariance",
    "Factor",
    "check_covariances",
    "family",
    "spread_of",
]

FAMILIES: dict[str, Covariance] = {f.name: f for f in (FULL, TIED, DIAG, SPHERICAL)}
MCLUST: dict[str, Covariance] = {
    name: {"VVV": FULL, "EEE": TIED, "VVI": DIAG, "VII": SPHERICAL}.get(name) or STRUCTURES[name]
    for name in (
        "EII", "VII", "EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV", "VVV",
    )
}  # fmt: skip
"""The fourteen structures of mclust, by its identifiers."""

INSTANCES.update({f.name: f for f in (*FAMILIES.values(), *MCLUST.values())})


FACTORS = tuple(KINDS)
"""Names of the families of factor analysers, which need a number of factors."""


def family(name: str | Covariance, n_factors: int | None = None) -> Covariance:
    """The family called `name`, of factor analysers with so many factors; an object passes through.

    "factor:8" is "factor" with n_factors=8.
    """
    if isinstance(name, Covariance):
        return name
    kind, _, number = str(name).partition(":")
    if kind in FACTORS:
        q = int(number) if number.isdecimal() and not n_factors else n_factors
        if q is None or q < 1:
            raise ValueError(f"covariance_type {name!r} needs n_factors, a whole number >= 1; got {n_factors!r}.")
        return factor_family(kind, int(q))
    found = {**FAMILIES, **MCLUST}.get(name)
    if found is None:
        raise ValueError(f"covariance_type must be one of {[*FAMILIES, *MCLUST, *FACTORS]}; got {name!r}.")
    if n_factors is not None:
        raise ValueError(
            f"n_factors belongs to covariance_type {', '.join(map(repr, FACTORS))}; got n_factors={n_factors} with "
            f"{name!r}. Set n_factors=None."
        )
    return found


def check_covariances(chosen: Covariance, covariances: ArrayLike, K: int, D: int) -> Array:
    """The covariances as a float64 array of the family's shape.

    Raises
    ------
    ValueError
        Where the shape is wrong, an entry is not finite, or a matrix is not symmetric.
    """
    array = np.array(covariances, np.float64)
    expected = chosen.shape(K, D)
    if array.shape != expected:
        raise ValueError(f"covariances of type {chosen.name!r} must have shape {expected}; got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError("covariances must be finite; found NaN or infinity.")
    if len(expected) >= 2 and isinstance(chosen, Triangular):
        scale = np.sqrt(np.maximum(np.diagonal(array, axis1=-2, axis2=-1), 0.0))
        slack = 1e-8 * scale[..., :, None] * scale[..., None, :] + 1e-300
        if (np.abs(array - np.swapaxes(array, -1, -2)) > slack).any():
            raise ValueError(f"covariances of type {chosen.name!r} must be symmetric.")
    return array
