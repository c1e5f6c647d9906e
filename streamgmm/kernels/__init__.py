"""Compiled loops over bare arrays. `run` picks the form, block by block; nothing here knows a Python object."""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels.plan import Array, Family, Plan

__all__ = ["FORMS", "Array", "Family", "NonFiniteRowError", "Plan", "Sums", "form", "run", "warmup"]

FORMS = ("auto", "plain", "vector", "screened")
_log = logging.getLogger(__name__)
_PLAIN_BLOCK = 256
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


@cache
def _vectors_work(few: bool) -> bool:
    """Whether the hand-tiled form, that for few features or the other, compiles here: it wants 512-bit vectors."""
    try:
        import llvmlite.binding as llvm

        from streamgmm.kernels import vector
        from streamgmm.kernels.products import PANEL
    except Exception as error:  # whatever a foreign Numba or LLVM says, the plain form serves
        _log.info("Hand-tiled kernels are not available (%s): using the plain ones.", error)
        return False
    if not llvm.get_host_cpu_features().get("avx512f", False):
        _log.info("This processor has no 512-bit vectors: using the plain kernels.")
        return False
    try:
        _run_tiny(Family.SPHERICAL if few else Family.TIED, vector.dense, PANEL, np.float64)
    except Exception as error:
        _log.info("Hand-tiled kernels do not compile here (%s): using the plain ones.", error)
        return False
    return True


def form(family: Family = Family.TIED, D: int = 1) -> str:
    """The form in use for models of D features; the environment variable STREAMGMM_KERNELS forces one of `FORMS`.

    "plain" and "vector" take every row densely, "screened" screens wherever it can, "auto" where it pays.
    """
    asked = os.environ.get("STREAMGMM_KERNELS", "auto")
    if asked not in FORMS:
        raise ValueError(f"STREAMGMM_KERNELS must be one of {', '.join(FORMS)}; got {asked!r}.")
    if asked == "auto":
        from streamgmm.kernels.lanes import suits

        return asked if _vectors_work(suits(family, D)) else "plain"
    return asked


def _forms(chosen: str, n: int) -> tuple[Any, Any, int]:
    """The dense form, the centred one, and their rows per block."""
    if chosen != "plain":
        from streamgmm.kernels.centred_vector import centred_vector
        from streamgmm.kernels.products import PANEL
        from streamgmm.kernels.vector import dense

        return dense, centred_vector, PANEL
    from streamgmm.kernels.centred import centred
    from streamgmm.kernels.feature import feature

    return feature, centred, max(1, min(_PLAIN_BLOCK, n))


def _crowd(chosen: str, plan: Plan) -> float:
    """Part of all terms up to which the screened form is cheaper than the dense one; 0 where it is not to be tried."""
    if chosen == "screened":
        return 1.0 if plan.family == Family.FULL else 0.0
    if chosen == "auto":
        from streamgmm.kernels.screen import suits

        if suits(plan):
            return 0.3 if plan.whiten.shape[0] < 24 else 0.7
    return 0.0


def _run_tiny(family: Family, dense: Any, block: int, dtype: Any) -> None:
    """Call a dense form on one row of zeros, to compile it."""
    p = 3 if family in (Family.FULL, Family.DIAG, Family.SPHERICAL) else 2
    one = _read_only(np.ones((1, 1)))
    coef = _read_only(np.zeros((1, p)))
    done = np.zeros(1, np.uint8)
    rows = _read_only(np.zeros((1, 1), dtype))
    quad = np.zeros(1 if family == Family.TIED else 0)
    dense(
        int(family), rows, _read_only(_NONE), one[0], one, coef, -np.inf, one[0], one[0], block, done,
        _NONE, _NONE_2D, _NONE_INT, np.zeros((1, p)), quad, np.zeros(5),
    )  # fmt: skip


def warmup(dtypes: tuple[Any, ...] = (np.float64, np.float32)) -> None:
    """Compile every kernel for rows of the given types, or load it from the cache on disk."""
    none, one = np.zeros(1), np.ones((1, 1))
    D = 5
    many = Plan(
        Family.FULL, np.zeros(D), np.eye(D), np.zeros((1, 21)), np.zeros((1, D)), np.eye(D)[None], none, -np.inf, none,
        none,
    )  # fmt: skip
    for dtype in dtypes:
        rows = np.zeros((1, 1), dtype)
        for narrow in (0.0, np.inf):  # the feature form takes the block, the centred form takes it
            few = Plan(Family.DIAG, none, one, np.zeros((1, 3)), one, one, none, -np.inf, none + narrow, none)
            run(few, rows, None, statistics=True)
        for crowd in (0.0, 0.5, 1.0) if form() != "plain" else ():  # dense; asked first; screened
            run(many, np.zeros((1, D), dtype), None, statistics=True, crowd=crowd)


def run(
    plan: Plan,
    rows: NDArray[Any],
    weight: Array | None,
    *,
    statistics: bool,
    logp: Array | None = None,
    resp: Array | None = None,
    label: NDArray[np.int64] | None = None,
    crowd: float | None = None,
) -> Sums:
    """E-step over `rows` (n, F), F as in `Plan`: raw statistics, and whatever per-row output arrays are given.

    `crowd` is the part of all terms up to which a full covariance is screened; None decides by the form in use.

    Raises
    ------
    NonFiniteRowError
        At the first row with NaN or infinity.
    """
    n, D = len(rows), len(plan.whiten)
    K, p = plan.coef.shape
    rows = _read_only(rows)
    w = _read_only(_NONE if weight is None else weight)
    chosen = form(plan.family, D)
    dense, centred, block = _forms(chosen, n)
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
    crowd = _crowd(chosen, plan) if crowd is None else crowd
    dropped, left = 0.0, True
    if crowd > 0:
        from streamgmm.kernels.screen import crowded, reach_of, screen_of, suffices
        from streamgmm.kernels.screened import FAR, screened

        reach = reach_of(K)
        if crowd >= 1 or not crowded(rows, shift, whiten, coef, base, reach, crowd):
            screen = screen_of(plan)
            dropped = screened(
                rows, w, shift, whiten, coef, base, narrow, radius, const, screen.ways, screen.always, reach, crowd,
                done, *outputs, sums, totals,
            )  # fmt: skip
            left = not done.all()
    if left:  # the form has scratch of its own to fill
        dense(family, rows, w, shift, whiten, coef, base, narrow, radius, block, done, *outputs, sums, quad, totals)
    if crowd > 0:
        done[done == FAR] = 0
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
    if statistics and dropped > 0:
        mass = sums[:, -1] + (moments[0] if moments else 0.0)
        if not suffices(mass, screen.always, dropped):
            return run(plan, rows, weight, statistics=True, logp=logp, resp=resp, label=label, crowd=0.0)
    return Sums(sums, quad, (plan.means, *moments) if moments else None, totals)
