"""Slow, obvious twins: everything in plain NumPy, one row and one component at a time where that is clearest."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp


def dense_covariances(covariance_type, covariances, K, D):
    """Covariances as (K, D, D)."""
    if covariance_type == "full":
        return np.asarray(covariances)
    if covariance_type == "tied":
        return np.stack([covariances] * K)
    if covariance_type == "diag":
        return np.stack([np.diag(c) for c in covariances])
    return np.stack([c * np.eye(D) for c in covariances])


def log_densities(X, weights, means, covariances, covariance_type="full"):
    """(N, K) log pi_k N(x_i | k)."""
    X = np.asarray(X, float)
    K, D = means.shape
    out = np.empty((len(X), K))
    with np.errstate(divide="ignore"):
        log_pi = np.log(weights)
    for k, sigma in enumerate(dense_covariances(covariance_type, covariances, K, D)):
        lower = np.linalg.cholesky(sigma)
        y = np.linalg.solve(lower, (X - means[k]).T)
        out[:, k] = log_pi[k] - 0.5 * (y**2).sum(axis=0) - np.log(np.diag(lower)).sum() - 0.5 * D * np.log(2 * np.pi)
    return out


def responsibilities(X, *model):
    """(N, K)."""
    logs = log_densities(X, *model)
    return np.exp(logs - logsumexp(logs, axis=1, keepdims=True))


def log_prob(X, *model):
    """(N,)."""
    return logsumexp(log_densities(X, *model), axis=1)


def stats(X, weights, means, covariances, covariance_type="full", sample_weight=None):
    """weight, mean, scatter, loglik, entropy, log_max."""
    X = np.asarray(X, float)
    w = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, float)
    r = responsibilities(X, weights, means, covariances, covariance_type)
    mass = (w[:, None] * r).sum(axis=0)
    mean = np.stack([(w * r[:, k]) @ X / mass[k] for k in range(len(mass))])
    full = np.stack([((w * r[:, k])[:, None] * (X - mean[k])).T @ (X - mean[k]) for k in range(len(mass))])
    scatter = {
        "full": full,
        "tied": full.sum(axis=0),
        "diag": np.stack([np.diag(s) for s in full]),
        "spherical": np.array([np.trace(s) for s in full]),
    }[covariance_type]
    loglik = (w * log_prob(X, weights, means, covariances, covariance_type)).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -(w[:, None] * np.where(r > 0, r * np.log(r), 0.0)).sum()
    return mass, mean, scatter, loglik, entropy, (w * np.log(r.max(axis=1))).sum()


def m_step(mass, mean, scatter, covariance_type, reg_covar=0.0):
    """weights, means, covariances."""
    K, D = mean.shape
    if covariance_type == "full":
        cov = np.stack([scatter[k] / mass[k] + reg_covar * np.eye(D) for k in range(K)])
    elif covariance_type == "tied":
        cov = scatter / mass.sum() + reg_covar * np.eye(D)
    elif covariance_type == "diag":
        cov = scatter / mass[:, None] + reg_covar
    else:
        cov = scatter / (mass * D) + reg_covar
    return mass / mass.sum(), mean, cov


def em(X, model, covariance_type, n_iter, reg_covar=0.0, sample_weight=None):
    """n_iter EM steps: the model and the log-likelihood before each M-step."""
    trace = []
    for _ in range(n_iter):
        mass, mean, scatter, loglik, *_ = stats(X, *model, covariance_type, sample_weight)
        trace.append(loglik)
        model = m_step(mass, mean, scatter, covariance_type, reg_covar)
    return model, trace


def em_with_noise(X, model, noise, box, covariance_type, n_iter):
    """n_iter EM steps with a uniform background over `box`: model, noise weight, log-likelihoods before each M-step."""
    X = np.asarray(X, float)
    log_density = -np.log(box[1] - box[0]).sum()
    trace = []
    for _ in range(n_iter):
        logs = np.column_stack(
            [log_densities(X, *model, covariance_type), np.full(len(X), np.log(noise) + log_density)]
        )
        total = logsumexp(logs, axis=1)
        trace.append(total.sum())
        r = np.exp(logs - total[:, None])
        mass = r.sum(axis=0)
        K = len(mass) - 1
        mean = np.stack([r[:, k] @ X / mass[k] for k in range(K)])
        full = np.stack([(r[:, k, None] * (X - mean[k])).T @ (X - mean[k]) for k in range(K)])
        scatter = {
            "full": full,
            "tied": full.sum(axis=0),
            "diag": np.stack([np.diag(s) for s in full]),
            "spherical": np.array([np.trace(s) for s in full]),
        }[covariance_type]
        _, mean, cov = m_step(mass[:K], mean, scatter, covariance_type)
        model, noise = (mass[:K] / len(X), mean, cov), mass[K] / len(X)
    return model, noise, trace
