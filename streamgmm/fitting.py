"""What a fit remembers of each candidate model, and the updates: M-step, acceleration, repair, stopping, retirement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.accelerate import Accelerator, Pace
from streamgmm.covariance import Covariance
from streamgmm.em import CollapsedError, Models, Step, bound, em, m_step, objective
from streamgmm.mixture import Mixture
from streamgmm.prior import Conjugate
from streamgmm.repair import DEAD_SHARE, Repaired, repairing_m_step
from streamgmm.rules import Exact, Rule
from streamgmm.seeding import Survey
from streamgmm.stats import Stats
from streamgmm.stopping import Stopping, distance_to_limit

Array = NDArray[np.float64]


HOPE = 10.0
"""Gains like the last ones that a candidate is trusted to have before it."""


TWIN = 1e-6
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
    def of(cls, stats: Stats) -> Totals:
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
        Accepted objective per row of each reading, of the model before its M-step (see `em.objective`); a rejected
        proposal repeats the value before it.
    status : {"running", "converged", "stopped", "dropped"}
    last : Totals or None
        Of the last accepted E-step.
    reseeds : tuple of int
        How often each component was re-seeded.
    repairs : tuple of dict
        What was repaired, in order.
    plain_from : int
        Where in the trace the present run of plain EM steps began: gains are compared within it only.
    pace : Pace
        What the accelerator remembers.
    rejected : int
        Proposals that were rejected.
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
    pace: Pace = field(default_factory=Pace)
    rejected: int = 0

    @property
    def objective(self) -> float:
        return self.trace[-1] if self.trace else -np.inf

    @property
    def distance(self) -> float:
        """Estimated distance of the objective to its limit, in nats per row; infinity while unknown."""
        return distance_to_limit(self.trace[self.plain_from :])

    @property
    def reach(self) -> float:
        """The objective that may be hoped for: `HOPE` more gains like the largest of the last three."""
        gains = np.abs(np.diff(self.trace[-4:]))
        return self.objective + HOPE * float(gains.max()) if len(gains) else np.inf

    def dropped(self) -> Candidate:
        """Without a chance any more; the model is the last that was no proposal."""
        return replace(self, status="dropped", model=self.accepted, pace=replace(self.pace, fallback=None, path=()))

    @property
    def accepted(self) -> Mixture:
        """The newest model that is no proposal still to be judged."""
        return self.model if self.pace.fallback is None else self.pace.fallback


@dataclass(frozen=True, slots=True)
class Start:
    """A model that sets out on full readings, and how it was found on the sample."""

    model: Mixture
    init: str
    score: float


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
    traces : tuple of tuples of float
        Objectives that the models' own continue, or nothing.
    sample : Survey or None
        The sample, where one was taken.
    explored : tuple of Start
        The starts that were followed on the sample, the best first.
    """

    models: Models
    prior: Conjugate | None
    rows: int | None = None
    passes: int = 0
    traces: tuple[tuple[float, ...], ...] = ()
    sample: Survey | None = None
    explored: tuple[Start, ...] = ()


Memory = tuple[Candidate, ...]
"""Every candidate, finished ones included, in the order of the starts."""


def candidates(models: Models, traces: tuple[tuple[float, ...], ...] = ()) -> Memory:
    """The memory before the first step."""
    traces = traces or ((),) * len(models)
    return tuple(
        # A trace from an earlier fit goes on: the first E-step now is a plain step from its last value.
        Candidate(i, model, trace, reseeds=(0,) * model.n_components, plain_from=max(0, len(trace) - 1))
        for i, (model, trace) in enumerate(zip(models, traces, strict=True))
    )


def best(memory: Memory) -> Candidate:
    """The candidate with the highest objective among those not dropped; the earliest of equals."""
    return max(memory, key=lambda c: (c.status != "dropped", c.objective, -c.index))


def running(memory: Memory) -> Models:
    """The models that still take part."""
    return tuple(c.model for c in memory if c.status == "running")


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
            raise ValueError("sample_weight: at least one weight must be positive; all weights are zero.")
        if self.repair:
            return repairing_m_step(stats, reg_covar=self.reg_covar, reseeds=candidate.reseeds, prior=prior)
        model = m_step(stats, reg_covar=self.reg_covar, prior=prior)
        dead = stats.weight < DEAD_SHARE * stats.weight.sum()
        if dead.any():
            raise CollapsedError(dead)
        return Repaired(model, candidate.reseeds, ())

    def merit(self, model: Mixture, value: float, share: Array) -> float:
        """What EM with `reg_covar` climbs while the components' shares stay as they are.

        ``value`` less reg_covar / 2 sum_k share_k tr(inverse covariance_k): each plain step raises it, and the fixed
        point of EM with reg_covar maximises it, which is not so for the log-likelihood.
        """
        if self.reg_covar == 0.0:
            return value
        # tr(inverse) through the family's own scatter of one row a component, one unit from the mean in each feature.
        D = model.n_features
        unit = sum(model.family.between(share, np.broadcast_to(one, model.means.shape)) for one in np.eye(D))
        trace = np.sum(model.family.precisions(model.precisions_cholesky) * unit)
        return value - 0.5 * self.reg_covar * float(trace)


