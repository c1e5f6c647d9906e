"""Validation of batches: numbers of the right width, finite, and not counted before."""

from __future__ import annotations

import logging
from collections.abc import Sized
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamgmm.sources.arranged import FeatureNamesError, named_columns
from streamgmm.stream.batch import Batch, Position, StreamPositionError, compare
from streamgmm.stream.update import Counts
from streamgmm.utils.masked import unmasked
from streamgmm.utils.sample_weight import check_weight

__all__ = ["Intake", "Taken"]

Array = NDArray[np.float64]
log = logging.getLogger("streamgmm.stream")


@dataclass(frozen=True, slots=True)
class Taken:
    """Rows that may be learnt.

    Attributes
    ----------
    rows, weight : (n, D), and (n,) or None
    kept : (n,) int
        Which rows of the batch they are.
    refused : tuple of str
        Why others were set aside.
    names : tuple of str or None
        What the columns are called.
    """

    rows: Array
    weight: Array | None
    kept: NDArray[np.int64]
    refused: tuple[str, ...]
    names: tuple[str, ...] | None


@dataclass(slots=True)
class Intake:
    """Judges one batch, and counts what it leaves out.

    Attributes
    ----------
    counts : Counts
    position : Position
        Where the stream stands.
    n_features : int or None
    names : tuple of str
        What the features are called; empty where nobody said.
    on_bad, on_jump : see `StreamSession`
    """

    counts: Counts
    position: Position
    n_features: int | None
    names: tuple[str, ...]
    on_bad: str
    on_jump: str
    refused: list[str] = field(default_factory=list)

    def take(self, batch: Batch) -> Taken | None:
        """The rows of a batch to learn; None where all of them were counted before.

        Raises
        ------
        StreamPositionError
            Where the stream jumps, or goes back in a way that cannot be cut off.
        ValueError
            Where rows are bad, and that is no matter of setting them aside.
        """
        self.counts.rejected += batch.rejected
        rows, weight, names = self._numbers(batch)
        first = self._new_from(batch, len(rows) if not self.refused else _length(batch.rows), len(rows))
        if first is None:
            self.counts.rejected -= batch.rejected
            self.counts.repeated += len(rows)
            return None
        kept = np.arange(first, len(rows))
        if len(rows):
            finite = np.isfinite(rows[kept]).all(axis=1)
            bad = int((~finite).sum())
            if bad:
                self._refuse(f"{bad} row(s) with NaN or infinity")
                self.counts.refused_rows += bad
                kept = kept[finite]
        elif not self.refused:
            self.counts.empty += 1
        return Taken(rows[kept], None if weight is None else weight[kept], kept, tuple(self.refused), names)

    def _new_from(self, batch: Batch, n_rows: int, n_numbers: int) -> int | None:
        """The first row of a batch that is new; None where none is."""
        state, units = compare(batch, self.position, n_rows)
        if state == "repeated":
            return None
        if state == "torn" or (state == "jumps" and self.on_jump == "raise"):
            raise StreamPositionError(
                f"The stream stands at {self.position!r}; a batch from {batch.start!r} to {batch.end!r} with "
                f"{n_numbers} row(s) came. Expected it to go on from there; "
                + (
                    f"{units} are missing: begin where the snapshot says, or accept the loss with on_jump='count'."
                    if state == "jumps"
                    else "it went back and cannot be cut. Send whole batches again, or from the snapshot's position."
                )
            )
        if state == "jumps":
            self.counts.skipped += units
            log.warning("the stream jumped over %d from %r", units, self.position)
        if state == "overlaps":
            self.counts.repeated += units
            return units
        return 0

    def _numbers(self, batch: Batch) -> tuple[Array, Array | None, tuple[str, ...] | None]:
        """The rows of a batch as numbers, or none of them and the reason; and what the columns are called."""
        D, names = self.n_features, batch.names
        try:
            table, names = named_columns(batch.rows, batch.names, self.names)
            given = np.asarray(unmasked(table))
            if given.size and given.dtype.kind not in "fiub":
                raise TypeError(f"of type {given.dtype}")
            rows = np.ascontiguousarray(given, np.float64)
            weight = check_weight(batch.weight, len(rows)) if rows.ndim == 2 else None
        except FeatureNamesError as error:
            problem = f"other columns: {error}"
        except (TypeError, ValueError) as error:
            problem = f"not numbers: {str(error)[:80]}"
        else:
            if rows.size == 0:
                return np.empty((0, D or 1)), None, names
            if rows.ndim == 2 and D in (None, rows.shape[1]):
                return rows, weight, names
            problem = f"shape {rows.shape}, expected (n, {D or 'D'})"
        self.counts.refused_batches += 1
        self._refuse(f"a batch of {problem}")
        return np.empty((0, D or 1)), None, names

    def _refuse(self, why: str) -> None:
        if self.on_bad == "raise":
            raise ValueError(f"The stream brought {why}, after {self.position!r}. Set on_bad='set aside' to go on.")
        self.refused.append(why)
        log.warning("set aside after %r: %s", self.position, why)


def _length(rows: object) -> int:
    try:
        return len(rows) if isinstance(rows, Sized) else 0
    except TypeError:  # an array without dimensions
        return 0
