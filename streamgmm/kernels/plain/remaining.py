"""Rows that no form in the frame of a plan could take: done about each component's own mean."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels.plain.own_mean import Moments, Own, check_finite
from streamgmm.kernels.plan import Array, Plan

__all__ = ["complete"]


def complete(
    plan: Plan,
    rows: NDArray[Any],
    weight: Array | None,
    left: NDArray[np.int64],
    statistics: bool,
    outputs: tuple[Any, ...],
    totals: Array,
) -> Moments | None:
    """Take the rows `left`: answers (logp, resp, label) and totals in place, moments returned.

    A row without weight is no row, whatever it holds.

    Raises
    ------
    NonFiniteRowError
        At the first row with NaN or infinity.
    """
    logp, resp, label = outputs
    if weight is not None:
        left = left[weight[left] != 0.0]
    if not len(left):
        return None
    some = rows[left]
    check_finite(some, left)
    taken = (plan.own or _own_of(plan)).take(some, None if weight is None else weight[left], statistics=statistics)
    totals += taken.totals
    if logp is not None and len(logp):
        logp[left] = taken.logp
    if label is not None and len(label):
        label[left] = taken.label
    if resp is not None and len(resp):
        K = taken.resp.shape[1]
        resp[left, :K] = taken.resp
        resp[left, K:] = taken.rest[:, None]
    return taken.moments


def _own_of(plan: Plan) -> Own:
    """The components of a plan that was made by hand, in its frame."""
    into = plan.whiten[:, 0] if plan.whiten.shape[1] < len(plan.shift) else plan.whiten.T

    def move(rows: Array) -> Array:
        return (rows - plan.shift) * into if into.ndim == 1 else (rows - plan.shift) @ into

    unit = np.eye(len(plan.whiten)) if plan.factor.ndim == 3 else np.ones((len(plan.whiten), 1))
    return Own(plan.family, plan.means, plan.const, lambda: plan.factor, plan.base, unit, move)
