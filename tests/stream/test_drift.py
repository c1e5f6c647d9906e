"""The drift alarm: its rate of false alarms, its delay, its state; and what the learner does about it."""

from __future__ import annotations

import json

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.em.online import Learner
from streamgmm.mixture.covariance import FULL
from streamgmm.stream.drift import Cusum, average_run_length


def runs(detector, values, rows=500):
    return [i for i, value in enumerate(values) if detector.update(float(value), rows)]


@pytest.mark.parametrize("rate", [0.01, 0.002])
def test_false_alarms_come_at_the_stated_rate(rate):
    rng = np.random.default_rng(0)
    n = 60_000
    alarms = len(runs(Cusum(rate), rng.normal(-3.0, 0.1, n)))
    # After each alarm the warm-up cannot alarm; the run length is geometric, hence the Poisson bounds.
    expected = n / (1 / rate + 8)
    assert abs(alarms - expected) < 4 * np.sqrt(expected) + 0.15 * expected


def test_steps_of_different_sizes_have_the_same_rate():
    rng = np.random.default_rng(1)
    rows = rng.integers(50, 5000, 40_000)
    detector = Cusum(0.005)
    alarms = sum(detector.update(float(rng.normal(0, 3 / np.sqrt(m))), int(m)) for m in rows)
    assert 0.6 < alarms / (40_000 * 0.005) < 1.3


def test_a_fall_is_found_soon_and_a_rise_never():
    rng = np.random.default_rng(2)
    fall = np.concatenate([rng.normal(0, 1, 200), rng.normal(-3, 1, 50)])
    found = runs(Cusum(1e-4), fall)
    assert found and 200 <= found[0] < 210
    rise = np.concatenate([rng.normal(0, 1, 200), rng.normal(5, 1, 200)])
    assert not runs(Cusum(1e-4), rise)


def test_an_impossible_step_is_an_alarm_at_once():
    rng = np.random.default_rng(3)
    detector = Cusum(1e-6)
    runs(detector, rng.normal(0, 1, 50))
    assert detector.update(-np.inf, 500)
    assert detector.steps == 0


def test_state_is_numbers_and_goes_round():
    rng = np.random.default_rng(4)
    a, b = Cusum(0.01), Cusum(0.01)
    x = rng.normal(size=4000)
    first = runs(a, x[:1999])
    b.restore(json.loads(json.dumps(a.state())))
    assert first + runs(a, x[1999:]) and a.state() != b.state()
    runs(b, x[1999:])
    assert a.state() == b.state()


def test_run_length_against_published_values():
    """Montgomery, Introduction to Statistical Quality Control, table 9.4: k = 1/2; one-sided is twice two-sided."""
    for threshold, two_sided in ((4.0, 168.0), (5.0, 465.0)):
        assert average_run_length(threshold, 0.5) / 2 == pytest.approx(two_sided, rel=0.03)


def test_rates_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match=r"between 0 and 0\.25"):
        Cusum(0.0)


# With the learner ---------------------------------------------------------------------------------------------------

K, D = 4, 3


def world(shift=0.0):
    rng = np.random.default_rng(10)
    means = rng.normal(0, 6, (K, D)) + shift
    return sg.Mixture(np.full(K, 1 / K), means, np.broadcast_to(np.eye(D), (K, D, D)))


def rows_of(mixture, n, seed):
    rng = np.random.default_rng(seed)
    return rng.permutation(mixture.sample(n, rng)[0])


@pytest.mark.parametrize(("on_drift", "half_lives"), [("report", 8), ("boost", 8), ("reset", 3)])
def test_an_abrupt_shift_is_forgotten(on_drift, half_lives):
    """All means move by 5 sigma: within 0.05 nats per dimension of a fresh fit after so many half-lives."""
    h = 2000
    before, after = world(), world(5.0)
    stream = Learner(K, D, FULL, half_life=h, detector=Cusum(1e-4), on_drift=on_drift)
    calm = stream.push(rows_of(before, 20_000, 0))
    assert not any(report.alarm for report in calm)
    reports = stream.push(rows_of(after, half_lives * h, 1))
    assert next(report.rows for report in reports if report.alarm) <= 20_000 + 2 * 250 + 250
    test = rows_of(after, 20_000, 2)
    fresh = sg.GaussianMixture(K, random_state=0).fit(rows_of(after, 20_000, 3))
    gap = fresh.score(test) - stream.model.log_prob(test).mean()
    assert gap < 0.05 * D
