"""k-means: scikit-learn's steps, on chunks; and the mixture that becomes it."""

from __future__ import annotations

import re
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import sklearn.cluster
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import streamgmm as sg
from streamgmm.em.kmeans.centres import Centres
from streamgmm.sources import array_source


def blobs(n=600, D=3, K=5, seed=0, spread=3.0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(K, D)) * spread
    return centres[rng.integers(K, size=n)] + rng.normal(size=(n, D))


def both(X, init, sample_weight=None, **settings):
    """scikit-learn's fit and ours from the same centres."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = sklearn.cluster.KMeans(len(init), init=init, n_init=1, algorithm="lloyd", **settings)
        theirs.fit(X, sample_weight=sample_weight)
        ours = sg.KMeans(len(init), init=init, **settings).fit(X, sample_weight=sample_weight)
    return theirs, ours


@pytest.mark.parametrize("D", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("weighted", [False, True])
def test_follows_scikit_learn_step_for_step(D, weighted):
    X = blobs(D=D)
    weight = np.random.default_rng(1).uniform(0.1, 3, len(X)) if weighted else None
    for steps in (1, 2, 3, 5, 300):
        theirs, ours = both(X, X[:6], weight, max_iter=steps, tol=0)
        assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-12)
        np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-11, atol=1e-12)
        np.testing.assert_array_equal(ours.labels_, theirs.labels_)
        assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X), atol=1e-8)
    assert ours.score(X, sample_weight=weight) == pytest.approx(theirs.score(X, sample_weight=weight), rel=1e-11)


def test_stops_where_scikit_learn_stops():
    X = blobs(2000, spread=1.0)
    theirs, ours = both(X, X[:8], tol=1e-3)
    assert ours.n_iter_ == theirs.n_iter_ > 3
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-12)


def test_empty_clusters_get_the_farthest_rows_as_in_scikit_learn():
    X = blobs(400, K=4)
    init = np.concatenate([X[:3], [[1e3, 1e3, 1e3]]])
    for steps in (1, 2, 50):
        theirs, ours = both(X, init, max_iter=steps, tol=0)
        np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-11)
        assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-12)
    far = np.concatenate([X[:2], np.full((3, 3), 1e3) + np.arange(3)[:, None]])
    theirs, ours = both(X, far, max_iter=1, tol=0)
    assert sorted(ours.cluster_centers_[:, 0]) == pytest.approx(sorted(theirs.cluster_centers_[:, 0]), rel=1e-11)
    assert ours.n_passes_ == 3  # the step, the search for far rows, the labels


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_one_step_against_the_obvious_twin(offset):
    X = blobs(301, D=5) + offset
    weight = np.random.default_rng(3).integers(0, 3, len(X)).astype(float)
    points = X[:7] + 0.01
    distance = ((X[:, None] - points) ** 2).sum(axis=2)
    label = distance.argmin(axis=1)
    stats = Centres(points, X[:20].mean(axis=0)).frame_stats(X, weight)
    moved = Centres(points, X[:20].mean(axis=0)).moved(stats).points
    for k in range(7):
        rows = label == k
        assert stats.mass[k] == weight[rows].sum()
        expected = np.average(X[rows] - offset, axis=0, weights=weight[rows]) if stats.mass[k] else points[k] - offset
        np.testing.assert_allclose(moved[k] - offset, expected, atol=1e-12 + 1e-15 * offset)
    assert stats.inertia == pytest.approx(weight @ distance.min(axis=1), rel=1e-11)
    assert stats.rows == (weight > 0).sum()
    total = np.cov(X, rowvar=False, bias=True, fweights=weight.astype(int))
    assert stats.variance == pytest.approx(np.trace(total) / 5, rel=1e-10)


@given(cuts=st.integers(1, 400), threads=st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_chunks_and_threads_do_not_matter(cuts, threads):
    X = blobs(400)
    whole = sg.KMeans(4, init=X[:4], tol=0).fit(X)
    cut = sg.KMeans(4, init=X[:4], tol=0, n_jobs=threads).fit(array_source(X, chunk_rows=cuts))
    np.testing.assert_allclose(cut.cluster_centers_, whole.cluster_centers_, rtol=1e-12, atol=1e-12)
    assert cut.inertia_ == pytest.approx(whole.inertia_, rel=1e-12)
    one = sg.KMeans(4, init=X[:4], tol=0, n_jobs=1).fit(array_source(X, chunk_rows=cuts))
    assert cut.cluster_centers_.tobytes() == one.cluster_centers_.tobytes()
    np.testing.assert_array_equal(np.concatenate(list(cut.predict(array_source(X, chunk_rows=cuts)))), whole.labels_)
    assert not hasattr(cut, "labels_")


def test_weight_two_is_the_row_twice_and_weight_zero_no_row():
    X = blobs(200)
    weight = np.random.default_rng(0).integers(0, 3, len(X))
    weighted = sg.KMeans(4, init=X[:4], tol=0).fit(X, sample_weight=weight)
    repeated = sg.KMeans(4, init=X[:4], tol=0).fit(np.repeat(X, weight, axis=0))
    np.testing.assert_allclose(weighted.cluster_centers_, repeated.cluster_centers_, rtol=1e-12)
    assert weighted.inertia_ == pytest.approx(repeated.inertia_, rel=1e-12)


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_starts_find_separated_clusters(init):
    rng = np.random.default_rng(5)
    truth = rng.permutation(np.arange(12))[:, None] * np.array([20.0, -15.0])
    X = truth[rng.integers(12, size=30_000)] + rng.normal(size=(30_000, 2))
    model = sg.KMeans(12, init=init, n_init=3, random_state=0).fit(X)
    scatter = model.inertia_ / len(X)
    assert scatter < (2.1 if init != "random" else 300)
    cut = sg.KMeans(12, init=init, n_init=3, random_state=0, n_jobs=1).fit(array_source(X, chunk_rows=7777))
    np.testing.assert_allclose(cut.cluster_centers_, model.cluster_centers_, rtol=1e-9)
    assert model.n_passes_ == model.report_["n_passes"]


def test_a_sample_start_saves_readings():
    X = blobs(60_000, D=4, K=8, spread=1.5)
    ours = sg.KMeans(8, random_state=0).fit(X)
    cold = sg.KMeans(8, init=X[:8]).fit(X)
    assert ours.n_iter_ * 2 < cold.n_iter_
    assert ours.inertia_ < cold.inertia_ * 1.05


def test_more_starts_share_readings_and_never_do_worse():
    X = blobs(500, K=7, spread=1.5)
    one = sg.KMeans(7, init="random", n_init=1, random_state=1).fit(X)
    many = sg.KMeans(7, init="random", n_init=8, random_state=1).fit(X)
    assert many.inertia_ <= one.inertia_
    longest = max(start["n_iter"] for start in many.report_["starts"])
    assert many.n_passes_ <= 1 + longest + 2


def test_float32_and_integers_are_summed_in_float64():
    X = (blobs(300) * 10).round()
    reference = sg.KMeans(3, init=X[:3], tol=0).fit(X)
    for dtype in (np.float32, np.int32):
        model = sg.KMeans(3, init=X[:3], tol=0).fit(X.astype(dtype))
        assert model.cluster_centers_.dtype == np.float64
        np.testing.assert_allclose(model.cluster_centers_, reference.cluster_centers_, rtol=1e-12)


def test_errors_say_what_to_do():
    X = blobs(50)
    with pytest.raises(ValueError, match="n_samples=50 should be >= n_clusters=51"):
        sg.KMeans(51).fit(X)
    with pytest.raises(ValueError, match="shape of the initial centers"):
        sg.KMeans(2, init=X[:3]).fit(X)
    with pytest.raises(ValueError, match="weights are zero"):
        sg.KMeans(2, init=X[:2]).fit(X, sample_weight=np.zeros(50))
    X[17, 1] = np.nan
    for init in (blobs(2), "k-means++"):
        with pytest.raises(ValueError, match="row 17, column 1"):
            sg.KMeans(2, init=init).fit(X)
    with pytest.warns(ConvergenceWarning, match="distinct clusters"):
        sg.KMeans(3, random_state=0).fit(np.repeat([[0.0, 0], [1, 1]], 10, axis=0))


def test_in_a_pipeline_and_a_grid():
    X = blobs(300, K=4, spread=8)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), sg.KMeans(random_state=0)), {"kmeans__n_clusters": [2, 4]}, cv=3
    )
    search.fit(X)
    assert search.best_params_ == {"kmeans__n_clusters": 4}
    assert search.best_estimator_.predict(X).shape == (300,)


# The limit of the mixture ---------------------------------------------------------------------------------------------


def mixture_step(X, centres, variance):
    """One EM step of a mixture with equal weights and one spherical variance: the new means."""
    K = len(centres)
    mixture = sg.Mixture(np.full(K, 1 / K), centres, np.full(K, variance), covariance_type="spherical")
    return mixture.accumulate(X).mean


def test_a_mixture_with_shrinking_equal_variances_becomes_k_means():
    """Equal weights, equal spherical covariance: each EM step tends to Lloyd's step as the variance goes to zero."""
    X = blobs(500, D=2, K=4, spread=2.0)
    lloyd = sg.KMeans(4, init=X[:4], max_iter=1, tol=0).fit(X).cluster_centers_
    gaps = [np.abs(mixture_step(X, X[:4], variance) - lloyd).max() for variance in (1.0, 1e-1, 1e-2, 1e-3, 1e-5)]
    assert all(later < earlier for earlier, later in pairwise(gaps))
    assert gaps[0] > 0.1
    assert gaps[-1] < 1e-9


def test_the_whole_trajectory_of_the_limit_is_lloyds():
    X = blobs(500, D=2, K=4, spread=2.0)
    centres = X[:4]
    for steps in range(1, 12):
        centres = mixture_step(X, centres, 1e-7)
        lloyd = sg.KMeans(4, init=X[:4], max_iter=steps, tol=0).fit(X)
        np.testing.assert_allclose(centres, lloyd.cluster_centers_, rtol=1e-8)
    labels = sg.Mixture(np.full(4, 0.25), centres, np.full(4, 1e-7), covariance_type="spherical").labels(X)
    np.testing.assert_array_equal(labels, lloyd.labels_)


def test_the_page_about_the_limit_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "kmeans.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 2
    namespace: dict = {}
    for block in blocks:
        exec(block, namespace)
    assert "variance 1e-05" in capsys.readouterr().out
