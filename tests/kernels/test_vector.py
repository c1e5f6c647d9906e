"""The vector type and its elementary functions, against 50-digit arithmetic and NumPy."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from numba import njit

from streamgmm.kernels.simd import intrinsics as v
from streamgmm.kernels.simd.elementary import exp, log, log_and_inverse


@njit
def _exp_all(x, out):
    for at in range(0, x.size, 8):
        v.store(exp(v.load(x, at)), out, at)


@njit
def _log_all(x, out):
    for at in range(0, x.size, 8):
        v.store(log(v.load(x, at)), out, at)


@njit
def _gather(rows, first, last, column, out):
    v.gather_columns(rows, first, last, column, out, 0, 8)


@njit
def _inverse_all(x, out):
    for at in range(0, x.size, 8):
        v.store(log_and_inverse(v.load(x, at))[1], out, at)


@njit
def _highest(x):
    return v.highest(v.load(x, 0))


@njit
def _total(x):
    return v.total(v.load(x, 0))


def _relative(value, exact):
    with mpmath.workdps(50):
        return np.array([float((mpmath.mpf(float(a)) - e) / e) for a, e in zip(value, exact, strict=True)])


def test_exp_against_fifty_digits():
    rng = np.random.default_rng(0)
    x = np.concatenate([-rng.uniform(0, 708, 2000), -(10.0 ** rng.uniform(-20, 0, 400)), rng.uniform(0, 709, 400)])
    out = np.empty_like(x)
    _exp_all(x, out)
    with mpmath.workdps(50):
        exact = [mpmath.exp(float(t)) for t in x]
    assert (np.abs(_relative(out, exact)) < 3e-16 + 4e-17 * np.abs(x)).all()


def test_exp_at_its_ends():
    x = np.array([0.0, -0.0, -707.9999, -708.0, -1e300, -np.inf, np.nan, 709.0])
    out = np.empty(8)
    _exp_all(x, out)
    assert out[0] == out[1] == 1.0
    assert out[2] > 0
    assert (out[3:6] == 0).all()
    assert abs(out[7] / np.exp(709.0) - 1) < 3e-16 + 4e-17 * 709


def test_exp_never_decreases():
    x = np.sort(np.concatenate([np.linspace(-40, 0, 80_000), -np.geomspace(1e-18, 1, 8_000)]))
    out = np.empty_like(x)
    _exp_all(x, out)
    assert (np.diff(out) >= -4.5e-16 * out[1:]).all()


def test_log_against_fifty_digits():
    rng = np.random.default_rng(1)
    x = np.concatenate(
        [rng.uniform(1, 300, 1200), 1 + 10.0 ** rng.uniform(-16, 0, 400), 10.0 ** rng.uniform(-300, 300, 400)]
    )
    x = x[x != 1.0]
    x = x[: x.size // 8 * 8]
    out = np.empty_like(x)
    _log_all(x, out)
    with mpmath.workdps(50):
        exact = [mpmath.log(float(t)) for t in x]
    assert np.abs(_relative(out, exact)).max() < 8e-16
    one, zero = np.ones(8), np.empty(8)
    _log_all(one, zero)
    assert (zero == 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [1, 3, 8, 13])
def test_gather_columns_reads_nothing_outside_the_rows(dtype, width):
    rows = np.arange(5 * width, dtype=dtype).reshape(5, width)
    for column in range(0, width, 8):
        out = np.full((8, 8), np.nan)
        _gather(rows, 1, 4, column, out)
        expected = np.zeros((8, 8))
        for b in range(8):
            values = rows[min(1 + b, 4), column : column + 8]
            expected[: values.size, b] = values
        assert (out == expected).all()


def test_total_adds_all_lanes():
    assert _total(2.0 ** np.arange(8)) == 255.0


def test_highest_looks_at_all_lanes():
    for lane in range(8):
        x = -np.arange(1.0, 9.0)
        x[lane] = 3.0
        assert _highest(x) == 3.0


def test_inverse_comes_with_the_logarithm():
    x = np.concatenate([np.geomspace(1e-100, 1e100, 400), np.random.default_rng(2).uniform(1, 300, 400)])
    out = np.empty_like(x)
    _inverse_all(x, out)
    assert np.abs(out * x - 1).max() < 7e-16
