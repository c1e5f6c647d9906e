"""The two matrix products of an iteration, in register tiles: logits = coef phi, and sums += R psi.

phi holds features with one lane per row, psi the same features row by row. Of full covariances with many features
neither is ever whole: products of features are made a strip at a time, which stays in the first-level cache, and used
up by all components. In psi they stand in cyclic order (z_i z_{i+d mod D} for d = 0, 1, ...), which makes them runs of
plain vector products.
"""

from __future__ import annotations

import numpy as np

from streamgmm.kernels._jit import helper, inline
from streamgmm.kernels.plan import Array, Plan, read_only
from streamgmm.kernels.simd.intrinsics import (
    LANES,
    SHAPES,
    broadcast,
    fma,
    load,
    lower_pairs,
    mul,
    store,
    transpose,
    upper_pairs,
)
from streamgmm.kernels.simd.made_once import made_once
from streamgmm.kernels.simd.scratch import rounded
from streamgmm.kernels.simd.tiles import lane_tiles, logit_tiles, outer_tiles, sum_tiles

PANEL = 32
"""Rows that the E-step takes at a time, in four vectors."""
STRIP = 64
"""Features that `logits_of_products` makes at a time, and up to one row of the triangle more."""
WINDOW = 32
"""Features that `accumulate_products` makes at a time."""
SPILL = 40
"""Row stride of the strip of psi: runs are written in whole vectors, and the last may reach beyond the strip."""

START = np.int64(0)
"""Where counting starts in an argument of a helper. Numba takes a plain 0 for a type of its own, and compiles the
helper once for it and once for other numbers."""

_TOGETHER = SHAPES.together
_logits = logit_tiles(SHAPES.logits, SHAPES.across, _TOGETHER)
_more_logits = logit_tiles(SHAPES.logits, SHAPES.across, _TOGETHER, onto=True)
_sums = sum_tiles(SHAPES.sums)
_sums_of_products = sum_tiles(SHAPES.sums, _TOGETHER)
_symmetric = sum_tiles(tuple((v, (4,)) for v, _ in SHAPES.sums))
_by_lane = lane_tiles(*SHAPES.by_lane)
_outer = outer_tiles(*SHAPES.outer)


def grouped_coefficients(plan: Plan) -> Array:
    """(K / g, p, g): the coefficients of g components side by side, see `Shapes.together`; zeros beside the last."""
    return _in_groups(plan) if _TOGETHER > 1 else read_only(plan.coef[:, :, None])


