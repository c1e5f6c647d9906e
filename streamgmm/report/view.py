"""Axes along which a page draws a mixture: two directions of its own, and the features that tell components apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.plane import Plane, dense

__all__ = ["Projected", "View", "feature_moments", "separation", "telling_features"]

Array = NDArray[np.float64]

BYTES = 900_000
"""Of points and components on a page: this limits the features that can be drawn."""
FEWEST = 6
"""Features that can be drawn in any case, where there are so many."""


class Projected(Protocol):
    """Principal components that a mixture was fitted to; see `streamgmm.estimators.projection.Projection`."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def shift(self) -> Array: ...

    @property
    def inverse(self) -> Array: ...

    def apply(self, rows: Array, /) -> Array: ...


def feature_moments(mixture: Mixture, projection: Projected | None) -> tuple[Array, Array]:
    """(K, D) means and variances of the components in the features of the data."""
    if projection is None:
        K, D = mixture.means.shape
        return mixture.means, mixture.family.variances(mixture.covariances, K, D)
    inverse = projection.inverse
    variances = np.stack([((one @ inverse) * inverse).sum(axis=0) for one in dense(mixture)])
    return mixture.means @ inverse + projection.shift, variances


def separation(weights: Array, means: Array, variances: Array) -> Array:
    """(D,) share of each feature's variance that lies between the components: 0 tells nothing, 1 everything."""
    share = weights / weights.sum()
    within = share @ variances
    between = share @ (means - share @ means) ** 2
    total = within + between
    return np.divide(between, total, out=np.zeros_like(total), where=total > 0)


def telling_features(mixture: Mixture, n: int) -> list[int]:
    """The n features, or fewer, by which components differ most, in their own order."""
    order = np.argsort(-separation(mixture.weights, *feature_moments(mixture, None)), kind="stable")
    return sorted(order[:n].tolist())


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Axes: the first `planar` span the plane in which the path of the fit was recorded, the others are features.

    Attributes
    ----------
    mixture, plane, projection
    matrix, offset : (d, A), (A,)
        From rows of the model to coordinates: x @ matrix + offset.
    labels : (A,)
    planar : int
    features : the features behind the axes after the plane, or behind all where the plane is of features
    centre, scale : (A,) by which numbers are stored: (x - centre) / scale
    """

    mixture: Mixture
    plane: Plane
    projection: Projected | None
    matrix: Array
    offset: Array
    labels: tuple[str, ...]
    planar: int
    features: tuple[int, ...]
    centre: Array
    scale: Array

    @classmethod
    def from_rows(
        cls,
        mixture: Mixture,
        rows: Array,
        *,
        plane: Plane,
        names: Sequence[str],
        projection: Projected | None = None,
        n_components: int,
    ) -> View:
        """The axes of a page.

        Parameters
        ----------
        rows : (m, D) as stored, with NaN
        n_components : of all models on the page together
        """
        d = mixture.n_features
        planar = min(d, 2)
        if d <= 2 and projection is None:  # the plane is that of the features
            chosen = tuple(range(d))
            matrix, offset, labels = np.eye(d), np.zeros(d), tuple(names)
        else:
            chosen = _chosen(mixture, projection, len(rows), n_components)
            inverse = np.eye(d) if projection is None else projection.inverse
            shift = np.zeros(d) if projection is None else projection.shift
            own = plane.axes[:, :planar]
            matrix = np.concatenate([own, inverse[:, chosen]], axis=1)
            offset = np.concatenate([-plane.centre @ own, shift[list(chosen)]])
            seen = plane.labels(projection.names if projection is not None else names)
            labels = (*seen[:planar], *(names[j] for j in chosen))
        A = len(labels)
        raw = cls(
            mixture, plane, projection, matrix, offset, labels, planar, chosen, np.zeros(A), np.ones(A)
        )  # fmt: skip
        centre, scale = _units(raw.standardised(rows))
        return replace(raw, centre=centre, scale=scale)

    def standardised(self, rows: Array) -> Array:
        """(m, A) coordinates of rows (m, D) of the data as they are stored; NaN where a feature was not observed.

        In the plane a row with missing values stands at its conditional mean.
        """
        if len(self.labels) == self.planar and self.projection is None:
            points = rows
        else:
            inside = rows if self.projection is None else self.projection.apply(rows)
            filled = self.mixture.impute(inside) if np.isnan(inside).any() else inside
            flat = self.plane.project(filled)[:, : self.planar]
            points = np.concatenate([flat, rows[:, self.features]], axis=1)
        return (points - self.centre) / self.scale

    def components(self, mixture: Mixture) -> tuple[Array, Array]:
        """(K, A) means and (K, A (A + 1) / 2) lower triangles of the covariances, as they are stored."""
        means = (mixture.means @ self.matrix + self.offset - self.centre) / self.scale
        linear = self.matrix / self.scale
        covariances = linear.T @ dense(mixture) @ linear
        lower = np.tril_indices(len(self.labels))
        return means, covariances[:, lower[0], lower[1]]

    def frames(self, means: Array, covariances: Array) -> tuple[Array, Array]:
        """(T, K, p) means and (T, K, p (p + 1) / 2) covariances of the path (T, K, 2), (T, K, 2, 2), as stored."""
        p = self.planar
        centre, scale = self.centre[:p], self.scale[:p]
        lower = np.tril_indices(p)
        scaled = covariances[..., :p, :p] / np.outer(scale, scale)
        return (means[..., :p] - centre) / scale, scaled[..., lower[0], lower[1]]


def _chosen(mixture: Mixture, projection: Projected | None, m: int, n_components: int) -> tuple[int, ...]:
    """The features that tell components apart most, in the order of the data, as many as a page can hold."""
    means, variances = feature_moments(mixture, projection)
    D = means.shape[1]
    most = FEWEST
    while most < D and 5.4 * ((most + 3) * m + n_components * (most + 3) * (most + 6) / 2) < BYTES:
        most += 1
    order = np.argsort(-separation(mixture.weights, means, variances), kind="stable")
    return tuple(sorted(int(j) for j in order[:most]))


def _units(points: Array) -> tuple[Array, Array]:
    """Median and deviation of what was observed; 0 and 1 where there is none."""
    A = points.shape[1]
    centre, scale = np.zeros(A), np.ones(A)
    for a in range(A):
        seen = points[~np.isnan(points[:, a]), a]
        if seen.size:
            centre[a] = np.median(seen)
            low, high = np.percentile(seen, [10, 90])
            scale[a] = (high - low) / 2 or seen.std() or 1.0
    return centre, scale
