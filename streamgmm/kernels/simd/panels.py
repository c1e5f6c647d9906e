"""Stages of 32 rows at a time, one lane per row: frame, features, responsibilities, answers."""

from __future__ import annotations

import numpy as np

from streamgmm.kernels._jit import helper, inline, stage
from streamgmm.kernels.plan import DIAG, FULL, SPHERICAL, TOLERANCE
from streamgmm.kernels.simd.elementary import exp, log_and_inverse
from streamgmm.kernels.simd.intrinsics import (
    LANES,
    REGISTERS,
    add,
    broadcast,
    evens,
    fma,
    gather_columns,
    highest,
    load,
    load_rows,
    maximum,
    mul,
    odds,
    prefetch,
    select_greater,
    store,
    sub,
    total,
    transpose,
)
from streamgmm.kernels.simd.products import PANEL


@inline
def lengths(whiten, features, until):
    """until (D,) = how many features each frame coordinate is made of; 0 where it is its own feature, scaled."""
    D, F = whiten.shape
    for i in range(D):
        until[i] = 0 if features > F else F
    if F > 1:
        lower = D == F
        for i in range(D):
            for j in range(i + 1, F):
                lower = lower and whiten[i, j] == 0.0
        if lower:
            for i in range(D):
                until[i] = i + 1


@inline
def row_weights(weight, first, count, w):
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


@inline
def frame(rows, first, last, shift, whiten, until, x, z, at, norm, norm_at):
    """z (D8, 32) at `at`: frame coordinates of 32 rows from `first` on, beyond `last` it again; norm: their |z|^2."""
    F = shift.shape[0]
    for i in range((first + PANEL) * F, (first + 2 * PANEL) * F, LANES):
        prefetch(rows, i)  # the panel after this one: the processor sees too late that it will be read
    column = 0
    if F <= 2 and first + PANEL <= last + 1:
        for v in range(0, PANEL, LANES):
            a = load_rows(rows, (first + v) * F)
            if F == 1:
                store(a, x, v)
            else:
                b = load_rows(rows, (first + v) * F + LANES)
                store(evens(a, b), x, v)
                store(odds(a, b), x, PANEL + v)
        column = F
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
def columns(family, z, at, D, phi):
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
def _in_registers(R, at, K, out):
    """The exponentials of `softmax`, two vectors at a time, whose sums stay in registers."""
    for v in range(0, PANEL, 2 * LANES):
        t0 = load(out, 2 * PANEL + v)
        t1 = load(out, 2 * PANEL + v + 8)
        s0 = load(out, v)
        s1 = load(out, v + 8)
        h0 = load(out, 3 * PANEL + v)
        h1 = load(out, 3 * PANEL + v + 8)
        for i in range(at + v, at + v + K * PANEL, PANEL):
            d0 = sub(load(R, i), t0)
            d1 = sub(load(R, i + 8), t1)
            e0 = exp(d0)
            e1 = exp(d1)
            store(e0, R, i)
            store(e1, R, i + 8)
            s0 = add(s0, e0)
            s1 = add(s1, e1)
            h0 = fma(e0, d0, h0)
            h1 = fma(e1, d1, h1)
        store(s0, out, v)
        store(s1, out, v + 8)
        store(h0, out, 3 * PANEL + v)
        store(h1, out, 3 * PANEL + v + 8)


@inline
def _in_memory(R, at, K, out):
    """The same where registers do not hold the sums beside constants of the exponential: those of AVX2 do not."""
    for i in range(at, at + K * PANEL, PANEL):
        for v in range(0, PANEL, LANES):
            d = sub(load(R, i + v), load(out, 2 * PANEL + v))
            e = exp(d)
            store(e, R, i + v)
            store(add(load(out, v), e), out, v)
            store(fma(e, d, load(out, 3 * PANEL + v)), out, 3 * PANEL + v)


_exponentials = _in_registers if REGISTERS.width == LANES else _in_memory


