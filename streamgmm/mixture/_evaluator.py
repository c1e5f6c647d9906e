"""Mixtures made ready for the kernels: values that follow from the parameters and are needed more than once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels.cuda.backend import is_device_array
from streamgmm.kernels.plan import Plan
from streamgmm.mixture.covariance.base import AnyPlan
from streamgmm.mixture.missing import Patterns
from streamgmm.mixture.parameters import Parameters
from streamgmm.utils.affine import Affine

__all__ = ["Prepared", "pieces"]

Array = NDArray[np.float64]

PIECE_ROWS = 131_072
"""Rows whose statistics are summed in one go: no default chunk is larger."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A mixture made ready for the kernels.

    Attributes
    ----------
    plan : Plan, or FactorPlan
    origin, spread : (D,), and (D, D) lower triangular or (D,)
        The frame: x = origin + spread z.
    patterns : Patterns
        For rows with missing entries.
    """

    plan: AnyPlan
    origin: Array
    spread: Array
    patterns: Patterns

    @classmethod
    def from_model(cls, model: Parameters) -> Prepared:
        """`model` is kept: give a copy that knows nothing of this, or the two are a cycle."""
        base = -np.inf if model.noise_weight == 0.0 else float(np.log(model.noise_weight)) - model.log_volume
        plan, spread = model.plan(base)
        return cls(plan, plan.shift, spread, Patterns(model, plan, spread))

    def behind(self, affine: Affine) -> Prepared | None:
        """The same for rows that `affine` has still to move; None where it cannot be taken in (`Mixture.through`)."""
        joined = affine.before(self.plan.shift, self.plan.whiten)
        if joined is None:
            return None
        plan = cast(Plan, self.plan)  # or a FactorPlan, which has these fields too
        assert plan.own is not None
        own = replace(plan.own, move=affine.apply)
        return replace(self, plan=plan._replace(shift=joined[0], whiten=joined[1], own=own))


def pieces(rows: NDArray[Any], weight: Array | None) -> Iterator[tuple[int, NDArray[Any], Array | None]]:
    """Runs of at most `PIECE_ROWS` rows: the number of the first one, the rows, and their weights.

    Rows on a graphics card are one piece: many partial sums are kept there.
    """
    if len(rows) <= PIECE_ROWS or is_device_array(rows):
        yield 0, rows, weight
        return
    for start in range(0, len(rows), PIECE_ROWS):
        part = slice(start, start + PIECE_ROWS)
        yield start, rows[part], None if weight is None else weight[part]
