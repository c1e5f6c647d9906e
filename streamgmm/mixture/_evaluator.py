"""A mixture made ready to be asked: what follows from its parameters, and rows run through the kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import NonFiniteRowError
from streamgmm.kernels.cuda.backend import is_device_array
from streamgmm.kernels.plan import Plan
from streamgmm.mixture.covariance.base import AnyPlan
from streamgmm.mixture.missing import Answers, Patterns
from streamgmm.mixture.parameters import Parameters
from streamgmm.mixture.stats import Stats, stats_from_sums
from streamgmm.utils.affine import Affine

__all__ = ["Prepared"]

Array = NDArray[np.float64]

PIECE_ROWS = 131_072
"""Rows whose statistics are summed in one go: no default chunk is larger."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Values of a mixture that are needed more than once.

    Attributes
    ----------
    model : Parameters
        A copy of the mixture that knows nothing of this, or the two were a cycle.
    plan : Plan, or FactorPlan
    origin, spread : (D,), and (D, D) lower triangular or (D,)
        The frame: x = origin + spread z.
    patterns : Patterns
        For rows with missing entries.
    """

    model: Parameters
    plan: AnyPlan
    origin: Array
    spread: Array
    patterns: Patterns

    @classmethod
    def from_model(cls, model: Parameters) -> Prepared:
        base = -np.inf if model.noise_weight == 0.0 else float(np.log(model.noise_weight)) - model.log_volume
        plan, spread = model.plan(base)
        return cls(model, plan, plan.shift, spread, Patterns(model, plan, spread))

    def behind(self, affine: Affine) -> Prepared | None:
        """The same for rows that `affine` has still to move; None where it cannot be taken in (`Mixture.through`)."""
        joined = None if self.model.missing else affine.before(self.plan.shift, self.plan.whiten)
        if joined is None:
            return None
        plan = cast(Plan, self.plan)  # or a FactorPlan, which has these fields too
        assert plan.own is not None
        own = replace(plan.own, move=affine.apply)
        return replace(self, plan=plan._replace(shift=joined[0], whiten=joined[1], own=own))

    def stats(self, rows: NDArray[Any], weight: Array | None) -> Stats:
        """Statistics in the frame. Very large chunks are taken in pieces: rounding in a kernel's sums grows with rows.

        Raises
        ------
        NonFiniteRowError
            With the number of the row.
        """
        if is_device_array(rows):  # many partial sums are kept there
            return self._piece(rows, weight)
        total: Stats | None = None
        for start in range(0, max(len(rows), 1), PIECE_ROWS):
            part = slice(start, start + PIECE_ROWS)
            try:
                stats = self._piece(rows[part], None if weight is None else weight[part])
            except NonFiniteRowError as error:
                raise NonFiniteRowError(start + error.row) from None
            total = stats if total is None else total.merge(stats)
        assert total is not None
        return total

    def _piece(self, rows: NDArray[Any], weight: Array | None) -> Stats:
        model = self.model
        if model.missing:
            if is_device_array(rows):
                raise TypeError("missing values are marginalized on the host: pass NumPy rows, or missing='error'.")
            stats, _, _ = self.patterns.run(rows, weight, statistics=True)
            assert stats is not None
        else:
            stats = stats_from_sums(
                model.family, model.family.sums(self.plan, rows, weight, statistics=True), self.plan
            )
        return stats if model.observation is None else replace(stats, observation=model.observation)

    def restored(self, stats: Stats) -> Stats:
        """Statistics in the units of the data, from means that are less the components' own, in the frame."""
        spread = self.spread
        with np.errstate(over="ignore", invalid="ignore"):  # variances beyond doubles: see `repair`
            mean = stats.mean * spread if spread.ndim == 1 else stats.mean @ spread.T
            scatter = self.model.family.spread_scatter(stats.scatter, spread)
        return Stats(
            stats.weight, mean + self.model.means, scatter, stats.loglik, stats.entropy, stats.log_max, stats.count,
            stats.rows, stats.family, stats.observation, stats.dropped,
        )  # fmt: skip

    def totals(self, rows: NDArray[Any], weight: Array | None) -> Array:
        """(5,) sums; see `Mixture.totals`."""
        if self.model.missing:
            return self.patterns.run(rows, weight, statistics=False)[1]
        return self.model.family.sums(self.plan, rows, weight, statistics=False).totals

    def answer(self, rows: NDArray[Any], answers: Answers) -> None:
        """Fill in what is wanted of each row."""
        if self.model.missing or answers.filled is not None:
            self.patterns.run(rows, None, statistics=False, answers=answers)
        else:
            logp, resp, label = answers.logp, answers.resp, answers.label
            self.model.family.sums(self.plan, rows, None, statistics=False, logp=logp, resp=resp, label=label)
