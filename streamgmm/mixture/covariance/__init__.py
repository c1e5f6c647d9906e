"""The covariance families, one object each: the four of scikit-learn, and the other structures of mclust."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamgmm.mixture.covariance.base import Array, Covariance
from streamgmm.mixture.covariance.cholesky import spread_of
from streamgmm.mixture.covariance.diag_spherical import DIAG, SPHERICAL
from streamgmm.mixture.covariance.full_tied import FULL, TIED, Triangular
from streamgmm.mixture.covariance.structures import STRUCTURES

__all__ = [
    "DIAG",
    "FAMILIES",
    "FULL",
    "MCLUST",
    "SPHERICAL",
    "TIED",
    "Covariance",
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


def family(name: str | Covariance) -> Covariance:
    """The family called `name`; an object passes through."""
    if isinstance(name, Covariance):
        return name
    found = {**FAMILIES, **MCLUST}.get(name)
    if found is None:
        raise ValueError(f"covariance_type must be one of {[*FAMILIES, *MCLUST]}; got {name!r}.")
    return found


def check_covariances(chosen: Covariance, covariances: Any, K: int, D: int) -> Array:
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
