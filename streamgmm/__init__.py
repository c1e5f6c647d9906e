"""streamgmm: exact Gaussian mixtures for data larger than memory, and for data that never stop.

Importing this package compiles nothing and loads none of dask, zarr or pyarrow: each name is imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0.dev0"

_HOMES = {
    "GaussianMixture": "streamgmm.estimator",
    "Selection": "streamgmm.selection",
    "select": "streamgmm.selection",
    "KMeans": "streamgmm.kmeans",
    "load": "streamgmm.estimator",
    "Mixture": "streamgmm.mixture",
    "OutlierDetector": "streamgmm.outlier",
    "PCA": "streamgmm.transforms",
    "Scaler": "streamgmm.transforms",
    "NormalInverseWishart": "streamgmm.prior",
    "Stats": "streamgmm.stats",
    "cauchy_schwarz_divergence": "streamgmm.distances",
    "kl_bounds": "streamgmm.distances",
    "kl_divergence": "streamgmm.distances",
    "l2_distance": "streamgmm.distances",
    "matched_kl_divergence": "streamgmm.distances",
    "merge": "streamgmm.stats",
    "merge_streams": "streamgmm.partial",
    "StreamSession": "streamgmm.stream",
    "StreamPositionError": "streamgmm.stream",
    "cluster_scores": "streamgmm.scoring",
    "diagnose": "streamgmm.diagnostics",
    "open_source": "streamgmm.sources",
    "sample_to_zarr": "streamgmm.sampling",
    "StreamGMMError": "streamgmm.errors",
    "ChunkReadError": "streamgmm.errors",
    "CheckpointMismatchError": "streamgmm.errors",
    "MemoryLimitError": "streamgmm.errors",
    "ModelFileError": "streamgmm.errors",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
