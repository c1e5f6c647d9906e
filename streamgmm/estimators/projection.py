"""The principal components that a mixture was fitted to: what stands between it and the rows of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.sources.base import Source
from streamgmm.sources.transformed import TransformedSource
from streamgmm.utils.affine import Affine, Checked

Array = NDArray[np.float64]
_PREFIX = "projection_"


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Principal components of a table: y = (x - shift) @ matrix, and back as x = y @ inverse + shift.

    Parameters
    ----------
    shift : (D,)
    matrix : (D, d)
    inverse : (d, D)

    Raises
    ------
    ValueError
        Where shapes do not agree, or a number is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> first = Projection(np.array([5.0, 5.0]), np.array([[1.0], [0.0]]), np.array([[1.0, 0.0]]))
    >>> first.apply(np.array([[7.0, 9.0]])), first.back(np.array([[2.0]]))
    (array([[2.]]), array([[7., 5.]]))
    """

    shift: Array
    matrix: Array
    inverse: Array

    def __post_init__(self) -> None:
        shapes = self.shift.shape, self.matrix.shape, self.inverse.shape
        D, d = self.matrix.shape if self.matrix.ndim == 2 else (0, 0)
        if shapes != ((D,), (D, d), (d, D)):
            raise ValueError(f"a projection needs shapes (D,), (D, d) and (d, D); got {shapes}")
        if not all(np.isfinite(part).all() for part in (self.shift, self.matrix, self.inverse)):
            raise ValueError("a projection must be of finite numbers")

    @property
    def n_features(self) -> int:
        """D, the features of the data."""
        return len(self.shift)

    @property
    def n_components(self) -> int:
        """d, the principal components."""
        return int(self.matrix.shape[1])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the principal components."""
        return tuple(f"principal component {j + 1}" for j in range(self.n_components))

    @property
    def map(self) -> Affine:
        """The way from rows to principal components."""
        return Affine(self.shift, self.matrix)

    def apply(self, rows: NDArray[Any]) -> NDArray[Any]:
        """(N, d) principal components of rows (N, D)."""
        return self.map.apply(rows)

    def back(self, rows: Array) -> Array:
        """(N, D) rows in the units of the data; directions that were left out are at their means."""
        return rows @ self.inverse + self.shift

    def projected(self, source: Source) -> Source:
        """The principal components of `source`, as it is read."""
        return TransformedSource(source, self.map, feature_names=self.names)

    def arrays(self) -> dict[str, Array]:
        """Entries that a model file keeps."""
        return {_PREFIX + name: getattr(self, name) for name in ("shift", "matrix", "inverse")}

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]]) -> Projection | None:
        """The projection among the arrays of a model file, or None."""
        if _PREFIX + "matrix" not in arrays:
            return None
        parts = [arrays[_PREFIX + name] for name in ("shift", "matrix", "inverse")]
        if any(part.dtype != np.float64 for part in parts):
            raise ValueError("a projection must be of float64 numbers")
        return cls(*parts)


class ProjectedMixture:
    """A mixture asked about rows of the data; a `Projection` stands before it."""

    def __init__(self, mixture: Any, projection: Projection) -> None:
        self.mixture = mixture
        self._map = Checked(projection.map)

    def labels(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        return self.mixture.labels(self._map.apply(rows))

    def responsibilities(self, rows: NDArray[Any]) -> Array:
        return self.mixture.responsibilities(self._map.apply(rows))

    def factor_scores(self, rows: NDArray[Any]) -> Array:
        return self.mixture.factor_scores(self._map.apply(rows))

    def log_prob(self, rows: NDArray[Any]) -> Array:
        return self.mixture.log_prob(self._map.apply(rows))

    def tail_probability(self, rows: NDArray[Any]) -> Array:
        """Where `mixture` is a `Tails`."""
        return self.mixture.tail_probability(self._map.apply(rows))

    def predictive(self, rows: NDArray[Any]) -> Array:
        """Of the posterior of a Bayesian mixture."""
        return self.mixture.predictive(self._map.apply(rows))
