"""Many features: what a start and a step cost there."""

from __future__ import annotations

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.em.update import Maximize
from streamgmm.mixture.covariance import DIAG, FULL, SPHERICAL, TIED
from streamgmm.mixture.mixture import Mixture


@pytest.mark.parametrize("family", [FULL, TIED, DIAG, SPHERICAL], ids=lambda family: family.name)
def test_merit_takes_the_traces_of_the_inverse_covariances(family):
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(3, 4, 4)) + 3 * np.eye(4)
    dense = factors @ np.swapaxes(factors, -1, -2)
    own = {FULL: dense, TIED: dense[0], DIAG: np.diagonal(dense, axis1=1, axis2=2), SPHERICAL: dense[:, 0, 0]}[family]
    share = np.array([0.5, 0.3, 0.2])
    model = Mixture(share, rng.normal(size=(3, 4)), own, family)
    traces = np.array([np.trace(np.linalg.inv(one)) for one in family.dense(np.asarray(own), 3, 4)])
    expected = -7.0 - 0.5 * 1e-2 * share @ traces
    assert Maximize(1e-2).merit(model, -7.0, share) == pytest.approx(expected, rel=1e-13)


def test_fits_of_wide_data_end_no_lower_than_extrapolated_em():
    X = np.random.default_rng(0).normal(size=(600, 190))
    default = sg.GaussianMixture(3, random_state=0, max_iter=20).fit(X)
    squarem = sg.GaussianMixture(3, random_state=0, max_iter=20, solver="squarem").fit(X)
    assert default.score(X) >= squarem.score(X) - 1e-4
