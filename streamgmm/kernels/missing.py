"""Rows with missing entries (NaN): grouping by pattern, and the centred form given only what was observed.

Under missing at random, the row's observed part o decides its responsibilities, and the missing part m enters the
statistics by its conditional moments: with L the Cholesky factor of the covariance after the observed features were
moved to the front, L = [[Loo, 0], [G, M]], and y = Loo^-1 (x_o - mu_o),

    log N(x_o) = -|y|^2 / 2 - log det Loo - D_o/2 log 2 pi,    E[x_m] = mu_m + G y,    Cov[x_m] = M M^T.
"""

from __future__ import annotations

import math

import numpy as np

from streamgmm.kernels._jit import inline, jit
from streamgmm.kernels.plan import FULL, TIED

_LOG_2PI = math.log(2 * math.pi)


@jit
def group(rows, order, starts, table):
    """Sort the rows by their pattern of NaN; patterns come in the order in which they are met first.

    Parameters
    ----------
    rows : (n, D)                           # IN
    order : (n,) int64                      # OUT row numbers, pattern by pattern, ascending within each
    starts : (n + 1,) int64                 # OUT where each pattern begins in `order`, and where the last one ends
    table : (power of two >= 2 n,) int64    # IN filled with -1

    Returns
    -------
    The number of patterns.
    """
    n, D = rows.shape
    pattern = np.empty(n, np.int64)
    first = np.empty(n, np.int64)
    slots = np.uint64(table.shape[0] - 1)
    found = 0
    for r in range(n):
        key = np.uint64(0)
        word = np.uint64(0)
        for i in range(D):
            word = (word << np.uint64(1)) | np.uint64(rows[r, i] != rows[r, i])
            if i % 64 == 63 or i == D - 1:
                key = (key ^ word) * np.uint64(0x9E3779B97F4A7C15)
                key ^= key >> np.uint64(29)
                word = np.uint64(0)
        slot = key & slots
        while True:
            g = table[slot]
            if g < 0:
                table[slot] = g = found
                first[found] = r
                starts[found + 1] = 0
                found += 1
                break
            same = True
            for i in range(D):
                if (rows[r, i] != rows[r, i]) != (rows[first[g], i] != rows[first[g], i]):
                    same = False
                    break
            if same:
                break
            slot = (slot + np.uint64(1)) & slots
        pattern[r] = g
        starts[g + 1] += 1
    starts[0] = 0
    for g in range(found):
        starts[g + 1] += starts[g]
        first[g] = starts[g]
    for r in range(n):
        order[first[pattern[r]]] = r
        first[pattern[r]] += 1
    return found


@jit
def gather(rows, index, features, out):
    """out (m, d) float64 = rows[index][:, features]."""
    for b in range(index.shape[0]):
        for i in range(features.shape[0]):
            out[b, i] = rows[index[b], features[i]]


@inline
def _cholesky(matrix, perm, lower):
    """lower = Cholesky factor of matrix[perm][:, perm]; a pivot lost to rounding becomes a tiny one."""
    D = perm.shape[0]
    for i in range(D):
        for j in range(i + 1):
            s = matrix[perm[i], perm[j]]
            for q in range(j):
                s -= lower[i, q] * lower[j, q]
            if i == j:
                lower[i, i] = math.sqrt(max(s, 1e-15 * matrix[perm[i], perm[i]]))
            else:
                lower[i, j] = s / lower[j, j]


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


@inline
def _observed_first(rows, row, perm):
    """perm (D,) = features of one pattern, observed ones first, both parts ascending; returns how many those are."""
    seen = 0
    for i in range(perm.shape[0]):
        if rows[row, i] == rows[row, i]:
            perm[seen] = i
            seen += 1
    unseen = seen
    for i in range(perm.shape[0]):
        if rows[row, i] != rows[row, i]:
            perm[unseen] = i
            unseen += 1
    return seen


@inline
def _background(log_noise, box, perm, seen):
    """Log-density of the background over the observed features, its weight included."""
    base = log_noise
    if log_noise > -math.inf:
        for i in range(seen):
            base -= math.log(box[1, perm[i]] - box[0, perm[i]])
    return base


