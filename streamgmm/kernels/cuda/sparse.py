"""Statistics of the pairs (row, component) that matter, in place of the second product of the products form.

In many dimensions nearly all responsibilities are e^-40 and less. The softmax marks the pairs above that (see
`streamgmm.kernels.plain.dropping`), a bit for each; the bits are turned from rows to components, and the marked rows of
each component are gathered and summed. Which pairs a warp takes depends on the marks alone: the same bits in every run.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from streamgmm.kernels.cuda.base import Backend, DeviceArray
from streamgmm.kernels.cuda.results import THREADS, blocks
from streamgmm.kernels.plan import Array, Family, phi_length

PATCH = 32
"""Rows and columns of a patch of the second moments: what a warp adds to."""


def words(K: int) -> int:
    """Words of 32 bits that mark the components of a row."""
    return -(-K // 32)


@cache
def most_kept(D: int, P: int) -> float:
    """Share of all pairs up to which gathering takes at most half the time of the dense product.

    A dense pair takes P multiply-adds. A gathered one takes 128 for each tile of 16 x 8 features in the lower triangle,
    which count twice, as tensor cores that wait for gathered rows are half as busy.
    """
    W = D + 1
    tiles = sum(min(2 * i + 2, -(-W // 8)) for i in range(-(-W // 16)))
    return P / (2 * 2 * 128 * tiles)


def may_serve(family: Family, D: int, K: int, P: int) -> bool:
    """Whether there is such a product for the family, and whether one component for each row would be few enough."""
    return family == Family.FULL and most_kept(D, P) * K >= 1.0


def patches(D: int) -> int:
    side = -(-(D + 1) // PATCH)
    return side * (side + 1) // 2


@cache
def slices(D: int, K: int, batch: int) -> int:
    """Shares that the words of a batch are cut into, for each component: enough warps to fill a card."""
    count = 1
    while 2 * count * K * patches(D) <= 8192 and 2 * count <= 64 and batch // 32 // (2 * count) >= 16:
        count *= 2
    return count


def scratch_bytes(D: int, K: int, batch: int) -> int:
    """Memory of the card for marks and partial sums."""
    return 4 * batch * words(K) + 4 * K * (batch // 32) + 8 * K * slices(D, K, batch) * patches(D) * PATCH * PATCH


class SparseSums:
    """Sums over the kept pairs of batches of rows, for K components with P features a row.

    Parameters
    ----------
    kept : (batch, words(K)) marks that the softmax writes
    """

    def __init__(self, backend: Backend, D: int, K: int, P: int, kept: DeviceArray) -> None:
        older = {"MMA8": "1"} if backend.capability < (9, 0) else {}
        defines = {"D": str(D), "P": str(P), "K": str(K), **older}
        self._turn, self._gathered, self._collect = (
            backend.kernel("sparse.cu", defines, name) for name in ("turn", "gathered", "collect")
        )
        self._backend, self._kept, self._D, self._K = backend, kept, D, K
        batch = len(kept)
        self._slices = slices(D, K, batch)
        self._turned = backend.empty(K * -(-batch // 32), np.uint32)
        self._part = backend.empty(K * self._slices * patches(D) * PATCH * PATCH)
        backend.zero(self._part)
        self.size = K * phi_length(Family.FULL, D)

    def add(self, phi: DeviceArray, weighted: DeviceArray, m: int) -> None:
        """Add m rows: features (batch, P) and weighted responsibilities (batch, K), which may lack pairs not kept."""
        count = -(-m // 32)
        run, grid = self._backend.launch, -(-32 * count * words(self._K) // THREADS)
        run(self._turn, (grid,), (THREADS,), (self._kept, m, count, self._turned))
        warps = min(8, patches(self._D))
        grids = self._K * self._slices, -(-patches(self._D) // warps)
        run(self._gathered, grids, (32 * warps,), (phi, weighted, self._turned, count, self._slices, self._part))

    def write(self, out: DeviceArray) -> None:
        """out (size,) = `Sums.feature`."""
        grid = blocks(self._K * patches(self._D) * PATCH * PATCH)
        self._backend.launch(self._collect, (grid,), (THREADS,), (self._part, self._slices, out))

    def read(self, found: Array) -> tuple[Array, Array]:
        """`Sums.feature` and `Sums.quad` of what `write` wrote."""
        return found.reshape(self._K, -1).copy(), np.empty(0)
