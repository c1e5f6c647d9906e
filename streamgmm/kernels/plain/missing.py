"""Rows with missing entries, in NumPy: what `streamgmm.kernels.missing` does, for tables not worth compiled code.

Nothing is moved to the front: with o the observed features of a row, A = Sigma where both indices are in o, and the
identity elsewhere, the Cholesky factor L of A holds that of Sigma_oo, and with delta = 0 where nothing was observed

    log N(x_o) = -|L^-1 delta|^2 / 2 - sum_o log L_ii - d/2 log 2 pi,
    E[x - mu] = delta + T W delta,    Cov[x] = Sigma - T T^T on the missing features,

where W = L^-1 and T = Sigma W^T, in W of the observed features and in T's rows of the missing ones alone. So patterns
differ by masks, and many are taken at a time.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import NonFiniteRowError
from streamgmm.kernels.plain.reference import softmax
from streamgmm.kernels.plan import Array

_LOG_2PI = math.log(2 * math.pi)
_NUMBERS = 250_000
"""Numbers that matrices of one component, a pattern each, may have at a time."""
_LOST = 1e-15
"""Part of a variance that a pivot lost to rounding keeps."""


class Given(NamedTuple):
    """One component, given what a block of B rows shows."""

    logit: Array  # (B,) log N(x_o)
    delta: Array  # (B, D) E[x] - mu
    hidden: Array  # (B,) entropy of the missing features, in nats
    spread: Array  # (G, D, D) Cov[x] under each of G patterns, or (B, D) variances of each row


def group(rows: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers (n,), pattern by pattern of NaN, ascending within each, and where each of G patterns begins (G + 1,).

    Patterns come in the order in which they are met first.
    """
    first, pattern = _patterns(np.isnan(rows))
    order = np.argsort(first, kind="stable")
    number = np.empty(len(first), np.int64)
    number[order] = np.arange(len(first))
    starts = np.concatenate([[0], np.cumsum(np.bincount(number[pattern], minlength=len(first)))])
    return np.argsort(number[pattern], kind="stable"), starts


