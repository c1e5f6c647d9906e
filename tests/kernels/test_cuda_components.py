"""Compiled arithmetic of components, against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from streamgmm.kernels.cuda import components
from streamgmm.mixture.covariance import FULL
from streamgmm.mixture.covariance.cholesky import cholesky_or_none, inverse_lower
from streamgmm.utils.by_component import as_here, component_threads

SHAPES = [(1, 1), (3, 2), (8, 3), (9, 8), (17, 16), (5, 33)]


def matrices(K, D, seed=0):
    root = np.random.default_rng(seed).normal(size=(K, D, D))
    return root @ root.swapaxes(1, 2) + np.eye(D)


def near(a, b, tolerance=1e-13):
    assert a.shape == b.shape and np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize(("K", "D"), SHAPES)
def test_each_is_what_numpy_makes(K, D):
    rng = np.random.default_rng(1)
    A, spread = matrices(K, D), np.linalg.cholesky(matrices(1, D, 3)[0])
    lower, good = np.full_like(A, 7.0), np.zeros(K, bool)
    components.cholesky(A, lower, good)
    assert good.all()
    near(lower, np.linalg.cholesky(A))
    out = np.full_like(A, 7.0)
    components.moved(A, spread, out)
    near(out, spread @ A @ spread.T)
    assert np.array_equal(out, out.swapaxes(1, 2))
    i, j = np.tril_indices(D)
    weight, mean = rng.uniform(1.0, 2.0, K), rng.normal(size=(K, D))
    feature = np.concatenate([A[:, i, j], mean, weight[:, None]], axis=1)
    components.scatters(feature, weight, mean, out)
    near(out, A - weight[:, None, None] * mean[:, :, None] * mean[:, None, :])
    whiten = inverse_lower(spread)
    upper, quadratic, linear, size = (np.full(shape, 7.0) for shape in ((K, D, D), (K, len(i)), (K, D), (K,)))
    components.frames(whiten, lower, mean, upper, quadratic, linear, size)
    expected = inverse_lower(whiten @ lower).swapaxes(1, 2)
    precision = expected @ expected.swapaxes(1, 2)
    near(upper, expected, 1e-12)
    near(quadratic, np.where(i == j, -0.5, -1.0) * precision[:, i, j], 1e-12)
    near(linear, np.einsum("kij,kj->ki", precision, mean), 1e-12)
    near(size, np.linalg.norm(precision, axis=(1, 2)), 1e-12)


def test_matrices_without_a_factor_are_told():
    A = matrices(11, 4)
    A[2, 1, 1] = -1.0
    A[5] = np.nan
    A[9] = np.inf
    A[10, 3] = A[10, :, 3] = 0.0
    lower, good = np.empty_like(A), np.empty(11, bool)
    components.cholesky(A, lower, good)
    expected, found = cholesky_or_none(A)
    assert np.array_equal(good, found) and (~found).nonzero()[0].tolist() == [2, 5, 9, 10]
    assert np.isnan(lower[~good]).all()
    near(lower[good], expected[good])


def test_tasks_of_other_threads_compile_where_their_fit_does(monkeypatch):
    used = []
    monkeypatch.setattr(components, "cholesky", lambda A, lower, good: used.append(len(A)) or good.fill(True))
    A = matrices(3, 2)
    FULL.factor(A)
    assert used == []
    with component_threads(1, compiled=True):
        FULL.factor(A)
        task = as_here(FULL.factor)
        with component_threads(1):
            FULL.factor(A)
            assert as_here(FULL.factor) == FULL.factor
    assert used == [3]
    task(A)
    FULL.factor(A)
    assert used == [3, 3]
