"""Parameters of a mixture: the interface for computing, and checks of what a user gives."""

from __future__ import annotations

from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.kernels.plan import Plan
from streamgmm.mixture.covariance import Covariance
from streamgmm.mixture.observation import Observation
from streamgmm.utils.masked import unmasked

__all__ = ["Parameters", "Questions", "checked_factors", "checked_rows", "checked_weights"]

Array = NDArray[np.float64]


class Parameters(Protocol):
    """Weights, means and covariances, as `streamgmm.mixture.mixture.Mixture` has them; see there."""

    @property
    def weights(self) -> Array: ...

    @property
    def means(self) -> Array: ...

    @property
    def covariances(self) -> Array: ...

    @property
    def factors(self) -> Array: ...

    @property
    def family(self) -> Covariance: ...

    @property
    def noise_weight(self) -> float: ...

    @property
    def observation(self) -> Observation | None: ...

    @property
    def n_components(self) -> int: ...

    @property
    def n_features(self) -> int: ...

    @property
    def box(self) -> Array | None: ...

    @property
    def log_volume(self) -> float: ...

    @property
    def missing(self) -> bool: ...

    def plan(self, base: float) -> tuple[Plan, Array]: ...


class Questions(Parameters, Protocol):
    """A mixture of which others are made."""

    def responsibilities(self, X: ArrayLike) -> Array: ...

    @classmethod
    def trusted(
        cls,
        weights: Array,
        means: Array,
        covariances: Array,
        chosen: Covariance,
        factors: Array,
        noise_weight: float = 0.0,
        observation: Observation | None = None,
    ) -> Self: ...


def checked_weights(weights: ArrayLike, means: ArrayLike, noise_weight: float) -> tuple[Array, Array]:
    """Weights (K,) and means (K, D) as float64 arrays.

    Raises
    ------
    ValueError
        Where shapes do not agree, a number is not finite, or the weights and `noise_weight` do not sum to 1.
    """
    w = np.array(weights, np.float64)
    mu = np.array(means, np.float64)
    if mu.ndim != 2 or w.shape != mu.shape[:1] or 0 in mu.shape:
        raise ValueError(f"weights must have shape (K,) and means (K, D) with K, D >= 1; got {w.shape} and {mu.shape}.")
    if not np.isfinite(mu).all():
        raise ValueError("means must be finite; found NaN or infinity.")
    total = w.sum() + noise_weight
    if not (np.isfinite(w).all() and (w >= 0).all() and noise_weight >= 0 and abs(total - 1.0) < 1e-6):
        raise ValueError(f"weights must be >= 0 and sum to 1, with noise_weight; got {w} with sum {total}.")
    return w, mu


def checked_factors(loadings: ArrayLike, noise_variance: ArrayLike) -> Array:
    """(K, D, q + 1) covariances of factor analysers: loadings (K, D, q), and what broadcasts to (K, D) variances.

    Raises
    ------
    ValueError
        Where the shapes do not agree.
    """
    columns = np.array(loadings, np.float64)
    if columns.ndim != 3 or not columns.shape[2]:
        raise ValueError(f"loadings must have shape (K, D, q) with q >= 1; got {columns.shape}.")
    try:
        noise = np.broadcast_to(np.asarray(noise_variance, np.float64), columns.shape[:2])
    except ValueError:
        raise ValueError(
            f"noise_variance must broadcast to (K, D) = {columns.shape[:2]}; got {np.shape(noise_variance)}."
        ) from None
    return np.concatenate([columns, noise[..., None]], axis=2)


def checked_rows(X: ArrayLike, n_features: int) -> NDArray[Any]:
    """Rows (N, D), C-contiguous float32 or float64; what is masked is NaN.

    Raises
    ------
    ValueError
        For another shape.
    """
    rows = np.asarray(unmasked(X))
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float64)
    if rows.ndim != 2 or rows.shape[1] != n_features:
        raise ValueError(f"X must have shape (N, {n_features}); got {rows.shape}.")
    return np.ascontiguousarray(rows)
