"""A fit that is in trouble is mended, says so, and ends."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import streamgmm as sg

SOLVERS = ("auto", "exact", "squarem", "incremental", "stepwise")


def troubled(n, D, seed=0):
    """Rows repeated many times, and one constant feature."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, D)) * rng.uniform(0.5, 3, D) + 6 * rng.integers(0, 3, (n, 1))
    X[:, D // 2] = 3.5
    X[n // 5 : 3 * n // 5] = X[rng.integers(0, 30, 3 * n // 5 - n // 5)]
    return X


def check(X, K, solver, max_iter, n_init=1):
    D = X.shape[1]
    gm = sg.GaussianMixture(K, reg_covar=0, random_state=0, max_iter=max_iter, solver=solver, n_init=n_init)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        gm.fit(X)
    repairs = gm.report_["repairs"]
    assert any(e.get("features") == [D // 2] for e in repairs), "the degenerate feature is named"
    times = np.bincount([e["component"] for e in repairs if e["action"] == "re-seeded"], minlength=K)
    assert times.max() <= 2, "no endless re-seeding"
    for value in (gm.weights_, gm.means_, gm.covariances_, gm.score_samples(X[:500])):
        assert np.isfinite(value).all()
    assert gm.weights_.sum() == pytest.approx(1.0)
    return gm


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n_init", [1, 3])
def test_repeated_rows_and_a_constant_feature(solver, n_init):
    check(troubled(1500, 4), 12, solver, 8, n_init)


@pytest.mark.slow
def test_ninety_six_components_on_repeated_rows():
    check(troubled(97_000, 12), 96, "auto", 25)


def test_a_factor_of_a_matrix_singular_to_rounding_keeps_its_sign():
    from streamgmm.mixture.covariance.cholesky import refined

    rng = np.random.default_rng(0)
    checked = 0
    for _ in range(200):
        root = rng.normal(size=(4, 4)) * np.geomspace(1.0, 10.0 ** -rng.uniform(6, 9), 4)
        try:
            lower = np.linalg.cholesky(root @ root.T)
        except np.linalg.LinAlgError:
            continue
        checked += 1
        better = refined((root @ root.T)[None], lower[None])[0]
        assert (np.diag(better) > 0).all()
        np.testing.assert_allclose(better @ better.T, root @ root.T, rtol=1e-6, atol=1e-15)
    assert checked > 50
