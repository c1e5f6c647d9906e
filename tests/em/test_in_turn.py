"""A single start: rivals are followed in turn, and no longer than it takes to see that they are none."""

from __future__ import annotations

import numpy as np
import pytest

import streamgmm as sg
from benchmarks.peers.starts import mixture
from streamgmm.em.initialization import followed_starts
from streamgmm.em.initialization.search_settings import SEARCH
from tests.helpers.mixtures import random_mixture


def groups(K, apart, n=900, D=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, D)) + apart * np.eye(K, D)[np.arange(n) % K]


def walked(monkeypatch):
    """Steps of each start of the fits that follow."""
    seen = []
    real = followed_starts.SampleEM.start
    monkeypatch.setattr(
        followed_starts.SampleEM,
        "start",
        lambda self, i, init: seen.append([self.steps(j) for j in range(len(self.kept))]) or real(self, i, init),
    )
    return seen


def test_a_start_in_no_doubt_has_no_rival(monkeypatch):
    seen = walked(monkeypatch)
    gm = sg.GaussianMixture(3, random_state=0).fit(groups(3, 20.0))
    assert len(seen[0]) == 1
    assert gm.converged_ and gm.n_passes_ == 2 and sorted(gm.weights_.round(6)) == [0.333333] * 3


@pytest.mark.parametrize("seed", range(3))
def test_rivals_take_no_more_steps_than_the_first_but_for_those_that_pass_it(monkeypatch, seed):
    seen = walked(monkeypatch)
    X = random_mixture("full", 6, 3, seed=seed).sample(1500, seed)[0]
    auto = sg.GaussianMixture(6, random_state=0, max_iter=500).fit(X)
    first, *others = seen[0]
    squarem = sg.GaussianMixture(6, random_state=0, max_iter=500, solver="squarem").fit(X)
    assert auto.lower_bound_ >= squarem.lower_bound_ - 1e-5
    if auto.lower_bound_ < squarem.lower_bound_ + 1e-5:
        allowed = max(0.0, SEARCH.rival_share * (first - SEARCH.quick_steps))
        assert sum(others) + SEARCH.making_steps * len(others) <= allowed + 2 * SEARCH.rival_steps + SEARCH.making_steps


def test_two_starts_of_k_means_that_agree_are_no_proof():
    """Both end 0.775 nats per row below rows drawn at random; EM creeps there, and so there are more rivals."""
    X, K = mixture(14)
    assert sg.GaussianMixture(K, random_state=14, max_iter=1000).fit(X).lower_bound_ > -10.478


def test_where_one_frame_serves_all_kinds_the_second_start_is_of_rows(monkeypatch):
    """In one feature k-means starts agree whatever they are worth: on these rows at 0.14 nats below the best."""
    rng = np.random.default_rng(34)
    X = np.concatenate([rng.normal(0.0, 1.0, (600, 1)), rng.normal(0.0, 6.0, (1400, 1))])
    gm = sg.GaussianMixture(2, random_state=0).fit(X)
    assert sorted(np.sqrt(gm.covariances_.ravel())) == pytest.approx([1.0, 6.0], abs=0.5)


def test_alike_is_about_components_in_any_order():
    model = random_mixture("full", 4, 3, seed=1)
    order = [2, 0, 3, 1]
    turned = sg.Mixture(model.weights[order], model.means[order], model.covariances[order], covariance_type="full")
    assert followed_starts.alike(model, turned)
    moved = sg.Mixture(model.weights, model.means + 3.0, model.covariances, covariance_type="full")
    assert not followed_starts.alike(model, moved)
    wider = sg.Mixture(model.weights, model.means, 3.0 * model.covariances, covariance_type="full")
    assert not followed_starts.alike(model, wider)


def test_steps_on_a_sample_that_is_all_of_the_data_count_for_convergence():
    X = groups(3, 3.0, n=2000)
    auto = sg.GaussianMixture(3, random_state=0).fit(X)
    assert auto.converged_ and auto.n_iter_ <= 2
    on = sg.GaussianMixture(
        3, solver="exact", tol=1e-10, max_iter=2000, weights_init=auto.weights_, means_init=auto.means_,
        precisions_init=auto.precisions_,
    ).fit(X)  # fmt: skip
    assert on.lower_bound_ == pytest.approx(auto.lower_bound_, abs=2e-6)


def test_filled_samples_promise_nothing_about_the_data():
    X = groups(3, 3.0, n=2000)
    X[::7, 1] = np.nan
    gm = sg.GaussianMixture(3, missing="marginalize", random_state=0).fit(X)
    assert gm.converged_ and gm.n_iter_ > 2
