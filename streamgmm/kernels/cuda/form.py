"""The E-step over rows on a card: `run`, with the arguments and the result of `streamgmm.kernels.dispatch.run`.

Two forms. *Fused*: one kernel does everything and only sums leave the multiprocessors; it serves where coefficients
and sums fit one. *Products*: features of a batch in memory, a product of matrices, softmax, another product; it serves
everywhere else, and for answers row by row. Both are the feature form of the E-step (see
`streamgmm.kernels.plain.reference`). Rows for which that is not accurate enough, and rows that are not finite, are left
out, fetched, and taken by the host.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import NonFiniteRowError
from streamgmm.kernels.cuda import layout
from streamgmm.kernels.cuda.backend import Backend, backend_of
from streamgmm.kernels.cuda.base import DeviceArray
from streamgmm.kernels.cuda.layout import TOTALS, Shape
from streamgmm.kernels.plain.reference import NEGLIGIBLE
from streamgmm.kernels.plan import TOLERANCE, Array, Family, Plan, Sums

__all__ = ["run", "scratch_bytes"]

Host = Callable[..., Sums]
HOST_ROWS = 131_072
"""Rows that the host takes at a time."""
_TYPES = {np.dtype(np.float64): "double", np.dtype(np.float32): "float"}
_BOUNDS = {"TOLERANCE": repr(TOLERANCE), "NEGLIGIBLE": repr(NEGLIGIBLE)}
_SOFTMAX_BLOCKS = 1056
_THREADS = 256


Given = tuple[DeviceArray, DeviceArray | None]
"""Rows (n, F) and their weights (n,)."""


class Answers(NamedTuple):
    """Arrays of the card to fill in, or None."""

    logp: DeviceArray | None
    resp: DeviceArray | None
    label: DeviceArray | None


class Raw(NamedTuple):
    """The card's result: sums of the rows that it took, and which it has left."""

    feature: Array
    quad: Array
    totals: Array
    left: int
    declined: Callable[[], NDArray[np.bool_]]


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
    if len(rows.shape) != 2 or np.dtype(rows.dtype) not in _TYPES or rows.shape[1] != len(plan.shift):
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
    if form is None:
        raw = _products(backend, plan, rows, weights, statistics, answers)
    else:
        raw = _fused(backend, plan, form, rows, weights)
    sums = _sums(plan, raw.feature, raw.quad, raw.totals, statistics)
    return sums if raw.left == 0 else _with_host(backend, plan, (rows, weights), statistics, answers, sums, raw, host)


