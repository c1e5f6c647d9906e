"""Feature form, plain: loops and `np.dot`. The reference for the hand-tiled kernels, and their stand-in.

Per block of B rows, feature-major: Z = whiten (x - shift), Phi (p x B), logits = coef Phi (K x B), responsibilities,
and sums += R Phi^T (K x p). See `Family` for phi.
"""

from __future__ import annotations

import math

import numpy as np

from streamgmm._jit import inline, jit

FULL, TIED, DIAG, SPHERICAL = 0, 1, 2, 3


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
def whiten_block(rows, first, count, shift, whiten, until, z):
    """Write the frame coordinates of rows[first : first + count] to z (D, B); return the largest |z|^2.

    The largest is NaN as soon as one entry is NaN or infinite (inf - inf), so a comparison with it finds bad rows.
    """
    largest = 0.0
    for b in range(count):
        norm = 0.0
        for i in range(z.shape[0]):
            if until[i] > 0:
                s = 0.0
                for j in range(until[i]):
                    s += whiten[i, j] * (rows[first + b, j] - shift[j])
            else:
                s = whiten[i, 0] * (rows[first + b, i] - shift[i])
            z[i, b] = s
            norm += s * s
        if not (norm <= largest):
            largest = norm if largest == largest else largest
    return largest


@inline
def features(family, z, count, phi):
    """Fill phi (p, B) from z (D, B); columns from `count` on are zero."""
    D, B = z.shape
    p = phi.shape[0]
    if family == FULL:
        q = 0
        for i in range(D):
            for j in range(i + 1):
                for b in range(count):
                    phi[q, b] = z[i, b] * z[j, b]
                q += 1
    elif family == DIAG:
        q = D
        for i in range(D):
            for b in range(count):
                phi[i, b] = z[i, b] * z[i, b]
    elif family == SPHERICAL:
        q = 1
        for b in range(count):
            phi[0, b] = 0.0
        for i in range(D):
            for b in range(count):
                phi[0, b] += z[i, b] * z[i, b]
    else:
        q = 0
    for i in range(D):
        for b in range(count):
            phi[q + i, b] = z[i, b]
    for b in range(count):
        phi[p - 1, b] = 1.0
    for b in range(count, B):
        for i in range(p):
            phi[i, b] = 0.0


@inline
def softmax(logits, first, count, weight, base, common, logp, resp, label, totals):
    """Turn logits (K, B) into weighted responsibilities in place, add to the totals, write what was asked for.

    totals: sum of w log p, of w entropy, of w log max r, of w, and the number of rows of positive weight.
    """
    K, B = logits.shape
    for b in range(count):
        row = first + b
        top = -math.inf
        best = 0
        for k in range(K):
            if logits[k, b] > top:
                top = logits[k, b]
                best = k
        base_b = base - common[b]
        if base_b > top:
            top = base_b
            best = -1
        if top == -math.inf:
            top = 0.0
        s = math.exp(base_b - top)
        h = s * (base_b - top) if s > 0.0 else 0.0
        for k in range(K):
            d = logits[k, b] - top
            e = math.exp(d)
            s += e
            if e > 0.0:
                h += e * d
            logits[k, b] = e
        log_s = math.log(s)
        w = weight[row] if weight.shape[0] > 0 else 1.0
        value = top + log_s + common[b]
        if w > 0.0:
            totals[0] += w * value
            totals[1] += w * (log_s - h / s)
            totals[2] -= w * log_s
            totals[3] += w
            totals[4] += 1.0
        scale = 1.0 / s
        if logp.shape[0] > 0:
            logp[row] = value
        if label.shape[0] > 0:
            label[row] = best
        if resp.shape[0] > 0:
            for k in range(K):
                resp[row, k] = logits[k, b] * scale
            if resp.shape[1] > K:
                resp[row, K] = math.exp(base_b - top) * scale
        scale *= w
        for k in range(K):
            logits[k, b] *= scale
    for b in range(count, B):
        for k in range(K):
            logits[k, b] = 0.0


