"""The E-step in NumPy: the form that needs no compiler, and the twin that the hand-tiled forms are compared with.

It serves where a pass is so small that nobody should wait for compiled code (`streamgmm.kernels.dispatch.small`), and
where nothing else compiles. Rows are taken in blocks, features by rows (D, B), so that every step is one operation on
whole arrays.

Two formulas give the same logits. The *feature* form is one product of matrices, coef phi(z); its rounding grows with
|P| (|z| + |mu|)^2. The *centred* form takes |U_k^T (z - mu_k)|^2 component by component, and nothing cancels in it; it
takes, after all blocks, the rows for which the first would be off by more than `TOLERANCE`, but for those that `own`
has to take.
"""

from __future__ import annotations

import math
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
_SMALLEST = -690.0
"""Difference to the largest logit, in nats, from which down a responsibility is 0; in compiled forms it is -708.
Arithmetic with denormal numbers, and exponentials that underflow, take up to a hundred times as long as others."""
_LOWEST = -1e308  # of a logit: an infinite one times its share of 0 would be NaN


class Shares(NamedTuple):
    """Responsibilities and answers for a block of B rows, before the rows' weights."""

    resp: Array  # (K, B) responsibilities of the components
    rest: Array  # (B,) responsibility of the background
    label: NDArray[np.int64]  # (B,) most responsible component, the first of equals; -1 the background
    sums: Array  # (3, B) log p, entropy of the responsibilities, log of the largest of them

    def add_totals(self, totals: Array, weight: Array | None, n: int | None = None) -> None:
        """Add to totals (5,) the sums of w log p, w entropy, w log max r and w, and the rows of positive weight.

        weight : (B,) weights w of the rows; None where all are 1
        n : number of rows that count where `weight` is None; B if None
        """
        if weight is None:
            totals[:3] += self.sums.sum(axis=1)
            totals[3:] += self.sums.shape[1] if n is None else n
            return
        present = weight > 0
        totals[:3] += np.where(present, self.sums * weight, 0.0).sum(axis=1)
        totals[3] += weight.sum()
        totals[4] += present.sum()

    def answer(
        self,
        at: slice | NDArray[np.int64],
        logp: Array | None,
        resp: Array | None,
        label: NDArray[np.int64] | None,
    ) -> None:
        """Write the answers for the rows `at` into the outputs that are wanted."""
        K = len(self.resp)
        if logp is not None:
            logp[at] = self.sums[0]
        if label is not None:
            label[at] = self.label
        if resp is not None:
            resp[at, :K] = self.resp.T
            resp[at, K:] = self.rest[:, None]


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
    outputs = logp, resp, label
    inaccurate: list[NDArray[np.int64]] = []
    for block in blocks(len(rows), max(K, p)):
        w = None if weight is None else weight[block]
        z = whitened(plan, rows[block])
        if phi.shape[1] != z.shape[1]:
            phi = np.empty((p, z.shape[1]))
        shares, far = feature_form(plan, z, phi, best=label is not None)
        n = z.shape[1]
        if far is not None:
            index = np.flatnonzero(far)
            n -= len(index)
            inaccurate.append(block.start + index)
            shares.resp[:, index] = shares.sums[:, index] = phi[:, index] = z[:, index] = 0.0
            w = None if w is None else np.where(far, 0.0, w)
        if statistics:
            taken = shares.resp if w is None else shares.resp * w
            sums += taken @ phi.T
            if plan.family == Family.TIED:
                square += (z * taken.sum(axis=0)) @ z.T
        shares.add_totals(totals, w, n)
        shares.answer(block, *outputs)
    quad = square[np.tril_indices(D)] if statistics and plan.family == Family.TIED else np.empty(0)
    moments, own = None, None
    if inaccurate:
        moments, left = _centred(plan, rows, weight, np.concatenate(inaccurate), statistics, outputs, totals)
        if len(left):
            own = complete(plan, rows, weight, left, statistics, outputs, totals)
    return Sums(sums if statistics else np.empty((0, 0)), quad, moments, totals, own)