def _no_quad(plan: Plan) -> Array:
    D = len(plan.whiten)
    return np.zeros(D * (D + 1) // 2 if plan.family == Family.TIED else 0)


def _sums(plan: Plan, feature: Array, quad: Array, totals: Array, statistics: bool) -> Sums:
    return Sums(feature, quad, None, totals) if statistics else Sums(np.empty((0, 0)), np.empty(0), None, totals)


def scratch_bytes(family: Family, D: int, F: int, K: int, *, fused: bool = True) -> int:
    """Memory of the card that a run takes beside its rows, at most, whatever their number; flags are n bytes on top."""
    form = layout.shape(family, D, K, 232_448) if fused and D == F else None
    if form is not None:
        return 8 * (form.grid + 1) * (form.sums + TOTALS) + 8 * form.given
    cut = _cut(family, D, K, 1 << 62)
    doubled = 2 if family == Family.TIED else 1
    return 8 * (cut.batch * (doubled * cut.P + K + 2) + (cut.stack + 2) * cut.P * (K + cut.P * (doubled - 1)))


# Fused ----------------------------------------------------------------------------------------------------------------


def fused_shape(backend: Backend, plan: Plan) -> Shape | None:
    """The plan of the fused kernel for this mixture on this card, or None."""
    if backend.capability < (8, 0):
        return None
    form = layout.shape(plan.family, len(plan.whiten), len(plan.coef), backend.shared_bytes)
    return form if form is not None and layout.serves(plan, form) else None


@cache
def _fused_defines(form: Shape, dtype: np.dtype[Any], weighted: bool, noise: bool, older: bool) -> dict[str, str]:
    flags = {"WEIGHTED": str(int(weighted)), "NOISE": str(int(noise)), **({"MMA8": "1"} if older else {})}
    return {"XT": _TYPES[dtype], **form.defines(), **flags, **_BOUNDS}


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
    defines = _fused_defines(form, np.dtype(rows.dtype), weight is not None, noise, older)
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


# Products -------------------------------------------------------------------------------------------------------------


class Cut(NamedTuple):
    """Sizes of the batches of rows, by their number and the sizes of the mixture alone."""

    P: int  # numbers in a row of features
    batch: int  # rows in memory at a time
    stack: int  # partial sums that these go to


@cache
def _cut(family: Family, D: int, K: int, n: int) -> Cut:
    P = 8 * -(-len(_features(family, D)) // 8)
    batch = layout.largest_batch(P)
    while batch >= 2 * n and batch > 4096:
        batch //= 2
    tiles = -(-P // 64) * -(-K // 64)
    stack = 1
    while stack * tiles < 128 and batch // stack > 1024:
        stack *= 2
    return Cut(P, batch, stack)


@cache
def _features(family: Family, D: int) -> list[tuple[int, int]]:
    """Pairs of (z, 1, 0, |z|^2) in the order of `Family`."""
    quadratic = {
        Family.FULL: [(i, j) for i in range(D) for j in range(i + 1)],
        Family.TIED: [],
        Family.DIAG: [(i, i) for i in range(D)],
        Family.SPHERICAL: [(D, D + 2)],
    }[family]
    return quadratic + [(i, D) for i in range(D)] + [(D, D)]


@cache
def _table(family: Family, D: int, P: int) -> NDArray[np.int32]:
    pairs = _features(family, D)
    pairs = pairs + [(D + 1, D + 1)] * (P - len(pairs))
    return np.array([i << 16 | j for i, j in pairs], np.int32)


@cache
def _products_defines(
    dtype: np.dtype[Any], family: Family, D: int, F: int, K: int, P: int, block: int, whiten: int
) -> dict[str, str]:
    sizes = {"D": D, "F": F, "P": P, "K": K, "RB": block, "WHITEN": whiten, "COMMON": int(family == Family.TIED)}
    return {"XT": _TYPES[dtype], **{name: str(value) for name, value in sizes.items()}, **_BOUNDS}


def _products(
    backend: Backend, plan: Plan, rows: DeviceArray, weight: DeviceArray | None, statistics: bool, answers: Answers
) -> Raw:
    n, F = rows.shape
    D, (K, p) = len(plan.whiten), plan.coef.shape
    tied = plan.family == Family.TIED
    cut = _cut(plan.family, D, K, 1 << max(n - 1, 1).bit_length())
    P, batch = cut.P, cut.batch
    scales, triangle = plan.whiten.shape[1] < F, F == D and not np.triu(plan.whiten, 1).any()
    whiten = 2 if scales else 0 if triangle else 1
    block = max(1, min(64 if D <= 8 else 32 if D <= 32 else 16, 96_000 // (8 * (F + D + 3))))
    shared = 8 * block * (F + D + 3)
    defines = _products_defines(np.dtype(rows.dtype), plan.family, D, F, K, P, block, whiten)
    phi_kernel = backend.kernel("products.cu", defines, "phi", shared)
    softmax, scale = (backend.kernel("products.cu", defines, name) for name in ("softmax", "scale"))
    fold = backend.kernel("products.cu", defines, "fold")

    given = backend.staging("coefficients", K * P).reshape(1, K, P)
    given[0, :, :p] = plan.coef
    given[0, :, p:] = 0.0
    coef = backend.upload(given)
    frame = backend.upload(np.ascontiguousarray(plan.whiten, np.float64)), backend.upload(plan.shift)
    bounds = backend.upload(np.concatenate([plan.narrow, plan.radius]))
    table = backend.upload(_table(plan.family, D, P))
    phi, logits, norm = backend.empty((batch, P)), backend.empty((batch, K)), backend.empty(batch)
    totals, declined = backend.empty((_SOFTMAX_BLOCKS, TOTALS)), backend.empty(n, np.uint8)
    backend.zero(totals)
    sums = backend.empty((cut.stack, P, K)) if statistics else None
    square = scaled = taken = None
    if sums is not None:
        backend.zero(sums)
        if tied:
            square, scaled, taken = backend.empty((cut.stack, P, P)), backend.empty((batch, P)), backend.empty(batch)
            backend.zero(square)
    limit = layout.limit(plan)
    lanes = min(32, 1 << max(K - 1, 0).bit_length())
    for first in range(0, n, batch):
        m = min(batch, n - first)
        part = slice(first, first + m)
        w = 0 if weight is None else weight[part]
        arguments: tuple[Any, ...] = rows[part], m, w, *frame, table, phi, norm
        backend.launch(phi_kernel, (-(-m // block),), (_THREADS,), arguments, shared)
        backend.product(phi[None, :m], coef, logits[None, :m], turned=False, add=False)
        logp, resp, label = (0 if a is None else a[part] for a in answers)
        width = 0 if answers.resp is None else answers.resp.shape[1]
        arguments = (
            logits, norm, m, w, float(plan.base), limit, bounds, int(first == 0), totals, declined[part],
            0 if taken is None else taken, logp, resp, width, label,
        )  # fmt: skip
        backend.launch(softmax, (min(_SOFTMAX_BLOCKS, -(-m * lanes // _THREADS)),), (_THREADS,), arguments)
        if sums is not None:
            _add_products(backend, phi, logits, sums, m)
        if square is not None and scaled is not None:
            backend.launch(scale, (min(_SOFTMAX_BLOCKS, -(-m * P // _THREADS)),), (_THREADS,), (phi, taken, m, scaled))
            _add_products(backend, phi, scaled, square, m)

    def folded(array: DeviceArray) -> Array:
        count, size = array.shape[0], array.size // array.shape[0]
        out = backend.empty(size)
        backend.launch(fold, (-(-size // 32),), (32, 32), (array, count, size, out))
        return backend.download(out, backend.staging("sums", size))

    found = folded(totals).copy()
    feature, quad = np.empty((0, 0)), np.empty(0)
    if sums is not None:
        feature = folded(sums).reshape(P, K)[:p].T.copy(order="C")
    if square is not None:
        quad = folded(square).reshape(P, P)[:D, :D][np.tril_indices(D)]
    return Raw(feature, quad, layout.totals(found), int(found[5]), lambda: backend.download(declined).view(np.bool_))


def _add_products(backend: Backend, a: DeviceArray, b: DeviceArray, out: DeviceArray, m: int) -> None:
    """out (s, P, q) += a^T b of the first m rows of a (batch, P) and b (batch, q), in s stretches of rows."""
    length = a.shape[0] // out.shape[0]
    whole, rest = divmod(m, length)
    if whole:
        one, two = (x[: whole * length].reshape(whole, length, x.shape[1]) for x in (a, b))
        backend.product(one, two, out[:whole], turned=True, add=True)
    if rest:
        one, two = (x[None, whole * length : m] for x in (a, b))
        backend.product(one, two, out[whole : whole + 1], turned=True, add=True)


# Rows that are left ---------------------------------------------------------------------------------------------------


def _with_host(
    backend: Backend,
    plan: Plan,
    given: Given,
    statistics: bool,
    answers: Answers,
    sums: Sums,
    raw: Raw,
    host: Host,
) -> Sums:
    """Add what the host makes of the rows that were left, in their order."""
    rows, weight = given
    index = np.flatnonzero(raw.declined())
    F = rows.shape[1]
    defines = {"XT": _TYPES[np.dtype(rows.dtype)]}
    for first in range(0, len(index), HOST_ROWS):
        some = index[first : first + HOST_ROWS]
        at = backend.upload(some)
        m = len(some)
        picked = backend.empty((m, F), rows.dtype)
        gather = backend.kernel("rows.cu", defines, "gather")
        backend.launch(gather, (_blocks(m * F),), (_THREADS,), (rows, at, m, F, picked))
        w = None
        if weight is not None:
            chosen = backend.empty(m)
            single = backend.kernel("rows.cu", defines, "gather_double")
            backend.launch(single, (_blocks(m),), (_THREADS,), (weight, at, m, 1, chosen))
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
                backend.launch(scatter, (_blocks(m * width),), (_THREADS,), arguments)
        backend.synchronize()
    return sums


def _blocks(count: int) -> int:
    return min(1056, -(-count // _THREADS))


def _added(a: Sums, b: Sums) -> Sums:
    """Sums over both sets of rows. Moments of the centred form are about the same means."""
    centred = a.centred or b.centred
    if a.centred and b.centred:
        about, *ours = a.centred
        mass, one, two = (x + y for x, y in zip(ours, b.centred[1:], strict=True))
        centred = about, mass, one, two
    own = a.own.merge(b.own) if a.own and b.own else a.own or b.own
    return Sums(a.feature + b.feature, a.quad + b.quad, centred, a.totals + b.totals, own)
