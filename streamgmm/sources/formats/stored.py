"""Stored matrices: which columns are wanted, the weights beside them, and a run of rows that is read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.sources.base import Chunk, Rows, RunSource, Weights
from streamgmm.sources.columns import Chosen, Pick, WeightChoice, check_weights, row_dtype, weight_array
from streamgmm.sources.formats.packed import Packing
from streamgmm.sources.integrity import check_shape
from streamgmm.sources.retry import retried

__all__ = ["StoredChunk", "StoredSource"]


@dataclass(frozen=True, slots=True)
class StoredChunk(Chunk):
    """Rows `start` to `stop` of a stored matrix.

    Attributes
    ----------
    n_stored : columns of the matrix
    pick : those that are wanted
    out : the type of the rows, float32 or float64
    name : of the source, for messages
    weight : (stop - start,), where weights are not a column
    """

    index: int
    start: int
    stop: int
    n_stored: int
    pick: Pick
    out: np.dtype[Any]
    name: str
    weight: Weights = field(repr=False)
    packing: Packing | None

    def load(self) -> tuple[Rows, Weights]:
        self.check()
        values = retried(self._read, self.name, self.index)
        check_shape(values.shape, (self.stop - self.start, self.n_stored), self.name, self.index)
        if self.packing is not None:
            values = self.packing.unpack(values)
        rows, found = self.pick.split(values, self.out)
        return rows, self.weight if found is None else check_weights(found, self.name, self.start, self.index)

    @abstractmethod
    def _read(self) -> NDArray[Any]:
        """(stop - start, n_stored) values as they are stored."""


_Fields = tuple[int, int, int, int, Pick, np.dtype[Any], str, Weights, Packing | None]


class StoredSource(RunSource):
    """A stored matrix."""

    name: str
    n_stored: int
    stored_dtype: np.dtype[Any]
    pick: Pick
    packing: Packing | None = None

    def _describe(
        self,
        name: str,
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        columns: Chosen,
        weight: WeightChoice,
        names: Sequence[str] | None = None,
    ) -> None:
        """Set what follows from the shape and type of what is stored and from what is wanted of it."""
        n_rows, self.n_stored = shape
        self.name = name
        self.stored_dtype = np.dtype(dtype)
        self.dtype = row_dtype(dtype, name)
        self.pick = Pick.from_choice(name, self.n_stored, columns, weight, names)
        self.n_features = self.pick.n_features(self.n_stored)
        if names is not None:
            chosen = range(self.n_stored) if self.pick.columns is None else self.pick.columns
            self.feature_names = tuple(names[i] for i in chosen)
        self.weight = weight_array(weight, name, n_rows)
        self.has_weights = weight is not None

    def _run(self, index: int, start: int, stop: int) -> _Fields:
        """The fields of `StoredChunk`."""
        weight = self.weights_of(start, stop)
        return index, start, stop, self.n_stored, self.pick, self.dtype, self.name, weight, self.packing

    def _unpack(self, packing: Packing | None) -> None:
        """Apply `packing` to what is read."""
        self.packing = packing
        if packing is not None:
            self.dtype = packing.dtype(self.stored_dtype)

    @property
    def _converts(self) -> bool:
        """True if rows are a copy of what is stored."""
        return self.pick.columns is not None or self.stored_dtype != self.dtype or self.packing is not None
