"""k-means‖ as a start of mixtures: it finds what a sample misses, and counts its passes."""

from __future__ import annotations

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.runtime.executors import Threads
from streamgmm.sources import array_source
from tests.helpers.counting import Counting
from tests.helpers.mixtures import FAMILIES


def with_a_small_group(n=60_000, small=120):
    """Elongated rows in odd units, and a few far away that a sample of 10,000 knows 20 of."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 2)) * [1000.0, 1e-3]
    X[: n // 2, 1] += 0.02
    X[rng.choice(n, small, replace=False)] = [8000.0, 0.05] + rng.normal(size=(small, 2)) * [30.0, 3e-5]
    return X


def test_small_groups_and_odd_units():
    X = with_a_small_group()
    gm = sg.GaussianMixture(3, init_params="kmeans||", n_init=2, reg_covar=0, random_state=0).fit(X)
    small = int(np.argmin(gm.weights_))
    assert gm.weights_[small] * len(X) == pytest.approx(120, abs=1)
    np.testing.assert_allclose(gm.means_[small], [8000.0, 0.05], rtol=2e-3)
    assert gm.converged_ and gm.report_["explored"] == []


@pytest.mark.parametrize("solver", ["auto", "exact", "incremental"])
def test_readings_are_counted_and_shared_by_the_starts(solver):
    source = Counting(array_source(with_a_small_group(4000, 40), chunk_rows=500))
    options = {"init_params": "kmeans||", "solver": solver, "random_state": 0, "reg_covar": 0}
    gm = sg.GaussianMixture(3, n_init=3, **options).fit(source)
    assert set(source.reads.values()) == {gm.n_passes_}
    longest = max(start["n_iter"] for start in gm.report_["starts"])
    assert gm.n_passes_ == 8 + longest and len(gm.report_["starts"]) == 3


@pytest.mark.parametrize("covariance_type", FAMILIES)
def test_every_family_in_any_cut_and_with_any_number_of_threads(covariance_type):
    X = with_a_small_group(6000, 60) / [1000.0, 1e-3]
    options = {"covariance_type": covariance_type, "init_params": "kmeans||", "random_state": 0, "max_iter": 30}
    one, two = (sg.GaussianMixture(3, executor=Threads(jobs), **options).fit(X) for jobs in (1, 2))
    np.testing.assert_array_equal(one.means_, two.means_)
    cut = sg.GaussianMixture(3, **options).fit(array_source(X, chunk_rows=777))
    np.testing.assert_allclose(cut.means_, one.means_, rtol=1e-5)


def test_a_checkpoint_keeps_what_was_drawn(tmp_path):
    X = with_a_small_group(3000, 30)
    options = {"init_params": "kmeans||", "random_state": 0, "checkpoint": tmp_path}
    stopped = sg.GaussianMixture(3, max_time=1e-9, **options)
    with pytest.warns(match="did not converge"):
        stopped.fit(X)
    resumed = sg.GaussianMixture(3, **options).fit(X)
    whole = sg.GaussianMixture(3, init_params="kmeans||", random_state=0).fit(X)
    assert resumed.converged_
    np.testing.assert_array_equal(resumed.means_, whole.means_)


def test_where_it_has_no_meaning_it_says_so():
    X = with_a_small_group(500, 20)
    with pytest.raises(ValueError, match="Use init_params='kmeans'"):
        sg.GaussianMixture(3, init_params="kmeans||", missing="marginalize").fit(X)
    with pytest.raises(ValueError, match="7 times for every K"):
        sg.select(X, range(1, 3), init_params="kmeans||")
    assert sg.GaussianMixture(3, init_params="kmeans||", random_state=0).partial_fit(X).means_.shape == (3, 2)
