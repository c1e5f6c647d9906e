"""`streamgmm warmup`: compile the kernels before the first fit."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from streamgmm.cli.terminal import Json, emit
from streamgmm.sources.base import Source


def compile_kernels(covariance_types: Sequence[str], n_components: int, source: Source) -> float:
    """Seconds taken to compile what fits to `source` need: little where the cache is warm, or the table small."""
    from streamgmm.kernels import dispatch
    from streamgmm.mixture.covariance import FACTORS, family

    began = time.perf_counter()
    for kind in set(covariance_types) - {*FACTORS, "mclust"}:
        dispatch.ready(family(kind).kernel, n_components, source.n_features, source.dtype, source.most_rows)
    return time.perf_counter() - began


def warmup(json: Json = False) -> None:
    """Compile the kernels now rather than in the first fit.

    The compiled code is kept in a cache; where that folder cannot be written, each process compiles for itself.
    """
    from streamgmm.kernels import dispatch

    seconds = {}
    for dtype in (np.float64, np.float32):
        began = time.perf_counter()
        dispatch.warmup((dtype,))
        seconds[dtype.__name__] = time.perf_counter() - began
    if json:
        emit({"seconds": seconds})
    else:
        print(f"kernels ready: {sum(seconds.values()):.1f} s")
