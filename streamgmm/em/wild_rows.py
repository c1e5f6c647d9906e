"""Rows of a stream that no component should ever be made of: set aside, as rows with infinity are.

The rule: a row is wild where one of its numbers lies more than 1e8 deviations from the mean of the model that is being
learnt, over all its components; before there is a model, more than 1e8 median distances from the median of the rows
that wait for it; and in any case where it is beyond 1e100. One such row would hold a component, and the scale of
everything else, for many half-lives.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamgmm.mixture.mixture import Mixture

__all__ = ["Limits", "far_from_the_median"]

Array = NDArray[np.float64]

FARTHEST = 1e8
"""Deviations from the overall mean beyond which a row is set aside."""
LARGEST = 1e100
"""Size of a number beyond which a row is set aside before there is a model: its square could not be kept."""


class Limits:
    """Greatest distance of a row from what is known.

    Parameters
    ----------
    model : Mixture or None
        None while there is none.
    """

    def __init__(self, model: Mixture | None, n_features: int) -> None:
        self.model = model
        self.centre, self.reach = np.zeros(n_features), np.full(n_features, LARGEST)
        if model is not None:
            share = model.weights / model.weights.sum()
            self.centre = share @ model.means
            variances = model.family.variances(model.covariances, *model.means.shape)
            overall = share @ (variances + (model.means - self.centre) ** 2)
            self.reach = np.minimum(FARTHEST * np.sqrt(overall), LARGEST)
        # Within this of 0 no row is far, whatever the feature: one comparison for nearly all blocks.
        self._safe = float((self.reach - np.abs(self.centre)).min())

    def beyond(self, rows: Array) -> NDArray[np.bool_] | None:
        """(n,) mask of the rows (n, D) that are too far; None where none is."""
        if not rows.size or (rows.max() <= self._safe and rows.min() >= -self._safe):
            return None
        far = np.asarray((np.abs(rows - self.centre) > self.reach).any(axis=1))
        return far if far.any() else None


def far_from_the_median(rows: Array) -> NDArray[np.bool_]:
    """(n,) mask of rows too far from the others, feature by feature; a feature that never varies tells nothing."""
    far = np.zeros(len(rows), bool)
    for column in rows.T:
        apart = np.abs(column - np.median(column))
        if apart.any():
            far |= apart > FARTHEST * np.median(apart[apart > 0])
    return far
