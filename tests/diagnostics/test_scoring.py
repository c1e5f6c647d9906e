"""Scores of a clustering: scikit-learn's numbers, in chunks."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

import streamgmm as sg
from streamgmm.sources import ArraySource


def clustered(n=900, K=4, D=3, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(K, D)) * 4)[rng.integers(K, size=n)] + rng.normal(size=(n, D)) + 100


def simplified(X, labels):
    """The obvious twin."""
    means = np.array([X[labels == k].mean(axis=0) for k in np.unique(labels)])
    own = np.unique(labels, return_inverse=True)[1]
    distance = np.sqrt(((X[:, None] - means) ** 2).sum(axis=2))
    a = distance[np.arange(len(X)), own]
    b = np.where(np.eye(len(means), dtype=bool)[own], np.inf, distance).min(axis=1)
    return ((b - a) / np.maximum(a, b)).mean()


@pytest.mark.parametrize("chunk_rows", [37, 900])
@pytest.mark.parametrize("kind", ["mixture", "kmeans"])
def test_agrees_with_scikit_learn(chunk_rows, kind):
    X = clustered()
    model = sg.GaussianMixture(4, random_state=0, tol=1e-3) if kind == "mixture" else sg.KMeans(5, random_state=1)
    labels = model.fit(X).predict(X)
    scores = sg.cluster_scores(model, ArraySource(X, chunk_rows=chunk_rows))
    assert scores.calinski_harabasz == pytest.approx(metrics.calinski_harabasz_score(X, labels), rel=1e-10)
    assert scores.davies_bouldin == pytest.approx(metrics.davies_bouldin_score(X, labels), rel=1e-10)
    assert scores.silhouette == pytest.approx(metrics.silhouette_score(X, labels), rel=1e-10)
    assert scores.simplified_silhouette == pytest.approx(simplified(X, labels), rel=1e-10)
    assert scores.silhouette_error == 0
    assert scores.rows == 900
    np.testing.assert_array_equal(scores.sizes, np.bincount(labels, minlength=len(scores.sizes)))


def test_the_stated_error_of_the_sampled_silhouette_is_right():
    X = clustered(3000)
    model = sg.KMeans(4, random_state=0).fit(X)
    truth = metrics.silhouette_score(X, model.predict(X))
    sampled = [sg.cluster_scores(model, X, sample_rows=400, random_state=seed) for seed in range(30)]
    errors = np.array([(s.silhouette - truth) / s.silhouette_error for s in sampled])
    assert 0.6 < np.sqrt((errors**2).mean()) < 1.5
    again = sg.cluster_scores(model, ArraySource(X, chunk_rows=123), sample_rows=400, random_state=0)
    assert again.silhouette == pytest.approx(sampled[0].silhouette, rel=1e-12)


def test_weights_are_repeated_rows():
    X = clustered(300)
    weight = np.random.default_rng(0).integers(0, 3, 300)
    model = sg.KMeans(4, init=X[:4]).fit(X)
    weighted = sg.cluster_scores(model, X, sample_weight=weight)
    repeated = sg.cluster_scores(model, np.repeat(X, weight, axis=0))
    for name in ("calinski_harabasz", "davies_bouldin", "simplified_silhouette", "silhouette"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name), rel=1e-10)


def test_clusters_without_rows_and_background_rows_take_no_part():
    X = clustered(400, K=2)
    middle, step = X[:200].mean(axis=0), np.array([3.0, 0, 0])
    gm = sg.GaussianMixture.from_parameters(
        [0.4, 0.4, 0.2], [middle + step, middle - step, 1e6 * step], [np.eye(3)] * 3
    )
    scores = sg.cluster_scores(gm, X)
    labels = gm.predict(X)
    assert scores.sizes[2] == 0
    assert scores.davies_bouldin == pytest.approx(metrics.davies_bouldin_score(X, labels), rel=1e-9)
    rng = np.random.default_rng(0)
    noisy = np.concatenate([clustered(600, K=2), rng.uniform(80, 120, size=(100, 3))])
    gm = sg.GaussianMixture(2, noise="uniform", random_state=0, tol=1e-3).fit(noisy)
    labels = gm.predict(noisy)
    inner = labels >= 0
    scores = sg.cluster_scores(gm, noisy)
    assert scores.rows == inner.sum() < 700
    assert scores.silhouette == pytest.approx(metrics.silhouette_score(noisy[inner], labels[inner]), rel=1e-9)


def test_errors():
    X = clustered(100)
    with pytest.raises(ValueError, match="at least 2"):
        sg.cluster_scores(sg.GaussianMixture().fit(X), X)
    with pytest.raises(TypeError, match="fitted GaussianMixture or KMeans"):
        sg.cluster_scores(sg.GaussianMixture(2), X)
    model = sg.KMeans(2).fit(X)
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match="row 3, column 1"):
        sg.cluster_scores(model, X)
