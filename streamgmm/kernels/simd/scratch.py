"""Scratch arrays of the hand-tiled kernels."""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np

from streamgmm.kernels.plan import Array

LINE = 8
"""Doubles in a line of the cache."""


def zeros(*shapes: tuple[int, ...]) -> list[Array]:
    """Arrays of zeros, each from a multiple of 64 bytes on: a vector that straddles two cache lines costs two accesses.

    They share one allocation: a call for each of them costs more than a kernel needs for a hundred rows.
    """
    sizes = [math.prod(shape) for shape in shapes]
    starts = list(accumulate((rounded(size, LINE) for size in sizes), initial=0))
    space = np.zeros(starts[-1] + LINE)
    skip = -(space.__array_interface__["data"][0] >> 3) % LINE
    return [
        space[skip + start : skip + start + size].reshape(shape)
        for start, size, shape in zip(starts, sizes, shapes, strict=False)
    ]


def rounded(n: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-n // unit) * unit
