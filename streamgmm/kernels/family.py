"""Families of covariances as the kernels know them: the layout of features and statistics."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DIAG", "FACTOR", "FULL", "SPHERICAL", "TIED", "Array", "Family", "Flags", "Labels", "Rows", "phi_length"]

Array = NDArray[np.float64]
Rows = NDArray[Any]
"""(n, F) float32 or float64."""
Flags = NDArray[np.uint8]
Labels = NDArray[np.int64]


class Family(IntEnum):
    """Layout of phi and of the statistics; p is the length of phi.

    ========= ========================================================= ======================== ====================
    family    phi(z)                                                     p                        common(z)
    ========= ========================================================= ======================== ====================
    FULL      z_0 z_0, z_1 z_0, z_1 z_1, z_2 z_0, ... (i >= j), z, 1     D (D + 1) / 2 + D + 1    0
    TIED      z, 1                                                       D + 1                    -|z|^2 / 2
    DIAG      z_0^2, ..., z_{D-1}^2, z, 1                                2 D + 1                  0
    SPHERICAL |z|^2, z, 1                                                D + 2                    0
    ========= ========================================================= ======================== ====================
    """

    FULL = 0
    TIED = 1
    DIAG = 2
    SPHERICAL = 3
    FACTOR = 4
    """Factor analysers have a plan and a kernel of their own: see `plain.factor`. p counts multiplications of a row."""


def phi_length(family: Family, D: int) -> int:
    """p, of models in D features."""
    quadratic = {Family.FULL: D * (D + 1) // 2, Family.TIED: 0, Family.DIAG: D, Family.SPHERICAL: 1, Family.FACTOR: D}
    return quadratic[family] + D + 1


FULL, TIED, DIAG, SPHERICAL, FACTOR = map(
    int, Family
)  # what kernels compare with: Numba takes no member of an enumeration
