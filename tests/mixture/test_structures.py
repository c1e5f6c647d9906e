"""mclust's fourteen structures: its trajectories, its degrees of freedom, and laws."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import streamgmm as sg
from streamgmm.mixture.covariance import MCLUST
from streamgmm.mixture.labelled_stats import stats_from_responsibilities
from streamgmm.runtime.executors import Threads
from streamgmm.runtime.fold import fold

HERE = Path(__file__).parents[1] / "data"
CONSTRAINED = tuple(name for name, kind in MCLUST.items() if kind.unconstrained is not kind and name != "EEE")
COMMON_AXES = ("EVE", "VVE")


@cache
def reference():
    return json.loads((HERE / "mclust_structures.json").read_text())["fits"]


@cache
def table(name):
    found = json.loads((HERE / "mclust.json").read_text())["sets"][name]
    return np.array(found["X"]), {key: np.array(labels) - 1 for key, labels in found["init_labels"].items()}


def steps(X, labels, K, name, n, size):
    """Log-likelihoods of exact EM from hard labels, in chunks of `size` rows."""
    stats = stats_from_responsibilities(X, np.ones(len(X)), labels, K, MCLUST[name])
    values, model = [], None
    for _ in range(n):
        model = sg_m_step(stats, model)
        stats = fold((model.accumulate(X[i : i + size]) for i in range(0, len(X), size)), sg.merge)
        values.append(stats.loglik)
    return np.array(values)


def sg_m_step(stats, model):
    from streamgmm.mixture.m_step import m_step

    return m_step(stats, previous=model)


FITS = [(fit["set"], fit["model"], fit["G"]) for fit in reference()]


@pytest.mark.parametrize(("name", "model", "K"), FITS)
def test_trajectories_of_mclust(name, model, K):
    (fit,) = [f for f in reference() if (f["set"], f["model"], f["G"]) == (name, model, K)]
    X, labels = table(name)
    last = 200 if model in COMMON_AXES else max(fit["iters"])
    whole = steps(X, labels[fit["init_labels_id"]], K, model, last, len(X))
    parts = steps(X, labels[fit["init_labels_id"]], K, model, max(fit["iters"]), 64)
    assert np.diff(whole).min() > -1e-9 * abs(whole[-1])  # never falls, which mclust's do for EVE and VVE
    assert parts == pytest.approx(whole[: len(parts)], rel=1e-8)
    found = np.array([whole[i - 1] for i in fit["iters"]])
    wanted = np.array(fit["loglik_at_iter"])
    D = X.shape[1]
    assert K - 1 + K * D + MCLUST[model].n_parameters(K, D) == fit["df"]
    if model in COMMON_AXES:  # paths part, as the M-step of mclust ends before its maximum
        assert whole[-1] >= wanted.max() - 1e-7 * abs(whole[-1])
    elif model == "VEE":  # mclust's inner loop is coarse
        assert (found - wanted >= -1e-7 * np.abs(wanted)).all()
    else:
        assert found == pytest.approx(wanted, rel=1e-10)


def scattered(K, D, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(K, D, D))
    return root @ root.swapaxes(1, 2), rng.uniform(5.0, 50.0, K)


def expected(kind, scatter, weight, covariances):
    """The expected log-likelihood that an M-step maximises, from dense matrices."""
    dense = kind.dense(covariances, len(weight), scatter.shape[-1])
    return -0.5 * sum(
        n * np.linalg.slogdet(c)[1] + np.trace(w @ np.linalg.inv(c))
        for n, w, c in zip(weight, scatter, dense, strict=True)
    )


@pytest.mark.parametrize("name", CONSTRAINED)
def test_no_neighbour_of_the_structure_is_better(name):
    """Perturbed covariances, brought back to the structure, do not raise the objective of the M-step."""
    kind, (scatter, weight) = MCLUST[name], scattered(3, 3)
    stored = {2: np.einsum("kdd->kd", scatter), 1: np.einsum("kdd->k", scatter)}.get(len(kind.shape(3, 3)), scatter)
    best = kind._maximum(stored, weight, 3, None)
    value = expected(kind, scatter, weight, best)
    rng = np.random.default_rng(1)
    for _ in range(50):
        near = best * np.exp(1e-3 * rng.normal(size=(3,) + (1,) * (best.ndim - 1)))
        if best.ndim == 3:
            turn = np.linalg.qr(np.eye(3) + 1e-3 * rng.normal(size=(3, 3)))[0]
            near = turn @ near @ turn.T
        near = kind.constrained(near, weight, 3)
        assert expected(kind, scatter, weight, near) <= value + 1e-9 * abs(value)


@pytest.mark.parametrize("name", CONSTRAINED)
def test_what_is_in_the_structure_stays(name):
    kind, (scatter, weight) = MCLUST[name], scattered(4, 3, 2)
    stored = {2: np.einsum("kdd->kd", scatter), 1: np.einsum("kdd->k", scatter)}.get(len(kind.shape(4, 3)), scatter)
    inside = kind._maximum(stored, weight, 3, None)
    assert kind.constrained(inside, weight, 3) == pytest.approx(inside, rel=1e-9)


X = np.random.default_rng(3).normal(size=(900, 3)) @ np.diag([1.0, 2.0, 0.5])
X[300:600] += 6.0
X[600:] = X[600:] * 0.5 - 5.0


def fitted(name, data=X, **settings):
    choices = {"random_state": 0, "n_init": 1, "max_iter": 25, "tol": 1e-4, "solver": "exact"} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return sg.GaussianMixture(3, covariance_type=name, **choices).fit(data)


@pytest.mark.parametrize("name", MCLUST)
def test_the_same_bits_for_any_threads_and_shapes(name):
    one, two = (fitted(name, sg.open_source(X, chunk_rows=100), executor=Threads(n)) for n in (1, 2))
    assert np.array_equal(one.covariances_, two.covariances_)
    assert one.covariances_.shape == MCLUST[name].unconstrained.shape(3, 3)
    assert one.covariance_type == name


@pytest.mark.parametrize("name", CONSTRAINED)
def test_files_answers_and_refusals(name, tmp_path):
    gm = fitted(name, reg_covar=0.0)
    gm.save(tmp_path / "m.safetensors")
    loaded = sg.load(tmp_path / "m.safetensors")
    assert np.array_equal(loaded.score_samples(X), gm.score_samples(X))
    assert loaded.mixture_.family is MCLUST[name]
    assert gm.to_sklearn().score_samples(X[:50]) == pytest.approx(gm.score_samples(X[:50]), rel=1e-9)
    dense = gm.mixture_.family.dense(gm.mixture_.covariances, 3, 3)
    part = gm.marginal([0, 2])
    assert part.family.dense(part.covariances, 3, 2) == pytest.approx(dense[:, [0, 2]][:, :, [0, 2]])
    assert gm.condition({1: 0.5}).n_features == 2
    assert gm.sample(20)[0].shape == (20, 3)
    with pytest.raises(ValueError, match=r"prior: covariance_type .* has none"):
        fitted(name, prior="default")


@pytest.mark.parametrize("name", CONSTRAINED)
def test_weights_missing_values_streams_and_collapse(name):
    twice = fitted(name, np.concatenate([X, X[:300]]), init_params="kmeans", means_init=[[0] * 3, [6] * 3, [-5] * 3])
    w = np.where(np.arange(len(X)) < 300, 2.0, 1.0)
    settings = {"random_state": 0, "max_iter": 25, "tol": 1e-4, "solver": "exact"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        weighted = sg.GaussianMixture(3, covariance_type=name, means_init=[[0] * 3, [6] * 3, [-5] * 3], **settings).fit(
            X, sample_weight=w
        )
    assert weighted.covariances_ == pytest.approx(twice.covariances_, rel=1e-4)
    holes = X.copy()
    holes[::7, 1] = np.nan
    assert np.isfinite(fitted(name, holes, missing="marginalize").lower_bound_)
    stream = sg.GaussianMixture(3, covariance_type=name, random_state=0)
    for part in np.array_split(np.random.default_rng(0).permutation(X), 6):
        stream.partial_fit(part)
    assert np.isfinite(stream.score(X))
    stuck = np.concatenate([X, np.repeat(X[:1], 200, axis=0)])
    assert np.isfinite(fitted(name, stuck, reg_covar=0.0).lower_bound_)


def test_select_knows_the_word_mclust():
    found = sg.select(X, [2, 3], "mclust", n_init=1, random_state=0, drop=False)
    assert {row["covariance_type"] for row in found.table} == {kind.name for kind in MCLUST.values()}
    assert found.best.n_components == 3
