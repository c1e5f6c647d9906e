"""partial_fit: what a stream of rows teaches, however it is cut, handed over, weighted or broken."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError

import streamgmm as sg
from streamgmm.em.online import Learner, RowDecay
from streamgmm.em.step_sizes import Accumulate, HalfLife
from streamgmm.em.variants import Block, Online, Stepwise
from streamgmm.mixture.components import stats_of
from streamgmm.mixture.covariance import FAMILIES, FULL
from streamgmm.runtime.encoding import packed, unpacked
from tests.helpers.learners import known

K, D = 3, 2
MEANS = np.array([[-6.0, 0.0], [0.0, 6.0], [6.0, -2.0]])


def draw(n, seed=0, means=MEANS):
    rng = np.random.default_rng(seed)
    return means[rng.integers(len(means), size=n)] + rng.normal(size=(n, means.shape[1]))


def learner(**options):
    return Learner(K, D, options.pop("family", FULL), **options)


def same(a, b):
    """Equal to the bit in all that was learnt."""
    return known(a) == known(b)


# The law of streams: rows count, batches do not -----------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=12), st.sampled_from([None, 300.0]))
def test_batches_do_not_matter(sizes, half_life):
    X = draw(sum(sizes))
    whole, cut = learner(half_life=half_life), learner(half_life=half_life)
    whole.push(X)
    for a, b in pairwise(np.cumsum([0, *sizes])):
        cut.push(X[a:b])
    assert same(whole, cut)
    assert cut.rows_seen == len(X)


def test_one_row_at_a_time():
    X = draw(400)
    whole, cut = sg.GaussianMixture(K, random_state=0), sg.GaussianMixture(K, random_state=0)
    whole.partial_fit(X)
    for row in X:
        cut.partial_fit(row[None])
    assert np.array_equal(whole.means_, cut.means_)
    assert cut.report_["rows"] == 400


def test_a_callers_buffer_may_be_reused():
    X = draw(600)
    a, b = learner(), learner()
    a.push(X)
    buffer = np.empty((10, D))
    for i in range(0, 600, 10):
        buffer[:] = X[i : i + 10]
        b.push(buffer)
    buffer[:] = np.nan
    assert same(a, b)


def test_state_survives_its_way_through_arrays():
    X = draw(3000)
    a = learner(half_life=500.0, seed=3)
    a.push(X[:1111])
    b = learner(half_life=500.0, seed=4)
    b.restore(unpacked(packed(a.state())))
    a.push(X[1111:])
    b.push(X[1111:])
    assert same(a, b)


def test_state_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="Use the settings it was written with"):
        Learner(K + 1, D, FULL).restore(learner().state())


# Warm-up ----------------------------------------------------------------------------------------------------------


def test_hold():
    gm = sg.GaussianMixture(K, random_state=0)
    needed = 20 * K
    gm.partial_fit(draw(needed - 1))
    with pytest.raises(NotFittedError, match=r"has seen 59 row\(s\), 60 are needed.*Send 1 more"):
        gm.predict(draw(3))
    gm.partial_fit(draw(1, seed=9))
    assert gm.predict(draw(3)).shape == (3,)


def test_hold_grows_with_features():
    gm = sg.GaussianMixture(2, random_state=0)
    X = np.random.default_rng(0).normal(size=(100, 30))
    gm.partial_fit(X)
    with pytest.raises(NotFittedError, match="124 are needed"):
        gm.score(X)


def test_given_parameters_need_no_warm_up():
    eye = np.broadcast_to(np.eye(D), (K, D, D))
    gm = sg.GaussianMixture(K, weights_init=[1 / 3] * K, means_init=MEANS, precisions_init=eye)
    gm.partial_fit(draw(1))
    assert np.array_equal(gm.means_, MEANS)


def test_rows_without_weight_are_no_rows():
    X = draw(900)
    w = np.ones(1800)
    w[1::2] = 0.0
    both = np.empty((1800, D))
    both[::2], both[1::2] = X, 1e6
    a, b = learner(), learner()
    a.push(X)
    b.push(both, w)
    assert same(a, b)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_stationary_stream_is_learnt(name):
    gm = sg.GaussianMixture(K, covariance_type=name, random_state=0)
    X = draw(30_000)
    for part in np.array_split(X, 50):
        gm.partial_fit(part)
    truth = sg.Mixture(np.full(K, 1 / K), MEANS, np.broadcast_to(np.eye(D), (K, D, D)))
    test = draw(20_000, seed=1)
    assert gm.score(test) > truth.log_prob(test).mean() - 0.01
    assert gm.weights_.sum() == pytest.approx(1.0, abs=1e-12)
    assert 1000 < gm.effective_sample_size_ <= 30_000


# Without forgetting a stream is a batch ---------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [Accumulate(), HalfLife(1e30)])
def test_no_forgetting_and_a_frozen_model_is_the_batch_fold(schedule):
    X = draw(5000)
    model = sg.Mixture(np.full(K, 1 / K), MEANS, np.broadcast_to(2 * np.eye(D), (K, D, D)))
    rule, state = Stepwise(schedule), Online()
    for i, part in enumerate(np.array_split(X, 17)):
        state, totals = rule.absorb(state, Block(0, i, ()), (model.accumulate(part),))
    exact = model.accumulate(X)
    for name in ("weight", "mean", "scatter"):
        np.testing.assert_allclose(getattr(totals[0], name), getattr(exact, name), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_learner_without_forgetting_is_the_batch_fold(name):
    X = draw(7 * 60)
    start = sg.Mixture(
        np.full(K, 1 / K),
        MEANS,
        np.ones(FAMILIES[name].shape(K, D))
        if name in ("diag", "spherical")
        else np.eye(D) + np.zeros(FAMILIES[name].shape(K, D)),
        name,
    )
    parameters = start.weights, start.means, start.covariances
    frozen = learner(family=FAMILIES[name], half_life=1e30, frozen=True, given=parameters, step_rows=60)
    frozen.push(X)
    exact = start.accumulate(X)
    assert frozen.rows == len(X)
    for part in ("weight", "mean", "scatter"):
        np.testing.assert_allclose(getattr(frozen.stats, part), getattr(exact, part), rtol=1e-11, atol=1e-9)
    assert frozen.model is not None
    assert np.array_equal(frozen.model.means, MEANS)


def test_row_decay_composes():
    """Two steps of m rows forget what one of 2 m does, to first order: a large step is not a longer memory."""
    schedule = RowDecay(100.0)
    one = schedule.rate(0, 200.0, 50_200.0)
    two = 1 - (1 - schedule.rate(0, 100.0, 50_100.0)) * (1 - schedule.rate(0, 100.0, 50_200.0))
    assert one == pytest.approx(two, rel=1e-2)
    assert 0 < schedule.rate(0, 1e6, 1e6) <= 1


# Effective sample size --------------------------------------------------------------------------------------------


def test_effective_sample_size_is_kishs():
    h, step = 400.0, 60
    a = learner(half_life=h, step_rows=step)
    a.push(draw(60 * step))
    batches = 60
    weight = np.repeat(2.0 ** (-np.arange(batches)[::-1] * step / h), step)
    assert a.effective_sample_size == pytest.approx(weight.sum() ** 2 / (weight**2).sum(), rel=1e-9)


# Handing over -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_statistics_of_a_model_lead_back_to_it(name):
    gm = sg.GaussianMixture(K, covariance_type=name, random_state=0, reg_covar=1e-3).fit(draw(2000))
    again = stats_of(gm.mixture_, 1e-3).maximize(1e-3)
    np.testing.assert_allclose(again.covariances, gm.covariances_, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(again.weights, gm.weights_, rtol=1e-12)


def test_fit_then_partial_fit_goes_on():
    X = draw(20_000)
    gm = sg.GaussianMixture(K, random_state=0).fit(X)
    before = gm.means_.copy()
    gm.partial_fit(draw(10, seed=5))  # fewer than a step: nothing moves yet
    assert np.array_equal(gm.means_, before)
    gm.partial_fit(draw(5000, seed=6))
    assert not np.array_equal(gm.means_, before)
    np.testing.assert_allclose(gm.means_, before, atol=0.2)  # 20,000 rows are not thrown away for 5,000
    assert gm.report_["weight"] > 20_000


def test_partial_fit_then_fit_with_a_warm_start():
    X = draw(20_000)
    gm = sg.GaussianMixture(K, random_state=0, warm_start=True)
    gm.partial_fit(X)
    gm.fit(X)
    fresh = sg.GaussianMixture(K, random_state=0).fit(X)
    assert gm.score(X) == pytest.approx(fresh.score(X), abs=1e-5)
    assert gm.converged_


def test_fit_forgets_the_stream():
    gm = sg.GaussianMixture(K, random_state=0).partial_fit(draw(5000))
    gm.fit(draw(3000, seed=1))
    with pytest.raises(AttributeError, match="after partial_fit"):
        _ = gm.effective_sample_size_


def test_half_life_may_change_on_the_way():
    gm = sg.GaussianMixture(K, random_state=0).partial_fit(draw(2000))
    gm.set_params(half_life=500.0).partial_fit(draw(20_000, seed=1))
    assert gm.report_["rows"] == 22_000
    assert gm.effective_sample_size_ < 2500


def test_pickle_keeps_the_stream():
    X = draw(4000)
    gm = sg.GaussianMixture(K, random_state=0).partial_fit(X[:1777])
    other = pickle.loads(pickle.dumps(gm))
    gm.partial_fit(X[1777:])
    other.partial_fit(X[1777:])
    assert np.array_equal(gm.covariances_, other.covariances_)


# Merging streams --------------------------------------------------------------------------------------------------


def test_merging_with_aligned_ages_is_learning_one_after_the_other():
    X, h, step = draw(120 * 30), 2000.0, 60
    parameters = (np.full(K, 1 / K), MEANS, np.broadcast_to(np.eye(D), (K, D, D)).copy())
    options = {"half_life": h, "step_rows": step, "frozen": True, "given": parameters}
    one, a, b = learner(**options), learner(**options), learner(**options)
    one.push(X)
    a.push(X[:2400])
    b.push(X[2400:])
    a.merge(b, ages=(1200.0, 0.0))
    assert a.rows == one.rows
    assert a.effective_sample_size == pytest.approx(one.effective_sample_size, rel=1e-9)
    for name in ("weight", "mean", "scatter"):
        np.testing.assert_allclose(getattr(a.stats, name), getattr(one.stats, name), rtol=1e-9, atol=1e-9)


def test_merged_streams_lose_no_row():
    eye = np.broadcast_to(np.eye(D), (K, D, D))
    start = sg.GaussianMixture(K, weights_init=[1 / 3] * K, means_init=MEANS, precisions_init=eye)
    X = draw(9001)
    a, b = (pickle.loads(pickle.dumps(start)).partial_fit(part) for part in (X[:5000], X[5000:]))
    both = sg.merge_streams(a, b)
    assert both.report_["rows"] == 9001
    assert a.report_["rows"] == 5000
    np.testing.assert_allclose(both.means_, MEANS, atol=0.2)


def test_streams_that_do_not_match_are_not_merged():
    a = sg.GaussianMixture(K, random_state=0).partial_fit(draw(500))
    with pytest.raises(ValueError, match="b has learnt from no stream"):
        sg.merge_streams(a, sg.GaussianMixture(K))
    with pytest.raises(ValueError, match="half_life can be merged"):
        sg.merge_streams(a, sg.GaussianMixture(K, half_life=9.0, random_state=0).partial_fit(draw(500)))


# Components that die, thin out, or meet ---------------------------------------------------------------------------


def test_a_dead_component_goes_to_new_rows():
    gm = sg.GaussianMixture(K, half_life=500.0, random_state=0)
    gm.partial_fit(draw(6000))
    two = MEANS[:2]
    gm.partial_fit(draw(20_000, seed=1, means=two))  # one dies, and is given away
    new = np.array([*two, [30.0, 30.0]])
    gm.partial_fit(draw(12_000, seed=2, means=new))
    nearest = np.linalg.norm(gm.means_[:, None] - new, axis=2).min(axis=0)
    assert nearest.max() < 0.5
    test = draw(4000, seed=3, means=new)
    truth = sg.Mixture(np.full(3, 1 / 3), new, np.broadcast_to(np.eye(D), (K, D, D)))
    assert gm.score(test) > truth.log_prob(test).mean() - 0.1


def test_a_dull_stretch_collapses_no_component():
    gm = sg.GaussianMixture(K, half_life=300.0, reg_covar=0.0, random_state=0)
    gm.partial_fit(draw(6000))
    gm.partial_fit(np.full((20_000, D), 6.0))
    assert np.isfinite(gm.covariances_).all()
    assert np.isfinite(gm.score_samples(draw(100))).all()
    gm.partial_fit(draw(20_000, seed=4))
    test = draw(4000, seed=5)
    truth = sg.Mixture(np.full(3, 1 / 3), MEANS, np.broadcast_to(np.eye(D), (K, D, D)))
    assert gm.score(test) > truth.log_prob(test).mean() - 0.5


def test_two_components_that_are_one_are_merged_on_request():
    means = np.array([[-6.0, 0.0], [-6.0, 0.01], [6.0, -2.0]])
    eye = np.broadcast_to(np.eye(D), (K, D, D)).copy()
    stream = learner(given=(np.full(3, 1 / 3), means, eye), restructure=True, half_life=4000.0)
    reports = stream.push(draw(40_000))
    events = [event for report in reports for event in report.events]
    assert {"merged", "re-seeded"} <= {event["action"] for event in events}
    test = draw(4000, seed=5)
    truth = sg.Mixture(np.full(3, 1 / 3), MEANS, eye)
    assert stream.model.log_prob(test).mean() > truth.log_prob(test).mean() - 0.05


# What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.array([[0.0, np.nan]]), "contains NaN: row 0.*column 1"),
        (np.array([[0.0, 1.0], [np.inf, 0.0]]), "contains infinity: row 1.*column 0"),
        (np.zeros((3, 5)), "X has 5 features"),
        (np.array([["a", "b"]]), "could not convert string to float|dtype='numeric'|Unable to convert"),
        (np.zeros((0, D)), r"Found array with 0 sample\(s\)"),
        (np.zeros(D), "Expected 2D array"),
    ],
)
def test_a_refused_batch_leaves_the_model_unharmed(bad, message):
    gm = sg.GaussianMixture(K, random_state=0).partial_fit(draw(1000))
    before = pickle.dumps(gm)
    with pytest.raises(ValueError, match=message):
        gm.partial_fit(bad)
    other = pickle.loads(before)
    rest = draw(1000, seed=1)
    assert np.array_equal(gm.partial_fit(rest).means_, other.partial_fit(rest).means_)


def test_a_generator_is_taken_batch_by_batch():
    X = draw(3000)
    gm = sg.GaussianMixture(K, random_state=0).partial_fit(part for part in np.array_split(X, 7))
    whole = sg.GaussianMixture(K, random_state=0).partial_fit(X)
    assert np.array_equal(gm.means_, whole.means_)


@pytest.mark.parametrize("options", [{"prior": "default"}, {"noise": "uniform"}])
def test_what_only_fit_can_do_is_said(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.* is for fit"):
        sg.GaussianMixture(K, **options).partial_fit(draw(100))
