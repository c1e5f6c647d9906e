"""Scaling and rotation: scikit-learn's numbers from one pass, and sources that come out of sources."""

from __future__ import annotations

import pickle
import warnings
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import sklearn.decomposition
import sklearn.preprocessing
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import streamgmm as sg
from streamgmm.em.loop import e_step, merge_all
from streamgmm.runtime.executors import Threads
from streamgmm.sources import ArraySource
from streamgmm.sources.memory_budget import cached, limit_chunks
from streamgmm.sources.summaries.moments import moments_of
from streamgmm.sources.transformed import TransformedSource
from streamgmm.utils.affine import Affine


class Stored(ArraySource):
    """Rows that are not in memory, as far as anybody can tell; counts its passes."""

    in_memory = False
    passes = 0

    def chunks(self):
        self.passes += 1
        return super().chunks()


def table(n=500, D=5, seed=0, spread=1e3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, D)) @ rng.normal(size=(D, D)) * np.geomspace(1, spread, D) + 10 * rng.normal(size=D)


@pytest.mark.parametrize("weighted", [False, True])
def test_scaler_agrees_with_standard_scaler(weighted):
    X = table()
    if not weighted:  # where StandardScaler's weighted variance may come out negative
        X[:, 2] = 7.0
    weight = np.random.default_rng(1).uniform(0, 2, len(X)) if weighted else None
    theirs = sklearn.preprocessing.StandardScaler().fit(X, sample_weight=weight)
    ours = sg.Scaler().fit(X, sample_weight=weight)
    np.testing.assert_allclose(ours.mean_, theirs.mean_, rtol=1e-12)
    np.testing.assert_allclose(ours.var_, theirs.var_, rtol=1e-10, atol=1e-24)
    np.testing.assert_allclose(ours.scale_, theirs.scale_, rtol=1e-10)
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.inverse_transform(ours.transform(X)), X, rtol=1e-12)
    assert list(ours.get_feature_names_out()) == list(theirs.get_feature_names_out())
    only_mean = sg.Scaler(with_std=False).fit(X)
    assert only_mean.scale_ is None and only_mean.var_ is None
    np.testing.assert_allclose(only_mean.transform(X), X - X.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(
        sg.Scaler(with_mean=False).fit(X).transform(X),
        X / theirs.scale_ if not weighted else X / sg.Scaler().fit(X).scale_,
    )


def test_scaler_ignores_nan_like_standard_scaler():
    X = table()
    X[np.random.default_rng(0).uniform(size=X.shape) < 0.3] = np.nan
    theirs = sklearn.preprocessing.StandardScaler().fit(X)
    ours = sg.Scaler(missing="ignore").fit(Stored(X, chunk_rows=60))
    np.testing.assert_allclose(ours.mean_, theirs.mean_, rtol=1e-12)
    np.testing.assert_allclose(ours.var_, theirs.var_, rtol=1e-11)
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="NaN: row"):
        sg.Scaler().fit(X)


@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_variance_survives_an_offset(offset):
    X = np.random.default_rng(0).normal(size=(4000, 3)) * [1, 0.1, 3] + offset
    expected = np.var(X - offset, axis=0)
    np.testing.assert_allclose(
        sg.Scaler().fit(Stored(X, chunk_rows=100)).var_, expected, rtol=1e-7 if offset else 1e-12
    )
    components = sg.PCA().fit(Stored(X, chunk_rows=100)).components_
    np.testing.assert_allclose(np.abs(components), np.eye(3)[[2, 0, 1]], atol=0.05)


@pytest.mark.parametrize("n_components", [None, 1, 3, 0.9, 0.999])
@pytest.mark.parametrize("whiten", [False, True])
def test_pca_agrees_with_scikit_learn(n_components, whiten):
    X = table(D=6, spread=10)
    theirs = sklearn.decomposition.PCA(n_components, whiten=whiten, svd_solver="full").fit(X)
    ours = sg.PCA(n_components, whiten=whiten).fit(X)
    assert ours.n_components_ == theirs.n_components_
    np.testing.assert_allclose(ours.components_, theirs.components_, atol=1e-6)
    np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(ours.explained_variance_ratio_, theirs.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(ours.singular_values_, theirs.singular_values_, rtol=1e-9)
    np.testing.assert_allclose(ours.noise_variance_, theirs.noise_variance_, rtol=1e-9)
    np.testing.assert_allclose(ours.mean_, theirs.mean_, rtol=1e-12)
    if not whiten:  # scikit-learn's covariance of a whitening PCA is not that of the data
        np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance(), rtol=1e-9, atol=1e-9)
    scale = np.abs(theirs.transform(X)).max(axis=0)
    np.testing.assert_allclose(ours.transform(X) / scale, theirs.transform(X) / scale, atol=1e-6)
    np.testing.assert_allclose(
        ours.inverse_transform(ours.transform(X)), theirs.inverse_transform(theirs.transform(X)), rtol=1e-6, atol=1e-5
    )


