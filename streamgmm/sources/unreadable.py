"""Objects that hold no rows which can be read again and again: what to pass instead."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

__all__ = ["refuse_unreadable"]


def refuse_unreadable(obj: Any) -> None:
    """Nothing for what may hold rows.

    Raises
    ------
    TypeError
        For lazy tables, single columns, one-shot iterators, open files and the like, with the remedy.
    """
    module, kind = type(obj).__module__.partition(".")[0], type(obj).__name__
    remedy: str | None = None
    if isinstance(obj, (bytes, bytearray)):
        remedy = "If it is a path, pass it as a str: os.fsdecode(path)."
    elif isinstance(obj, io.IOBase):
        remedy = f"Pass the path of the file, {getattr(obj, 'name', 'path')!r}: it is read anew for every pass."
    elif module == "pandas" and isinstance(obj, Iterator):
        remedy = "It can be read only once: pass the path of the file, or use GaussianMixture.partial_fit."
    elif isinstance(obj, Iterator):
        remedy = (
            "A one-shot iterator cannot be read again for every pass: give an array or a file, or use "
            "GaussianMixture.partial_fit, which takes an iterator of arrays."
        )
    elif module in ("pandas", "polars", "pyarrow"):
        remedy = _TABLES.get(kind)
    elif module in ("dask", "dask_expr"):
        remedy = _DASK.get(kind)
    elif isinstance(obj, (list, tuple)) and any(_is_delayed(item) for item in obj[:1]):
        module, kind = "list of dask", "Delayed"
        remedy = "Use da.concatenate([da.from_delayed(part, shape=(rows, D), dtype=float) for part in X])."
    elif type(obj) is dict:
        remedy = "Use pandas.DataFrame(X) for a dictionary of columns."
    if remedy is not None:
        came = kind if module in ("builtins", "_io") else f"{module} {kind}"
        raise TypeError(f"Expected rows of numbers: an array, a table or a path; got a {came}. {remedy}")


def _is_delayed(obj: Any) -> bool:
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
