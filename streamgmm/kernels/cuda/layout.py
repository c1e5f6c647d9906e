"""Shapes of the fused kernel, and where coefficients and sums stand in its arrays.

Features are taken in tiles of 8, in cyclic order: a tile holds z_g z_(g+r), g = 0..7, for one r (indices modulo E, the
padded number of features), so that no lane of the card looks anything up. Half a tile is a step of the logits' product.
Every function here says in Python what the constants at the top of ``fused.cu`` say in C++.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels.plan import TOLERANCE, Array, Family, Plan, phi_length

Feature = tuple[int, int] | None
"""(a, b): z_a z_b; (a, -1): z_a; (-1, -1): 1; None: nothing."""

STEPS_AT_ONCE = 4
"""Steps per tensor core instruction."""
FARTHEST = 1e100
"""|z|^2 above which a row is looked at however wide the components are."""
TOTALS = 8
"""Numbers at the end of a record of sums: w top, w log sum, w r (logit - top), w, rows, declined rows, 0, 0."""


POWERS = np.exp2(np.arange(32) / 32)


@dataclass(frozen=True, slots=True)
class Shape:
    """One compilation of the fused kernel.

    Attributes
    ----------
    squares : the features are z_i^2 and z_i alone (DIAG and SPHERICAL of more than 3 features)
    E, KP : numbers of features and components, padded
    warps, rt, ms, ns : warps of a block, tiles of 16 rows of a warp, splits of the sums by features and components
    blocks : blocks on one multiprocessor
    """

    D: int
    squares: bool
    E: int
    KP: int
    warps: int
    rt: int
    ms: int
    ns: int
    blocks: int

    @property
    def rows(self) -> int:
        """Rows that a block takes at a time."""
        return 16 * self.rt * self.warps

    @property
    def sums(self) -> int:
        return 8 * len(tiles(self.E, self.squares, self.ms)) * self.KP

    @property
    def coefficients(self) -> int:
        return len(steps(self.E, self.squares)) * 4 * self.KP

    @property
    def given(self) -> int:
        """Numbers that the kernel is given of a mixture: see `pack`."""
        return self.coefficients + 3 * self.KP + len(POWERS)

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block."""
        return shared_bytes(self.E, self.squares, self.KP, self.rows)

    @property
    def grid(self) -> int:
        """Blocks of a launch: of the H100's 132 multiprocessors, on every card, so that sums have one order."""
        return 132 * self.blocks

    def defines(self) -> dict[str, str]:
        values = {
            "D": self.D, "E": self.E, "KP": self.KP, "FAM": 2 if self.squares else 0, "WARPS": self.warps,
            "RT": self.rt, "MS": self.ms, "NS": self.ns, "MINB": self.blocks,
        }  # fmt: skip
        return {name: str(value) for name, value in values.items()}


