"""An affine map of rows as a value: applied to rows, followed by another, or taken into a mixture's whitening."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FARTHEST = 512.0
"""Distance of an origin from 0, in units of the frame, up to which it may be rounded: an error of 1e-13."""


@dataclass(frozen=True, eq=False)
class Affine:
    """y = (x - shift) * matrix for a vector of scales, (x - shift) @ matrix for a matrix (F, D).

    The difference is taken first, in float64, so that an offset of the data costs no digit of what is left.
    """

    shift: Array
    matrix: Array

    @property
    def n_features_out(self) -> int:
        return self.matrix.shape[-1]

    def apply(self, rows: NDArray[Any]) -> NDArray[Any]:
        """(n, D) in the dtype of `rows`, C-contiguous."""
        centred = rows - self.shift
        if self.matrix.ndim == 1:
            centred *= self.matrix
        else:
            centred = centred @ self.matrix
        return np.ascontiguousarray(centred.astype(rows.dtype, copy=False))

    def then(self, other: Affine) -> Affine | None:
        """One map that equals this one followed by `other`, or None where no form of this class can hold it."""
        if self.matrix.ndim == 2 or not self.matrix.all():
            return None
        scale = self.matrix if other.matrix.ndim == 1 else self.matrix[:, None]
        return Affine(self.shift + other.shift / self.matrix, scale * other.matrix)

    @cached_property
    def _back(self) -> Array:
        """(F, D) with matrix.T @ _back = 1, so far as the matrix allows."""
        return np.linalg.pinv(self.matrix.T)

    def before(self, shift: Array, whiten: Array) -> tuple[Array, Array] | None:
        """This map and then z = whiten (y - shift), as one step z = whiten' (x - shift').

        Parameters
        ----------
        shift, whiten : (D,), and (D, D) or the scales (D, 1)

        Returns
        -------
        shift' (F,), and whiten' of the shape of `whiten`, or (D, F) after a rotation; None where one origin for both
        would be off by more than 1e-13 of a unit of z, or where the map is not onto.
        """
        if self.matrix.ndim == 1:
            if not self.matrix.all():
                return None
            step = shift / self.matrix
            scale = self.matrix if whiten.shape[1] > 1 else self.matrix[:, None]
            combined = whiten * scale
            missed = np.zeros(1)
        else:
            step = self._back @ shift
            combined = whiten * self.matrix.T if whiten.shape[1] == 1 else whiten @ self.matrix.T
            off = np.abs(step @ self.matrix - shift)
            missed = np.abs(whiten[:, 0]) * off if whiten.shape[1] == 1 else np.abs(whiten) @ off
        size = np.abs(self.shift) + np.abs(step)
        reach = np.abs(combined) @ size if combined.shape[1] == len(size) else np.abs(combined[:, 0]) * size
        if not (reach.max() <= _FARTHEST and missed.max() <= _FARTHEST * np.finfo(np.float64).eps):
            return None
        return self.shift + step, np.ascontiguousarray(combined)


class Checked:
    """An affine map that refuses rows that are not finite.

    One such number would spread over a whole row, and the message could not name its feature.
    """

    def __init__(self, affine: Affine, allow_nan: bool = False) -> None:
        self.affine = affine
        self.allow_nan = allow_nan

    def apply(self, rows: NDArray[Any]) -> NDArray[Any]:
        """As `Affine.apply`; `NonFiniteRowError` at the first row with infinity, or NaN where that is not allowed."""
        from streamgmm.errors import NonFiniteRowError

        bad = np.isinf(rows) if self.allow_nan else ~np.isfinite(rows)
        if bad.any():
            raise NonFiniteRowError(int(np.argmax(bad.any(axis=1))))
        return self.affine.apply(rows)
