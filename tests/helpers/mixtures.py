"""Mixtures at random, of every family."""

from __future__ import annotations

import numpy as np

from streamgmm.mixture.mixture import Mixture

FAMILIES = ("full", "tied", "diag", "spherical")


def covariances_of(covariance_type: str, dense: np.ndarray) -> np.ndarray:
    """Covariances of a family from positive definite (K, D, D)."""
    return {
        "full": dense,
        "tied": dense[0],
        "diag": np.diagonal(dense, axis1=1, axis2=2).copy(),
        "spherical": dense[:, 0, 0].copy(),
    }[covariance_type]


def random_mixture(covariance_type: str, K: int, D: int, seed: int = 0, spread: float = 3.0) -> Mixture:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(K, D, D))
    dense = root @ root.swapaxes(1, 2) / D + 0.1 * np.eye(D)
    weights = rng.dirichlet(np.full(K, 5.0))
    return Mixture(weights, spread * rng.normal(size=(K, D)), covariances_of(covariance_type, dense), covariance_type)


def separated(K, D, n, seed, apart=9.0):
    """Rows of K Gaussians of different shape whose means are at least `apart` from each other."""
    rng = np.random.default_rng(seed)
    means = []
    while len(means) < K:
        mean = rng.uniform(-1, 1, size=D) * apart * K ** (1 / D)
        if all(np.linalg.norm(mean - other) > apart for other in means):
            means.append(mean)
    label = rng.choice(K, n, p=rng.dirichlet(np.full(K, 8.0)))
    X = np.empty((n, D))
    for k in range(K):
        root = rng.normal(size=(D, D))
        covariance = root @ root.T / D + 0.3 * np.eye(D)
        covariance *= D / np.trace(covariance)
        X[label == k] = rng.multivariate_normal(means[k], covariance, size=int((label == k).sum()))
    return X
