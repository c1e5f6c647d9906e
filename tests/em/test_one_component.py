"""One component has a closed form: the first pass is the whole fit, for every family, weight, source and solver."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.exceptions
from scipy.stats import multivariate_normal

import streamgmm as sg
from streamgmm.sources import array_source
from tests.helpers.counting import Counting
from tests.helpers.mixtures import FAMILIES

SOLVERS = ("auto", "exact", "squarem", "incremental", "stepwise")


def data(n=500, D=4, offset=1e6):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, D)) @ rng.normal(size=(D, D)) + offset, rng.uniform(0.0, 2.0, n)


def right(X, w, covariance_type, reg_covar):
    """Mean, dense covariance and mean log-likelihood, by textbook formulas."""
    mean = np.average(X, axis=0, weights=w)
    delta = X - mean
    covariance = (delta * w[:, None]).T @ delta / w.sum()
    if covariance_type == "diag":
        covariance = np.diag(np.diag(covariance))
    if covariance_type == "spherical":
        covariance = np.eye(len(mean)) * np.trace(covariance) / len(mean)
    covariance = covariance + reg_covar * np.eye(len(mean))
    return mean, covariance, np.average(multivariate_normal(mean, covariance).logpdf(X), weights=w)


@pytest.mark.parametrize("covariance_type", FAMILIES)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("reg_covar", [0.0, 0.1])
def test_one_pass_gives_the_moments_and_their_likelihood(covariance_type, solver, reg_covar):
    X, w = data()
    source = Counting(array_source(X, w, chunk_rows=70))
    gm = sg.GaussianMixture(1, covariance_type=covariance_type, solver=solver, reg_covar=reg_covar).fit(source)
    mean, covariance, value = right(X, w, covariance_type, reg_covar)
    assert set(source.reads.values()) == {1} and gm.n_passes_ == gm.n_iter_ == 1
    assert gm.converged_ and gm.lower_bounds_ == [gm.lower_bound_]
    np.testing.assert_allclose(gm.means_[0], mean, rtol=1e-14)
    found = gm.mixture_.family.dense(gm.mixture_.covariances, 1, 4)[0]
    np.testing.assert_allclose(found, covariance, rtol=1e-8, atol=1e-9)
    assert gm.lower_bound_ == pytest.approx(value, abs=1e-8)
    assert gm.report_["rows"] == (w > 0).sum() and gm.report_["weight"] == pytest.approx(w.sum())


@pytest.mark.parametrize("covariance_type", FAMILIES)
def test_with_a_prior_it_is_the_limit_of_em(covariance_type):
    X, w = data(offset=3.0)
    gm = sg.GaussianMixture(1, covariance_type=covariance_type, prior="default").fit(X, sample_weight=w)
    assert gm.n_passes_ == 1
    stats = gm.mixture_.accumulate(X, sample_weight=w)
    prior = gm.prior_
    assert gm.lower_bound_ == pytest.approx((stats.loglik + prior.log_density(gm.mixture_)) / w.sum(), abs=1e-10)
    means, covariances = prior.estimate(stats, 1e-6)
    np.testing.assert_allclose(gm.means_, means, rtol=1e-10)
    np.testing.assert_allclose(gm.mixture_.covariances, covariances, rtol=1e-8)


def test_given_parameters_steps_and_checkpoints(tmp_path):
    X, _ = data(offset=0.0)
    whole = {"weights_init": [1.0], "means_init": np.zeros((1, 4)), "precisions_init": np.eye(4)[None]}
    plain = sg.GaussianMixture(1).fit(X)
    given = sg.GaussianMixture(1, **whole).fit(X)
    assert given.n_passes_ == 1 and np.array_equal(given.covariances_, plain.covariances_)
    gm = sg.GaussianMixture(1, checkpoint=tmp_path)
    (step,) = gm.fit_steps(X)
    assert step.candidates[0].status == "converged" and gm.lower_bounds_ == [step.candidates[0].objective]
    again = sg.GaussianMixture(1, checkpoint=tmp_path).fit(X)
    assert np.array_equal(again.covariances_, gm.covariances_) and again.lower_bounds_ == gm.lower_bounds_


def test_missing_entries_and_a_background_still_take_em():
    X, _ = data(offset=0.0)
    X[3, 1] = np.nan
    gm = sg.GaussianMixture(1, missing="marginalize").fit(X)
    assert gm.converged_ and gm.n_iter_ > 1
    noisy = sg.GaussianMixture(1, noise="uniform").fit(X[10:])
    assert noisy.noise_weight_ > 0 and noisy.n_iter_ > 1
    with pytest.raises(ValueError, match="NaN"):
        sg.GaussianMixture(1).fit(X)


def test_constant_features_are_floored_and_reported():
    X, _ = data(offset=5.0)
    X[:, 2] = 7.0
    gm = sg.GaussianMixture(1, reg_covar=0).fit(X)
    assert gm.n_passes_ == 1 and gm.means_[0, 2] == 7.0
    assert gm.report_["repairs"][0]["action"] == "floored" and gm.report_["repairs"][0]["features"] == [2]


def test_without_a_tolerance_every_iteration_is_taken():
    """`lower_bounds_[i]` is the log-likelihood after i M-steps, as trajectories of other programs have it."""
    X, _ = data()
    given = {"weights_init": [1.0], "means_init": [X.mean(axis=0) + 1.0], "precisions_init": [np.eye(4)]}
    with pytest.warns(sklearn.exceptions.ConvergenceWarning):
        gm = sg.GaussianMixture(1, tol=0, max_iter=5, reg_covar=0, solver="exact", **given).fit(X)
    assert len(gm.lower_bounds_) == gm.n_iter_ == 5
    assert gm.lower_bounds_[0] < gm.lower_bounds_[1]
    assert gm.lower_bounds_[1:] == pytest.approx([gm.lower_bounds_[1]] * 4)
