"""The feature form (see `reference`), hand-tiled: with both products in register tiles and nothing between in memory.

Rows are taken in panels of 32, several panels to a batch. E-step, panel by panel with one lane per row: frame
coordinates z, features phi, logits = coef phi, softmax. M-step for the whole batch with one lane per feature: sums +=
R psi, where psi holds the same features row by row (see `products`).
"""

from __future__ import annotations

import numpy as np

from streamgmm.kernels._jit import bare_jit, helper, inline, stage
from streamgmm.kernels.family import Flags, Labels, Rows
from streamgmm.kernels.plan import DIAG, FULL, SPHERICAL, TIED, Array
from streamgmm.kernels.simd import few_features
from streamgmm.kernels.simd.intrinsics import LANES, add, broadcast, fma, load, mul, store, total, transpose
from streamgmm.kernels.simd.panels import (
    accurate,
    columns,
    finish,
    frame,
    label_rows,
    largest_norm,
    lengths,
    pending,
    row_weights,
    softmax,
    weigh,
    within,
    write_resp,
)
from streamgmm.kernels.simd.products import (
    PANEL,
    SPILL,
    START,
    STRIP,
    accumulate,
    accumulate_products,
    double_rows,
    logits,
    logits_of_products,
    pair_up,
    sums_shape,
    twice_width,
)
from streamgmm.kernels.simd.scratch import rounded, zeros

BATCH = 2
"""Panels whose statistics are added up together: the more, the less often the sums are read and written; what the rows
need must stay near."""


def cyclic_form(family: int, D: int) -> bool:
    """Whether products of features are made in strips, in cyclic order; of few features they stand in packed order."""
    return family == FULL and D > 8


@inline
def _turn(family, z, at, D, phi, psi, psi_at, q):
    """psi (32, q): the features of 32 rows, row by row; for TIED and SPHERICAL z alone."""
    if family in (FULL, DIAG):
        for i in range(0, q, LANES):
            for v in range(0, PANEL, LANES):
                transpose(phi, i * PANEL + v, PANEL, psi, psi_at + v * q + i, q)
    else:
        for i in range(0, q, LANES):
            for v in range(0, PANEL, LANES):
                transpose(z, at + i * PANEL + v, PANEL, psi, psi_at + v * q + i, q)


