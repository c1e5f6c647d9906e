"""The E-step about each component's own mean, in NumPy: for rows that no frame of the whole mixture can hold.

A kernel subtracts one origin from every row. A row at 1e20 has no digits left after that, nor has one beside a
component 1e10 deviations away from the others. Here x - mu_k is formed in the units of the data, component by
component, and is exact to rounding at any distance. Squares are taken of numbers near 1 only, so that rows up to the
largest double have responsibilities: those of the limit, along their direction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import NonFiniteRowError
from streamgmm.kernels.family import Array, Family

__all__ = ["FAR_SQUARED", "Moments", "Own", "check_finite", "squarable"]

FAR_SQUARED = 1e6
"""Squared distance from the origin of the frame, in its units, from which the kernels leave a row to this form."""
LEAST_LOG = -1e300
"""The value in sums of a log-density below the range of doubles, so that they stay finite."""
_LARGEST = 1e120
"""Differences beyond this, in units of the frame, count as this in second moments: their squares stay finite."""
_APART = 1e2
"""Distance from the nearest mean, in deviations, beyond which logits are taken relative to the best component."""
_NUMBERS = 1 << 19
"""Differences kept at a time."""


def squarable(delta: Array) -> Array:
    """`delta`, cut off where squares and their sums would overflow."""
    return np.clip(delta, -_LARGEST, _LARGEST)


class Moments(NamedTuple):
    """Sums over rows: mass (K,), mean less the component's mean (K, D), scatter about that mean; in frame units.

    The scatter is (K, D, D) for FULL, (1, D, D) for TIED, (K, D, 1) for DIAG and SPHERICAL.
    """

    mass: Array
    mean: Array
    scatter: Array

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of rows together (Chan, Golub & LeVeque 1983, eq. 2.1)."""
        mass = self.mass + other.mass
        share = np.divide(other.mass, mass, out=np.zeros_like(mass), where=mass > 0)
        delta = other.mean - self.mean
        mean = np.where(self.mass[:, None] > 0, self.mean + share[:, None] * delta, other.mean)
        between = _outer(self.mass * share, squarable(delta), self.scatter.shape)
        return Moments(mass, mean, self.scatter + other.scatter + between)


def _outer(weight: Array, delta: Array, shape: tuple[int, ...]) -> Array:
    """sum w delta delta^T of K differences, in the shape of a scatter."""
    if shape[2] == 1:
        return np.asarray((weight[:, None] * delta**2)[:, :, None])
    if shape[0] == 1 < len(delta):
        return np.asarray(((weight[:, None] * delta).T @ delta)[None])
    return np.asarray((weight[:, None] * delta)[:, :, None] * delta[:, None, :])


class Taken(NamedTuple):
    """Answers for m rows, and sums over those of positive weight."""

    logp: Array  # (m,) minus infinity below the range of doubles
    resp: Array  # (m, K)
    rest: Array  # (m,) share of the background
    label: NDArray[np.int64]
    totals: Array  # (5,) as in `Sums`
    moments: Moments | None


