"""Rows that are finite and absurd, one or many, of one size or of many: fits end, and find the others' clusters."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import streamgmm as sg
from streamgmm.em.initialization import initialize
from streamgmm.em.initialization.far_rows import without_extremes
from streamgmm.em.initialization.sample import survey
from streamgmm.estimators.model_file import load_model, save_model
from streamgmm.mixture import covariance
from streamgmm.runtime.executors import Threads
from streamgmm.sources import array_source
from tests.helpers import exact
from tests.helpers.chunks import read

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

FAMILIES = ["full", "tied", "diag", "spherical"]
SIZES = np.array([1e6, 1e8, 1e10, 1e15, 1e20, 9.97e36, 1e80, 1e120, 1e200, 1e300])


def clusters(K=2, n=600, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, K, n)
    return rng.normal(size=(n, 3)) + np.array([[0.0, 0, 0], [6, 6, 6], [-7, 7, 0]])[label], label


def wild(kind, good, sizes=SIZES, seed=1):
    """A row for each size: the same number in each cell, in one cell, or of any sign and direction."""
    rng = np.random.default_rng(seed)
    if kind == "rows":
        return np.repeat(sizes[:, None], 3, axis=1)
    if kind == "cells":
        rows = good[: len(sizes)].copy()
        rows[np.arange(len(sizes)), np.arange(len(sizes)) % 3] = sizes
        return rows
    return sizes[:, None] * rng.uniform(0.1, 1.0, (len(sizes), 3)) * np.sign(rng.normal(size=(len(sizes), 3)))


def fitted(X, good, label, K, family, **settings):
    gm = sg.GaussianMixture(K, covariance_type=family, random_state=0, **settings).fit(X)
    scores = gm.score_samples(X)
    assert not np.isnan(scores).any()
    assert adjusted_rand_score(label, gm.predict(good)) >= 0.95
    mixture = sg.Mixture(gm.weights_, gm.means_, gm.covariances_, family)
    some = [0, 1, len(X) // 2, len(X) // 2 + 3, len(X) - 1]
    for found, right in zip(scores[some], exact.log_prob(mixture, np.asarray(X[some], float)), strict=True):
        if right < -mp.mpf("1.7e308"):
            assert found == -np.inf
        else:
            assert abs(float(found - right)) <= 1e-9 * max(1.0, float(abs(right)))
    return gm


@pytest.mark.parametrize("kind", ["rows", "cells", "directions"])
@pytest.mark.parametrize("family", [*FAMILIES, "EEI", "VEV"])
def test_ten_rows_of_ten_sizes_at_once(family, kind):
    good, label = clusters()
    X = np.concatenate([good[:300], wild(kind, good), good[300:]])
    if family in FAMILIES:
        fitted(X, good, label, 3, family)
        fitted(X, good, label, 3, family, solver="squarem")
    else:
        gm = sg.GaussianMixture(3, covariance_type=family, random_state=0).fit(X)
        assert adjusted_rand_score(label, gm.predict(good)) >= 0.95
    gm = sg.GaussianMixture(2, covariance_type=family, random_state=0).fit(X)  # ends without a component for them
    assert np.isfinite(gm.means_).all() and not np.isnan(gm.score_samples(X)).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_three_clusters_in_single_precision(family):
    good, label = clusters(3)
    good = good.astype(np.float32)
    for kind in ("rows", "directions"):
        X = np.concatenate([good[:300], wild(kind, good, SIZES[:6]).astype(np.float32), good[300:]])
        fitted(X, good, label, 4, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_ten_rows_of_one_size_keep_their_place(family):
    good, label = clusters()
    for size in (1e6, 9.97e36):
        X = np.concatenate([good[:300], np.full((10, 3), size), good[300:]])
        gm = fitted(X, good, label, 3, family)
        np.testing.assert_allclose(gm.means_.max(axis=0), size, rtol=1e-12)
        assert "far_rows" not in gm.report_


def test_the_report_says_what_was_done():
    good, _ = clusters()
    X = np.concatenate([good, wild("rows", good)])
    tied = sg.GaussianMixture(3, covariance_type="tied", random_state=0).fit(X)
    assert "one point" in tied.report_["far_rows"]
    full = sg.GaussianMixture(3, random_state=0).fit(X)
    assert full.report_["far_rows"] == tied.report_["far_rows"]
    diag = sg.GaussianMixture(3, covariance_type="diag", random_state=0).fit(X)
    assert "1e+100" in diag.report_["far_rows"]
    assert "far_rows" not in sg.GaussianMixture(2, covariance_type="tied", random_state=0).fit(good).report_


@pytest.mark.parametrize("family", ["full", "tied"])
@pytest.mark.parametrize("prior", [None, "default"])
@pytest.mark.parametrize("sizes", [[1e12], [1e12, -1e30], [1e8, 1e200]])
def test_far_rows_that_no_sample_holds(family, prior, sizes, monkeypatch):
    """Rows of which the sample of the start has none, beside two clusters for two components."""
    good, label = clusters(n=40_000)
    sampled = survey(array_source(good), Threads(1), size=10_000, seed=0).rows
    at = np.flatnonzero(~np.isin(good[:, 0], sampled[:, 0]))[[5, 50, 500]][: len(sizes)]
    X = good.copy()
    X[at] = np.array(sizes)[:, None]
    sample = survey(array_source(X), Threads(1), size=10_000, seed=0)
    assert np.abs(sample.rows).max() < 100 and not sample.complete and sample.wild
    kinds = (covariance.family(family),)
    source, taken, gathering = without_extremes(array_source(X), sample, kinds, pulled=prior is not None)
    assert gathering is not None and gathering.aside == (prior is not None)
    rows, weight = read(source)
    np.testing.assert_array_equal(rows[np.delete(np.arange(len(X)), at)], good[np.delete(np.arange(len(X)), at)])
    if gathering.aside:
        assert (weight[at] == 0).all() and weight.sum() == len(X) - len(at)
    else:
        assert np.abs(rows[at]).max() < 100 and np.ptp(rows[at], axis=0).max() == 0
    assert (taken.rows == sample.rows).all()
    monkeypatch.setattr(initialize, "survey", lambda *a, **k: survey(*a, **{**k, "size": 10_000, "seed": 0}))
    gm = sg.GaussianMixture(2, covariance_type=family, prior=prior, random_state=0, max_iter=10).fit(X)
    assert adjusted_rand_score(label, gm.predict(good)) >= 0.95


def test_the_end_of_a_long_tail_stays():
    """Rows beyond those of the sample, as in any distribution with such a tail."""
    X = np.random.default_rng(2).lognormal(0.0, 3.5, (100_000, 2))
    sample = survey(array_source(X), Threads(1), size=10_000, seed=0)
    assert sample.wild and (np.abs(X - sample.mean) > 5e4 * np.sqrt(np.diag(sample.covariance))).any()
    for pulled in (False, True):
        assert without_extremes(array_source(X), sample, (covariance.FULL,), pulled=pulled)[2] is None


@pytest.mark.parametrize("prior", [None, "default", "bayesian"])
def test_going_on_does_the_same(prior, tmp_path):
    """Rows far away were no part of the model that a fit goes on with, also one from a file."""
    good, label = clusters()
    X = np.concatenate([good, wild("rows", good)])
    kind = sg.BayesianGaussianMixture if prior == "bayesian" else sg.GaussianMixture
    more, K = ({"prior": "default"}, 2) if prior == "default" else ({}, 3)
    gm = kind(K, random_state=0, tol=0, max_iter=2, solver="exact", **more).fit(X)
    gm.save(tmp_path / "m.safetensors")
    words, whole = gm.report_["far_rows"], kind(K, random_state=0, tol=0, max_iter=5, solver="exact", **more).fit(X)
    if prior != "default":  # which is taken from the data of each fit
        loaded = sg.load(tmp_path / "m.safetensors").set_params(warm_start=True, max_iter=3).fit(X)
        np.testing.assert_allclose(loaded.means_, whole.means_, rtol=1e-9)
    gm.set_params(warm_start=True, max_iter=3).fit(X)
    np.testing.assert_array_equal(gm.means_, whole.means_)
    assert gm.report_["far_rows"] == words and adjusted_rand_score(label, gm.predict(good)) >= 0.8
    assert gm.set_params(warm_start=False, max_iter=5).fit(good).gathering_ is None


@pytest.mark.parametrize("forged", [np.ones((4, 2)), np.ones(3), np.full((4, 3), np.nan), -np.ones((4, 3))])
def test_forged_treatments_are_refused(forged, tmp_path):
    path = tmp_path / "m.safetensors"
    gm = sg.GaussianMixture(2, random_state=0).fit(clusters()[0])
    gm.save(path)
    content = load_model(path)
    assert sg.load(path).gathering_ is None
    save_model(path, content.mixture, header=content.header, arrays={"far_rows": forged})
    with pytest.raises(sg.ModelFileError, match="far_rows must hold finite float64 numbers"):
        sg.load(path)


def test_a_notice_says_what_was_done(caplog):
    good, _ = clusters()
    X = np.concatenate([good, wild("rows", good)])
    sg.GaussianMixture(3, random_state=0).fit(X)
    assert [r.getMessage() for r in caplog.records if r.name == "streamgmm.em"] == [
        "array: Rows far from all others and from each other counted as one point: no covariance holds sizes so "
        "different. Means and covariances of the other rows hold; `lower_bound_` and the criteria are those of the "
        "rows as they were taken. To leave such rows out, drop them or give them weight 0."
    ]
    caplog.clear()
    sg.select(X, range(2, 4), n_init=2, random_state=0)
    assert sum(r.name == "streamgmm.em" for r in caplog.records) == 1
    caplog.clear()
    sg.GaussianMixture(3, random_state=0).fit(good)
    assert not [r for r in caplog.records if r.name == "streamgmm.em"]


def test_clean_rows_are_handed_on_as_they_are():
    good, _ = clusters()
    gathering = sg.GaussianMixture(3, covariance_type="tied", random_state=0)
    gathering.fit(np.concatenate([good, wild("rows", good)]))
    from streamgmm.sources.gathered import Gathering, gathered

    source = array_source(good)
    assert gathered(source, None) is source
    assert Gathering(np.zeros(3), np.full(3, 100.0))(good) is good
    cut = Gathering(np.ones(3), np.full(3, 2.0))(np.array([[0.0, 5.0, -9.0], [np.nan, 1.0, 1.0]]))
    np.testing.assert_array_equal(cut, [[0.0, 3.0, -1.0], [np.nan, 1.0, 1.0]])


@pytest.mark.parametrize("family", ["full", "tied", "diag"])
def test_one_component_has_the_moments_of_all_rows(family):
    good, _ = clusters()
    X = np.concatenate([good, [[1e6, -1e6, 3.0]]])
    gm = sg.GaussianMixture(1, covariance_type=family, reg_covar=0.0).fit(X)
    np.testing.assert_allclose((gm.means_[0] - X.mean(axis=0)) / X.std(axis=0), 0.0, atol=1e-10)
    right = np.cov(X.T, bias=True)
    found = gm.mixture_.family.dense(gm.covariances_, 1, 3)[0]
    np.testing.assert_allclose(np.diag(found), np.diag(right), rtol=1e-9)
    assert gm.lower_bound_ == pytest.approx(gm.score(X), rel=1e-9)


def test_select_finds_the_clusters_beside_wild_rows():
    good, label = clusters()
    X = np.concatenate([good, wild("directions", good)])
    for kind in ("tied", "full"):
        best = sg.select(X, [3], covariance_types=(kind,), n_init=2, random_state=0).best
        assert adjusted_rand_score(label, best.predict(good)) >= 0.95


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("rows", [1e6]), ("cells", [1e20]), ("directions", [9.97e36] * 10), ("directions", SIZES)],
)
def test_a_bayesian_mixture_finds_the_clusters(family, kind, sizes):
    good, label = clusters()
    X = np.concatenate([good[:300], wild(kind, good, np.array(sizes)), good[300:]])
    gm = sg.BayesianGaussianMixture(4, covariance_type=family, random_state=0, max_iter=300).fit(X)
    assert adjusted_rand_score(label, gm.predict(good)) >= 0.95
    assert not np.isnan(gm.score_samples(X)).any() and not np.isnan(gm.predict_proba(X)).any()
    assert np.isfinite(gm.lower_bound_) and np.isfinite(gm.means_).all()
    if family in ("full", "tied"):
        assert "set aside" in gm.report_["far_rows"] and gm.report_["rows"] == len(good)


@pytest.mark.parametrize("solver", ["auto", "exact"])
@pytest.mark.parametrize("family", ["full", "tied"])
def test_a_bayesian_mixture_is_that_of_the_other_rows(family, solver, caplog):
    good, _ = clusters()
    settings = {"n_components": 3, "covariance_type": family, "solver": solver, "random_state": 0, "max_iter": 1000}
    alone = sg.BayesianGaussianMixture(**settings).fit(good)
    X = np.concatenate([good, wild("directions", good), np.full((10, 3), 1e15)])
    for source in (X, sg.open_source(X, chunk_rows=64)):
        caplog.clear()
        beside = sg.BayesianGaussianMixture(**settings).fit(source)
        (said,) = [r.getMessage() for r in caplog.records if r.name == "streamgmm.em"]
        assert said.endswith("are those of the rows as they were taken.")
        np.testing.assert_allclose(beside.means_, alone.means_, atol=1e-6)
        np.testing.assert_allclose(beside.mean_precision_, alone.mean_precision_, atol=1e-4)
        np.testing.assert_allclose(beside.covariances_, alone.covariances_, atol=1e-6)
        assert beside.lower_bounds_[-1] == pytest.approx(alone.lower_bounds_[-1], rel=1e-9)
    single = sg.BayesianGaussianMixture(**settings).fit(
        np.concatenate([good, np.full((1, 3), 1e20)]).astype(np.float32)
    )
    np.testing.assert_allclose(single.means_, alone.means_, atol=1e-4)


def test_far_rows_of_which_only_a_sample_is_seen_are_set_aside_too(tmp_path):
    good, label = clusters(n=30_000)
    X = np.concatenate([good, np.full((40, 3), 1e12)])
    np.save(tmp_path / "X.npy", X)
    gm = sg.BayesianGaussianMixture(4, random_state=0).fit(str(tmp_path / "X.npy"))
    assert gm.report_["rows"] == 30_000 and gm.n_components_in_use_ == 2
    assert adjusted_rand_score(label, gm.predict(good)) >= 0.95
    given = np.concatenate([label, np.full(40, 2)])
    again = sg.BayesianGaussianMixture(4, responsibilities_init=given, random_state=0).fit(X)
    np.testing.assert_allclose(
        np.sort(again.means_[again.components_in_use_], axis=0),
        np.sort(gm.means_[gm.components_in_use_], axis=0),
        atol=1e-4,
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1e6, 1e20, 1e200])
def test_a_prior_does_not_hide_the_clusters_beside_far_rows(family, size):
    good, label = clusters()
    X = np.concatenate([good, [[size] * 3]])
    gm = sg.GaussianMixture(3, covariance_type=family, prior="default", random_state=0).fit(X)
    assert adjusted_rand_score(label, gm.predict(good)) >= (0.95 if family in ("diag", "spherical") else 0.5)
    if family in ("full", "tied"):
        alone = sg.GaussianMixture(3, covariance_type=family, prior="default", random_state=0).fit(good)
        np.testing.assert_allclose(gm.means_, alone.means_, atol=1e-5)
        assert gm.report_["rows"] == 600
        best = sg.select(X, [1, 2], covariance_types=(family,), n_init=1, prior="default", random_state=0).best
        assert best.n_components == 2 and adjusted_rand_score(label, best.predict(good)) >= 0.95


def test_one_bayesian_component_beside_far_rows():
    good, _ = clusters()
    right = sg.BayesianGaussianMixture(1).fit(good).means_
    for size in (1e10, 1e200):
        gm = sg.BayesianGaussianMixture(1).fit(np.concatenate([good, [[size] * 3]]))
        np.testing.assert_allclose(gm.means_, right, atol=1e-9)


def test_a_bayesian_mixture_of_rows_that_a_covariance_holds_is_as_it_was():
    good, _ = clusters()
    good[0] = 60.0
    weight = np.repeat([1.0, 0.0], [600, 10])
    for X, w in ((good, None), (np.concatenate([good, wild("rows", good)]), weight)):
        gm = sg.BayesianGaussianMixture(4, random_state=0).fit(X, sample_weight=w)
        assert "far_rows" not in gm.report_ and gm.report_["rows"] == 600


@pytest.mark.filterwarnings("ignore:.*set aside:UserWarning")
def test_a_stream_goes_on():
    good, _ = clusters(n=3000)
    X = good.copy()
    X[np.arange(100, 3000, 300)] = wild("rows", good)
    for family in FAMILIES:
        gm = sg.GaussianMixture(3, covariance_type=family, random_state=0, half_life=500)
        for first in range(0, 3000, 500):
            gm.partial_fit(X[first : first + 500])
        assert gm.report_["rows_set_aside"] >= 7 and not np.isnan(gm.score_samples(good)).any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("size", "weight"), [(1e6, 1e-3), (1e20, 1e-3), (1e20, 1e-30), (1e20, 1e-300), (1e200, 1e-300), (1e300, 1e-30)]
)
def test_rows_that_weigh_next_to_nothing_hide_no_clusters(family, size, weight):
    good, label = clusters()
    X, w = np.concatenate([good, wild("rows", good, np.array([size]))]), np.append(np.ones(len(good)), weight)
    K = 3 if weight == 1e-3 else 2  # less is no component
    for gm in (sg.BayesianGaussianMixture(4, covariance_type=family), sg.GaussianMixture(K, covariance_type=family)):
        gm.set_params(random_state=0).fit(X, sample_weight=w)
        assert adjusted_rand_score(label, gm.predict(good)) >= 0.95


@pytest.mark.parametrize("size", [1e6, 1e20, 1e200])
def test_centres_drawn_among_all_rows_are_those_of_the_clusters(size):
    good, label = clusters()
    X = np.concatenate([good[:300], wild("rows", good, np.array([size])), good[300:]])
    for seed in range(3):
        gm = sg.GaussianMixture(3, init_params="kmeans||", random_state=seed).fit(X)
        assert adjusted_rand_score(label, gm.predict(good)) >= 0.95
        km = sg.KMeans(3, init="k-means||", random_state=seed).fit(X)
        assert adjusted_rand_score(label, km.predict(good)) >= 0.95