def test_pca_errors_and_degenerate_data():
    X = table(D=4, spread=10)
    with pytest.raises(ValueError, match="n_components=5 must be between 1 and"):
        sg.PCA(5).fit(X)
    X[:, 3] = X[:, 0]
    whitened = sg.PCA(whiten=True).fit_transform(X)
    assert np.isfinite(whitened).all()
    np.testing.assert_allclose(whitened.std(axis=0, ddof=1)[:3], 1.0, rtol=1e-9)
    assert whitened[:, 3].std() < 1e-6


@given(cuts=st.lists(st.integers(1, 499), max_size=5, unique=True))
@settings(max_examples=20, deadline=None)
def test_partial_fit_of_any_pieces_is_fit(cuts):
    X = table()
    weight = np.random.default_rng(1).integers(0, 3, len(X))
    scaler, pca = sg.Scaler(), sg.PCA(2)
    edges = [0, *sorted(cuts), len(X)]
    for start, stop in pairwise(edges):
        if stop - start >= 2 and weight[start:stop].sum() > 2:
            scaler.partial_fit(X[start:stop], sample_weight=weight[start:stop])
            pca.partial_fit(X[start:stop], sample_weight=weight[start:stop])
        else:
            weight[start:stop] = 0
    repeated = np.repeat(X, weight, axis=0)
    np.testing.assert_allclose(scaler.var_, sg.Scaler().fit(repeated).var_, rtol=1e-10)
    np.testing.assert_allclose(pca.components_, sg.PCA(2).fit(repeated).components_, atol=1e-9)


def test_a_pipeline_on_a_source_reads_once_more_in_all():
    X = table(3000, D=4)
    source = Stored(X, chunk_rows=250)
    # "auto" may take other steps where the rows lie in memory; exact EM takes the same everywhere.
    settings = {"solver": "exact", "random_state": 0, "max_iter": 30, "tol": 1e-3}
    pipeline = make_pipeline(sg.Scaler(), sg.PCA(3), sg.GaussianMixture(2, **settings))
    pipeline.fit(source)
    gm = pipeline[-1]
    assert source.passes == gm.n_passes_ + 1  # the Scaler's; the PCA and the maps cost none
    assert pipeline[1].n_passes_ == 0
    dense = sg.GaussianMixture(2, **settings)
    z = pipeline[:-1].transform(X)
    dense.fit(z)
    assert gm.lower_bound_ == pytest.approx(dense.lower_bound_, rel=1e-9)
    np.testing.assert_array_equal(np.concatenate(list(pipeline.predict(source))), dense.predict(z))
    np.testing.assert_allclose(pipeline.score(source), dense.score(z), rtol=1e-9)


