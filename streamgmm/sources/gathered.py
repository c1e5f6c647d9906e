"""Rows that no Gaussian could hold together with the others, as a fit takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.sources.base import Chunk, Rows, Source, Weights
from streamgmm.sources.wrapped import WrappedChunk, WrappedSource

__all__ = ["Gathering", "gathered"]

Array = NDArray[np.float64]

_ENTRY = "far_rows"
"""Name of the array of a model file."""


@dataclass(frozen=True, slots=True, eq=False)
class Gathering:
    """Changes to the numbers of rows far away, before a fit sees them.

    Attributes
    ----------
    centre, reach : (D,)
        A number is far where it lies more than `reach` from `centre`.
    place : (D,) or None
        Where a row with such a number is put, so that all of them are one point; None: the number is cut to `reach`.
    aside : bool
        Whether such a row has weight 0 instead; the place is then of no account.
    """

    centre: Array
    reach: Array
    place: Array | None = None
    aside: bool = False

    def far(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        """(n,) mask of the rows (n, D) with a number that is far; NaN is not."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray((np.abs(rows - self.centre) > self.reach).any(axis=1))

    def __call__(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The rows (n, D) as a fit takes them: the same array where none is far."""
        far = self.far(rows)
        if not far.any():
            return rows
        rows = np.array(rows)
        if self.place is None:
            rows[far] = np.clip(rows[far], self.centre - self.reach, self.centre + self.reach)
        else:
            rows[far] = self.place
        return rows

    def weighed(self, rows: Rows, weight: Weights) -> Weights:
        """(n,) weights of the rows as a fit takes them: the same where none is set aside."""
        far = self.far(rows) if self.aside else np.zeros(0, bool)
        if not far.any():
            return weight
        weight = np.ones(len(rows)) if weight is None else np.array(weight)
        weight[far] = 0.0
        return weight

    def stretched(self, shift: Array, scale: Array) -> Gathering:
        """The same for rows x scale + shift."""
        place = None if self.place is None else self.place * scale + shift
        return replace(self, centre=self.centre * scale + shift, reach=self.reach * scale, place=place)

    def arrays(self) -> dict[str, Array]:
        """Entries that a model file keeps: (4, D) centre, reach, place (NaN where there is none), and aside."""
        place = np.full(len(self.centre), np.nan) if self.place is None else self.place
        return {_ENTRY: np.stack([self.centre, self.reach, place, np.full(len(place), float(self.aside))])}

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]], n_features: int) -> Gathering | None:
        """The treatment among the arrays of a model file; None where nothing was done to rows far away."""
        if _ENTRY not in arrays:
            return None
        parts = arrays[_ENTRY]
        sound = parts.dtype == np.float64 and parts.shape == (4, n_features) and np.isfinite(parts[:2]).all()
        if not sound or (parts[1] < 0).any():
            raise ValueError(f"{_ENTRY} must hold finite float64 numbers of shape (4, {n_features})")
        centre, reach, place, aside = parts
        return cls(centre, reach, None if np.isnan(place).any() else place, bool(aside.all()))

    @property
    def words(self) -> str:
        """Record of the changes, for the report of a fit."""
        if self.aside:
            return (
                "Rows far from all others were set aside: they weigh next to nothing, or the prior pulls the mean of "
                "their component towards the others, and no covariance holds both."
            )
        if self.place is None:
            return f"Numbers beyond {self.reach.max():g} counted as that."
        return (
            "Rows far from all others and from each other counted as one point: no covariance holds sizes so different."
        )


@dataclass(frozen=True, slots=True)
class GatheredChunk(WrappedChunk):
    """A chunk whose rows pass through `gathering`."""

    gathering: Gathering

    def load(self) -> tuple[Rows, Weights]:
        rows, weight = self.chunk.load()
        return self.gathering(rows), self.gathering.weighed(rows, weight)


class GatheredSource(WrappedSource):
    """`source` with its rows as `gathering` leaves them."""

    def __init__(self, source: Source, gathering: Gathering) -> None:
        super().__init__(source)
        self.gathering = gathering
        self.has_weights = source.has_weights or gathering.aside

    def over(self, source: Source) -> Source:
        return GatheredSource(source, self.gathering)

    def wrapped(self, chunk: Chunk) -> Chunk:
        return GatheredChunk(chunk, self.gathering)

    def fingerprint(self) -> dict[str, Any]:
        return self.source.fingerprint()


def gathered(source: Source, gathering: Gathering | None) -> Source:
    """`source` as a fit takes its rows: itself where nothing is far."""
    return source if gathering is None else GatheredSource(source, gathering)
