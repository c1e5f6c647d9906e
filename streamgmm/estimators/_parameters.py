"""Values that parameters of estimators may have: once for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real
from operator import index
from typing import Any

from sklearn.utils._param_validation import Interval, StrOptions

from streamgmm.mixture.covariance import FAMILIES, MCLUST
from streamgmm.runtime.executors import Executor

__all__ = ["DEVICE", "EXECUTION", "FAMILY", "NOT_NEGATIVE", "POSITIVE", "WHOLE", "whole_numbers"]

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


def whole_numbers(values: Iterable[int], otherwise: str) -> list[int]:
    """One or more whole numbers.

    Raises
    ------
    ValueError
        With the text `otherwise`, where these are something else, or none.
    """
    try:
        found = [] if isinstance(values, bytes) else [index(value) for value in values]
    except TypeError:
        found = []
    if not found:
        raise ValueError(otherwise)
    return found
