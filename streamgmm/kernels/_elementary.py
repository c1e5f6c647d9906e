"""Exponential and logarithm of eight doubles at a time, without branches: the same bits on every processor."""

from __future__ import annotations

from streamgmm._jit import inline
from streamgmm.kernels._vector import (
    add,
    broadcast,
    div,
    exponent,
    fma,
    mantissa,
    maximum,
    mul,
    positive_above,
    sub,
    times_power_of_two,
)

SMALLEST = -708.0
_LOG2_E = 1.4426950408889634
_ROUND = 6755399441055744.0  # 1.5 2^52: adding it leaves the nearest integer in the low bits
_LN2_HIGH = 0.6931471803691238  # 21 trailing zero bits, so that n times this is exact
_LN2_LOW = 1.9082149292705877e-10
# Minimax coefficients of (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2, highest first: relative error of e^r below 2e-17.
_EXP = (
    2.510038549551032e-08, 2.7620088445409746e-07, 2.7557268459997064e-06, 2.4801521295954376e-05,
    0.00019841269863053618, 0.0013888888917213717, 0.008333333333330062, 0.04166666666662413, 0.16666666666666669, 0.5,
)  # fmt: skip


@inline
def exp(x):
    """e^x for x <= 709 in every lane, correct to 1 unit in the last place; exactly 0 from -708 down (and for NaN)."""
    return exp_clamped(maximum(x, broadcast(SMALLEST)))


@inline
def exp_clamped(x):
    """`exp` for x >= SMALLEST."""
    shifted = fma(x, broadcast(_LOG2_E), broadcast(_ROUND))
    n = sub(shifted, broadcast(_ROUND))
    r = fma(n, broadcast(-_LN2_HIGH), x)
    r = fma(n, broadcast(-_LN2_LOW), r)
    p = fma(broadcast(_EXP[0]), r, broadcast(_EXP[1]))
    p = fma(p, r, broadcast(_EXP[2]))
    p = fma(p, r, broadcast(_EXP[3]))
    p = fma(p, r, broadcast(_EXP[4]))
    p = fma(p, r, broadcast(_EXP[5]))
    p = fma(p, r, broadcast(_EXP[6]))
    p = fma(p, r, broadcast(_EXP[7]))
    p = fma(p, r, broadcast(_EXP[8]))
    p = fma(p, r, broadcast(_EXP[9]))
    p = add(fma(mul(r, r), p, r), broadcast(1.0))
    return positive_above(times_power_of_two(p, shifted), x, broadcast(SMALLEST))


@inline
def log(x):
    """Natural logarithm of normal x > 0 in every lane, with a relative error of a few units in the last place."""
    n = exponent(x)
    m = mantissa(x)
    f = div(sub(m, broadcast(1.0)), add(m, broadcast(1.0)))
    s = mul(f, f)
    p = fma(broadcast(1.0 / 21.0), s, broadcast(1.0 / 19.0))
    p = fma(p, s, broadcast(1.0 / 17.0))
    p = fma(p, s, broadcast(1.0 / 15.0))
    p = fma(p, s, broadcast(1.0 / 13.0))
    p = fma(p, s, broadcast(1.0 / 11.0))
    p = fma(p, s, broadcast(1.0 / 9.0))
    p = fma(p, s, broadcast(1.0 / 7.0))
    p = fma(p, s, broadcast(1.0 / 5.0))
    p = fma(p, s, broadcast(1.0 / 3.0))
    twice = add(f, f)
    low = fma(mul(twice, s), p, mul(n, broadcast(_LN2_LOW)))
    return fma(n, broadcast(_LN2_HIGH), add(twice, low))
