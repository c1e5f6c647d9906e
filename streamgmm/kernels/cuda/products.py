"""The products form: features of a batch of rows, a product of matrices, softmax, a product again, or `sparse` sums."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from streamgmm.kernels.cuda import layout, sparse
from streamgmm.kernels.cuda.base import Backend, DeviceArray
from streamgmm.kernels.cuda.layout import TOTALS
from streamgmm.kernels.cuda.results import BOUNDS, MOST_BLOCKS, THREADS, TYPES, Answers, Given, Raw, blocks
from streamgmm.kernels.cuda.sparse import SparseSums
from streamgmm.kernels.plain import dropping
from streamgmm.kernels.plan import Array, Family, Plan

_PAIRS, _SPREAD = 6, 7
"""Positions in the totals: kept pairs; sum of w max(1, |z|^2)."""


class Cut(NamedTuple):
    """Sizes of the batches of rows, by their number and the sizes of the mixture alone."""

    P: int  # numbers in a row of features
    batch: int  # rows in memory at a time
    stack: int  # partial sums that these go to


@cache
def cut_of(family: Family, D: int, K: int, n: int) -> Cut:
    """Sizes for n rows, rounded up to a power of two."""
    P = 8 * -(-len(_features(family, D)) // 8)
    batch = layout.largest_batch(P)
    while batch >= 2 * n and batch > 4096:
        batch //= 2
    tiles = -(-P // 64) * -(-K // 64)
    stack = 1
    while stack * tiles < 128 and batch // stack > 1024:
        stack *= 2
    return Cut(P, batch, stack)


def scratch_bytes(family: Family, D: int, K: int) -> int:
    """Memory of the card that `products` takes beside its rows, at most, whatever their number; flags are on top."""
    cut = cut_of(family, D, K, 1 << 62)
    doubled = 2 if family == Family.TIED else 1
    dense = 8 * (cut.batch * (doubled * cut.P + K + 2) + (cut.stack + 2) * cut.P * (K + cut.P * (doubled - 1)))
    dense += 8 * MOST_BLOCKS * TOTALS
    return dense + (sparse.scratch_bytes(D, K, cut.batch) if sparse.may_serve(family, D, K, cut.P) else 0)


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
def _table(family: Family, D: int, P: int) -> Array:
    """(P / 2,) the features' pairs, two in each number."""
    pairs = _features(family, D)
    pairs = pairs + [(D + 1, D + 1)] * (P - len(pairs))
    return np.array([i << 16 | j for i, j in pairs], np.int32).view(np.float64)


@cache
def defines(
    dtype: np.dtype[Any], family: Family, D: int, F: int, K: int, P: int, block: int, whiten: int
) -> dict[str, str]:
    """Constants that the kernels are compiled with."""
    sizes = {"D": D, "F": F, "P": P, "K": K, "RB": block, "WHITEN": whiten, "COMMON": int(family == Family.TIED)}
    return {"XT": TYPES[dtype], **{name: str(value) for name, value in sizes.items()}, **BOUNDS}


def products(
    backend: Backend, plan: Plan, given: Given, statistics: bool, answers: Answers, *, leave_out: bool = True
) -> Raw:
    """E-step over rows and weights on a card.

    Parameters
    ----------
    leave_out : whether pairs of negligible responsibility may be left out of the statistics; see `Raw.dropped`
    """
    n = len(given[0])
    batches = _Batches(backend, plan, given, answers, statistics and leave_out)
    sums: _DenseSums | SparseSums | None = None
    for first in range(0, n, batches.cut.batch):
        m = min(batches.cut.batch, n - first)
        batches.weigh(first, m)
        if statistics:
            sums = sums or batches.sums_for(m)
            sums.add(batches.phi, batches.weighted, m)
    size = TOTALS + (sums.size if sums else 0)
    out = backend.empty(size)
    batches.write_totals(out[:TOTALS])
    if sums:
        sums.write(out[TOTALS:])
    found = backend.download(out, backend.staging("sums", size))
    feature, quad = sums.read(found[TOTALS:]) if sums else (np.empty((0, 0)), np.empty(0))
    dropped = batches.least * float(found[_SPREAD]) if isinstance(sums, SparseSums) else 0.0
    declined = batches.declined
    return Raw(
        feature, quad, layout.totals(found), int(found[5]), lambda: backend.download(declined).view(np.bool_), dropped
    )


