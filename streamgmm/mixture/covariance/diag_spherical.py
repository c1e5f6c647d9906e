"""Diagonal and spherical covariances: frames that only scale the features."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels.plan import Family, Sums
from streamgmm.mixture.covariance.base import LARGEST, Array, Covariance, Framed, within_reach


class Scaled(Covariance):
    """Base of diag and spherical: frames that only scale the features."""

    def precisions_cholesky(self, factors: Array) -> Array:
        return 1.0 / factors

    def precisions(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky**2

    def covariances_from_precisions(self, precisions: Array) -> Array:
        return 1.0 / precisions

    def factor(self, covariances: Array) -> tuple[Array, NDArray[np.bool_]]:
        good = np.isfinite(covariances) & (covariances > 0)
        good = good if good.ndim == 1 else good.all(axis=1)
        with np.errstate(invalid="ignore"):
            return np.sqrt(covariances), good

    def add_to_diagonal(self, covariances: Array, value: float) -> Array:
        return covariances + value

    def variances(self, covariances: Array, K: int, D: int) -> Array:
        return self._per_feature(covariances, D)

    def _seen(self, at: Framed) -> Array:
        return at.mu * at.inner

    def _roots(self, factors: Array, K: int, D: int) -> Array:
        return 1.0 / np.broadcast_to(factors.reshape(K, -1), (K, D))

    def _remote(self, at: Framed, delta: Array, near: NDArray[np.bool_]) -> Framed:
        mu = np.clip(delta / at.spread, -LARGEST, LARGEST)
        mu *= within_reach(mu * at.inner)[:, None]
        return at._replace(mu=mu, linear=at.inner**2 * mu)

    def default_scale(self, covariance: Array, K: int) -> Array:
        D = len(covariance)
        return self.prior_scale(np.asarray(np.diag(covariance).mean() * K ** (-2.0 / D)), D)

    def log_kernel(self, scatter: Array, exponent: float, covariances: Array, factors: Array) -> float:
        return float(-0.5 * (exponent * np.log(covariances) + scatter / covariances).sum())

    def for_missing(self, covariances: Array, D: int) -> Array:
        return np.ascontiguousarray(self._per_feature(covariances, D)[:, :, None])

    def to_frame(self, first: Array, second: Array, spread: Array) -> tuple[Array, Array]:
        return first / spread, second / spread[:, None] ** 2

    def regression(self, covariances: Array, o: NDArray[np.int64], m: NDArray[np.int64]) -> tuple[Array, Array]:
        return np.zeros((1, len(m), len(o))), self.marginal(covariances, m)

    def pool(self, covariances: Array, weights: Array, share: Array, delta: Array, member: Array) -> Array:
        D = delta.shape[1]
        inner = self.divisor(share, D) * covariances + self.between(share, delta)
        return np.tensordot(member, inner, 1) / self.divisor(np.ones(len(member)), D)

    def _lifted_mean(self, delta: Array, ratio: Array, o: NDArray[np.int64], means: Array) -> Array:
        mean = means.copy()
        mean[:, o] += delta * ratio
        return mean

    def _scales(self, share: Array, delta: Array, covariances: Array) -> Array:
        """(D,) scales of the frame."""
        variance = share @ self._per_feature(covariances, delta.shape[1]) + share @ delta**2
        variance[~((variance > 0) & np.isfinite(variance))] = 1.0
        return np.sqrt(variance)

    @abstractmethod
    def _per_feature(self, covariances: Array, D: int) -> Array:
        """Variances as (K, D)."""

    @abstractmethod
    def _quadratic(self, precision: Array) -> Array:
        """Coefficients of the quadratic features, from precisions (K, D)."""

    def dense(self, covariances: Array, K: int, D: int) -> Array:
        return np.asarray(self._per_feature(covariances, D)[:, :, None] * np.eye(D))

    def _framed(self, share: Array, delta: Array, covariances: Array, factors: Array) -> Framed:
        spread = self._scales(share, delta, covariances)
        mu = delta / spread
        reciprocal = np.ascontiguousarray(spread / np.sqrt(self._per_feature(covariances, delta.shape[1])))
        precision = reciprocal**2
        whiten = np.ascontiguousarray(1.0 / spread[:, None])
        return Framed(spread, whiten, mu, reciprocal, self._quadratic(precision), precision * mu, precision.max(axis=1))


class Diag(Scaled):
    name = "diag"
    kernel = Family.DIAG

    def shape(self, K: int, D: int) -> tuple[int, ...]:
        return (K, D)

    def n_parameters(self, K: int, D: int) -> int:
        return K * D

    def between(self, weight: Array, delta: Array) -> Array:
        return weight[:, None] * delta**2

    def spread_scatter(self, scatter: Array, spread: Array) -> Array:
        return np.asarray(scatter * spread**2)

    def whitener(self, mean: Array, covariance: Array) -> Callable[[NDArray[Any]], Array]:
        scale = np.sqrt(np.diag(covariance))
        scale = np.where(scale > 0, scale, 1.0)
        return lambda rows: (rows - mean) / scale

    def scatter_of(self, x: Array, resp: Array, mean: Array) -> Array:
        return np.stack([resp[:, k] @ (x - mean[k]) ** 2 for k in range(len(mean))])

    def total_scatter(self, scatter: Array, D: int) -> Array:
        return np.asarray(scatter.sum(axis=0))

    def from_overall(self, overall: Array) -> Array:
        return (np.diag(overall) if overall.ndim == 2 else overall).copy()

    def floor(self, covariances: Array, spread: Array, floor: float, which: NDArray[np.bool_]) -> Array:
        least = floor * np.einsum("ij,ij->i", spread, spread)
        return np.where(which[:, None], np.maximum(covariances, least), covariances)

    def split(self, covariances: Array, j: int, spread: Array) -> tuple[Array, Array]:
        widest = int(np.argmax(covariances[j] / np.einsum("ij,ij->i", spread, spread)))
        step = np.zeros(len(covariances[j]))
        step[widest] = 0.5 * math.sqrt(covariances[j, widest])
        return step, covariances[j] - step**2

    def _n_features(self, sums: Sums) -> int:
        return (sums.feature.shape[1] - 1) // 2

    def scatter_from_features(self, sums: Sums, weight: Array, mean: Array) -> Array:
        D = mean.shape[1]
        return np.maximum(sums.feature[:, :D] - self.between(weight, mean), 0.0)

    def scatter_from_moments(self, second: Array, mass: Array, shift: Array) -> Array:
        return np.maximum(second[:, :, 0] - self.between(mass, shift), 0.0)

    def divisor(self, weight: Array, D: int) -> Array:
        return weight[:, None]

    def prior_scale(self, scale: Array, D: int) -> Array:
        if scale.ndim == 2:
            raise ValueError("prior: the scale of a 'diag' mixture must be a number or have shape (D,); got a matrix.")
        return np.broadcast_to(scale, (D,))

    def prior_exponent(self, dof: float, K: int, D: int) -> float:
        return dof + 3

    def marginal(self, covariances: Array, features: NDArray[np.int64]) -> Array:
        return np.ascontiguousarray(covariances[:, features])

    def lift(self, covariances: Array, o: NDArray[np.int64], spread_o: Array, spread: Array) -> tuple[Array, Array]:
        rest = covariances / spread**2
        rest[:, o] = 0.0
        return spread_o / spread[o], rest

    def lifted(
        self,
        weight: Array,
        delta: Array,
        scatter: Array,
        lift: tuple[Array, Array],
        o: NDArray[np.int64],
        means: Array,
    ) -> tuple[Array, Array]:
        ratio, rest = lift
        total = weight[:, None] * rest
        total[:, o] += scatter * ratio**2
        return self._lifted_mean(delta, ratio, o, means), total

    def log_det(self, factors: Array, K: int, D: int) -> Array:
        return 2.0 * np.log(factors).sum(axis=1)

    def _per_feature(self, covariances: Array, D: int) -> Array:
        return covariances

    def _quadratic(self, precision: Array) -> Array:
        return -0.5 * precision


class Spherical(Scaled):
    name = "spherical"
    kernel = Family.SPHERICAL

    def shape(self, K: int, D: int) -> tuple[int, ...]:
        return (K,)

    def n_parameters(self, K: int, D: int) -> int:
        return K

    def between(self, weight: Array, delta: Array) -> Array:
        return weight * np.einsum("ki,ki->k", delta, delta)

    def spread_scatter(self, scatter: Array, spread: Array) -> Array:
        return np.asarray(scatter * spread[0] ** 2)

    def whitener(self, mean: Array, covariance: Array) -> Callable[[NDArray[Any]], Array]:
        variance = np.diag(covariance) if covariance.ndim == 2 else covariance
        scale = math.sqrt(float(variance.mean())) or 1.0
        return lambda rows: (rows - mean) / scale

    def scatter_of(self, x: Array, resp: Array, mean: Array) -> Array:
        return np.array([resp[:, k] @ ((x - mean[k]) ** 2).sum(axis=1) for k in range(len(mean))])

    def total_scatter(self, scatter: Array, D: int) -> Array:
        return np.full(D, scatter.sum() / D)

    def from_overall(self, overall: Array) -> Array:
        return np.asarray((np.diag(overall) if overall.ndim == 2 else overall).mean())

    def floor(self, covariances: Array, spread: Array, floor: float, which: NDArray[np.bool_]) -> Array:
        least = floor * float(np.einsum("ij,ij->i", spread, spread).mean())
        return np.where(which, np.maximum(covariances, least), covariances)

    def split(self, covariances: Array, j: int, spread: Array) -> tuple[Array, Array]:
        sizes = np.einsum("ij,ij->i", spread, spread)
        step = np.zeros(len(sizes))
        step[np.argmax(sizes)] = 0.5 * math.sqrt(covariances[j])
        return step, np.asarray(covariances[j] * (1.0 - 0.25 / len(sizes)))

    def _n_features(self, sums: Sums) -> int:
        return sums.feature.shape[1] - 2

    def scatter_from_features(self, sums: Sums, weight: Array, mean: Array) -> Array:
        return np.maximum(sums.feature[:, 0] - self.between(weight, mean), 0.0)

    def scatter_from_moments(self, second: Array, mass: Array, shift: Array) -> Array:
        return np.maximum(second[:, :, 0].sum(axis=1) - self.between(mass, shift), 0.0)

    def divisor(self, weight: Array, D: int) -> Array:
        return weight * D

    def prior_scale(self, scale: Array, D: int) -> Array:
        if scale.ndim > 0:
            raise ValueError(f"prior: the scale of a 'spherical' mixture must be a number; got shape {scale.shape}.")
        return scale

    def prior_exponent(self, dof: float, K: int, D: int) -> float:
        return dof + D + 2

    def marginal(self, covariances: Array, features: NDArray[np.int64]) -> Array:
        return covariances

    def lift(self, covariances: Array, o: NDArray[np.int64], spread_o: Array, spread: Array) -> tuple[Array, Array]:
        return spread_o / spread[o], (len(spread) - len(o)) * covariances / spread[0] ** 2

    def lifted(
        self,
        weight: Array,
        delta: Array,
        scatter: Array,
        lift: tuple[Array, Array],
        o: NDArray[np.int64],
        means: Array,
    ) -> tuple[Array, Array]:
        ratio, rest = lift
        return self._lifted_mean(delta, ratio, o, means), scatter * ratio[0] ** 2 + weight * rest

    def log_det(self, factors: Array, K: int, D: int) -> Array:
        return 2.0 * D * np.log(factors)

    def _scales(self, share: Array, delta: Array, covariances: Array) -> Array:
        variance = super()._scales(share, delta, covariances) ** 2
        return np.full(delta.shape[1], math.sqrt(variance.mean()))

    def _per_feature(self, covariances: Array, D: int) -> Array:
        return np.repeat(covariances[:, None], D, axis=1)

    def _quadratic(self, precision: Array) -> Array:
        return -0.5 * precision[:, :1]


DIAG, SPHERICAL = Diag(), Spherical()
