"""Anything that holds rows becomes a `Source` of re-readable, picklable chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamgmm.sources.array import ArraySource
from streamgmm.sources.base import Chunk, Source

__all__ = ["Chunk", "Source", "array_source", "is_array_like", "open_source"]


def is_array_like(obj: Any) -> bool:
    """True for what scikit-learn would take as rows in memory: arrays, nested lists, tables."""
    module = type(obj).__module__.partition(".")[0]
    return not isinstance(obj, (str, Path, Source)) and module not in {"zarr", "dask", "h5py", "xarray"}


def array_source(X: Any, weight: Any = None, *, chunk_rows: int | None = None) -> Source:
    """A source over a checked two-dimensional array, without a copy."""
    return ArraySource(X, weight, chunk_rows=chunk_rows)


def open_source(obj: Any, *, columns: Any = None, weight: Any = None, chunk_rows: int | None = None) -> Source:
    """A source over `obj`."""
    if isinstance(obj, Source):
        return obj
    return array_source(obj, weight, chunk_rows=chunk_rows)
