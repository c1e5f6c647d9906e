"""The E-step in NumPy: the form that needs no compiler, and the twin that the hand-tiled forms are compared with.

It serves where a pass is so small that nobody should wait for compiled code (`streamgmm.kernels.dispatch.small`), and
where nothing else compiles. Rows are taken in blocks, features by rows (D, B), so that every step is one operation on
whole arrays.

Two formulas give the same logits. The *feature* form is one product of matrices, coef phi(z); its rounding grows with
|P| (|z| + |mu|)^2. The *centred* form takes |U_k^T (z - mu_k)|^2 component by component, and nothing cancels in it; it
takes the rows for which the first would be off by more than `TOLERANCE`, but for those that `own` has to take.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels.plain.own_mean import FAR_SQUARED
from streamgmm.kernels.plain.remaining import complete
from streamgmm.kernels.plan import TOLERANCE, Array, Family, Plan, Sums

_NUMBERS = 65_536
"""Numbers in the largest array of a block: half a megabyte, which stays in a core's cache."""
_MOST_ROWS, _LEAST_ROWS = 2048, 128
NEGLIGIBLE = 4e-18
"""Responsibility below which the error of a logit, of less than a nat, cannot matter."""
_LOWEST = -1e308  # of a logit: an infinite one times its share of 0 would be NaN


class Shares(NamedTuple):
    """Responsibilities and answers for a block of B rows, before the rows' weights."""

    resp: Array  # (K, B) responsibilities of the components
    rest: Array  # (B,) responsibility of the background
    label: NDArray[np.int64]  # (B,) most responsible component, the first of equals; -1 the background
    sums: Array  # (3, B) log p, entropy of the responsibilities, log of the largest of them


def run(
    plan: Plan,
    rows: NDArray[Any],
    weight: Array | None,
    *,
    statistics: bool,
    logp: Array | None = None,
    resp: Array | None = None,
    label: NDArray[np.int64] | None = None,
) -> Sums:
    """E-step over `rows` (n, F), with the arguments of `streamgmm.kernels.dispatch.run`.

    Raises
    ------
    NonFiniteRowError
        At the first row with NaN or infinity.
    """
    K, p = plan.coef.shape
    D = len(plan.whiten)
    sums, square, totals = np.zeros((K, p)), np.zeros((D, D)), np.zeros(5)
    phi = np.empty((p, 0))  # made for the first block, and for the last one, which is shorter
    best = label is not None
    moments: list[Array] = []  # of the centred form: empty where it took no row
    left: list[NDArray[np.int64]] = []  # rows beyond this frame
    for block in blocks(len(rows), max(K, p)):
        w = None if weight is None else weight[block]
        z = whitened(plan, rows[block])
        if phi.shape[1] != z.shape[1]:
            phi = np.empty((p, z.shape[1]))
        shares, far = feature_form(plan, z, phi, best)
        taken = shares.resp if w is None else shares.resp * w
        if far.any():
            index = np.flatnonzero(far)
            taken = np.where(far, 0.0, taken)
            z_far = whitened(plan, rows[block][index])
            phi[:, far] = z[:, far] = 0.0
            with np.errstate(over="ignore", invalid="ignore"):
                held = np.einsum("ib,ib->b", z_far, z_far) < FAR_SQUARED
            if not held.all():
                beyond = index[~held]
                left.append(block.start + beyond)
                w = np.ones(len(far)) if w is None else w.copy()
                w[beyond] = shares.sums[:, beyond] = 0.0
                index, z_far = index[held], np.ascontiguousarray(z_far[:, held])
            apart = softmax(centred_logits(plan, z_far), plan.base, best=best)
            if statistics:
                kept = apart.resp if w is None else apart.resp * w[index]
                found = centred_moments(plan, z_far, kept)
                moments = [a + b for a, b in zip(moments, found, strict=True)] if moments else list(found)
            for whole, part in zip(shares, apart, strict=True):
                whole[..., index] = part
        if statistics:
            sums += taken @ phi.T
            if plan.family == Family.TIED:
                square += (z * taken.sum(axis=0)) @ z.T
        _add_totals(totals, shares, w)
        if logp is not None:
            logp[block] = shares.sums[0]
        if label is not None:
            label[block] = shares.label
        if resp is not None:
            resp[block, :K] = shares.resp.T
            resp[block, K:] = shares.rest[:, None]
    quad = square[np.tril_indices(D)] if statistics and plan.family == Family.TIED else np.empty(0)
    centred = (plan.means, moments[0], moments[1], moments[2]) if moments else None
    own = None
    if left:
        own = complete(plan, rows, weight, np.concatenate(left), statistics, (logp, resp, label), totals)
    return Sums(sums if statistics else np.empty((0, 0)), quad, centred, totals, own)