def test_two_maps_in_a_row_become_one():
    X = table()
    source = ArraySource(X, chunk_rows=70)
    scaled = sg.Scaler().fit_transform(Stored(X, chunk_rows=70))
    rotated = sg.PCA(2).fit(scaled).transform(scaled)
    assert isinstance(rotated.source, Stored) and rotated.n_features == 2 and rotated.n_rows == len(X)
    rows = np.concatenate([chunk.load()[0] for chunk in rotated.chunks()])
    z = sg.Scaler().fit_transform(X)
    np.testing.assert_allclose(rows, sg.PCA(2).fit_transform(z), atol=1e-9)
    known = moments_of(rotated, Threads(1), full=True)
    assert known is rotated.moments
    np.testing.assert_allclose(known.mean, rows.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(known.scatter, np.cov(rows, rowvar=False) * (len(X) - 1), atol=1e-8)
    chunk = next(iter(rotated.chunks()))
    again = pickle.loads(pickle.dumps(chunk))
    assert (again.index, again.start) == (0, 0)
    np.testing.assert_array_equal(again.load()[0], chunk.load()[0])
    twice = TransformedSource(rotated, Affine(np.zeros(2), np.array([2.0, 0.0])))
    np.testing.assert_allclose(np.concatenate([c.load()[0] for c in twice.chunks()]), rows * [2, 0])
    assert twice.fingerprint() != rotated.fingerprint() and rotated.chunk_bytes > source.chunk_bytes
    assert rotated.fingerprint() == sg.PCA(2).fit(scaled).transform(scaled).fingerprint()


def mixture_for(z, name, K=3):
    """A mixture that rows z could have come from."""
    covariance = np.atleast_2d(np.cov(z.T))
    variance = np.diag(covariance)
    sigma = {
        "full": np.stack([covariance * (k + 1) / 2 for k in range(K)]), "tied": covariance,
        "diag": np.outer(np.arange(1, K + 1) / 2, variance), "spherical": variance.mean() * np.arange(1, K + 1) / 2,
    }[name]  # fmt: skip
    return sg.Mixture(np.full(K, 1 / K), z[:K], sigma, name)


MAPS = {
    "scaler": lambda X: sg.Scaler().fit(X)._affine,
    "one direction": lambda X: sg.PCA(1).fit(X)._affine,
    "some directions": lambda X: sg.PCA(3, whiten=True).fit(X)._affine,
    "rotation": lambda X: sg.PCA().fit(X)._affine,
    "scaled rotation": lambda X: sg.Scaler().fit(X)._affine.then(sg.PCA(3).fit(sg.Scaler().fit_transform(X))._affine),
}


@pytest.mark.parametrize("form", ["reference", "vector", "screened"])
@pytest.mark.parametrize("affine", MAPS)
@pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_map_taken_into_the_whitening_moves_no_row(monkeypatch, name, affine, form, dtype):
    """The statistics are those of a moved copy to 1e-12, and the map is never applied to a row."""
    monkeypatch.setenv("STREAMGMM_KERNELS", form)
    X = table(700, D=5, spread=30).astype(dtype)
    weight = np.random.default_rng(1).uniform(0, 2, len(X))
    affine = MAPS[affine](X)
    copied = affine.apply(X.astype(np.float64))
    model = mixture_for(copied, name)
    wanted = model.accumulate(copied, weight)
    source = TransformedSource(ArraySource(X, weight, chunk_rows=300), affine)
    monkeypatch.setattr(Affine, "apply", None)
    (framed,) = Threads(2).run(partial(e_step, (model,)), source.chunks(), merge_all)
    found = model.restore(framed)
    assert found.loglik == pytest.approx(wanted.loglik, rel=1e-12)
    assert found.entropy == pytest.approx(wanted.entropy, rel=1e-12, abs=1e-10)
    np.testing.assert_allclose(found.weight, wanted.weight, rtol=1e-12)
    scale = np.sqrt(np.diag(np.atleast_2d(np.cov(copied.T))))
    np.testing.assert_allclose(found.mean / scale, wanted.mean / scale, rtol=1e-12, atol=1e-12)
    size = np.abs(wanted.scatter).max()
    np.testing.assert_allclose(found.scatter, wanted.scatter, rtol=1e-12, atol=1e-12 * size)


@pytest.mark.parametrize("make", [sg.Scaler, sg.PCA])
@pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical"])
def test_a_fit_through_a_map_is_the_fit_to_a_moved_copy(make, name):
    X = table(2000, D=4, spread=30)
    moved = make().fit_transform(Stored(X, chunk_rows=500))
    copied = np.concatenate([chunk.load()[0] for chunk in moved.chunks()])
    settings = {"covariance_type": name, "solver": "exact", "random_state": 0, "max_iter": 20, "tol": 0}
    through, copy = sg.GaussianMixture(3, **settings), sg.GaussianMixture(3, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        through.fit(moved)
        copy.fit(Stored(copied, chunk_rows=500))
    np.testing.assert_allclose(through.lower_bounds_, copy.lower_bounds_, rtol=1e-12)
    scale = copied.std(axis=0)
    np.testing.assert_allclose(through.means_ / scale, copy.means_ / scale, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(through.weights_, copy.weights_, rtol=1e-11)
    assert through.score(moved) == pytest.approx(copy.score(copied), rel=1e-12)


@pytest.mark.parametrize("make", [sg.Scaler, sg.PCA])
def test_far_from_the_origin_rows_are_moved_instead(make):
    """One origin for both steps would be rounded to 1e-8 there."""
    X = np.random.default_rng(0).normal(size=(900, 3)) @ np.diag([1.0, 2.0, 3.0]) + 1e8
    moved = make().fit_transform(Stored(X, chunk_rows=300))
    copied = np.concatenate([chunk.load()[0] for chunk in moved.chunks()])
    model = mixture_for(copied, "full")
    assert model.through(moved.affine) is None
    (framed,) = Threads(1).run(partial(e_step, (model,)), moved.chunks(), merge_all)
    assert framed.loglik == pytest.approx(model.accumulate(copied).loglik, rel=1e-13)
    flat = Affine(np.zeros(3), np.array([1.0, 0.0, 1.0]))
    assert model.through(flat) is None  # what is the same for all rows cannot be told from them
    assert model.through(Affine(np.zeros(3), np.ones((3, 3)))) is None
    holed = sg.Mixture(model.weights, model.means, model.covariances, missing="marginalize")
    assert holed.through(Affine(np.zeros(3), np.ones(3))) is None


def test_what_is_behind_a_map_is_cut_and_kept_like_any_other_source(tmp_path):
    X = table(2000, D=3)
    zarr.save_array(tmp_path / "x.zarr", X, zarr_format=3)
    moved = sg.Scaler().fit_transform(sg.open_source(tmp_path / "x.zarr", chunk_rows=1000))
    assert limit_chunks(moved, 300).max_chunk_rows == 1000  # a stored chunk is decoded as a whole
    cut = limit_chunks(sg.Scaler().fit_transform(Stored(X, chunk_rows=1000)), 300)
    kept = cached(moved, 10**6)
    assert cut.max_chunk_rows == 300 and isinstance(cut, TransformedSource) and cut.moments is not None
    for _ in range(2):
        rows = np.concatenate([chunk.load()[0] for chunk in kept.chunks()])
        np.testing.assert_array_equal(rows, moved.affine.apply(X))
    assert kept.source.bytes_kept == X.nbytes
    assert kept.fingerprint() == moved.fingerprint()


@pytest.mark.parametrize("make", [sg.Scaler, lambda: sg.PCA(2)])
def test_a_bad_row_behind_a_map_is_named_as_it_was_read(make):
    X = table(900, D=3)
    affine = make().fit(X)._affine
    model = mixture_for(affine.apply(X), "full")
    X[650, 1] = np.nan
    with pytest.raises(ValueError, match="NaN: row 650, column 1"):
        Threads(1).run(
            partial(e_step, (model,)), TransformedSource(Stored(X, chunk_rows=300), affine).chunks(), merge_all
        )


def test_float32_stays_float32_and_nothing_is_lost():
    X = table().astype(np.float32)
    z = sg.Scaler().fit_transform(X)
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, sklearn.preprocessing.StandardScaler().fit_transform(X.astype(float)), atol=1e-5)


def test_in_a_pipeline_and_a_grid():
    X = table(300, D=4)
    pipeline = make_pipeline(sg.Scaler(), sg.PCA(), sg.GaussianMixture(2, random_state=0, tol=1e-3))
    search = GridSearchCV(pipeline, {"scaler__with_std": [True, False], "pca__n_components": [1, 3]}, cv=3).fit(X)
    assert set(search.best_params_) == {"scaler__with_std", "pca__n_components"}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("made", [sg.Scaler, sg.PCA])
def test_numbers_whose_squares_overflow_are_named(made):
    """One number of 1e200 made a scale of 1 of everything, and an error of LAPACK of principal components."""
    X = np.random.default_rng(0).normal(size=(50, 3))
    X[7, 1] = 1e200
    with pytest.raises(ValueError, match=r"feature\(s\) 1: squares of some numbers are beyond double precision"):
        made().fit(X)
    weight = np.where(np.arange(50) == 7, 0.0, 1.0)
    made().fit(X, sample_weight=weight)
