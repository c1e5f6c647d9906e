"""Posterior modes: mclust's fits, the definitions, and an objective that never falls."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps
from sklearn.exceptions import ConvergenceWarning

import streamgmm as sg
from streamgmm.mixture.covariance import family
from streamgmm.mixture.labelled_stats import stats_from_responsibilities
from streamgmm.mixture.m_step import m_step, objective
from tests.helpers.mixtures import FAMILIES, random_mixture
from tests.helpers.reference_models import MODELS


@pytest.fixture(scope="module")
def reference(shared):
    return json.loads((shared / "mclust" / "reference.json").read_text())


def load(shared, name):
    return np.loadtxt(shared / "mclust" / f"{name}.csv", delimiter=",", skiprows=1)


def hard_start(X, reference, fit, prior=None):
    labels = np.array(reference["sets"][fit["set"]]["init_labels"][fit["init_labels_id"]]) - 1
    stats = stats_from_responsibilities(X, np.ones(len(X)), labels, fit["G"], family(MODELS[fit["model"]]))
    return m_step(stats, prior=prior)


def test_mclust_map_fits(shared, reference):
    """All 24: the prior taken from the data, the log-likelihoods on the way, and the parameters where mclust stopped.

    Both take the same steps, so the parameters that mclust stopped with are met on the way, to 1e-12; those of the
    limit are up to 2e-10 away, for the likelihood is flat to its last digit long before the parameters rest.
    """
    assert len(reference["map"]) == 24
    met = 0
    for fit in reference["map"]:
        X = load(shared, fit["set"])
        chosen, K, D = family(MODELS[fit["model"]]), fit["G"], X.shape[1]
        prior = sg.NormalInverseWishart().resolve(chosen, K, D, X.mean(axis=0), np.cov(X, rowvar=False))
        assert (prior.shrinkage, prior.dof) == (fit["shrinkage"], fit["dof"])
        np.testing.assert_allclose(prior.mean, fit["mean"], rtol=1e-12)
        np.testing.assert_allclose(prior.scale, np.broadcast_to(fit["scale"], prior.scale.shape), rtol=1e-12)
        wanted = dict(zip(fit["iters"], fit["loglik_at_iter"], strict=True))
        model, trace = hard_start(X, reference, fit, prior), []
        for step in range(1, 1001):
            stats = model.accumulate(X)
            trace.append(objective(model, stats, prior))
            if step in wanted:
                assert stats.loglik == pytest.approx(wanted[step], rel=1e-10)
            model = m_step(stats, prior=prior)
            if step >= max(wanted) and (fit["converged_loglik"] is None or distance(model, fit) < 1e-12):
                break
        assert (np.diff(trace) > -1e-13 * abs(trace[-1])).all()
        if fit["converged_loglik"] is not None:
            met += 1
            assert distance(model, fit) < 1e-12, (fit["set"], fit["model"], K)
            assert model.log_prob(X).sum() == pytest.approx(fit["converged_loglik"], rel=1e-13)
    assert met == 23  # mclust gives no limit for faithful, VVI, 3


def distance(model, fit):
    """Largest difference of the parameters from those of `fit`: weights, means and covariances relative to theirs."""
    dense = model.family.dense(model.covariances, *model.means.shape)
    theirs = np.reshape(fit["covariances"], dense.shape)
    return max(
        np.abs(model.weights / fit["weights"] - 1).max(),
        np.abs(model.means / fit["means"] - 1).max(),
        np.abs(dense - theirs).max() / np.abs(theirs).max(),
    )


def test_mclust_map_fits_through_the_estimator(shared, reference):
    for fit in reference["map"][::5]:
        X = load(shared, fit["set"])
        chosen = family(MODELS[fit["model"]])
        prior = sg.NormalInverseWishart().resolve(chosen, fit["G"], X.shape[1], X.mean(axis=0), np.cov(X.T))
        first = hard_start(X, reference, fit, prior)
        gm = sg.GaussianMixture(
            fit["G"], covariance_type=chosen.name, prior="default", reg_covar=0, tol=0, max_iter=10, solver="exact",
            weights_init=first.weights, means_init=first.means,
            precisions_init=first.family.precisions(first.precisions_cholesky),
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            gm.fit(X)
        assert gm.report_["loglik"] == pytest.approx(fit["loglik_at_iter"][-1], rel=1e-10)
        assert gm.report_["objective"] == "penalised mean log-likelihood"
        assert (np.diff(gm.lower_bounds_) > -1e-12).all()


def test_bic_of_stored_fits(shared, reference):
    """The converged parameters of mclust give mclust's likelihood, degrees of freedom and BIC (its sign turned)."""
    checked = 0
    for name, data in reference["sets"].items():
        X = load(shared, name)
        for fit in data["fits"]:
            converged = fit["converged"]
            if fit["model"] not in MODELS or not converged or "means" not in converged:
                continue
            chosen = family(MODELS[fit["model"]])
            sigma = np.array(converged["covariances"])
            if sigma.ndim == 3:
                sigma = {
                    "full": sigma, "tied": sigma[0], "diag": np.diagonal(sigma, axis1=1, axis2=2),
                    "spherical": sigma[:, 0, 0],
                }[chosen.name]  # fmt: skip
            model = sg.Mixture(converged["weights"], converged["means"], sigma, chosen)
            loglik = model.log_prob(X).sum()
            assert model.n_parameters == fit["df"]
            assert loglik == pytest.approx(converged["loglik"], rel=1e-10)
            gm = sg.GaussianMixture(fit["G"], covariance_type=chosen.name)
            gm.mixture_, gm.n_features_in_ = model, X.shape[1]
            wanted = -(2 * converged["loglik"] - fit["df"] * np.log(len(X)))
            assert gm.bic(X) == pytest.approx(wanted, rel=1e-10)
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("name", FAMILIES)
def test_the_penalty_is_the_log_density_of_the_prior(name):
    """Differences of `log_density` against scipy's inverse Wishart, normal and inverse gamma densities."""
    K, D = 2, 3
    rng = np.random.default_rng(1)
    kappa, nu, centre = 0.5, 7.0, rng.normal(size=D)
    root = rng.normal(size=(D, D))
    scale = {
        "full": root @ root.T + np.eye(D),
        "tied": root @ root.T + np.eye(D),
        "diag": [1.0, 2.0, 3.0],
        "spherical": 2.0,
    }[name]
    prior = sg.NormalInverseWishart(kappa, centre, nu, scale).resolve(family(name), K, D, None, None)

    def by_scipy(model):
        dense = model.family.dense(model.covariances, K, D)
        total = sum(sps.multivariate_normal(centre, dense[k] / kappa).logpdf(model.means[k]) for k in range(K))
        if name in ("full", "tied"):
            each = dense if name == "full" else dense[:1]
            return total + sum(sps.invwishart(nu, scale).logpdf(sigma) for sigma in each)
        if name == "diag":
            return total + sps.invgamma(nu / 2, scale=np.array(scale) / 2).logpdf(model.covariances).sum()
        return total + sps.invgamma(nu / 2, scale=scale / 2).logpdf(model.covariances).sum()

    a, b = (random_mixture(name, K, D, seed) for seed in (1, 2))
    assert prior.log_density(a) - prior.log_density(b) == pytest.approx(by_scipy(a) - by_scipy(b), rel=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(FAMILIES), kappa=st.sampled_from([0.0, 0.01, 3.0]))
