"""The E-step over bare arrays. `run` picks the form by the size of the pass; nothing here knows a Python object.

Small passes are done by NumPy (`reference`), all others by compiled loops, block by block: `screened` where few
components matter to a row, `vector` densely, `centred_vector` what these leave.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from contextvars import ContextVar, Token
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from streamgmm.kernels.cuda.backend import is_device_array
from streamgmm.kernels.plain import dropping, reference
from streamgmm.kernels.plain.remaining import complete
from streamgmm.kernels.plan import Array, Family, Plan, Sums, phi_length, read_only

if TYPE_CHECKING:
    from streamgmm.kernels.simd.screening import Screen

__all__ = ["FORMS", "form", "in_all", "is_small", "part_of_pass", "ready", "run", "small", "vectors", "warmup"]

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


# Which form ----------------------------------------------------------------------------------------------------------


def small(n_rows: float, K: int, p: int) -> bool:
    """Whether a pass over `n_rows` rows, with K components of p features, is not worth compiled code.

    Its size is n (K (p + 32) + 16 p), in quarters of a nanosecond: multiply-adds with K p numbers, 32 times as much for
    each responsibility and 16 times for each feature. Nothing else enters, so that a fit has the same form, and the
    same bits, however its rows are cut and wherever they are read.
    """
    return n_rows * (K * (p + 32) + 16 * p) <= SMALL


class part_of_pass:
    """Around work that is part of a pass over `n_rows` rows; None where nobody knows how many: then many.

    Without this the rows of each call count as all there are.
    """

    __slots__ = ("_n_rows", "_token")
    _token: Token[float | None]

    def __init__(self, n_rows: int | None) -> None:
        self._n_rows = math.inf if n_rows is None else n_rows

    def __enter__(self) -> None:
        self._token = _rows_in_all.set(self._n_rows)

    def __exit__(self, *_: object) -> None:
        _rows_in_all.reset(self._token)


def in_all[T](n_rows: int | None, task: Callable[..., T], *arguments: Any) -> T:
    """``task(*arguments)``, as `part_of_pass`: for tasks that executors send to other threads and processes."""
    with part_of_pass(n_rows):
        return task(*arguments)


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


def vectors() -> tuple[int, bool]:
    """Doubles in one vector of the target of the kernels, and whether it has a fused multiply-add."""
    from streamgmm.kernels._target import registers

    return registers()


def _for_few(family: Family, D: int, K: int) -> bool:
    """Whether models of this size have the hand-tiled form for few features."""
    try:
        from streamgmm.kernels.simd.few_features import suits
    except Exception:  # `_why_not` says it
        return False
    return suits(int(family), D, K)


def form(family: Family = Family.TIED, D: int = 1, dtype: DTypeLike = np.float64, K: int = 1) -> str:
    """The form in use for large tables and models of K components in D features; STREAMGMM_KERNELS forces one.

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
    reason = _why_not(_for_few(family, D, K), np.dtype(dtype).name)
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


def _run_tiny(family: Family, dense: Callable[..., None], block: int, dtype: DTypeLike) -> None:
    """Call a dense form on one row of zeros, to compile it."""
    p = 3 if family in (Family.FULL, Family.DIAG, Family.SPHERICAL) else 2
    one = read_only(np.ones((1, 1)))
    coefs = read_only(np.zeros((1, p, 2)))
    done = np.zeros(1, np.uint8)
    rows = read_only(np.zeros((1, 1), dtype))
    quad = np.zeros(1 if family == Family.TIED else 0)
    dense(
        int(family), rows, read_only(_NONE), one[0], one, coefs, -np.inf, one[0], one[0], block, done,
        _NONE, _NONE_2D, _NONE_INT, np.zeros((1, p)), quad, np.zeros(5),
    )  # fmt: skip


def warmup(dtypes: tuple[Any, ...] = (np.float64, np.float32)) -> None:
    """Compile every kernel of the E-step for rows of the given types, or load it from the cache on disk."""
    for dtype in dtypes:
        in_all(None, _compile, Family.DIAG, 1, 1, dtype, ())
        in_all(None, _compile, Family.FULL, 1, 9, dtype, (0.5, 1.0))


def ready(family: Family, K: int, D: int, dtype: DTypeLike, n_rows: int | None) -> None:
    """Compile, or load, what passes over at most `n_rows` rows may need; nothing where they are `small`."""
    if family == Family.FACTOR:
        return  # NumPy alone
    if n_rows is not None and in_all(n_rows, is_small, n_rows, K, phi_length(family, D)):
        return
    max_shares = (0.5, 1.0) if form(family, D, dtype, K) != "reference" and _suits_screening(family, K, D) else ()
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


