"""Centres: what a mixture becomes when weights and spherical covariances are equal and every row belongs to one.

`Centres` and `LloydStats` stand where `Mixture` and `Stats` stand in the loop of `streamgmm.em.loop`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import NonFiniteRowError
from streamgmm.kernels.dispatch import is_small
from streamgmm.kernels.plain.lloyd import lloyd as reference
from streamgmm.kernels.plan import read_only
from streamgmm.utils.affine import Affine

Array = NDArray[np.float64]
Rows = NDArray[Any]

_NONE = np.empty(0)
_NO_LABELS = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class LloydStats:
    """Sums over rows that were each given to their nearest centre; a monoid under `merge`.

    Attributes
    ----------
    mass : (K,) sum of the sample weights w
    first : (K, D) sum of w (x - shift)
    inertia : sum of w |x - centre|^2
    square : sum of w |x - shift|^2 over all rows
    count : sum of w
    rows : number of rows of positive weight
    """

    mass: Array
    first: Array
    inertia: float
    square: float
    count: float
    rows: int

    def merge(self, other: LloydStats) -> LloydStats:
        """Sums of both sets of rows, taken with the same centres and shift."""
        return LloydStats(
            self.mass + other.mass,
            self.first + other.first,
            self.inertia + other.inertia,
            self.square + other.square,
            self.count + other.count,
            self.rows + other.rows,
        )

    @property
    def variance(self) -> float:
        """Variance of the features about their overall means, averaged over features; 0 where squares overflow."""
        mean = self.first.sum(axis=0) / self.count
        with np.errstate(over="ignore"):
            square = float(mean @ mean)
        return max(self.square / self.count - square, 0.0) / len(mean) if np.isfinite(square) else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Centres:
    """K points, and the hard assignment of rows to the nearest of them; the first of equally near ones.

    Attributes
    ----------
    points : (K, D)
    shift : (D,)
        Somewhere in the middle of the data: distances are compared, and rows summed, from there. It stays the same
        through a fit, so that equal assignments give equal bits.
    """

    points: Array
    shift: Array

    def _run(self, rows: Rows, weight: Array | None, label: NDArray[np.int32], distance: Array) -> LloydStats:
        if is_small(len(rows), *self.points.shape):
            mass, first, totals = reference(rows, weight, self.shift, self.points, label, distance)
        else:
            mass, first, totals = self._run_compiled(rows, weight, label, distance)
        count, n_rows, square, inertia = totals.tolist()
        return LloydStats(mass, first, max(inertia, 0.0), square, count, int(n_rows))

    def _run_compiled(
        self, rows: Rows, weight: Array | None, label: NDArray[np.int32], distance: Array
    ) -> tuple[Array, Array, Array]:
        from streamgmm.kernels.lloyd import lloyd

        mass, first, totals = np.zeros(len(self.points)), np.zeros(self.points.shape), np.zeros(4)
        fixed = [np.ascontiguousarray(rows), _NONE if weight is None else weight, self.shift, self.points]
        bad = lloyd(*map(read_only, fixed), label, distance, mass, first, totals)
        if bad >= 0:
            raise NonFiniteRowError(bad)
        return mass, first, totals

    def frame_stats(self, rows: Rows, weight: Array | None = None) -> LloydStats:
        """Sums over `rows` (n, D) under this assignment; the inertia errs by about 1e-16 of `square`."""
        return self._run(rows, weight, _NO_LABELS, _NONE)

    def final_stats(self, rows: Rows, weight: Array | None = None) -> tuple[LloydStats, NDArray[np.int32]]:
        """The same with the inertia from differences, right to the last digits, and the labels (n,)."""
        label = np.empty(len(rows), np.int32)
        return self._run(rows, weight, label, np.empty(len(rows))), label

    def through(self, affine: Affine) -> None:
        """No map of rows can be taken in: distances are those of moved rows."""

    def restore(self, stats: LloydStats) -> LloydStats:
        """The same sums: these have no frame of their own."""
        return stats

    def moved(self, stats: LloydStats) -> Centres:
        """Centres at the means of their rows; one without rows stays where it is."""
        mean = np.divide(
            stats.first, stats.mass[:, None], out=np.zeros_like(stats.first), where=stats.mass[:, None] > 0
        )
        return replace(self, points=np.where(stats.mass[:, None] > 0, mean + self.shift, self.points))

    def assign(self, rows: Rows) -> tuple[NDArray[np.int32], Array]:
        """(n,) nearest centres and (n,) squared distances to them."""
        label, distance = np.empty(len(rows), np.int32), np.empty(len(rows))
        self._run(rows, None, label, distance)
        return label, distance

    def labels(self, rows: Rows) -> NDArray[np.int32]:
        """(n,) nearest centres."""
        label = np.empty(len(rows), np.int32)
        self._run(rows, None, label, _NONE)
        return label

    def distances(self, rows: Rows) -> Array:
        """(n, K) Euclidean distances to all centres."""
        from scipy.spatial.distance import cdist

        bad = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            raise NonFiniteRowError(int(np.argmax(bad)))
        return np.asarray(cdist(rows, self.points))


def nearest(z: Array, centres: Array) -> NDArray[Any]:
    """(m,) index of the centre nearest to each row."""
    return np.asarray(np.argmin(np.einsum("ki,ki->k", centres, centres) - 2.0 * (z @ centres.T), axis=1))
