"""The convergence test on sequences whose limit is known."""

from __future__ import annotations

import numpy as np
import pytest

from streamgmm.em.convergence import FLUTTER, aitken, distance_to_limit, fruitless, last_change, never


def geometric(rate, n, *, limit=-3.0, first=1.0):
    """Values that approach `limit` with distances first * rate^i."""
    return limit - first * rate ** np.arange(n)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_distance_of_a_geometric_sequence_is_exact(rate, sign):
    trace = geometric(rate, 8, first=sign)
    assert distance_to_limit(trace) == pytest.approx(rate**7, rel=1e-6)
    # It ends within the first value whose distance is below tol, and not before.
    tol = 0.7e-4
    stops = next(n for n in range(4, 100_000) if aitken(tol)(geometric(rate, n, first=sign)))
    assert stops == max(4, int(np.floor(np.log(tol) / np.log(rate))) + 2)


def test_a_slow_sequence_is_not_taken_for_its_limit():
    # Gains of 1e-3 with rate 0.999 have a whole nat to go: the last change stops there.
    trace = geometric(0.999, 50)
    assert last_change(1e-3)(trace) and not aitken(1e-3)(trace)
    assert distance_to_limit(trace) == pytest.approx(0.999**49, rel=1e-6)


def test_the_larger_of_two_rates_is_used():
    # Two modes: the fast one hides the slow one for a while; rates grow, and the estimate is on the safe side of the
    # last rate's.
    trace = -(0.5 ** np.arange(12)) - 0.01 * 0.95 ** np.arange(12)
    gains = np.diff(trace)
    rates = gains[1:] / gains[:-1]
    assert rates[-1] > rates[-2]
    assert distance_to_limit(trace) == pytest.approx(gains[-1] * rates[-1] / (1 - rates[-1]), rel=1e-9)
    # And where the rates fall the older, larger one counts.
    falling = np.concatenate([[0.0], np.cumsum([1.0, 0.9, 0.1])])
    assert distance_to_limit(falling) == pytest.approx(0.1 * 0.9 / 0.1, rel=1e-9)


@pytest.mark.parametrize(
    "trace",
    [
        [],
        [1.0],
        [1.0, 2.0],
        [1.0, 2.0, 2.5],  # two gains are no rate to trust
        [0.0, 1.0, 2.0, 3.0],  # r = 1
        [0.0, 1.0, 3.0, 7.0],  # r > 1, as on the way out of a saddle
        [0.0, 1.0, 0.5, 0.75],  # signs change
        [0.0, 1.0, 1.25, 1.6],  # the last gain is larger than the one before
    ],
)
def test_what_tells_no_limit_is_infinitely_far(trace):
    assert distance_to_limit(trace) == np.inf
    assert not aitken(1e6)(trace)


def test_rounding_is_arrival():
    assert distance_to_limit([1.0, 1.0]) == 0.0
    assert distance_to_limit([5.0, 5.0 + 1e-15]) == 0.0
    flutter = 0.3 * FLUTTER
    assert distance_to_limit([1.0, 1.0 + flutter, 1.0, 1.0 + flutter]) == 0.0
    # Alternating, but more than kernels may err: no arrival.
    assert distance_to_limit([1.0, 1.0 + 1e-6, 1.0, 1.0 + 1e-6]) == np.inf


def test_zero_never_stops_before_rounding():
    trace = geometric(0.5, 20)
    assert not aitken(0.0)(trace) and not last_change(0.0)(trace)


def test_shifts_do_not_matter_and_scales_carry_over():
    trace = geometric(0.7, 8, limit=0.0)
    assert distance_to_limit(trace + 64.0) == pytest.approx(distance_to_limit(trace), rel=1e-9)
    assert distance_to_limit(8.0 * trace) == pytest.approx(8.0 * distance_to_limit(trace), rel=1e-9)


def test_readings_are_fruitless_when_all_of_them_together_raise_nothing():
    rising, falling = [1.0, 2.0, 3.0], [3.0 + 9e-7, 2.9, 2.8]
    given_up = fruitless(3, 1e-6)
    assert given_up(rising + falling)
    assert not given_up(rising + falling[:-1]), "a pass less is not enough"
    assert not given_up([*rising, 3.0 + 2e-6, 2.9, 2.8]), "one of them has gained"
    assert not given_up([]) and not never(rising + falling)