Retire = Callable[[Memory], Memory]
"""Gives candidates that are not worth going on with the status "dropped"."""


def nobody(memory: Memory) -> Memory:
    return memory


def hopeless(memory: Memory) -> Memory:
    """Drop what cannot win: candidates whose last gains, `HOPE` times over, do not reach the best one's value, and
    those that are on the best one's way: equal to it for three readings."""
    leader = max(memory, key=lambda c: (c.objective, -c.index))
    return tuple(
        c.dropped()
        if c.status == "running"
        and c is not leader
        and len(c.trace) > 3
        and ((c.objective < leader.objective and c.reach < leader.objective) or _twins(c, leader))
        else c
        for c in memory
    )


def _twins(a: Candidate, b: Candidate) -> bool:
    return len(a.trace) == len(b.trace) and np.allclose(a.trace[-3:], b.trace[-3:], rtol=TWIN, atol=TWIN)


@dataclass(frozen=True, slots=True)
class Update:
    """What happens to every running candidate after each block; those that are done leave the tuple of models.

    Attributes
    ----------
    maximize : Maximize
    stopping : callable (trace) -> bool
    max_iter : int
        Readings per candidate.
    accelerator : Accelerator or None
        For exact statistics only.
    retire : callable (memory) -> memory
    slack : float
        Nats per row by which a proposal may miss what it has to reach; 0 keeps the trace monotone. With `reg_covar` the
        limit is a fixed point, not a maximum, and steps towards it need not raise anything.
    """

    maximize: Maximize
    stopping: Stopping
    max_iter: int
    accelerator: Accelerator | None = None
    retire: Retire = nobody
    slack: float = 0.0

    def __call__(self, models: Models, totals: tuple[Stats, ...], memory: Memory) -> tuple[Models, Memory]:
        parts = iter(totals)
        memory = self.retire(tuple(self._advance(c, next(parts)) if c.status == "running" else c for c in memory))
        return running(memory), memory

    def _advance(self, candidate: Candidate, stats: Stats) -> Candidate:
        pace, trace = candidate.pace, candidate.trace
        n_iter = candidate.n_iter + 1
        over = n_iter >= self.max_iter
        value = (
            objective(candidate.model, stats, self.maximize.prior_of(candidate.model)) if stats.count > 0 else -np.inf
        )
        proposed = pace.fallback is not None
        if proposed and self.accelerator is not None:
            assert pace.fallback is not None and pace.share is not None
            if not self.maximize.merit(candidate.model, value, pace.share) >= pace.merit - self.slack:
                return replace(
                    candidate,
                    model=pace.fallback,
                    trace=(*trace, trace[-1]),
                    n_iter=n_iter,
                    status="stopped" if over else "running",
                    plain_from=len(trace),
                    pace=self.accelerator.rejected(pace),
                    rejected=candidate.rejected + 1,
                )
        image, reseeds, events = self.maximize(candidate, stats)
        plain_from = len(trace) if proposed else candidate.plain_from
        gain_from = max(0, plain_from - 1) if proposed else plain_from
        trace = (*trace, value)
        reseeded = any(e["action"] == "re-seeded" for e in events)
        if reseeded:
            plain_from = len(trace)
        status = "running"
        gains = np.diff(trace[gain_from:]).tolist()
        arrived = self.accelerator is not None and self.accelerator.arrived(gains, pace)
        if (arrived or self.stopping(trace[plain_from:])) and not reseeded:
            status = "converged"
        elif over:
            status = "stopped"
        model = image
        if self.accelerator is None or status != "running" or reseeded:
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
            last=Totals.of(stats),
            reseeds=reseeds,
            repairs=candidate.repairs + tuple({"iteration": n_iter, **e} for e in events),
            plain_from=plain_from,
            pace=pace,
        )

    def lap(self, step: Step) -> Memory:
        """The memory after a whole reading."""
        return step.memory


