"""Exponential and logarithm of eight doubles at a time, without branches."""

from __future__ import annotations

from streamgmm.kernels._jit import inline
from streamgmm.kernels.simd.intrinsics import (
    REGISTERS,
    SHAPES,
    add,
    broadcast,
    div,
    exponent,
    fma,
    mantissa,
    mul,
    positive_above,
    power,
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
_EXP_16 = (0.0013889034494096299, 0.008333449817651228, 0.04166666666495703, 0.1666666666529896, 0.5)
_ROUND_1 = 1.5 * 2.0**52 + 1023  # likewise the number itself, as the exponent of a double
# The same on |r| <= ln 2 / 2: relative error below 4e-18.
_EXP_1 = (
    2.5000058349050145e-08, 2.763024830872524e-07, 2.7557586382581075e-06, 2.480149309914401e-05,
    0.00019841269506571107, 0.001388888894362984, 0.008333333333494463, 0.04166666666653016, 0.16666666666666413, 0.5,
)  # fmt: skip


@inline
def _exp_by_table(x):
    """e^x for x <= 709 in every lane; exactly 0 from -708 down (and for NaN).

    2^(i/16) from a table, times a short series of what is left; where x is out of range both are nonsense, and dropped.
    Relative error below 3e-16 + 4e-17 |x|: what the rounding of x itself does is three times the second term.
    """
    shifted = fma(x, broadcast(_LOG2_E), broadcast(_ROUND))
    scale = sixteenth_power(shifted)
    r = fma(sub(shifted, broadcast(_ROUND)), broadcast(-_LN2), x)
    p = fma(broadcast(_EXP_16[0]), r, broadcast(_EXP_16[1]))
    p = fma(p, r, broadcast(_EXP_16[2]))
    p = fma(p, r, broadcast(_EXP_16[3]))
    p = fma(p, r, broadcast(_EXP_16[4]))
    p = fma(mul(r, r), p, r)
    return positive_above(fma(scale, p, scale), x, broadcast(_SMALLEST))


if REGISTERS.fused:

    @inline
    def _reduced(n, x):
        """x - n ln 2."""
        return fma(n, broadcast(-_LN2), x)

else:

    @inline
    def _reduced(n, x):
        """x - n ln 2, without what the rounding of n ln 2 would do."""
        return fma(n, broadcast(-_LN2_LOW), fma(n, broadcast(-_LN2_HIGH), x))


@inline
def _exp_by_series(x):
    """The same without a table: 2^n times a longer series, in pairs, which wait less for each other."""
    shifted = fma(x, broadcast(_LOG2_E), broadcast(_ROUND_1))
    scale = power(shifted)
    r = _reduced(sub(shifted, broadcast(_ROUND_1)), x)
    s = mul(r, r)
    p = fma(broadcast(_EXP_1[0]), r, broadcast(_EXP_1[1]))
    p = fma(p, s, fma(broadcast(_EXP_1[2]), r, broadcast(_EXP_1[3])))
    p = fma(p, s, fma(broadcast(_EXP_1[4]), r, broadcast(_EXP_1[5])))
    p = fma(p, s, fma(broadcast(_EXP_1[6]), r, broadcast(_EXP_1[7])))
    p = fma(p, s, fma(broadcast(_EXP_1[8]), r, broadcast(_EXP_1[9])))
    p = fma(s, p, r)
    return positive_above(fma(scale, p, scale), x, broadcast(_SMALLEST))


exp = _exp_by_table if SHAPES.permutes else _exp_by_series


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
