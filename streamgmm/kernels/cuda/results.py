"""Arguments and results of the E-step on a card, in all its forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels.cuda.base import DeviceArray
from streamgmm.kernels.plain.reference import NEGLIGIBLE
from streamgmm.kernels.plan import TOLERANCE, Array

TYPES = {np.dtype(np.float64): "double", np.dtype(np.float32): "float"}
"""Types of rows, by their names in C++."""
BOUNDS = {"TOLERANCE": repr(TOLERANCE), "NEGLIGIBLE": repr(NEGLIGIBLE)}
THREADS = 256
MOST_BLOCKS = 1056
"""Blocks of a kernel that goes through its work in strides: 8 for each multiprocessor of an H100."""

Given = tuple[DeviceArray, DeviceArray | None]
"""Rows (n, F) and their weights (n,)."""


class Answers(NamedTuple):
    """Arrays of the card to fill in, or None."""

    logp: DeviceArray | None
    resp: DeviceArray | None
    label: DeviceArray | None


class Raw(NamedTuple):
    """The card's result: sums of the rows that it took, and which it has left."""

    feature: Array
    quad: Array
    totals: Array
    left: int
    declined: Callable[[], NDArray[np.bool_]]
    dropped: float = 0.0
    """Bound of what was left out of any component's sums: see `streamgmm.kernels.plain.dropping`."""


def blocks(count: int, threads: int = THREADS) -> int:
    """Blocks for so many threads, up to `MOST_BLOCKS`."""
    return min(MOST_BLOCKS, -(-count // threads))