def _patterns(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first row of each kind of row (G,), and the kind of every row (n,)."""
    _, first, kind = np.unique(np.packbits(mask, axis=1), axis=0, return_index=True, return_inverse=True)
    return first, kind.reshape(-1)


def missing(
    rows: Array,
    weight: Array | None,
    log_weights: Array,
    means: Array,
    covariances: Array,
    log_noise: float,
    box: Array | None,
    *,
    statistics: bool,
    logp: Array | None = None,
    resp: Array | None = None,
    label: NDArray[np.int64] | None = None,
    filled: Array | None = None,
) -> tuple[tuple[Array, Array, Array], Array]:
    """One E-step over rows (n, D), none without an observed entry; those of one pattern should follow each other.

    Parameters
    ----------
    covariances : (K, D, D), (1, D, D) for TIED; (K, D, 1) variances
    log_noise : log weight of the background, -inf for none; box (2, D) its corners
    logp, resp, label, filled : outputs, each wanted or None

    Returns
    -------
    mass (K,), first moments (K, D) and second moments (like `covariances`) about `means`, and totals (5,). The entropy
    in these includes that of the missing features where statistics are taken.

    Raises
    ------
    NonFiniteRowError
        At the first row with infinity.
    """
    K, D = means.shape
    mass, first, second, totals = np.zeros(K), np.zeros((K, D)), np.zeros(covariances.shape), np.zeros(5)
    dense = covariances.shape[2] > 1 or D == 1
    size = int(np.clip(_NUMBERS // (D * D if dense else D), 16, 4096))
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        x = rows[block]
        if np.isinf(x).any():
            raise NonFiniteRowError(start + int(np.isinf(x).any(axis=1).argmax()))
        w = np.ones(len(x)) if weight is None else weight[block]
        shown = ~np.isnan(x)
        kinds = _patterns(shown)
        base: Array | float = -np.inf
        ranges = np.zeros(D) if box is None else np.log(box[1] - box[0])
        if log_noise > -np.inf:
            base = log_noise - shown @ ranges
        parts = [
            _dense(x, shown, kinds, means[k], covariances[k % len(covariances)])
            if dense
            else _diagonal(x, shown, means[k], covariances[k, :, 0])
            for k in range(K)
        ]
        shares = softmax(np.stack([part.logit for part in parts]) + log_weights[:, None], base, best=label is not None)
        shares.add_totals(totals, w)
        shares.answer(block, logp, resp, label)
        if filled is not None:
            guess = np.zeros(x.shape) if box is None else shares.rest[:, None] * box.mean(axis=0)
            for k, part in enumerate(parts):
                guess += shares.resp[k, :, None] * (means[k] + part.delta)
            filled[block] = np.where(shown, x, guess)
        if not statistics:
            continue
        totals[1] += (w * shares.rest) @ (~shown @ ranges)
        for k, part in enumerate(parts):
            wr = shares.resp[k] * w
            mass[k] += wr.sum()
            totals[1] += wr @ part.hidden
            first[k] += wr @ part.delta
            if dense:
                share = np.bincount(kinds[1], wr, len(part.spread))
                second[k % len(second)] += (wr[:, None] * part.delta).T @ part.delta
                second[k % len(second)] += np.tensordot(share, part.spread, 1)
            else:
                second[k, :, 0] += wr @ (part.delta**2 + part.spread)
    return (mass, first, second), totals


def _diagonal(x: Array, shown: NDArray[np.bool_], mean: Array, variance: Array) -> Given:
    delta = np.where(shown, x - mean, 0.0)
    logs = 0.5 * np.log(variance)
    logit = -0.5 * (delta**2 @ (1.0 / variance)) - shown @ (logs + 0.5 * _LOG_2PI)
    hidden = ~shown @ (logs + 0.5 * (1.0 + _LOG_2PI))
    return Given(logit, delta, hidden, np.where(shown, 0.0, variance))


def _dense(
    x: Array, shown: NDArray[np.bool_], kinds: tuple[NDArray[np.int64], NDArray[np.int64]], mean: Array, sigma: Array
) -> Given:
    D = len(mean)
    o = shown[kinds[0]]  # (G, D)
    both = o[:, :, None] & o[:, None, :]
    lower = cholesky(np.where(both, sigma, np.eye(D)))
    inverse = np.where(both, _inverse(lower), 0.0)
    across = np.where(o[:, :, None], 0.0, sigma @ np.swapaxes(inverse, 1, 2))
    hide = ~o[:, :, None] & ~o[:, None, :]
    spread = np.where(hide, sigma - across @ np.swapaxes(across, 1, 2), 0.0)
    log_det = np.where(o, np.log(np.diagonal(lower, axis1=1, axis2=2)), 0.0).sum(axis=1)
    d = o.sum(axis=1)
    rest = np.log(np.diagonal(cholesky(sigma[None])[0])).sum() - log_det
    const = -log_det - 0.5 * d * _LOG_2PI
    hidden = rest + 0.5 * (D - d) * (1.0 + _LOG_2PI)
    delta = np.where(shown, x - mean, 0.0)
    g = kinds[1]
    y = np.einsum("bij,bj->bi", inverse[g], delta)
    delta += np.einsum("bij,bj->bi", across[g], y)
    return Given(const[g] - 0.5 * np.einsum("bi,bi->b", y, y), delta, hidden[g], spread)


def cholesky(matrices: Array) -> Array:
    """Lower Cholesky factors of (G, D, D); a pivot lost to rounding becomes a tiny one."""
    lower = np.zeros(matrices.shape)
    for i in range(matrices.shape[1]):
        row = lower[:, i, :i]
        variance = matrices[:, i, i]
        pivot = np.maximum(variance - np.einsum("gj,gj->g", row, row), _LOST * variance)
        lower[:, i, i] = np.sqrt(pivot)
        below = matrices[:, i + 1 :, i] - np.einsum("gij,gj->gi", lower[:, i + 1 :, :i], row)
        lower[:, i + 1 :, i] = below / lower[:, i, i, None]
    return lower


def _inverse(lower: Array) -> Array:
    """Inverses of lower triangular (G, D, D)."""
    inverse = np.zeros(lower.shape)
    for i in range(lower.shape[1]):
        inverse[:, i] = -np.einsum("gj,gjk->gk", lower[:, i, :i], inverse[:, :i])
        inverse[:, i, i] += 1.0
        inverse[:, i] /= lower[:, i, i, None]
    return inverse
