"""The E-step over bare arrays. `run` picks the form by the size of the pass; nothing here knows a Python object.

Small passes are done by NumPy (`reference`), all others by compiled loops, block by block: `screened` where few
components matter to a row, `vector` densely, `centred_vector` what these leave.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels.cuda.backend import is_device_array
from streamgmm.kernels.plain import reference
from streamgmm.kernels.plain.own_mean import complete
from streamgmm.kernels.plan import Array, Family, Plan, Sums, phi_length

__all__ = ["FORMS", "form", "in_all", "is_small", "ready", "run", "small", "warmup"]  # fmt: skip

FORMS = ("auto", "reference", "vector", "screened")
_OLD_NAMES = {"plain": "reference"}
_log = logging.getLogger(__name__)
_NONE = np.empty(0)
_NONE_INT = np.empty(0, np.int64)
_NONE_2D = np.empty((0, 0))
_NONE_3D = np.empty((0, 0, 0))

SMALL = 48e6
"""Size of a pass (see `small`) up to which the reference form is taken. It takes NumPy 10 to 15 ms, 8 to
12 ms more than compiled code; to import Numba and to load that code takes a second, to compile it half a minute. A fit
has some hundred passes, most of them over a sample."""
_rows_in_all: ContextVar[float | None] = ContextVar("rows_in_all", default=None)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only C-contiguous view: one layout, hence one compilation."""
    view = np.ascontiguousarray(array)[:]
    view.flags.writeable = False
    return view


# Which form ----------------------------------------------------------------------------------------------------------


def small(n_rows: float, K: int, p: int) -> bool:
    """Whether a pass over `n_rows` rows, with K components of p features, is not worth compiled code.

    Its size is n (K (p + 32) + 16 p), in quarters of a nanosecond: multiply-adds with K p numbers, 32 times as much for
    each responsibility and 16 times for each feature. Nothing else enters, so that a fit has the same form, and the
    same bits, however its rows are cut and wherever they are read.
    """
    return n_rows * (K * (p + 32) + 16 * p) <= SMALL


def in_all[T](n_rows: int | None, task: Callable[..., T], *arguments: Any) -> T:
    """``task(*arguments)``, a part of a pass over `n_rows` rows; None where nobody knows how many: then many.

    Without this the rows of each call count as all there are.
    """
    token = _rows_in_all.set(math.inf if n_rows is None else n_rows)
    try:
        return task(*arguments)
    finally:
        _rows_in_all.reset(token)


def is_small(n_rows: int, K: int, p: int) -> bool:
    """`small` for the pass that a call with `n_rows` rows is part of, unless a form is forced."""
    asked = _asked()
    if asked != "auto":
        return asked == "reference"
    in_all = _rows_in_all.get()
    return small(n_rows if in_all is None else in_all, K, p)


def _asked() -> str:
    asked = os.environ.get("STREAMGMM_KERNELS", "auto")
    asked = _OLD_NAMES.get(asked, asked)
    if asked not in FORMS:
        raise ValueError(f"STREAMGMM_KERNELS must be one of {', '.join(FORMS)}; got {asked!r}.")
    return asked


@cache
def _why_not(few: bool, dtype: str = "float64") -> str:
    """Why the hand-tiled form, that for few features or the other, does not run here; empty where it does."""
    try:
        from streamgmm.kernels.simd import dense as vector
        from streamgmm.kernels.simd.products import PANEL
    except Exception as error:  # whatever a foreign Numba or LLVM says, the reference form serves
        return f"they cannot be imported: {error}"
    try:
        _run_tiny(Family.SPHERICAL if few else Family.TIED, vector.dense, PANEL, np.dtype(dtype))
    except Exception as error:
        return f"they do not compile: {error}"
    return ""


def form(family: Family = Family.TIED, D: int = 1, dtype: Any = np.float64) -> str:
    """The form in use for large tables and models of D features; STREAMGMM_KERNELS in the environment forces one.

    "reference" is NumPy alone, "vector" takes every row densely, "screened" screens wherever it can, "auto" where it
    pays, and takes the reference form for tables that are `small`. ("plain" is an old name of "reference".)

    Raises
    ------
    ValueError
        Where the environment asks for what is not there, or cannot run on this processor.
    """
    asked = _asked()
    if asked == "reference":
        return asked
    reason = _why_not(D <= 4 and family != Family.TIED, np.dtype(dtype).name)
    if not reason:
        return asked
    if asked != "auto":
        raise ValueError(
            f'STREAMGMM_KERNELS={asked}: the hand-tiled kernels cannot run here ({reason}). Expected "auto" or '
            '"reference" on this machine; unset STREAMGMM_KERNELS.'
        )
    _say_once(reason)
    return "reference"


@cache
def _say_once(reason: str) -> None:
    _log.info("No hand-tiled kernels, %s: using the reference form, in NumPy, for tables of any size.", reason)


def _max_share(chosen: str, plan: Plan) -> float:
    """Part of all terms up to which the screened form is cheaper than the dense one; 0 where it is not to be tried."""
    if chosen == "screened":
        return 1.0 if plan.family == Family.FULL else 0.0
    if chosen == "auto":
        from streamgmm.kernels._target import shapes
        from streamgmm.kernels.simd.screening import suits

        if suits(plan):
            D = len(plan.whiten)
            return shapes().max_shares[0 if D < 24 else 1 if D < 48 else 2]
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
    """Compile every kernel of the E-step for rows of the given types, or load it from the cache on disk."""
    for dtype in dtypes:
        in_all(None, _compile, Family.DIAG, 1, 1, dtype, ())
        in_all(None, _compile, Family.FULL, 1, 5, dtype, (0.5, 1.0))


