"""Queries of a mixture beyond densities: samples, moments, marginals, conditionals, merged components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.kernels.plain.factor import FactorPlan, posterior_factors
from streamgmm.mixture.covariance import TIED, Covariance, Factor
from streamgmm.mixture.covariance.base import AnyPlan
from streamgmm.mixture.observation import Observation
from streamgmm.mixture.parameters import Parameters, Questions, checked_rows

Array = NDArray[np.float64]


def moments(model: Parameters) -> tuple[Array, Array]:
    """Overall mean (D,) and covariance (D, D), background included."""
    K, D = model.means.shape
    mean = model.weights @ model.means
    if isinstance(model.family, Factor):
        inner = model.family.overall(model.weights, model.covariances)
    else:
        inner = np.tensordot(model.weights, model.family.dense(model.covariances, K, D), 1)
    centres, weights = model.means, model.weights
    if model.box is not None:
        centre = model.box.mean(axis=0)
        mean = mean + model.noise_weight * centre
        inner = inner + model.noise_weight * np.diag((model.box[1] - model.box[0]) ** 2 / 12.0)
        centres, weights = np.vstack([centres, centre]), np.append(weights, model.noise_weight)
    delta = centres - mean
    return mean, inner + (weights[:, None] * delta).T @ delta


def factor_scores(family: Covariance, plan: AnyPlan, rows: NDArray[Any]) -> Array:
    """Posterior means of the factors (N, K, q); see `Mixture.factor_scores`."""
    if not isinstance(plan, FactorPlan):
        raise ValueError(f"Expected a mixture of factor analysers; got covariance_type {family.name!r}.")
    return posterior_factors(plan, rows)


def sample(
    model: Parameters, n_samples: int, rng: np.random.Generator | np.random.RandomState
) -> tuple[Array, NDArray[np.int64]]:
    """Rows and labels; see `Mixture.sample`."""
    K, D = model.means.shape
    shares = model.weights if model.box is None else np.append(model.weights, model.noise_weight)
    counts = rng.multinomial(n_samples, shares / shares.sum())
    labels = np.repeat(np.arange(len(counts)), counts)
    noise = rng.standard_normal((n_samples, D))
    factors = model.factors
    values = np.empty((n_samples, D))
    stop = np.cumsum(counts)
    for k in range(K):
        part = slice(stop[k] - counts[k], stop[k])
        factor = factors if model.family is TIED else factors[k]
        if isinstance(model.family, Factor):
            values[part] = model.means[k] + noise[part] * factor[:, -1]
            values[part] += rng.standard_normal((counts[k], model.family.n_factors)) @ factor[:, :-1].T
            continue
        values[part] = model.means[k] + (noise[part] @ factor.T if np.ndim(factor) == 2 else noise[part] * factor)
    if model.box is not None:
        values[labels == K] = rng.uniform(*model.box, size=(counts[K], D))
        labels[labels == K] = -1
    return values, labels


def marginal[M: Questions](model: M, features: ArrayLike) -> M:
    """The mixture of some features, in the order given; see `Mixture.marginal`."""
    o = _features(features, model.n_features)
    covariances = model.family.marginal(model.covariances, o)
    return _with(model, model.weights, model.noise_weight, model.means[:, o].copy(), covariances, o)


def condition[M: Questions](model: M, given: Mapping[int, float]) -> M:
    """The mixture of the other features where some have these values; see `Mixture.condition`."""
    o = _features(list(given), model.n_features)
    x = np.array([float(given[i]) for i in given])
    if not np.isfinite(x).all():
        raise ValueError(f"condition: expected finite values; got {dict(given)}. Leave unknown features out.")
    rest = _others(o, model.n_features)
    shares = marginal(model, o).responsibilities(x[None])[0]
    slopes, covariances = model.family.regression(model.covariances, o, rest)
    means = model.means[:, rest] + (slopes @ (x - model.means[:, o])[:, :, None])[:, :, 0]
    noise = 0.0 if model.box is None else float(shares[-1])
    return _with(model, shares[: model.n_components].copy(), noise, means, covariances, rest)


def regression(model: Questions, X: ArrayLike, given: ArrayLike) -> tuple[Array, Array]:
    """Means and covariances of the other features, row by row; see `Mixture.regression`."""
    o = _features(given, model.n_features)
    rest = _others(o, model.n_features)
    part = marginal(model, o)
    rows = checked_rows(X, len(o)).astype(np.float64)
    shares = part.responsibilities(rows)
    K, m = model.n_components, len(rest)
    slopes, covariances = model.family.regression(model.covariances, o, rest)
    dense = model.family.dense(covariances, K, m)
    slopes = np.broadcast_to(slopes, (K, m, len(o)))
    centres = np.stack([model.means[k, rest] + (rows - model.means[k, o]) @ slopes[k].T for k in range(K)], axis=1)
    if model.box is not None:
        corners = model.box[:, rest]
        centre = np.broadcast_to(corners.mean(axis=0), (len(rows), 1, m))
        centres = np.concatenate([centres, centre], axis=1)
        dense = np.concatenate([dense, np.diag((corners[1] - corners[0]) ** 2 / 12.0)[None]])
    means = np.einsum("nk,nkm->nm", shares, centres)
    delta = centres - means[:, None]
    spread = np.einsum("nk,nki,nkj->nij", shares, delta, delta, optimize=True)
    return means, np.tensordot(shares, dense, 1) + spread


def merge_components[M: Questions](model: M, groups: Sequence[Sequence[int]]) -> M:
    """Every group of components as one; see `Mixture.merge_components`."""
    K = model.n_components
    named = [int(k) for group in groups for k in group]
    if len(set(named)) != len(named) or not set(named) <= set(range(K)) or not all(len(g) for g in groups):
        raise ValueError(
            f"merge_components: expected groups of different components from 0 to {K - 1}, each in at most one group; "
            f"got {[list(group) for group in groups]}."
        )
    index = np.arange(K)
    for group in groups:
        index[list(group)] = min(group)
    index = np.unique(index, return_inverse=True)[1]
    member = np.zeros((int(index.max()) + 1, K))
    member[index, np.arange(K)] = 1.0
    weights = member @ model.weights
    share = np.where(weights[index] > 0, model.weights, 1.0)  # a group without weight: its members alike
    share = share / (member @ share)[index]
    means = (member * share) @ model.means
    family = model.family
    pooled = family.pool(model.covariances, model.weights, share, model.means - means[index], member)
    pooled = family.constrained(pooled, weights, means.shape[1])
    factors, good = family.factor(pooled)
    if not good.all():
        raise ValueError(
            "merge_components: components lie so far apart that the covariance of both together is singular in double "
            "precision. Expected components that one covariance can hold: leave rows far from all others out, or "
            "merge others."
        )
    return model.trusted(weights, means, pooled, family, factors, model.noise_weight, model.observation)


def reduced[M: Questions](model: M, n_components: int) -> M:
    """Merge the cheapest pair until `n_components` are left (Runnalls 2007, a bound on the Kullback-Leibler loss)."""
    if not 1 <= n_components <= model.n_components:
        raise ValueError(
            f"merge_components: n_components must be from 1 to {model.n_components}, the number there is; "
            f"got {n_components}."
        )
    while model.n_components > n_components:
        model = merge_components(model, [cheapest_pair(model)])
    return model


def cheapest_pair(model: Parameters, but: int | None = None) -> tuple[int, int]:
    """The pair whose moment-preserving merge has the smallest bound ((wi+wj) log|S| - wi log|Si| - wj log|Sj|) / 2.

    Component `but` is left alone.
    """
    K, D = model.means.shape
    dense = model.family.dense(model.covariances, K, D)
    log_det = np.linalg.slogdet(dense)[1]
    w = model.weights
    best, pair = np.inf, (0, 1)
    for i in range(K - 1):
        others = np.arange(i + 1, K)
        both = np.maximum(w[i] + w[others], np.finfo(float).tiny)
        share = w[others] / both
        delta = model.means[others] - model.means[i]
        within = (1 - share)[:, None, None] * dense[i] + share[:, None, None] * dense[others]
        with np.errstate(over="ignore"):
            # |S + d d'| = |S| (1 + d' S^-1 d): where d is far larger than S, the sum has no determinant left.
            between = np.einsum("md,md->m", delta, np.linalg.solve(within, delta[..., None])[..., 0])
            merged = np.linalg.slogdet(within)[1] + np.log1p((1 - share) * share * np.maximum(between, 0.0))
        cost = both * merged - w[i] * log_det[i] - w[others] * log_det[others]
        cost[(others == but) | (i == but)] = np.inf
        j = int(np.argmin(cost))
        if cost[j] < best:
            best, pair = float(cost[j]), (i, int(others[j]))
    return pair


def _with[M: Questions](
    model: M, weights: Array, noise_weight: float, means: Array, covariances: Array, features: NDArray[np.int64]
) -> M:
    """A mixture of `features` only."""
    family = model.family.unconstrained  # a part of the features need not have the structure of all
    factors, good = family.factor(covariances)
    if not good.all():
        raise ValueError(
            "The mixture is so close to singular that this part of it has no positive definite covariance. Fit with a "
            "larger reg_covar, or a prior."
        )
    seen = model.observation
    if seen is not None and seen.box is not None:
        seen = Observation(np.ascontiguousarray(seen.box[:, features]), seen.missing)
    return model.trusted(weights, means, covariances, family, factors, noise_weight, seen)


def _features(features: ArrayLike, D: int) -> NDArray[np.int64]:
    chosen = np.atleast_1d(np.asarray(features))
    if chosen.dtype == bool and chosen.shape == (D,):
        chosen = np.flatnonzero(chosen)
    unique = set(chosen.tolist())
    if chosen.dtype.kind not in "iu" or chosen.ndim != 1 or not unique <= set(range(D)) or not unique:
        raise ValueError(f"Expected features as numbers from 0 to {D - 1}, at least one; got {features!r}.")
    if len(unique) != len(chosen):
        raise ValueError(f"Expected each feature once; got {features!r}.")
    return chosen.astype(np.int64)


def _others(features: NDArray[np.int64], D: int) -> NDArray[np.int64]:
    rest = np.setdiff1d(np.arange(D), features)
    if rest.size == 0:
        raise ValueError("Every feature is given, so nothing is left to predict: leave at least one out.")
    return rest
