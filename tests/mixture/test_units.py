"""Data in small units: `reg_covar` hides their clusters, and whoever looks is told."""

from __future__ import annotations

import numpy as np
import pytest

import streamgmm as sg


def metres():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(1000, 2)) + 6 * (rng.random(1000) < 0.5)[:, None]) * 1e-5


def test_a_fit_warns_and_names_what_would_fit():
    X = metres()
    with pytest.warns(UserWarning, match=r"reg_covar=1e-06 .* x0 \(.*e-.*\).* Set reg_covar=\de-1\d"):
        gm = sg.GaussianMixture(2, random_state=0).fit(X)
    findings = sg.diagnose(gm, X)
    assert findings[0].code == "drowned-features"
    assert "duplicate-components" not in [finding.code for finding in findings]
    fixed = sg.GaussianMixture(2, random_state=0, reg_covar=1e-15).fit(X)  # no warning
    np.testing.assert_allclose(np.sort(fixed.means_[:, 0]), [0.0, 6e-5], atol=2e-6)


def test_a_stream_and_a_choice_warn_too():
    X = metres()
    with pytest.warns(UserWarning, match="reg_covar=1e-06"):
        sg.GaussianMixture(2, random_state=0).partial_fit(X)
    with pytest.warns(UserWarning, match="reg_covar=1e-06"):
        sg.select(X, range(1, 3), n_init=1, random_state=0)


def test_constant_features_and_usual_units_do_not_warn():
    X = np.c_[metres() * 1e5, np.full(1000, 3.0)]
    sg.GaussianMixture(2, random_state=0).fit(X)
