"""Parameters that a user gives for a first model, checked, in scikit-learn's words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.mixture.covariance import Covariance, check_covariances

__all__ = ["NOTHING", "Given", "given_parameters"]

Array = NDArray[np.float64]


class Given(NamedTuple):
    """Weights (K,), means (K, D) and covariances in the shape of the family, each or None."""

    weights: Array | None = None
    means: Array | None = None
    covariances: Array | None = None


NOTHING = Given()


def given_parameters(
    family: Covariance,
    K: int,
    D: int,
    *,
    weights: ArrayLike | None,
    means: ArrayLike | None,
    precisions: ArrayLike | None,
    noise: bool,
) -> Given:
    """The arguments `weights_init`, `means_init` and `precisions_init`, checked; precisions become covariances.

    Parameters
    ----------
    noise : whether there is a background, which has what the weights leave to 1

    Raises
    ------
    ValueError
        For another shape, weights that are not in [0, 1] or do not sum to 1, and precisions that are not positive
        definite.
    """
    return Given(
        None if weights is None else _weights(np.array(weights, np.float64), K, noise),
        None if means is None else _means(np.array(means, np.float64), K, D),
        None if precisions is None else _covariances(np.array(precisions, np.float64), family, K, D),
    )


def _weights(weights: Array, K: int, noise: bool) -> Array:
    if weights.shape != (K,):
        raise ValueError(f"The parameter 'weights' should have the shape of ({K},), but got {weights.shape}")
    if not ((weights >= 0) & (weights <= 1)).all():
        raise ValueError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{weights.max():.5f}, min value {weights.min():.5f}"
        )
    if weights.sum() > 1 + 1e-6 or (weights.sum() < 1 - 1e-6 and not noise):
        raise ValueError(f"The parameter 'weights' should be normalized, but got sum(weights) = {weights.sum():.5f}")
    return weights


def _means(means: Array, K: int, D: int) -> Array:
    if means.shape != (K, D):
        raise ValueError(f"The parameter 'means' should have the shape of ({K}, {D}), but got {means.shape}")
    return means


def _covariances(precisions: Array, family: Covariance, K: int, D: int) -> Array:
    if precisions.shape != family.shape(K, D):
        raise ValueError(
            f"The parameter '{family.name} precision' should have the shape of {family.shape(K, D)}, "
            f"but got {precisions.shape}"
        )
    checked = check_covariances(family, precisions, K, D)
    _, good = family.factor(checked)
    if not good.all():
        kind = "positive" if family.name in ("diag", "spherical") else "symmetric, positive-definite"
        raise ValueError(f"'{family.name} precision' should be {kind}")
    return family.covariances_from_precisions(checked)


def background_box(box: Array) -> Array:
    """The box of a uniform background, from the smallest and largest values of the data.

    Raises
    ------
    ValueError
        Where a feature is constant, so that the box has no volume.
    """
    flat = np.flatnonzero(~(box[0] < box[1]))
    if flat.size:
        raise ValueError(
            f"noise='uniform' needs a box with a volume; feature(s) {flat.tolist()} are constant. Drop them, or set "
            "noise=None."
        )
    return box
