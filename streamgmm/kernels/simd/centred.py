"""Centred form, hand-tiled: what `centred` does, panel by panel with one lane per row."""

from __future__ import annotations

import numpy as np

from streamgmm.kernels._jit import bare_jit, inline
from streamgmm.kernels.family import Flags, Labels, Rows
from streamgmm.kernels.plain.own_mean import FAR_SQUARED
from streamgmm.kernels.plan import FULL, TIED, Array
from streamgmm.kernels.simd.intrinsics import (
    LANES,
    SHAPES,
    add,
    broadcast,
    fma,
    highest,
    load,
    maximum,
    mul,
    store,
    sub,
    transpose,
)
from streamgmm.kernels.simd.panels import (
    finish,
    frame,
    label_rows,
    largest_norm,
    lengths,
    row_weights,
    softmax,
    weigh,
    write_resp,
)
from streamgmm.kernels.simd.products import PANEL, START, symmetric_sums
from streamgmm.kernels.simd.scratch import rounded, zeros
from streamgmm.kernels.simd.tiles import quadratic_tiles

_ACROSS = SHAPES.across * LANES
_squares = quadratic_tiles(4, SHAPES.across, square=True)

_LOWEST = -1e308  # of a logit: an infinite one times its share of 0 would be NaN


@inline
def _centre(z, D, mean, delta):
    """delta (D, 32) = z - mean."""
    for i in range(D):
        centre = broadcast(mean[i])
        for v in range(i * PANEL, (i + 1) * PANEL, LANES):
            store(sub(load(z, v), centre), delta, v)


@inline
def _distances(triangular, D, root, delta, out):
    """out (32,) = squared lengths of root delta: root packed by rows of a triangle, or (D,) factors."""
    for v in range(0, PANEL, LANES):
        store(broadcast(0.0), out, v)
    if triangular:
        for v in range(0, PANEL, _ACROSS):
            _squares(root, 0, 0, D, delta, v, PANEL, out, v)
    else:
        for i in range(D):
            u = broadcast(root[i])
            for v in range(0, PANEL, LANES):
                y = mul(u, load(delta, i * PANEL + v))
                store(fma(y, y, load(out, v)), out, v)


@inline
def _add_moments(triangular, D, resp, delta, scaled, turned, out):
    """Add the sums of r, r delta and r delta delta^T over 32 rows to `out`.

    out : (D + 1, D8), the triangle, then r delta in row D; otherwise (2 D, 8), by lane, squares and then r delta.
    """
    if triangular:
        for i in range(D):
            for v in range(0, PANEL, LANES):
                store(mul(load(resp, v), load(delta, i * PANEL + v)), scaled, i * PANEL + v)
        for v in range(0, PANEL, LANES):
            store(load(resp, v), scaled, D * PANEL + v)
        D8 = turned.shape[1]
        for i in range(0, D, LANES):
            for v in range(0, PANEL, LANES):
                transpose(delta, i * PANEL + v, PANEL, turned, v * D8 + i, D8)
        symmetric_sums(scaled, turned, out)
    else:
        for i in range(D):
            square = load(out, i * LANES)
            first = load(out, (D + i) * LANES)
            for v in range(0, PANEL, LANES):
                d = load(delta, i * PANEL + v)
                a = mul(load(resp, v), d)
                first = add(first, a)
                square = fma(a, d, square)
            store(square, out, i * LANES)
            store(first, out, (D + i) * LANES)


