"""Tail probabilities: uniform under the model, whatever a row shows; the far tail by its closed form."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from scipy.stats import chi2, kstest

import streamgmm as sg
from streamgmm.mixture.tails import Tails, log_chi2_tail

OVERLAPPING = sg.Mixture(
    [0.5, 0.3, 0.2],
    [[0.0, 0.0, 0.0], [1.0, 0.5, 8.0], [-0.5, 1.0, -7.0]],
    [np.eye(3), np.diag([0.5, 2.0, 1.0]), np.array([[1.0, 0.4, 0.0], [0.4, 1.5, 0.2], [0.0, 0.2, 1.0]])],
    missing="marginalize",
)
"""Components that only the last feature tells apart."""


@pytest.mark.parametrize(("x", "d"), [(0.0, 3), (1e-3, 1), (7.5, 4), (50.0, 2), (900.0, 7), (3000.0, 1), (2e4, 121)])
def test_the_tail_of_chi_squared_to_50_digits(x, d):
    with mpmath.workdps(50):
        right = mpmath.log(mpmath.gammainc(mpmath.mpf(d) / 2, mpmath.mpf(x) / 2, mpmath.inf, regularized=True))
    assert log_chi2_tail(np.array([x]), d)[0] == pytest.approx(float(right), rel=1e-12, abs=1e-14)


def test_of_one_gaussian_it_is_that_of_the_mahalanobis_distance():
    one = sg.Mixture([1.0], [[3.0, -1.0]], [[[2.0, 0.5], [0.5, 1.0]]], missing="marginalize")
    rows = np.array([[3.0, -1.0], [5.0, 1.0], [9.0, -6.0], [np.nan, 1.5], [7.0, np.nan]])
    square = [0.0, 32 / 7, None, 6.25, 8.0]
    delta = rows[2] - [3.0, -1.0]
    square[2] = delta @ np.linalg.solve([[2.0, 0.5], [0.5, 1.0]], delta)
    right = chi2.sf(square, [2, 2, 2, 1, 1])
    found = Tails(one).tail_probability(rows)
    assert found == pytest.approx(right, rel=0.2, abs=0.01)  # draws decide up to 10 %
    assert found[0] == 1.0
    far = np.array([[3.0 + 20.0, -1.0], [3.0 + 30.0, -1.0]])  # beyond the draws the slope is exact
    step = Tails(one).log_tail(far)
    squares = np.array([d @ np.linalg.solve([[2.0, 0.5], [0.5, 1.0]], d) for d in far - [3.0, -1.0]])
    assert step[1] - step[0] == pytest.approx(chi2.logsf(squares[1], 2) - chi2.logsf(squares[0], 2), rel=1e-9)


@pytest.mark.parametrize("shown", [[0, 1, 2], [0, 1], [2], [0]])
def test_rows_of_the_model_are_uniform_in_every_pattern(shown):
    rows, _ = OVERLAPPING.sample(100_000, random_state=5)
    gaps = np.ones(3, bool)
    gaps[shown] = False
    p = Tails(OVERLAPPING).tail_probability(np.where(gaps, np.nan, rows))
    assert kstest(p, "uniform").statistic < 0.03
    for share, factor in ((0.001, 2.2), (0.01, 1.3), (0.05, 1.2)):  # beyond 1 % the tail is that of the components
        assert share / factor < (p < share).mean() < share * factor


def test_a_row_that_shows_nothing_is_no_anomaly_and_order_within_a_pattern_is_that_of_densities():
    rows, _ = OVERLAPPING.sample(500, random_state=1)
    rows[np.random.default_rng(2).random(rows.shape) < 0.3] = np.nan
    rows[7] = np.nan
    p, logp = Tails(OVERLAPPING).log_tail(rows), OVERLAPPING.log_prob(rows)
    assert p[7] == 0.0 and (p <= 0).all() and np.isfinite(p).all()
    for pattern in np.unique(np.isnan(rows), axis=0):
        same = (np.isnan(rows) == pattern).all(axis=1)
        assert (np.diff(p[same][np.argsort(logp[same])]) >= 0).all()


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical", "VEV", "factor"])
def test_estimators_of_every_family_answer_for_files_and_arrays(tmp_path, kind):
    rng = np.random.default_rng(4)
    X = rng.normal(size=(400, 4)) + np.repeat([[0.0], [5.0]], 200, axis=0)
    gm = sg.GaussianMixture(2, covariance_type=kind, n_factors=1 if kind == "factor" else None, random_state=0).fit(X)
    p = gm.tail_probability(X)
    assert p.shape == (400,) and (p < 0.1).mean() == pytest.approx(0.1, abs=0.05)
    np.save(tmp_path / "x.npy", X)
    np.testing.assert_array_equal(np.concatenate(list(gm.tail_probability(tmp_path / "x.npy"))), p)


def test_outliers_among_rows_with_gaps():
    rng = np.random.default_rng(6)
    X = rng.normal(size=(2000, 4)) @ np.diag([1.0, 3.0, 0.2, 1.0])
    X[rng.random(X.shape) < 0.4] = np.nan
    wild = np.arange(0, 2000, 100)
    shows = [np.flatnonzero(~np.isnan(row)) for row in X[wild]]
    for i, some in zip(wild, shows, strict=True):
        if len(some):
            X[i, some[0]] += 50 * (-1) ** i
    wild = wild[[len(some) > 0 for some in shows]]
    detector = sg.OutlierDetector(contamination=0.02, missing="marginalize", random_state=0).fit(X)
    scores = detector.score_samples(X)
    lowest = np.argsort(scores)[: len(wild)]
    by_density = np.argsort(detector.mixture_.log_prob(X))[: len(wild)]
    assert set(lowest) == set(wild)
    holes = np.isnan(X).sum(axis=1)
    assert (scores[holes == 4] == 0).all() and (detector.predict(X[holes == 4]) == 1).all()
    # what is called an outlier does not depend on how much a row shows; by density it does
    calm = np.setdiff1d(np.arange(2000), wild)
    share = [(scores[calm][holes[calm] == h] < np.quantile(scores[calm], 0.1)).mean() for h in (0, 1, 2, 3)]
    assert share == pytest.approx([0.1] * 4, abs=0.06)
    assert np.isnan(X[by_density]).mean() < np.isnan(X).mean()


def test_without_gaps_scores_stay_log_densities():
    X = np.random.default_rng(0).normal(size=(200, 2))
    detector = sg.OutlierDetector(random_state=0).fit(X)
    np.testing.assert_array_equal(detector.score_samples(X), detector.mixture_.log_prob(X))
    with pytest.raises(ValueError, match="NaN"):
        sg.OutlierDetector().fit(np.where(X > 2, np.nan, X))