@inline
def softmax(R, at, K, base, common, out):
    """Logits (K, 32) at `at` of R, in place, to exponentials e^d, d the distance to the largest; then see `finish`.

    The largest of all components is looked for in four vectors together: each number waits for the one before.

    out : (5, 32) sum of e^d; e^d of the background; largest logit; sum of d e^d; unused.
    """
    t0 = sub(broadcast(base), load(common, 0))
    t1 = sub(broadcast(base), load(common, 8))
    t2 = sub(broadcast(base), load(common, 16))
    t3 = sub(broadcast(base), load(common, 24))
    for i in range(at, at + K * PANEL, PANEL):
        t0 = maximum(load(R, i), t0)
        t1 = maximum(load(R, i + 8), t1)
        t2 = maximum(load(R, i + 16), t2)
        t3 = maximum(load(R, i + 24), t3)
    store(t0, out, 2 * PANEL)
    store(t1, out, 2 * PANEL + 8)
    store(t2, out, 2 * PANEL + 16)
    store(t3, out, 2 * PANEL + 24)
    for v in range(0, PANEL, LANES):
        h = s = broadcast(0.0)
        if base > -np.inf:
            d = sub(sub(broadcast(base), load(common, v)), load(out, 2 * PANEL + v))
            s = exp(d)
            h = mul(s, d)
        store(s, out, v)
        store(s, out, PANEL + v)
        store(h, out, 3 * PANEL + v)
    _exponentials(R, at, K, out)


@inline
def finish(panels, common, out):
    """For rows of `panels` panels, from what `softmax` left in out (panels, 5, 32):

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
def weigh(R, at, K, scale, weight, norm, norm_at, masses, squares):
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


@helper
def write_resp(R, at, K, out, count, spare, resp, first):
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


@helper
def label_rows(R, at, K, base, common, best):
    """best (32,): the component with the largest logit, the first of equals; -1 where the background is larger."""
    for v in range(0, PANEL, LANES):
        top = sub(broadcast(base), load(common, v))
        index = broadcast(-1.0)
        for k in range(K):
            logit = load(R, at + k * PANEL + v)
            index = select_greater(logit, top, broadcast(float(k)), index)
            top = maximum(logit, top)
        store(index, best, v)


@stage
def pending(done, g, todo):
    """todo: panels from g on that are not done, as many as it has room for. Returns where it ended, and how many."""
    used = 0
    while g < done.shape[0] and used < todo.shape[0]:
        if done[g] == 0:
            todo[used] = g
            used += 1
        g += 1
    return g, used


@inline
def largest_norm(norm, at, count):
    """Largest of `count` norms from `at` on, a multiple of 32; NaN or infinity where one is not finite."""
    zero = broadcast(0.0)
    top = zero
    wrong = zero
    for b in range(at, at + count, LANES):
        a = load(norm, b)
        top = maximum(a, top)
        wrong = fma(a, zero, wrong)
    return highest(top) + total(wrong)


@inline
def within(narrow, radius):
    """Largest |z| for which the feature form is good to `TOLERANCE` for every component."""
    cutoff = np.inf
    for k in range(narrow.shape[0]):
        if narrow[k] > 0.0:
            cutoff = min(cutoff, np.sqrt(TOLERANCE / narrow[k]) - radius[k])
    return cutoff


@helper
def accurate(R, out, norm, at, weight, first, count, narrow, radius):
    """As `feature.accurate`, for `count` rows of one panel: exponentials R (K, 32), what `finish` left, norms at `at`.

    False where a row is not finite, too.
    """
    largest = largest_norm(norm, at, PANEL)
    if not largest < np.inf:
        return False
    cutoff = np.sqrt(largest)
    for k in range(narrow.shape[0]):
        if narrow[k] * (cutoff + radius[k]) ** 2 <= TOLERANCE:
            continue
        for b in range(count):
            error = narrow[k] * (np.sqrt(norm[at + b]) + radius[k]) ** 2
            if error <= TOLERANCE:
                continue
            if not error < 1.0:
                return False
            absent = weight.shape[0] > 0 and weight[first + b] == 0.0
            if R[k, b] * out[0, b] > 4e-18 and not absent:
                return False
    return True
