"""Triangular factors of symmetric matrices, as exact as they can be had."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["cholesky_or_none", "inverse_lower", "refined", "spread_of"]

Array = NDArray[np.float64]


def cholesky_or_none(matrices: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Lower Cholesky factors of (K, D, D) and a mask of those that exist; the others are NaN."""
    if np.isfinite(matrices).all():
        try:
            return np.linalg.cholesky(matrices), np.ones(len(matrices), bool)
        except np.linalg.LinAlgError:
            pass
    good = np.isfinite(matrices).all(axis=(1, 2))
    factors = np.full_like(matrices, np.nan)
    for k in np.flatnonzero(good):
        try:
            factors[k] = np.linalg.cholesky(matrices[k])
        except np.linalg.LinAlgError:
            good[k] = False
    return factors, good


def refined(matrices: Array, lower: Array) -> Array:
    """Cholesky factors (K, D, D), improved by one Newton step where they need it.

    A factor is right for a matrix that differs by rounding, which moves log-densities by eps times the condition number
    in every kernel alike. With the residual A - L L^T free of rounding errors (L cut into slices short enough for exact
    products, after Ozaki et al. 2012), one step leaves eps times its root: 2e-12 nats instead of 6e-10 at 1e8.
    """
    low = lower.diagonal(0, 1, 2) ** 2 < 0.01 * matrices.diagonal(0, 1, 2)
    if not low.any():
        return lower
    ill = low.any(axis=1)
    A, L = matrices[ill], lower[ill]
    D = L.shape[1]
    bits = (53 - max(1, (D - 1).bit_length())) // 2
    one, rest = _slice(L, bits)
    two, three = _slice(rest, bits)
    small = one @ two.swapaxes(1, 2)
    smaller = two @ two.swapaxes(1, 2) + one @ three.swapaxes(1, 2) + three @ one.swapaxes(1, 2)
    residual = ((A - one @ one.swapaxes(1, 2)) - (small + small.swapaxes(1, 2))) - smaller
    inverse = inverse_lower(L)
    step = np.tril(inverse @ residual @ inverse.swapaxes(1, 2))
    step[:, np.arange(D), np.arange(D)] *= 0.5
    out = lower.copy()
    # A step that is not small says that the matrix is singular to rounding; there is nothing to refine.
    small_step = (np.abs(step) < 0.1).all(axis=(1, 2))
    out[ill] = np.where(small_step[:, None, None], L + L @ step, L)
    return out


def _slice(matrices: Array, bits: int) -> tuple[Array, Array]:
    """The leading `bits` of every entry, counted from the largest of its row, and what is left; their sum is exact."""
    largest = np.abs(matrices).max(axis=2, keepdims=True)
    shifter = np.ldexp(0.75, np.frexp(largest)[1] + 54 - bits)
    head = (matrices + shifter) - shifter
    return head, matrices - head


def inverse_lower(lower: Array) -> Array:
    """Inverses of lower triangular (..., D, D)."""
    D = lower.shape[-1]
    if lower.ndim == 2:
        from scipy.linalg.lapack import dtrtri  # takes a fifth of a second, which a look at a model does not need

        return np.ascontiguousarray(dtrtri(lower, lower=1)[0])
    if D <= 2 * _BLOCK:
        return _substituted(lower)
    # Blocks of the diagonal first, then a row of blocks at a time. A call of LAPACK for each matrix would cost more
    # than its arithmetic, and hold Python's lock.
    cuts = [slice(i, min(i + _BLOCK, D)) for i in range(0, D, _BLOCK)]
    blocks = np.zeros((*lower.shape[:-2], len(cuts), _BLOCK, _BLOCK))
    blocks[..., _diagonal(_BLOCK), _diagonal(_BLOCK)] = 1.0
    for i, own in enumerate(cuts):
        size = own.stop - own.start
        blocks[..., i, :size, :size] = lower[..., own, own]
    blocks = _substituted(blocks)
    inverse = np.zeros_like(lower)
    for i, own in enumerate(cuts):
        size, before = own.stop - own.start, slice(0, own.start)
        block = inverse[..., own, own] = blocks[..., i, :size, :size]
        if i:
            inverse[..., own, before] = -block @ (lower[..., own, before] @ inverse[..., before, before])
    return inverse


_BLOCK = 8


def _substituted(lower: Array) -> Array:
    """Inverses of lower triangular (..., D, D) of few rows: forward substitution for all at once."""
    D = lower.shape[-1]
    inverse, minus = np.zeros_like(lower), -lower
    inverse[..., _diagonal(D), _diagonal(D)] = 1.0
    inverse[..., 0, 0] /= lower[..., 0, 0]
    for i in range(1, D):
        row = inverse[..., i : i + 1, : i + 1]
        row[..., :i] = minus[..., i : i + 1, :i] @ inverse[..., :i, :i]
        row /= lower[..., i : i + 1, i : i + 1]
    return inverse


@cache
def _diagonal(D: int) -> NDArray[np.intp]:
    return np.arange(D)


def spread_of(covariance: Array) -> Array:
    """A lower triangular factor of an overall covariance (D, D) that exists for every symmetric input.

    Any invertible factor is exact as a change of coordinates; where the covariance is singular (a constant or a
    collinear feature) a small ridge on the correlation scale, or scale 1, keeps it invertible.
    """
    scale = np.sqrt(np.maximum(covariance.diagonal(), 0.0))
    if not (scale.min() > 0 and scale.max() < np.inf):
        scale[~((scale > 0) & np.isfinite(scale))] = 1.0
    correlation = covariance / (scale[:, None] * scale)
    D = len(scale)
    correlation[_diagonal(D), _diagonal(D)] = 1.0
    for ridge in (0.0, 1e-14, 1e-12, 1e-10, 1e-8):
        lower, good = cholesky_or_none((correlation + ridge * np.eye(D) if ridge else correlation)[None])
        if good[0] and lower[0].diagonal().min() > 1e-7:
            return np.asarray(lower[0] * scale[:, None])
    return np.diag(scale)
