"""Log-densities in 50-digit arithmetic, from the very float64 parameters that the kernels get."""

from __future__ import annotations

import mpmath
import numpy as np

DIGITS = 50


def log_prob(model, rows):
    """log p(x) of each row, as mpmath numbers."""
    K, D = model.means.shape
    with mpmath.workdps(DIGITS):
        dense = model.family.dense(model.covariances, K, D)
        same = model.family.name == "tied"
        inverses, dets = [], []
        for k in range(1 if same else K):
            lower = mpmath.cholesky(mpmath.matrix(dense[k].tolist()))
            inverses.append(lower_inverse(lower))
            dets.append(mpmath.fsum(mpmath.log(lower[i, i]) for i in range(D)))
        out = []
        for row in np.asarray(rows, float).tolist():
            terms = []
            for k in range(K):
                inverse, det = inverses[0 if same else k], dets[0 if same else k]
                delta = [mpmath.mpf(x) - mpmath.mpf(m) for x, m in zip(row, model.means[k].tolist(), strict=True)]
                y = [mpmath.fdot(inverse[i][: i + 1], delta[: i + 1]) for i in range(D)]
                log_normal = -mpmath.fdot(y, y) / 2 - det - mpmath.mpf(D) / 2 * mpmath.log(2 * mpmath.pi)
                terms.append(mpmath.log(mpmath.mpf(model.weights[k].item())) + log_normal)
            top = max(terms)
            out.append(top + mpmath.log(mpmath.fsum(mpmath.exp(t - top) for t in terms)))
        return out


def lower_inverse(lower):
    """Rows of the inverse of a lower triangular matrix."""
    D = lower.rows
    inverse = [[mpmath.mpf(0)] * D for _ in range(D)]
    for i in range(D):
        inverse[i][i] = 1 / lower[i, i]
        for j in range(i):
            inverse[i][j] = -mpmath.fsum(lower[i, q] * inverse[q][j] for q in range(j, i)) / lower[i, i]
    return inverse


def errors(values, exact):
    """(N,) absolute differences, rounded to float64 only after the subtraction."""
    with mpmath.workdps(DIGITS):
        return np.array([float(abs(mpmath.mpf(float(v)) - e)) for v, e in zip(values, exact, strict=True)])
