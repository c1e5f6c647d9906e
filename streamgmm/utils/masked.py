"""Masked arrays of NumPy: what is masked is missing, whatever lies under the mask."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["unmasked"]


def unmasked(values: Any) -> Any:
    """`values` with NaN for what a `numpy.ma.MaskedArray` masks, as float32 or float64; anything else as it is."""
    if not isinstance(values, np.ma.MaskedArray):
        return values
    if values.dtype.kind not in "iufb" or not np.ma.is_masked(values):
        return values.data
    kind = np.float32 if values.dtype == np.float32 else np.float64
    return np.where(np.ma.getmaskarray(values), kind(np.nan), values.data.astype(kind))