def padded(D: int) -> int:
    return 4 if D <= 3 else 8 * -(-D // 8)


@cache
def tiles(E: int, squares: bool, splits: int = 1) -> tuple[tuple[Feature, ...], ...]:
    """Tiles of 8 features, in pairs, the number of pairs a multiple of `splits`."""
    none: list[Feature] = [None] * 8
    found: list[list[Feature]] = []
    if E == 4:  # the products hold everything: z_D is 1
        found.append([*((g, g) for g in range(4)), *((g, (g + 1) % 4) for g in range(4))])
        found.append([(0, 2), (1, 3), *none[2:]])
    else:
        ones = False
        if squares:
            found += [[(8 * c + g, 8 * c + g) for g in range(8)] for c in range(E // 8)]
        else:
            for r in range(E // 2):
                found += [[(8 * c + g, (8 * c + g + r) % E) for g in range(8)] for c in range(E // 8)]
            found += [[(8 * c + g, 8 * c + g + E // 2) for g in range(8)] for c in range(E // 16)]
            if E % 16 == 8:
                first = E // 2 - 4
                found.append([*((first + g, first + g + E // 2) for g in range(4)), *[(-1, -1)] * 4])
                ones = True
        found += [[(8 * c + g, -1) for g in range(8)] for c in range(E // 8)]
        if not ones:
            found.append([(-1, -1)] * 8)
    found += [none] * (-len(found) % (2 * splits))
    return tuple(map(tuple, found))


@cache
def steps(E: int, squares: bool) -> tuple[tuple[Feature, ...], ...]:
    """Steps of 4 features in the order of the logits' product; of many features, those of one z_c after each other."""
    found, order = tiles(E, squares), []
    if E >= 16 and not squares:
        order = [(r * (E // 8) + q // 2, q % 2) for q in range(E // 4) for r in range(E // 2)]
    taken = set(order)
    for j, tile in enumerate(found):
        for h in range(2):
            part = tile[4 * h : 4 * h + 4]
            if (j, h) not in taken and any(f is not None and f[0] >= 0 for f in part):
                order.append((j, h))
    none: tuple[Feature, ...] = (None,) * 4
    halves = [found[j][4 * h : 4 * h + 4] for j, h in order]
    return tuple(halves + [none] * (-len(halves) % STEPS_AT_ONCE))


def shared_bytes(E: int, squares: bool, KP: int, rows: int) -> int:
    """Bytes for coefficients, constants, and z and responsibilities of `rows` rows."""
    coefficients = len(steps(E, squares)) * 4 * KP
    return 8 * (coefficients + KP + rows * ((12 if E <= 8 else E + 12) + KP + 4))


REGISTERS = 65536
OVERHEAD = 40
"""Registers of a thread beside the sums and the logits."""
LARGEST = 64
"""Features up to which the fused kernel is compiled: its code grows with their square."""


@cache
def shape(family: Family, D: int, K: int, shared: int) -> Shape | None:
    """The way the fused kernel is compiled for K components of D features: the cheapest; None where they do not fit.

    Parameters
    ----------
    shared : bytes of shared memory of a multiprocessor
    """
    found = shapes(family, D, K, shared)
    return found[0] if found else None


MEASURED = {
    (4, False, 8): (16, 2, 1, 1, 2),
    (8, False, 16): (16, 2, 1, 1, 1),
    (8, False, 64): (4, 1, 1, 4, 3),
    (16, False, 64): (8, 1, 2, 2, 1),
    (32, False, 32): (8, 1, 4, 2, 1),
    (8, True, 16): (8, 2, 1, 1, 2),
}
"""The fastest of some sixty by E, squares, KP, on an H200; what was not measured goes by `_cost`."""


def shapes(family: Family, D: int, K: int, shared: int) -> list[Shape]:
    """All ways to compile the fused kernel, the cheapest first."""
    E = padded(D)
    if E > LARGEST:
        return []
    squares = E > 4 and family in (Family.DIAG, Family.SPHERICAL)
    best = MEASURED.get((E, squares, 8 * -(-K // 8)))
    options = []
    for warps, rt, ms, ns in itertools.product((4, 8, 16), (1, 2), (1, 2, 4, 8), (1, 2, 4, 8)):
        if warps % (ms * ns):
            continue
        nt = ns * -(-K // (8 * ns))
        pairs = len(tiles(E, squares, ms)) // 2
        held = 8 * (pairs // ms * nt // ns + rt * nt) + OVERHEAD
        most = shared // (shared_bytes(E, squares, 8 * nt, 16 * rt * warps) + 1024)
        blocks = min(most, REGISTERS // (32 * warps * max(held, 64)), 24 // warps)
        if best is not None and best[:4] == (warps, rt, ms, ns):
            held, blocks = 0, min(most, best[4])
        if held <= 255 and blocks >= 1:
            form = Shape(D, squares, E, 8 * nt, warps, rt, ms, ns, blocks)
            options.append((_cost(form), form))
    ranks = [((f.warps, f.rt, f.ms, f.ns, f.blocks) != best, cost, -f.warps) for cost, f in options]
    return [options[i][1] for i in sorted(range(len(options)), key=ranks.__getitem__)]


def _cost(form: Shape) -> float:
    """Cycles of a multiprocessor for 16 rows, roughly: 14 for each tensor instruction, 2 for each load of 32 numbers.

    Few warps hide little of their waiting. Of six cases measured on an H100 it finds what is within 8 % of the best.
    """
    nt, steps_of_four = form.KP // 8, len(steps(form.E, form.squares)) // STEPS_AT_ONCE
    pairs = len(tiles(form.E, form.squares, form.ms)) // 2
    instructions = nt * (steps_of_four + pairs)
    loads = steps_of_four * (4 * nt / form.rt + 16) + form.ns * pairs * 16 + form.ms * nt * 4
    return (14 * instructions + 2 * loads) * (1.0 + 8.0 / (form.warps * form.blocks))


# Coefficients and sums ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Order:
    """Where the numbers of one family stand.

    Attributes
    ----------
    coefficient : (coefficients,) positions in `Plan.coef`, raveled and followed by 0 and -1/2
    feature : positions in the sums of each of `Sums.feature`; its first column for SPHERICAL apart, in `square`
    square : (D (D + 1) / 2 or D, K) positions of what is summed over components (TIED) or features (SPHERICAL)
    lower : positions of the triangle of the whitening in (D, D), raveled
    upper : positions above it
    """

    coefficient: NDArray[np.intp]
    feature: NDArray[np.intp]
    square: NDArray[np.intp]
    lower: NDArray[np.intp]
    upper: NDArray[np.intp]


def _linear(family: Family, D: int) -> int:
    return phi_length(family, D) - D - 1


def _coefficient(family: Family, D: int, entry: Feature) -> int:
    """Position in a row of coefficients; -1 for 0, -2 for -1/2. The constants are not part of the product."""
    if entry is None or entry[0] < 0:
        return -1
    a, b = entry
    line = a if b < 0 else min(a, b) if padded(D) == 4 and max(a, b) == D else -1
    if line >= 0:
        return _linear(family, D) + line if line < D else -1
    if max(a, b) >= D:
        return -1
    if family == Family.FULL:
        i, j = max(a, b), min(a, b)
        return i * (i + 1) // 2 + j
    if a != b:
        return -1
    return {Family.DIAG: a, Family.SPHERICAL: 0}.get(family, -2)


@cache
def order(family: Family, K: int, form: Shape) -> Order:
    D, KP, E = form.D, form.KP, form.E
    p = phi_length(family, D)
    entries = [entry for step in steps(E, form.squares) for entry in step]
    at = np.array([_coefficient(family, D, entry) for entry in entries])
    column = np.arange(KP)
    whole = np.where(at[:, None] >= 0, at[:, None] + p * column, K * p - 1 - at[:, None])
    whole[:, K:] = K * p
    fragments = whole.reshape(-1, 4, KP // 8, 8).transpose(0, 2, 3, 1)  # step, tile of components, lane = 4 g + t

    where: dict[tuple[int, int], int] = {}
    for position, entry in enumerate(entry for tile in tiles(E, form.squares, form.ms) for entry in tile):
        if entry is not None:
            a, b = entry
            if E == 4:  # the 1 at z_D
                a, b = max(a, b), min(a, b)
                a, b = (-1, -1) if b == D else (b, -1) if a == D else (a, b)
            where.setdefault((a, b) if b < 0 else (max(a, b), min(a, b)), position)
    products = [(i, j) for i in range(D) for j in range(i + 1)]
    squared = [(i, i) for i in range(D)]
    lines = [*((i, -1) for i in range(D)), (-1, -1)]
    kept = {Family.FULL: products, Family.DIAG: squared}.get(family, [])
    apart = {Family.TIED: products, Family.SPHERICAL: squared}.get(family, [])
    k = np.arange(K)
    feature = np.array([where[f] for f in kept + lines], np.intp)[None, :] * KP + k[:, None]
    square = np.array([where[f] for f in apart], np.intp)[:, None] * KP + k
    i, j = np.tril_indices(D)
    above = np.triu_indices(D, 1)
    return Order(np.ascontiguousarray(fragments).ravel(), feature, square, i * D + j, above[0] * D + above[1])


def serves(plan: Plan, form: Shape) -> bool:
    """Whether the whitening of a plan is of the kind that the fused kernel takes: a triangle, or scales."""
    D, F = form.D, len(plan.shift)
    if F != D:
        return False
    if plan.whiten.shape[1] == 1:
        return True
    at = order(plan.family, len(plan.coef), form)
    if form.squares:
        return False
    return not plan.whiten.ravel()[at.upper].any()


def pack(plan: Plan, form: Shape, out: Array) -> Array:
    """Fill `out` (given) with fragments, constants, narrow, radius, and powers of 2.

    The `Frame` of the kernel is returned: shift, whitening, background and limit, to be passed by value.
    """
    K, D, KP = len(plan.coef), form.D, form.KP
    at = order(plan.family, K, form)
    source = np.empty(plan.coef.size + 2)
    source[:-2] = plan.coef.ravel()
    source[-2:] = 0.0, -0.5
    n = form.coefficients
    source.take(at.coefficient, out=out[:n])
    out[n:] = 0.0
    out[n : n + KP] = -1e300
    out[n : n + K] = plan.coef[:, -1]
    out[n + KP : n + KP + K] = plan.narrow
    out[n + 2 * KP : n + 2 * KP + K] = plan.radius
    out[n + 3 * KP :] = POWERS
    E = form.E
    frame = np.zeros(E + (E if form.squares else E * (E + 1) // 2) + 2)
    frame[:D] = plan.shift
    if plan.whiten.shape[1] > 1:
        frame[E : E + len(at.lower)] = plan.whiten.ravel()[at.lower]
    elif form.squares:
        frame[E : E + D] = plan.whiten[:, 0]
    else:
        frame[E + np.arange(D) * np.arange(3, D + 3) // 2] = plan.whiten[:, 0]
    frame[-2:] = plan.base, limit(plan)
    return frame


def limit(plan: Plan) -> float:
    """|z|^2 up to which every component is wide enough for the feature form; -1 where no row is safe."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        cutoff = float((np.sqrt(TOLERANCE / plan.narrow) - plan.radius).min())
    return min(cutoff * cutoff * (1.0 - 1e-12), FARTHEST) if cutoff > 0.0 else -1.0


def unpack(sums: Array, family: Family, K: int, form: Shape) -> tuple[Array, Array]:
    """`Sums.feature` and `Sums.quad` from the kernel's sums."""
    at = order(family, K, form)
    feature = sums[at.feature]
    if family == Family.SPHERICAL:
        feature = np.concatenate([sums[at.square].sum(axis=0)[:, None], feature], axis=1)
        return feature, np.empty(0)
    return feature, sums[at.square].sum(axis=1) if family == Family.TIED else np.empty(0)


def totals(record: Array) -> Array:
    """`Sums.totals` from the last numbers of a record."""
    tops, logs, mixed, mass, rows = record[:5].tolist()
    return np.array([tops + logs, logs - mixed, -logs, mass, rows])


def largest_batch(P: int) -> int:
    """Rows whose features are held in memory at a time, P numbers each: some 250 MB, at least 65,536 rows."""
    return max(65536, 1 << int(math.log2((1 << 25) / P)))
