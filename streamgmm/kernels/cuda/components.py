"""Arithmetic of full covariances between two E-steps on a card: eight components side by side in a vector.

The host does it. What NumPy does in dozens of calls, each on many small matrices, takes as long as a card needs for
millions of rows; see `streamgmm.utils.by_component.compiled`. Matrices of eight components stand in scratch as
(D, D + 3, 8): four columns are made at a time, and the last ones may begin at the last column.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels._jit import bare_jit, inline
from streamgmm.kernels.plan import Array, read_only
from streamgmm.kernels.simd.intrinsics import LANES, broadcast, div, fma, load, mul, store, sub
from streamgmm.kernels.simd.scratch import zeros

__all__ = ["cholesky", "frames", "moved", "scatters"]

_FOUR = 4


class _Scratch(threading.local):
    """Arrays of a thread for matrices of one size. What is 0 in them at first, above diagonals and beyond the last
    column, stays so."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, list[Array]]] = {}

    def of(self, use: str, D: int, *shapes: tuple[int, ...]) -> list[Array]:
        found = self._held.get(use)
        if found is None or found[0] != D:
            found = self._held[use] = D, zeros(*shapes)
        return found[1]


_scratch = _Scratch()


def _square(D: int) -> tuple[int, ...]:
    """The shape of eight matrices in scratch."""
    return (D * (D + _FOUR - 1) * LANES,)


@inline
def _gather(source, first, K, D, out):
    """The lower triangles of eight matrices of `source` (K, D, D); the last one stands in for those beyond it."""
    for c in range(LANES):
        k = min(first + c, K - 1)
        for i in range(D):
            at = i * (D + _FOUR - 1) * LANES + c
            for j in range(i + 1):
                out[at] = source[k, i, j]
                at += LANES


@inline
def _products(a, at, step, b, place, count, width, out, to):
    """out[to + 8 j] = sum over n < count of a[at + n step] b[place + n width + 8 j], j < 4: vectors, times eight."""
    s = broadcast(0.0)
    t = broadcast(0.0)
    u = broadcast(0.0)
    v = broadcast(0.0)
    for _ in range(count):
        x = load(a, at)
        s = fma(x, load(b, place), s)
        t = fma(x, load(b, place + LANES), t)
        u = fma(x, load(b, place + 2 * LANES), u)
        v = fma(x, load(b, place + 3 * LANES), v)
        at += step
        place += width
    store(s, out, to)
    store(t, out, to + LANES)
    store(u, out, to + 2 * LANES)
    store(v, out, to + 3 * LANES)


@inline
def _spread_out(matrix, D, turned, out):
    """A lower triangle in all lanes, or what is on the other side of its diagonal."""
    for i in range(D):
        for j in range(i + 1):
            at = ((j * (D + _FOUR - 1) + i) if turned else (i * (D + _FOUR - 1) + j)) * LANES
            store(broadcast(matrix[i, j]), out, at)


@bare_jit
def _frames(whiten, factors, mu, upper, quadratic, linear, size, W, L, C, X, P, m, y):
    K, D = mu.shape
    width = (D + _FOUR - 1) * LANES
    _spread_out(whiten, D, False, W)
    for first in range(0, K, LANES):
        _gather(factors, first, K, D, L)
        for c in range(LANES):
            for i in range(D):
                m[i * LANES + c] = mu[min(first + c, K - 1), i]
        for i in range(D):  # C = whiten L, X = C^-1
            row = i * width
            for j in range(0, i + 1, _FOUR):
                _products(W, row + j * LANES, LANES, L, j * width + j * LANES, i + 1 - j, width, C, row + j * LANES)
            r = div(broadcast(1.0), load(C, row + i * LANES))
            for j in range(0, i, _FOUR):
                _products(C, row + j * LANES, LANES, X, j * width + j * LANES, i - j, width, X, row + j * LANES)
            minus = sub(broadcast(0.0), r)
            for j in range(i):
                store(mul(minus, load(X, row + j * LANES)), X, row + j * LANES)
            store(r, X, row + i * LANES)
            for j in range(i + 1, D + _FOUR - 1):
                store(broadcast(0.0), X, row + j * LANES)
        at = 0
        for i in range(D):  # P = X^T X, packed: what is written beyond the end of a row is written again
            for j in range(0, i + 1, _FOUR):
                diagonal = i * width + i * LANES
                _products(X, diagonal, width, X, i * width + j * LANES, D - i, width, P, at + j * LANES)
            at += (i + 1) * LANES
        norm = broadcast(0.0)
        at = 0
        for i in range(D):  # P mu, and the norm of P
            s = broadcast(0.0)
            for j in range(i):
                p = load(P, at)
                s = fma(p, load(m, j * LANES), s)
                store(fma(p, load(m, i * LANES), load(y, j * LANES)), y, j * LANES)
                norm = fma(mul(p, broadcast(2.0)), p, norm)
                at += LANES
            p = load(P, at)
            at += LANES
            norm = fma(p, p, norm)
            store(fma(p, load(m, i * LANES), s), y, i * LANES)
        store(norm, C, 0)
        for c in range(min(LANES, K - first)):
            k = first + c
            size[k] = np.sqrt(C[c])
            at = 0
            for i in range(D):
                linear[k, i] = y[i * LANES + c]
                for j in range(i + 1):
                    upper[k, i, j] = 0.0
                    upper[k, j, i] = X[i * width + j * LANES + c]
                    quadratic[k, at] = P[at * LANES + c] * (-0.5 if i == j else -1.0)
                    at += 1


