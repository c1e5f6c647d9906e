"""Rows, weights and criteria in `report_` are those of the data, or are not given."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning

import streamgmm as sg

X = np.random.default_rng(0).normal(size=(3000, 2)) + np.repeat([[0.0], [6.0]], 1500, axis=0)
NAMES = ("bic", "aic", "icl", "loglik")


def fitted(solver, X=X, weight=None, **options):
    gm = sg.GaussianMixture(2, solver=solver, random_state=0, **options)
    if solver == "stepwise":
        with pytest.warns(ConvergenceWarning):
            return gm.fit(X, sample_weight=weight)
    return gm.fit(X, sample_weight=weight)


def independent_loglik(gm, X, weight):
    """From SciPy's densities."""
    parts = [
        np.log(w) + multivariate_normal(m, c).logpdf(X)
        for w, m, c in zip(gm.weights_, gm.means_, gm.covariances_, strict=True)
    ]
    return float(weight @ logsumexp(parts, axis=0))


@pytest.mark.parametrize("max_passes", [1, 3, 10])
@pytest.mark.parametrize("weighted", [False, True])
def test_stepwise_counts_the_rows_once_and_gives_no_criteria(max_passes, weighted):
    weight = np.random.default_rng(1).uniform(0.5, 2.0, len(X)) if weighted else None
    gm = fitted("stepwise", weight=weight, max_iter=max_passes, tol=0.0)
    report = gm.report_
    assert (report["rows"], report["dropped"]) == (len(X), 0)
    assert report["weight"] == pytest.approx(len(X) if weight is None else weight.sum(), rel=1e-12)
    assert not any(name in report for name in NAMES)
    assert "bic(X)" in report["criteria"]


def test_stepwise_counts_rows_of_positive_weight_and_dropped_ones_of_one_lap():
    rows, weight = X.copy(), np.ones(len(X))
    rows[100:140] = np.nan
    weight[:100] = 0.0  # a pass that begins with a batch of no weight, too
    gm = fitted("stepwise", rows, weight, max_iter=4, tol=0.0, missing="marginalize")
    exact = fitted("exact", rows, weight, missing="marginalize")
    for name in ("rows", "weight", "dropped"):
        assert gm.report_[name] == exact.report_[name]


def test_stepwise_lap_that_begins_without_weight_counts_from_zero():
    weight = np.ones(len(X))
    weight[:2000] = 0.0
    gm = fitted("stepwise", weight=weight, max_iter=5, tol=0.0)
    assert (gm.report_["rows"], gm.report_["weight"]) == (1000, 1000.0)


@pytest.mark.parametrize("solver", ["auto", "exact", "squarem", "incremental"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_criteria_of_a_converged_fit_are_those_of_its_model(solver, weighted):
    weight = np.random.default_rng(1).uniform(0.5, 2.0, len(X)) if weighted else np.ones(len(X))
    gm = fitted(solver, weight=weight, tol=1e-8, max_iter=200)
    loglik = independent_loglik(gm, X, weight)
    assert gm.report_["rows"] == len(X)
    assert gm.report_["loglik"] == pytest.approx(loglik, rel=1e-7)
    assert gm.report_["bic"] == pytest.approx(-2 * loglik + 11 * np.log(weight.sum()), rel=1e-7)


def test_nothing_is_selected_by_criteria_that_there_are_not():
    with pytest.raises(ValueError, match="solver='auto'"):
        sg.select(X, [1, 2], solver="stepwise")


@pytest.mark.parametrize("numbers", [2, (1, 2)])
def test_an_outlier_detector_of_stepwise_fits_evaluates_its_models(numbers):
    mixture = sg.GaussianMixture(2, solver="stepwise", random_state=0, max_iter=3, tol=0.0)
    with pytest.warns(ConvergenceWarning):
        detector = sg.OutlierDetector(numbers, estimator=mixture).fit(X)
    assert detector.n_components_ == 2
    loglik = independent_loglik(detector.estimator_, X, np.ones(len(X)))
    assert detector.bic_[2] == pytest.approx(-2 * loglik + 11 * np.log(len(X)), rel=1e-9)