def blocks(n: int, width: int) -> Iterator[slice]:
    """Slices of n rows; `width` numbers are kept of each row."""
    size = min(max(_NUMBERS // width // _LEAST_ROWS * _LEAST_ROWS, _LEAST_ROWS), _MOST_ROWS)
    return (slice(first, min(first + size, n)) for first in range(0, n, size))


def whitened(plan: Plan, rows: NDArray[Any]) -> Array:
    """z (D, B): the frame coordinates of rows (B, F)."""
    with np.errstate(over="ignore", invalid="ignore"):
        x = (rows - plan.shift).T
        scales = plan.whiten.shape[1] < len(plan.shift)  # one factor a feature: DIAG and SPHERICAL
        return np.ascontiguousarray(plan.whiten * x) if scales else plan.whiten @ x


def features(family: Family, z: Array, norm: Array, phi: Array) -> None:
    """Fill phi (p, B) from z (D, B) with norm = |z|^2: see `Family`."""
    D = len(z)
    q = 0
    if family == Family.FULL:
        for i in range(D):
            np.multiply(z[: i + 1], z[i], out=phi[q : q + i + 1])
            q += i + 1
    elif family == Family.DIAG:
        q = D
        np.multiply(z, z, out=phi[:q])
    elif family == Family.SPHERICAL:
        q = 1
        phi[0] = norm
    phi[q:-1] = z
    phi[-1] = 1.0


def feature_form(plan: Plan, z: Array, phi: Array, best: bool) -> tuple[Shares, NDArray[np.bool_]]:
    """The shares of all rows, and which rows (B,) have to be taken in the centred form instead; phi (p, B) is filled.

    best : whether the label is wanted
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of rows that are left to the centred form
        norm = np.einsum("ib,ib->b", z, z)
        features(plan.family, z, norm, phi)
        common = -0.5 * norm if plan.family == Family.TIED else None
        shares = softmax(plan.coef @ phi, plan.base, common, best=best)
        far = ~(norm < np.inf)
        return shares, far | _inaccurate(plan, shares.resp, np.sqrt(norm))


def _inaccurate(plan: Plan, resp: Array, cutoff: Array) -> NDArray[np.bool_]:
    """(B,) rows at |z| = reach whose log-density may be off by more than `TOLERANCE`.

    A component too narrow for a row spoils it only where it is responsible for something: one that has collapsed onto a
    few rows must not cost all others their speed. It is ruled out below e^-40, of which its own error, less than a nat,
    is part.
    """
    narrow = np.flatnonzero(~(plan.narrow * (cutoff.max(initial=0.0) + plan.radius) ** 2 <= TOLERANCE))
    if not len(narrow):
        return np.zeros(len(cutoff), np.bool_)
    error = plan.narrow[narrow, None] * (cutoff + plan.radius[narrow, None]) ** 2
    matters = ~(error < 1.0) | (resp[narrow] > NEGLIGIBLE)
    return np.asarray(((error > TOLERANCE) & matters).any(axis=0))


def softmax(logits: Array, base: float | Array, common: Array | None = None, *, best: bool) -> Shares:
    """Responsibilities and what else follows from logits (K, B), all but for a term `common` (B,) of each row.

    base : log-density of the background, its weight included, for all rows or each (B,); -inf for none
    best : whether the label is wanted
    """
    B = logits.shape[1]
    top = logits.max(axis=0)
    label = (logits == top).argmax(axis=0) if best else np.empty(B, np.int64)
    rest = np.zeros(B)
    noisy = bool(np.max(base, initial=-np.inf) > -np.inf)
    if noisy:
        rest = np.zeros(B) + base if common is None else base - common
        label[rest > top] = -1
        np.maximum(top, rest, out=top)
        rest -= top
    logits = logits - top
    resp = np.exp(logits)
    total = resp.sum(axis=0)
    entropy = np.einsum("kb,kb->b", resp, logits)
    if noisy:
        share = np.exp(rest)
        total += share
        entropy += share * rest
        rest = share / total
    resp /= total
    log_total = np.log(total)
    value = top + log_total if common is None else top + log_total + common
    return Shares(resp, rest, label, np.stack([value, log_total - entropy / total, -log_total]))


def _add_totals(totals: Array, shares: Shares, weight: Array | None) -> None:
    """totals (5,) += sums of w log p, w entropy, w log max r, w; rows of positive weight. Others are no rows at all."""
    if weight is None:
        totals[:3] += shares.sums.sum(axis=1)
        totals[3:] += shares.sums.shape[1]
    else:
        present = weight > 0
        totals[:3] += np.where(present, shares.sums * weight, 0.0).sum(axis=1)
        totals[3] += weight.sum()
        totals[4] += present.sum()


# The centred form -----------------------------------------------------------------------------------------------------


def centred_logits(plan: Plan, z: Array) -> Array:
    """(K, B) logits of z (D, B) from differences to each component's mean."""
    logits = np.empty((len(plan.means), z.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        for k, mean in enumerate(plan.means):
            y = _rooted(plan, k, z - mean[:, None])
            logits[k] = plan.const[k] - 0.5 * np.einsum("ib,ib->b", y, y)
    return np.maximum(logits, _LOWEST)


def _rooted(plan: Plan, k: int, delta: Array) -> Array:
    """U_k^T delta (D, B), of which the squared length is the squared Mahalanobis distance."""
    factor = plan.factor[0 if plan.family == Family.TIED else k]
    return factor[:, None] * delta if factor.ndim == 1 else factor.T @ delta


def centred_moments(plan: Plan, z: Array, resp: Array) -> tuple[Array, Array, Array]:
    """Sums over B rows of w r, w r (z - mu_k), w r (z - mu_k)(z - mu_k)^T, given w r as `resp` (K, B).

    (K,), (K, D), and (K, D, D) for FULL, (1, D, D) over all components for TIED, (K, D, 1) for DIAG and SPHERICAL.
    """
    first = np.empty(plan.means.shape)
    diagonal = plan.factor.ndim == 2
    second = np.zeros((*plan.factor.shape, 1) if diagonal else plan.factor.shape)
    for k, mean in enumerate(plan.means):
        delta = z - mean[:, None]
        weighted = resp[k] * delta
        first[k] = weighted.sum(axis=1)
        if diagonal:
            second[k, :, 0] = (weighted * delta).sum(axis=1)
        else:
            second[0 if plan.family == Family.TIED else k] += weighted @ delta.T
    return resp.sum(axis=1), first, second
