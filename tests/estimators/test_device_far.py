"""Rows far from all others, where a card was asked for."""

from __future__ import annotations

import numpy as np
import pytest

import streamgmm as sg


@pytest.mark.usefixtures("emulated")
def test_far_rows_run_on_the_cpu_and_it_says_so():
    rng = np.random.default_rng(0)
    good = rng.normal(size=(400, 2)) + np.repeat([[0.0], [9.0]], 200, axis=0)
    X = np.concatenate([good, np.outer(10.0 ** np.linspace(6, 200, 8), [1.0, 1.0])])
    here = sg.GaussianMixture(3, random_state=0, tol=1e-3).fit(X)
    with pytest.warns(UserWarning, match="rows of which some lie far from all others runs on the CPU") as told:
        there = sg.GaussianMixture(3, random_state=0, tol=1e-3, device="cuda").fit(X)
    assert told[0].filename == __file__
    np.testing.assert_array_equal(there.means_, here.means_)
