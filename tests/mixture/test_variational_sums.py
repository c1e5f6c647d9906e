"""Gains of merges from statistics alone, against the evidence bounds of the posteriors that they lead to."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from streamgmm.mixture import variational_sums
from streamgmm.mixture.covariance import FAMILIES, FULL
from streamgmm.mixture.labelled_stats import stats_from_responsibilities
from streamgmm.mixture.variational import PriorParameters, evidence_of, gauss_wishart, variational_m_step
from streamgmm.mixture.variational_sums import joined, merges, weight_evidence


def prior_of(family, limit, D, weight_type="dirichlet_process", concentration=None):
    parameters = PriorParameters(concentration)
    return gauss_wishart(
        family, limit, D, parameters, weight_type=weight_type, data_mean=np.zeros(D), data_covariance=np.eye(D)
    )


def statistics(family, n, K, D):
    rng = np.random.default_rng(0)
    resp = rng.dirichlet(np.full(K, 0.3), size=n)
    return stats_from_responsibilities(rng.normal(size=(n, D)), rng.uniform(0.1, 3.0, n), resp, K, family)


@pytest.mark.parametrize("block", [1, 2**18])
@pytest.mark.parametrize("weight_type", ["dirichlet_process", "dirichlet_distribution"])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_the_gain_of_a_merge_is_that_of_the_posterior(family, weight_type, block, monkeypatch):
    monkeypatch.setattr(variational_sums, "BLOCK", block)
    stats, prior, reg = statistics(family, 80, 6, 3), prior_of(family, 8, 3, weight_type), 1e-3

    def bound(stats):
        # Rows bring `reg_covar` as noise of their own, which the posterior takes into its scatter.
        noise = family.add_to_diagonal(np.zeros(family.shape(len(stats.weight), 3)), reg)
        scatter = stats.scatter + noise * family.divisor(stats.weight, 3)
        return evidence_of(variational_m_step(stats, prior, reg), replace(stats, scatter=scatter))

    found = merges(stats, prior, reg)
    assert len(found.hoped) == 15 and (np.diff(found.hoped) <= 0).all()
    for i, j, hoped in zip(found.i, found.j, found.hoped, strict=True):
        assert hoped == pytest.approx(bound(joined(stats, i, j)) - bound(stats), abs=1e-9)


@pytest.mark.parametrize("concentration", [1e-9, 1.0, 1e6])
def test_the_gain_of_the_sticks_is_that_of_all_of_them(concentration):
    prior = prior_of(FULL, 9, 1, concentration=concentration)
    weight = np.array([1e7, 3.0, 1e-12, 2e5, 0.5, 0.0, 40.0, 1e-3])
    i, j = np.triu_indices(len(weight), 1)
    found = variational_sums._weight_gain(weight, i, j, prior)
    for a, b, gain in zip(i, j, found, strict=True):
        after = np.delete(weight, b)
        after[a] += weight[b]
        right = weight_evidence(after, prior) - weight_evidence(weight, prior)
        assert gain == pytest.approx(right, rel=1e-9, abs=1e-6)


def test_all_pairs_of_many_components_take_little_memory():
    """All 2,415 pairs at a time would be 80 MB for each array of their covariances."""
    stats, prior = statistics(FULL, 300, 70, 64), prior_of(FULL, 70, 64)
    tracemalloc.start()
    try:
        merges(stats, prior, 0.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64e6
