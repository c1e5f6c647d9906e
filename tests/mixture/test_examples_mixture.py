"""What people do with a fitted mixture, each as somebody would write it: on arrays, and on a Zarr store alike."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

import streamgmm as sg


@pytest.fixture(scope="module")
def rows():
    """Two groups of three measurements that hang together, in their own units."""
    rng = np.random.default_rng(42)
    a = rng.multivariate_normal([170.0, 65.0, 1.2], [[49, 30, 0.5], [30, 64, 0.2], [0.5, 0.2, 0.04]], 3000)
    b = rng.multivariate_normal([120.0, 25.0, 0.4], [[36, 12, 0.1], [12, 9, 0.05], [0.1, 0.05, 0.01]], 2000)
    return np.concatenate([a, b])[rng.permutation(5000)]


@pytest.fixture(params=["array", "zarr"])
def stored(request, tmp_path):
    """The same rows in memory, or on disk in chunks."""

    def store(X):
        if request.param == "array":
            return X
        target = zarr.create_array(str(tmp_path / "rows.zarr"), shape=X.shape, chunks=(1024, X.shape[1]), dtype=X.dtype)
        target[:] = X
        return str(tmp_path / "rows.zarr")

    return store


def whole(answer):
    """Answers for data on disk come chunk by chunk."""
    return answer if isinstance(answer, np.ndarray) else np.concatenate(list(answer))


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_fit_label_score_sample(rows, stored, covariance_type):
    data = stored(rows)
    gm = sg.GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(data)
    labels, soft, density = (whole(ask(data)) for ask in (gm.predict, gm.predict_proba, gm.score_samples))
    np.testing.assert_array_equal(labels, soft.argmax(axis=1))
    assert density.mean() == pytest.approx(gm.score(data))
    drawn, _ = gm.sample(20_000)
    np.testing.assert_allclose(drawn.mean(axis=0), rows.mean(axis=0), rtol=0.05)


def test_missing_values(rows, stored):
    rng = np.random.default_rng(0)
    holed = np.where(rng.random(rows.shape) < 0.3, np.nan, rows)
    data = stored(holed)
    gm = sg.GaussianMixture(2, missing="marginalize", random_state=0).fit(data)
    order = np.argsort(-gm.means_[:, 0])
    np.testing.assert_allclose(gm.means_[order], [[170, 65, 1.2], [120, 25, 0.4]], rtol=0.03)
    filled = whole(gm.impute(data))
    gaps = np.isnan(holed)
    assert not np.isnan(filled).any()
    blind = np.abs(np.nanmean(holed, axis=0) - rows)[gaps[:, 0], 0].mean()
    assert np.abs(filled - rows)[gaps[:, 0], 0].mean() < 0.6 * blind
    assert np.isfinite(whole(gm.score_samples(data))).all()


def test_outliers_soaked_up_by_a_background(rows, stored):
    rng = np.random.default_rng(0)
    junk = rng.uniform(rows.min(axis=0) - 50, rows.max(axis=0) + 50, size=(500, 3))
    data = stored(np.concatenate([rows, junk])[rng.permutation(5500)])
    gm = sg.GaussianMixture(2, noise="uniform", random_state=0).fit(data)
    assert gm.noise_weight_ == pytest.approx(500 / 5500, abs=0.02)
    assert gm.noise_weight_ + gm.weights_.sum() == pytest.approx(1.0)
    labels = whole(gm.predict(data))
    assert (labels == -1).mean() == pytest.approx(500 / 5500, abs=0.02)
    assert whole(gm.predict_proba(data)).shape == (5500, 3)
    with pytest.raises(ValueError, match="background"):
        gm.to_sklearn()


def test_a_prior_instead_of_collapse(stored):
    few = np.repeat(np.random.default_rng(0).normal(size=(8, 3)), 3, axis=0)
    data = stored(few)
    gm = sg.GaussianMixture(3, prior="default", reg_covar=0, on_collapse="raise", random_state=0).fit(data)
    assert (np.diff(gm.lower_bounds_) > -1e-10).all()
    strong = sg.NormalInverseWishart(shrinkage=1.0, scale=np.eye(3))
    wide = sg.GaussianMixture(3, prior=strong, reg_covar=0, random_state=0).fit(data)
    assert np.linalg.eigvalsh(wide.covariances_).min() > np.linalg.eigvalsh(gm.covariances_).min()


def test_regression_with_uncertainty(rows):
    """Weight from height, with a variance of its own at every point."""
    gm = sg.GaussianMixture(2, random_state=0).fit(rows)
    heights = np.array([[115.0], [125.0], [175.0]])
    means, covariances = gm.marginal([0, 1]).regression(heights, [0])
    for height, mean, variance in zip(heights[:, 0], means[:, 0], covariances[:, 0, 0], strict=True):
        near = rows[np.abs(rows[:, 0] - height) < 2.0, 1]
        assert mean == pytest.approx(near.mean(), abs=4.0)
        assert np.sqrt(variance) == pytest.approx(near.std(), rel=0.35)
    one = gm.condition({0: 175.0, 2: 1.3})
    assert one.n_features == 1
    assert one.moments()[1][0, 0] <= covariances[2, 0, 0] * 1.1


def test_merge_and_compare(rows):
    fine = sg.GaussianMixture(6, random_state=0).fit(rows)
    merged = fine.merge_components(n_components=2)
    truth = sg.GaussianMixture(2, random_state=0).fit(rows).mixture_
    assert sg.cauchy_schwarz_divergence(merged, truth) < 0.05
    d = sg.kl_divergence(merged, truth, random_state=0)
    assert d.lower <= d.value + 4 * d.standard_error and d.value - 4 * d.standard_error <= d.upper
    assert sg.matched_kl_divergence(fine.mixture_, merged) == pytest.approx(0, abs=1e-9)


def test_more_samples_than_memory(rows, tmp_path):
    gm = sg.GaussianMixture(2, random_state=0).fit(rows)
    path = sg.sample_to_zarr(gm.mixture_, tmp_path / "many.zarr", 50_000, chunk_rows=8192, random_state=1)
    again = sg.GaussianMixture(2, random_state=0).fit(path)
    assert sg.cauchy_schwarz_divergence(gm.mixture_, again.mixture_) < 1e-3


def test_weights_and_missing_values_resume_after_a_crash(rows, tmp_path):
    """Background, prior and gaps are part of the state: a fit that is stopped goes on with the same bits."""
    X = np.where(np.random.default_rng(0).random(rows.shape) < 0.2, np.nan, rows)
    common = {"missing": "marginalize", "noise": "uniform", "prior": "default", "random_state": 0, "tol": 1e-4}
    straight = sg.GaussianMixture(3, **common).fit(X)

    class Stop(Exception):
        pass

    cut = sg.GaussianMixture(3, **common, checkpoint=str(tmp_path))
    seen = []

    def stop(chunk):
        seen.append(chunk)
        if len(seen) == 5:
            raise Stop

    from streamgmm.runtime.executors import Threads

    executor = Threads(1)
    executor.on_chunk = stop
    with pytest.raises(Stop):
        cut.set_params(executor=executor).fit(X)
    resumed = cut.set_params(executor=None).fit(X)
    np.testing.assert_array_equal(resumed.covariances_, straight.covariances_)
    assert resumed.noise_weight_ == straight.noise_weight_