def blocks(n: int, width: int, least: int = _LEAST_ROWS) -> Iterator[slice]:
    """Slices of n rows, `least` or a multiple of it; `width` numbers are kept of each row."""
    size = min(max(_NUMBERS // width // least * least, least), _MOST_ROWS)
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


def feature_form(plan: Plan, z: Array, phi: Array, best: bool) -> tuple[Shares, NDArray[np.bool_] | None]:
    """The shares of all rows, and which rows (B,) have to be taken in the centred form instead, None where it is none.

    phi (p, B) is filled.

    best : whether the label is wanted
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of rows that are left to the centred form
        norm = np.einsum("ib,ib->b", z, z)
        features(plan.family, z, norm, phi)
        common = -0.5 * norm if plan.family == Family.TIED else None
        shares = softmax(plan.coef @ phi, plan.base, common, best=best)
        return shares, _inaccurate(plan, shares.resp, norm)


def _inaccurate(plan: Plan, resp: Array, norm: Array) -> NDArray[np.bool_] | None:
    """(B,) rows with |z|^2 = `norm` whose log-density may be off by more than `TOLERANCE`; None where it is none.

    A component too narrow for a row spoils it only where it is responsible for something: one that has collapsed onto a
    few rows must not cost all others their speed. It is ruled out below e^-40, of which its own error, less than a nat,
    is part.
    """
    reach = math.sqrt(norm.max())
    narrow = np.flatnonzero(~(plan.narrow * (reach + plan.radius) ** 2 <= TOLERANCE))
    if not len(narrow):  # nor is any norm infinite or NaN
        return None
    cutoff = np.sqrt(norm)
    error = plan.narrow[narrow, None] * (cutoff + plan.radius[narrow, None]) ** 2
    matters = ~(error < 1.0) | (resp[narrow] > NEGLIGIBLE)
    found = ((error > TOLERANCE) & matters).any(axis=0) | ~(norm < np.inf)
    return np.asarray(found) if found.any() else None


def softmax(logits: Array, base: float | Array, common: Array | None = None, *, best: bool) -> Shares:
    """Responsibilities and what else follows from logits (K, B), all but for a term `common` (B,) of each row.

    The logits are overwritten.

    base : log-density of the background, its weight included, for all rows or each (B,); -inf for none
    best : whether the label is wanted
    """
    B = logits.shape[1]
    top = logits.max(axis=0)
    label = (logits == top).argmax(axis=0) if best else np.empty(B, np.int64)
    rest = np.zeros(B)
    noisy = base > -np.inf if isinstance(base, float) else bool(np.max(base, initial=-np.inf) > -np.inf)
    if noisy:
        rest = np.zeros(B) + base if common is None else base - common
        label[rest > top] = -1
        np.maximum(top, rest, out=top)
        rest -= top
    logits -= top
    np.maximum(logits, _SMALLEST, out=logits)
    resp = np.exp(logits)
    np.putmask(resp, logits == _SMALLEST, 0.0)
    total = resp.sum(axis=0)
    entropy = np.einsum("kb,kb->b", resp, logits)
    if noisy:
        share = np.exp(rest)
        total += share
        entropy += share * rest
        rest = share / total
    resp /= total
    sums = np.empty((3, B))
    log_total = np.log(total)
    np.add(top, log_total, out=sums[0])
    if common is not None:
        sums[0] += common
    entropy /= total
    np.subtract(log_total, entropy, out=sums[1])
    np.negative(log_total, out=sums[2])
    return Shares(resp, rest, label, sums)


# The centred form -----------------------------------------------------------------------------------------------------


def _centred(
    plan: Plan,
    rows: NDArray[Any],
    weight: Array | None,
    index: NDArray[np.int64],
    statistics: bool,
    outputs: tuple[Any, ...],
    totals: Array,
) -> tuple[tuple[Array, Array, Array, Array] | None, NDArray[np.int64]]:
    """Take the rows `index`: answers and totals in place; moments about `plan.means`, and rows beyond this frame."""
    found: list[tuple[Array, Array, Array]] = []
    left: list[NDArray[np.int64]] = []
    for block in blocks(len(index), plan.means.size, least=8):
        here = index[block]
        z = whitened(plan, rows[here])
        with np.errstate(over="ignore", invalid="ignore"):
            held = np.einsum("ib,ib->b", z, z) < FAR_SQUARED
        if not held.all():
            left.append(here[~held])
            here, z = here[held], np.ascontiguousarray(z[:, held])
        w = None if weight is None else weight[here]
        delta = z - plan.means[:, :, None]
        shares = softmax(centred_logits(plan, delta), plan.base, best=outputs[2] is not None)
        if statistics:
            found.append(centred_moments(plan, delta, shares.resp if w is None else shares.resp * w))
        shares.add_totals(totals, w)
        shares.answer(here, *outputs)
    moments = None
    if found:
        mass, first, second = (sum(parts[1:], start=parts[0]) for parts in zip(*found, strict=True))
        moments = plan.means, mass, first, second
    return moments, np.concatenate(left) if left else np.empty(0, np.int64)


def centred_logits(plan: Plan, delta: Array) -> Array:
    """(K, B) logits of rows from their differences to each component's mean, delta (K, D, B)."""
    factor = plan.factor
    with np.errstate(over="ignore", invalid="ignore"):
        # U_k^T delta, of which the squared length is the squared Mahalanobis distance.
        y = factor[:, :, None] * delta if factor.ndim == 2 else factor.swapaxes(1, 2) @ delta
        logits = plan.const[:, None] - 0.5 * np.einsum("kib,kib->kb", y, y)
    return np.maximum(logits, _LOWEST)


def centred_moments(plan: Plan, delta: Array, resp: Array) -> tuple[Array, Array, Array]:
    """Sums over B rows of w r, w r (z - mu_k), w r (z - mu_k)(z - mu_k)^T, given w r as `resp` (K, B).

    (K,), (K, D), and (K, D, D) for FULL, (1, D, D) over all components for TIED, (K, D, 1) for DIAG and SPHERICAL.
    """
    weighted = resp[:, None, :] * delta
    if plan.factor.ndim == 2:
        second = np.einsum("kib,kib->ki", weighted, delta)[:, :, None]
    else:
        second = weighted @ delta.swapaxes(1, 2)
        if plan.family == Family.TIED:
            second = second.sum(axis=0, keepdims=True)
    return resp.sum(axis=1), weighted.sum(axis=2), second
