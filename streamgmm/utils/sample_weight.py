"""Sample weights: 0 is no row, 2 is the row twice; none is negative, NaN or infinite."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.utils.masked import unmasked

__all__ = ["as_weights", "check_total", "check_weight", "first_bad", "no_rows"]

Array = NDArray[np.float64]


def as_weights(weight: object) -> Array:
    """Sample weights as float64; what is masked is NaN.

    Raises
    ------
    ValueError
        For text, complex numbers and objects that are no numbers.
    """
    weight = unmasked(weight)
    if isinstance(weight, str):
        raise ValueError(
            f"sample_weight must be numbers, one for each row; got the text {weight!r}. If it names a column: "
            f"open_source(X, weight={weight!r})."
        )
    try:
        array = np.asarray(weight)
        if array.dtype.kind not in "iufbO":
            raise TypeError(f"dtype {array.dtype}")
        return np.ascontiguousarray(array, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"sample_weight must be real numbers, one for each row; got a {type(weight).__name__} that holds something "
            f"else ({error}). Convert it to float64 first."
        ) from None


def first_bad(weight: Array) -> int | None:
    """The first row whose weight is no weight, or None."""
    bad = ~((weight >= 0) & (weight < np.inf))
    return int(np.argmax(bad)) if bad.any() else None


def check_weight(sample_weight: ArrayLike | None, n_rows: int) -> Array | None:
    """Sample weights as (N,) float64, or None.

    Raises
    ------
    ValueError
        Where the length is wrong, or a weight is negative, NaN or infinite (the message names the row).
    """
    if sample_weight is None:
        return None
    weight = as_weights(sample_weight)
    if weight.shape != (n_rows,):
        raise ValueError(f"sample_weight must have shape ({n_rows},), one weight a row; got {weight.shape}.")
    row = first_bad(weight)
    if row is not None:
        raise ValueError(
            f"sample_weight must be finite and >= 0 (0 leaves a row out); row {row} has {weight[row]}."
            + (" Negative weights have no meaning in a likelihood." if weight[row] < 0 else "")
        )
    with np.errstate(over="ignore"):
        check_total(float(weight.sum()))
    return weight


def check_total(total: float) -> None:
    """Refuse weights whose sum leaves no room for products with them, or too few digits; 0 is for others to judge.

    Raises
    ------
    ValueError
    """
    if total and not 1e-300 <= total <= 1e300:
        raise ValueError(
            f"sample_weight: the weights sum to {total}; expected a sum from 1e-300 to 1e300. Divide them by their "
            "mean."
        )


def no_rows() -> ValueError:
    """The error for data without a row of positive weight."""
    return ValueError("There is nothing to fit: no rows, or all of their weights are zero. Expected a positive weight.")
