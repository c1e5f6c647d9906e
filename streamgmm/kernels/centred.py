"""Centred form: |U_k^T (z - mu_k)|^2 row by row. Twice the arithmetic of the feature form, and nothing cancels.

Takes the blocks that the feature form declined: narrow components, far rows; and finds the rows that are not finite.
"""

from __future__ import annotations

import numpy as np

from streamgmm._jit import inline, jit
from streamgmm.kernels.feature import FULL, TIED, lengths, softmax, whiten_block


@inline
def _project(triangular, z, count, mean, factor, centred, projected):
    """centred (D, B) = z - mean; projected = factor^T centred; both zero from `count` on."""
    D, B = z.shape
    for i in range(D):
        for b in range(count):
            centred[i, b] = z[i, b] - mean[i]
        for b in range(count, B):
            centred[i, b] = 0.0
    if triangular:
        for i in range(D):
            for b in range(B):
                projected[i, b] = 0.0
            for j in range(i + 1):
                u = factor[j, i]
                for b in range(B):
                    projected[i, b] += u * centred[j, b]
    else:
        for i in range(D):
            u = factor[i, 0]
            for b in range(B):
                projected[i, b] = u * centred[i, b]


@jit
def centred(
    family, rows, weight, shift, whiten, means, factor, const, base, block, done, logp, resp, label, mass, first_moment,
    second_moment, totals,
):  # fmt: skip
    """One E-step over the blocks of `rows` that are not done; returns the first row that is not finite, or -1.

    Parameters
    ----------
    family, rows, weight, shift, whiten, base, block, logp, resp, label, totals : as in `feature`
    means : (K, D)                                                        # IN
    factor : (K, D, D), (1, D, D) for TIED; (K, D, 1) for DIAG, SPHERICAL # IN
    const : (K,)                                                          # IN
    done : (ceil(n / block),) uint8                                       # INOUT set to 1 where the block was taken
    mass : (K,) or (0,)                                                   # INOUT += sum of w r
    first_moment : (K, D)                                                 # INOUT += sum of w r (z - mu_k)
    second_moment : (K, D, D), (1, D, D) for TIED, (K, D, 1)              # INOUT += sum of w r (z - mu_k)(z - mu_k)^T
    """
    n = rows.shape[0]
    K, D = means.shape
    triangular = family in (FULL, TIED)
    until = np.zeros(D, np.int64)
    lengths(whiten, shift.shape[0], until)
    z = np.zeros((D, block))
    logits = np.zeros((K, block))
    delta = np.zeros((D, block))
    projected = np.zeros((D, block))
    common = np.zeros(block)
    for g in range(done.shape[0]):
        if done[g] != 0:
            continue
        start = g * block
        count = min(block, n - start)
        largest = whiten_block(rows, start, count, shift, whiten, until, z)
        if not (largest < np.inf):
            for b in range(count):
                for i in range(rows.shape[1]):
                    if not np.isfinite(rows[start + b, i]):
                        return start + b
        done[g] = 1
        for k in range(K):
            _project(triangular, z, count, means[k], factor[0 if family == TIED else k], delta, projected)
            for b in range(count):
                s = 0.0
                for i in range(D):
                    s += projected[i, b] * projected[i, b]
                logits[k, b] = const[k] - 0.5 * s
        softmax(logits, start, count, weight, base, common, logp, resp, label, totals)
        if mass.shape[0] == 0:
            continue
        for k in range(K):
            _moments(triangular, logits[k], z, count, means[k], delta, projected)
            for b in range(count):
                mass[k] += logits[k, b]
            at = 0 if family == TIED else k
            for i in range(D):
                s = 0.0
                for b in range(count):
                    s += projected[i, b]
                first_moment[k, i] += s
                if triangular:
                    for j in range(i + 1):
                        s = 0.0
                        for b in range(count):
                            s += projected[i, b] * delta[j, b]
                        second_moment[at, i, j] += s
                        if j < i:
                            second_moment[at, j, i] += s
                else:
                    s = 0.0
                    for b in range(count):
                        s += projected[i, b] * delta[i, b]
                    second_moment[at, i, 0] += s
    return -1


@inline
def _moments(triangular, weight, z, count, mean, delta, weighted):
    """delta (D, B) = z - mean; weighted = weight * delta."""
    for i in range(z.shape[0]):
        for b in range(count):
            delta[i, b] = z[i, b] - mean[i]
            weighted[i, b] = weight[b] * delta[i, b]
