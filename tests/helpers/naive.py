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


def missing_e_step(X, weights, means, covariances, covariance_type, noise=0.0, box=None, sample_weight=None):
    """Row by row, NaN where missing: statistics by conditional moments, log p, responsibilities, imputed rows."""
    X = np.asarray(X, float)
    n, D = X.shape
    K = len(weights)
    sigma = dense_covariances(covariance_type, covariances, K, D)
    mass, first, second = np.zeros(K), np.zeros((K, D)), np.zeros((K, D, D))
    logp, filled = np.zeros(n), X.copy()
    resp = np.tile(np.append(weights, noise) if box is not None else weights, (n, 1))
    loglik = 0.0
    for row in range(n):
        w = 1.0 if sample_weight is None else sample_weight[row]
        o = ~np.isnan(X[row])
        m = ~o
        if not o.any():
            filled[row] = weights @ means + (noise * box.mean(axis=0) if box is not None else 0.0)
            continue
        logs, hats, rests = [], [], []
        for k in range(K):
            soo, smo = sigma[k][np.ix_(o, o)], sigma[k][np.ix_(m, o)]
            d = X[row, o] - means[k, o]
            logs.append(
                np.log(weights[k]) - 0.5 * d @ np.linalg.solve(soo, d) - 0.5 * np.linalg.slogdet(2 * np.pi * soo)[1]
            )
            hat = X[row].copy()
            hat[m] = means[k, m] + smo @ np.linalg.solve(soo, d)
            rest = np.zeros((D, D))
            rest[np.ix_(m, m)] = sigma[k][np.ix_(m, m)] - smo @ np.linalg.solve(soo, smo.T)
            hats.append(hat)
            rests.append(rest)
        if box is not None:
            logs.append(np.log(noise) - np.log(box[1, o] - box[0, o]).sum())
        logp[row] = logsumexp(logs)
        r = np.exp(np.array(logs) - logp[row])
        resp[row] = r
        loglik += w * logp[row]
        filled[row, m] = (r[:K] @ np.array(hats))[m] + (r[K] * box.mean(axis=0)[m] if box is not None else 0.0)
        for k in range(K):
            mass[k] += w * r[k]
            first[k] += w * r[k] * hats[k]
            second[k] += w * r[k] * (np.outer(hats[k], hats[k]) + rests[k])
    mean = first / mass[:, None]
    full = second - mass[:, None, None] * mean[:, :, None] * mean[:, None, :]
    scatter = {
        "full": full,
        "tied": full.sum(axis=0),
        "diag": np.stack([np.diag(s) for s in full]),
        "spherical": np.array([np.trace(s) for s in full]),
    }[covariance_type]
    return (mass, mean, scatter, loglik), logp, resp, filled


def missing_em(X, model, covariance_type, n_iter, reg_covar=0.0):
    """n_iter EM steps on rows with NaN: the model and the log-likelihood before each M-step."""
    trace = []
    for _ in range(n_iter):
        (mass, mean, scatter, loglik), *_ = missing_e_step(X, *model, covariance_type)
        trace.append(loglik)
        model = m_step(mass, mean, scatter, covariance_type, reg_covar)
    return model, trace


def factor_step(X, weights, means, loadings, noise, kind):
    """One EM step of factor analysers with explicit D x D matrices.

    Returns the log-likelihood before it, and weights, means, loadings (K, D, q), noise variances (K, D) after it.
    """
    K, D, q = loadings.shape
    sigma = np.stack([loadings[k] @ loadings[k].T + np.diag(noise[k]) for k in range(K)])
    logs = log_densities(X, weights, means, sigma)
    r = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
    mass = r.sum(axis=0)
    means = (r.T @ X) / mass[:, None]
    after, rest = np.empty((K, D, q)), np.empty((K, D))
    for k in range(K):
        delta = X - means[k]
        covariance = (r[:, k, None] * delta).T @ delta / mass[k]
        beta = loadings[k].T @ np.linalg.inv(sigma[k])
        second = np.eye(q) - beta @ loadings[k] + beta @ covariance @ beta.T
        after[k] = covariance @ beta.T @ np.linalg.inv(second)
        rest[k] = np.diag(covariance - after[k] @ beta @ covariance)
    if kind == "shared":
        rest[:] = mass @ rest / mass.sum()
    elif kind == "isotropic":
        rest[:] = rest.mean(axis=1, keepdims=True)
    return logsumexp(logs, axis=1).sum(), mass / mass.sum(), means, after, rest