class _Batches:
    """Features and weighted responsibilities of a batch of rows at a time, the totals of all, and the answers.

    Attributes
    ----------
    phi : (batch, P) features of the current batch
    weighted : (batch, K) its responsibilities times the rows' weights
    declined : (n,) rows that are left to the host
    least : responsibility above which a pair is kept
    """

    def __init__(self, backend: Backend, plan: Plan, given: Given, answers: Answers, leave_out: bool) -> None:
        self._rows, self._weight = given
        self._backend, self._plan, self._answers = backend, plan, answers
        n, F = self._rows.shape
        D, K = len(plan.whiten), len(plan.coef)
        self.cut = cut_of(plan.family, D, K, 1 << max(n - 1, 1).bit_length())
        P, batch, _ = self.cut
        self._kernels(D, F, K)
        self.least = math.exp(-dropping.cutoff_of(K))
        marked = leave_out and backend.capability >= (8, 0) and sparse.may_serve(plan.family, D, K, P)
        self._held = _upload(backend, plan, P, self.least if marked else None)
        self.phi, self.weighted = backend.empty((batch, P)), backend.empty((batch, K))
        self._norm, self.declined = backend.empty(batch), backend.empty(n, np.uint8)
        self._totals = backend.empty((MOST_BLOCKS, TOTALS))
        backend.zero(self._totals)
        self._taken = backend.empty(batch) if plan.family == Family.TIED else None
        self._kept = backend.empty((batch, sparse.words(K)), np.uint32) if marked else None
        self._alone = False

    def _kernels(self, D: int, F: int, K: int) -> None:
        plan, backend = self._plan, self._backend
        scales, triangle = plan.whiten.shape[1] < F, F == D and not np.triu(plan.whiten, 1).any()
        whiten = 2 if scales else 0 if triangle else 1
        self._block = max(1, min(64 if D <= 8 else 32 if D <= 32 else 16, 96_000 // (8 * (F + D + 3))))
        self._shared = 8 * self._block * (F + D + 3)
        dtype = np.dtype(self._rows.dtype)
        self._defines = defines(dtype, plan.family, D, F, K, self.cut.P, self._block, whiten)
        self._phi = backend.kernel("products.cu", self._defines, "phi", self._shared)
        self._softmax, self._fold = (backend.kernel("products.cu", self._defines, name) for name in ("softmax", "fold"))

    def weigh(self, first: int, m: int) -> None:
        """Fill in features, weighted responsibilities and answers of m rows."""
        backend, held, part = self._backend, self._held, slice(first, first + m)
        w = 0 if self._weight is None else self._weight[part]
        features = self._rows[part], m, w, held.whiten, held.shift, held.table, self.phi, self._norm
        backend.launch(self._phi, (-(-m // self._block),), (THREADS,), features, self._shared)
        backend.product(self.phi[None, :m], held.coef, self.weighted[None, :m], turned=False, add=False)
        logp, resp, label = (0 if a is None else a[part] for a in self._answers)
        width = 0 if self._answers.resp is None else self._answers.resp.shape[1]
        arguments = (
            self.weighted, self._norm, m, w, float(self._plan.base), layout.limit(self._plan), held.bounds,
            int(first == 0), self._totals, self.declined[part], 0 if self._taken is None else self._taken, logp, resp,
            width, label, 0 if self._kept is None else self._kept, int(self._alone),
        )  # fmt: skip
        lanes = min(32, 1 << max(len(self._plan.coef) - 1, 0).bit_length())
        backend.launch(self._softmax, (blocks(m * lanes),), (THREADS,), arguments)

    def sums_for(self, m: int) -> _DenseSums | SparseSums:
        """Sums of the kind that suits the first batch, of m rows; they hold whatever the other batches are like."""
        D, K, P = len(self._plan.whiten), len(self._plan.coef), self.cut.P
        if self._kept is not None:
            found = self._backend.empty(TOTALS)
            self.write_totals(found)
            pairs = float(self._backend.download(found)[_PAIRS])
            if pairs <= sparse.most_kept(D, P) * m * K:
                self._alone = True
                return SparseSums(self._backend, D, K, P, self._kept)
            self._kept = None
        return _DenseSums(self._backend, self._plan, self.cut, self._defines, self._taken)

    def write_totals(self, out: DeviceArray) -> None:
        """out (TOTALS,) = the totals of all rows so far."""
        self._backend.launch(self._fold, (1,), (32, 32), (self._totals, MOST_BLOCKS, TOTALS, out))


class _Held(NamedTuple):
    """A plan on the card."""

    coef: DeviceArray  # (1, K, P)
    whiten: DeviceArray  # transposed
    shift: DeviceArray
    bounds: DeviceArray  # narrow, radius, responsibility above which a pair is kept
    table: DeviceArray


def _upload(backend: Backend, plan: Plan, P: int, least: float | None) -> _Held:
    """Everything in one copy from pinned memory."""
    K, p = plan.coef.shape
    kept = np.zeros(K) if least is None else np.where(dropping.light(plan), 0.0, least)
    bounds, table = np.concatenate([plan.narrow, plan.radius, kept]), _table(plan.family, len(plan.whiten), P)
    rest = [plan.whiten.T.ravel(), plan.shift, bounds, table]
    edges = np.cumsum([K * P, *map(len, rest)])
    given = backend.staging("plan", int(edges[-1]))
    coef = given[: K * P].reshape(K, P)
    coef[:, :p] = plan.coef
    coef[:, p:] = 0.0
    np.concatenate(rest, out=given[K * P :])
    held = backend.upload(given, backend.scratch("plan", len(given)))
    parts = (held[int(a) : int(b)] for a, b in pairwise(edges))
    return _Held(held[: K * P].reshape(1, K, P), *parts)


class _DenseSums:
    """Sums over all pairs of row and component, and for TIED of all products of features."""

    def __init__(
        self, backend: Backend, plan: Plan, cut: Cut, defines: dict[str, str], taken: DeviceArray | None
    ) -> None:
        K, self._p = plan.coef.shape
        self._backend, self._cut, self._defines, self._taken, self._D = backend, cut, defines, taken, len(plan.whiten)
        shapes = [(cut.stack, K, cut.P), *([] if taken is None else [(cut.stack, cut.P, cut.P)])]
        self._sums = [backend.empty(shape) for shape in shapes]
        self._scaled = None if taken is None else backend.empty((cut.batch, cut.P))
        for one in self._sums:
            backend.zero(one)
        self._sizes = [one.size // cut.stack for one in self._sums]
        self.size = sum(self._sizes)

    def add(self, phi: DeviceArray, weighted: DeviceArray, m: int) -> None:
        """Add m rows: features (batch, P) and weighted responsibilities (batch, K)."""
        _add_products(self._backend, weighted, phi, self._sums[0], m)
        if self._scaled is not None:
            scale = self._backend.kernel("products.cu", self._defines, "scale")
            self._backend.launch(scale, (blocks(m * self._cut.P),), (THREADS,), (phi, self._taken, m, self._scaled))
            _add_products(self._backend, self._scaled, phi, self._sums[1], m)

    def write(self, out: DeviceArray) -> None:
        """out (size,) = sums (K, P), then (P, P) of all products."""
        fold, at = self._backend.kernel("products.cu", self._defines, "fold"), 0
        for one, size in zip(self._sums, self._sizes, strict=True):
            self._backend.launch(fold, (-(-size // 32),), (32, 32), (one, self._cut.stack, size, out[at : at + size]))
            at += size

    def read(self, found: Array) -> tuple[Array, Array]:
        """`Sums.feature` and `Sums.quad` of what `write` wrote."""
        P, D, size = self._cut.P, self._D, self._sizes[0]
        feature = found[:size].reshape(-1, P)[:, : self._p].copy()
        if self._taken is None:
            return feature, np.empty(0)
        return feature, found[size:].reshape(P, P)[:D, :D][np.tril_indices(D)]


def _add_products(backend: Backend, a: DeviceArray, b: DeviceArray, out: DeviceArray, m: int) -> None:
    """out (s, q, P) += a^T b of the first m rows of a (batch, q) and b (batch, P), in s stretches of rows."""
    length = a.shape[0] // out.shape[0]
    whole, rest = divmod(m, length)
    if whole:
        one, two = (x[: whole * length].reshape(whole, length, x.shape[1]) for x in (a, b))
        backend.product(one, two, out[:whole], turned=True, add=True)
    if rest:
        one, two = (x[None, whole * length : m] for x in (a, b))
        backend.product(one, two, out[whole : whole + 1], turned=True, add=True)
