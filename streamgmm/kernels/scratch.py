"""Scratch arrays of the hand-tiled kernels."""

from __future__ import annotations

import math

import numpy as np

from streamgmm.kernels.plan import Array

LINE = 8
"""Doubles in a line of the cache."""


def zeros(*shape: int) -> Array:
    """Zeros from a multiple of 64 bytes on: a vector that straddles two cache lines costs two accesses."""
    size = math.prod(shape)
    space = np.zeros(size + LINE)
    skip = -(space.ctypes.data >> 3) % LINE
    return space[skip : skip + size].reshape(shape)


def rounded(n: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-n // unit) * unit
