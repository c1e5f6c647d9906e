"""The plane in which the components of a mixture are seen: two features, or the two leading principal axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.mixture.parameters import Parameters

__all__ = ["Plane", "dense", "ellipse", "overall"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Plane:
    """Two directions to look at: x -> axes^T (x - centre), or two features as they are.

    Attributes
    ----------
    centre : (D,)
    axes : (D, 2)
    share : (2,) share of the standardised variance along each axis
    features : the two features, where the axes are features, or None
    """

    centre: Array
    axes: Array
    share: Array
    features: tuple[int, int] | None = None

    @classmethod
    def of_features(cls, n_features: int, first: int, second: int) -> Plane:
        """The plane of two of the features."""
        axes = np.zeros((n_features, 2))
        axes[[first, second], [0, 1]] = 1.0
        return cls(np.zeros(n_features), axes, np.full(2, 1.0 / n_features), (first, second))

    @classmethod
    def of_principal_axes(cls, mixture: Parameters) -> Plane:
        """The plane of a mixture's own two leading axes."""
        D = mixture.n_features
        if D == 2:
            return cls.of_features(2, 0, 1)
        if D == 1:
            return cls(np.zeros(D), np.eye(D, 2), np.full(2, 1.0 / D))
        centre, covariance = overall(mixture)
        scale = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        scale[scale == 0] = 1.0
        values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
        vectors = vectors[:, ::-1][:, :2]
        vectors *= np.where(np.abs(vectors).max(axis=0) == vectors.max(axis=0), 1.0, -1.0)  # a sign that is settled
        return cls(centre, vectors / scale[:, None], values[::-1][:2] / D)

    def project(self, rows: NDArray[Any]) -> Array:
        """(N, 2) coordinates of rows (N, D)."""
        if self.features is not None:
            return np.asarray(rows, np.float64)[:, list(self.features)]
        return (np.asarray(rows, np.float64) - self.centre) @ self.axes

    def ellipses(self, mixture: Parameters) -> tuple[Array, Array]:
        """(K, 2) means and (K, 2, 2) covariances of the components as the plane shows them."""
        return self.project(mixture.means), self.axes.T @ dense(mixture) @ self.axes

    def labels(self, names: Sequence[str] | None = None) -> tuple[str, str]:
        """Labels of the axes."""
        if self.features is not None:
            first, second = (f"feature {j}" if names is None else str(names[j]) for j in self.features)
            return first, second
        if len(self.centre) == 1:
            return "feature 0" if names is None else str(names[0]), ""
        x, y = (f"principal axis {i + 1} ({100 * share:.0f} % of variance)" for i, share in enumerate(self.share))
        return x, y


def dense(mixture: Parameters) -> Array:
    """(K, D, D) covariances of any family."""
    return mixture.family.dense(mixture.covariances, *mixture.means.shape)


def overall(mixture: Parameters) -> tuple[Array, Array]:
    """(D,) mean and (D, D) covariance of the whole mixture."""
    weights = mixture.weights / mixture.weights.sum()
    mean = weights @ mixture.means
    delta = mixture.means - mean
    return mean, np.einsum("k,kde->de", weights, dense(mixture)) + (weights[:, None] * delta).T @ delta


def ellipse(covariance: Array, *, n_points: int = 64) -> Array:
    """(n_points, 2) outline of one standard deviation of a (2, 2) covariance."""
    values, vectors = np.linalg.eigh(covariance)
    angle = np.linspace(0.0, 2 * np.pi, n_points)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (circle * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