def ready(family: Family, K: int, D: int, dtype: Any, n_rows: int | None) -> None:
    """Compile, or load, what passes over at most `n_rows` rows may need; nothing where they are `small`."""
    if family == Family.FACTOR:
        return  # NumPy alone
    if n_rows is not None and in_all(n_rows, is_small, n_rows, K, phi_length(family, D)):
        return
    max_shares = (0.5, 1.0) if form(family, D, dtype) != "reference" and _suits_screening(family, K, D) else ()
    in_all(None, _compile, family, K, D, dtype, max_shares)


def _suits_screening(family: Family, K: int, D: int) -> bool:
    if _asked() == "vector":
        return False
    from streamgmm.kernels.simd.screening import suits

    return suits(_blank(family, K, D))


def _blank(family: Family, K: int, D: int) -> Plan:
    """A plan of the right shape."""
    triangular = family in (Family.FULL, Family.TIED)
    factor = np.ones((K, D))
    if triangular:
        factor = np.broadcast_to(np.eye(D), (K if family == Family.FULL else 1, D, D)).copy()
    coef, means, zeros = np.zeros((K, phi_length(family, D))), np.zeros((K, D)), np.zeros(K)
    whiten = np.eye(D) if triangular else np.ones((D, 1))
    return Plan(family, np.zeros(D), whiten, coef, means, factor, zeros, -np.inf, zeros, zeros)


def _compile(family: Family, K: int, D: int, dtype: Any, max_shares: tuple[float, ...]) -> None:
    if form(family, D, dtype) == "reference":
        return
    blank, row = _blank(family, K, D), np.zeros((1, D), dtype)
    for narrow in (0.0, np.inf):  # the feature form takes the row, the centred form takes it
        run(blank._replace(narrow=np.full(K, narrow)), row, None, statistics=True, max_share=0.0)
    for max_share in max_shares:  # it is asked whether to screen; it is screened
        run(blank, row, None, statistics=True, max_share=max_share)


def run(
    plan: Plan,
    rows: NDArray[Any],
    weight: Array | None,
    *,
    statistics: bool,
    logp: Array | None = None,
    resp: Array | None = None,
    label: NDArray[np.int64] | None = None,
    max_share: float | None = None,
) -> Sums:
    """E-step over `rows` (n, F), F as in `Plan`: raw statistics, and whatever per-row output arrays are given.

    `max_share` is the part of all terms up to which a full covariance is screened; None decides by the form in use.
    Rows on
    a graphics card are taken there, with outputs that lie there too.

    Raises
    ------
    NonFiniteRowError
        At the first row with NaN or infinity.
    """
    if is_device_array(rows):
        from streamgmm.kernels.cuda.form import run as run_on_card

        return run_on_card(plan, rows, weight, statistics=statistics, logp=logp, resp=resp, label=label, host=run)
    n, D = len(rows), len(plan.whiten)
    K, p = plan.coef.shape
    chosen = "reference" if max_share is None and is_small(n, K, p) else form(plan.family, D, rows.dtype)
    if chosen == "reference":
        return reference.run(plan, rows, weight, statistics=statistics, logp=logp, resp=resp, label=label)
    from streamgmm.kernels.simd.centred import centred_vector
    from streamgmm.kernels.simd.dense import dense
    from streamgmm.kernels.simd.products import PANEL

    rows = _read_only(rows)
    w = _read_only(_NONE if weight is None else weight)
    done = np.zeros(-(-n // PANEL), np.uint8)
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
    max_share = _max_share(chosen, plan) if max_share is None else max_share
    dropped, left = 0.0, True
    if max_share > 0:
        from streamgmm.kernels.simd.screened import CENTRED_ONLY, screened
        from streamgmm.kernels.simd.screening import cutoff_of, negligible, screen_of, too_dense

        cutoff = cutoff_of(K)
        if max_share >= 1 or not too_dense(rows, shift, whiten, coef, base, cutoff, max_share):
            screen = screen_of(plan)
            dropped = screened(
                rows, w, shift, whiten, coef, base, narrow, radius, const, screen.projections, screen.never_screened,
                cutoff, max_share,
                done, *outputs, sums, totals,
            )  # fmt: skip
            left = not done.all()
    if left:  # the form has scratch of its own to fill
        dense(family, rows, w, shift, whiten, coef, base, narrow, radius, PANEL, done, *outputs, sums, quad, totals)
    if max_share > 0:
        done[done == CENTRED_ONLY] = 0
    moments = None
    if not done.all():
        if factor.ndim == 2:
            factor = factor[:, :, None]
        if statistics:
            shape = factor.shape
            moments = np.zeros(K), np.zeros((K, D)), np.zeros(shape)
        mass, first, second = moments or (_NONE, _NONE_2D, _NONE_3D)
        centred_vector(
            family, rows, w, shift, whiten, means, factor, const, base, PANEL, done, *outputs, mass, first, second,
            totals,
        )  # fmt: skip
    own = None
    if not done.all():
        some = np.flatnonzero(np.repeat(done == 0, PANEL)[:n])
        own = complete(plan, rows, weight, some, statistics, outputs, totals)
    if statistics and dropped > 0:
        mass = sums[:, -1] + (moments[0] if moments else 0.0) + (own.mass if own else 0.0)
        if not negligible(mass, screen.never_screened, dropped):
            return run(plan, rows, weight, statistics=True, logp=logp, resp=resp, label=label, max_share=0.0)
    return Sums(sums, quad, (plan.means, *moments) if moments else None, totals, own)