def test_the_penalised_objective_never_falls(seed, name, kappa):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(12, 3)) * [1, 10, 0.1] + 5  # fewer rows than a full mixture has parameters
    prior = sg.NormalInverseWishart(kappa).resolve(family(name), 3, 3, X.mean(axis=0), np.cov(X.T))
    model, trace = (
        m_step(stats_from_responsibilities(X, np.ones(12), rng.integers(0, 3, 12), 3, family(name)), prior=prior),
        [],
    )
    for _ in range(30):
        stats = model.accumulate(X)
        trace.append(objective(model, stats, prior))
        model = m_step(stats, prior=prior)
    assert (np.diff(trace) > -1e-11 * np.abs(trace[:-1])).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prior_needs_no_repair(name):
    """Six distinct rows, four components: maximum likelihood collapses, the posterior mode does not."""
    X = np.repeat(np.random.default_rng(3).normal(size=(6, 4)), 5, axis=0)
    gm = sg.GaussianMixture(
        4, covariance_type=name, prior="default", reg_covar=0.0, random_state=0, on_collapse="raise"
    )
    gm.fit(X)
    assert gm.report_["repairs"] == []
    assert np.isfinite(gm.score_samples(X)).all()


@pytest.mark.parametrize(
    ("prior", "name", "message"),
    [
        (sg.NormalInverseWishart(shrinkage=-1), "full", "shrinkage >= 0"),
        (sg.NormalInverseWishart(dof=0), "full", "dof > 0"),
        (sg.NormalInverseWishart(mean=[0.0]), "full", r"shape \(2,\)"),
        (sg.NormalInverseWishart(scale=np.ones(3)), "full", "scale must be finite"),
        (sg.NormalInverseWishart(scale=-1.0), "tied", "positive definite"),
        (sg.NormalInverseWishart(scale=np.eye(2)), "diag", "got a matrix"),
        (sg.NormalInverseWishart(scale=[1.0, 2.0]), "spherical", "must be a number"),
        ("mclust", "full", "'prior' parameter"),
    ],
)
def test_priors_that_make_no_sense_are_refused(prior, name, message):
    X = np.random.default_rng(0).normal(size=(20, 2))
    with pytest.raises(ValueError, match=message):
        sg.GaussianMixture(2, covariance_type=name, prior=prior).fit(X)