def _compile(family: Family, K: int, D: int, dtype: DTypeLike, max_shares: tuple[float, ...]) -> None:
    if form(family, D, dtype, K) == "reference":
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
    Rows on a graphics card are taken there, with outputs that lie there too.

    Raises
    ------
    NonFiniteRowError
        At the first row with NaN or infinity.
    """
    if is_device_array(rows):
        from streamgmm.kernels.cuda.form import run as run_on_card

        return run_on_card(plan, rows, weight, statistics=statistics, logp=logp, resp=resp, label=label, host=run)
    K, p = plan.coef.shape
    chosen = "reference" if max_share is None and is_small(len(rows), K, p) else _form_of(plan, rows)
    if chosen == "reference":
        return reference.run(plan, rows, weight, statistics=statistics, logp=logp, resp=resp, label=label)
    call = _call(plan, rows, weight, statistics, (logp, resp, label))
    max_share = _max_share(chosen, plan) if max_share is None else max_share
    screen, dropped = _screened(plan, call, max_share) if max_share > 0 else (None, 0.0)
    moments = _dense(plan, call, statistics, screened=screen is not None)
    own = None
    if not call.done.all():
        from streamgmm.kernels.simd.products import PANEL

        some = np.flatnonzero(np.repeat(call.done == 0, PANEL)[: len(rows)])
        own = complete(plan, rows, weight, some, statistics, call.outputs, call.totals)
    if statistics and screen is not None and dropped > 0:
        mass = call.sums[:, -1] + (moments[0] if moments else 0.0) + (own.mass if own else 0.0)
        if not dropping.negligible(mass, screen.never_screened != 0, dropped):
            return run(plan, rows, weight, statistics=True, logp=logp, resp=resp, label=label, max_share=0.0)
    return Sums(call.sums, call.quad, (plan.means, *moments) if moments else None, call.totals, own)


def _form_of(plan: Plan, rows: NDArray[Any]) -> str:
    return form(plan.family, len(plan.whiten), rows.dtype, len(plan.coef))


class _Call(NamedTuple):
    """Arrays that the compiled forms share in one run: arrays to read, read-only, and arrays to fill in."""

    rows: NDArray[Any]
    weight: Array
    done: NDArray[np.uint8]  # panel by panel: which forms are through with it
    outputs: tuple[Array, Array, NDArray[np.int64]]  # logp, resp, label; empty where not wanted
    sums: Array
    quad: Array
    totals: Array
    shift: Array
    whiten: Array
    coefs: Array
    narrow: Array
    radius: Array


def _call(
    plan: Plan,
    rows: NDArray[Any],
    weight: Array | None,
    statistics: bool,
    outputs: tuple[Array | None, Array | None, NDArray[np.int64] | None],
) -> _Call:
    from streamgmm.kernels.simd.products import PANEL, grouped_coefficients

    D = len(plan.whiten)
    logp, resp, label = outputs
    fixed = (plan.shift, plan.whiten, grouped_coefficients(plan), plan.narrow, plan.radius)
    return _Call(
        read_only(rows),
        read_only(_NONE if weight is None else weight),
        np.zeros(-(-len(rows) // PANEL), np.uint8),
        (_NONE if logp is None else logp, _NONE_2D if resp is None else resp, _NONE_INT if label is None else label),
        np.zeros(plan.coef.shape) if statistics else _NONE_2D,
        np.zeros(D * (D + 1) // 2) if statistics and plan.family == Family.TIED else _NONE,
        np.zeros(5),
        *map(read_only, fixed),
    )


def _screened(plan: Plan, call: _Call, max_share: float) -> tuple[Screen | None, float]:
    """The screened form, and what may have been dropped of a mass; no screen where too many components matter."""
    from streamgmm.kernels.simd.screened import screened
    from streamgmm.kernels.simd.screening import screen_of, too_dense

    K = len(plan.coef)
    cutoff = dropping.cutoff_of(K)
    if max_share < 1 and too_dense(call.rows, call.shift, call.whiten, call.coefs, K, plan.base, cutoff, max_share):
        return None, 0.0
    screen = screen_of(plan)
    dropped = screened(
        call.rows, call.weight, call.shift, call.whiten, read_only(plan.coef), call.coefs, plan.base, call.narrow,
        call.radius, read_only(plan.const), screen.projections, screen.lean, screen.never_screened, cutoff, max_share,
        call.done, *call.outputs, call.sums, call.totals,
    )  # fmt: skip
    return screen, dropped


def _dense(plan: Plan, call: _Call, statistics: bool, *, screened: bool) -> tuple[Array, Array, Array] | None:
    """The dense form for panels that are left, then the centred form for those that it may not take; its moments."""
    from streamgmm.kernels.simd.centred import centred_vector
    from streamgmm.kernels.simd.dense import dense
    from streamgmm.kernels.simd.products import PANEL

    family = int(plan.family)
    if not (screened and call.done.all()):  # the form has scratch of its own to fill
        dense(
            family, call.rows, call.weight, call.shift, call.whiten, call.coefs, plan.base, call.narrow, call.radius,
            PANEL, call.done, *call.outputs, call.sums, call.quad, call.totals,
        )  # fmt: skip
    if screened:
        from streamgmm.kernels.simd.screened import CENTRED_ONLY

        call.done[call.done == CENTRED_ONLY] = 0
    if call.done.all():
        return None
    factor = plan.factor[:, :, None] if plan.factor.ndim == 2 else plan.factor
    moments = (np.zeros(len(plan.coef)), np.zeros(plan.means.shape), np.zeros(factor.shape)) if statistics else None
    means, factor, const = map(read_only, (plan.means, factor, plan.const))
    centred_vector(
        family, call.rows, call.weight, call.shift, call.whiten, means, factor, const, plan.base, PANEL, call.done,
        *call.outputs, *(moments or (_NONE, _NONE_2D, _NONE_3D)), call.totals,
    )  # fmt: skip
    return moments
