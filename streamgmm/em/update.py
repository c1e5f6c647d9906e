"""Update of the candidates after a block: M-step, acceleration, repair, stopping, retirement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.acceleration import Accelerator
from streamgmm.em.candidates import Candidate, Candidates, Retire, Totals, keep_all, running
from streamgmm.em.convergence import Stopping, never
from streamgmm.em.loop import BlockStep, Models
from streamgmm.errors import CollapsedError
from streamgmm.mixture.covariance import Covariance, Factor
from streamgmm.mixture.covariance.full_tied import Triangular
from streamgmm.mixture.m_step import bound, m_step, objective
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.prior import Conjugate
from streamgmm.mixture.repair import DEAD_SHARE, Repaired, repairing_m_step
from streamgmm.mixture.stats import Stats
from streamgmm.utils.sample_weight import no_rows

Array = NDArray[np.float64]


FitBlock = BlockStep[Mixture, Stats, Candidates, Any]
"""One block of a fit, with the state of the rule that it follows."""

RESTARTS = ("re-seeded", "merged", "sorted")
"""Changes of components after which the path so far does not tell the direction of the next step."""


@dataclass(frozen=True, slots=True)
class Maximize:
    """The M-step with everything that belongs to it.

    Attributes
    ----------
    reg_covar : float
    repair : bool
        False raises `CollapsedError` instead of mending.
    prior : Conjugate, or one for each (family, K), or None
    """

    reg_covar: float = 0.0
    repair: bool = True
    prior: Conjugate | Mapping[tuple[Covariance, int], Conjugate] | None = None

    def prior_of(self, model: Mixture) -> Conjugate | None:
        if isinstance(self.prior, Mapping):
            return self.prior.get((model.family, model.n_components))
        return self.prior

    def __call__(
        self, candidate: Candidate, stats: Stats
    ) -> tuple[Mixture, tuple[int, ...], tuple[dict[str, Any], ...]]:
        prior = self.prior_of(candidate.model)
        if stats.count <= 0:
            raise no_rows()
        if self.repair:
            return repairing_m_step(
                stats, reg_covar=self.reg_covar, reseeds=candidate.reseeds, prior=prior, previous=candidate.model
            )
        model = m_step(stats, reg_covar=self.reg_covar, prior=prior, previous=candidate.model)
        dead = stats.weight < DEAD_SHARE * stats.weight.sum()
        if dead.any():
            raise CollapsedError(dead)
        return Repaired(model, candidate.reseeds, ())

    def step(self, stats: Stats, model: Mixture) -> Mixture:
        """The plain M-step on statistics that `model` made; nothing is repaired."""
        return m_step(stats, reg_covar=self.reg_covar, prior=self.prior_of(model))

    def value(self, model: Mixture, stats: Stats) -> float:
        """Objective of EM, in nats per row, of the model that made the responsibilities behind `stats`."""
        return objective(model, stats, self.prior_of(model))

    def bound(self, model: Mixture, stats: Stats) -> float:
        """A lower bound of `value`, in nats per row, from statistics that other models have made."""
        prior = self.prior_of(model)
        penalty = 0.0 if prior is None else prior.log_density(model)
        return (bound(model, stats) + penalty) / stats.count

    def merit(self, model: Mixture, value: float, share: Array) -> float:
        """Objective of EM with `reg_covar` while the components' shares stay as they are.

        ``value`` less reg_covar / 2 sum_k share_k tr(inverse covariance_k): each plain step raises it, and the fixed
        point of EM with reg_covar maximises it, which is not so for the log-likelihood.
        """
        if self.reg_covar == 0.0:
            return value
        if isinstance(model.family, Triangular):
            inverse = np.sum(model.precisions_cholesky**2, axis=(-2, -1))
            return value - 0.5 * self.reg_covar * float(np.sum(share * inverse))
        if isinstance(model.family, Factor):
            return value - 0.5 * self.reg_covar * float(share @ model.family.inverse_trace(model.factors))
        # tr(inverse) through the family's own scatter of one row a component, one unit from the mean in each feature.
        D = model.n_features
        unit = sum(model.family.between(share, np.broadcast_to(one, model.means.shape)) for one in np.eye(D))
        trace = np.sum(model.family.precisions(model.precisions_cholesky) * unit)
        return value - 0.5 * self.reg_covar * float(trace)


@dataclass(frozen=True, slots=True)
class Update:
    """Update of every running candidate after each block; those that are done leave the tuple of models.

    Attributes
    ----------
    maximize : Maximize
    stopping : callable (trace) -> bool
    max_iter : int
        Passes per candidate.
    accelerator : Accelerator or None
        For exact statistics only.
    retire : callable (candidates) -> candidates
    slack : float
        Nats per row by which a proposal may miss what it has to reach; 0 keeps the trace monotone. With `reg_covar` the
        limit is a fixed point, not a maximum, and steps towards it need not raise anything.
    giving_up : callable (trace) -> bool
        Whether a candidate that has not converged goes no further.
    """

    maximize: Maximize
    stopping: Stopping
    max_iter: int
    accelerator: Accelerator | None = None
    retire: Retire = keep_all
    slack: float = 0.0
    giving_up: Stopping = never

    def __call__(self, models: Models, totals: tuple[Stats, ...], candidates: Candidates) -> tuple[Models, Candidates]:
        parts = iter(totals)
        candidates = self.retire(
            tuple(self._advance(c, next(parts)) if c.status == "running" else c for c in candidates)
        )
        return running(candidates), candidates

    def _advance(self, candidate: Candidate, stats: Stats) -> Candidate:
        pace, trace = candidate.pace, candidate.trace
        n_iter = candidate.n_iter + 1
        value = self.maximize.value(candidate.model, stats) if stats.count > 0 else -np.inf
        proposed = pace.fallback is not None
        if proposed and self.accelerator is not None:
            assert pace.fallback is not None and pace.share is not None
            if not self.maximize.merit(candidate.model, value, pace.share) >= pace.merit - self.slack:
                plain_from, trace = len(trace), (*trace, trace[-1])
                return replace(
                    candidate,
                    model=pace.fallback,
                    trace=trace,
                    n_iter=n_iter,
                    status="stopped" if self._over(n_iter, trace) else "running",
                    plain_from=plain_from,
                    pace=self.accelerator.rejected(pace),
                    rejected=candidate.rejected + 1,
                )
        image, reseeds, events = self.maximize(candidate, stats)
        plain_from = len(trace) if proposed else candidate.plain_from
        gain_from = max(0, plain_from - 1) if proposed else plain_from
        trace = (*trace, value)
        reseeded = any(e["action"] in RESTARTS for e in events)
        if reseeded:
            plain_from = len(trace)
        status = "running"
        gains = [] if self.accelerator is None else np.diff(trace[gain_from:]).tolist()
        arrived = self.accelerator is not None and self.accelerator.arrived(gains, pace)
        plain = replace(candidate, trace=trace, plain_from=plain_from).plain
        if (arrived or self.stopping(plain)) and not reseeded:
            status = "converged"
        elif self._over(n_iter, trace):
            status = "stopped"
        model = image
        if self.accelerator is None or status != "running" or reseeded:
            if pace.path or pace.fallback is not None or pace.finishing:
                pace = replace(pace, path=(), fallback=None, finishing=0)
        else:
            model, pace = self.accelerator.next(candidate.model, image, gains, pace)
            if pace.fallback is not None:
                share = stats.weight / stats.count
                pace = replace(pace, share=share, merit=self.maximize.merit(candidate.model, value, share))
        return replace(
            candidate,
            model=model,
            trace=trace,
            n_iter=n_iter,
            status=status,
            last=Totals.from_stats(stats),
            reseeds=reseeds,
            repairs=candidate.repairs + tuple({"iteration": n_iter, **e} for e in events),
            plain_from=plain_from,
            pace=pace,
        )

    def _over(self, n_iter: int, trace: tuple[float, ...]) -> bool:
        return n_iter >= self.max_iter or self.giving_up(trace)

    def end_pass(self, step: FitBlock) -> Candidates:
        """The candidates after a whole pass."""
        return step.candidates


@dataclass(frozen=True, slots=True)
class BlockUpdate(Update):
    """M-steps within a pass; values, stopping and retirement at its end."""

    def __call__(self, models: Models, totals: tuple[Stats, ...], candidates: Candidates) -> tuple[Models, Candidates]:
        parts = iter(totals)
        candidates = tuple(self._block(c, next(parts)) if c.status == "running" else c for c in candidates)
        return running(candidates), candidates

    def _block(self, candidate: Candidate, stats: Stats) -> Candidate:
        model, reseeds, events = self.maximize(candidate, stats)
        return replace(
            candidate,
            model=model,
            reseeds=reseeds,
            repairs=candidate.repairs + tuple({"iteration": candidate.n_iter + 1, **e} for e in events),
            pace=replace(candidate.pace, path=(candidate.model,)),
        )

    def _close(self, candidate: Candidate, model: Mixture, value: float, last: Totals) -> Candidate:
        """`candidate` at the end of a pass that gave `value`."""
        trace = (*candidate.trace, value)
        n_iter = candidate.n_iter + 1
        plain_from = candidate.plain_from
        if any(e["iteration"] == n_iter and e["action"] == "re-seeded" for e in candidate.repairs):
            plain_from = len(trace)
        status = "running"
        if self.stopping(trace[plain_from:]):
            status = "converged"
        elif n_iter >= self.max_iter:
            status = "stopped"
        return replace(
            candidate, model=model, trace=trace, n_iter=n_iter, status=status, last=last, plain_from=plain_from
        )


@dataclass(frozen=True, slots=True)
class IncrementalUpdate(BlockUpdate):
    """For `Incremental`: the value of a pass is the bound F per row, under the model before its last M-step."""

    def end_pass(self, step: FitBlock) -> Candidates:
        parts = iter(step.state.total)
        return self.retire(tuple(self._bound(c, next(parts)) if c.status == "running" else c for c in step.candidates))

    def _bound(self, candidate: Candidate, stats: Stats) -> Candidate:
        (before,) = candidate.pace.path
        return self._close(candidate, candidate.model, self.maximize.bound(before, stats), Totals.from_stats(stats))


@dataclass(frozen=True, slots=True)
class StepwiseUpdate(BlockUpdate):
    """For `Stepwise`: the value of a pass is that of the averaged statistics, and its model is made of them.

    Those statistics blend batches of several passes, each under another model, so no log-likelihood of the data follows
    from them: the totals have rows and weight of the pass, and NaN for the rest.
    """

    def end_pass(self, step: FitBlock) -> Candidates:
        state = step.state
        averaged = state.averaged
        if averaged is None:
            return step.candidates
        last = Totals(nan, nan, nan, state.lap_seen, state.lap_rows, state.lap_dropped)
        parts = iter(averaged)
        after = []
        for candidate in step.candidates:
            if candidate.status == "running":
                stats = next(parts)
                value = self.maximize.value(candidate.model, stats)
                settled = self._block(candidate, stats)
                candidate = self._close(settled, settled.model, value, last)
            after.append(candidate)
        return self.retire(tuple(after))
