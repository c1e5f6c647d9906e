"""The E-step over rows on a card: `run`, with the arguments and the result of `streamgmm.kernels.dispatch.run`.

Two forms. *Fused*: one kernel does everything and only sums leave the multiprocessors; it serves where coefficients
and sums fit one. *Products*: features of a batch in memory, a product of matrices, softmax, and another product, or
sums of the few pairs that matter (`sparse`); it serves everywhere else, and for answers row by row. Both are the
feature form of the E-step (see `streamgmm.kernels.plain.reference`). Rows for which that is not accurate enough, and
rows that are not finite, are left out, fetched, and taken by the host.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import NonFiniteRowError
from streamgmm.kernels.cuda import layout
from streamgmm.kernels.cuda.backend import Backend, backend_of
from streamgmm.kernels.cuda.base import DeviceArray
from streamgmm.kernels.cuda.layout import TOTALS, Shape
from streamgmm.kernels.cuda.products import products
from streamgmm.kernels.cuda.products import scratch_bytes as scratch_of_products
from streamgmm.kernels.cuda.results import BOUNDS, THREADS, TYPES, Answers, Given, Raw, blocks
from streamgmm.kernels.plain import dropping
from streamgmm.kernels.plan import Array, Family, Plan, Sums

__all__ = ["run", "scratch_bytes"]

Host = Callable[..., Sums]
HOST_ROWS = 131_072
"""Rows that the host takes at a time."""


def run(
    plan: Plan,
    rows: DeviceArray | NDArray[Any],
    weight: DeviceArray | Array | None,
    *,
    statistics: bool,
    logp: DeviceArray | Array | None = None,
    resp: DeviceArray | Array | None = None,
    label: DeviceArray | NDArray[np.int64] | None = None,
    host: Host,
) -> Sums:
    """E-step over `rows` (n, F), float64 or float32, which lie on a card as the per-row outputs do.

    Parameters
    ----------
    weight : (n,) float64 on the card or the host, or None
    host : takes rows that are left, with the arguments of `streamgmm.kernels.dispatch.run`

    Raises
    ------
    NonFiniteRowError
        At the first row with NaN or infinity.
    """
    backend = backend_of(rows)
    rows = backend.contiguous(backend.wrap(rows))
    if len(rows.shape) != 2 or np.dtype(rows.dtype) not in TYPES or rows.shape[1] != len(plan.shift):
        raise ValueError(
            f"rows on a card must be float64 or float32 of shape (n, {len(plan.shift)}); got {rows.dtype} of shape "
            f"{tuple(rows.shape)}."
        )
    weights: DeviceArray | None = None
    if weight is not None:
        on_host = isinstance(weight, np.ndarray)
        weights = backend.upload(np.asarray(weight, np.float64)) if on_host else backend.wrap(weight)
    answers = Answers(*(None if a is None else backend.wrap(a) for a in (logp, resp, label)))
    if len(rows) == 0:
        K, p = plan.coef.shape
        return _sums(plan, np.zeros((K, p)), _no_quad(plan), np.zeros(5), statistics)
    form = None if any(a is not None for a in answers) else fused_shape(backend, plan)
    given = rows, weights
    if form is not None:
        raw = _fused(backend, plan, form, rows, weights)
    else:
        raw = products(backend, plan, given, statistics, answers)
    sums = _complete(backend, plan, given, statistics, answers, raw, host)
    if raw.dropped > 0.0 and not dropping.negligible(_mass(sums), dropping.light(plan), raw.dropped):
        raw = products(backend, plan, given, statistics, answers, leave_out=False)
        sums = _complete(backend, plan, given, statistics, answers, raw, host)
    return sums


def _no_quad(plan: Plan) -> Array:
    D = len(plan.whiten)
    return np.zeros(D * (D + 1) // 2 if plan.family == Family.TIED else 0)


def _sums(plan: Plan, feature: Array, quad: Array, totals: Array, statistics: bool) -> Sums:
    return Sums(feature, quad, None, totals) if statistics else Sums(np.empty((0, 0)), np.empty(0), None, totals)


def _mass(sums: Sums) -> Array:
    """(K,) sums of responsibilities."""
    mass = sums.feature[:, -1]
    if sums.centred is not None:
        mass = mass + sums.centred[1]
    return mass if sums.own is None else mass + sums.own.mass


def scratch_bytes(family: Family, D: int, F: int, K: int, *, fused: bool = True) -> int:
    """Memory of the card that a run takes beside its rows, at most, whatever their number; flags are n bytes on top."""
    form = layout.shape(family, D, K, 232_448) if fused and D == F else None
    if form is not None:
        return 8 * (form.grid + 1) * (form.sums + TOTALS) + 8 * form.given
    return scratch_of_products(family, D, K)


# Fused ----------------------------------------------------------------------------------------------------------------


def fused_shape(backend: Backend, plan: Plan) -> Shape | None:
    """The plan of the fused kernel for this mixture on this card, or None."""
    if backend.capability < (8, 0):
        return None
    form = layout.shape(plan.family, len(plan.whiten), len(plan.coef), backend.shared_bytes)
    return form if form is not None and layout.serves(plan, form) else None


@cache
def _fused_defines(
    form: Shape, dtype: np.dtype[Any], weighted: bool, noise: bool, older: bool, wide: bool
) -> dict[str, str]:
    flags = {"WEIGHTED": str(int(weighted)), "NOISE": str(int(noise)), "WIDE": str(int(wide))}
    flags |= {"MMA8": "1"} if older else {}
    return {"XT": TYPES[dtype], **form.defines(), **flags, **BOUNDS}


@cache
def _by_value(nbytes: int) -> np.dtype[Any]:
    return np.dtype((np.void, nbytes))


def _fused(backend: Backend, plan: Plan, form: Shape, rows: DeviceArray, weight: DeviceArray | None) -> Raw:
    n = len(rows)
    given = backend.staging("coefficients", form.given)
    frame = layout.pack(plan, form, given)
    blocks = -(-n // form.rows)
    grid, record = min(form.grid, blocks), form.sums + TOTALS
    noise, older = plan.base > -np.inf, backend.capability < (9, 0)
    dtype = np.dtype(rows.dtype)
    wide = rows.shape[1] * dtype.itemsize % 16 == 0 and backend.address(rows) % 16 == 0
    defines = _fused_defines(form, dtype, weight is not None, noise, older, wide)
    kernel = backend.kernel("fused.cu", defines, "fused", form.shared)
    fold = backend.kernel("fused.cu", defines, "fold")
    coef = backend.upload(given, backend.scratch("coefficients", form.given))
    part = backend.scratch("part", grid * record)
    declined = backend.scratch("declined", blocks * form.rows // 16, np.uint16)
    found = backend.scratch("sums", record)
    arguments = rows, n, 0 if weight is None else weight, frame.view(_by_value(frame.nbytes)), coef, part, declined
    backend.launch(kernel, (grid,), (32 * form.warps,), arguments, form.shared)
    backend.launch(fold, (-(-record // 32),), (32, 32), (part, grid, record, found))
    sums = backend.download(found, backend.staging("sums", record))
    feature, quad = layout.unpack(sums, plan.family, len(plan.coef), form)
    totals = sums[form.sums :]

    def bits() -> NDArray[np.bool_]:
        words = backend.download(declined)[: blocks * form.rows // 16]
        return np.unpackbits(words.astype("<u2").view(np.uint8), bitorder="little")[:n].view(np.bool_)

    return Raw(feature, quad, layout.totals(totals), int(totals[5]), bits)


# Rows that are left ---------------------------------------------------------------------------------------------------


def _complete(
    backend: Backend, plan: Plan, given: Given, statistics: bool, answers: Answers, raw: Raw, host: Host
) -> Sums:
    """The card's sums, and what the host makes of the rows that were left, in their order."""
    sums = _sums(plan, raw.feature, raw.quad, raw.totals, statistics)
    if raw.left == 0:
        return sums
    rows, weight = given
    index = np.flatnonzero(raw.declined())
    F = rows.shape[1]
    defines = {"XT": TYPES[np.dtype(rows.dtype)]}
    for first in range(0, len(index), HOST_ROWS):
        some = index[first : first + HOST_ROWS]
        at = backend.upload(some)
        m = len(some)
        picked = backend.empty((m, F), rows.dtype)
        gather = backend.kernel("rows.cu", defines, "gather")
        backend.launch(gather, (blocks(m * F),), (THREADS,), (rows, at, m, F, picked))
        w = None
        if weight is not None:
            chosen = backend.empty(m)
            single = backend.kernel("rows.cu", defines, "gather_double")
            backend.launch(single, (blocks(m),), (THREADS,), (weight, at, m, 1, chosen))
            w = backend.download(chosen)
        found = {
            "logp": None if answers.logp is None else np.empty(m),
            "resp": None if answers.resp is None else np.empty((m, answers.resp.shape[1])),
            "label": None if answers.label is None else np.empty(m, np.int64),
        }
        try:
            part = host(plan, backend.download(picked), w, statistics=statistics, **found)
        except NonFiniteRowError as error:
            raise NonFiniteRowError(int(some[error.row])) from None
        sums = _added(sums, part)
        for name, values in found.items():
            if values is not None:
                target = getattr(answers, name)
                width = values.size // m
                scatter = backend.kernel("rows.cu", defines, "scatter")
                arguments = backend.upload(values.view(np.int64)), at, m, width, target
                backend.launch(scatter, (blocks(m * width),), (THREADS,), arguments)
        backend.synchronize()
    return sums


def _added(a: Sums, b: Sums) -> Sums:
    """Sums over both sets of rows. Moments of the centred form are about the same means."""
    centred = a.centred or b.centred
    if a.centred and b.centred:
        about, *ours = a.centred
        mass, one, two = (x + y for x, y in zip(ours, b.centred[1:], strict=True))
        centred = about, mass, one, two
    own = a.own.merge(b.own) if a.own and b.own else a.own or b.own
    return Sums(a.feature + b.feature, a.quad + b.quad, centred, a.totals + b.totals, own)
