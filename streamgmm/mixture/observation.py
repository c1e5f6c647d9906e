"""Rows that are not complete, or not drawn from a component: missing entries, and a background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Observation", "observed"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """Options of rows beside complete and drawn from a component. Statistics hold those of their mixture.

    Attributes
    ----------
    box : (2, D) lower and upper corners of the uniform background, or None where there is none.
    missing : True where NaN means "not observed" and is integrated out; False where it is an error.
    """

    box: Array | None = None
    missing: bool = False


def observed(box: ArrayLike | None, missing: str, D: int) -> Observation | None:
    """The `Observation` behind the arguments of `Mixture`, checked; None where nothing is special."""
    if missing not in ("error", "marginalize"):
        raise ValueError(f"missing must be 'error' or 'marginalize'; got {missing!r}.")
    if box is None:
        return Observation(None, True) if missing == "marginalize" else None
    corners = np.array(box, np.float64)
    if corners.shape != (2, D) or not np.isfinite(corners).all() or not (corners[0] < corners[1]).all():
        raise ValueError(
            f"box must have shape (2, {D}): finite lower corners, and upper ones above them; got {corners.tolist()}."
        )
    corners.flags.writeable = False
    return Observation(corners, missing == "marginalize")