def frames(
    whiten: Array, factors: Array, mu: Array, upper: Array, quadratic: Array, linear: Array, size: Array
) -> None:
    """Fill in what a plan holds of components, from their Cholesky factors (K, D, D).

    Parameters
    ----------
    whiten : (D, D), lower triangular
    mu : (K, D) means in the frame
    upper : (K, D, D) inverses of ``whiten @ factors``, transposed
    quadratic, linear : (K, D (D + 1) / 2), (K, D) coefficients of the log-densities
    size : (K,) norms of the precisions
    """
    D = mu.shape[1]
    triangle, row = ((D * (D + 1) // 2 + _FOUR) * LANES,), (D * LANES,)
    scratch = _scratch.of("frames", D, *[_square(D)] * 4, triangle, row, row)
    _frames(*map(read_only, (whiten, factors, mu)), upper, quadratic, linear, size, *scratch)


@bare_jit
def _cholesky(matrices, lower, good, A, U, s):
    K, D = matrices.shape[0], matrices.shape[1]
    width = (D + _FOUR - 1) * LANES
    for first in range(0, K, LANES):
        _gather(matrices, first, K, D, A)
        many = min(LANES, K - first)
        for c in range(many):
            good[first + c] = 1
        for i in range(D):  # row i of U, A = U^T U
            for j in range(i, D, _FOUR):
                _products(U, i * LANES, width, U, j * LANES, i, width, s, j * LANES)
            for j in range(i, D):
                store(sub(load(A, j * width + i * LANES), load(s, j * LANES)), U, i * width + j * LANES)
            pivot = i * width + i * LANES
            for c in range(LANES):
                if c < many and not 0.0 < U[pivot + c] < np.inf:
                    good[first + c] = 0
                U[pivot + c] = np.sqrt(U[pivot + c])
            for j in range(i + 1, D):
                at = i * width + j * LANES
                store(div(load(U, at), load(U, pivot)), U, at)
        for c in range(many):
            other = 0.0 if good[first + c] else np.nan
            for i in range(D):
                for j in range(i + 1):
                    lower[first + c, j, i] = other
                    lower[first + c, i, j] = U[j * width + i * LANES + c] if good[first + c] else np.nan


def cholesky(matrices: Array, lower: Array, good: NDArray[np.bool_]) -> None:
    """Fill in lower Cholesky factors of (K, D, D), and whether each exists; the others are NaN."""
    D = matrices.shape[1]
    scratch = _scratch.of("cholesky", D, _square(D), _square(D), ((D + _FOUR) * LANES,))
    _cholesky(read_only(matrices), lower, good.view(np.uint8), *scratch)


@bare_jit
def _moved(scatter, spread, out, W, turned, S, T):
    K, D = scatter.shape[0], scatter.shape[1]
    width = (D + _FOUR - 1) * LANES
    _spread_out(spread, D, False, W)
    _spread_out(spread, D, True, turned)
    for first in range(0, K, LANES):
        _gather(scatter, first, K, D, S)
        for i in range(D):
            for j in range(i):
                store(load(S, i * width + j * LANES), S, j * width + i * LANES)
        for i in range(D):  # T = spread S
            for j in range(0, D, _FOUR):
                _products(W, i * width, LANES, S, j * LANES, i + 1, width, T, i * width + j * LANES)
        for i in range(D):  # T spread^T
            for j in range(0, i + 1, _FOUR):
                _products(T, i * width, LANES, turned, j * LANES, min(j + _FOUR, D), width, S, i * width + j * LANES)
        for c in range(min(LANES, K - first)):
            for i in range(D):
                for j in range(i + 1):
                    out[first + c, i, j] = S[i * width + j * LANES + c]
                    out[first + c, j, i] = S[i * width + j * LANES + c]


def moved(scatter: Array, spread: Array, out: Array) -> None:
    """out = spread scatter spread^T, of symmetric (K, D, D) and a lower triangular spread (D, D)."""
    D = len(spread)
    _moved(read_only(scatter), read_only(spread), out, *_scratch.of("moved", D, *[_square(D)] * 4))


@bare_jit
def _scatters(feature, weight, mean, out):
    K, D = mean.shape
    for k in range(K):
        at = 0
        for i in range(D):
            u = weight[k] * mean[k, i]
            for j in range(i + 1):
                s = feature[k, at] - u * mean[k, j]
                out[k, i, j] = s
                out[k, j, i] = s
                at += 1


def scatters(feature: Array, weight: Array, mean: Array, out: Array) -> None:
    """out (K, D, D) = symmetric matrices packed in the first columns of `feature`, less weight mean mean^T."""
    _scatters(*map(read_only, (feature, weight, mean)), out)
