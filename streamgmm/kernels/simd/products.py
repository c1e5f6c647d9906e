"""The two matrix products of an iteration, in register tiles: logits = coef phi, and sums += R psi.

phi holds features with one lane per row, psi the same features row by row. Of full covariances with many features
neither is ever whole: products of features are made a strip at a time, which stays in the first-level cache, and used
up by all components. In psi they stand in cyclic order (z_i z_{i+d mod D} for d = 0, 1, ...), which makes them runs of
plain vector products.
"""

from __future__ import annotations

import numpy as np

from streamgmm.kernels._jit import helper, inline
from streamgmm.kernels.simd.intrinsics import LANES, SHAPES, broadcast, load, mul, store, transpose
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

_logits = logit_tiles(SHAPES.logits, SHAPES.across)
_more_logits = logit_tiles(SHAPES.logits, SHAPES.across, onto=True)
_sums = sum_tiles(SHAPES.sums)
_symmetric = sum_tiles(tuple((v, (4,)) for v, _ in SHAPES.sums))
_by_lane = lane_tiles(*SHAPES.by_lane)
_OUTER_ROWS, _widths = SHAPES.outer
_outer = outer_tiles(_OUTER_ROWS, _widths)
_outer_and_moment = outer_tiles(_OUTER_ROWS, (1,), first_moment=True)


@inline
def logits(coef, phi, out):
    """out (K, 32) = coef phi; the last column of coef (K, q + 1) is the constant."""
    K, p = coef.shape
    _logits(coef, 0, p, phi, p - 1, out, K)


@helper
def _add_logits(coef, first, count, phi, out):
    """out (K, 32) += coef[:, first : first + count] phi (count, 32)."""
    K, p = coef.shape
    _more_logits(coef, first, p, phi, count, out, K)


@helper
def logits_of_products(coef, z, at, D, phi, out):
    """out (K, 32) for full covariances, from z (D, 32) at `at`; phi (STRIP + D, 32) is scratch."""
    K, p = coef.shape
    for k in range(K):
        constant = broadcast(coef[k, p - 1])
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
            _add_logits(coef, first, count, phi, out)
            first += count
            count = 0


@helper
def _add_sums(resp, psi, psi_at, B, K, step, sums, f, columns):
    """sums (K, q8), columns f to f + columns, += R psi for psi (B, columns) at `psi_at`; `columns` a multiple of 8."""
    q = sums.shape[1]
    _sums(resp, 0, PANEL, step, PANEL, psi, psi_at, psi.shape[1], B, sums, f, q, K, columns)


@inline
def accumulate(resp, psi, B, K, step, sums):
    """sums (K, q8) += R psi for R in panels (K, 32) that lie `step` apart, and psi (B, q8)."""
    _add_sums(resp, psi, START, B, K, step, sums, START, sums.shape[1])


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
    """sums (K, q8) += R psi for full covariances, psi from rows (B, 2 D and more) as `double_rows` leaves them.

    psi (B, SPILL) is scratch for WINDOW columns: products in cyclic order, and the features themselves at the end.
    """
    width = twice.shape[1]
    q = sums.shape[1]
    linear = D * (D + 1) // 2
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
        _add_sums(resp, psi, START, B, K, step, sums, f, columns)


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
def outer_sums(rows, chosen, first, count, resp, sums):
    """sums (D8 + 1, D8) += sum over `count` listed rows of r z z^T, and of r z in the last row, for rows (n, D8).

    Columns up to the diagonal, in blocks of 8 x 8.
    """
    D8 = rows.shape[1]
    for i in range(0, D8, _OUTER_ROWS):
        f = i // LANES * LANES
        at = i * D8
        if i == f:
            _outer(rows, D8, i, 0, f, resp, chosen, first, count, sums, at, D8, 0)
            _outer_and_moment(rows, D8, i, f, LANES, resp, chosen, first, count, sums, at + f, D8, D8 * D8 + f)
        else:
            _outer(rows, D8, i, 0, f + LANES, resp, chosen, first, count, sums, at, D8, 0)
