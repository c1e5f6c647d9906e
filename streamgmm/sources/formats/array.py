"""Rows that already are in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from streamgmm.sources.base import Chunk, Rows, RunSource, Source, Weights
from streamgmm.sources.chunking import check_chunk_rows, default_chunk_rows, even_runs
from streamgmm.sources.columns import Chosen, Pick, WeightChoice, as_rows, check_weights, row_dtype, weight_array

_LARGEST = 131_072
_MULTIPLE = 128
"""Rows that kernels take in one go."""


@dataclass(frozen=True, slots=True)
class ArrayChunk(Chunk):
    """A view of some rows."""

    index: int
    start: int | None
    rows: NDArray[Any]
    weight: Weights
    columns: tuple[int, ...] | None = None

    def load(self) -> tuple[Rows, Weights]:
        rows = self.rows if self.columns is None else self.rows[:, self.columns]
        return as_rows(rows, row_dtype(self.rows.dtype)), self.weight

    @property
    def shipped_bytes(self) -> int:
        return int(self.rows.nbytes)


def balanced_rows(n_rows: int, n_features: int) -> int:
    """Rows of each chunk of an array: up to twice the default, as views cost nothing, and equal.

    Their number is even, and of many a multiple of 8: an iteration has few, and one too many leaves a thread idle.
    """
    least = default_chunk_rows(n_features)
    if n_rows <= least:
        return least
    wanted = -(-n_rows // min(_LARGEST, 2 * least))
    unit = 8 if n_rows > 4 * least else 2
    chunks = -(-wanted // unit) * unit
    return -(-n_rows // (chunks * _MULTIPLE)) * _MULTIPLE


class ArraySource(RunSource):
    """A two-dimensional numeric array, cut into views; other layouts and types are converted chunk by chunk."""

    kind = "array"
    in_memory = True

    def __init__(
        self,
        rows: NDArray[Any],
        weight: WeightChoice = None,
        *,
        columns: Chosen = None,
        chunk_rows: int | None = None,
        name: str = "array",
        feature_names: tuple[str, ...] | None = None,
    ) -> None:
        self.name = name
        self.rows = rows
        self.dtype = row_dtype(rows.dtype, None if name == "array" else name)
        self.pick = Pick.from_choice(name, rows.shape[1], columns, weight, feature_names)
        self.n_features = self.pick.n_features(rows.shape[1])
        if feature_names is not None:
            chosen = range(rows.shape[1]) if self.pick.columns is None else self.pick.columns
            self.feature_names = tuple(feature_names[i] for i in chosen)
        if self.pick.weight is None:
            self.weight = weight_array(weight, name, len(rows))
        else:
            self.weight = check_weights(rows[:, self.pick.weight], name, 0, 0)
        self.has_weights = self.weight is not None
        size = balanced_rows(len(rows), self.n_features) if chunk_rows is None else check_chunk_rows(chunk_rows)
        self.set_runs(even_runs(len(rows), size))

    @property
    def as_stored(self) -> NDArray[Any] | None:
        """The rows where nothing has to be chosen, converted or copied, or None."""
        plain = self.pick.columns is None and self.rows.dtype == self.dtype and self.rows.flags.c_contiguous
        return self.rows if plain and not self.has_weights else None

    def chunk(self, index: int, start: int, stop: int) -> Chunk:
        weight = None if self.weight is None else self.weight[start:stop]
        return ArrayChunk(index, start, self.rows[start:stop], weight, self.pick.columns)

    def limited(self, max_rows: int) -> Source:
        if max_rows >= (self.max_chunk_rows or 0):
            return self
        return ArraySource(
            self.rows, self.weight, columns=self.pick.columns, chunk_rows=max_rows, name=self.name, feature_names=None
        )

    def fingerprint(self) -> dict[str, Any]:
        return self.fingerprint_of_values(self.rows.dtype)
