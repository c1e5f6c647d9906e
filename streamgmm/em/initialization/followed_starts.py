"""Starts on their way on a sample: the rows they learn from, the rows they are judged on, and EM of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.acceleration import Accelerator, Squarem
from streamgmm.em.candidates import Candidates, Retire, Start, keep_all, new_candidates
from streamgmm.em.componentwise import Local
from streamgmm.em.convergence import aitken
from streamgmm.em.hooks import NO_CHECKPOINT, CheckpointSlot, FitObserver
from streamgmm.em.initialization import search_settings
from streamgmm.em.initialization.split_merge import SplitContext
from streamgmm.em.loop import Models
from streamgmm.em.passes import Stage, passes
from streamgmm.em.sample_em import in_memory, mean_log_likelihoods
from streamgmm.em.update import Maximize, Update
from streamgmm.em.variants import Exact
from streamgmm.mixture.mixture import Mixture
from streamgmm.runtime.executors import Executor
from streamgmm.sources import Source
from streamgmm.sources.summaries.sample import SampleSummary
from streamgmm.utils.phases import advanced
from streamgmm.utils.row_random import uniform

__all__ = ["SampleEM", "SampleSplit", "SearchContext", "alike"]


def _as_it_is(model: Mixture) -> Mixture:
    return model


@dataclass(frozen=True, slots=True, eq=False)
class SearchContext:
    """Data and settings of a search.

    Attributes
    ----------
    maximize : Maximize
    executor : Executor
    observe : callable (model) -> model
        Tells a model how it is observed: see `Mixture.observing`.
    threads : int
        Threads that make first models.
    watcher : FitObserver or None
    slot : CheckpointSlot
        Holds how far an expensive search has come, and is asked where to go on.
    """

    maximize: Maximize
    executor: Executor
    observe: Callable[[Mixture], Mixture] = _as_it_is
    threads: int = 1
    watcher: FitObserver | None = None
    slot: CheckpointSlot = NO_CHECKPOINT


@dataclass(frozen=True, slots=True, eq=False)
class SampleSplit:
    """Rows in memory to learn from, and rows to judge on what was learnt.

    Attributes
    ----------
    rows, weight : (m, D), (m,) to learn from
    held, held_weight : (h, D), (h,) to judge on
    complete : bool
        Whether the rows are all there are, so that they are their own judge.
    drawn_from : int
        Rows of the data that they are drawn from.
    """

    rows: NDArray[Any]
    weight: NDArray[np.float64]
    held: NDArray[Any]
    held_weight: NDArray[np.float64]
    complete: bool
    drawn_from: int = 0

    @classmethod
    def from_survey(cls, survey: SampleSummary) -> SampleSplit:
        """Of a true sample every fifth row is held out."""
        rows, weight = survey.rows, survey.weight
        if survey.complete:
            return cls(rows, weight, rows, weight, True, survey.n_rows)
        one_of = search_settings.SEARCH.held_out
        held = np.arange(len(rows)) % one_of == one_of - 1
        return cls(rows[~held], weight[~held], rows[held], weight[held], False, survey.n_rows)

    def part(self, size: int, which: int = 0) -> SampleSplit:
        """`size` rows to learn from, others for each `which`, if there are twice as many; judged as before."""
        n = len(self.rows)
        if n < 2 * size:
            return self
        mine = np.sort(np.argpartition(uniform(which, np.arange(n, dtype=np.uint64)), size)[:size])
        settings = search_settings.SEARCH
        step = max(settings.held_out if self.complete else 1, len(self.held) // settings.max_validation_rows)
        judge = slice(None, None, step)
        return SampleSplit(
            self.rows[mine], self.weight[mine], self.held[judge], self.held_weight[judge], False, self.drawn_from
        )

    @property
    def learn(self) -> Source:
        return _source(self.rows, self.weight, self.drawn_from)

    @property
    def judge(self) -> Source:
        return _source(self.held, self.held_weight, self.drawn_from)

    def split_context(self, maximize: Maximize, executor: Executor, seed: int) -> SplitContext:
        return SplitContext(np.ascontiguousarray(self.rows), self.weight, maximize, executor, seed, self.drawn_from)


def _source(rows: NDArray[Any], weight: NDArray[np.float64], of: int) -> Source:
    return in_memory(rows, None if (weight == 1.0).all() else weight, of)


def alike(a: Mixture, b: Mixture) -> bool:
    """True if each component of one mixture is nearly one of the other: its mean, variances and weight."""
    settings = search_settings.SEARCH
    var_a, var_b = (m.family.variances(m.covariances, *m.means.shape) for m in (a, b))
    apart = np.abs(a.means[:, None] - b.means) / np.sqrt(np.minimum(var_a[:, None], var_b))
    nearest = apart.max(axis=2).argmin(axis=1)
    if len(set(nearest.tolist())) < len(nearest):
        return False
    ratios = np.abs(np.log(var_a / var_b[nearest])).max(), np.abs(np.log(a.weights / b.weights[nearest])).max()
    farthest = apart[np.arange(len(nearest)), nearest].max()
    return bool(farthest < settings.alike_deviations and max(ratios) < np.log(settings.alike_ratio))


class SampleEM:
    """Models on their way on a sample.

    Attributes
    ----------
    alive : list of int
        Models that still take part, the best first after `leave`.
    kept, score, taken : of each model
        Where it was best, how good in nats per row, and after how many steps.
    """

    def __init__(
        self,
        models: Models,
        split: SampleSplit,
        context: SearchContext,
        at: int = 0,
        retire: Retire = keep_all,
        *,
        local: bool = False,
    ) -> None:
        self._settings = search_settings.SEARCH
        executor, slot, tol = context.executor, context.slot, self._settings.tol
        maximize = replace(
            context.maximize, repair=True
        )  # of a start on the sample nobody needs to hear that it collapsed
        self._learn, self._complete, self._rows = split.learn, split.complete, len(split.rows)
        # Rows that are their own judge are dealt out, which copies them, but once.
        self._judge = self._learn if split.held is split.rows else split.judge
        accelerator: Accelerator = Squarem(tol)
        if local:
            accelerator = Local(self._learn, executor, maximize, tol)
        slack = 0.1 * tol if local and maximize.reg_covar > 0 else 0.0
        self._update = Update(maximize, aitken(tol), 10**9, accelerator, retire, slack)
        self._executor, self._watcher, self._at = executor, context.watcher, at
        self._candidates: Candidates = new_candidates(models)
        self._stale = [0] * len(models)
        self._settled: set[int] = set()
        # Rows that are their own judge show no gain where regularisation lets the likelihood fall, on the way to where
        # EM rests: worth to be seen through where steps are cheap.
        self._patient = self._complete and not local
        self.alive = list(range(len(models)))
        self.kept, self.score, self.taken = list(models), [-np.inf] * len(models), [0] * len(models)
        self._slot, self._pieces, self._walked = slot, 0, 0
        if (before := slot.get("walk")) is not None:
            self._walked, self._candidates, self._stale, settled, self.alive, *rest = before
            self._settled = set(settled)
            self.kept, self.score, self.taken = rest

    def add(self, *models: Mixture) -> None:
        """More models take part."""
        for model in models:
            i = len(self.kept)
            self._candidates += (replace(new_candidates((model,))[0], index=i),)
            self._stale.append(0)
            self.alive.append(i)
            self.kept.append(model)
            self.score.append(-np.inf)
            self.taken.append(0)

    def steps(self, i: int) -> int:
        """Steps that a model has taken."""
        return len(self._candidates[i].trace)

    def value(self, i: int) -> float:
        """Nats per row of the rows that it learns from."""
        return self._candidates[i].objective

    def settled(self, i: int) -> bool:
        return i in self._settled

    def prune_dominated(self, i: int, leader: int) -> bool:
        """True if what a model may hope for is less than the value of another."""
        return self.steps(i) > 3 and self._candidates[i].reach(self._settings.rival_optimism) < self.value(leader)

    def certain(self, i: int) -> bool:
        """True if a model is in no doubt about the rows, and that not for want of rows: then no group is divided."""
        last = self._candidates[i].last
        enough = self.solid(i, self._settings.solid_rows)
        return enough and last is not None and last.log_max > -self._settings.doubt * last.count

    def solid(self, i: int, times: float) -> bool:
        """True if each component of a model has so many times the rows that span a covariance."""
        model = self._candidates[i].accepted
        least = model.family.least_rows(model.n_features)
        return bool(model.weights.min() * self._rows >= times * least)

    def agree(self, i: int, j: int) -> bool:
        """True if two models have come to the same, or are on the way to it."""
        same = abs(self.value(i) - self.value(j)) < self._settings.same
        return same or alike(self._candidates[i].accepted, self._candidates[j].accepted)

    def start(self, i: int, init: str) -> Start:
        """A model as it sets out on full passes."""
        return Start(self.kept[i], init, float(self.score[i]), self._candidates[i].plain if self._patient else ())

    def _keep(self) -> None:
        state = (
            self._pieces, self._candidates, list(self._stale), sorted(self._settled), list(self.alive), list(self.kept),
            list(self.score), list(self.taken),
        )  # fmt: skip
        self._slot.put("walk", state)

    def go(self, steps: int, only: Sequence[int] | None = None) -> None:
        """So many EM steps for everybody; fewer for those that have converged, or get worse on rows not seen."""
        for piece in range(0, steps, self._settings.steps_per_check):
            self._pieces += 1
            moving = [i for i in (self.alive if only is None else only) if i not in self._settled]
            if self._pieces <= self._walked:
                continue  # before the fit was interrupted
            if not moving:
                return
            self._candidates = tuple(
                replace(c, status="running" if c.index in moving else "dropped") for c in self._candidates
            )
            stage = Stage(Exact(), self._update, min(self._settings.steps_per_check, steps - piece))
            for step in passes(self._learn, self._candidates, (stage,), self._executor):
                self._candidates = step.candidates
                advanced("steps")
                if self._watcher is not None:
                    self._watcher.sampled(self._at, self._candidates)
            models = tuple(self._candidates[i].accepted for i in moving)
            if self._patient:
                values = [self._candidates[i].objective for i in moving]
            else:
                values = mean_log_likelihoods(models, self._judge, self._executor).tolist()
            for i, model, value in zip(moving, models, values, strict=True):
                better = value > self.score[i]
                self._stale[i] = 0 if better else self._stale[i] + 1
                if better or self._complete:
                    self.score[i], self.kept[i], self.taken[i] = value, model, len(self._candidates[i].trace)
                tired = self._stale[i] >= self._settings.patience and not self._patient
                if self._candidates[i].status != "running" or tired:
                    self._settled.add(i)
            self._keep()

    def leave(self, n: int, spared: int) -> None:
        """The best `n` go on, and every model from number `spared`."""
        ordered = sorted(self.alive, key=lambda i: (-self.score[i], i))
        self.alive = [i for place, i in enumerate(ordered) if place < n or i >= spared]

    def join(self) -> None:
        """Of models that have come to the same one goes on."""
        ordered, self.alive = sorted(self.alive, key=lambda i: (-self.score[i], i)), []
        for i in ordered:
            if not any(self._twins(i, j) for j in self.alive):
                self.alive.append(i)

    def _twins(self, i: int, j: int) -> bool:
        return abs(self.score[i] - self.score[j]) < self._settings.same and alike(self.kept[i], self.kept[j])
