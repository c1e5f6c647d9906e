"""Proposals from a sample: mixing stops them from swinging about the limit, and does not lead back to a saddle."""

from __future__ import annotations

import numpy as np
import pytest

from streamgmm.em.acceleration import AcceleratorState, Corrected, Squarem, mixed
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
