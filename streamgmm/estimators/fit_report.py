"""Account of a fit: its report, the lines of `verbose`, and a warning where it did not converge."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from streamgmm.em.candidates import Candidates, Initialization, best
from streamgmm.mixture.criteria import criteria
from streamgmm.mixture.mixture import Mixture
from streamgmm.utils import html

Array = NDArray[np.float64]

__all__ = [
    "Clock",
    "FitReport",
    "overall_of",
    "print_progress",
    "report_of",
    "warn_if_drowned",
    "warn_unless_converged",
    "words_of_drowned",
    "words_of_long_tails",
]


@dataclass(frozen=True, slots=True)
class Clock:
    """Times at which a fit and its EM steps began, by `time.perf_counter`."""

    began: float
    started: float

    def seconds(self) -> dict[str, float]:
        now = perf_counter()
        return {"total": now - self.began, "start": self.started - self.began, "em": now - self.started}


class FitReport(dict[str, Any]):
    """`report_`: a dict of what happened. `print(gm.report_)` and a notebook show a short form of it.

    Examples
    --------
    >>> print(FitReport(solver="auto", n_passes=3, converged=True, n_iter=12, rows=500, repairs=[]))
    converged after 12 iterations, 3 passes over 500 rows (solver auto)
    """

    def short(self) -> dict[str, Any]:
        """Short form of the report, in words and numbers; nothing that the report does not hold.

        Examples
        --------
        >>> FitReport(solver="auto", n_passes=3, n_iter=12, seconds={"total": 1.5}).short()
        {'iterations': 12, 'passes': 3, 'solver': 'auto', 'seconds': 1.5}
        """
        names = {
            "converged": "converged", "iterations": "n_iter", "passes": "n_passes", "rows": "rows",
            "rows without values": "dropped", "solver": "solver", "log-likelihood": "loglik", "BIC": "bic",
            "AIC": "aic", "ICL": "icl",
        }  # fmt: skip
        found = {name: self[key] for name, key in names.items() if self.get(key) is not None}
        if found.get("rows without values") == 0:
            del found["rows without values"]
        seconds = self.get("seconds")
        if seconds is not None:
            found["seconds"] = seconds["total"] if isinstance(seconds, dict) else seconds
        counted = {"starts": len(self.get("starts", ())), "repairs": len(self.get("repairs", ()))}
        return found | {name: number for name, number in counted.items() if number}

    def __str__(self) -> str:
        found = self.short()
        end = {True: "converged", False: "not converged"}.get(found.pop("converged", None), "")
        parts = [f"{end} after {found.pop('iterations')} iterations" if "iterations" in found else end]
        if "passes" in found:
            rows = f" over {found.pop('rows'):,} rows" if "rows" in found else ""
            parts.append(f"{found.pop('passes')} passes{rows}")
        head = ", ".join(part for part in parts if part)
        if "solver" in found:
            head = f"{head} (solver {found.pop('solver')})".strip()
        rest = ", ".join(f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}"
                         for name, value in found.items())  # fmt: skip
        return f"{head}\n{rest}" if rest else head

    def _repr_html_(self) -> str:
        return html.wrapped("Report of the fit", html.facts(self.short().items()), html.folded("all", html.pre(self)))


def report_of(candidates: Candidates, begin: Initialization, *, solver: str, n_passes: int, clock: Clock) -> FitReport:
    """`report_` of an estimator: starts, repairs, seconds, and the criteria of the last E-step where there was one over
    all rows under one model."""
    winner = best(candidates)
    report = FitReport({
        "solver": solver,
        "objective": "mean log-likelihood" if begin.prior is None else "penalised mean log-likelihood",
        "n_passes": n_passes,
        "n_iter": winner.n_iter,
        "converged": winner.status == "converged",
        "starts": [
            {"index": c.index, "lower_bound": c.objective, "n_iter": c.n_iter, "status": c.status,
             "rejected": c.rejected}
            for c in candidates
        ],
        "explored": [{"init": one.init, "score": one.score} for one in begin.explored],
        "repairs": list(winner.repairs),
        "seconds": clock.seconds(),
    })  # fmt: skip
    if begin.gathering is not None:
        report["far_rows"] = begin.gathering.words
    if winner.last is not None:
        last, df = winner.last, winner.model.n_parameters
        report |= {"rows": last.rows, "weight": last.count, "dropped": last.dropped, "n_parameters": df}
        if np.isnan(last.loglik):
            report["criteria"] = (
                f"not given: solver={solver!r} never evaluates all rows under one model. Use bic(X), aic(X), icl(X) "
                "or score(X)."
            )
        else:
            report |= {"loglik": last.loglik, **criteria(last.loglik, last.log_max, last.count, df)}
    return report


def warn_unless_converged(candidates: Candidates, tol: float, max_iter: int, stacklevel: int) -> None:
    """Say so where the best start was still on its way; `stacklevel` is that of the caller's caller, and so on."""
    winner = best(candidates)
    if winner.status != "converged":
        remedy = "Raise max_iter or tol"
        if winner.status == "stopped" and winner.n_iter < max_iter:  # it gave up
            remedy = "Its last passes gained nothing: accept it, go on with solver='exact' and warm_start"
        far = f"{winner.distance:.2g} nats per row" if np.isfinite(winner.distance) else "not known yet"
        warnings.warn(
            f"Best performing initialization did not converge after {winner.n_iter} iterations: the estimated "
            f"distance to the limit is {far}, tol is {tol:g}. "
            f"{remedy}, change the init parameters, or check for degenerate data.",
            ConvergenceWarning,
            stacklevel=stacklevel + 1,
        )


