"""The features that make a row unusual, against regressions done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from streamgmm.report.unusual import deviations


def covariance(D, seed=0):
    root = np.random.default_rng(seed).normal(size=(D, D))
    return root @ root.T / D + 0.1 * np.eye(D)


def by_regression(row, mean, sigma, j, observed):
    """Standardised residual of feature j given the other observed ones, and what is expected of it."""
    others = [i for i in observed if i != j]
    coefficients = np.linalg.solve(sigma[np.ix_(others, others)], sigma[others, j])
    expected = mean[j] + coefficients @ (row - mean)[others]
    variance = sigma[j, j] - coefficients @ sigma[others, j]
    return (row[j] - expected) / np.sqrt(variance), expected


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("gaps", [(), (1, 3)])
def test_each_is_a_marginal_or_a_conditional_residual(seed, gaps):
    rng = np.random.default_rng(seed)
    mean, sigma = rng.normal(size=5) * 100, covariance(5, seed) * np.outer(*[10.0 ** np.arange(5)] * 2)
    row = mean + rng.normal(size=5) * 4 * np.sqrt(np.diag(sigma))
    row[list(gaps)] = np.nan
    observed = [j for j in range(5) if j not in gaps]
    found = deviations(row, mean, sigma)
    assert found and not {one.feature for one in found} & set(gaps)
    for one in found:
        z = (row - mean)[one.feature] / np.sqrt(sigma[one.feature, one.feature])
        conditional, expected = by_regression(row, mean, sigma, one.feature, observed)
        assert one.value == row[one.feature]
        assert one.given == (abs(conditional) > 1.5 * abs(z))
        assert one.deviations == pytest.approx(conditional if one.given else z, rel=1e-9)
        assert one.expected == pytest.approx(expected if one.given else mean[one.feature], rel=1e-9)
    sizes = [abs(one.deviations) for one in found]
    assert sizes == sorted(sizes, reverse=True)


def test_only_what_is_large_is_named():
    found = deviations(np.array([5.0, 0.5, -3.0, 0.1, 2.5, 2.2]), np.zeros(6), np.eye(6))
    assert [one.feature for one in found] == [0, 2, 4] and not any(one.given for one in found)
    assert [one.feature for one in deviations(np.array([0.5, -1.0]), np.zeros(2), np.eye(2))] == [1]


def test_features_without_variance_and_rows_without_values_say_nothing():
    assert deviations(np.array([np.nan, np.nan]), np.zeros(2), np.eye(2)) == []
    assert [d.feature for d in deviations(np.array([9.0, 3.0]), np.zeros(2), np.diag([0.0, 1.0]))] == [1]
    # a singular covariance still tells the deviations of each feature by itself
    assert [d.deviations for d in deviations(np.array([3.0, 0.0]), np.zeros(2), np.ones((2, 2)))] == [3.0]
