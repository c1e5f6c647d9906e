"""The learner: rows become steps, steps move the running statistics, and those become the model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.initialization.methods import Wanted
from streamgmm.em.online.buffer import Waiting
from streamgmm.em.online.challenger import Trial, wait_for_challenge
from streamgmm.em.online.start import begin, e_step, steady_m_step
from streamgmm.em.online.state import LearnerState, checked
from streamgmm.em.online.step_sizes import RowDecay, Sizes, hold_rows
from streamgmm.em.step_sizes import HalfLife
from streamgmm.em.variants import Block, Online, Stepwise
from streamgmm.em.wild_rows import Limits, far_from_the_median
from streamgmm.kernels.dispatch import in_all
from streamgmm.mixture.components import closest_pair, join, low_density_cluster, replace_component, stats_of
from streamgmm.mixture.covariance import Covariance
from streamgmm.mixture.init_parameters import NOTHING, Given
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.stats import Stats
from streamgmm.runtime.thread_limits import single_threaded_blas

__all__ = ["Learner", "StepReport"]

Array = NDArray[np.float64]

POLISH = 10
"""EM steps on the rows of the first step. More would freeze the sample's own optimum."""
DEAD_ROWS = 1.0
"""Effective rows below which a component counts as dead."""
LATE_STEPS = 32
"""Steps' worth of rows before the averaged statistics are served; before, they lag behind."""
TAIL = 3
"""Row i of n has weight (i / n)^TAIL in the late average (Shamir & Zhang 2013), so the start of the stream fades."""
ALIKE = 0.02
"""Bhattacharyya distance below which two components are one (`restructure`)."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """Report of one step.

    Attributes
    ----------
    rows : int
        Rows of the stream learnt so far, this step's included.
    step_rows : int
    loglik : float
        Predictive: mean log p(x) in nats of this step's rows under the model before it saw them; NaN where that model
        came from these rows.
    rate : float
        Share of this step in the statistics after it.
    alarm : bool
        Whether the detector called a drift.
    events : tuple of dict
        Components re-seeded, floored or merged, and resets.
    """

    rows: int
    step_rows: int
    loglik: float
    rate: float
    alarm: bool
    events: tuple[dict[str, Any], ...] = ()


class Detector(Protocol):
    """Monitor of the predictive log-likelihood of a stream."""

    def update(self, mean: float, rows: int) -> bool:
        """Take in the mean over the rows of a step; whether they are no longer what they were."""

    def clear(self) -> None:
        """Begin anew."""


class Learner:
    """Stepwise EM on rows that keep coming.

    Parameters
    ----------
    n_components, n_features : int
    family : Covariance
    reg_covar : float
        Added to every variance.
    half_life : float or None
        Rows after which a row's weight has halved. None: steps decay, so that a stationary stream converges.
    step_rows : int or None
        Rows per update. None: about 10 K D at first (at least 4 K D), more as each row comes to matter less, at most
        `MAX_STEP_ROWS` and an eighth of the half-life.
    init : str
        As `init_params` of the estimator; used on the rows of the first step.
    n_init : int
        Starts on those rows; the best is kept.
    seed : int
    given : (weights, means, covariances), each an array or None
        Parameters to begin with.
    frozen : bool
        Take statistics under the given parameters and never change them.
    restructure : bool
        Merge components that have become one, and give the freed one to rows of low density.
    detector : object with ``update(mean, rows) -> bool`` and ``clear()``, optional
        Sees the predictive log-likelihood of every step.
    on_drift : {"report", "boost", "reset"}
        What an alarm does: nothing but say so; weigh the past as one step; forget it and start again from this step.
    """

    def __init__(
        self,
        n_components: int,
        n_features: int,
        family: Covariance,
        *,
        reg_covar: float = 1e-6,
        half_life: float | None = None,
        step_rows: int | None = None,
        init: str = "kmeans",
        n_init: int = 1,
        seed: int = 0,
        given: Given = NOTHING,
        frozen: bool = False,
        restructure: bool = False,
        detector: Detector | None = None,
        on_drift: str = "report",
    ) -> None:
        K, D = n_components, n_features
        self.n_components, self.n_features, self.family = K, D, family
        self.reg_covar, self.half_life, self.init, self.n_init, self.seed = reg_covar, half_life, init, n_init, seed
        self.given, self.frozen, self.restructure = given, frozen, restructure
        self.detector, self.on_drift = detector, on_drift
        self.hold_rows = hold_rows(K, D)
        self.sizes = Sizes.from_shape(K, D, half_life, step_rows)
        self.unit = self.sizes.unit
        self.rule = Stepwise(RowDecay(self.unit) if half_life is None else HalfLife(half_life))
        self.online = Online()
        self.average: Stats | None = None
        self.running: Mixture | None = None
        self.rows = 0
        self.steps = 0
        self.starts = 0
        self.challenger: Mixture | None = None
        self.challenged = 0
        self.trial = Trial()
        self.waiting = Waiting(D)
        self.set_aside = 0
        self._limits = Limits(None, D)
        self._served: Mixture | None = None
        weights, means, covariances = given
        if weights is not None and means is not None and covariances is not None:
            self.running = Mixture(weights, means, covariances, family)

    # Asking -----------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int, Covariance]:
        """Numbers of components and features, and the family: what learners must share to be merged."""
        return self.n_components, self.n_features, self.family

    @property
    def rows_seen(self) -> int:
        """Rows of positive weight taken in, those that wait for their step included."""
        return self.rows + self.pending_rows

    @property
    def pending_rows(self) -> int:
        """Rows that wait for their step."""
        return self.waiting.n_rows

    @property
    def room(self) -> int:
        """Rows that can be pushed before the model next changes."""
        due = self.hold_rows if self.running is None else self.sizes.step(self.online.seen)
        return max(0, due - self.waiting.n_rows)

    @property
    def effective_sample_size(self) -> float:
        """Rows that the running statistics amount to (Kish): (sum w)^2 / sum w^2 over the weights rows now have."""
        return 1.0 / self.online.inverse_size if self.online.inverse_size else 0.0

    @property
    def stats(self) -> Stats | None:
        """The running statistics, scaled to the effective sample size."""
        totals = self.online.totals
        return None if totals is None else totals[0]

    @property
    def model(self) -> Mixture | None:
        """The model to use now: of the late average where there is one, else the running one; None during the hold."""
        if self._served is None:
            with single_threaded_blas():
                self._serve()
        return self._served

    def _serve(self) -> None:
        if self.average is None or self.online.seen < LATE_STEPS * self.unit:
            self._served = self.running
        else:
            totals = self.average.scaled(self.effective_sample_size)
            self._served = steady_m_step(totals, self.reg_covar, self.running)[0]

    # Learning ---------------------------------------------------------------------------------------------------

    def beyond(self, rows: Array) -> NDArray[np.bool_] | None:
        """(n,) mask of rows that are set aside as things stand, None where none is: see `streamgmm.em.wild_rows`."""
        if self._limits.model is not self.running:
            self._limits = Limits(self.running, self.n_features)
        return self._limits.beyond(rows)

    def push(self, rows: Array, weight: Array | None = None) -> list[StepReport]:
        """Take rows (n, D) in, and make every step that is due.

        Parameters
        ----------
        rows : (n, D) finite float64
        weight : (n,) >= 0, optional; rows of weight 0 are left out

        Rows too far from everything learnt so far are left out too, and counted in `set_aside`.
        """
        if weight is not None:
            present = weight > 0
            rows, weight = rows[present], weight[present]
        if len(rows) < self.room:
            self._wait(*self._near(rows, weight))
            return []
        rows = np.ascontiguousarray(rows, np.float64)
        reports = []
        first = 0
        with single_threaded_blas():
            while first < len(rows):
                part = slice(first, min(len(rows), first + self.room))
                some = rows[part], _unless_all_one(None if weight is None else weight[part])
                first = part.stop
                some = self._near(*some)
                if self.running is not None and len(some[0]) == self.sizes.step(self.online.seen):
                    reports.append(self._step_of(*some))  # nothing waits: no copy is needed
                    continue
                self._wait(*some)
                if self.running is None and self.pending_rows >= self.hold_rows:
                    self._drop_far()
                if self.running is None and self.pending_rows >= self.hold_rows:
                    self.running = self._begin(*self.waiting.view(), polish=0, n_init=1)
                if self.pending_rows >= self.sizes.step(self.online.seen):
                    taken = self.waiting.view()
                    reports.append(self._step_of(*taken))
                    self.waiting.clear()
            self._serve()
        return reports

    def _near(self, rows: Array, weight: Array | None) -> tuple[Array, Array | None]:
        far = self.beyond(rows)
        if far is None:
            return rows, weight
        self.set_aside += int(far.sum())
        return rows[~far], None if weight is None else weight[~far]

    def _drop_far(self) -> None:
        """Set aside what the first model would be made of to its harm."""
        rows, weight = self.waiting.view()
        far = far_from_the_median(rows)
        if far.any():
            kept = rows[~far], None if weight is None else weight[~far]
            self.set_aside += int(far.sum())
            self.waiting.clear()
            self._wait(*kept)

    def _wait(self, rows: Array, weight: Array | None) -> None:
        self.waiting.add(rows, weight, self.sizes.step(self.online.seen) - self.pending_rows)

    def adopt(self, model: Mixture, weight: float) -> None:
        """Go on from a model fitted on rows of total `weight`, as if they had been the stream so far."""
        stats = self._behind(model)
        self.online = Online(seen=weight, inverse_size=1.0 / weight, mean=(stats,))
        self.average = stats if self.half_life is None else None
        self.running = self._served = model

    def _behind(self, model: Mixture) -> Stats:
        """Statistics of weight 1 that lead to `model`."""
        return stats_of(model, self.reg_covar)

    def _step_of(self, rows: Array, weight: Array | None) -> StepReport:
        """A step; it is computed as suits all rows so far, so that a long stream comes to compiled code."""
        return in_all(self.rows + len(rows), self._step, rows, weight)

    def _step(self, rows: Array, weight: Array | None) -> StepReport:
        events: list[dict[str, Any]] = []
        loglik, alarm = math.nan, False
        fresh = self.online.mean is None and any(part is None for part in self.given)
        stats: Stats | None = None
        if not fresh:
            assert self.running is not None
            stats = e_step(self.running, rows, weight)
            loglik = stats.loglik / stats.count
            alarm = self.detector is not None and bool(self.detector.update(loglik, len(rows)))
            if alarm and self.on_drift != "report":
                self.average = None
                if self.on_drift == "boost":
                    self.online = replace(self.online, seen=stats.count)
                else:
                    self.online, fresh = Online(), True
                events.append({"action": self.on_drift})
        if fresh or stats is None:
            self.running = self._begin(rows, weight, polish=POLISH, n_init=self.n_init + 3 * alarm)
            stats = e_step(self.running, rows, weight)
            # After an alarm this step holds rows of before and after: the next one makes a start of its own.
            self.challenger, self.challenged = None, -(2**62) if alarm else self.rows
        elif not self.frozen:
            stats = self._challenge(rows, weight, stats, events)
        before = self.online.seen
        self.online, _ = self.rule.absorb(self.online, Block(0, self.steps, (), False), (stats,))
        rate = self.rule.schedule.rate(self.steps, stats.count, self.online.seen) if before else 1.0
        self.steps += 1
        self.rows += len(rows)
        if not self.frozen:
            if self.restructure and self.steps % 16 == 0:
                events += self._merge_alike()
            events += self._reseed_dead(rows, weight)
            events += self.settle()
            if self.half_life is None:
                self._average(stats.count)
        self.changed()
        return StepReport(self.rows, len(rows), loglik, rate, alarm, tuple(events))

    def settle(self) -> list[dict[str, Any]]:
        """The M-step on the running statistics; what had to be repaired."""
        totals = self.stats
        assert totals is not None
        self.running, repairs = steady_m_step(totals, self.reg_covar, self.running)
        return repairs

    def changed(self) -> None:
        """Forget the model that was made for serving."""
        self._served = None

    def _challenge(self, rows: Array, weight: Array | None, stats: Stats, events: list[dict[str, Any]]) -> Stats:
        """Set a start on recent rows against the model, now and then; the better predictor goes on."""
        assert self.running is not None
        if self.challenger is not None:
            if self._judge(self.challenger, rows, events):
                return e_step(self.running, rows, weight)
        elif self.rows - self.challenged >= wait_for_challenge(
            self.unit, self.challenged, self.online.seen, self.half_life
        ):
            some = slice(0, self.unit)
            part = None if weight is None else weight[some]
            n_init = 1 if self.half_life is None else 2
            self.trial, self.challenged = Trial(), self.rows
            self.challenger = self._begin(rows[some], part, polish=POLISH // 2, n_init=n_init)
        return stats

    def _judge(self, challenger: Mixture, rows: Array, events: list[dict[str, Any]]) -> bool:
        """Go on with the trial of the challenger; True where it won and took over."""
        assert self.running is not None
        self.trial = self.trial.after(challenger.log_prob(rows) - self.running.log_prob(rows))
        won = self.trial.verdict(self.n_features, 16 * self.unit)
        if won is not None:
            self.challenger = None
        if not won:
            return False
        self.running = challenger
        count = float(self.unit)
        fresh = stats_of(challenger, self.reg_covar)
        self.online, self.average = Online(self.online.step, count, 1.0 / count, (fresh,)), None
        gain = self.trial.mean
        events.append({"action": "replaced", "reason": f"a fresh start gains {gain:.2g} nats per row"})
        return True

    def _average(self, batch: float) -> None:
        assert self.online.mean is not None
        if self.average is None:
            self.average = self.online.mean[0]
        share = (TAIL + 1) * batch / (self.online.seen + TAIL * batch)
        self.average = self.average.blend(self.online.mean[0], share)

    # Starting, dying, merging -----------------------------------------------------------------------------------

    def _begin(self, rows: Array, weight: Array | None, *, polish: int, n_init: int) -> Mixture:
        rng = np.random.RandomState([self.seed, self.starts])
        self.starts += 1
        first = self.online.mean is None and not self.steps
        wanted = Wanted(self.n_components, self.family, self.init, n_init)
        return begin(
            rows, weight, wanted, polish=polish, reg_covar=self.reg_covar, rng=rng,
            given=self.given if first else NOTHING, fallback=self.running,
        )  # fmt: skip

    def _reseed_dead(self, rows: Array, weight: Array | None) -> list[dict[str, Any]]:
        """Give one dead component to the rows of this step that the model likes least."""
        assert self.online.mean is not None and self.running is not None
        mass = self.online.mean[0].weight / self.online.inverse_size
        dead = np.flatnonzero(mass < DEAD_ROWS)
        if not dead.size or self.n_components == 1 or len(rows) <= 4 * (self.n_features + 1):
            return []
        k = int(dead[0])
        low = low_density_cluster(self.running, rows)
        some = None if weight is None else weight[low]
        self._replace(replace_component(self.online.mean[0], k, rows[low], some, len(low) / len(rows)))
        return [{"action": "re-seeded", "component": k, "reason": f"{mass[k]:.2g} effective rows"}]

    def _merge_alike(self) -> list[dict[str, Any]]:
        """Join the two most alike components where they are one; the freed one is dead, and re-seeded next."""
        assert self.online.mean is not None and self.running is not None
        i, j, distance = closest_pair(self.running)
        if distance > ALIKE:
            return []
        self._replace(join(self.online.mean[0], i, j))
        return [{"action": "merged", "components": [i, j], "distance": distance}]

    def _replace(self, stats: Stats) -> None:
        self.online, self.average = replace(self.online, mean=(stats,)), None

    # Joining two streams ----------------------------------------------------------------------------------------

    def merge(self, other: Learner, ages: tuple[float, float] = (0.0, 0.0)) -> None:
        """Take in what `other` learnt from a stream of its own; components correspond by their number.

        Parameters
        ----------
        other : Learner
            Of the same shape and half-life, from the same start.
        ages : (float, float)
            Rows of the common stream that passed since the last row of this learner, and of the other: each has
            decayed by 2^(-age / half_life) more. Two halves of one stretch, learnt side by side, have ages (0, 0).

        Notes
        -----
        With a half-life a learner's weight is what its rows still weigh, so learning A then B under one model, and
        merging A aged by B's rows with B, give the same statistics. Without one it is the effective sample size.
        """
        mine, theirs = self.online, other.online
        if (*other.shape, other.half_life) != (*self.shape, self.half_life):
            raise ValueError(
                "Only learners of equal n_components, features, covariance_type and half_life can be merged."
            )
        if theirs.mean is not None:
            if mine.mean is None:
                self.online, self.running, self.average = theirs, other.running, other.average
            else:
                m, o = (one._mass() * one._aged(age) for one, age in ((self, ages[0]), (other, ages[1])))
                share = o / (m + o)
                both = self.average is not None and other.average is not None
                self.average = self.average.blend(other.average, share) if both else None  # type: ignore[union-attr, arg-type]
                self.online = replace(
                    mine,
                    seen=mine.seen + theirs.seen,
                    inverse_size=(1 - share) ** 2 * mine.inverse_size + share**2 * theirs.inverse_size,
                    mean=(mine.mean[0].blend(theirs.mean[0], share),),
                )
                if not self.frozen:
                    self.settle()
            self.changed()
        self.rows += other.rows
        self.steps += other.steps
        self.push(*other.waiting.view())

    def _mass(self) -> float:
        """Effective number of rows that the statistics hold after decay."""
        if self.half_life is None:
            return self.effective_sample_size
        return -math.expm1(-self.online.seen / self.half_life * math.log(2)) * self.half_life

    def _aged(self, age: float) -> float:
        return 1.0 if self.half_life is None else 2.0 ** (-age / self.half_life)

    # Keeping ----------------------------------------------------------------------------------------------------

    def state(self) -> LearnerState:
        """Everything that was learnt, until the next row comes; `restore` takes it back to the bit."""
        return LearnerState(
            *self.shape, self.rows, self.steps, self.starts, self.seed, self.set_aside, self.challenged, self.trial,
            self.online, self.average, self.running, self.challenger, self.waiting.view(),
        )  # fmt: skip

    def restore(self, state: LearnerState) -> None:
        """The inverse of `state`; ValueError where that is not the state of a learner of this shape."""
        state = checked(state, *self.shape)
        self.online, self.average = state.online, state.average
        self.rows, self.steps, self.starts, self.seed = state.rows, state.steps, state.starts, state.seed
        self.challenged, self.set_aside, self.trial = state.challenged, state.set_aside, state.trial
        self.running, self.challenger = state.model, state.challenger
        self.changed()
        self.waiting.clear()
        rows, weight = state.waiting
        if len(rows):
            self.waiting.add(rows, weight, len(rows))


def _unless_all_one(weight: Array | None) -> Array | None:
    return None if weight is None or bool((weight == 1.0).all()) else weight
