"""Rows that wait for their step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Waiting"]

Array = NDArray[np.float64]


class Waiting:
    """Rows in one buffer: each is copied once, because callers reuse their own, and the memory is used again."""

    def __init__(self, n_features: int) -> None:
        self.n_rows = 0
        self._rows = np.empty((0, n_features))
        self._weight: Array | None = None

    def add(self, rows: Array, weight: Array | None, room: int) -> None:
        """Copy rows (n, D) and weights (n,) in; `room` rows >= n are to come before the next `clear`."""
        first, last = self.n_rows, self.n_rows + len(rows)
        if last > len(self._rows):
            self._grow(first + max(room, len(rows)))
        self._rows[first:last] = rows
        if self._weight is None and weight is not None and not bool((weight == 1.0).all()):
            self._weight = np.ones(len(self._rows))
        if self._weight is not None:
            self._weight[first:last] = 1.0 if weight is None else weight
        self.n_rows = last

    def _grow(self, size: int) -> None:
        rows, weight = self.view()
        self._rows = np.empty((size, self._rows.shape[1]))
        self._rows[: self.n_rows] = rows
        if weight is not None:
            self._weight = np.ones(size)
            self._weight[: self.n_rows] = weight

    def view(self) -> tuple[Array, Array | None]:
        """The rows, and their weights or None where all are 1; good until the next `add`."""
        return self._rows[: self.n_rows], None if self._weight is None else self._weight[: self.n_rows]

    def clear(self) -> None:
        self.n_rows, self._weight = 0, None

    def __getstate__(self) -> dict[str, Any]:
        rows, weight = self.view()
        return {"n_rows": self.n_rows, "_rows": rows, "_weight": weight}
