"""Feature form, hand-tiled: what `feature` does, with both products in register tiles and nothing between in memory.

A block of B rows is cut into panels of 32. E-step, panel by panel with one lane per row: frame coordinates z, features
phi, logits = coef phi, softmax. M-step for the whole block with one lane per feature: sums += R psi, where psi holds
the same features row by row. Products of features stand in cyclic order in psi (z_i z_{i+d mod D} for d = 0, 1, ...),
which makes them runs of plain vector products; they are put in packed order once, at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamgmm._jit import bare_jit, inline
from streamgmm.kernels._elementary import SMALLEST, exp_clamped, log_and_inverse
from streamgmm.kernels._vector import (
    LANES,
    add,
    broadcast,
    fma,
    gather_columns,
    highest,
    lane_tile,
    load,
    logit_tile,
    maximum,
    mul,
    quadratic_tile,
    select_greater,
    store,
    sub,
    sum_tile,
    total,
    transpose,
)
from streamgmm.kernels.feature import DIAG, FULL, SPHERICAL, TIED, TOLERANCE, lengths
from streamgmm.kernels.plan import Array
from streamgmm.kernels.scratch import rounded, zeros

PANEL = 32
_NO_SQUARES = np.empty((0, LANES))
_e4, _e2, _e1 = (logit_tile(m, 4) for m in (4, 2, 1))
_q44, _q14 = quadratic_tile(4, 4), quadratic_tile(1, 4)
_m81 = sum_tile(8, 1)
_m44, _m42, _m41 = (sum_tile(4, v) for v in (4, 2, 1))
_m24, _m22, _m21 = (sum_tile(2, v) for v in (4, 2, 1))
_m14, _m12, _m11 = (sum_tile(1, v) for v in (4, 2, 1))
_l4, _l2, _l1 = (lane_tile(n) for n in (4, 2, 1))


@inline
def _round(n, unit):
    return -(-n // unit) * unit


def block_rows(D: int) -> int:
    """Rows per block for D features: small enough for psi to stay in the second-level cache."""
    return 128 if D <= 8 else 64 if D <= 32 else 32


def by_lane_form(family: int, D: int) -> bool:
    """Whether statistics are added up with a row in each lane: for few features, nothing has to be turned round."""
    return D <= 4 and family != TIED


@inline
def _logits(coef, phi, logits):
    """logits (K, 32) = coef phi; the last column of coef (K, q + 1) is the constant."""
    K, p = coef.shape
    k = 0
    while k + 4 <= K:
        _e4(coef, k * p, p, phi, 0, PANEL, p - 1, logits, k * PANEL, PANEL)
        k += 4
    if k + 2 <= K:
        _e2(coef, k * p, p, phi, 0, PANEL, p - 1, logits, k * PANEL, PANEL)
        k += 2
    if k < K:
        _e1(coef, k * p, p, phi, 0, PANEL, p - 1, logits, k * PANEL, PANEL)


@inline
def _quadratics(coef, z, at, D, logits):
    """logits (K, 32) from z (D, 32) at `at`, full covariances: sum over i of z_i (b_i + sum over j <= i of A_ij z_j).

    As much arithmetic as coef phi, and nothing but z to read, which stays in the first-level cache.
    """
    K, p = coef.shape
    linear = D * (D + 1) // 2
    for k in range(K):
        constant = broadcast(coef[k, p - 1])
        for v in range(0, PANEL, LANES):
            store(constant, logits, k * PANEL + v)
    i = 0
    while i + 4 <= D:
        for k in range(K):
            _q44(coef, k * p, k * p + linear, i, z, at, PANEL, logits, k * PANEL)
        i += 4
    while i < D:
        for k in range(K):
            _q14(coef, k * p, k * p + linear, i, z, at, PANEL, logits, k * PANEL)
        i += 1


@inline
def _accumulate(resp, psi, B, K, step, sums):
    """sums (K, q8) += R psi for R in panels (K, 32) that lie `step` apart, and psi (B, q8)."""
    q = sums.shape[1]
    f = 0
    while f < q:
        k = 0
        if f + 32 <= q:
            while k + 4 <= K:
                _m44(resp, k * PANEL, PANEL, step, PANEL, psi, f, q, B, sums, k * q + f, q)
                k += 4
            if k + 2 <= K:
                _m24(resp, k * PANEL, PANEL, step, PANEL, psi, f, q, B, sums, k * q + f, q)
                k += 2
            if k < K:
                _m14(resp, k * PANEL, PANEL, step, PANEL, psi, f, q, B, sums, k * q + f, q)
            f += 32
        elif f + 16 <= q:
            while k + 4 <= K:
                _m42(resp, k * PANEL, PANEL, step, PANEL, psi, f, q, B, sums, k * q + f, q)
                k += 4
            if k + 2 <= K:
                _m22(resp, k * PANEL, PANEL, step, PANEL, psi, f, q, B, sums, k * q + f, q)
                k += 2
            if k < K:
                _m12(resp, k * PANEL, PANEL, step, PANEL, psi, f, q, B, sums, k * q + f, q)
            f += 16
        else:
            while k + 8 <= K:
                _m81(resp, k * PANEL, PANEL, step, PANEL, psi, f, q, B, sums, k * q + f, q)
                k += 8
            if k + 4 <= K:
                _m41(resp, k * PANEL, PANEL, step, PANEL, psi, f, q, B, sums, k * q + f, q)
                k += 4
            if k + 2 <= K:
                _m21(resp, k * PANEL, PANEL, step, PANEL, psi, f, q, B, sums, k * q + f, q)
                k += 2
            if k < K:
                _m11(resp, k * PANEL, PANEL, step, PANEL, psi, f, q, B, sums, k * q + f, q)
            f += 8


@inline
def _accumulate_by_lane(resp, K, phi, q, sums):
    """sums (K, q, 8) += the eight partial sums over rows of R (K, 32) phi (q, 32)."""
    f = 0
    while f + 4 <= q:
        _l4(resp, 0, K, phi, f * PANEL, sums, f * LANES, q * LANES)
        f += 4
    if f + 2 <= q:
        _l2(resp, 0, K, phi, f * PANEL, sums, f * LANES, q * LANES)
        f += 2
    if f < q:
        _l1(resp, 0, K, phi, f * PANEL, sums, f * LANES, q * LANES)


@inline
def _frame(rows, first, last, shift, whiten, until, x, z, at, norm, norm_at):
    """z (D8, 32) at `at`: frame coordinates of 32 rows from `first` on, beyond `last` it again; norm: their |z|^2."""
    F = shift.shape[0]
    column = 0
    while column < F:
        for v in range(0, PANEL, LANES):
            gather_columns(rows, first + v, last, column, x, column * PANEL + v, PANEL)
        column += LANES
    for i in range(F):
        centre = broadcast(shift[i])
        for v in range(0, PANEL, LANES):
            store(sub(load(x, i * PANEL + v), centre), x, i * PANEL + v)
    n0 = n1 = n2 = n3 = broadcast(0.0)
    for i in range(whiten.shape[0]):
        j = 0 if until[i] > 0 else i
        w = broadcast(whiten[i, 0])
        s0 = mul(w, load(x, j * PANEL))
        s1 = mul(w, load(x, j * PANEL + 8))
        s2 = mul(w, load(x, j * PANEL + 16))
        s3 = mul(w, load(x, j * PANEL + 24))
        for j in range(1, until[i]):
            w = broadcast(whiten[i, j])
            s0 = fma(w, load(x, j * PANEL), s0)
            s1 = fma(w, load(x, j * PANEL + 8), s1)
            s2 = fma(w, load(x, j * PANEL + 16), s2)
            s3 = fma(w, load(x, j * PANEL + 24), s3)
        store(s0, z, at + i * PANEL)
        store(s1, z, at + i * PANEL + 8)
        store(s2, z, at + i * PANEL + 16)
        store(s3, z, at + i * PANEL + 24)
        n0 = fma(s0, s0, n0)
        n1 = fma(s1, s1, n1)
        n2 = fma(s2, s2, n2)
        n3 = fma(s3, s3, n3)
    store(n0, norm, norm_at)
    store(n1, norm, norm_at + 8)
    store(n2, norm, norm_at + 16)
    store(n3, norm, norm_at + 24)


@inline
def _columns(family, z, at, D, phi):
    """phi (q, 32): the features of 32 rows, one lane per row; for TIED and SPHERICAL |z|^2 stands in row D."""
    if family == FULL:
        q = 0
        for i in range(D):
            a0 = load(z, at + i * PANEL)
            a1 = load(z, at + i * PANEL + 8)
            a2 = load(z, at + i * PANEL + 16)
            a3 = load(z, at + i * PANEL + 24)
            for j in range(i + 1):
                store(mul(a0, load(z, at + j * PANEL)), phi, q)
                store(mul(a1, load(z, at + j * PANEL + 8)), phi, q + 8)
                store(mul(a2, load(z, at + j * PANEL + 16)), phi, q + 16)
                store(mul(a3, load(z, at + j * PANEL + 24)), phi, q + 24)
                q += PANEL
        for v in range(0, D * PANEL, LANES):
            store(load(z, at + v), phi, q + v)
    elif family == DIAG:
        for v in range(0, D * PANEL, LANES):
            a = load(z, at + v)
            store(mul(a, a), phi, v)
            store(a, phi, D * PANEL + v)
    else:
        q = PANEL if family == SPHERICAL else 0
        square = 0 if family == SPHERICAL else D * PANEL
        for v in range(0, PANEL, LANES):
            norm = broadcast(0.0)
            for i in range(0, D * PANEL, PANEL):
                a = load(z, at + i + v)
                norm = fma(a, a, norm)
                store(a, phi, q + i + v)
            store(norm, phi, square + v)


@inline
def _cyclic(D):
    """Whether the products of a full covariance stand in cyclic order in psi; for few features, in packed order."""
    return D > 8


@inline
def _rows(family, z, at, D, phi, twice, psi, psi_at, q):
    """psi (32, q): the features of 32 rows, row by row; for TIED and SPHERICAL z alone."""
    if family == FULL and _cyclic(D):
        width = twice.shape[1]
        for i in range(0, D, LANES):
            for v in range(0, PANEL, LANES):
                transpose(z, at + i * PANEL + v, PANEL, twice, v * width + i, width)
        for b in range(PANEL):
            here = b * width
            for i in range(0, D, LANES):
                store(load(twice, here + i), twice, here + D + i)
            to = psi_at + b * q
            for d in range(D // 2 + 1):
                for i in range(0, D, LANES):
                    store(mul(load(twice, here + i), load(twice, here + i + d)), psi, to + i)
                to += D
            if D % 2 == 0:
                to -= D // 2
            for i in range(0, D, LANES):
                store(load(twice, here + i), psi, to + i)
    elif family in (FULL, DIAG):
        for i in range(0, q, LANES):
            for v in range(0, PANEL, LANES):
                transpose(phi, i * PANEL + v, PANEL, psi, psi_at + v * q + i, q)
    else:
        for i in range(0, q, LANES):
            for v in range(0, PANEL, LANES):
                transpose(z, at + i * PANEL + v, PANEL, psi, psi_at + v * q + i, q)


@inline
def _softmax(R, at, K, base, common, out):
    """Logits (K, 32) at `at` of R, in place, to exponentials e^d, d the distance to the largest; then see `_finish`.

    out : (5, 32) sum of e^d; e^d of the background; largest logit; sum of d e^d; unused.
    """
    lowest = broadcast(SMALLEST)
    b0 = sub(broadcast(base), load(common, 0))
    b1 = sub(broadcast(base), load(common, 8))
    b2 = sub(broadcast(base), load(common, 16))
    b3 = sub(broadcast(base), load(common, 24))
    t0 = b0
    t1 = b1
    t2 = b2
    t3 = b3
    for i in range(at, at + K * PANEL, PANEL):
        t0 = maximum(load(R, i), t0)
        t1 = maximum(load(R, i + 8), t1)
        t2 = maximum(load(R, i + 16), t2)
        t3 = maximum(load(R, i + 24), t3)
    h0 = h1 = h2 = h3 = broadcast(0.0)
    s0 = s1 = s2 = s3 = broadcast(0.0)
    if base > -np.inf:
        b0 = maximum(sub(b0, t0), lowest)
        b1 = maximum(sub(b1, t1), lowest)
        b2 = maximum(sub(b2, t2), lowest)
        b3 = maximum(sub(b3, t3), lowest)
        s0 = exp_clamped(b0)
        s1 = exp_clamped(b1)
        s2 = exp_clamped(b2)
        s3 = exp_clamped(b3)
        h0 = mul(s0, b0)
        h1 = mul(s1, b1)
        h2 = mul(s2, b2)
        h3 = mul(s3, b3)
    store(s0, out, PANEL)
    store(s1, out, PANEL + 8)
    store(s2, out, PANEL + 16)
    store(s3, out, PANEL + 24)
    for i in range(at, at + K * PANEL, PANEL):
        b0 = maximum(sub(load(R, i), t0), lowest)
        b1 = maximum(sub(load(R, i + 8), t1), lowest)
        b2 = maximum(sub(load(R, i + 16), t2), lowest)
        b3 = maximum(sub(load(R, i + 24), t3), lowest)
        e0 = exp_clamped(b0)
        e1 = exp_clamped(b1)
        e2 = exp_clamped(b2)
        e3 = exp_clamped(b3)
        store(e0, R, i)
        store(e1, R, i + 8)
        store(e2, R, i + 16)
        store(e3, R, i + 24)
        s0 = add(s0, e0)
        s1 = add(s1, e1)
        s2 = add(s2, e2)
        s3 = add(s3, e3)
        h0 = fma(e0, b0, h0)
        h1 = fma(e1, b1, h1)
        h2 = fma(e2, b2, h2)
        h3 = fma(e3, b3, h3)
    store(s0, out, 0)
    store(s1, out, 8)
    store(s2, out, 16)
    store(s3, out, 24)
    store(t0, out, 2 * PANEL)
    store(t1, out, 2 * PANEL + 8)
    store(t2, out, 2 * PANEL + 16)
    store(t3, out, 2 * PANEL + 24)
    store(h0, out, 3 * PANEL)
    store(h1, out, 3 * PANEL + 8)
    store(h2, out, 3 * PANEL + 16)
    store(h3, out, 3 * PANEL + 24)


@inline
def _finish(panels, common, out):
    """For rows of `panels` panels, from what `_softmax` left in out (panels, 5, 32):

    what exponentials must be multiplied by to be responsibilities; responsibility of all but the background; log p;
    entropy; log max r. All panels in one loop: each row is a long chain of operations, of which many must overlap.
    """
    for v in range(0, panels * PANEL, LANES):
        at = (v // PANEL) * 5 * PANEL + v % PANEL
        log_s, inverse = log_and_inverse(load(out, at))
        store(inverse, out, at)
        store(sub(broadcast(1.0), mul(load(out, at + PANEL), inverse)), out, at + PANEL)
        store(add(add(load(out, at + 2 * PANEL), log_s), load(common, v)), out, at + 2 * PANEL)
        store(sub(log_s, mul(load(out, at + 3 * PANEL), inverse)), out, at + 3 * PANEL)
        store(sub(broadcast(0.0), log_s), out, at + 4 * PANEL)


@inline
def _weigh(R, at, K, scale, weight, norm, norm_at, masses, squares):
    """R (K, 32) at `at` times scale times weight; masses, squares (K, 8) += its sums, plain and with |z|^2."""
    s0 = mul(load(scale, 0), load(weight, 0))
    s1 = mul(load(scale, 8), load(weight, 8))
    s2 = mul(load(scale, 16), load(weight, 16))
    s3 = mul(load(scale, 24), load(weight, 24))
    for k in range(K):
        r0 = mul(load(R, at), s0)
        r1 = mul(load(R, at + 8), s1)
        r2 = mul(load(R, at + 16), s2)
        r3 = mul(load(R, at + 24), s3)
        store(r0, R, at)
        store(r1, R, at + 8)
        store(r2, R, at + 16)
        store(r3, R, at + 24)
        store(add(load(masses, k * LANES), add(add(r0, r1), add(r2, r3))), masses, k * LANES)
        if squares.shape[0] > 0:
            a = mul(r0, load(norm, norm_at))
            a = fma(r1, load(norm, norm_at + 8), a)
            a = fma(r2, load(norm, norm_at + 16), a)
            a = fma(r3, load(norm, norm_at + 24), a)
            store(add(load(squares, k * LANES), a), squares, k * LANES)
        at += PANEL


@inline
def _write_resp(R, at, K, out, count, spare, resp, first):
    """resp[first : first + count]: exponentials (K, 32) at `at` of R times their scale, and the background's share."""
    width = resp.shape[1]
    full = K // LANES * LANES if count == PANEL else 0
    for v in range(0, PANEL if full > 0 else 0, LANES):
        scale = load(out, v)
        for k in range(0, full, LANES):
            for j in range(LANES):
                store(mul(load(R, at + (k + j) * PANEL + v), scale), spare, j * LANES)
            transpose(spare, 0, LANES, resp, (first + v) * width + k, width)
    for b in range(count):
        for k in range(full, K):
            resp[first + b, k] = R[at // (K * PANEL), k, b] * out[0, b]
        if width > K:
            resp[first + b, K] = 1.0 - out[1, b]


@inline
def _label(R, at, K, base, common, best):
    """best (32,): the component with the largest logit, the first of equals; -1 where the background is larger."""
    for v in range(0, PANEL, LANES):
        top = sub(broadcast(base), load(common, v))
        index = broadcast(-1.0)
        for k in range(K):
            logit = load(R, at + k * PANEL + v)
            index = select_greater(logit, top, broadcast(float(k)), index)
            top = maximum(logit, top)
        store(index, best, v)


@inline
def _unpack(family, D, sums, masses, squares, out):
    """Add `sums` (K, q8), whose products stand in cyclic order, to `out` (K, p) in the order of `Family`."""
    K, p = out.shape
    for k in range(K):
        linear = 0
        if family == FULL:
            linear = D * (D + 1) // 2
            for i in range(D):
                for j in range(i + 1):
                    d = i - j
                    if not _cyclic(D):
                        out[k, i * (i + 1) // 2 + j] += sums[k, i * (i + 1) // 2 + j]
                        continue
                    # The pair stands in diagonal d at j, or in diagonal D - d at i.
                    at = d * D + j if 2 * d <= D else (D - d) * D + i
                    if 2 * d == D:
                        at = d * D + min(i, j)
                    out[k, i * (i + 1) // 2 + j] += sums[k, at]
        elif family == DIAG:
            linear = D
            for i in range(D):
                out[k, i] += sums[k, i]
        elif family == SPHERICAL:
            out[k, 0] += total(load(squares, k * LANES))
        first = 1 if family == SPHERICAL else linear
        for i in range(D):
            out[k, first + i] += sums[k, linear + i]
        out[k, p - 1] += total(load(masses, k * LANES))


@inline
def _largest(norm, count):
    """Largest of `count` norms, a multiple of 32; NaN or infinity where one is not finite."""
    zero = broadcast(0.0)
    top = zero
    wrong = zero
    for b in range(0, count, LANES):
        a = load(norm, b)
        top = maximum(a, top)
        wrong = fma(a, zero, wrong)
    return highest(top) + total(wrong)


@inline
def _accurate(R, out, norm, weight, first, count, narrow, radius):
    """As `feature.accurate`, for exponentials in panels. False where a row is not finite, too."""
    largest = _largest(norm, _round(count, PANEL))
    if not largest < np.inf:
        return False
    reach = np.sqrt(largest)
    for k in range(narrow.shape[0]):
        error = narrow[k] * (reach + radius[k]) ** 2
        if error <= TOLERANCE:
            continue
        if not error < 1.0:
            return False
        for b in range(count):
            u = b // PANEL
            absent = weight.shape[0] > 0 and weight[first + b] == 0.0
            if R[u, k, b % PANEL] * out[u, 0, b % PANEL] > 4e-18 and not absent:
                return False
    return True


@inline
def _row_weights(weight, first, count, w):
    """w (32,): the weights of `count` rows, 1 where there are none, and 0 beyond. Returns the rows of weight > 0."""
    for v in range(0, PANEL, LANES):
        store(broadcast(1.0), w, v)
    for b in range(count, PANEL):
        w[b] = 0.0
    positive = count
    if weight.shape[0] > 0:
        for b in range(count):
            w[b] = weight[first + b]
            if w[b] == 0.0:
                positive -= 1
    return positive


@bare_jit
def _blocks(
    family, rows, weight, shift, whiten, coef, base, narrow, radius, block, done, logp, resp, label, sums, quad, totals,
    until, x, z, norm, common, out, best, w, phi, R, twice, psi, part, masses, squares, scaled,
    scatter, by_lane,
):  # fmt: skip
    """`dense`, with its scratch arrays."""
    n = rows.shape[0]
    D = whiten.shape[0]
    K = coef.shape[0]
    D8 = z.shape[1]
    q8 = psi.shape[1]
    statistics = sums.shape[0] > 0
    outer = scatter.shape[0] > 0
    lanes = by_lane.shape[0] > 0
    lengths(whiten, shift.shape[0], until)
    total_value = broadcast(0.0)
    total_entropy = broadcast(0.0)
    total_log_max = broadcast(0.0)
    total_weight = broadcast(0.0)
    for g in range(done.shape[0]):
        if done[g] != 0:
            continue
        first = g * block
        count = min(block, n - first)
        panels = (count + PANEL - 1) // PANEL
        for u in range(panels):
            begin = first + u * PANEL
            at = u * D8 * PANEL
            _frame(rows, begin, first + count - 1, shift, whiten, until, x, z, at, norm, u * PANEL)
            if family == FULL and _cyclic(D):
                _quadratics(coef, z, at, D, R[u])
            else:
                kept = u if lanes else 0
                _columns(family, z, at, D, phi[kept])
                _logits(coef, phi[kept], R[u])
            if statistics and not lanes:
                _rows(family, z, at, D, phi[0], twice, psi, u * PANEL * q8, q8)
            if family == TIED:
                for v in range(0, PANEL, LANES):
                    store(mul(broadcast(-0.5), load(norm, u * PANEL + v)), common, u * PANEL + v)
            if label.shape[0] > 0:
                _label(R, u * K * PANEL, K, base, common[u * PANEL :], best)
                for b in range(min(PANEL, count - u * PANEL)):
                    label[begin + b] = int(best[b])
            _softmax(R, u * K * PANEL, K, base, common[u * PANEL :], out[u])
        _finish(panels, common, out)
        if not _accurate(R, out, norm, weight, first, count, narrow, radius):
            continue
        done[g] = 1
        for u in range(panels):
            begin = first + u * PANEL
            here = min(PANEL, count - u * PANEL)
            totals[4] += _row_weights(weight, begin, here, w)
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
                _write_resp(R, u * K * PANEL, K, out[u], here, x, resp, begin)
            if statistics:
                at = u * D8 * PANEL
                _weigh(R, u * K * PANEL, K, out[u], w, norm, u * PANEL, masses, squares)
                if lanes:
                    _accumulate_by_lane(R[u], K, phi[u], by_lane.shape[1], by_lane)
                if outer:
                    for i in range(0, D * PANEL, PANEL):
                        for v in range(0, PANEL, LANES):
                            kept = mul(load(out[u], v + PANEL), load(w, v))
                            store(mul(kept, load(z, at + i + v)), scaled, at + i + v)
        if statistics and not lanes:
            _accumulate(R, psi, panels * PANEL, K, K * PANEL, part)
            if outer:
                _accumulate(scaled, psi, panels * PANEL, D, D8 * PANEL, scatter)
    totals[0] += total(total_value)
    totals[1] += total(total_entropy)
    totals[2] += total(total_log_max)
    totals[3] += total(total_weight)
    if lanes:
        for k in range(K):
            for f in range(by_lane.shape[1]):
                sums[k, f] += total(load(by_lane[k], f * LANES))
            sums[k, by_lane.shape[1]] += total(load(masses, k * LANES))
    elif statistics:
        _unpack(family, D, part, masses, squares, sums)
        if outer:
            for i in range(D):
                for j in range(i + 1):
                    quad[i * (i + 1) // 2 + j] += scatter[i, j]


def dense(
    family: int, rows: Any, weight: Array, shift: Array, whiten: Array, coef: Array, base: float, narrow: Array,
    radius: Array, block: int, done: Any, logp: Array, resp: Array, label: Any, sums: Array, quad: Array, totals: Array,
) -> None:  # fmt: skip
    """What `feature` does, with the same arguments; `block` must be a multiple of 32."""
    D = whiten.shape[0]
    K, p = coef.shape
    until = np.zeros(D, np.int64)
    statistics = sums.shape[0] > 0
    outer = statistics and family == TIED
    D8 = rounded(D, LANES)
    q = p - 1  # rows of phi: all features but the constant
    q8 = rounded(D if family == SPHERICAL else q, LANES)
    panels = block // PANEL
    lanes = statistics and by_lane_form(family, D)
    turned = statistics and not lanes
    x, z, norm, common, out, best, w, phi, by_lane, R, twice, psi, part, masses, squares, scaled, scatter = zeros(
        (rounded(shift.shape[0], LANES), PANEL),
        (panels, D8, PANEL),
        (block,),
        (block,),
        (panels, 5, PANEL),
        (PANEL,),
        (PANEL,),
        (panels if lanes else 1, rounded(q + 1, LANES), PANEL),
        (K if lanes else 0, q, LANES),
        (panels, K, PANEL),
        (PANEL, rounded(2 * D + D // 2 + LANES, LANES)),
        (block + 1 if turned else 0, q8),
        (K if turned else 0, q8),
        (K if statistics else 0, LANES),
        (K if turned and family == SPHERICAL else 0, LANES),
        (panels if outer else 0, D8, PANEL),
        (D if outer else 0, q8),
    )
    _blocks(
        family, rows, weight, shift, whiten, coef, base, narrow, radius, block, done, logp, resp, label, sums, quad,
        totals, until, x, z, norm, common, out, best, w, phi, R, twice, psi, part, masses, squares, scaled, scatter,
        by_lane,
    )  # fmt: skip