TOLERANCE = 2e-9
"""Bound, in nats, on the error of a log-density above which a block is left to the centred form.

The bound eps |P| (|z| + |mu|)^2 was measured to be 5 to 20 times the largest error among 3000 rows (D = 2 to 63,
condition 10 to 1e7), so that the error itself stays below 1e-9."""


@inline
def accurate(resp, z, first, count, weight, largest, narrow, radius):
    """Whether the block is good to `TOLERANCE`, given its responsibilities (K, B), w included, and its largest |z|^2.

    A component too narrow for the block spoils it only where it is responsible for something: one that has collapsed
    onto a few rows must not cost all others their speed. It is ruled out below e^-40, of which its own error, less than
    a nat, is part.
    """
    reach = math.sqrt(largest)
    for k in range(narrow.shape[0]):
        if narrow[k] * (reach + radius[k]) ** 2 <= TOLERANCE:
            continue
        for b in range(count):
            norm = 0.0
            for i in range(z.shape[0]):
                norm += z[i, b] * z[i, b]
            error = narrow[k] * (math.sqrt(norm) + radius[k]) ** 2
            if error <= TOLERANCE:
                continue
            if not error < 1.0:
                return False
            if resp[k, b] > 4e-18 * (weight[first + b] if weight.shape[0] > 0 else 1.0):
                return False
    return True


@jit
def feature(
    family, rows, weight, shift, whiten, coef, base, narrow, radius, block, done, logp, resp, label, sums, quad, totals
):
    """One E-step over the blocks of `rows` for which the feature form is accurate.

    Parameters
    ----------
    family : int                                        # IN
    rows : (n, D) float32 or float64, read-only          # IN
    weight : (n,) float64 or (0,) for none               # IN
    shift, whiten, coef, base, narrow, radius            # IN, see `Plan`
    block : int                                          # IN  rows per entry of `done`
    done : (ceil(n / block),) uint8                      # INOUT 0: to do; set to 1 where the block was taken
    logp : (n,) or (0,)                                  # OUT log p(x)
    resp : (n, K), (n, K + 1) with a background, (0, 0)  # OUT responsibilities, not weighted
    label : (n,) int64 or (0,)                           # OUT argmax of the responsibilities, -1 the background
    sums : (K, p) or (0, 0) to leave out the statistics  # INOUT += sum of w r phi
    quad : (D (D + 1) / 2,) or (0,), TIED only           # INOUT += sum of w (1 - background) z z^T, packed i >= j
    totals : (5,)                                        # INOUT += see `softmax`
    """
    n = rows.shape[0]
    D = whiten.shape[0]
    K, p = coef.shape
    until = np.zeros(D, np.int64)
    lengths(whiten, shift.shape[0], until)
    z = np.zeros((D, block))
    phi = np.zeros((p, block))
    logits = np.zeros((K, block))
    common = np.zeros(block)
    before = np.zeros(totals.shape[0])
    part = np.zeros((K, p))
    for g in range(done.shape[0]):
        if done[g] != 0:
            continue
        first = g * block
        count = min(block, n - first)
        largest = whiten_block(rows, first, count, shift, whiten, until, z)
        if not largest < math.inf:
            continue
        features(family, z, count, phi)
        np.dot(coef, phi, logits)
        if family == TIED:
            for b in range(count):
                s = 0.0
                for i in range(D):
                    s += z[i, b] * z[i, b]
                common[b] = -0.5 * s
        before[:] = totals
        softmax(logits, first, count, weight, base, common, logp, resp, label, totals)
        if not accurate(logits, z, first, count, weight, largest, narrow, radius):
            totals[:] = before
            continue
        done[g] = 1
        if sums.shape[0] == 0:
            continue
        np.dot(logits, phi.T, part)
        for k in range(K):
            for q in range(p):
                sums[k, q] += part[k, q]
        if family == TIED:
            for b in range(count):
                s = 0.0
                for k in range(K):
                    s += logits[k, b]
                common[b] = s
            q = 0
            for i in range(D):
                for j in range(i + 1):
                    s = 0.0
                    for b in range(count):
                        s += common[b] * z[i, b] * z[j, b]
                    quad[q] += s
                    q += 1
