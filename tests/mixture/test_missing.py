"""Missing at random: against a dense reference EM, entry by entry, for every family, kernel and question."""

from __future__ import annotations

import sys
import warnings
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

import streamgmm as sg
from streamgmm.em.initialization.sample import complete
from streamgmm.mixture import missing
from streamgmm.mixture.m_step import bound
from streamgmm.mixture.observation import Observation
from streamgmm.runtime.executors import Threads
from streamgmm.sources import array_source
from tests.helpers.mixtures import FAMILIES, random_mixture
from tests.helpers.naive import missing_e_step, missing_em

MARGINALIZE = Observation(None, True)


def holes(X, share, seed=0, patterns=None):
    """X with about `share` of its entries NaN; with `patterns`, that many patterns at most."""
    rng = np.random.default_rng(seed)
    if patterns is None:
        mask = rng.random(X.shape) < share
    else:
        kinds = rng.random((patterns, X.shape[1])) < share
        kinds[0] = False
        mask = kinds[rng.integers(0, patterns, len(X))]
    return np.where(mask, np.nan, X)


@pytest.fixture(params=["many", "few", "both", "compiled many", "compiled few"])
def form(request, monkeypatch):
    """Force every group through the marginal mixtures, or through the form for few rows, or leave the choice."""
    which = request.param.split()[-1]
    monkeypatch.setattr(missing, "WORTH", {"many": 0, "few": 10**9, "both": 160}[which])
    monkeypatch.setenv("STREAMGMM_KERNELS", "vector" if "compiled" in request.param else "reference")
    return which


