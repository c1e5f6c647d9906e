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
