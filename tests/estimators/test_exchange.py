"""Models on the move: the same answers in scikit-learn, ONNX, JSON and from bare parameters."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sklearn.mixture
from sklearn.exceptions import NotFittedError

import streamgmm as sg
from tests.helpers.mixtures import FAMILIES, random_mixture


def rows(model, n=400, seed=3):
    return model.sample(n, random_state=seed)[0]


def given_model(covariance_type, K=3, D=4):
    model = random_mixture(covariance_type, K, D)
    gm = sg.GaussianMixture.from_parameters(
        model.weights, model.means, model.covariances, covariance_type=covariance_type
    )
    return gm, rows(model)


@pytest.mark.parametrize("covariance_type", FAMILIES)
def test_to_sklearn_answers_the_same(covariance_type):
    gm, X = given_model(covariance_type)
    other = gm.to_sklearn()
    assert isinstance(other, sklearn.mixture.GaussianMixture)
    np.testing.assert_allclose(other.score_samples(X), gm.score_samples(X), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(other.predict_proba(X), gm.predict_proba(X), atol=1e-12)
    np.testing.assert_array_equal(other.predict(X), gm.predict(X))
    assert other.bic(X) == pytest.approx(gm.bic(X), rel=1e-12)
    assert other.sample(5)[0].shape == (5, 4)


@pytest.mark.parametrize("covariance_type", FAMILIES)
def test_from_sklearn_and_back(covariance_type):
    _, X = given_model(covariance_type)
    theirs = sklearn.mixture.GaussianMixture(3, covariance_type=covariance_type, random_state=0, tol=1e-2).fit(X)
    gm = sg.GaussianMixture.from_sklearn(theirs)
    np.testing.assert_allclose(gm.score_samples(X), theirs.score_samples(X), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gm.predict_proba(X), theirs.predict_proba(X), atol=1e-12)
    np.testing.assert_allclose(gm.precisions_, theirs.precisions_, rtol=1e-9, atol=1e-12)
    assert (gm.tol, gm.stopping, gm.lower_bound_) == (1e-2, "change", theirs.lower_bound_)
    back = gm.to_sklearn()
    assert back.get_params() == theirs.get_params()
    assert {k for k in vars(theirs) if k.endswith("_")} <= {k for k in vars(back) if k.endswith("_")}
    np.testing.assert_allclose(back.score_samples(X), theirs.score_samples(X), rtol=1e-12)


def test_what_cannot_be_exchanged_is_refused():
    with pytest.raises(TypeError, match="from_parameters"):
        sg.GaussianMixture.from_sklearn(sklearn.mixture.BayesianGaussianMixture())
    with pytest.raises(NotFittedError):
        sg.GaussianMixture.from_sklearn(sklearn.mixture.GaussianMixture())
    with pytest.raises(NotFittedError):
        sg.GaussianMixture().to_sklearn()
    with pytest.raises(ValueError, match="sum to 1"):
        sg.GaussianMixture.from_parameters([0.5, 0.2], [[0.0], [1.0]], [[[1.0]], [[1.0]]])
    noisy = sg.GaussianMixture(noise="uniform", tol=1e-3, max_iter=500).fit(
        np.random.default_rng(0).normal(size=(99, 2))
    )
    for refuse in (noisy.to_sklearn, noisy.to_json):
        with pytest.raises(ValueError, match="background"):
            refuse()


@pytest.mark.parametrize("covariance_type", FAMILIES)
def test_json_restores_the_same_bits(covariance_type):
    gm, X = given_model(covariance_type)
    gm.set_params(tol=1e-4, random_state=7)
    again = sg.GaussianMixture.from_json(gm.to_json())
    for name in ("weights_", "means_", "covariances_"):
        assert getattr(again, name).tobytes() == getattr(gm, name).tobytes()
    assert again.get_params() == gm.get_params()
    assert again.score_samples(X).tobytes() == gm.score_samples(X).tobytes()
    assert again.n_iter_ == gm.n_iter_ and again.converged_ == gm.converged_


def test_json_keeps_names_and_refuses_what_it_did_not_write():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(50, 2)), columns=["height", "weight"])
    gm = sg.GaussianMixture().fit(frame)
    again = sg.GaussianMixture.from_json(gm.to_json())
    assert list(again.feature_names_in_) == ["height", "weight"]
    assert again.predict(frame).shape == (50,)
    for text in ("[]", "{}", '{"format": "streamgmm-json", "version": 2}'):
        with pytest.raises(ValueError, match="format"):
            sg.GaussianMixture.from_json(text)
    document = json.loads(gm.to_json())
    del document["means"]
    with pytest.raises(ValueError, match=r"lacks \['means'\]"):
        sg.GaussianMixture.from_json(json.dumps(document))


def test_a_model_from_parameters_can_go_on_being_fitted():
    truth = random_mixture("full", 2, 2)
    X = rows(truth, 2000)
    gm = sg.GaussianMixture.from_parameters(truth.weights, truth.means, truth.covariances, warm_start=True)
    before = gm.score(X)
    gm.fit(X)
    assert gm.n_iter_ > 1 and gm.score(X) > before


@pytest.mark.parametrize("covariance_type", FAMILIES)
def test_onnx_agrees(covariance_type):
    skl2onnx = pytest.importorskip("skl2onnx")
    runtime = pytest.importorskip("onnxruntime")
    from skl2onnx.common.data_types import DoubleTensorType

    gm, X = given_model(covariance_type)
    onnx = skl2onnx.convert_sklearn(
        gm.to_sklearn(),
        initial_types=[("X", DoubleTensorType([None, X.shape[1]]))],
        options={sklearn.mixture.GaussianMixture: {"score_samples": True}},
    )
    session = runtime.InferenceSession(onnx.SerializeToString(), providers=["CPUExecutionProvider"])
    labels, proba, logp = session.run(None, {"X": X})
    np.testing.assert_array_equal(labels.ravel(), gm.predict(X))
    np.testing.assert_allclose(proba, gm.predict_proba(X), atol=1e-9)
    np.testing.assert_allclose(logp.ravel(), gm.score_samples(X), atol=1e-9, rtol=1e-9)
