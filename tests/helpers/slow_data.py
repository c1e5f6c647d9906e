"""Data on which EM is slow."""

from __future__ import annotations

import numpy as np

from streamgmm.mixture.mixture import Mixture

K, D = 12, 3


def slow(kind="full", n=6000, seed=0):
    """Rows of ten components apart from each other and a pair that EM takes long to tell apart; where it begins."""
    rng = np.random.default_rng(seed)
    means = np.concatenate([40.0 * rng.normal(size=(K - 2, D)), [[0.0, 0.0, 0.0], [1.6, 0.0, 0.0]]])
    X = means[rng.integers(0, K, n)] + rng.normal(size=(n, D))
    unit = {"full": np.tile(np.eye(D), (K, 1, 1)), "diag": np.ones((K, D)), "spherical": np.ones(K), "tied": np.eye(D)}
    return X, Mixture(np.full(K, 1 / K), means + 0.1 * rng.normal(size=(K, D)), unit[kind], kind)