def asking(name, K, D, seed=0, **extra):
    model = random_mixture(name, K, D, seed)
    return sg.Mixture(model.weights, model.means, model.covariances, name, missing="marginalize", **extra)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_e_step_equals_the_naive_twin(name, form):
    model = asking(name, 3, 4, 1)
    X = holes(model.sample(400, 2)[0], 0.4, 3)
    X[5] = np.nan
    weight = np.random.default_rng(1).integers(0, 3, len(X)).astype(float)
    weight[5] = 1
    plain = (model.weights, model.means, model.covariances, name)
    (mass, mean, scatter, loglik), logp, resp, filled = missing_e_step(X, *plain, sample_weight=weight)
    stats = model.accumulate(X, weight)
    np.testing.assert_allclose(stats.weight, mass, rtol=1e-12)
    np.testing.assert_allclose(stats.mean, mean, rtol=1e-11)
    np.testing.assert_allclose(stats.scatter, scatter, rtol=1e-10, atol=1e-10)
    assert stats.loglik == pytest.approx(loglik, rel=1e-12)
    empty = np.isnan(X).all(axis=1)
    assert stats.dropped == (empty & (weight > 0)).sum() > 0
    assert stats.count == weight[~empty].sum()
    assert stats.rows == ((weight > 0) & ~empty).sum()
    np.testing.assert_allclose(model.log_prob(X), logp, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(model.responsibilities(X), resp, atol=1e-12)
    np.testing.assert_array_equal(model.labels(X), resp.argmax(axis=1))
    np.testing.assert_allclose(model.impute(X), filled, rtol=1e-10, atol=1e-12)


@cache
def dense_fit(name):
    """Rows with 30 % of the entries missing, a start, and what a dense EM makes of them in 10 iterations."""
    truth = random_mixture(name, 3, 4, 7, spread=2.0)
    X = holes(truth.sample(300, 1)[0][np.random.default_rng(0).permutation(300)], 0.3, 4)
    shaken = truth.means + 0.3 * np.random.default_rng(5).normal(size=(3, 4))
    first = sg.Mixture([0.3, 0.3, 0.4], shaken, 1.3 * truth.covariances, name)
    return X, first, missing_em(X, (first.weights, first.means, first.covariances), name, 10, 1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_fits_match_the_dense_reference(name, form):
    """30 % of the entries missing, chunks of 64 rows, 10 iterations from the same start: parameters to 1e-9."""
    X, first, ((weights, means, covariances), trace) = dense_fit(name)
    gm = sg.GaussianMixture(
        3, covariance_type=name, missing="marginalize", reg_covar=1e-6, tol=0, max_iter=10, solver="exact",
        on_collapse="raise", weights_init=first.weights, means_init=first.means,
        precisions_init=first.family.precisions(first.precisions_cholesky),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gm.fit(array_source(X, None, chunk_rows=64))
    used = ~np.isnan(X).all(axis=1)
    np.testing.assert_allclose(np.array(gm.lower_bounds_) * used.sum(), trace, rtol=1e-10)
    np.testing.assert_allclose(gm.weights_, weights, rtol=1e-9)
    np.testing.assert_allclose(gm.means_, means, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(gm.covariances_, covariances, rtol=1e-9, atol=1e-9)
    assert gm.report_["dropped"] == (~used).sum()


@pytest.mark.parametrize("name", FAMILIES)
def test_with_a_background(name, form):
    box = np.array([[-9.0, -9, -9], [9, 10, 8]])
    model = random_mixture(name, 2, 3, 4)
    model = sg.Mixture(
        0.7 * model.weights, model.means, model.covariances, name, noise_weight=0.3, box=box, missing="marginalize"
    )
    X = holes(model.sample(300, 2)[0], 0.4, 3)
    plain = (model.weights, model.means, model.covariances, name)
    (mass, _, scatter, _), logp, resp, filled = missing_e_step(X, *plain, noise=0.3, box=box)
    stats = model.accumulate(X)
    np.testing.assert_allclose(stats.weight, mass, rtol=1e-12)
    np.testing.assert_allclose(stats.scatter, scatter, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(model.log_prob(X), logp, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(model.responsibilities(X), resp, atol=1e-12)
    np.testing.assert_allclose(model.impute(X), filled, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(model.labels(X), np.where(resp.argmax(axis=1) == 2, -1, resp.argmax(axis=1)))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(FAMILIES), worth=st.sampled_from([0, 160, 10**9]))
def test_the_log_likelihood_never_falls(seed, name, worth):
    before, missing.WORTH = missing.WORTH, worth
    try:
        truth = random_mixture(name, 2, 3, seed, spread=2.0)
        X = holes(truth.sample(50, seed)[0], 0.35, seed)
        model = random_mixture(name, 2, 3, seed + 1).observing(MARGINALIZE)
        trace = []
        for _ in range(10):
            stats = model.accumulate(X)
            trace.append(stats.loglik)
            model = stats.maximize(reg_covar=0.0)
            if np.linalg.eigvalsh(model.family.dense(model.covariances, 2, 3)).min() < 1e-4:
                break  # on its way to a point, where the likelihood has no bound
        assert (np.diff(trace) > -1e-9 * np.abs(trace[:-1])).all()
    finally:
        missing.WORTH = before


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("background", [False, True])
def test_the_free_energy_touches_the_log_likelihood(name, background, form):
    """F = Q + H is the log-likelihood under the model that made the statistics, and below it under another."""
    model = asking(name, 3, 4, 1)
    if background:
        model = model.observing(Observation(np.array([np.full(4, -9.0), np.full(4, 11.0)]), True), 0.3)
    X = holes(model.sample(300, 2)[0], 0.4, 3)
    stats = model.accumulate(X)
    assert bound(model, stats) == pytest.approx(stats.loglik, rel=1e-11)
    better = stats.maximize()
    assert stats.loglik < bound(better, stats) < better.accumulate(X).loglik


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("solver", ["squarem", "incremental"])
def test_every_solver_reaches_the_same_optimum(name, solver):
    """With missing values, a background and a prior at once: the objective of exact EM, and it never falls."""
    X = random_mixture(name, 3, 3, 2).sample(900, 0)[0][np.random.default_rng(0).permutation(900)]
    X = holes(np.concatenate([X, np.random.default_rng(1).uniform(X.min(), X.max(), size=(100, 3))]), 0.25, 1)
    common = {"covariance_type": name, "missing": "marginalize", "noise": "uniform", "prior": "default", "reg_covar": 0}
    fits = [
        sg.GaussianMixture(3, solver=s, random_state=0, max_iter=400, tol=1e-7, **common).fit(
            array_source(X, None, chunk_rows=100)
        )
        for s in ("exact", solver)
    ]
    assert (np.diff(fits[1].lower_bounds_) > -1e-9).all()
    assert fits[1].lower_bound_ == pytest.approx(fits[0].lower_bound_, abs=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_complete_rows_give_the_complete_statistics(name, monkeypatch):
    monkeypatch.setattr(missing, "WORTH", 0)
    plain = random_mixture(name, 3, 5, 1)
    X = plain.sample(500, 3)[0]
    a, b = plain.accumulate(X), plain.observing(MARGINALIZE).accumulate(X)
    for field in ("weight", "mean", "scatter", "loglik", "entropy", "log_max", "count", "rows"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_one_gaussian_with_a_monotone_pattern_has_a_closed_form():
    """Two features, the second sometimes missing: the regression estimator (Anderson 1957)."""
    rng = np.random.default_rng(0)
    X = rng.multivariate_normal([1.0, -2.0], [[2.0, 1.2], [1.2, 1.5]], 3000)
    X[rng.random(3000) < 0.4, 1] = np.nan
    both = X[~np.isnan(X[:, 1])]
    gm = sg.GaussianMixture(1, missing="marginalize", reg_covar=0, tol=1e-14, max_iter=500, random_state=0).fit(X)
    slope = np.cov(both.T, bias=True)[0, 1] / both[:, 0].var()
    mean = np.array([X[:, 0].mean(), both[:, 1].mean() + slope * (X[:, 0].mean() - both[:, 0].mean())])
    residual = both[:, 1].var() - slope**2 * both[:, 0].var()
    variance = X[:, 0].var()
    wanted = [[variance, slope * variance], [slope * variance, residual + slope**2 * variance]]
    np.testing.assert_allclose(gm.means_[0], mean, rtol=1e-6)
    np.testing.assert_allclose(gm.covariances_[0], wanted, rtol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_far_offsets_cost_nothing(name, form):
    """A shift by 2^27 on a grid of 2^-20 moves the means and nothing else."""
    model = asking(name, 3, 4, 5)
    X = holes(np.round(model.sample(300, 2)[0] * 2**20) / 2**20, 0.3, 3)
    offset = 2.0**27
    means = np.round(model.means * 2**20) / 2**20
    at_zero = sg.Mixture(model.weights, means, model.covariances, name, missing="marginalize").accumulate(X)
    moved = sg.Mixture(model.weights, means + offset, model.covariances, name, missing="marginalize")
    far = moved.accumulate(X + offset)
    assert far.loglik == pytest.approx(at_zero.loglik, rel=1e-10)
    np.testing.assert_allclose(far.weight, at_zero.weight, rtol=1e-9)
    np.testing.assert_allclose(far.mean - offset, at_zero.mean, atol=2**-24)
    np.testing.assert_allclose(far.scatter, at_zero.scatter, rtol=1e-8, atol=1e-7)


def test_the_estimator_from_start_to_imputation():
    """k-means start on a sample with gaps, all the questions, and the same bits for one thread and two."""
    rng = np.random.default_rng(3)
    a = rng.multivariate_normal([-4, 0, 1], [[1.0, 0.7, 0.2], [0.7, 1, 0], [0.2, 0, 1]], 1500)
    b = rng.multivariate_normal([4, 2, -1], [[1.0, -0.5, 0], [-0.5, 1, 0.3], [0, 0.3, 0.8]], 1000)
    whole = np.concatenate([a, b])[rng.permutation(2500)]
    X = holes(whole, 0.3, 1)
    X[17] = np.nan
    fits = [
        sg.GaussianMixture(2, missing="marginalize", random_state=0, n_jobs=jobs).fit(
            array_source(X, None, chunk_rows=300)
        )
        for jobs in (1, 2)
    ]
    np.testing.assert_array_equal(fits[0].covariances_, fits[1].covariances_)
    gm = fits[0]
    order = np.argsort(gm.means_[:, 0])
    np.testing.assert_allclose(gm.means_[order], [[-4, 0, 1], [4, 2, -1]], atol=0.15)
    np.testing.assert_allclose(gm.covariances_[order][0], np.cov(a.T), atol=0.15)
    filled = gm.impute(X)
    gaps = np.isnan(X)
    np.testing.assert_array_equal(filled[~gaps], X[~gaps])
    plain_error = (np.nanmean(X, axis=0) - whole)[gaps].std()
    assert (filled - whole)[gaps].std() < 0.7 * plain_error
    assert gm.predict_proba(X).shape == (2500, 2)
    assert np.isfinite(gm.score_samples(X)).all() and gm.score_samples(X)[17] == 0.0
    assert gm.score(X) == pytest.approx(gm.score_samples(X).sum() / (2500 - gaps.all(axis=1).sum()))
    assert gm.report_["dropped"] == gaps.all(axis=1).sum()
    assert gm.__sklearn_tags__().input_tags.allow_nan


@pytest.mark.parametrize("settings", [{"prior": "default"}, {"noise": "uniform"}, {"n_init": 3}])
def test_missing_values_go_with_everything_else(settings):
    X = holes(random_mixture("full", 3, 4, 2).sample(600, 0)[0], 0.25, 5)
    gm = sg.GaussianMixture(3, missing="marginalize", random_state=0, max_iter=300, reg_covar=0, **settings).fit(X)
    assert (np.diff(gm.lower_bounds_) > -1e-10).all()
    assert np.isfinite(gm.bic(X)) and np.isfinite(gm.icl(X))


def test_what_stays_an_error():
    X = holes(np.random.default_rng(0).normal(size=(100, 3)), 0.2)
    with pytest.raises(ValueError, match="missing='marginalize'"):
        sg.GaussianMixture(2).fit(X)
    assert not sg.GaussianMixture(2).__sklearn_tags__().input_tags.allow_nan
    X[40, 1] = np.inf
    with pytest.raises(ValueError, match="infinity: row 40, column 1"):
        sg.GaussianMixture(2, missing="marginalize").fit(X)
    model = asking("full", 2, 3)
    few = np.full((3, 3), np.nan)
    few[1, 2] = -np.inf
    with pytest.raises(ValueError):
        model.log_prob(few)
    with pytest.raises(ValueError, match="nothing is observed"):
        sg.GaussianMixture(1, missing="marginalize").fit(np.full((10, 3), np.nan))
    with pytest.raises(ValueError, match="'error' or 'marginalize'"):
        sg.Mixture([1.0], [[0.0]], [[[1.0]]], missing="drop")


def test_the_interval_of_switching_is_given_back():
    before = sys.getswitchinterval()
    inside = []

    def task(chunk):
        inside.append(sys.getswitchinterval())
        return 1

    rows = np.zeros((4096, 2))
    Threads(2).run(task, array_source(rows, chunk_rows=512).chunks(), lambda a, b: a + b)
    assert max(inside) < before == sys.getswitchinterval()


def wide_with_holes(n, D, seed=0):
    """Measures in units from 0.1 to 1e5, sums and copies of them, categories as columns of 0 and 1, and holes."""
    rng = np.random.default_rng(seed)
    group, m = rng.integers(0, 3, n), D // 3
    units = 10.0 ** rng.uniform(-1, 5, m)
    measures = (rng.normal(size=(n, 4)) + 2 * group[:, None] * [1, 0, 0, 1]) @ rng.normal(size=(4, m))
    measures = (measures + 0.3 * rng.normal(size=(n, m)) + rng.uniform(0, 100, m)) * units
    measures[:, 3], measures[:, 5] = measures[:, 1] + measures[:, 2], measures[:, 4]
    columns = [measures]
    while sum(part.shape[1] for part in columns) < D:
        k = int(rng.integers(2, 8))
        columns.append(np.eye(k)[rng.choice(k, n, p=rng.dirichlet(np.full(k, 0.3)))])
    X = np.hstack(columns)[:, :D]
    for j in (0, 2, 5, 7):
        X[rng.random(n) < rng.uniform(0.05, 0.3), j] = np.nan
    X[np.ix_(rng.random(n) < 0.06, range(8, 11))] = np.nan
    return X


@pytest.mark.parametrize("seed", range(3))
def test_gaps_of_a_wide_table_are_filled_with_values_like_the_others(seed):
    X = wide_with_holes(200, 60, seed)
    filled, mean, covariance = complete(X, np.ones(200), 0)
    gaps = np.isnan(X)
    np.testing.assert_array_equal(filled[~gaps], X[~gaps])
    z = (filled - np.nanmean(X, axis=0)) / np.where(np.nanstd(X, axis=0) > 0, np.nanstd(X, axis=0), 1.0)
    assert np.abs(z[gaps]).max() < 8.0
    assert (
        np.isfinite(mean).all()
        and np.linalg.eigvalsh(covariance / np.sqrt(np.outer(*[np.diag(covariance)] * 2)))[0] > 0
    )
    X[7, 0] = X[9, 12] = 1e200  # two wild values decide nothing
    again = complete(X, np.ones(200), 0)
    assert np.abs(again.mean - mean).max() < 1e9


@pytest.mark.parametrize("name", [*FAMILIES, "VEV", "factor"])
def test_a_wide_table_with_holes(name):
    X = wide_with_holes(120, 30)
    settings = {"covariance_type": name, "n_factors": 2 if name == "factor" else None, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "reg_covar=", UserWarning)  # a constant feature with holes, on its way to 0
        for more in ({}, {"solver": "squarem", "reg_covar": 0.0}):
            gm = sg.GaussianMixture(2, missing="marginalize", max_iter=2, **settings, **more).fit(X)
            assert np.isfinite(gm.score_samples(X)).all() and np.isfinite(gm.impute(X)).all()
