"""What a fit remembers of each candidate model, and the plain update: M-step, repair, stopping, retirement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from streamgmm.em import CollapsedError, Models, m_step, objective
from streamgmm.mixture import Mixture
from streamgmm.prior import Conjugate
from streamgmm.repair import repairing_m_step
from streamgmm.stats import Stats
from streamgmm.stopping import Stopping


@dataclass(frozen=True, slots=True)
class Totals:
    """Scalars of the last E-step of a candidate."""

    loglik: float
    entropy: float
    log_max: float
    count: float
    rows: int
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One start on its way.

    Attributes
    ----------
    index : int
        Position among the starts.
    model : Mixture
        After the last update.
    trace : tuple of float
        Objective per row of each E-step, of the model before its M-step (see `em.objective`).
    status : {"running", "converged", "stopped"}
    last : Totals or None
    reseeds : tuple of int
        How often each component was re-seeded.
    repairs : tuple of dict
        What was repaired, in order.
    """

    index: int
    model: Mixture
    trace: tuple[float, ...] = ()
    n_iter: int = 0
    status: str = "running"
    last: Totals | None = None
    reseeds: tuple[int, ...] = ()
    repairs: tuple[dict[str, Any], ...] = ()

    @property
    def objective(self) -> float:
        return self.trace[-1] if self.trace else -np.inf


@dataclass(frozen=True, slots=True)
class Begin:
    """What a fit begins EM with.

    Attributes
    ----------
    models : tuple of Mixture
    prior : Conjugate or None
        With everything filled in that is taken from the data.
    rows : int or None
        Rows of positive weight, where they have been read.
    passes : int
        Readings so far.
    n_starts : int
    traces : tuple of tuples of float
        Objectives that the models' own continue, or nothing.
    """

    models: Models
    prior: Conjugate | None
    rows: int | None = None
    passes: int = 0
    n_starts: int = 1
    traces: tuple[tuple[float, ...], ...] = ()


Memory = tuple[Candidate, ...]
"""Every candidate, finished ones included, in the order of the starts."""


def candidates(models: Models, traces: tuple[tuple[float, ...], ...] = ()) -> Memory:
    """The memory before the first step."""
    traces = traces or ((),) * len(models)
    return tuple(
        Candidate(i, model, trace, reseeds=(0,) * model.n_components)
        for i, (model, trace) in enumerate(zip(models, traces, strict=True))
    )


def best(memory: Memory) -> Candidate:
    """The candidate with the highest objective; the earliest of equals."""
    return max(memory, key=lambda c: (c.objective, -c.index))


@dataclass(frozen=True, slots=True)
class PlainUpdate:
    """The M-step of exact EM for every running candidate; those that are done leave the tuple of models.

    Attributes
    ----------
    reg_covar : float
    stopping : callable (trace) -> bool
    max_iter : int
        E-steps per candidate.
    repair : bool
        False raises `CollapsedError` instead of mending.
    prior : Conjugate or None
    """

    reg_covar: float
    stopping: Stopping
    max_iter: int
    repair: bool = True
    prior: Conjugate | None = None

    def __call__(self, models: Models, totals: tuple[Stats, ...], memory: Memory) -> tuple[Models, Memory]:
        running = iter(totals)
        after = tuple(self._advance(c, next(running)) if c.status == "running" else c for c in memory)
        return tuple(c.model for c in after if c.status == "running"), after

    def _advance(self, candidate: Candidate, stats: Stats) -> Candidate:
        if stats.count <= 0:
            raise ValueError("sample_weight: at least one weight must be positive; all weights are zero.")
        trace = (*candidate.trace, objective(candidate.model, stats, self.prior))
        n_iter = candidate.n_iter + 1
        reseeds = candidate.reseeds
        events: tuple[dict[str, Any], ...] = ()
        if self.repair:
            model, reseeds, events = repairing_m_step(
                stats, reg_covar=self.reg_covar, reseeds=reseeds, prior=self.prior
            )
        else:
            model = m_step(stats, reg_covar=self.reg_covar, prior=self.prior)
            if (stats.weight < 1e-10 * stats.weight.sum()).any():
                raise CollapsedError(stats.weight < 1e-10 * stats.weight.sum())
        status = "running"
        if self.stopping(trace) and not any(e["action"] == "re-seeded" for e in events):
            status = "converged"
        elif n_iter >= self.max_iter:
            status = "stopped"
        return replace(
            candidate,
            model=model,
            trace=trace,
            n_iter=n_iter,
            status=status,
            last=Totals(stats.loglik, stats.entropy, stats.log_max, stats.count, stats.rows, stats.dropped),
            reseeds=reseeds,
            repairs=candidate.repairs + tuple({"iteration": n_iter, **e} for e in events),
        )
