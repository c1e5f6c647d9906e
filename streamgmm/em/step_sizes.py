"""Step sizes of stepwise EM: what share the newest rows have in the statistics."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass


class Schedule(ABC):
    """Step sizes of stepwise EM."""

    @abstractmethod
    def rate(self, step: int, batch: float, seen: float) -> float:
        """Share of the newest batch in the averaged statistics, in (0, 1].

        Parameters
        ----------
        step : int
            Updates made before this one.
        batch : float > 0
            Weight of the batch, in rows.
        seen : float >= batch
            Weight of all rows so far, the batch included.
        """


@dataclass(frozen=True, slots=True)
class Accumulate(Schedule):
    """rho = n_t / N_t: every row counts the same. On a frozen model this is the exact fold."""

    def rate(self, step: int, batch: float, seen: float) -> float:
        return batch / seen


@dataclass(frozen=True, slots=True)
class Decay(Schedule):
    """rho = (t + offset)^-power (Cappe & Moulines 2009): converges for 0.5 < power <= 1."""

    power: float = 0.6
    offset: float = 2.0

    def __post_init__(self) -> None:
        if not (0.5 < self.power <= 1.0 and self.offset >= 1.0):
            raise ValueError(
                f"A decaying step size needs 0.5 < power <= 1 and offset >= 1; got {self.power}, {self.offset}."
            )

    def rate(self, step: int, batch: float, seen: float) -> float:
        return (step + self.offset) ** -self.power


@dataclass(frozen=True, slots=True)
class HalfLife(Schedule):
    """A row's weight halves with every `rows` rows that come after it.

    The exact share of m rows among N so weighted is (1 - 2^(-m / h)) / (1 - 2^(-N / h)): `Accumulate` as h grows.
    """

    rows: float

    def __post_init__(self) -> None:
        if not self.rows > 0:
            raise ValueError(f"half_life must be a positive number of rows; got {self.rows}.")

    def rate(self, step: int, batch: float, seen: float) -> float:
        if seen < 1e-9 * self.rows:  # the limit, where the exponentials would lose it
            return batch / seen
        return math.expm1(-batch / self.rows * math.log(2)) / math.expm1(-seen / self.rows * math.log(2))
