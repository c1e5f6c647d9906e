"""Choice of columns: which stored columns are features, what they become, and the weights of their rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from streamgmm.sources.base import Rows, Weights
from streamgmm.utils.sample_weight import as_weights, first_bad

MAX_COLUMNS = 2**24
"""Columns that metadata may claim: no mixture has so many features."""


def row_dtype(dtype: DTypeLike, name: str | None = None) -> np.dtype[Any]:
    """float32 for float32, float64 for every other real type.

    Parameters
    ----------
    name : of what holds it, for messages

    Raises
    ------
    TypeError, ValueError
        For text, objects, times, complex numbers and records, with the remedy.
    """
    dtype, where = np.dtype(dtype), "" if name is None else f"{name}: "
    if dtype.kind in "iufb":
        return np.dtype(np.float32) if dtype.kind == "f" and dtype.itemsize == 4 else np.dtype(np.float64)
    if dtype.kind == "c":
        raise ValueError(
            f"{where}Complex data not supported: expected real numbers, got dtype {dtype}. Split the parts."
        )
    kinds = {"O": "Python objects", "U": "text", "S": "text", "T": "text", "M": "times", "m": "times", "V": "records"}
    remedy = (
        "Convert to float64 first, or choose numeric columns with columns=."
        if dtype.names is None
        else "Pass pandas.DataFrame(X), where every field is a column."
    )
    raise ValueError(f"{where}Expected numbers; got dtype {dtype} ({kinds.get(dtype.kind, 'no numbers')}). {remedy}")


def as_rows(values: ArrayLike, dtype: np.dtype[Any]) -> Rows:
    """`values` as C-contiguous native `dtype`; a view where nothing has to change."""
    return np.ascontiguousarray(values, dtype)


def check_weights(weights: object, name: str, start: int | None, index: int) -> NDArray[np.float64]:
    """`weights` of one chunk as float64.

    Raises
    ------
    ValueError
        Where one is negative, NaN or infinite, naming the row.
    """
    found = as_weights(weights)
    row = first_bad(found)
    if row is not None:
        where = f"row {start + row}" if start is not None else f"row {row} of chunk {index}"
        raise ValueError(
            f"{name}: sample weights must be finite and >= 0 (0 leaves a row out); {where} has {found[row]}."
        )
    return found


@dataclass(frozen=True, slots=True)
class Exclude:
    """In the place of `columns`: all but these names or positions.

    Attributes
    ----------
    optional : names that need not be there, as where they hold no numbers in some of several files
    """

    columns: tuple[Any, ...]
    optional: tuple[str, ...] = ()

    @classmethod
    def from_columns(cls, columns: str | int | Sequence[str | int]) -> Exclude | None:
        """Columns that `exclude=` names: by name, by position, or several."""
        columns = (columns,) if isinstance(columns, (str, int, np.integer)) else tuple(columns)
        return cls(columns) if columns else None


Chosen = Sequence[str | int] | Exclude | None
"""Columns by name or position; None is all of them."""
ColumnChoice = str | int | Chosen
"""The same as users say it: one column need not be in a list."""
WeightChoice = object
"""A column of weights by name or position, or the weights of all rows: an array, a series, a collection."""


@dataclass(frozen=True, slots=True)
class Pick:
    """Stored columns that are features, in their order, and the one that holds the sample weights."""

    columns: tuple[int, ...] | None
    weight: int | None

    @classmethod
    def from_choice(
        cls, name: str, n_stored: int, columns: ColumnChoice, weight: WeightChoice, names: Sequence[str] | None = None
    ) -> Pick:
        """Resolve positions and, where there are `names`, names.

        Raises
        ------
        ValueError
            For a column that does not exist, and where no feature is left.
        """
        if n_stored > MAX_COLUMNS:
            raise ValueError(
                f"{name}: its metadata declare {n_stored:,} columns; at most {MAX_COLUMNS:,} are read. Correct its "
                "shape, or bring rows to the first axis."
            )

        def position(column: object) -> int:
            if isinstance(column, (bool, np.bool_)):
                raise ValueError(
                    f"{name}: expected names or positions of columns; got {column}. For a mask of booleans: "
                    "numpy.flatnonzero(mask)."
                )
            if isinstance(column, str) and names is not None and column in names:
                return list(names).index(column)
            if isinstance(column, str) and names is None and column.isdecimal():
                column = int(column)  # as a terminal gives it
            if isinstance(column, (int, np.integer)) and -n_stored <= column < n_stored:
                return int(column) % n_stored
            known = (
                f"columns 0 to {n_stored - 1}"
                if names is None
                else ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
            )
            raise ValueError(f"{name}: there is no column {column!r}; expected some of {known}.")

        at = None if weight is None or not isinstance(weight, (str, int, np.integer)) else position(weight)
        if columns is None:
            chosen = None if at is None else tuple(i for i in range(n_stored) if i != at)
        elif isinstance(columns, Exclude):
            absent = set(columns.optional).difference(names or ())
            without = {position(column) for column in columns.columns if column not in absent} | {at}
            chosen = tuple(i for i in range(n_stored) if i not in without)
        else:
            if isinstance(columns, (str, int, np.integer)):
                columns = [columns]
            chosen = tuple(position(column) for column in columns)
            repeated = {i for i in chosen if chosen.count(i) > 1}
            if repeated:
                twice = [i if names is None else names[i] for i in sorted(repeated)]
                raise ValueError(f"{name}: a column is chosen twice: {', '.join(map(repr, twice))}. Name each once.")
        if chosen == () or n_stored == 0:
            raise ValueError(f"{name}: 0 feature(s) are left; expected at least one column besides the weights.")
        return cls(chosen, at)

    def n_features(self, n_stored: int) -> int:
        return n_stored if self.columns is None else len(self.columns)

    def split(self, values: NDArray[Any], dtype: np.dtype[Any]) -> tuple[Rows, NDArray[Any] | None]:
        """Features as rows, and the raw weights, of stored `values` (n, all columns)."""
        weights = None if self.weight is None else values[:, self.weight]
        return as_rows(values if self.columns is None else values[:, self.columns], dtype), weights


def weight_array(weight: WeightChoice, name: str, n_rows: int) -> Weights:
    """A `weight=` argument that is not a column: one number for each of `n_rows` rows, or None."""
    if weight is None or isinstance(weight, (str, int, np.integer)):
        return None
    array = as_weights(weight)
    if array.shape != (n_rows,):
        raise ValueError(f"{name}: sample weights must have shape ({n_rows},), one for each row; got {array.shape}.")
    return check_weights(array, name, 0, 0)


def digest(values: NDArray[Any]) -> str:
    """SHA-256 of the values, for fingerprints."""
    return hashlib.sha256(np.ascontiguousarray(values)).hexdigest()
