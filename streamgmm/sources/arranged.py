"""Columns are matched by name: the rows of a source with its features in the order that a model knows."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from streamgmm.sources.base import Chunk, Rows, Source, Weights
from streamgmm.sources.formats.tables import Columns, column_names, is_frame, select, without_labels
from streamgmm.sources.wrapped import WrappedChunk, WrappedSource

__all__ = [
    "ArrangedSource",
    "FeatureNamesError",
    "matched",
    "named_columns",
    "names_differ",
    "order_of",
    "select_names",
]


def matched(source: Source, names: Sequence[str], found: Sequence[str] | None = None) -> Source:
    """`source` with its features in the order of `names`; itself where they stand so, or where it names none.

    Parameters
    ----------
    names : of the features of a model
    found : of the features of the source, if not those that it tells itself

    Raises
    ------
    ValueError
        Where the source has other features, with both lists.
    """
    found = source.feature_names if found is None else found
    if found is None:
        return source
    order = order_of(found, names, source.name)
    if order is None:
        return source
    if isinstance(getattr(source, "columns", None), Columns) and source.feature_names is not None:
        chosen: Any = copy(source)  # columns that are read by name are read in the wanted order, without a copy
        chosen.columns = replace(chosen.columns, names=tuple(names))
        chosen.feature_names = tuple(names)
        source = chosen
        return source
    return ArrangedSource(source, order, tuple(names))


def order_of(found: Sequence[str], names: Sequence[str], where: str) -> tuple[int, ...] | None:
    """Positions of `names` among `found`; None where both are the same.

    Raises
    ------
    ValueError
        Where they are not the same names, each once.
    """
    found, names = list(found), list(names)
    if found == names:
        return None
    if len(set(found)) < len(found) or sorted(found) != sorted(names):
        raise names_differ(found, names, where)
    at = {name: i for i, name in enumerate(found)}
    return tuple(at[name] for name in names)


def select_names(table: object, names: Sequence[str]) -> Any:
    """The columns of a frame in the order of `names`.

    Raises
    ------
    ValueError
        Where it has others.
    """
    found = column_names(table)
    return table if order_of(found, names, "X") is None else select(table, names)


def named_columns(rows: Any, names: Sequence[str] | None, known: Sequence[str]) -> tuple[Any, tuple[str, ...] | None]:
    """Rows of a stream with their columns in the order of `known`, and what these are called.

    Parameters
    ----------
    rows : a frame, which is taken without its row labels, or an array of columns called `names`
    known : names of the features; empty where nobody said

    Raises
    ------
    FeatureNamesError
        Where the columns are others.
    """
    if is_frame(rows):
        rows, _ = without_labels(rows, known)
        labels = column_names(rows)
        names = labels if not hasattr(rows, "iloc") or list(rows.columns) == labels else None
    if names is None or not known:
        return rows, None if names is None else tuple(names)
    order = order_of(names, known, "X")
    if order is not None:
        rows = select(rows, known) if is_frame(rows) else np.asarray(rows)[:, list(order)]
    return rows, tuple(known)


class FeatureNamesError(ValueError):
    """Columns are not those that a model was fitted to."""


def names_differ(found: Sequence[str], names: Sequence[str], where: str) -> FeatureNamesError:
    """The error for columns that are not those of the fit, in scikit-learn's words."""
    unseen = [name for name in found if name not in set(names)]
    missing = [name for name in names if name not in set(found)]
    parts = ["The feature names should match those that were passed during fit."]
    if unseen:
        parts.append(f"Feature names unseen at fit time: {_listed(unseen)}.")
    if missing:
        parts.append(f"Feature names seen at fit time, yet now missing: {_listed(missing)}.")
    return FeatureNamesError(
        f"{where}: {' '.join(parts)} Expected the columns {_listed(names)}; found {_listed(found)}. Choose them by "
        "name, open_source(..., columns=[...]), or rename them."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:20])) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")


@dataclass(frozen=True, slots=True)
class ArrangedChunk(WrappedChunk):
    """A chunk whose columns are put in another order."""

    order: tuple[int, ...]

    def load(self) -> tuple[Rows, Weights]:
        rows, weights = self.chunk.load()
        return np.take(rows, self.order, axis=1), weights


class ArrangedSource(WrappedSource):
    """`source` with its features in another order."""

    def __init__(self, source: Source, order: tuple[int, ...], names: tuple[str, ...]) -> None:
        super().__init__(source)
        self.order = order
        self.feature_names = names

    def over(self, source: Source) -> Source:
        return ArrangedSource(source, self.order, self.feature_names or ())

    def wrapped(self, chunk: Chunk) -> Chunk:
        return ArrangedChunk(chunk, self.order)

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": "arranged", "order": list(self.order), "source": self.source.fingerprint()}
