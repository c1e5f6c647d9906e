"""`streamgmm warmup`: compile the kernels before the first fit."""

from __future__ import annotations

import time
import warnings

import numpy as np

from streamgmm.cli.terminal import Json, emit


def compile_kernels(covariance_types: tuple[str, ...], dtype: str = "float64") -> float:
    """Seconds taken to compile what a fit of these covariance types needs (little where the cache is warm)."""
    from streamgmm import kernels
    from streamgmm.estimator import GaussianMixture

    began = time.perf_counter()
    kernels.warmup((np.dtype(dtype),))  # the forms that so small a fit does not reach
    rows = np.random.default_rng(0).normal(size=(64, 3)).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in covariance_types:
            model = GaussianMixture(2, covariance_type=kind, max_iter=1, random_state=0).fit(rows)
            model.predict(rows)
            model.score_samples(rows)
    return time.perf_counter() - began


def warmup(json: Json = False) -> None:
    """Compile the kernels now rather than in the first fit.

    The compiled code is kept in a cache; where that folder cannot be written, each process compiles for itself.
    """
    seconds = {dtype: compile_kernels(("full", "tied", "diag", "spherical"), dtype) for dtype in ("float64", "float32")}
    if json:
        emit({"seconds": seconds})
    else:
        print(f"kernels ready: {sum(seconds.values()):.1f} s")