@bare_jit
def _panels(
    family, rows, weight, shift, whiten, means, roots, const, base, done, logp, resp, label, totals, statistics,
    until, x, z, norm, common, out, best, w, R, delta, distance, scaled, turned, masses, squares, moments,
):  # fmt: skip
    """`centred_vector`, with its scratch arrays."""
    n = rows.shape[0]
    K, D = means.shape
    triangular = family in (FULL, TIED)
    lengths(whiten, shift.shape[0], until)
    half = broadcast(-0.5)
    for g in range(done.shape[0]):
        if done[g] != 0:
            continue
        begin = g * PANEL
        here = min(PANEL, n - begin)
        frame(rows, begin, begin + here - 1, shift, whiten, until, x, z, START, norm, START)
        if not largest_norm(norm, START, PANEL) < FAR_SQUARED:
            continue  # to `own`: too far for this frame, or not finite
        done[g] = 1
        for k in range(K):
            _centre(z, D, means[k], delta)
            _distances(triangular, D, roots[0 if family == TIED else k], delta, distance)
            top = broadcast(const[k])
            for v in range(0, PANEL, LANES):
                store(maximum(fma(half, load(distance, v), top), broadcast(_LOWEST)), R[0], k * PANEL + v)
        if label.shape[0] > 0:
            label_rows(R, START, K, base, common, best)
            for b in range(here):
                label[begin + b] = int(best[b])
        softmax(R, START, K, base, common, out[0])
        finish(START + 1, common, out)
        positive = row_weights(weight, begin, here, w)
        totals[4] += positive
        for b in range(here):
            if w[b] > 0.0:
                totals[0] += w[b] * out[0, 2, b]
                totals[1] += w[b] * out[0, 3, b]
                totals[2] += w[b] * out[0, 4, b]
                totals[3] += w[b]
        if logp.shape[0] > 0:
            for b in range(here):
                logp[begin + b] = out[0, 2, b]
        if resp.shape[0] > 0:
            write_resp(R, START, K, out[0], here, x, resp, begin)
        if not statistics:
            continue
        weigh(R, START, K, out[0], w, norm, START, masses, squares)
        for k in range(K):
            at = k * PANEL
            top = maximum(maximum(load(R, at), load(R, at + 8)), maximum(load(R, at + 16), load(R, at + 24)))
            if highest(top) > 0.0:
                _centre(z, D, means[k], delta)
                _add_moments(triangular, D, R[0, k], delta, scaled, turned, moments[k])


def centred_vector(
    family: int, rows: Rows, weight: Array, shift: Array, whiten: Array, means: Array, factor: Array, const: Array,
    base: float, block: int, done: Flags, logp: Array, resp: Array, label: Labels, mass: Array, first_moment: Array,
    second_moment: Array, totals: Array,
) -> None:  # fmt: skip
    """One E-step over the panels of `rows` that are not done; those with a row too far or not finite are left.

    Parameters
    ----------
    family, rows, weight, shift, whiten, base, block, logp, resp, label, totals : as in `vector.dense`
    means : (K, D)                                                        # IN
    factor : (K, D, D), (1, D, D) for TIED; (K, D, 1) for DIAG, SPHERICAL # IN
    const : (K,)                                                          # IN
    done : (ceil(n / block),) uint8                                       # INOUT set to 1 where the panel was taken
    mass : (K,) or (0,)                                                   # INOUT += sum of w r
    first_moment : (K, D)                                                 # INOUT += sum of w r (z - mu_k)
    second_moment : (K, D, D), (1, D, D) for TIED, (K, D, 1)              # INOUT += sum of w r (z - mu_k)(z - mu_k)^T
    """
    if block != PANEL:
        raise ValueError(f"Expected blocks of {PANEL} rows, got {block}.")
    K, D = means.shape
    D8 = rounded(D, LANES)
    triangular = family in (FULL, TIED)
    statistics = len(mass) > 0
    if triangular:
        i, j = np.tril_indices(D)
        roots = np.take(factor.reshape(len(factor), D * D), j * D + i, axis=1)
    else:
        roots = np.ascontiguousarray(factor[:, :, 0])
    x, z, norm, common, out, best, w, R, delta, distance, scaled, turned, masses, squares, moments = zeros(
        (rounded(shift.shape[0], LANES), PANEL),
        (1, D8, PANEL),  # of as many dimensions as in the other forms: what they share is compiled once
        (PANEL,),
        (PANEL,),
        (1, 5, PANEL),
        (PANEL,),
        (PANEL,),
        (1, K, PANEL),
        (D8, PANEL),
        (PANEL,),
        (rounded(D + 1, 4), PANEL),
        (PANEL, D8),
        (K if statistics else 0, LANES),
        (0, LANES),
        (K if statistics else 0, *((rounded(D + 1, 4), D8) if triangular else (2 * D, LANES))),
    )
    _panels(
        family, rows, weight, shift, whiten, means, roots, const, base, done, logp, resp, label, totals, statistics,
        np.zeros(D, np.int64), x, z, norm, common, out, best, w, R, delta, distance, scaled, turned, masses, squares,
        moments,
    )  # fmt: skip
    if statistics:
        mass += masses.sum(axis=1)
        if triangular:
            first_moment += moments[:, D, :D]
            if family == TIED:
                moments = moments.sum(axis=0, keepdims=True)
            row, column = np.divmod(np.arange(D * D), D)
            lower = np.maximum(row, column) * D8 + np.minimum(row, column)
            second_moment += np.take(moments.reshape(len(moments), -1), lower, axis=1).reshape(second_moment.shape)
        else:
            second_moment += moments[:, :D].sum(axis=2)[:, :, None]
            first_moment += moments[:, D:].sum(axis=2)