@inline
def _constants(family, log_weights, covariances, perm, seen, lower, const):
    """const (K,): the part of each logit that all rows of a pattern share; lower: factors of its covariances."""
    triangular = family in (FULL, TIED)
    if triangular:
        for f in range(covariances.shape[0]):
            _cholesky(covariances[f], perm, lower[f])
    for k in range(const.shape[0]):
        const[k] = log_weights[k] - 0.5 * seen * _LOG_2PI
        for i in range(seen):
            if triangular:
                const[k] -= math.log(lower[0 if family == TIED else k, i, i])
            else:
                const[k] -= 0.5 * math.log(covariances[k, perm[i], 0])


@inline
def _first_infinite(rows, start, count, perm, seen):
    """The first of `count` rows with infinity, or -1."""
    for b in range(count):
        for i in range(seen):
            if not abs(rows[start + b, perm[i]]) < math.inf:
                return start + b
    return -1


@inline
def _logits(family, rows, start, count, perm, seen, means, covariances, lower, const, y, logits):
    """y (K, D, B): whitened observed features of `count` rows; logits (K, B)."""
    triangular = family in (FULL, TIED)
    for k in range(means.shape[0]):
        low = lower[0 if family == TIED or not triangular else k]
        for b in range(count):
            logits[k, b] = const[k]
        for i in range(seen):
            for b in range(count):
                y[k, i, b] = rows[start + b, perm[i]] - means[k, perm[i]]
            if triangular:
                for j in range(i):
                    for b in range(count):
                        y[k, i, b] -= low[i, j] * y[k, j, b]
                scale = 1.0 / low[i, i]
            else:
                scale = 1.0 / math.sqrt(covariances[k, perm[i], 0])
            for b in range(count):
                y[k, i, b] *= scale
                logits[k, b] -= 0.5 * y[k, i, b] * y[k, i, b]


@inline
def _fill_background(rows, start, count, perm, seen, logits, log_noise, box, filled):
    """Observed entries as they are; missing ones begin with the share of the background in its middle."""
    for b in range(count):
        rest = 1.0
        for k in range(logits.shape[0]):
            rest -= logits[k, b]
        for i in range(seen):
            filled[start + b, perm[i]] = rows[start + b, perm[i]]
        for i in range(seen, perm.shape[0]):
            filled[start + b, perm[i]] = 0.0
            if log_noise > -math.inf:
                filled[start + b, perm[i]] = rest * 0.5 * (box[0, perm[i]] + box[1, perm[i]])


@inline
def _expected(family, k, rows, start, count, perm, seen, means, low, y, delta):
    """delta (D, B): expected features of `count` rows under component k, less its mean, in the order of the pattern."""
    triangular = family in (FULL, TIED)
    for i in range(perm.shape[0]):
        for b in range(count):
            delta[i, b] = rows[start + b, perm[i]] - means[k, perm[i]] if i < seen else 0.0
        if triangular and i >= seen:
            for j in range(seen):
                for b in range(count):
                    delta[i, b] += low[i, j] * y[k, j, b]


@inline
def _hidden_entropy(family, k, covariances, low, perm, seen):
    """Entropy of the missing features under component k, given the observed ones, in nats."""
    D = perm.shape[0]
    triangular = family in (FULL, TIED)
    hidden = 0.5 * (D - seen) * (1.0 + _LOG_2PI)
    for i in range(seen, D):
        hidden += math.log(low[i, i]) if triangular else 0.5 * math.log(covariances[k, perm[i], 0])
    return hidden


