"""Divergences between two mixtures: closed forms where they exist, else bounds and a sampled value with its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from streamgmm.mixture.covariance import FULL
from streamgmm.mixture.covariance.base import LOG_2PI
from streamgmm.mixture.mixture import Mixture

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Divergence:
    """A Kullback-Leibler divergence KL(p || q) = E_p[log p - log q], in nats.

    Attributes
    ----------
    value, standard_error : sampled from p; the error is that of the mean of `n_samples` draws
    lower, upper : rigorous bounds (see `kl_bounds`); 0 and infinity with a background

    Examples
    --------
    >>> import streamgmm as sg
    >>> a, b = (sg.Mixture([1.0], [[m]], [[[1.0]]]) for m in (0.0, 1.0))
    >>> found = sg.kl_divergence(a, b, n_samples=1000, random_state=0)
    >>> abs(found.value - 0.5) < 5 * found.standard_error
    True
    """

    value: float
    standard_error: float
    n_samples: int
    lower: float
    upper: float


def l2_distance(p: Mixture, q: Mixture) -> float:
    """sqrt of the integrated squared difference of the densities, exact.

    Its unit is that of sqrt(density): it depends on the units of the data.

    Examples
    --------
    >>> import streamgmm as sg
    >>> a, b = (sg.Mixture([1.0], [[m]], [[[1.0]]]) for m in (0.0, 1.0))
    >>> round(sg.l2_distance(a, b), 6), sg.l2_distance(a, a)
    (0.353268, 0.0)
    """
    logs = np.array([_log_overlap(p, p), _log_overlap(q, q), _log_overlap(p, q)])
    top = logs.max()
    square = np.exp(logs - top) @ [1.0, 1.0, -2.0]
    return float(np.exp(0.5 * top) * np.sqrt(max(square, 0.0)))


def cauchy_schwarz_divergence(p: Mixture, q: Mixture) -> float:
    """-log of the cosine between the densities, exact: 0 for equal ones, without units, symmetric.

    Source: Kampa, Hasanbelliu & Principe 2011.

    Examples
    --------
    >>> import streamgmm as sg
    >>> a, b = (sg.Mixture([1.0], [[m]], [[[1.0]]]) for m in (0.0, 2.0))
    >>> round(sg.cauchy_schwarz_divergence(a, b), 12)
    1.0
    """
    return max(0.0, 0.5 * (_log_overlap(p, p) + _log_overlap(q, q)) - _log_overlap(p, q))


def matched_kl_divergence(p: Mixture, q: Mixture) -> float:
    """KL(p || q) of the two Gaussians that have the overall moments of the mixtures, in nats; exact for them.

    Examples
    --------
    >>> import streamgmm as sg
    >>> p = sg.Mixture([1.0], [[0.0]], [1.0], "spherical")
    >>> q = sg.Mixture([1.0], [[1.0]], [1.0], "spherical")
    >>> round(float(sg.matched_kl_divergence(p, q)), 6)
    0.5
    """
    _same_features(p, q)
    (a, A), (b, B) = p.moments(), q.moments()
    return float(_kl(a[None], np.linalg.cholesky(A)[None], b[None], np.linalg.cholesky(B)[None])[0, 0])


def kl_divergence(p: Mixture, q: Mixture, *, n_samples: int = 100_000, random_state: Any = None) -> Divergence:
    """KL(p || q) by sampling from p, with its standard error, between rigorous bounds.

    Parameters
    ----------
    n_samples : int >= 2
    random_state : None, int, RandomState or Generator

    Examples
    --------
    >>> import streamgmm as sg
    >>> a, b = (sg.Mixture([1.0], [[m]], [[[1.0]]]) for m in (0.0, 1.0))
    >>> d = sg.kl_divergence(a, b, random_state=0)
    >>> round(d.upper, 12), bool(abs(d.value - 0.5) < 4 * d.standard_error)
    (0.5, True)
    """
    _same_features(p, q)
    if n_samples < 2:
        raise ValueError(f"n_samples must be at least 2, or no error can be stated; got {n_samples}.")
    rows, _ = p.sample(n_samples, random_state)
    difference = p.log_prob(rows) - q.log_prob(rows)
    error = float(difference.std(ddof=1) / np.sqrt(n_samples))
    background = p.noise_weight > 0 or q.noise_weight > 0
    lower, upper = (0.0, np.inf) if background else kl_bounds(p, q)
    return Divergence(float(difference.mean()), error, n_samples, lower, upper)


def kl_bounds(p: Mixture, q: Mixture) -> tuple[float, float]:
    """Lower and upper bound of KL(p || q), in nats.

    Per component a of p, E_a[log q] lies between log sum_b w_b exp(-KL(a || b)) - H(a) and log sum_b w_b (a, b), the
    last being the integral of the product; likewise E_a[log p] (Durrieu, Thiran & Kelly 2012, section 4). The upper
    bound is the smaller of that one and the variational one of Hershey & Olsen (2007, section 7), exact for Gaussians.

    Examples
    --------
    >>> import streamgmm as sg
    >>> p = sg.Mixture([1.0], [[0.0]], [1.0], "spherical")
    >>> q = sg.Mixture([1.0], [[1.0]], [1.0], "spherical")
    >>> low, high = sg.kl_bounds(p, q)
    >>> bool(low <= 0.5 + 1e-9 and high >= 0.5 - 1e-9)
    True
    """
    _same_features(p, q)
    _no_background(p, q)
    present = p.weights > 0
    with np.errstate(divide="ignore"):
        own, other = np.log(p.weights), np.log(q.weights)
    L, M = _factors(p), _factors(q)
    entropy = 0.5 * p.n_features * (1.0 + LOG_2PI) + _log_det(L)
    below_p = logsumexp(own - _kl(p.means, L, p.means, L), axis=1) - entropy
    apart = _kl(p.means, L, q.means, M)
    below_q = logsumexp(other - apart, axis=1) - entropy
    above_p = logsumexp(own + _log_products(p, p), axis=1)
    above_q = logsumexp(other + _log_products(p, q), axis=1)
    weights = p.weights[present] / p.weights.sum()
    upper = min(float(weights @ (above_p - below_q)[present]), _variational_bound(weights, q.weights, apart[present]))
    return max(0.0, float(weights @ (below_p - above_q)[present])), max(0.0, upper)


def _variational_bound(v: Array, w: Array, apart: Array) -> float:
    """sum f (log f/g + KL(a || b)), with f (K, J) splitting each weight v of p and g each weight w of q among pairs."""
    with np.errstate(divide="ignore"):
        log_f = np.log(v)[:, None] + np.log(w / w.sum())
        log_w = np.log(w / w.sum())
        for _ in range(50):  # each half step lowers the bound, and every step is one
            log_g = log_w + log_f - logsumexp(log_f, axis=0)
            scores = np.where(np.isfinite(log_g), log_g, -np.inf) - apart
            log_f = np.log(v)[:, None] + scores - logsumexp(scores, axis=1, keepdims=True)
    f = np.exp(log_f)
    used = f > 0
    return float((f[used] * (log_f - log_g + apart)[used]).sum())


def _log_overlap(p: Mixture, q: Mixture) -> float:
    """Log of the integral of p q."""
    _same_features(p, q)
    _no_background(p, q)
    with np.errstate(divide="ignore"):
        pairs = np.log(p.weights)[:, None] + np.log(q.weights) + _log_products(p, q)
    return float(logsumexp(pairs))


def _log_products(p: Mixture, q: Mixture) -> Array:
    """(K, J) log of the integral of N_k N_j: the density of N(mu_j, Sigma_k + Sigma_j) at mu_k."""
    (K, D), J = p.means.shape, q.n_components
    A, B = p.family.dense(p.covariances, K, D), q.family.dense(q.covariances, J, D)
    out = np.empty((K, J))
    for k in range(K):
        lower = np.linalg.cholesky(A[k] + B)
        y = np.linalg.solve(lower, (p.means[k] - q.means)[:, :, None])[:, :, 0]
        out[k] = -0.5 * (D * LOG_2PI + np.einsum("ji,ji->j", y, y)) - _log_det(lower)
    return out


def _factors(p: Mixture) -> Array:
    """(K, D, D) lower Cholesky factors."""
    return FULL.factor(p.family.dense(p.covariances, *p.means.shape))[0]


def _log_det(lower: Array) -> Array:
    """Half the log determinants of the covariances with these factors."""
    return np.log(np.diagonal(lower, axis1=-2, axis2=-1)).sum(axis=-1)


def _kl(means: Array, lower: Array, others: Array, factors: Array) -> Array:
    """(K, J) KL(N_k || N_j) of Gaussians with these means and Cholesky factors."""
    K, D = means.shape
    out = np.empty((K, len(others)))
    for j, factor in enumerate(factors):
        ratio = solve_triangular(factor, np.concatenate(lower, axis=1), lower=True).reshape(D, K, D)
        y = solve_triangular(factor, (means - others[j]).T, lower=True)
        square = np.einsum("ikj,ikj->k", ratio, ratio) + np.einsum("ik,ik->k", y, y)
        out[:, j] = 0.5 * (square - D) + _log_det(factor) - _log_det(lower)
    return np.maximum(out, 0.0)


def _same_features(p: Mixture, q: Mixture) -> None:
    if p.n_features != q.n_features:
        raise ValueError(f"Expected two mixtures of as many features; got {p.n_features} and {q.n_features}.")


def _no_background(p: Mixture, q: Mixture) -> None:
    if p.noise_weight > 0 or q.noise_weight > 0:
        raise ValueError(
            "A uniform background has no closed form here. Use kl_divergence, which samples, or leave it out: "
            "mixture.observing(None)."
        )
