"""streamgmm: exact Gaussian mixtures for data larger than memory, and for data that never stop.

Importing this package compiles nothing and loads none of dask, zarr or pyarrow: each name is imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0.dev0"

_HOMES = {
    "GaussianMixture": "streamgmm.estimators.gaussian_mixture",
    "BayesianGaussianMixture": "streamgmm.estimators.bayesian_mixture",
    "Selection": "streamgmm.estimators.selection",
    "select": "streamgmm.estimators.select",
    "KMeans": "streamgmm.estimators.kmeans",
    "load": "streamgmm.estimators.loading",
    "Mixture": "streamgmm.mixture.mixture",
    "OutlierDetector": "streamgmm.estimators.outlier_detector",
    "PCA": "streamgmm.estimators.preprocessing",
    "Scaler": "streamgmm.estimators.preprocessing",
    "NormalInverseWishart": "streamgmm.mixture.prior",
    "Stats": "streamgmm.mixture.stats",
    "cauchy_schwarz_divergence": "streamgmm.mixture.divergence",
    "kl_bounds": "streamgmm.mixture.divergence",
    "kl_divergence": "streamgmm.mixture.divergence",
    "l2_distance": "streamgmm.mixture.divergence",
    "matched_kl_divergence": "streamgmm.mixture.divergence",
    "merge": "streamgmm.mixture.stats",
    "merge_streams": "streamgmm.estimators.streams",
    "StreamSession": "streamgmm.stream",
    "StreamPositionError": "streamgmm.stream",
    "describe": "streamgmm.diagnostics.explain",
    "cluster_scores": "streamgmm.diagnostics.cluster_scores",
    "diagnose": "streamgmm.diagnostics",
    "progress": "streamgmm.report.progress",
    "open_source": "streamgmm.sources",
    "write_report": "streamgmm.diagnostics.page",
    "sample_to_zarr": "streamgmm.mixture.sampling",
    "DeviceError": "streamgmm.errors",
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
