"""Row labels: columns that number or name the rows, written beside the data by pandas, Dask and spreadsheets.

They are no features. Row labels are the columns that the metadata of pandas in Parquet and Arrow files call the index,
the names that pandas and Dask give to an index without a name, and columns without a name in front of named ones: what
`to_csv` writes for an index, and pandas reads as "Unnamed: 0". The latter only where they hold whole numbers, text, or
numbers that only rise or only fall.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from streamgmm.sources.base import Source

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "are_labels",
    "index_columns",
    "numbers_rows",
    "pandas_index",
    "row_labels",
    "tell_left_out",
    "tell_of",
    "told_apart",
]

log = logging.getLogger("streamgmm.sources")

_RESERVED = re.compile(r"__index_level_\d+__|__null_dask_index__")
_NAMELESS = re.compile(r"\s*|Unnamed: \d+(_level_\d+)?")


def row_labels(
    names: Sequence[str], marked: Iterable[str] = (), looks_so: Callable[[str], bool] = lambda _: False
) -> tuple[str, ...]:
    """Those of the columns `names` that are row labels, in order.

    Parameters
    ----------
    marked : names that the file's own metadata call an index
    looks_so : whether a leading column without a name holds what labels hold
    """
    known = set(marked)
    labels, leading = [], any(not _NAMELESS.fullmatch(name) for name in names)
    for name in names:
        nameless = _NAMELESS.fullmatch(name) is not None
        if name in known or _RESERVED.fullmatch(name) or (leading and nameless and looks_so(name)):
            labels.append(name)
        leading = leading and (nameless or name in labels)
    return tuple(labels)


def pandas_index(metadata: Mapping[bytes, bytes] | None) -> tuple[str, ...]:
    """The index columns that the schema metadata of pandas name, {b"pandas": JSON}; none where there are none."""
    try:
        index = json.loads((metadata or {})[b"pandas"])["index_columns"]
    except (KeyError, TypeError, ValueError):
        return ()
    return tuple(name for name in index if isinstance(name, str))


def index_columns(schema: pa.Schema) -> tuple[str, ...]:
    """The row labels among the columns of a pyarrow schema."""
    import pyarrow.types as t

    def looks_so(name: str) -> bool:
        kind = schema.field(schema.names.index(name)).type
        return bool(t.is_integer(kind) or t.is_string(kind) or t.is_large_string(kind))

    return row_labels(schema.names, pandas_index(schema.metadata), looks_so)


def are_labels(values: Sequence[str]) -> bool:
    """True if the fields of a column without a name are labels: whole numbers, text, or only rising or falling."""
    if not all(value.strip() for value in values):
        return False  # a label is never missing
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return True
    steps = [b - a for a, b in pairwise(numbers)]
    one_way = bool(steps) and (all(step > 0 for step in steps) or all(step < 0 for step in steps))
    return one_way or all(number.is_integer() for number in numbers)


def numbers_rows(values: ArrayLike) -> bool:
    """True for whole numbers that go up by one from row to row, two of them at least: a row number."""
    values = np.asarray(values)
    whole = values.dtype.kind in "iu" or (values.dtype.kind == "f" and bool((values == np.floor(values)).all()))
    return whole and len(values) > 1 and bool((np.diff(values.astype(np.float64)) == 1).all())


def told_apart(names: Sequence[str]) -> list[str]:
    """Column names with those that are empty numbered as pandas does, where there is more than one."""
    if sum(not name for name in names) < 2:
        return list(names)
    return [name or f"Unnamed: {i}" for i, name in enumerate(names)]


def tell_of(source: Source) -> None:
    """Say once what a person should know of how the data of a source were understood."""
    tell_left_out(source.name, source.left_out)
    if source.notice:
        log.warning("%s: %s.", source.name, source.notice)


def tell_left_out(name: str, labels: Sequence[str]) -> None:
    """Say once that row labels are left out, where there are any."""
    if labels:
        log.warning(
            "%s: left out the row labels %s, which are no features. To use them all the same, choose columns=[...].",
            name,
            ", ".join(map(repr, labels)),
        )