@dataclass(frozen=True, slots=True)
class BlockUpdate(Update):
    """M-steps within a reading; values, stopping and retirement at its end."""

    def __call__(self, models: Models, totals: tuple[Stats, ...], memory: Memory) -> tuple[Models, Memory]:
        parts = iter(totals)
        memory = tuple(self._block(c, next(parts)) if c.status == "running" else c for c in memory)
        return running(memory), memory

    def _block(self, candidate: Candidate, stats: Stats) -> Candidate:
        model, reseeds, events = self.maximize(candidate, stats)
        return replace(
            candidate,
            model=model,
            reseeds=reseeds,
            repairs=candidate.repairs + tuple({"iteration": candidate.n_iter + 1, **e} for e in events),
            pace=replace(candidate.pace, path=(candidate.model,)),
        )

    def _close(self, candidate: Candidate, model: Mixture, value: float, stats: Stats) -> Candidate:
        """`candidate` at the end of a reading that gave `value`."""
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
        last = Totals.of(stats)
        return replace(
            candidate, model=model, trace=trace, n_iter=n_iter, status=status, last=last, plain_from=plain_from
        )


@dataclass(frozen=True, slots=True)
class IncrementalUpdate(BlockUpdate):
    """For `Incremental`: the value of a lap is the bound F per row, under the model before its last M-step."""

    def lap(self, step: Step) -> Memory:
        parts = iter(step.state.total)
        return self.retire(tuple(self._bound(c, next(parts)) if c.status == "running" else c for c in step.memory))

    def _bound(self, candidate: Candidate, stats: Stats) -> Candidate:
        (before,) = candidate.pace.path
        prior = self.maximize.prior_of(candidate.model)
        penalty = 0.0 if prior is None else prior.log_density(before)
        return self._close(candidate, candidate.model, (bound(before, stats) + penalty) / stats.count, stats)


@dataclass(frozen=True, slots=True)
class StepwiseUpdate(BlockUpdate):
    """For `Stepwise`: the value of a lap is that of the averaged statistics, and its model is made of them."""

    def lap(self, step: Step) -> Memory:
        averaged = step.state.averaged
        if averaged is None:
            return step.memory
        parts = iter(averaged)
        after = []
        for candidate in step.memory:
            if candidate.status == "running":
                stats = next(parts)
                value = objective(candidate.model, stats, self.maximize.prior_of(candidate.model))
                settled = self._block(candidate, stats)
                candidate = self._close(settled, settled.model, value, stats)
            after.append(candidate)
        return self.retire(tuple(after))


# Readings -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stage:
    """A rule and the update that goes with it, for at most `laps` readings."""

    rule: Rule
    update: Update
    laps: int | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a fit a reading ended: the stage, its readings so far and all, and what its rule remembers."""

    stage: int = 0
    lap: int = 0
    readings: int = 0
    state: Any = None


def readings(
    source: Any,
    memory: Memory,
    stages: Sequence[Stage],
    executor: Any,
    *,
    position: Position | None = None,
    task_of: Callable[[Memory], Any] | None = None,
) -> Iterator[Step]:
    """Yield one `Step` per full reading of the data, its state a `Position`; end when no candidate is running.

    Parameters
    ----------
    position : Position, optional
        Where to go on, from the state of an earlier `Step` and with its memory.
    task_of : callable (memory) -> task, optional
        The task of the next reading (see `em.em`), where models do not all see the same rows.
    """
    here = position or Position()
    while running(memory) and here.stage < len(stages):
        stage = stages[here.stage]
        if stage.laps is not None and here.lap >= stage.laps:
            here = Position(here.stage + 1, 0, here.readings)
            continue
        rows = 0
        for step in em(
            source,
            running(memory),
            rule=stage.rule,
            executor=executor,
            update=stage.update,
            state=here.state,
            memory=memory,
            task=None if task_of is None else task_of(memory),
        ):
            rows += step.stats[0].rows
            if not step.block.last:
                continue
            present = [c.index for c in memory if c.status == "running"]
            memory = stage.update.lap(step)
            left = {c.index for c in memory if c.status == "running"}
            state = stage.rule.keep(step.state, [i for i, index in enumerate(present) if index in left])
            here = Position(here.stage, here.lap + 1, here.readings + 1, state)
            yield Step(
                running(memory),
                here,
                memory,
                replace(step.block, lap=here.readings - 1),
                (replace(step.stats[0], rows=rows), *step.stats[1:]),
            )
            rows = 0
            if not isinstance(stage.rule, Exact) or here.lap == stage.laps or task_of is not None:
                break  # what the end of the lap changed has to reach the loop
