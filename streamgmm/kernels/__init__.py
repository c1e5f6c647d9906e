"""Compiled loops over bare arrays. `run` picks the form, block by block; nothing here knows a Python object."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels.plan import Array, Family, Plan

__all__ = ["Array", "Family", "NonFiniteRowError", "Plan", "Sums", "run"]

_BLOCK = 256
_NONE = np.empty(0)
_NONE_INT = np.empty(0, np.int64)
_NONE_2D = np.empty((0, 0))
_NONE_3D = np.empty((0, 0, 0))


class NonFiniteRowError(ValueError):
    """A row holds NaN or infinity; `row` is its position in the rows that were passed."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


class Sums(NamedTuple):
    """Raw sums of one run, in the frame of the plan; without statistics only the totals are filled."""

    feature: Array  # (K, p) sum of w r phi; zeros where no block took the feature form
    quad: Array  # (D (D + 1) / 2,) TIED: sum of w z z^T
    centred: tuple[Array, Array, Array, Array] | None  # mu_k; sum of w r, w r (z - mu_k), w r (z - mu_k)(z - mu_k)^T
    totals: Array  # (5,) sum of w log p, w entropy, w log max r, w; rows of positive weight


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only C-contiguous view: one layout, hence one compilation."""
    view = np.ascontiguousarray(array)[:]
    view.flags.writeable = False
    return view


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
    """E-step over `rows` (n, D): raw statistics, and whatever per-row output arrays are given.

    Raises
    ------
    NonFiniteRowError
        At the first row with NaN or infinity.
    """
    from streamgmm.kernels.centred import centred
    from streamgmm.kernels.feature import feature

    n, D = rows.shape
    K, p = plan.coef.shape
    rows = _read_only(rows)
    w = _read_only(_NONE if weight is None else weight)
    block = max(1, min(_BLOCK, n))
    done = np.zeros(-(-n // block), np.uint8)
    sums = np.zeros((K, p)) if statistics else _NONE_2D
    quad = np.zeros(D * (D + 1) // 2) if statistics and plan.family == Family.TIED else _NONE
    totals = np.zeros(5)
    logp = _NONE if logp is None else logp
    resp = _NONE_2D if resp is None else resp
    label = _NONE_INT if label is None else label
    arrays = (plan.shift, plan.whiten, plan.coef, plan.narrow, plan.radius, plan.means, plan.factor, plan.const)
    shift, whiten, coef, narrow, radius, means, factor, const = map(_read_only, arrays)
    family, base = int(plan.family), plan.base
    outputs = logp, resp, label
    feature(family, rows, w, shift, whiten, coef, base, narrow, radius, block, done, *outputs, sums, quad, totals)
    moments = None
    if not done.all():
        if factor.ndim == 2:
            factor = factor[:, :, None]
        if statistics:
            shape = factor.shape
            moments = np.zeros(K), np.zeros((K, D)), np.zeros(shape)
        bad = centred(
            family, rows, w, shift, whiten, means, factor, const, base, block, done, *outputs,
            *(moments or (_NONE, _NONE_2D, _NONE_3D)), totals,
        )  # fmt: skip
        if bad >= 0:
            raise NonFiniteRowError(bad)
    return Sums(sums, quad, (plan.means, *moments) if moments else None, totals)
