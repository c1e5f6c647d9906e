"""Whether rows are screened, and what that needs beside the plan; the form itself is `screened`."""

from __future__ import annotations

import numpy as np

from streamgmm.kernels._jit import bare_jit
from streamgmm.kernels.family import Rows
from streamgmm.kernels.plain.dropping import light
from streamgmm.kernels.plan import Array, Family, Plan
from streamgmm.kernels.simd.bounds import tile_components, ways_of
from streamgmm.kernels.simd.intrinsics import LANES, append_where, broadcast, load, maximum, sub
from streamgmm.kernels.simd.made_once import made_once
from streamgmm.kernels.simd.panels import frame, lengths
from streamgmm.kernels.simd.products import PANEL, START, STRIP, logits_of_products
from streamgmm.kernels.simd.scratch import rounded, zeros

_PROBE = 4
"""Panels of a call that tell whether the dense form is the better one for it."""


def suits(plan: Plan) -> bool:
    """Whether the form exists for the plan and can be worth having."""
    K, D = plan.means.shape
    return plan.family == Family.FULL and D >= 12 and K >= 6


class Screen:
    """Arrays that the screened form needs beside the plan."""

    def __init__(self, plan: Plan) -> None:
        K, D = plan.means.shape
        d = ways_of(D)
        upper = plan.factor
        seen = np.einsum("kij,ki->kj", upper, plan.means)
        # Where rows of the whole mixture, of mean 0 and covariance 1 in the frame, lie farthest from the component.
        scatter = np.swapaxes(upper, 1, 2) @ upper + seen[:, :, None] * seen[:, None, :]
        projections = upper @ _leading(scatter, min(D, d))  # (K, D, d)
        offset = np.einsum("kd,kdj->kj", plan.means, projections)
        whole = rounded(K, tile_components(D))
        self.projections = np.zeros((whole, d, D + 1), np.float32)
        self.projections[:K, : projections.shape[2], :D] = np.swapaxes(projections, 1, 2)
        self.projections[:K, : projections.shape[2], D] = -offset
        self.projections = self.projections.reshape(whole * d, D + 1)
        self.never_screened = light(plan).astype(np.uint8)
        # What lies across all projections, if rows were as far from the mean in every direction. In 63 dimensions a
        # bound alone names a component that is, in the middle, 150 nats below the best: 47 % of all terms were then
        # thought to matter, with this 36 %, and 32 % if the best were known.
        across = np.einsum("kij,kij->k", upper, upper) - np.einsum("kdj,kdj->k", projections, projections)
        self.lean = -0.5 / D * np.maximum(across, 0.0)
        for array in (self.projections, self.never_screened, self.lean):
            array.flags.writeable = False


def _leading(matrices: Array, d: int) -> Array:
    """(K, D, d) orthonormal columns near the leading eigenvectors of symmetric (K, D, D): subspace iteration.

    How near matters for speed only: any orthonormal columns give a valid bound.
    """
    D = matrices.shape[1]
    start = np.argsort(-np.diagonal(matrices, axis1=1, axis2=2), axis=1, kind="stable")[:, :d]
    columns = np.take_along_axis(matrices, start[:, None, :].repeat(D, axis=1), axis=2)
    for _ in range(4):
        columns = matrices @ (matrices @ np.linalg.qr(columns)[0])
    return np.asarray(np.linalg.qr(columns)[0])


screen_of = made_once(Screen)
"""The screen of a plan, made once for all its chunks."""


@bare_jit
def _matter(rows, shift, whiten, coefs, base, cutoff, until, x, z, norm, phi, R, spare):
    """Terms within `cutoff` nats of their row's best, among the first rows: as many as R (u, K, 32) has room for."""
    n = rows.shape[0]
    D = whiten.shape[0]
    K = R.shape[1]
    lengths(whiten, shift.shape[0], until)
    found = 0
    for u in range(R.shape[0]):
        frame(rows, u * PANEL, n - 1, shift, whiten, until, x, z, START, norm, START)
        logits_of_products(coefs, z, START, D, phi, R[u])
        for v in range(u * K * PANEL, u * K * PANEL + PANEL, LANES):
            top = broadcast(base)
            for i in range(v, v + K * PANEL, PANEL):
                top = maximum(load(R, i), top)
            top = sub(top, broadcast(cutoff))
            for i in range(v, v + K * PANEL, PANEL):
                found += append_where(load(R, i), top, 0, spare, 0)
    return found


def too_dense(
    rows: Rows, shift: Array, whiten: Array, coefs: Array, K: int, base: float, cutoff: float, max_share: float
) -> bool:
    """Whether, as the first rows have it, more than a part `max_share` of all terms matters: see `screened.screened`.

    Asked before anything is made ready for screening, which costs more than this.
    """
    D = len(whiten)
    D8, panels = rounded(D, LANES), min(_PROBE, rounded(len(rows), PANEL) // PANEL)
    x, z, norm, phi, R = zeros(
        (rounded(len(shift), LANES), PANEL), (1, D8, PANEL), (PANEL,), (STRIP + D8, PANEL), (panels, K, PANEL)
    )
    until, spare = np.zeros(D, np.int64), np.zeros(LANES, np.int64)
    found = _matter(rows, shift, whiten, coefs, base, cutoff, until, x, z, norm, phi, R, spare)
    return bool(found > max_share * R.size)