DROWNED = 0.5
"""Part of a feature's variance above which `reg_covar` hides what clusters there are in it."""


def drowned(mean: Array, variance: Array, reg_covar: float) -> NDArray[np.intp]:
    """Features (of D) that vary, and whose variance is not well above what `reg_covar` adds to it."""
    with np.errstate(over="ignore"):
        varies = variance > np.maximum((1e-12 * np.abs(mean)) ** 2, 1e-12 * reg_covar)
    return np.flatnonzero(varies & (reg_covar > DROWNED * variance))


def words_of_drowned(mean: Array, variance: Array, reg_covar: float, names: Sequence[str]) -> tuple[str, str] | None:
    """Fault of `reg_covar`, and the remedy; None where there is none."""
    which = drowned(mean, variance, reg_covar)
    if not len(which):
        return None
    listed = ", ".join(f"{names[i]} ({variance[i]:.2g})" for i in which[:5]) + (", ..." if len(which) > 5 else "")
    fitting = 1e-6 * float(variance[which].min())
    return (
        f"reg_covar={reg_covar:g} is added to every variance, and more than half of the variance of feature(s) "
        f"{listed}: clusters closer than {np.sqrt(reg_covar):.2g} in their units cannot be told apart.",
        f"Set reg_covar={fitting:.1g}, or scale the features: make_pipeline(sg.Scaler(), ...), --scale on the command "
        "line.",
    )


def words_of_long_tails(names: Sequence[str]) -> tuple[str, str]:
    """Words on features to be fitted in logarithms, and the remedy."""
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (
        f"Feature(s) {listed} are positive, skewed, and spread over decades, as amounts of money and counts are: "
        "Gaussians tile such a tail, and no number of them is right.",
        "Take logarithms before the fit (np.log; np.log1p where there are zeros).",
    )


def overall_of(model: Mixture, reg_covar: float) -> tuple[Array, Array]:
    """(D,) means and variances of the rows behind a model, without what `reg_covar` added."""
    share = model.weights / model.weights.sum()
    mean = share @ model.means
    variances = model.family.variances(model.covariances, *model.means.shape)
    with np.errstate(over="ignore"):
        variance = share @ variances + share @ (model.means - mean) ** 2 - reg_covar
    if model.family is not model.family.unconstrained:  # put together from axes, and rounded like the largest
        variance = np.where(variance > 16 * np.finfo(float).eps * variance.max(), variance, 0.0)
    return mean, variance


def warn_if_drowned(model: Mixture, reg_covar: float, names: Sequence[Any] | None, stacklevel: int) -> None:
    """Say so where `reg_covar` is large in the units of the data."""
    named = [f"x{i}" for i in range(model.n_features)] if names is None else [str(name) for name in names]
    words = words_of_drowned(*overall_of(model, reg_covar), reg_covar, named)
    if words:
        warnings.warn(" ".join(words), UserWarning, stacklevel=stacklevel + 1)


def print_progress(candidates: Candidates, iteration: int, every: int) -> None:
    """A line for every so many passes and for the last one, as scikit-learn's `verbose` prints."""
    if iteration == 1:
        print(f"Initialization: {len(candidates)} start(s)")
    running = sum(c.status == "running" for c in candidates)
    if iteration % every == 0 or not running:
        leader = best(candidates)
        change = leader.trace[-1] - leader.trace[-2] if len(leader.trace) > 1 else np.inf
        print(f"  Iteration {iteration}\t ll per row {leader.objective:.9g}\t change {change:.5g}\t running {running}")
