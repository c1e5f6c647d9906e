"""Arrays in the memory in which other arrays are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from streamgmm.kernels.cuda.backend import backend_of

__all__ = ["empty_like"]


def empty_like(rows: Any, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """An array of any content where `rows` are: here, or on their graphics card."""
    return np.empty(shape, dtype) if isinstance(rows, np.ndarray) else backend_of(rows).empty(shape, dtype)
