"""Mixtures, rows of them and starts, for the benchmarks of graphics cards."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def mixture(D, K, family, seed=1):
    """Weights, means and covariances (K, D, D): deviations 0.5 to 1.5, rotated unless diagonal, in various units."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(K, 5.0))
    means = rng.normal(size=(K, D))
    covariances = np.empty((K, D, D))
    for k in range(K):
        turn = np.eye(D) if family == "diag" else np.linalg.qr(rng.normal(size=(D, D)))[0]
        covariances[k] = (turn * rng.uniform(0.5, 1.5, D) ** 2) @ turn.T
    unit = np.exp(rng.normal(size=D))
    return weights, means * unit + 3.0 * unit, covariances * unit[:, None] * unit


def draw(n, parameters, xp, dtype="float64", seed=3):
    """n rows, a run for each component, made by NumPy or CuPy."""
    _, means, covariances = parameters
    K, D = means.shape
    rng = xp.random.default_rng(seed)
    out = xp.empty((n, D), dtype)
    edges = np.linspace(0, n, K + 1).astype(int)
    for k, (first, stop) in enumerate(pairwise(edges)):
        lower, mean = xp.asarray(np.linalg.cholesky(covariances[k]), dtype), xp.asarray(means[k], dtype)
        for at in range(first, stop, 2**22):
            m = min(2**22, stop - at)
            out[at : at + m] = rng.standard_normal((m, D), dtype) @ lower.T + mean
    return out


def start(parameters, family):
    """Parameters to begin with: those of the rows, moved a little."""
    weights, means, covariances = parameters
    means = means + 0.1 * np.sqrt(np.einsum("kii->ki", covariances)) * np.random.default_rng(7).normal(size=means.shape)
    pooled = np.tensordot(weights, covariances, 1)
    variances = np.einsum("kii->ki", covariances)
    precisions = {
        "full": lambda: np.linalg.inv(covariances),
        "tied": lambda: np.linalg.inv(pooled),
        "diag": lambda: 1.0 / variances,
        "spherical": lambda: 1.0 / variances.mean(axis=1),
    }[family]()
    return {"weights_init": weights, "means_init": means, "precisions_init": precisions}
