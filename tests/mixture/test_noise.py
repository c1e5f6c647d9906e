"""The uniform background: against a dense twin, by what it recovers, and through every question."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import streamgmm as sg
from streamgmm.sources import array_source
from tests.helpers.mixtures import FAMILIES
from tests.helpers.naive import em_with_noise


@pytest.fixture(scope="module")
def pair():
    """A Gaussian pair in a uniform background: rows, and what they were drawn from."""
    rng = np.random.default_rng(5)
    box = np.array([[-10.0, -8.0], [12.0, 9.0]])
    a = rng.multivariate_normal([-3, 0], [[1.0, 0.6], [0.6, 0.8]], 4000)
    b = rng.multivariate_normal([5, 3], [[0.5, -0.2], [-0.2, 0.4]], 2500)
    X = np.concatenate([a, b, rng.uniform(*box, (1500, 2))])
    return X[rng.permutation(len(X))]


def first(name):
    precisions = {
        "full": np.stack([np.eye(2)] * 2),
        "tied": np.eye(2),
        "diag": np.ones((2, 2)),
        "spherical": np.ones(2),
    }
    return {"weights_init": [0.4, 0.4], "means_init": [[-2.0, 1], [4, 2]], "precisions_init": precisions[name]}


@pytest.mark.parametrize("name", FAMILIES)
def test_dense_reference(pair, name):
    """Same likelihoods and parameters as a dense EM, step for step, in chunks of 1000 rows."""
    gm = sg.GaussianMixture(
        2, covariance_type=name, noise="uniform", reg_covar=0, tol=0, max_iter=25, solver="exact", **first(name)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gm.fit(array_source(pair, None, chunk_rows=1000))
    box = np.array([pair.min(axis=0), pair.max(axis=0)])
    start = (np.array([0.4, 0.4]), np.array([[-2.0, 1], [4, 2]]), np.linalg.inv(np.eye(2)))
    ones = {"full": np.stack([np.eye(2)] * 2), "tied": np.eye(2), "diag": np.ones((2, 2)), "spherical": np.ones(2)}
    model, noise, trace = em_with_noise(pair, (*start[:2], ones[name]), 0.2, box, name, 25)
    np.testing.assert_allclose(np.array(gm.lower_bounds_) * len(pair), trace, rtol=1e-10)
    np.testing.assert_allclose(gm.noise_weight_, noise, rtol=1e-10)
    np.testing.assert_allclose(gm.weights_, model[0], rtol=1e-10)
    np.testing.assert_allclose(gm.means_, model[1], rtol=1e-10)
    np.testing.assert_allclose(gm.covariances_, model[2], rtol=1e-9)
    assert gm.noise_weight_ + gm.weights_.sum() == pytest.approx(1, abs=1e-14)


def test_a_pair_in_a_background_is_recovered(pair):
    gm = sg.GaussianMixture(2, noise="uniform", random_state=0, reg_covar=0).fit(pair)
    order = np.argsort(gm.means_[:, 0])
    np.testing.assert_allclose(gm.means_[order], [[-3, 0], [5, 3]], atol=0.06)
    wanted = [[[1.0, 0.6], [0.6, 0.8]], [[0.5, -0.2], [-0.2, 0.4]]]
    np.testing.assert_allclose(gm.covariances_[order], wanted, atol=0.06)
    assert gm.noise_weight_ == pytest.approx(1500 / 8000, abs=0.02)
    plain = sg.GaussianMixture(2, random_state=0).fit(pair)
    assert plain.covariances_[:, 0, 0].min() > 1.0  # without it the background widens both
    assert gm.bic(pair) < plain.bic(pair)


def test_questions(pair):
    gm = sg.GaussianMixture(2, noise="uniform", random_state=0, max_iter=60).fit(pair)
    far = np.array([[-3.0, 0.0], [11.0, -7.0], [1e6, 1e6]])
    resp = gm.predict_proba(far)
    assert resp.shape == (3, 3)
    np.testing.assert_allclose(resp.sum(axis=1), 1)
    labels = gm.predict(far)
    assert labels[0] >= 0 and labels[1:].tolist() == [-1, -1]
    density = gm.noise_weight_ / np.prod(pair.max(axis=0) - pair.min(axis=0))
    np.testing.assert_allclose(gm.score_samples(far)[1:], np.log(density), rtol=1e-12)
    model = gm.mixture_
    assert model.n_parameters == 2 + 4 + 6
    assert model.log_volume == pytest.approx(np.log(np.prod(pair.max(axis=0) - pair.min(axis=0))))
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.log_prob(far), model.log_prob(far))
    X, drawn = gm.sample(5000)
    assert set(drawn) == {-1, 0, 1}
    assert (drawn == -1).mean() == pytest.approx(gm.noise_weight_, abs=0.03)
    assert (X[drawn == -1] >= model.box[0]).all() and (X[drawn == -1] <= model.box[1]).all()
    stats = model.accumulate(pair)
    np.testing.assert_allclose(stats.count - stats.weight.sum(), model.responsibilities(pair)[:, -1].sum(), rtol=1e-9)
    total = stats.maximize()
    assert total.noise_weight + total.weights.sum() == pytest.approx(1)


def test_a_model_file_keeps_the_background(pair, tmp_path):
    gm = sg.GaussianMixture(2, noise="uniform", missing="marginalize", random_state=0, max_iter=60).fit(pair)
    gm.save(tmp_path / "model.safetensors")
    again = sg.load(tmp_path / "model.safetensors")
    far = np.array([[11.0, -7.0], [np.nan, 0.0]])
    np.testing.assert_array_equal(again.predict_proba(far), gm.predict_proba(far))
    assert again.noise_weight_ == gm.noise_weight_ > 0


def test_the_background_survives_repair_restarts_and_warm_starts(pair):
    X = np.concatenate([pair[:500], np.repeat(pair[:1], 400, axis=0)])
    gm = sg.GaussianMixture(4, noise="uniform", n_init=3, reg_covar=0, random_state=1, max_iter=40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gm.fit(X)
        assert gm.noise_weight_ + gm.weights_.sum() == pytest.approx(1)
        assert gm.mixture_.box is not None
        gm.set_params(warm_start=True, max_iter=5).fit(X)
    assert gm.mixture_.box is not None


def test_what_cannot_have_a_background_is_refused(pair):
    flat = np.column_stack([pair, np.ones(len(pair))])
    with pytest.raises(ValueError, match=r"feature\(s\) \[2\] are constant"):
        sg.GaussianMixture(2, noise="uniform").fit(flat)
    with pytest.raises(ValueError, match="needs the box"):
        sg.Mixture([0.5], [[0.0]], [[[1.0]]], noise_weight=0.5)
    with pytest.raises(ValueError, match=r"shape \(2, 1\)"):
        sg.Mixture([0.5], [[0.0]], [[[1.0]]], noise_weight=0.5, box=[[1.0], [0.0]])
    with pytest.raises(ValueError, match="sum to 1"):
        sg.Mixture([0.5], [[0.0]], [[[1.0]]], noise_weight=0.4, box=[[0.0], [1.0]])
