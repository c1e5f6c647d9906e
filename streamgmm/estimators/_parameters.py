"""Values that parameters of estimators may have: once for all of them."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from sklearn.utils._param_validation import Interval, StrOptions

from streamgmm.mixture.covariance import FAMILIES, MCLUST
from streamgmm.runtime.executors import Executor

__all__ = ["DEVICE", "EXECUTION", "FAMILY", "NOT_NEGATIVE", "POSITIVE", "WHOLE"]

WHOLE = Interval(Integral, 1, None, closed="left")
NOT_NEGATIVE = Interval(Real, 0.0, None, closed="left")
POSITIVE = Interval(Real, 0.0, None, closed="neither")
FAMILY = StrOptions({*FAMILIES, *MCLUST})
EXECUTION: dict[str, list[Any]] = {
    "executor": [StrOptions({"threads", "dask"}), Executor, None],
    "n_jobs": [Integral, None],
}
DEVICE: dict[str, list[Any]] = {"device": [str, None]}
"""Of every estimator that reads."""
