"""A made-up stream: a mixture whose means jump to and fro. Row i is a function of seed and i alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from streamgmm.stream.batch import Batch, Position
from streamgmm.stream.connectors import Source

__all__ = ["Synthetic"]

_BLOCK = 4096


class Synthetic(Source):
    """Rows for trying things out, the same again from any position.

    Parameters
    ----------
    rows : int
        Where the stream ends.
    n_features, n_components : int
    jump_every : int or None
        Rows after which all means move by 5 standard deviations, to and fro.
    anomalies : float
        Share of rows that are strangers, 15 standard deviations out.
    seed : int
    """

    def __init__(
        self,
        rows: int,
        *,
        n_features: int = 4,
        n_components: int = 4,
        jump_every: int | None = None,
        anomalies: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.rows, self.jump_every, self.anomalies, self.seed = rows, jump_every, anomalies, seed
        self.means = np.random.default_rng(seed).normal(0.0, 5.0, (n_components, n_features))

    def block(self, index: int) -> NDArray[np.float64]:
        """Rows index * 4096 and the 4095 after it."""
        rng = np.random.default_rng([self.seed, index])
        K, D = self.means.shape
        rows = rng.standard_normal((_BLOCK, D))
        strange = rng.random(_BLOCK) < self.anomalies
        rows += self.means[rng.integers(K, size=_BLOCK)]
        rows[strange] += 15.0
        if self.jump_every:
            number = index * _BLOCK + np.arange(_BLOCK)
            rows[(number // self.jump_every) % 2 == 1] += 5.0
        return rows

    def open(self, position: Position) -> Iterator[Batch]:
        at = int(position or 0)
        while at < self.rows:
            index, first = divmod(at, _BLOCK)
            rows = self.block(index)[first : first + self.rows - at]
            yield Batch(rows, at + len(rows), at)
            at += len(rows)