@helper
def _unpack(family, cyclic, D, sums, masses, squares, out):
    """Add `sums` (windows, K, columns), products perhaps in cyclic order, to `out` (K, p) in the order of `Family`."""
    K, p = out.shape
    width = sums.shape[2]
    for k in range(K):
        linear = 0
        if family == FULL:
            linear = D * (D + 1) // 2
            for i in range(D):
                for j in range(i + 1):
                    d = i - j
                    if not cyclic:
                        out[k, i * (i + 1) // 2 + j] += sums[0, k, i * (i + 1) // 2 + j]
                        continue
                    # The pair stands in diagonal d at j, or in diagonal D - d at i.
                    at = d * D + j if 2 * d <= D else (D - d) * D + i
                    if 2 * d == D:
                        at = d * D + min(i, j)
                    out[k, i * (i + 1) // 2 + j] += sums[at // width, k, at % width]
        elif family == DIAG:
            linear = D
            for i in range(D):
                out[k, i] += sums[0, k, i]
        elif family == SPHERICAL:
            out[k, 0] += total(load(squares, k * LANES))
        first = 1 if family == SPHERICAL else linear
        for i in range(D):
            out[k, first + i] += sums[(linear + i) // width, k, (linear + i) % width]
        out[k, p - 1] += total(load(masses, k * LANES))


@stage
def _e_step(
    family, cyclic, rows, shift, whiten, coefs, K, base, label, until, todo, used, x, z, norm, common, out, best, phi,
    R, psi,
):  # fmt: skip
    """Frame coordinates, features, logits, labels and softmax of `used` panels; psi too, where that has rows."""
    n = rows.shape[0]
    D = whiten.shape[0]
    D8 = z.shape[1]
    q8 = psi.shape[1]
    statistics = psi.shape[0] > 0
    for u in range(used):
        begin = todo[u] * PANEL
        at = u * D8 * PANEL
        frame(rows, begin, n - 1, shift, whiten, until, x, z, at, norm, u * PANEL)
        if cyclic:
            logits_of_products(coefs, z, at, D, phi, R[u])
        else:
            columns(family, z, at, D, phi)
            logits(coefs, phi, R[u])
            if statistics:
                _turn(family, z, at, D, phi, psi, u * PANEL * q8, q8)
        if family == TIED:
            for v in range(0, PANEL, LANES):
                store(mul(broadcast(-0.5), load(norm, u * PANEL + v)), common, u * PANEL + v)
        if label.shape[0] > 0:
            label_rows(R, u * K * PANEL, K, base, common[u * PANEL :], best)
            for b in range(min(PANEL, n - begin)):
                label[begin + b] = int(best[b])
        softmax(R, u * K * PANEL, K, base, common[u * PANEL :], out[u])
    finish(used, common, out)


@bare_jit
def _panels(
    family, cyclic, rows, weight, shift, whiten, coefs, base, narrow, radius, done, logp, resp, label, sums, quad,
    totals, until, todo, x, z, norm, common, out, best, w, phi, R, twice, psi, part, masses, squares, scaled, scatter,
):  # fmt: skip
    """`dense`, with its scratch arrays."""
    n = rows.shape[0]
    D = whiten.shape[0]
    K = narrow.shape[0]
    D8 = z.shape[1]
    statistics = sums.shape[0] > 0
    outer = scatter.shape[0] > 0
    lengths(whiten, shift.shape[0], until)
    cutoff = within(narrow, radius)
    total_value = broadcast(0.0)
    total_entropy = broadcast(0.0)
    total_log_max = broadcast(0.0)
    total_weight = broadcast(0.0)
    g = 0
    while g < done.shape[0]:
        g, used = pending(done, g, todo)
        _e_step(
            family, cyclic, rows, shift, whiten, coefs, K, base, label, until, todo, used, x, z, norm, common, out,
            best, phi, R, psi,
        )  # fmt: skip
        safe = np.sqrt(largest_norm(norm, START, used * PANEL)) < cutoff
        for u in range(used):
            begin = todo[u] * PANEL
            here = min(PANEL, n - begin)
            at = u * D8 * PANEL
            if not (safe or accurate(R[u], out[u], norm, u * PANEL, weight, begin, here, narrow, radius)):
                # Left to the centred form: no trace of it may stay in what is added up, NaN least of all.
                R[u] = 0.0
                z[u] = 0.0
                if statistics and not cyclic:
                    psi[u * PANEL : (u + 1) * PANEL] = 0.0
                if outer:
                    scaled[u] = 0.0
                continue
            done[todo[u]] = 1
            totals[4] += row_weights(weight, begin, here, w)
            for v in range(0, PANEL, LANES):
                wv = load(w, v)
                total_value = fma(wv, load(out[u], v + 2 * PANEL), total_value)
                total_entropy = fma(wv, load(out[u], v + 3 * PANEL), total_entropy)
                total_log_max = fma(wv, load(out[u], v + 4 * PANEL), total_log_max)
                total_weight = add(wv, total_weight)
            if logp.shape[0] > 0:
                for b in range(here):
                    logp[begin + b] = out[u, 2, b]
            if resp.shape[0] > 0:
                write_resp(R, u * K * PANEL, K, out[u], here, x, resp, begin)
            if statistics:
                weigh(R, u * K * PANEL, K, out[u], w, norm, u * PANEL, masses, squares)
                if outer:
                    for i in range(0, D * PANEL, PANEL):
                        for v in range(0, PANEL, LANES):
                            kept = mul(load(out[u], v + PANEL), load(w, v))
                            store(mul(kept, load(z, at + i + v)), scaled, at + i + v)
        if statistics and cyclic:
            for u in range(used):
                double_rows(z, u * D8 * PANEL, D, twice, u * PANEL)
                pair_up(R, u * K * PANEL, K)
            accumulate_products(R, twice, used * PANEL, D, K, K * PANEL, psi, part)
        elif statistics:
            accumulate(R, psi, used * PANEL, K, K * PANEL, part)
            if outer:
                accumulate(scaled, psi, used * PANEL, D, D8 * PANEL, scatter)
    totals[0] += total(total_value)
    totals[1] += total(total_entropy)
    totals[2] += total(total_log_max)
    totals[3] += total(total_weight)
    if statistics:
        _unpack(family, cyclic, D, part, masses, squares, sums)
        if outer:
            for i in range(D):
                for j in range(i + 1):
                    quad[i * (i + 1) // 2 + j] += scatter[0, i, j]


def dense(
    family: int, rows: Rows, weight: Array, shift: Array, whiten: Array, coefs: Array, base: float, narrow: Array,
    radius: Array, block: int, done: Flags, logp: Array, resp: Array, label: Labels, sums: Array, quad: Array,
    totals: Array,
) -> None:  # fmt: skip
    """One E-step over the panels of `rows` for which the feature form is accurate.

    Parameters
    ----------
    family : int                                        # IN
    rows : (n, D) float32 or float64, read-only          # IN
    weight : (n,) float64 or (0,) for none               # IN
    shift, whiten, base, narrow, radius                  # IN, see `Plan`
    coefs : (K / g, p, g)                               # IN  see `products.grouped_coefficients`
    block : int                                          # IN  rows per entry of `done`: `PANEL`
    done : (ceil(n / block),) uint8                      # INOUT 0: to do; set to 1 where the panel was taken
    logp : (n,) or (0,)                                  # OUT log p(x)
    resp : (n, K), (n, K + 1) with a background, (0, 0)  # OUT responsibilities, not weighted
    label : (n,) int64 or (0,)                           # OUT argmax of the responsibilities, -1 the background
    sums : (K, p) or (0, 0) to leave out the statistics  # INOUT += sum of w r phi
    quad : (D (D + 1) / 2,) or (0,), TIED only           # INOUT += sum of w (1 - background) z z^T, packed i >= j
    totals : (5,)                                        # INOUT += see `Sums`
    """
    if block != PANEL:
        raise ValueError(f"Expected blocks of {PANEL} rows, got {block}.")
    D = whiten.shape[0]
    K, p = len(narrow), coefs.shape[1]
    if few_features.suits(family, D, K):
        few_features.dense(
            family, rows, weight, shift, whiten, coefs, base, narrow, radius, done, logp, resp, label, sums, totals
        )
        return
    statistics = sums.shape[0] > 0
    outer = statistics and family == TIED
    D8 = rounded(D, LANES)
    q = p - 1  # rows of phi: all features but the constant
    q8 = rounded(D if family == SPHERICAL else q, LANES)
    panels = min(BATCH, len(done))
    cyclic = cyclic_form(family, D)
    x, z, norm, common, out, best, w, phi, R, twice, psi, part, masses, squares, scaled, scatter = zeros(
        (rounded(shift.shape[0], LANES), PANEL),
        (panels, D8, PANEL),
        (panels * PANEL,),
        (panels * PANEL,),
        (panels, 5, PANEL),
        (PANEL,),
        (PANEL,),
        (STRIP + D8 if cyclic else rounded(q + 1, LANES), PANEL),
        (panels, K, PANEL),
        (panels * PANEL if statistics and cyclic else 0, twice_width(D)),
        (panels * PANEL if statistics else 0, SPILL if cyclic else q8),
        sums_shape(K if statistics else 0, q8, cyclic),
        (K if statistics else 0, LANES),
        (K if statistics and family == SPHERICAL else 0, LANES),
        (panels if outer else 0, D8, PANEL),
        (1 if outer else 0, D, q8),
    )
    _panels(
        family, cyclic, rows, weight, shift, whiten, coefs, base, narrow, radius, done, logp, resp, label, sums, quad,
        totals, np.zeros(D, np.int64), np.zeros(panels, np.int64), x, z, norm, common, out, best, w, phi, R, twice, psi,
        part, masses, squares, scaled, scatter,
    )  # fmt: skip