@made_once
def _in_groups(plan: Plan) -> Array:
    K, p = plan.coef.shape
    coefs = np.zeros((-(-K // _TOGETHER), p, _TOGETHER))
    for i in range(_TOGETHER):
        one = plan.coef[i::_TOGETHER]
        coefs[: len(one), :, i] = one
    return read_only(coefs)


@inline
def logits(coefs, phi, out):
    """out (K, 32) = coef phi; the last column of coef (K, q + 1) is the constant."""
    p = coefs.shape[1]
    _logits(coefs, 0, p, phi, p - 1, out, out.shape[0])


@helper
def _add_logits(coefs, first, count, phi, out):
    """out (K, 32) += coef[:, first : first + count] phi (count, 32)."""
    _more_logits(coefs, first, coefs.shape[1], phi, count, out, out.shape[0])


@helper
def logits_of_products(coefs, z, at, D, phi, out):
    """out (K, 32) for full covariances, from z (D, 32) at `at`; phi (STRIP + D, 32) is scratch."""
    p = coefs.shape[1]
    for k in range(out.shape[0]):
        constant = broadcast(coefs[k // _TOGETHER, p - 1, k % _TOGETHER])
        for v in range(0, PANEL, LANES):
            store(constant, out, k * PANEL + v)
    first = START
    count = START
    for i in range(D + 1):
        to = count * PANEL
        if i < D:
            a0 = load(z, at + i * PANEL)
            a1 = load(z, at + i * PANEL + 8)
            a2 = load(z, at + i * PANEL + 16)
            a3 = load(z, at + i * PANEL + 24)
            for j in range(at, at + (i + 1) * PANEL, PANEL):
                store(mul(a0, load(z, j)), phi, to)
                store(mul(a1, load(z, j + 8)), phi, to + 8)
                store(mul(a2, load(z, j + 16)), phi, to + 16)
                store(mul(a3, load(z, j + 24)), phi, to + 24)
                to += PANEL
            count += i + 1
        else:
            for v in range(0, D * PANEL, LANES):
                store(load(z, at + v), phi, to + v)
            count += D
        if count >= STRIP or i == D:
            _add_logits(coefs, first, count, phi, out)
            first += count
            count = 0


@helper
def accumulate(resp, psi, B, K, step, sums):
    """sums (1, K, q8) += R psi for R in panels (K, 32) that lie `step` apart, and psi (B, q8)."""
    q = sums.shape[2]
    _sums(resp, 0, PANEL, step, PANEL, psi, 0, q, B, sums, 0, q, K, q)


@inline
def double_rows(z, at, D, twice, b):
    """twice[b : b + 32] = the rows of z (D8, 32) at `at`, each followed by its own beginning, as far as is read."""
    width = twice.shape[1]
    for i in range(0, D, LANES):
        for v in range(0, PANEL, LANES):
            transpose(z, at + i * PANEL + v, PANEL, twice, (b + v) * width + i, width)
    for row in range(b, b + PANEL):
        for i in range(row * width, row * width + D // 2 + LANES, LANES):
            store(load(twice, i), twice, i + D)


def twice_width(D: int) -> int:
    """Numbers in a row of `twice`: the last product of the longest cyclic distance, in a whole vector."""
    return rounded(D + rounded(D // 2 + LANES, LANES), LANES)


@helper
def accumulate_products(resp, twice, B, D, K, step, psi, sums):
    """sums (windows, K, WINDOW) += R psi for full covariances, psi from rows (B, 2 D and more) as of `double_rows`.

    R is what `pair_up` leaves. psi (B, SPILL) is scratch for WINDOW columns: products in cyclic order, and the
    features themselves at the end.
    """
    width = twice.shape[1]
    linear = D * (D + 1) // 2
    q = -(-(linear + D) // LANES) * LANES
    for f in range(0, linear + D, WINDOW):
        columns = min(WINDOW, q - f)
        filled = 0
        while filled < columns and f + filled < linear + D:
            at = f + filled
            d = at // D
            i = at - d * D
            run = min((d + 1) * D, linear) - at
            plain = at >= linear
            if plain:
                i = at - linear
                run = D - i
            run = min(run, columns - filled)
            for j in range(0, run, LANES):
                source = i + j
                to = filled + j
                if plain:
                    for _ in range(B):
                        store(load(twice, source), psi, to)
                        source += width
                        to += SPILL
                else:
                    for _ in range(B):
                        store(mul(load(twice, source), load(twice, source + d)), psi, to)
                        source += width
                        to += SPILL
            filled += run
        _sums_of_products(resp, 0, PANEL, step, PANEL, psi, 0, SPILL, B, sums, f * K, WINDOW, K, columns)


def sums_shape(K: int, q8: int, cyclic: bool) -> tuple[int, int, int]:
    """Of the sums of `accumulate_products`, where products are made in strips, or of `accumulate`."""
    return (-(-q8 // WINDOW), K, WINDOW) if cyclic else (1, K, q8)


@inline
def pair_up(R, at, K):
    """R (K, 32) at `at`, in place: two components side by side, row by row, an odd last one as it is; see `Shapes`."""
    for i in range(at, at + K // 2 * 2 * PANEL if _TOGETHER == 2 else at, 2 * PANEL):
        a0, b0 = load(R, i), load(R, i + PANEL)
        a1, b1 = load(R, i + 8), load(R, i + PANEL + 8)
        a2, b2 = load(R, i + 16), load(R, i + PANEL + 16)
        a3, b3 = load(R, i + 24), load(R, i + PANEL + 24)
        store(lower_pairs(a0, b0), R, i)
        store(upper_pairs(a0, b0), R, i + 8)
        store(lower_pairs(a1, b1), R, i + 16)
        store(upper_pairs(a1, b1), R, i + 24)
        store(lower_pairs(a2, b2), R, i + 32)
        store(upper_pairs(a2, b2), R, i + 40)
        store(lower_pairs(a3, b3), R, i + 48)
        store(upper_pairs(a3, b3), R, i + 56)


@inline
def accumulate_by_lane(resp, K, phi, panels, sums):
    """sums (K, q, lanes) += partial sums over rows of R (panels, K, 32) phi (panels, q, 32)."""
    _by_lane(resp, phi, panels, sums, K, sums.shape[1])


@helper
def symmetric_sums(resp, psi, sums):
    """sums (W, D8) += resp psi for resp (W, 32), one lane per row, and psi (32, D8), the same rows.

    Columns up to the diagonal, in blocks; W is a multiple of four.
    """
    W, D8 = sums.shape
    for i in range(0, W, 4):
        end = min(-(-(i + 4) // LANES) * LANES, D8)
        _symmetric(resp, i * PANEL, PANEL, 0, PANEL, psi, 0, D8, PANEL, sums, i * D8, D8, 4, end)


@helper
def outer_sums(rows, chosen, first, count, resp, roots, near, sums):
    """sums (D8 + 1, D8) += sum over `count` listed rows of r z z^T, and of r z in the last row, for rows (n, D8).

    Columns up to the diagonal, in whole vectors. roots (count,) and near (count, D8) are scratch for the square roots
    of r and the rows times these, which lie side by side there.
    """
    D8 = rows.shape[1]
    for i in range(count):
        roots[i] = np.sqrt(resp[chosen[first + i]])
    for f in range(0, D8, 2 * LANES):
        g = min(f + LANES, D8 - LANES)  # twice the same where their number is odd
        moment_f = load(sums, D8 * D8 + f)
        moment_g = load(sums, D8 * D8 + g)
        for i in range(count):
            at = chosen[first + i] * D8
            root = broadcast(roots[i])
            a = mul(root, load(rows, at + f))
            b = mul(root, load(rows, at + g))
            store(a, near, i * D8 + f)
            store(b, near, i * D8 + g)
            moment_f = fma(root, a, moment_f)
            moment_g = fma(root, b, moment_g)
        store(moment_f, sums, D8 * D8 + f)
        store(moment_g, sums, D8 * D8 + g)
    _outer(near, D8, count, sums)
