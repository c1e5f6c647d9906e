"""Stochastic variational inference on rows that keep coming (Hoffman et al. 2013), with the steps of `Learner`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.online.learner import LATE_STEPS, Learner
from streamgmm.em.online.state import LearnerState
from streamgmm.em.variational import as_posterior
from streamgmm.mixture.components import join
from streamgmm.mixture.covariance import Covariance
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.stats import Stats
from streamgmm.mixture.variational import GaussWishart, VariationalMixture, rows_behind, variational_m_step
from streamgmm.mixture.variational_sums import GAIN, merges
from streamgmm.sources.summaries.moments import weighted_moments

Array = NDArray[np.float64]

PriorOf = Callable[[Array, Array], GaussWishart]
"""The prior for data of this mean (D,) and covariance (D, D)."""


class VariationalLearner(Learner):
    """A `Learner` whose model is the posterior after as many rows as the stream amounts to.

    The statistics of each step are blended as in stepwise EM: a step of natural gradients in the parameters of the
    posterior. Without forgetting they stand for all rows seen, else for the effective sample size.

    Parameters
    ----------
    prior_of : callable (mean, covariance) -> GaussWishart
        Called once, with the moments of the rows of the first step.
    """

    def __init__(
        self, n_components: int, n_features: int, family: Covariance, *, prior_of: PriorOf, **options: Any
    ) -> None:
        super().__init__(n_components, n_features, family, **options)
        self.prior_of = prior_of
        self.prior: GaussWishart | None = None

    def _begin(self, rows: Array, weight: Array | None, *, polish: int, n_init: int) -> Mixture:
        w = np.ones(len(rows)) if weight is None else weight
        if self.prior is None:
            mean, scatter = weighted_moments(rows, w)
            self.prior = self.prior_of(mean, scatter / max(float(w.sum()) - 1.0, 1.0))
        model = super()._begin(rows, weight, polish=polish, n_init=n_init)
        return as_posterior(model, float(w.sum()), self.prior, self.reg_covar)

    def adopt(self, model: Mixture, weight: float) -> None:
        assert isinstance(model, VariationalMixture)
        self.prior = model.prior
        super().adopt(model, weight)

    def _behind(self, model: Mixture) -> Stats:
        """Without the prior, which each posterior of the stream adds once."""
        assert isinstance(model, VariationalMixture)
        stats = rows_behind(model, self.reg_covar)
        return stats.scaled(1.0 / stats.count)

    def restore(self, state: LearnerState) -> None:
        if isinstance(state.model, VariationalMixture):
            self.prior = state.model.prior
        if self.prior is None and state.online.mean is not None:
            raise ValueError("The state of this stream holds no prior. Begin a new snapshot.")
        super().restore(state)
        if self.online.mean is not None:
            self.settle()
            self.changed()

    def _posterior(self, mean: Stats) -> VariationalMixture:
        assert self.prior is not None
        return variational_m_step(mean.scaled(self._rows / mean.count), self.prior, self.reg_covar)

    def settle(self) -> list[dict[str, Any]]:
        """The posterior of the running statistics, in which components are joined where that is sure to pay."""
        assert self.online.mean is not None and self.prior is not None
        mean, events = self.online.mean[0], []
        while True:
            found = merges(mean.scaled(self._rows / mean.count), self.prior, self.reg_covar)
            found = found.between_occupied(mean.weight)
            if not len(found.sure) or not found.sure.max() > GAIN:
                break
            best = int(np.argmax(found.sure))
            i, j = int(found.i[best]), int(found.j[best])
            mean = join(mean, i, j)
            events.append({"action": "merged", "components": [i, j]})
        if events:
            self._replace(mean)
        self.running = self._posterior(mean)
        return events

    @property
    def _rows(self) -> float:
        """Rows that the statistics stand for."""
        return self.online.seen if self.half_life is None else self.effective_sample_size

    def _serve(self) -> None:
        late = self.average is not None and self.online.seen >= LATE_STEPS * self.unit
        self._served = self._posterior(self.average) if late and self.average is not None else self.running

    def _challenge(self, rows: Array, weight: Array | None, stats: Stats, events: list[dict[str, Any]]) -> Stats:
        """No start is set against the posterior: which components are used is up to the prior."""
        return stats

    def _reseed_dead(self, rows: Array, weight: Array | None) -> list[dict[str, Any]]:
        """A component without rows is not in use, and stays so."""
        return []
