"""Proposals from a sample: mixing stops them from swinging about the limit, and does not lead back to a saddle."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pytest

from streamgmm.em.acceleration import AcceleratorState, Corrected, Squarem, mixed
from streamgmm.errors import CollapsedError
from streamgmm.mixture.coordinates import Coordinates
from tests.helpers.mixtures import FAMILIES, random_mixture


@pytest.mark.parametrize("covariance_type", FAMILIES)
def test_mixing_finds_the_fixed_point_of_a_swinging_map(covariance_type):
    limit = random_mixture(covariance_type, 3, 2, seed=1)
    coordinates = Coordinates(limit)
    at = coordinates.pack(limit)
    rng = np.random.default_rng(0)
    x0 = at + 1e-3 * rng.normal(size=at.shape)

    def swing(x):  # beyond the limit by a little more than it was short of it
        return at - 1.2 * (x - at)

    x1 = swing(x0)
    path = [coordinates.unpack(x) for x in (x0, swing(x0), x1, swing(x1))]
    plain = coordinates.unpack(x1 + 0.1 * (at - x1))
    found = coordinates.pack(mixed(path, plain))
    away = coordinates.pack(path[-1])
    # To first order: making weights that sum to one is no linear map.
    assert np.linalg.norm(found - at) < 1e-2 * np.linalg.norm(away - at)
    # Where plain EM leads away, the fixed point is a saddle: no proposal.
    assert mixed(path, coordinates.unpack(x1 - 0.1 * (at - x1))) is None
    assert mixed(path[:2], plain) is None


@pytest.mark.parametrize("covariance_type", FAMILIES)
def test_scales_measure_in_units_of_the_component(covariance_type):
    model = random_mixture(covariance_type, 3, 4, seed=2)
    coordinates = Coordinates(model)
    assert coordinates.scale.shape == coordinates.pack(model).shape
    assert (coordinates.scale > 0).all()


def test_a_small_leap_and_a_smaller_plain_gain_are_the_end():
    rule = Corrected(lambda model: model, 1e-6, Squarem(1e-6), inner=20)
    assert rule.arrived([1e-9], AcceleratorState(leap=5e-7))
    assert not rule.arrived([1e-9], AcceleratorState(leap=2e-6)), "the proposal still changed something"
    assert not rule.arrived([5e-8], AcceleratorState(leap=5e-7)), (
        "plain steps gain as much as the proposal's: EM creeps"
    )
    assert not rule.arrived([], AcceleratorState(leap=5e-7))


def calls_by_pass(step, *, inner, price, passes=30):
    """Steps on the sample in each of so many passes, every proposal rejected, and the state after them."""
    model, image = (random_mixture("full", 3, 2, seed=seed) for seed in (1, 2))
    calls, pace = [], AcceleratorState()

    def counted(at):
        calls[-1] += 1
        return step(at)

    rule = Corrected(counted, 1e-12, Squarem(1e-12), inner, price)
    for _ in range(passes):
        calls.append(0)
        _, pace = rule.next(model, image, [1e-2], pace)
        if pace.fallback is not None:
            pace = rule.rejected(pace)
    return calls, pace


def test_steps_on_the_sample_are_earned_by_passes():
    """A proposal of ten steps at half a pass each waits for five passes; all together cost no more than the passes."""
    swing = cycle(random_mixture("full", 3, 2, seed=seed) for seed in (1, 2))
    calls, _ = calls_by_pass(lambda model: next(swing), inner=10, price=0.5)
    assert sum(calls[:4]) == 0 and 0 < sum(calls) < 30
    passes = np.arange(1, 31)  # and a rejected proposal is one more
    assert (0.5 * np.cumsum(calls) <= 2 * passes).all()


def test_a_walk_on_the_sample_that_leads_nowhere_is_given_up():
    """Three in vain and there is no fourth, though each pass would pay for one."""

    def nowhere(model):
        raise CollapsedError(np.ones(3, bool))

    calls, pace = calls_by_pass(nowhere, inner=9, price=1e-3)
    assert sum(calls) == 3 and pace.misses == 3


def test_no_proposal_takes_a_weight_from_which_it_cannot_rise():
    model = random_mixture("full", 3, 2, seed=1)
    coordinates = Coordinates(model)
    vector = coordinates.pack(model)
    vector[0] -= 1e4
    assert coordinates.unpack(vector).weights[0] > 1e-7 * model.weights[0]
