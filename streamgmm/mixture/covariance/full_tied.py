"""Full and tied covariances: frames with a lower triangular factor."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels.plan import Family, Sums
from streamgmm.mixture.covariance.base import (
    LARGEST,
    Array,
    Covariance,
    Framed,
    packed_indices,
    shares,
    square_indices,
    within_reach,
)
from streamgmm.mixture.covariance.cholesky import cholesky_or_none, inverse_lower, refined, spread_of
from streamgmm.utils.by_component import by_component, compiled


@cache
def _packed_quadratic(D: int) -> tuple[NDArray[np.intp], Array]:
    """Where in a (D, D) precision the coefficients of the products of features stand, and what they are times."""
    i, j = packed_indices(D)
    return i * D + j, np.where(i == j, -0.5, -1.0)


class Triangular(Covariance):
    """Base of full and tied: frames with a lower triangular factor."""

    def spread_scatter(self, scatter: Array, spread: Array) -> Array:
        if scatter.ndim == 2:
            return spread @ scatter @ spread.T
        out = np.empty_like(scatter)

        def some(part: slice) -> None:
            if compiled(len(spread)):
                from streamgmm.kernels.cuda.components import moved

                moved(scatter[part], spread, out[part])
            else:
                np.matmul(spread @ scatter[part], spread.T, out=out[part])

        by_component(some, len(scatter), spread.size)
        return out

    def precisions_cholesky(self, factors: Array) -> Array:
        return np.ascontiguousarray(np.swapaxes(inverse_lower(factors), -1, -2))

    def precisions(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky @ np.swapaxes(precisions_cholesky, -1, -2)

    def whitener(self, mean: Array, covariance: Array) -> Callable[[NDArray[Any]], Array]:
        inverse = inverse_lower(spread_of(covariance)).T
        return lambda rows: (rows - mean) @ inverse

    def variances(self, covariances: Array, K: int, D: int) -> Array:
        return np.broadcast_to(np.diagonal(covariances, axis1=-2, axis2=-1), (K, D))

    def _seen(self, at: Framed) -> Array:
        return np.einsum("ki,kij->kj", at.mu, at.inner) if len(at.inner) > 1 else at.mu @ at.inner[0]

    def _roots(self, factors: Array, K: int, D: int) -> Array:
        return self.precisions_cholesky(factors).reshape(-1, D, D)

    def _remote(self, at: Framed, delta: Array, near: NDArray[np.bool_]) -> Framed:
        mu = np.clip(delta @ at.whiten.T, -LARGEST, LARGEST)
        mu = np.where(near[:, None], at.mu, mu)
        mu *= within_reach(self._seen(at._replace(mu=mu)))[:, None]
        precision = self.precisions(at.inner)
        linear = np.einsum("kij,kj->ki", np.broadcast_to(precision, (len(mu), *precision.shape[1:])), mu)
        return at._replace(mu=mu, linear=linear)

    def from_overall(self, overall: Array) -> Array:
        return overall

    def add_to_diagonal(self, covariances: Array, value: float) -> Array:
        diagonal = np.einsum("...ii->...i", covariances)
        diagonal += value
        return covariances

    def prior_scale(self, scale: Array, D: int) -> Array:
        if scale.ndim == 2:
            return scale
        return np.diag(np.broadcast_to(scale, (D,)))

    def default_scale(self, covariance: Array, K: int) -> Array:
        return covariance * K ** (-2.0 / len(covariance))

    def log_kernel(self, scatter: Array, exponent: float, covariances: Array, factors: Array) -> float:
        log_det = 2.0 * np.log(np.diagonal(factors, axis1=-2, axis2=-1)).sum()
        trace = (self.precisions(self.precisions_cholesky(factors)) * scatter).sum()
        return float(-0.5 * (exponent * log_det + trace))

    def marginal(self, covariances: Array, features: NDArray[np.int64]) -> Array:
        return np.ascontiguousarray(covariances[..., features[:, None], features])

    @staticmethod
    def _regression(covariance: Array, o: NDArray[np.int64], m: NDArray[np.int64]) -> tuple[Array, Array]:
        """Slopes (..., m, o) and what they leave unexplained (..., m, m), of one covariance or of many at once."""
        lower = np.linalg.cholesky(covariance[..., o[:, None], o])
        gain = np.linalg.solve(lower, covariance[..., o[:, None], m])
        slopes = np.linalg.solve(np.swapaxes(lower, -1, -2), gain)
        rest = covariance[..., m[:, None], m] - np.swapaxes(gain, -1, -2) @ gain
        return np.swapaxes(slopes, -1, -2), rest

    def lift(self, covariances: Array, o: NDArray[np.int64], spread_o: Array, spread: Array) -> tuple[Array, Array]:
        whiten = inverse_lower(spread)
        D = covariances.shape[-1]
        m = np.setdiff1d(np.arange(D), o)
        linear = np.zeros((*covariances.shape[:-2], D, len(o)))
        rest = np.zeros(covariances.shape)
        linear[..., o, np.arange(len(o))] = 1.0
        linear[..., m, :], rest[..., m[:, None], m] = self._regression(covariances, o, m)
        return whiten @ linear @ spread_o, whiten @ rest @ whiten.T

    def to_frame(self, first: Array, second: Array, spread: Array) -> tuple[Array, Array]:
        whiten = inverse_lower(spread)
        return first @ whiten.T, whiten @ second @ whiten.T

    @staticmethod
    def _floor(covariance: Array, spread: Array, floor: float) -> Array:
        whiten = inverse_lower(spread)
        values, vectors = np.linalg.eigh(whiten @ covariance @ whiten.T)
        half = spread @ (vectors * np.sqrt(np.maximum(values, floor)))
        return np.asarray(half @ half.T)

    @staticmethod
    def _split(covariance: Array, spread: Array) -> tuple[Array, Array]:
        whiten = inverse_lower(spread)
        values, vectors = np.linalg.eigh(whiten @ covariance @ whiten.T)
        step = spread @ vectors[:, -1] * (0.5 * math.sqrt(max(values[-1], 0.0)))
        return step, covariance - np.outer(step, step)


class Full(Triangular):
    name = "full"
    kernel = Family.FULL

    def shape(self, K: int, D: int) -> tuple[int, ...]:
        return (K, D, D)

    def n_parameters(self, K: int, D: int) -> int:
        return K * D * (D + 1) // 2

    def between(self, weight: Array, delta: Array) -> Array:
        return (weight[:, None] * delta)[:, :, None] * delta[:, None, :]

    def _n_features(self, sums: Sums) -> int:
        p = sums.feature.shape[1]
        return (math.isqrt(8 * p + 1) - 3) // 2

    def scatter_of(self, x: Array, resp: Array, mean: Array) -> Array:
        return np.stack([((x - mean[k]) * resp[:, k, None]).T @ (x - mean[k]) for k in range(len(mean))])

    def total_scatter(self, scatter: Array, D: int) -> Array:
        return np.asarray(scatter.sum(axis=0))

    def floor(self, covariances: Array, spread: Array, floor: float, which: NDArray[np.bool_]) -> Array:
        covariances = covariances.copy()
        for k in np.flatnonzero(which):
            covariances[k] = self._floor(covariances[k], spread, floor)
        return covariances

    def split(self, covariances: Array, j: int, spread: Array) -> tuple[Array, Array]:
        return self._split(covariances[j], spread)

    def scatter_from_features(self, sums: Sums, weight: Array, mean: Array) -> Array:
        K, D = mean.shape
        scatter = np.empty((K, D, D))

        def some(part: slice) -> None:
            if compiled(D):
                from streamgmm.kernels.cuda.components import scatters

                scatters(sums.feature[part], weight[part], mean[part], scatter[part])
                return
            taken = np.take(sums.feature[part], square_indices(D), axis=1).reshape(-1, D, D)
            np.subtract(taken, self.between(weight[part], mean[part]), out=scatter[part])

        by_component(some, K, D * D)
        return scatter

    def divisor(self, weight: Array, D: int) -> Array:
        return weight[:, None, None]

    def prior_exponent(self, dof: float, K: int, D: int) -> float:
        return dof + D + 2

    def lifted(
        self,
        weight: Array,
        delta: Array,
        scatter: Array,
        lift: tuple[Array, Array],
        o: NDArray[np.int64],
        means: Array,
    ) -> tuple[Array, Array]:
        linear, rest = lift
        scatter = linear @ scatter @ linear.swapaxes(1, 2) + weight[:, None, None] * rest
        return means + (linear @ delta[:, :, None])[:, :, 0], scatter

    def for_missing(self, covariances: Array, D: int) -> Array:
        return covariances

    def regression(self, covariances: Array, o: NDArray[np.int64], m: NDArray[np.int64]) -> tuple[Array, Array]:
        return self._regression(covariances, o, m)

    def pool(self, covariances: Array, weights: Array, share: Array, delta: Array, member: Array) -> Array:
        inner = share[:, None, None] * covariances + self.between(share, delta)
        return np.tensordot(member, inner, 1)

    def factor(self, covariances: Array) -> tuple[Array, NDArray[np.bool_]]:
        K, D = covariances.shape[:2]
        factors, good = np.empty_like(covariances), np.empty(K, bool)

        def some(part: slice) -> None:
            if compiled(D):
                from streamgmm.kernels.cuda.components import cholesky

                cholesky(covariances[part], factors[part], good[part])
            else:
                factors[part], good[part] = cholesky_or_none(covariances[part])

        def refine(part: slice) -> None:
            factors[part] = refined(covariances[part], factors[part])

        by_component(some, K, D * D)
        if good.all():
            by_component(refine, K, D * D)
        return factors, good

    def covariances_from_precisions(self, precisions: Array) -> Array:
        return np.linalg.inv(precisions)

    def dense(self, covariances: Array, K: int, D: int) -> Array:
        return covariances

    def log_det(self, factors: Array, K: int, D: int) -> Array:
        return 2.0 * np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)

    def _framed(self, share: Array, delta: Array, covariances: Array, factors: Array) -> Framed:
        K, D = delta.shape
        within = np.dot(share[None], covariances.reshape(K, D * D)).reshape(D, D)
        spread = spread_of(within + (share[:, None] * delta).T @ delta)
        whiten = inverse_lower(spread)
        mu = delta @ whiten.T
        at, times = _packed_quadratic(D)
        upper, quadratic, linear, size = np.empty((K, D, D)), np.empty((K, len(at))), np.empty((K, D)), np.empty(K)

        def some(part: slice) -> None:
            if compiled(D):
                from streamgmm.kernels.cuda.components import frames

                frames(whiten, factors[part], mu[part], upper[part], quadratic[part], linear[part], size[part])
                return
            upper[part] = np.swapaxes(inverse_lower(whiten @ factors[part]), -1, -2)
            precision = self.precisions(upper[part])
            np.multiply(times, np.take(precision.reshape(-1, D * D), at, axis=1), out=quadratic[part])
            linear[part] = np.einsum("kij,kj->ki", precision, mu[part])
            size[part] = np.sqrt(np.add.reduce(precision * precision, axis=(1, 2)))

        by_component(some, K, D * D)
        return Framed(spread, whiten, mu, upper, quadratic, linear, size)


class Tied(Triangular):
    name = "tied"
    kernel = Family.TIED
    shared = True

    def shape(self, K: int, D: int) -> tuple[int, ...]:
        return (D, D)

    def n_parameters(self, K: int, D: int) -> int:
        return D * (D + 1) // 2

    def between(self, weight: Array, delta: Array) -> Array:
        return (weight[:, None] * delta).T @ delta

    def _n_features(self, sums: Sums) -> int:
        return sums.feature.shape[1] - 1

    def scatter_of(self, x: Array, resp: Array, mean: Array) -> Array:
        scatter = np.zeros((x.shape[1], x.shape[1]))
        for k in range(len(mean)):
            scatter += ((x - mean[k]) * resp[:, k, None]).T @ (x - mean[k])
        return scatter

    def total_scatter(self, scatter: Array, D: int) -> Array:
        return scatter

    def floor(self, covariances: Array, spread: Array, floor: float, which: NDArray[np.bool_]) -> Array:
        return self._floor(covariances, spread, floor)

    def split(self, covariances: Array, j: int, spread: Array) -> tuple[Array, Array]:
        return self._split(covariances, spread)[0], covariances

    def replace_component(self, covariances: Array, which: tuple[int, ...], value: Array) -> Array:
        return covariances

    def scatter_from_features(self, sums: Sums, weight: Array, mean: Array) -> Array:
        D = mean.shape[1]
        i, j = packed_indices(D)
        scatter = np.empty((D, D))
        scatter[i, j] = sums.quad
        scatter[j, i] = sums.quad
        return scatter - self.between(weight, mean)

    def scatter_from_moments(self, second: Array, mass: Array, shift: Array) -> Array:
        return second[0] - self.between(mass, shift)

    def divisor(self, weight: Array, D: int) -> Array:
        return np.asarray(weight.sum())

    def prior_exponent(self, dof: float, K: int, D: int) -> float:
        return dof + D + 1 + K

    def lifted(
        self,
        weight: Array,
        delta: Array,
        scatter: Array,
        lift: tuple[Array, Array],
        o: NDArray[np.int64],
        means: Array,
    ) -> tuple[Array, Array]:
        linear, rest = lift
        return means + delta @ linear.T, linear @ scatter @ linear.T + weight.sum() * rest

    def for_missing(self, covariances: Array, D: int) -> Array:
        return covariances[None]

    def regression(self, covariances: Array, o: NDArray[np.int64], m: NDArray[np.int64]) -> tuple[Array, Array]:
        slopes, rest = self._regression(covariances, o, m)
        return slopes[None], rest

    def pool(self, covariances: Array, weights: Array, share: Array, delta: Array, member: Array) -> Array:
        return covariances + self.between(shares(weights), delta)

    def factor(self, covariances: Array) -> tuple[Array, NDArray[np.bool_]]:
        factors, good = cholesky_or_none(covariances[None])
        return (refined(covariances[None], factors) if good.all() else factors)[0], good

    def covariances_from_precisions(self, precisions: Array) -> Array:
        return np.linalg.inv(precisions)

    def dense(self, covariances: Array, K: int, D: int) -> Array:
        return np.broadcast_to(covariances, (K, D, D))

    def log_det(self, factors: Array, K: int, D: int) -> Array:
        return np.full(K, 2.0 * np.log(np.diagonal(factors)).sum())

    def _framed(self, share: Array, delta: Array, covariances: Array, factors: Array) -> Framed:
        K, D = delta.shape
        whiten = inverse_lower(factors)
        mu = delta @ whiten.T
        return Framed(factors, whiten, mu, np.eye(D)[None], np.empty((K, 0)), mu, np.ones(K))


FULL, TIED = Full(), Tied()
