"""Anything that holds rows becomes a `Source` of re-readable, picklable chunks.

One file for each format; it is imported when somebody opens something of that format, never before.
"""

from __future__ import annotations

import os
from typing import Any

from numpy.typing import NDArray

from streamgmm.sources.base import Chunk, Slab, Source
from streamgmm.sources.columns import WeightChoice
from streamgmm.sources.features import again_without_text, leaving_out_text, open_features, tell_features
from streamgmm.sources.files import are_paths
from streamgmm.sources.formats.array import ArraySource
from streamgmm.sources.formats.device import lies_on_card
from streamgmm.sources.memory_budget import cached, limit_chunks
from streamgmm.sources.opening import open_quietly, open_source
from streamgmm.sources.unreadable import refuse_unreadable

__all__ = [
    "Chunk",
    "Slab",
    "Source",
    "again_without_text",
    "array_source",
    "cached",
    "is_array_like",
    "leaving_out_text",
    "limit_chunks",
    "open_features",
    "open_quietly",
    "open_source",
    "refuse_unreadable",
    "tell_features",
]

_READ_IN_CHUNKS = {"zarr", "dask", "h5py", "xarray", "dask_expr"}


def is_array_like(obj: object) -> bool:
    """True for what scikit-learn would take as rows in the memory of this process: arrays, nested lists, tables."""
    module = type(obj).__module__.partition(".")[0]
    if isinstance(obj, (str, os.PathLike, Source)) or are_paths(obj) or module in _READ_IN_CHUNKS:
        return False
    return not lies_on_card(obj)


def array_source(X: NDArray[Any], weight: WeightChoice = None, *, chunk_rows: int | None = None) -> Source:
    """A source over a checked two-dimensional array, without a copy."""
    return ArraySource(X, weight, chunk_rows=chunk_rows)
