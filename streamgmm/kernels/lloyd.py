"""Lloyd's step: every row to its nearest centre, and the sums from which the next centres follow.

Per block of B rows, feature-major: scores = |c|^2 / 2 - C Z by one matrix product; the smallest of each column wins.
Nothing as long as the rows is kept but what is asked for.
"""

from __future__ import annotations

import numpy as np

from streamgmm.kernels._jit import inline, jit

BLOCK = 128


@inline
def _transpose(rows, start, count, shift, z, norm):
    """z (D, B) = rows - shift, norm (B,) = |z|^2; four features at a time, so that a row is read in few strides."""
    D = shift.shape[0]
    for b in range(norm.shape[0]):
        norm[b] = 0.0
    i = 0
    while i + 4 <= D:
        for b in range(count):
            v0 = rows[start + b, i] - shift[i]
            v1 = rows[start + b, i + 1] - shift[i + 1]
            v2 = rows[start + b, i + 2] - shift[i + 2]
            v3 = rows[start + b, i + 3] - shift[i + 3]
            z[i, b] = v0
            z[i + 1, b] = v1
            z[i + 2, b] = v2
            z[i + 3, b] = v3
            norm[b] += v0 * v0 + v1 * v1 + v2 * v2 + v3 * v3
        i += 4
    while i < D:
        for b in range(count):
            v0 = rows[start + b, i] - shift[i]
            z[i, b] = v0
            norm[b] += v0 * v0
        i += 1


@inline
def _expand(centres, shift, flipped, half):
    """flipped (K, D) = -(c - shift), half (K,) = |c - shift|^2 / 2."""
    for k in range(centres.shape[0]):
        half[k] = 0.0
        for i in range(shift.shape[0]):
            c = centres[k, i] - shift[i]
            flipped[k, i] = -c
            half[k] += 0.5 * c * c


@inline
def _nearest(scores, half, lowest, winner):
    """Smallest of scores (K, B) + half (K,) in each column, and its row, the first of equals."""
    for b in range(lowest.shape[0]):
        lowest[b] = scores[0, b] + half[0]
        winner[b] = 0
    for k in range(1, scores.shape[0]):
        h = half[k]
        for b in range(lowest.shape[0]):
            s = scores[k, b] + h
            closer = s < lowest[b]
            lowest[b] = s if closer else lowest[b]
            winner[b] = k if closer else winner[b]


@inline
def _add(rows, weight, shift, start, count, norm, lowest, winner, mass, first, totals):
    """Add `count` rows to the sums of their centres; returns the sums of w |x - shift|^2 and of w |x - centre|^2."""
    square = 0.0
    inertia = 0.0
    for b in range(count):
        row = start + b
        k = winner[b]
        w = 1.0
        if weight.shape[0] > 0:
            w = weight[row]
            totals[0] += w
            totals[1] += 1.0 if w > 0.0 else 0.0
        square += w * norm[b]
        inertia += w * (norm[b] + 2.0 * lowest[b])
        mass[k] += w
        for i in range(shift.shape[0]):
            first[k, i] += w * (rows[row, i] - shift[i])
    return square, inertia


@inline
def _first_bad(rows, start, count):
    """The first of `count` rows with NaN or infinity, or -1."""
    for row in range(start, start + count):
        for i in range(rows.shape[1]):
            if not np.isfinite(rows[row, i]):
                return row
    return -1


@inline
def _distances(rows, weight, centres, start, count, winner, distance):
    """Squared distances to the nearest centres from differences; returns their weighted sum."""
    inertia = 0.0
    for b in range(count):
        row = start + b
        k = winner[b]
        s = 0.0
        for i in range(centres.shape[1]):
            d = rows[row, i] - centres[k, i]
            s += d * d
        distance[row] = s
        inertia += s * weight[row] if weight.shape[0] > 0 else s
    return inertia


@jit
def lloyd(rows, weight, shift, centres, label, distance, mass, first, totals):
    """One pass of `rows` (n, D).

    Parameters
    ----------
    rows : (n, D) float32 or float64, read-only        # IN
    weight : (n,) float64 or (0,) for none              # IN
    shift : (D,) near the middle of the data            # IN
    centres : (K, D) in the units of the data           # IN
    label : (n,) int32 or (0,)                          # OUT nearest centre, the first of equals
    distance : (n,) or (0,)                             # OUT squared distance to it, not weighted
    mass : (K,)                                         # INOUT += sum of w
    first : (K, D)                                      # INOUT += sum of w (x - shift)
    totals : (4,)                                       # INOUT += sum of w, rows of positive weight, w |x - shift|^2,
                                                        #          w |x - centre|^2

    With `distance` the last total is taken from differences, in which nothing cancels; without, from the scores, where
    its error is about 1e-16 |x - shift|^2.

    Returns
    -------
    int
        The first row with NaN or infinity, or -1.
    """
    n, D = rows.shape
    K = centres.shape[0]
    flipped = np.empty((K, D))
    half = np.empty(K)
    _expand(centres, shift, flipped, half)
    z = np.zeros((D, BLOCK))
    norm = np.zeros(BLOCK)
    scores = np.zeros((K, BLOCK))
    lowest = np.zeros(BLOCK)
    winner = np.zeros(BLOCK, np.int64)
    for start in range(0, n, BLOCK):
        count = min(BLOCK, n - start)
        _transpose(rows, start, count, shift, z, norm)
        np.dot(flipped, z, scores)
        _nearest(scores, half, lowest, winner)
        square, inertia = _add(rows, weight, shift, start, count, norm, lowest, winner, mass, first, totals)
        if not np.isfinite(square):
            bad = _first_bad(rows, start, count)
            if bad >= 0:
                return bad
        if label.shape[0] > 0:
            for b in range(count):
                label[start + b] = winner[b]
        if distance.shape[0] > 0:
            inertia = _distances(rows, weight, centres, start, count, winner, distance)
        totals[2] += square
        totals[3] += inertia
    if weight.shape[0] == 0:
        totals[0] += n
        totals[1] += n
    return -1