@dataclass(frozen=True, eq=False)
class Own:
    """Components in the units of the data.

    Attributes
    ----------
    family : Family
    means : (K, D)
    const : (K,) log pi_k - log det(covariance_k) / 2 - D/2 log 2 pi
    root : callable () -> upper triangular U with U U^T = precision: (K, D, D), (1, D, D) for TIED; else reciprocal
        deviations (K, D)
    base : constant log-density of the background, its weight included
    whiten : (D, D), or (D, 1) scales: differences in the units of the data to the frame
    move : callable (rows) -> rows, applied first, or None
    """

    family: Family
    means: Array
    const: Array
    root: Callable[[], Array]
    base: float
    whiten: Array
    move: Callable[[Array], Array] | None = None

    @cached_property
    def _roots(self) -> Array:
        return self.root()

    def _rooted(self, k: int, delta: Array) -> Array:
        """U_k^T delta for rows delta (m, D)."""
        root = self._roots[0 if self.family == Family.TIED else k]
        return np.asarray(delta * root if root.ndim == 1 else delta @ root)

    def take(self, rows: NDArray[Any], weight: Array | None, *, statistics: bool) -> Taken:
        """E-step over finite rows (m, F)."""
        K, D = self.means.shape
        size = max(16, _NUMBERS // (K * D))
        parts = [
            self._block(rows[i : i + size], None if weight is None else weight[i : i + size], statistics)
            for i in range(0, max(len(rows), 1), size)
        ]
        logp, resp, rest, label, totals, moments = zip(*parts, strict=True)
        total = moments[0]
        for part in moments[1:] if statistics else ():
            total = total.merge(part)
        join = np.concatenate
        return Taken(join(logp), join(resp), join(rest), join(label), np.sum(totals, axis=0), total)

    def _block(self, rows: NDArray[Any], weight: Array | None, statistics: bool) -> Taken:
        rows = np.asarray(rows, np.float64)
        w = np.ones(len(rows)) if weight is None else weight
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            x = rows if self.move is None else self.move(rows)
            logits, top = self._logits(x)
            taken = self._answers(logits, top, w)
            return taken._replace(moments=self._moments(x, taken.resp * w[:, None])) if statistics else taken

    def _logits(self, x: Array) -> tuple[Array, Array]:
        """(m, K) logits less that of the best component, and that of the best (m,), which may be minus infinity."""
        m, K = len(x), len(self.means)
        scale, unit = np.empty((K, m)), np.empty((K, *x.shape))
        seen, distance = np.empty((K, *x.shape)), np.empty((K, m))
        for k in range(K):
            delta = x - self.means[k]
            scale[k] = np.ldexp(1.0, np.minimum(np.frexp(np.abs(delta).max(axis=1, initial=0.0))[1], 1023))
            unit[k] = delta / scale[k, :, None]
            seen[k] = self._rooted(k, unit[k])
            distance[k] = scale[k] * np.sqrt(np.einsum("mi,mi->m", seen[k], seen[k]))
        logits = self.const[:, None] - 0.5 * distance**2
        best = np.where(np.isneginf(logits).all(axis=0), distance.argmin(axis=0), logits.argmax(axis=0))
        apart = distance.min(axis=0) > _APART
        if apart.any():
            for b in np.unique(best[apart]):
                these = np.flatnonzero(apart & (best == b))
                # Squared distances of two components of one shape agree to all digits: their difference does not.
                for k in range(K):
                    step = self._rooted(k, self.means[b] - self.means[k]) / scale[b, these, None]
                    turn = self._rooted(k, unit[b, these]) - seen[b, these]
                    both = seen[b, these] + seen[k, these] * (scale[k, these] / scale[b, these])[:, None]
                    half = -0.5 * np.einsum("mi,mi->m", step + turn, both)
                    apart_by = half * scale[b, these] * scale[b, these]
                    logits[k, these] = np.nan_to_num(apart_by, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
                    logits[k, these] += self.const[k] - self.const[b]
                logits[b, these] = 0.0
        near = ~apart
        top = self.const[best] - 0.5 * np.take_along_axis(distance, best[None], axis=0)[0] ** 2
        logits[:, near] -= top[near]
        return logits.T, top

    def _answers(self, logits: Array, top: Array, w: Array) -> Taken:
        rest = np.full(len(logits), self.base) - np.where(np.isneginf(self.base), 0.0, top)
        label = logits.argmax(axis=1)
        high = np.take_along_axis(logits, label[:, None], axis=1)[:, 0]
        outside = rest > high
        value = np.where(outside, self.base, top + high)
        high = np.maximum(high, rest)
        d = np.where(logits == high[:, None], 0.0, logits - high[:, None])
        r = np.where(rest == high, 0.0, rest - high)
        e, f = np.exp(d), np.exp(r)
        total = e.sum(axis=1) + f
        mean = np.where(e > 0, e * d, 0.0).sum(axis=1) + np.where(f > 0, f * r, 0.0)
        log_total = np.log(total)
        logp = value + log_total
        sums = np.stack([np.maximum(logp, LEAST_LOG), log_total - mean / total, -log_total])
        here = w > 0
        totals = np.array([*(sums * w).sum(axis=1), w.sum(), here.sum()])
        label = np.where(outside, -1, label)
        return Taken(logp, e / total[:, None], f / total, label, totals, None)

    def _moments(self, x: Array, resp: Array) -> Moments:
        K, D = self.means.shape
        matrix = self.family in (Family.FULL, Family.TIED)
        mass, mean = resp.sum(axis=0), np.zeros((K, D))
        scatter = np.zeros((1 if self.family == Family.TIED else K, D, D if matrix else 1))
        for k in np.flatnonzero(mass > 0):
            present = resp[:, k] > 0
            r = resp[present, k]
            delta = x[present] - self.means[k]
            delta = delta @ self.whiten.T if self.whiten.shape[1] == D and matrix else delta * self.whiten[:, 0]
            delta = np.clip(delta, -1e300, 1e300)
            mean[k] = delta[0] + r / mass[k] @ (delta - delta[0])  # of equal rows it is that row, to the last digit
            rest = squarable(delta - mean[k])
            if matrix:
                scatter[0 if self.family == Family.TIED else k] += (rest * r[:, None]).T @ rest
            else:
                scatter[k, :, 0] = r @ rest**2
        return Moments(mass, mean, scatter)


def check_finite(rows: NDArray[Any], numbers: NDArray[np.int64]) -> None:
    """Raise `NonFiniteRowError` at the first of `rows` (m, F) with NaN or infinity; `numbers` (m,) says which it is."""
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise NonFiniteRowError(int(numbers[np.argmax(bad)]))
