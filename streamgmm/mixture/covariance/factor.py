"""Factor analysers: covariances of low rank plus a diagonal, with memory and work linear in the features.

Sigma_k = Lambda_k Lambda_k^T + Psi_k, with loadings Lambda_k (D, q) and noise variances Psi_k: x = mu_k + Lambda_k f +
noise, where f has q independent standard normal entries (Ghahramani & Hinton 1996; with isotropic noise: Tipping &
Bishop 1999). The arrays of `Covariance` are packed:

* covariances (K, D, q + 1): the loadings, and the noise variances last. Factors alike, with deviations last.
* scatter (K, D + q, q + 1): rows are features, then factors; the columns [:, :q] hold sum r (x - xbar) E[f]^T and sum r
  E[(f - fbar)(f - fbar)^T], the last one sum r (x - xbar)^2 and sum r E[f].

These are expected sufficient statistics of rows with their factors, so they add up across chunks, and across models.
The M-step takes the weighted mean of the rows, the maximum for every covariance, and then regresses rows on factors,

    Lambda = cross latent^-1,        N psi = square - diag(Lambda cross^T),

one EM step of the factor model about that mean. Thus no step lowers the likelihood, and each needs one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels.plain.factor import FactorMoments, FactorPlan, FactorSums, Origin, run
from streamgmm.kernels.plan import Family, Sums
from streamgmm.mixture.covariance.base import (
    LOG_2PI,
    AnyPlan,
    AnySums,
    Array,
    ComponentMoments,
    Covariance,
    Framed,
    WeightedMoments,
    log_weights,
    shares,
)
from streamgmm.mixture.covariance.cholesky import inverse_lower

__all__ = ["KINDS", "Factor", "factor_family"]

KINDS = {"factor": "free", "factor-shared": "shared", "ppca": "isotropic"}
"""Names of the families, and what their noise variances are."""
HEYWOOD = 1e-12
"""Least noise variance of a feature, as a share of its variance: the likelihood may want none (a Heywood case)."""
_SUBSPACE_STEPS, _EXTRA = 4, 8


@cache
def factor_family(kind: str, n_factors: int) -> Factor:
    """The family of this kind with q factors; one object each, so that `is` compares."""
    return Factor(kind, n_factors)


class Factor(Covariance):
    """Loadings and noise variances; see the module."""

    kernel = Family.FACTOR
    has_prior = False

    def __init__(self, kind: str, n_factors: int) -> None:
        self.kind = kind
        self.noise = KINDS[kind]
        self.n_factors = n_factors
        self.name = f"{kind}:{n_factors}"
        self.shared = self.noise == "shared"

    def __reduce__(self) -> tuple[Callable[..., Factor], tuple[str, int]]:
        return factor_family, (self.kind, self.n_factors)

    @property
    def covariance_type(self) -> str:
        return self.kind

    @property
    def unconstrained(self) -> Covariance:
        return factor_family("factor", self.n_factors)

    # Shapes and counts ------------------------------------------------------------------------------------------

    def shape(self, K: int, D: int) -> tuple[int, ...]:
        return (K, D, self.n_factors + 1)

    def scatter_shape(self, K: int, D: int) -> tuple[int, ...]:
        return (K, D + self.n_factors, self.n_factors + 1)

    def n_parameters(self, K: int, D: int) -> int:
        q = min(self.n_factors, D)
        noise = {"free": K * D, "shared": D, "isotropic": K}[self.noise]
        return K * (D * q - q * (q - 1) // 2) + noise

    def least_rows(self, D: int) -> int:
        return self.n_factors + 2

    def check_features(self, D: int) -> None:
        if self.n_factors >= D:
            raise ValueError(
                f"n_factors must be less than the number of features; got n_factors={self.n_factors} and {D} "
                f"feature(s). Lower n_factors{'' if D > 1 else ', or use another covariance_type'}."
            )

    # Packing ----------------------------------------------------------------------------------------------------

    def split_columns(self, packed: Array) -> tuple[Array, Array]:
        """Loadings (K, D, q) and noise variances (K, D), or deviations, of packed arrays."""
        return packed[..., :-1], packed[..., -1]

    def _pack(self, moments: FactorMoments) -> Array:
        K, D, q = moments.cross.shape
        scatter = np.empty((K, D + q, q + 1))
        scatter[:, :D, :q], scatter[:, :D, q] = moments.cross, moments.square
        scatter[:, D:, :q], scatter[:, D:, q] = moments.latent, moments.first
        return scatter

    # Statistics -------------------------------------------------------------------------------------------------

    sums = staticmethod(run)

    def moments(self, sums: AnySums, plan: AnyPlan) -> list[ComponentMoments]:
        assert isinstance(sums, FactorSums)
        return [ComponentMoments(part.mass, part.mean, self._pack(part)) for part in sums.moments]

    def merged_scatter(self, a: WeightedMoments, b: WeightedMoments, moved: Array, delta: Array) -> Array:
        q = self.n_factors
        D = delta.shape[1]
        scatter = a.scatter + b.scatter
        factors = _per_row(b.scatter[:, D:, q], b.weight) - _per_row(a.scatter[:, D:, q], a.weight)
        weighted = moved[:, None] * delta
        scatter[:, :D, q] += weighted * delta
        scatter[:, :D, :q] += weighted[:, :, None] * factors[:, None, :]
        scatter[:, D:, :q] += (moved[:, None] * factors)[:, :, None] * factors[:, None, :]
        return scatter

    def between(self, weight: Array, delta: Array) -> Array:
        """Of rows that have the same factors."""
        K, D = delta.shape
        scatter = np.zeros(self.scatter_shape(K, D))
        scatter[:, :D, self.n_factors] = weight[:, None] * delta**2
        return scatter

    def spread_scatter(self, scatter: Array, spread: Array) -> Array:
        D, q = len(spread), self.n_factors
        scatter = scatter.copy()
        scatter[:, :D, :q] *= spread[:, None]
        scatter[:, :D, q] *= spread**2
        return scatter

    def scatter_from_features(self, sums: Sums, weight: Array, mean: Array) -> Array:
        raise AssertionError("statistics of factor analysers are made of moments")

    def _n_features(self, sums: Sums) -> int:
        raise AssertionError("statistics of factor analysers are made of moments")

    def scatter_of(self, x: Array, resp: Array, mean: Array) -> Array:
        """As one E-step of a factor analyser made of each component's own rows: principal axes of scaled features."""
        return np.stack([self._local(x, resp[:, k], mean[k]) for k in range(len(mean))])

    def _local(self, x: Array, resp: Array, mean: Array) -> Array:
        D, q = x.shape[1], self.n_factors
        present = resp > 0
        mass = resp.sum()
        if not mass > 0:
            return np.zeros((D + q, q + 1))
        y = (x[present] - mean) * np.sqrt(resp[present])[:, None]
        square = np.einsum("md,md->d", y, y)
        variance = square / mass
        scale = np.sqrt(np.where(variance > 0, variance, 1.0))
        loadings = _principal(y / scale, mass, q) * scale[:, None]
        noise = np.maximum(variance - (loadings**2).sum(axis=1), 1e-6 * scale**2)
        basis, turn = _woodbury(loadings[None], 1.0 / noise[None])
        beta = basis[0] @ turn[0].T
        cross = y.T @ (y @ beta)
        latent = beta.T @ cross + mass * turn[0] @ turn[0].T
        parts = (np.array([mass]), mean[None], square[None], cross[None], 0.5 * (latent + latent.T)[None])
        return self._pack(FactorMoments(*parts, np.zeros((1, q))))[0]

    def scatter_behind(self, covariances: Array, weights: Array) -> Array:
        """Scatter of rows of so much weight whose M-step gives these covariances."""
        K, D = covariances.shape[:2]
        loadings, _ = self.split_columns(covariances)
        latent = weights[:, None, None] * np.eye(self.n_factors)
        square = weights[:, None] * self.variances(covariances, K, D)
        cross = weights[:, None, None] * loadings
        zeros = np.zeros((K, self.n_factors))
        return self._pack(FactorMoments(weights, np.zeros((K, D)), square, cross, latent, zeros))

    def total_scatter(self, scatter: Array, D: int) -> Array:
        return np.asarray(scatter[:, :D, -1].sum(axis=0))

    # Parameters -------------------------------------------------------------------------------------------------

    def estimate(self, stats: WeightedMoments, reg_covar: float, previous: Array | None = None) -> Array:
        q, (K, D) = self.n_factors, stats.mean.shape
        cross, latent, square = stats.scatter[:, :D, :q], stats.scatter[:, D:, :q], stats.scatter[:, :D, q]
        covariances = np.full(self.shape(K, D), np.nan)
        present = (stats.weight > 0) & np.isfinite(stats.scatter).all(axis=(1, 2))
        mass = stats.weight[present, None]
        with np.errstate(all="ignore"):  # what does not exist is NaN, and treated as a collapse
            loadings = _regressed(cross[present], latent[present])
            rest = square[present] - np.einsum("kdq,kdq->kd", loadings, cross[present])
            noise = np.maximum(rest, HEYWOOD * square[present]) / mass
            noise[(rest <= HEYWOOD * square[present]).all(axis=1)] = 0.0  # its rows lie in q dimensions
            covariances[present, :, :q] = loadings
            covariances[present, :, q] = noise
            covariances = self.constrained(covariances, stats.weight, D)
        return self.add_to_diagonal(covariances, reg_covar)

    def constrained(self, covariances: Array, weights: Array, D: int) -> Array:
        if self.noise == "free":
            return covariances
        covariances = covariances.copy()
        noise = covariances[..., -1]
        if self.noise == "isotropic":
            covariances[..., -1] = noise.mean(axis=1, keepdims=True)
        else:
            present = weights > 0
            covariances[..., -1] = weights[present] @ noise[present] / weights[present].sum()
        return covariances

    def mode(self, scatter: Array, divisor: Array, reg_covar: float, D: int) -> Array:
        self._no_prior()

    def add_to_diagonal(self, covariances: Array, value: float) -> Array:
        covariances[..., -1] += value
        return covariances

    def divisor(self, weight: Array, D: int) -> Array:
        return weight[:, None, None]

    def factor(self, covariances: Array) -> tuple[Array, NDArray[np.bool_]]:
        loadings, noise = self.split_columns(covariances)
        good = (np.isfinite(loadings).all(axis=2) & np.isfinite(noise) & (noise > 0)).all(axis=1)
        with np.errstate(invalid="ignore"):
            return np.concatenate([loadings, np.sqrt(noise)[..., None]], axis=-1), good

    def precisions_cholesky(self, factors: Array) -> Array:
        """(K, D, D): made when asked for."""
        lower = np.linalg.cholesky(self.dense(self._covariances(factors), *factors.shape[:2]))
        return np.ascontiguousarray(np.swapaxes(inverse_lower(lower), -1, -2))

    def precisions(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky @ np.swapaxes(precisions_cholesky, -1, -2)

    def covariances_from_precisions(self, precisions: Array) -> Array:
        raise ValueError(
            f"precisions_init: covariance_type {self.kind!r} has loadings and noise variances instead. Expected None; "
            "start from a model with warm_start=True (GaussianMixture.from_factors)."
        )

    def inverse_trace(self, factors: Array) -> Array:
        """(K,) traces of the precisions."""
        loadings, deviations = self.split_columns(factors)
        precision = deviations**-2.0
        basis, _ = _woodbury(loadings, precision)
        return np.asarray(precision.sum(axis=1) - (basis**2).sum(axis=(1, 2)))

    def _covariances(self, factors: Array) -> Array:
        loadings, deviations = self.split_columns(factors)
        return np.concatenate([loadings, deviations[..., None] ** 2], axis=-1)

    def dense(self, covariances: Array, K: int, D: int) -> Array:
        loadings, noise = self.split_columns(covariances)
        return loadings @ loadings.swapaxes(1, 2) + noise[:, :, None] * np.eye(D)

    def overall(self, weights: Array, covariances: Array) -> Array:
        """(D, D) sum of weights times covariances, without those of the components."""
        loadings, noise = self.split_columns(covariances)
        wide = (loadings * np.sqrt(weights)[:, None, None]).swapaxes(0, 1).reshape(loadings.shape[1], -1)
        return np.asarray(wide @ wide.T + np.diag(weights @ noise))

    def variances(self, covariances: Array, K: int, D: int) -> Array:
        loadings, noise = self.split_columns(covariances)
        return np.einsum("kdq,kdq->kd", loadings, loadings) + noise

    def log_det(self, factors: Array, K: int, D: int) -> Array:
        loadings, deviations = self.split_columns(factors)
        inner = np.eye(self.n_factors) + loadings.swapaxes(1, 2) @ (loadings * deviations[..., None] ** -2.0)
        return np.asarray(2.0 * np.log(deviations).sum(axis=1) + np.linalg.slogdet(inner)[1])

    # Conjugate prior --------------------------------------------------------------------------------------------

    def _no_prior(self) -> NoReturn:
        raise ValueError(
            f"prior: covariance_type {self.kind!r} has none. Set prior=None; reg_covar bounds the noise variances."
        )

    def prior_scale(self, scale: Array, D: int) -> Array:
        self._no_prior()

    def default_scale(self, covariance: Array, K: int) -> Array:
        self._no_prior()

    def prior_exponent(self, dof: float, K: int, D: int) -> float:
        self._no_prior()

    def log_kernel(self, scatter: Array, exponent: float, covariances: Array, factors: Array) -> float:
        self._no_prior()

    # Missing entries --------------------------------------------------------------------------------------------

    def marginal(self, covariances: Array, features: NDArray[np.int64]) -> Array:
        return np.ascontiguousarray(covariances[:, features])

    def _no_missing(self) -> NoReturn:
        raise AssertionError("rows of factor analysers with missing entries are taken by kernels.plain.factor")

    def lift(self, covariances: Array, o: NDArray[np.int64], spread_o: Array, spread: Array) -> tuple[Array, Array]:
        self._no_missing()

    def lifted(
        self,
        weight: Array,
        delta: Array,
        scatter: Array,
        lift: tuple[Array, Array],
        o: NDArray[np.int64],
        means: Array,
    ) -> tuple[Array, Array]:
        self._no_missing()

    def for_missing(self, covariances: Array, D: int) -> Array:
        self._no_missing()

    def to_frame(self, first: Array, second: Array, spread: Array) -> tuple[Array, Array]:
        self._no_missing()

    # Queries ----------------------------------------------------------------------------------------------------

    def regression(self, covariances: Array, o: NDArray[np.int64], m: NDArray[np.int64]) -> tuple[Array, Array]:
        loadings, noise = self.split_columns(covariances)
        basis, turn = _woodbury(loadings[:, o], 1.0 / noise[:, o])
        slopes = loadings[:, m] @ (turn @ basis.swapaxes(1, 2))
        return slopes, np.concatenate([loadings[:, m] @ turn, noise[:, m, None]], axis=-1)

    def pool(self, covariances: Array, weights: Array, share: Array, delta: Array, member: Array) -> Array:
        loadings, noise = self.split_columns(covariances)
        wide = np.concatenate([loadings, delta[..., None]], axis=-1) * np.sqrt(share)[:, None, None]
        pooled = []
        for group in member:
            own = group > 0
            columns = np.concatenate(list(wide[own]), axis=1)
            pooled.append(self._truncated(columns, share[own] @ noise[own]))
        return np.stack(pooled)

    def _truncated(self, loadings: Array, noise: Array) -> Array:
        """(D, q + 1) the q widest directions of any number of loadings; the variance of the rest becomes noise."""
        q = self.n_factors
        variance = (loadings**2).sum(axis=1) + noise
        scale = np.sqrt(variance)
        left, sizes, _ = np.linalg.svd(loadings / scale[:, None], full_matrices=False)
        kept = np.zeros((len(noise), q))
        kept[:, : min(q, len(sizes))] = (left * sizes)[:, :q] * scale[:, None]
        rest = np.maximum(variance - (kept**2).sum(axis=1), noise)
        return np.concatenate([kept, rest[:, None]], axis=1)

    def whitener(self, mean: Array, covariance: Array) -> Callable[[NDArray[Any]], Array]:
        scale = np.sqrt(np.diag(covariance) if covariance.ndim == 2 else covariance)
        scale = np.where(scale > 0, scale, 1.0)
        return lambda rows: (rows - mean) / scale

    # Repair -----------------------------------------------------------------------------------------------------

    def from_overall(self, overall: Array) -> Array:
        """Half of every variance in waves over the features: without any loadings EM would never find some."""
        variance = np.diag(overall) if overall.ndim == 2 else overall
        D, q = len(variance), self.n_factors
        wave = np.cos(np.pi * (np.arange(D)[:, None] + 0.5) * np.arange(1, q + 1) / D)
        loadings = wave * np.sqrt(0.5 / q * variance)[:, None]
        return np.concatenate([loadings, (variance - (loadings**2).sum(axis=1))[:, None]], axis=1)

    def floor(self, covariances: Array, spread: Array, floor: float, which: NDArray[np.bool_]) -> Array:
        least = floor * np.einsum("ij,ij->i", spread, spread)
        covariances = covariances.copy()
        covariances[which, :, -1] = np.maximum(covariances[which, :, -1], least)
        return covariances

    def split(self, covariances: Array, j: int, spread: Array) -> tuple[Array, Array]:
        scale = np.sqrt(np.einsum("ij,ij->i", spread, spread))
        loadings, noise = self.split_columns(covariances[j].copy())
        _, sizes, right = np.linalg.svd(loadings / scale[:, None], full_matrices=False)
        widest = int(np.argmax(noise / scale**2))
        if sizes[0] ** 2 >= noise[widest] / scale[widest] ** 2:
            loadings = loadings @ right.T
            step = 0.5 * loadings[:, 0]
            loadings[:, 0] *= math.sqrt(0.75)
        else:
            step = np.zeros(len(noise))
            step[widest] = 0.5 * math.sqrt(noise[widest])
            noise[widest] *= 0.75
        return step, np.concatenate([loadings, noise[:, None]], axis=1)

    # Kernels ----------------------------------------------------------------------------------------------------

    def plan(
        self, weights: Array, means: Array, covariances: Array, factors: Array, base: float,
        log_factors: Array | None = None,
    ) -> Any:  # fmt: skip
        K, D = means.shape
        share = shares(weights)
        with np.errstate(over="ignore", invalid="ignore"):
            shift = share @ means
            variance = share @ (self.variances(covariances, K, D) + (means - shift) ** 2)
            variance[~((variance > 0) & np.isfinite(variance))] = 1.0
            spread = np.sqrt(variance)
            loadings, deviations = self.split_columns(factors)
            loadings = np.ascontiguousarray(loadings / spread[:, None])
            precision = (spread / deviations) ** 2
            basis, turn = _woodbury(loadings, precision)
            const = log_weights(weights) - 0.5 * (self.log_det(factors, K, D) + D * LOG_2PI)
            mu = (means - shift) / spread
        whiten = np.ascontiguousarray(1.0 / spread[:, None])
        own = Origin(means, whiten[:, 0])
        parts = (shift, whiten, mu, loadings, precision, basis, turn, const, base, own)
        return FactorPlan(self.kernel, *parts), spread

    def _seen(self, at: Framed) -> Array:
        raise AssertionError("a frame of factor analysers has no whitened means")

    def _remote(self, at: Framed, delta: Array, near: NDArray[np.bool_]) -> Framed:
        raise AssertionError("a frame of factor analysers has no whitened means")

    def _roots(self, factors: Array, K: int, D: int) -> Array:
        raise AssertionError("a frame of factor analysers has no roots")

    def _framed(self, share: Array, delta: Array, covariances: Array, factors: Array) -> Framed:
        raise AssertionError("a frame of factor analysers has no roots")


def _per_row(total: Array, weight: Array) -> Array:
    return np.divide(total, weight[:, None], out=np.zeros_like(total), where=weight[:, None] > 0)


def _woodbury(loadings: Array, precision: Array) -> tuple[Array, Array]:
    """A (K, D, q) and L (K, q, q) of `kernels.plain.factor`, from loadings and reciprocal noise variances (K, D)."""
    scaled = loadings * precision[..., None]
    inner = np.eye(loadings.shape[-1]) + loadings.swapaxes(-1, -2) @ scaled
    turn = np.swapaxes(inverse_lower(np.linalg.cholesky(inner)), -1, -2)
    return scaled @ turn, np.ascontiguousarray(turn)


def _regressed(cross: Array, latent: Array) -> Array:
    """Loadings cross latent^-1 (K, D, q)."""
    return np.linalg.solve(latent, cross.swapaxes(1, 2)).swapaxes(1, 2)


def _principal(y: Array, mass: float, q: int) -> Array:
    """Loadings (D, q) of probabilistic principal components of rows y (m, D) of weight `mass` (Tipping & Bishop 1999).

    By subspace iteration from fixed random directions: no matrix of D x D numbers.
    """
    D = y.shape[1]
    width = min(q + _EXTRA, D)
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((D, width)))[0]
    for _ in range(_SUBSPACE_STEPS if width < D else 0):
        basis = np.linalg.qr(y.T @ (y @ basis))[0]
    inside = y @ basis
    values, vectors = np.linalg.eigh(inside.T @ inside / mass)
    values, vectors = values[::-1][:q], vectors[:, ::-1][:, :q]
    left = np.einsum("md,md->", y, y) / mass - values.sum()
    noise = max(left, 0.0) / max(D - q, 1)
    return np.asarray((basis @ vectors) * np.sqrt(np.maximum(values - noise, 1e-3 * np.maximum(values, 1e-3))))
