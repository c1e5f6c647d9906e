"""Objects that hold no rows which can be read again and again: what to pass instead."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

__all__ = ["refuse_unreadable"]


def refuse_unreadable(obj: object) -> None:
    """Nothing for what may hold rows.

    Raises
    ------
    TypeError
        For lazy tables, single columns, one-shot iterators, open files and the like, with the remedy.
    """
    module, kind = type(obj).__module__.partition(".")[0], type(obj).__name__
    remedy = _TABLES.get(kind) if module in ("pandas", "polars", "pyarrow") else None
    if isinstance(obj, (bytes, bytearray)):
        remedy = "If it is a path, pass it as a str: os.fsdecode(path)."
    elif isinstance(obj, io.IOBase):
        remedy = f"Pass the path of the file, {getattr(obj, 'name', 'path')!r}: it is read anew for every pass."
    elif isinstance(obj, Iterator) and remedy is None:
        remedy = (
            "A one-shot iterator cannot be read again for every pass: give an array or the path of the file, or use "
            "GaussianMixture.partial_fit, which takes an iterator of arrays or frames."
        )
    elif module in ("dask", "dask_expr"):
        remedy = _DASK.get(kind)
    elif isinstance(obj, (list, tuple)) and any(_is_delayed(item) for item in obj[:1]):
        module, kind = "list of dask", "Delayed"
        remedy = "Use da.concatenate([da.from_delayed(part, shape=(rows, D), dtype=float) for part in X])."
    elif kind == "NpzFile" and hasattr(obj, "files"):
        remedy = f"Choose one of its arrays: {', '.join(f'X[{name!r}]' for name in obj.files[:5])}."
    elif type(obj) is dict or getattr(getattr(obj, "dtype", None), "names", None):
        kind = "dict" if type(obj) is dict else "array of records"
        remedy = "Use pandas.DataFrame(X), where every key or field is a column."
    elif remedy is None and (obj is None or isinstance(obj, (set, frozenset)) or _holds_nothing(obj)):
        remedy = "See open_source for what is understood."
    if remedy is not None:
        came = kind if module in ("builtins", "_io", "numpy") else f"{module} {kind}"
        raise TypeError(f"Expected rows of numbers: an array, a table or a path; got a {came}. {remedy}")


def _holds_nothing(obj: object) -> bool:
    """True if neither NumPy nor scikit-learn would find anything in it."""
    doors = ("__array__", "__array_interface__", "__dataframe__", "__arrow_c_stream__", "__len__", "shape")
    return not np.isscalar(obj) and not any(hasattr(obj, door) for door in doors)


def _is_delayed(obj: object) -> bool:
    return type(obj).__module__.partition(".")[0] == "dask" and type(obj).__name__.startswith("Delayed")


_FRAME = "For a table of one column use X.to_frame()."
_TABLES = {
    "LazyFrame": "Collect it first: X.collect(); or write it to a Parquet file (X.sink_parquet) and pass its path.",
    "RecordBatch": "Use pyarrow.Table.from_batches([X]).",
    "RecordBatchReader": "Use X.read_all(), or write it to a file and pass its path.",
    "ChunkedArray": "Use pyarrow.table({'x': X}).",
}
_DELAYED = "Use da.from_delayed(X, shape=(rows, D), dtype=float), or X.compute()."
_DASK = {
    "Series": _FRAME,
    "Index": _FRAME,
    "Scalar": "Expected a dask array or dataframe.",
    "Delayed": _DELAYED,
    "DelayedLeaf": _DELAYED,
    "DelayedAttr": _DELAYED,
    "Bag": "Use X.to_dataframe().",
    "Item": "Use X.compute().",
}
