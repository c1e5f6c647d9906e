"""State of each candidate model of a fit: plain values, which a checkpoint holds as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from streamgmm.em.acceleration import AcceleratorState
from streamgmm.em.convergence import distance_to_limit
from streamgmm.em.loop import Models
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.prior import Conjugate
from streamgmm.mixture.stats import Stats
from streamgmm.sources.gathered import Gathering
from streamgmm.sources.summaries.sample import SampleSummary

OPTIMISM = 10.0
"""Gains like the last ones that a candidate is trusted to have before it."""

DUPLICATE_TOL = 1e-6
"""Nats per row, and relative to them, within which two candidates are one."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Scalars of the last E-step of a candidate."""

    loglik: float
    entropy: float
    log_max: float
    count: float
    rows: int
    dropped: int = 0

    @classmethod
    def from_stats(cls, stats: Stats) -> Totals:
        return cls(stats.loglik, stats.entropy, stats.log_max, stats.count, stats.rows, stats.dropped)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One start on its way. Plain values only: this is what a checkpoint holds.

    Attributes
    ----------
    index : int
        Position among the starts.
    model : Mixture
        After the last update.
    trace : tuple of float
        Accepted objective per row of each pass, of the model before its M-step (see `mixture.m_step.objective`); a
        rejected proposal repeats the value before it.
    status : {"running", "converged", "stopped", "dropped"}
    last : Totals or None
        Of the last accepted E-step.
    reseeds : tuple of int
        How often each component was re-seeded.
    repairs : tuple of dict
        What was repaired, in order.
    plain_from : int
        Where in the trace the present run of plain EM steps began: gains are compared within it only.
    pace : AcceleratorState
        What the accelerator remembers.
    rejected : int
        Proposals that were rejected.
    known : tuple of float
        Objectives of the plain EM steps on the same rows that led here, before the first pass.
    """

    index: int
    model: Mixture
    trace: tuple[float, ...] = ()
    n_iter: int = 0
    status: str = "running"
    last: Totals | None = None
    reseeds: tuple[int, ...] = ()
    repairs: tuple[dict[str, Any], ...] = ()
    plain_from: int = 0
    pace: AcceleratorState = field(default_factory=AcceleratorState)
    rejected: int = 0
    known: tuple[float, ...] = ()

    @property
    def objective(self) -> float:
        return self.trace[-1] if self.trace else -np.inf

    @property
    def distance(self) -> float:
        """Estimated distance of the objective to its limit, in nats per row; infinity while unknown."""
        return distance_to_limit(self.plain)

    @property
    def plain(self) -> tuple[float, ...]:
        """The objectives of the present run of plain EM steps."""
        return (() if self.plain_from else self.known) + self.trace[self.plain_from :]

    def reach(self, optimism: float = OPTIMISM) -> float:
        """The objective that may be hoped for: so many more gains like the largest of the last three."""
        gains = np.abs(np.diff(self.trace[-4:]))
        return self.objective + optimism * float(gains.max()) if len(gains) else np.inf

    def dropped(self) -> Candidate:
        """Without a chance any more; the model is the last that was no proposal."""
        return replace(self, status="dropped", model=self.accepted, pace=replace(self.pace, fallback=None, path=()))

    @property
    def accepted(self) -> Mixture:
        """The newest model that is no proposal still to be judged."""
        return self.model if self.pace.fallback is None else self.pace.fallback


@dataclass(frozen=True, slots=True)
class Start:
    """A model that sets out on full passes, how it was found on the sample, and what is known of its last steps.

    `known` holds objectives of plain EM steps, where the sample is all of the data; see `Candidate`.
    """

    model: Mixture
    init: str
    score: float
    known: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Initialization:
    """Start of EM for a fit.

    Attributes
    ----------
    models : tuple of Mixture
    prior : Conjugate or None
        With everything filled in that is taken from the data.
    rows : int or None
        Rows of positive weight, where they have been read.
    passes : int
        Passes so far.
    traces : tuple of tuples of float
        Objectives that the models' own continue, or nothing.
    sample : SampleSummary or None
        The sample, where one was taken.
    explored : tuple of Start
        The starts that were followed on the sample, the best first.
    solved : Candidates
        Candidates that the first pass has finished already; see `em.initialization.initialize.solved`.
    gathering : Gathering or None
        What is done to rows far away, in every pass; see `em.initialization.far_rows.gathering_of`.
    """

    models: Models
    prior: Conjugate | None
    rows: int | None = None
    passes: int = 0
    traces: tuple[tuple[float, ...], ...] = ()
    sample: SampleSummary | None = None
    explored: tuple[Start, ...] = ()
    solved: tuple[Candidate, ...] = ()
    gathering: Gathering | None = None


Candidates = tuple[Candidate, ...]
"""Every candidate, finished ones included, in the order of the starts."""


Traces = tuple[tuple[float, ...], ...]


def new_candidates(models: Models, traces: Traces = (), known: Traces = ()) -> Candidates:
    """The candidates before the first step; `traces` are those of an earlier fit, for `known` see `Candidate`."""
    traces, known = traces or ((),) * len(models), known or ((),) * len(models)
    return tuple(
        # A trace from an earlier fit goes on: the first E-step now is a plain step from its last value.
        Candidate(i, model, trace, reseeds=(0,) * model.n_components, plain_from=max(0, len(trace) - 1), known=tail)
        for i, (model, trace, tail) in enumerate(zip(models, traces, known, strict=True))
    )


def best(candidates: Candidates) -> Candidate:
    """The candidate with the highest objective among those not dropped; the earliest of equals."""
    return max(candidates, key=lambda c: (c.status != "dropped", c.objective, -c.index))


def running(candidates: Candidates) -> Models:
    """The models that still take part."""
    return tuple(c.model for c in candidates if c.status == "running")


Retire = Callable[[Candidates], Candidates]
"""Gives candidates that are not worth going on with the status "dropped"."""


def keep_all(candidates: Candidates) -> Candidates:
    return candidates


def prune_dominated(candidates: Candidates, leader: Candidate | None = None) -> Candidates:
    """Drop what cannot win: candidates whose last gains, `OPTIMISM` times over, do not reach the value of `leader` (the
    best one by default), and those that are on its way: equal to it for three passes."""
    leader = leader or max(candidates, key=lambda c: (c.objective, -c.index))
    return tuple(
        c.dropped()
        if c.status == "running"
        and c is not leader
        and len(c.trace) > 3
        and ((c.objective < leader.objective and c.reach() < leader.objective) or _twins(c, leader))
        else c
        for c in candidates
    )


def _twins(a: Candidate, b: Candidate) -> bool:
    return len(a.trace) == len(b.trace) and np.allclose(
        a.trace[-3:], b.trace[-3:], rtol=DUPLICATE_TOL, atol=DUPLICATE_TOL
    )
