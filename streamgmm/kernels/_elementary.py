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
    mul,
    positive_above,
    sixteenth_power,
    sub,
)

_SMALLEST = -708.0
_LOG2_E = 1.4426950408889634
_ROUND = 1.5 * 2.0**48  # adding it leaves 16 times the number, as the nearest integer, in the low bits
_LN2 = 0.6931471805599453
_LN2_HIGH = 0.6931471803691238  # 21 trailing zero bits, so that n times this is exact
_LN2_LOW = 1.9082149292705877e-10
# Coefficients of (e^r - 1 - r) / r^2 on |r| <= ln 2 / 32, highest first: relative error of e^r below 3e-17.
_EXP = (0.0013889034494096299, 0.008333449817651228, 0.04166666666495703, 0.1666666666529896, 0.5)


@inline
def exp(x):
    """e^x for x <= 709 in every lane; exactly 0 from -708 down (and for NaN).

    2^(i/16) from a table, times a short series of what is left; where x is out of range both are nonsense, and dropped.
    Relative error below 3e-16 + 4e-17 |x|: what the rounding of x itself does is three times the second term.
    """
    shifted = fma(x, broadcast(_LOG2_E), broadcast(_ROUND))
    power = sixteenth_power(shifted)
    r = fma(sub(shifted, broadcast(_ROUND)), broadcast(-_LN2), x)
    p = fma(broadcast(_EXP[0]), r, broadcast(_EXP[1]))
    p = fma(p, r, broadcast(_EXP[2]))
    p = fma(p, r, broadcast(_EXP[3]))
    p = fma(p, r, broadcast(_EXP[4]))
    p = fma(mul(r, r), p, r)
    return positive_above(fma(power, p, power), x, broadcast(_SMALLEST))


@inline
def log(x):
    """Natural logarithm of normal x > 0 in every lane, with a relative error of a few units in the last place."""
    return log_and_inverse(x)[0]


@inline
def log_and_inverse(x):
    """`log` of normal x in [1e-150, 1e150] and 1 / x, for one division."""
    n = exponent(x)
    m = mantissa(x)
    above = add(m, broadcast(1.0))
    d = div(broadcast(1.0), mul(x, above))
    f = mul(mul(sub(m, broadcast(1.0)), x), d)
    s = mul(f, f)
    # Terms s^i / (2 i + 1), i = 1 to 10, in pairs: as many operations as one after the other, and half the wait.
    s2 = mul(s, s)
    s4 = mul(s2, s2)
    p1 = fma(broadcast(1.0 / 5.0), s, broadcast(1.0 / 3.0))
    p3 = fma(broadcast(1.0 / 9.0), s, broadcast(1.0 / 7.0))
    p5 = fma(broadcast(1.0 / 13.0), s, broadcast(1.0 / 11.0))
    p7 = fma(broadcast(1.0 / 17.0), s, broadcast(1.0 / 15.0))
    p9 = fma(broadcast(1.0 / 21.0), s, broadcast(1.0 / 19.0))
    p = fma(fma(p9, s4, fma(p7, s2, p5)), s4, fma(p3, s2, p1))
    twice = add(f, f)
    low = fma(mul(twice, s), p, mul(n, broadcast(_LN2_LOW)))
    return fma(n, broadcast(_LN2_HIGH), add(twice, low)), mul(above, d)
