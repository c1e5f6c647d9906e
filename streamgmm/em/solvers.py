"""Solvers by name: rules and updates, one after the other, around the one loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from streamgmm.em.acceleration import Accelerator, Corrected, Squarem
from streamgmm.em.candidates import Retire, keep_all, prune_dominated
from streamgmm.em.componentwise import Local
from streamgmm.em.convergence import Stopping, fruitless, never
from streamgmm.em.passes import Stage
from streamgmm.em.sample_em import SampleStep, cheap, step_rows
from streamgmm.em.step_sizes import Decay
from streamgmm.em.update import IncrementalUpdate, Maximize, StepwiseUpdate, Update
from streamgmm.em.variants import Exact, Incremental, Stepwise
from streamgmm.runtime.executors import Executor
from streamgmm.sources.summaries.sample import SampleSummary

SAMPLE_WORK = 16
"""Rows of the sample worked on between two passes, in units of the rows of the data."""
EXPENSIVE = 2e4
"""Components x features^2 above which that is less, in proportion: arithmetic costs more than reading then."""
FRUITLESS = 6
"""Passes in a row, worth hundreds of plain steps, without a gain after which a fit of expensive steps gives up."""
INNER = (20, 180)
"""Steps on the sample between two passes, at least and at most."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings that a solver is built from.

    Attributes
    ----------
    n_components, n_features : int, of the largest candidate
    maximize, stopping, max_iter, retire : see `em.update.Update`
    tol : float
    survey : SampleSummary or None
        The sample, where one was taken.
    executor : Executor
    max_bytes : int or None
        What remembered statistics may take.
    """

    n_components: int
    n_features: int
    maximize: Maximize
    stopping: Stopping
    tol: float
    max_iter: int
    executor: Executor
    survey: SampleSummary | None = None
    n_rows: int | None = None
    max_bytes: int | None = None
    retire: Retire = keep_all
    seed: int = 0


def batch_rows(n_components: int, n_features: int) -> int:
    """Rows of a batch of stepwise EM."""
    return max(256, 10 * n_components * n_features)


def hold_rows(n_components: int, n_features: int) -> int:
    """Rows to see before stepwise EM moves."""
    return max(20 * n_components, 2 * n_components * (n_features + 1))


def update(settings: Settings, kind: type[Update] = Update, accelerator: Accelerator | None = None) -> Update:
    s = settings
    slack = 0.1 * s.tol if s.maximize.reg_covar > 0 else 0.0
    return kind(s.maximize, s.stopping, s.max_iter, accelerator, s.retire, slack)


def exact(settings: Settings) -> tuple[Stage, ...]:
    return (Stage(Exact(), update(settings)),)


def squarem(settings: Settings) -> tuple[Stage, ...]:
    return (Stage(Exact(), update(settings, accelerator=Squarem(settings.tol))),)


def incremental(settings: Settings) -> tuple[Stage, ...]:
    return (Stage(Incremental(max_bytes=settings.max_bytes), update(settings, IncrementalUpdate)),)


def stepwise(settings: Settings) -> tuple[Stage, ...]:
    K, D = settings.n_components, settings.n_features
    half = np.inf if settings.n_rows is None else 0.5 * settings.n_rows
    rule = Stepwise(Decay(), batch_rows(K, D), hold_rows(K, D), average_from=half)
    return (Stage(rule, update(settings, StepwiseUpdate)),)


def auto(settings: Settings) -> tuple[Stage, ...]:
    """Extrapolated steps, and steps corrected by the sample where there are more rows; plain ones at the end.

    Where the sample is all there is and steps on it are expensive, those components are carried on that move (see
    `local`), and a fit ends that gains nothing.
    """
    accelerator: Accelerator = Squarem(settings.tol)
    giving_up: Stopping = never
    if settings.retire is keep_all:
        settings = replace(settings, retire=prune_dominated)
    sample = settings.survey
    if sample is not None:
        step = SampleStep.from_survey(sample, settings.maximize, settings.executor)
        size = settings.n_components * settings.n_features**2
        if sample.complete and not cheap(len(sample.rows), settings.n_components, settings.n_features):
            accelerator = Local(step.source, settings.executor, settings.maximize, settings.tol)
            giving_up = fruitless(FRUITLESS, settings.tol)
        elif settings.n_components == 1 or not sample.complete:
            K, D = settings.n_components, settings.n_features
            price = step_rows(len(sample.rows), K, D) / step_rows(sample.n_rows, K, D)
            inner = int(np.clip(SAMPLE_WORK * min(1.0, EXPENSIVE / size) / price, *INNER))
            # One component moves as all rows do: any sample leads there, and extrapolation takes more passes.
            price = 0.0 if K == 1 else price
            accelerator = Corrected(step, settings.tol, accelerator, inner, price)
    return (Stage(Exact(), replace(update(settings, accelerator=accelerator), giving_up=giving_up)),)


SOLVERS: dict[str, Callable[[Settings], tuple[Stage, ...]]] = {
    "auto": auto,
    "exact": exact,
    "squarem": squarem,
    "incremental": incremental,
    "stepwise": stepwise,
}
