"""A start on recent rows against the model of now: after an abrupt change forgetting alone leaves EM where few
components hold everything."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Trial", "wait_for_challenge"]

MARGIN = 0.005
"""Nats per feature by which a challenger must predict better."""


def wait_for_challenge(unit: float, challenged: int, seen: float, half_life: float | None) -> float:
    """Rows from one challenge to the next.

    A start costs as much as 10^5 rows: four times as seldom each time, or once in a half-life.
    """
    if half_life is None:
        return max(64.0 * unit, 3.0 * challenged)
    return min(max(8.0 * unit, seen / 2), max(half_life, 32.0 * unit))


class Trial(NamedTuple):
    """By how much a challenger predicts better than the model, in nats: rows, sum and sum of squares."""

    rows: int = 0
    total: float = 0.0
    squares: float = 0.0

    def after(self, gain: NDArray[np.float64]) -> Trial:
        """With the gains (n,) of some more rows."""
        return Trial(self.rows + len(gain), self.total + float(gain.sum()), self.squares + float(gain @ gain))

    @property
    def mean(self) -> float:
        return self.total / self.rows

    def verdict(self, n_features: int, most_rows: float) -> bool | None:
        """Whether the challenger won (surely better, and by enough) or lost; None while it is open."""
        error = math.sqrt(max(self.squares / self.rows - self.mean * self.mean, 0.0) / self.rows)
        enough = MARGIN * n_features
        if self.mean - 4.0 * error > 0.0 and self.mean > enough:
            return True
        return False if self.mean + 3.0 * error < enough or self.rows > most_rows else None
