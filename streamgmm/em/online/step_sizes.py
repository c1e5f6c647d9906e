"""Step sizes of online EM: rows of a step, and how much each one counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamgmm.em.step_sizes import Schedule

__all__ = ["RowDecay", "Sizes", "hold_rows"]

MAX_STEP_ROWS = 65_536


def hold_rows(K: int, D: int) -> int:
    """Rows to see before the first parameters are safe."""
    return max(20 * K, 2 * K * (D + 1))


@dataclass(frozen=True, slots=True)
class RowDecay(Schedule):
    """Steps that shrink with the rows seen: (rows / unit + 2)^-power per `unit` rows (Cappe & Moulines 2009).

    Counted in rows, so that steps of any size forget alike.
    """

    unit: float
    power: float = 0.6

    def rate(self, step: int, batch: float, seen: float) -> float:
        one = ((seen - batch) / self.unit + 2.0) ** -self.power
        return -math.expm1(math.log1p(-one) * batch / self.unit)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows per step: a function of the rows seen alone.

    Attributes
    ----------
    unit : rows of the first step
    fixed : rows of every later one, or None: about 10 K D at first, more as each row comes to matter less
    half_life : rows, or None
    """

    unit: int
    fixed: int | None
    half_life: float | None

    @classmethod
    def from_shape(cls, K: int, D: int, half_life: float | None, fixed: int | None) -> Sizes:
        """Usual steps have 10 K D rows; at least 4 K D where the half-life is short."""
        hold = hold_rows(K, D)
        if fixed is not None:
            return cls(max(fixed, hold), fixed, half_life)
        least, usual = max(4 * K * D, hold), max(10 * K * D, hold)
        return cls(usual if half_life is None else int(min(usual, max(least, half_life / 8))), None, half_life)

    def step(self, seen: float) -> int:
        """Rows of the next step, after `seen`; 0 where nothing was learnt yet."""
        if seen <= 0.0:
            return self.unit
        if self.fixed is not None:
            return max(1, self.fixed)
        limit = min(seen / 12, MAX_STEP_ROWS, self.half_life / 8 if self.half_life else math.inf)
        rows = self.unit
        while 2 * rows <= limit:
            rows *= 2
        return rows
