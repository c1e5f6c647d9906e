"""Remarks about the fit: starts, convergence, the trace."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from streamgmm.diagnostics.case import Case, Check, Finding

__all__ = ["CHECKS"]


def single_start(case: Case) -> Iterator[Finding]:
    gm = case.gm
    if gm.n_init == 1 and case.model.n_components > 1 and gm.means_init is None and gm.n_iter_ > 0:
        yield Finding(
            "single-start",
            "One start only: EM finds the optimum nearest to where it began.",
            {"n_init": 1},
            "Set n_init=5 or 10; all starts share every pass over the data.",
        )


def not_converged(case: Case) -> Iterator[Finding]:
    gm = case.gm
    if not gm.converged_ and gm.n_iter_ > 0:
        trace = list(gm.lower_bounds_)
        gain = trace[-1] - trace[-2] if len(trace) > 1 else np.nan
        yield Finding(
            "not-converged",
            f"The fit ended after {gm.n_iter_} iterations before it converged (tol={gm.tol:g}).",
            {"n_iter": gm.n_iter_, "last_gain": gain},
            "Go on with warm_start=True and a larger max_iter.",
        )


def falling_trace(case: Case) -> Iterator[Finding]:
    gm = case.gm
    if gm.reg_covar != 0 or gm.report_.get("repairs") or len(gm.lower_bounds_) < 2:
        return
    trace = np.array(gm.lower_bounds_)
    falls = np.diff(trace)
    worst = float(falls.min())
    if worst < -1e-9 * max(1.0, float(np.abs(trace).max())):
        yield Finding(
            "falling-trace",
            f"The objective fell by {-worst:.3g} nats per row at iteration {int(falls.argmin()) + 2}.",
            {"largest_fall": -worst, "iteration": int(falls.argmin()) + 2},
            "Set reg_covar above 0: covariances that are nearly singular lose digits.",
        )


CHECKS: tuple[Check, ...] = (single_start, not_converged, falling_trace)
