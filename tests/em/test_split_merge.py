"""Mixtures that grow: where they are split, how far they get, and that they depend on nothing but their rows."""

from __future__ import annotations

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.em.initialization.split_merge import SplitContext, best_splits, chain, divided, grow, rearranged
from streamgmm.em.update import Maximize
from streamgmm.mixture.covariance import family
from streamgmm.runtime.executors import Threads
from tests.helpers.mixtures import FAMILIES, random_mixture


def grid(side, n, seed=0, separation=8.0):
    """Rows of side^2 round components on a grid."""
    rng = np.random.default_rng(seed)
    means = separation * np.stack(np.meshgrid(*[np.arange(side)] * 2), -1).reshape(-1, 2)
    return means[rng.integers(0, side**2, n)] + rng.normal(size=(n, 2)), means


def split_context(X, jobs=1, reg_covar=1e-6):
    return SplitContext(X, np.ones(len(X)), Maximize(reg_covar), Threads(jobs), 0)


def test_a_split_separates_what_is_apart():
    X = np.concatenate([grid(1, 500, seed)[0] + shift for seed, shift in enumerate(([0, 0], [0, 20], [30, 0]))])
    split = split_context(X)
    pair = sg.Mixture([2 / 3, 1 / 3], [[0, 10], [30, 0]], [[[1, 0], [0, 101]], [[1, 0], [0, 1]]])
    splits = best_splits(pair, split, {})
    assert splits[0].gain > 1000
    assert 1 not in splits or splits[1].gain < 50
    three = divided(pair, [splits[0]])
    order = np.lexsort(three.means.round().T)
    np.testing.assert_allclose(three.means[order], [[0, 0], [30, 0], [0, 20]], atol=0.2)
    assert three.weights.sum() == pytest.approx(1.0)
    # What is about as heavy as before keeps its split, all else is looked at again.
    assert best_splits(pair, split, splits)[0] is splits[0]
    assert best_splits(three, split, splits).get(0) is not splits[0]


def test_growth_finds_every_one_of_25_groups():
    X, means = grid(5, 5000)
    split = split_context(X)
    grown, _ = grow(split.one(family("full")), 25, split)
    distance = np.linalg.norm(means[:, None] - grown.means, axis=2)
    assert distance.min(axis=1).max() < 0.5 and distance.min(axis=0).max() < 0.5


@pytest.mark.parametrize("covariance_type", FAMILIES)
def test_a_chain_climbs_with_every_family(covariance_type):
    X = random_mixture(covariance_type, 6, 3, seed=3).sample(4000, 0)[0]
    split = split_context(X)
    models = chain(split.one(family(covariance_type)), (2, 3, 5, 8), split)
    assert list(models) == [2, 3, 5, 8] == [model.n_components for model in models.values()]
    values = [model.log_prob(X).mean() for model in models.values()]
    assert (np.diff(values) > -1e-6).all() and values[-1] > values[0]


def test_rows_bear_only_so_many():
    X = grid(2, 40)[0]
    split = split_context(X, reg_covar=1e-3)
    models = chain(split.one(family("full")), range(1, 30), split)
    assert 1 <= len(models) < 29
    same = split_context(np.zeros((50, 2)), reg_covar=1e-3)
    assert list(chain(same.one(family("full")), (1, 2), same)) == [1]


def test_the_same_bits_for_any_number_of_threads():
    X = random_mixture("full", 6, 3, seed=3).sample(9000, 0)[0]
    one, two = (grow(split_context(X, jobs).one(family("full")), 6, split_context(X, jobs))[0] for jobs in (1, 2))
    np.testing.assert_array_equal(one.covariances, two.covariances)


def test_grown_starts_take_part_where_groups_are_many():
    X = grid(7, 8000, separation=6.0)[0]
    gm = sg.GaussianMixture(49, n_init=3, random_state=0).fit(X)
    assert "grown" in [one["init"] for one in gm.report_["explored"]]
    alone = sg.GaussianMixture(49, n_init=3, init_params="random_from_data", random_state=0).fit(X)
    assert gm.lower_bound_ >= alone.lower_bound_ - 1e-9
    truth = np.log(1 / 49 / (2 * np.pi)) - 1.0
    assert gm.lower_bound_ > truth - 0.02


def stuck(n=2000):
    """Four groups in two pairs far apart, and a start that gives three components to one pair and one to the other."""
    rng = np.random.default_rng(0)
    means = np.array([[0.0, 0], [6, 0], [60, 0], [66, 0]])
    X = means[rng.integers(0, 4, n)] + rng.normal(size=(n, 2))
    start = sg.Mixture(
        [0.2, 0.1, 0.2, 0.5], [[0.0, 0], [3, 0], [6, 0], [63, 0]], np.stack([np.eye(2)] * 3 + [np.diag([10.0, 1])])
    )
    truth = sg.Mixture([0.25] * 4, means, np.stack([np.eye(2)] * 4))
    return X, start, truth.log_prob(X).mean()


def test_moves_leave_an_optimum_that_em_does_not():
    X, start, truth = stuck()
    split = split_context(X)
    left = split.follow((start,), 500)
    assert left.objective < truth - 0.2
    moved = rearranged(left.accepted, split, 3)
    assert moved.n_components == 4
    assert moved.log_prob(X).mean() > truth - 0.01
    # Where nothing is wrong nothing is moved.
    again = rearranged(moved, split, 3)
    np.testing.assert_allclose(np.sort(again.means[:, 0]), np.sort(moved.means[:, 0]), atol=0.05)


def test_moves_of_the_estimator_never_do_worse():
    X = grid(5, 5000, separation=5.0)[0]
    options = {"init_params": "random_from_data", "random_state": 3, "reg_covar": 1e-3}
    still, moved = (sg.GaussianMixture(25, moves=moves, **options).fit(X) for moves in (0, 10))
    assert moved.lower_bound_ > still.lower_bound_ + 1e-3