@inline
def _add_moments(family, k, count, perm, seen, covariances, low, logits, delta, total, first_moment, second_moment):
    """Add the moments of `count` rows about the mean of component k, in which they have `total` rows."""
    at = 0 if family == TIED else k
    triangular = family in (FULL, TIED)
    for i in range(perm.shape[0]):
        s = 0.0
        for b in range(count):
            s += logits[k, b] * delta[i, b]
        first_moment[k, perm[i]] += s
        if not triangular:
            s = 0.0
            for b in range(count):
                s += logits[k, b] * delta[i, b] * delta[i, b]
            if i >= seen:
                s = total * covariances[k, perm[i], 0]
            second_moment[k, perm[i], 0] += s
            continue
        for j in range(i + 1):
            s = 0.0
            for b in range(count):
                s += logits[k, b] * delta[i, b] * delta[j, b]
            if j >= seen:
                for q in range(seen, j + 1):
                    s += total * low[i, q] * low[j, q]
            second_moment[at, perm[i], perm[j]] += s
            if j < i:
                second_moment[at, perm[j], perm[i]] += s


@jit
def missing(
    family, rows, weight, starts, log_weights, means, covariances, log_noise, box, block, logp, resp, label, filled,
    mass, first_moment, second_moment, totals,
):  # fmt: skip
    """One E-step over rows that are sorted by pattern; returns the first row with infinity, or -1.

    Parameters
    ----------
    family, weight, logp, resp, label, totals : as in `vector.dense`
    rows : (n, D), no row without an observed entry                       # IN
    starts : (G + 1,) where each pattern begins                           # IN
    log_weights : (K,), means : (K, D)                                    # IN in the units of the data
    covariances : (K, D, D), (1, D, D) for TIED; (K, D, 1) variances      # IN
    log_noise : log weight of the background, -inf for none               # IN
    box : (2, D) its corners, or (0, 0)                                   # IN
    block : int                                                           # IN  rows handled together
    filled : (n, D) or (0, 0)                                             # OUT missing entries, by conditional mean
    mass, first_moment, second_moment : as in `centred_vector`, in the units of the data, about `means`    # INOUT
    The entropy in `totals` includes that of the missing parts where statistics are taken.
    """
    D = rows.shape[1]
    K = means.shape[0]
    triangular = family in (FULL, TIED)
    statistics = mass.shape[0] > 0
    lower = np.zeros((covariances.shape[0], D, D)) if triangular else np.zeros((1, 1, 1))
    perm = np.empty(D, np.int64)
    const = np.empty(K)
    y = np.empty((K, D, block))
    delta = np.empty((D, block))
    logits = np.zeros((K, block))
    common = np.zeros(block)
    for g in range(starts.shape[0] - 1):
        seen = _observed_first(rows, starts[g], perm)
        base = _background(log_noise, box, perm, seen)
        _constants(family, log_weights, covariances, perm, seen, lower, const)
        for start in range(starts[g], starts[g + 1], block):
            count = min(block, starts[g + 1] - start)
            bad = _first_infinite(rows, start, count, perm, seen)
            if bad >= 0:
                return bad
            _logits(family, rows, start, count, perm, seen, means, covariances, lower, const, y, logits)
            softmax(logits, start, count, weight, base, common, logp, resp, label, totals)
            if not statistics and filled.shape[0] == 0:
                continue
            if filled.shape[0] > 0:
                _fill_background(rows, start, count, perm, seen, logits, log_noise, box, filled)
            rest = 0.0
            if statistics and log_noise > -math.inf:
                for b in range(count):
                    rest += weight[start + b] if weight.shape[0] > 0 else 1.0
            for k in range(K):
                low = lower[k if family == FULL else 0]
                _expected(family, k, rows, start, count, perm, seen, means, low, y, delta)
                if filled.shape[0] > 0:
                    for i in range(seen, D):
                        for b in range(count):
                            filled[start + b, perm[i]] += logits[k, b] * (means[k, perm[i]] + delta[i, b])
                if not statistics:
                    continue
                total = 0.0
                for b in range(count):
                    total += logits[k, b]
                mass[k] += total
                rest -= total
                totals[1] += total * _hidden_entropy(family, k, covariances, low, perm, seen)
                _add_moments(
                    family, k, count, perm, seen, covariances, low, logits, delta, total, first_moment, second_moment
                )
            if statistics and log_noise > -math.inf:
                for i in range(seen, D):
                    totals[1] += rest * math.log(box[1, perm[i]] - box[0, perm[i]])
    return -1
