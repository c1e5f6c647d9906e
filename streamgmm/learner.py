"""A mixture that learns for ever: rows are gathered into steps, each step moves running statistics.

The model after n rows depends on those rows and their order only, never on how they were cut into batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.covariance import TIED, Covariance, spread_of
from streamgmm.em import CollapsedError
from streamgmm.executors import single_threaded_blas
from streamgmm.mixture import Mixture
from streamgmm.repair import MAX_RESEEDS, overall_covariance, repairing_m_step
from streamgmm.rules import Block, HalfLife, Online, Schedule, Stepwise
from streamgmm.seeding import Survey, start
from streamgmm.stats import Stats
from streamgmm.surgery import closest_pair, join, lonely, plant, stats_of

Array = NDArray[np.float64]

MAX_STEP_ROWS = 65_536
POLISH = 10
"""EM steps on the rows of the first step. More would freeze the sample's own optimum."""
DEAD_ROWS = 1.0
"""Effective rows below which a component counts as dead."""
FLOOR = 1e-3
"""Least variance, in units of the overall one, of a component with fewer than 2 (D + 1) effective rows."""
LATE_STEPS = 32
"""Steps' worth of rows before the averaged statistics are served; before, they lag behind."""
TAIL = 3
"""Row i of n has weight (i / n)^TAIL in the late average (Shamir & Zhang 2013), so the start of the stream fades."""
MARGIN = 0.005
"""Nats per feature by which a challenger must predict better."""
MODEL_PARTS = ("weights", "means", "covariances", "factors")
ALIKE = 0.02
"""Bhattacharyya distance below which two components are one (`restructure`)."""


@dataclass(frozen=True, slots=True)
class RowDecay(Schedule):
    """Steps that shrink with the rows seen: (rows / unit + 2)^-power per `unit` rows (Cappe & Moulines 2009).

    Counted in rows, so that steps of any size forget alike.
    """

    unit: float
    power: float = 0.6

    def rate(self, step: int, batch: float, seen: float) -> float:
        one = ((seen - batch) / self.unit + 2.0) ** -self.power
        return -math.expm1(math.log1p(-one) * batch / self.unit)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did.

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
        given: tuple[Array | None, Array | None, Array | None] = (None, None, None),
        frozen: bool = False,
        restructure: bool = False,
        detector: Any = None,
        on_drift: str = "report",
    ) -> None:
        K, D = n_components, n_features
        self.n_components, self.n_features, self.family = K, D, family
        self.reg_covar, self.half_life, self.init, self.n_init, self.seed = reg_covar, half_life, init, n_init, seed
        self.given, self.frozen, self.restructure = given, frozen, restructure
        self.detector, self.on_drift = detector, on_drift
        self.hold_rows = max(20 * K, 2 * K * (D + 1))
        least = max(4 * K * D, self.hold_rows)
        usual = max(10 * K * D, self.hold_rows)
        self.unit = usual if half_life is None else int(min(usual, max(least, half_life / 8)))
        self.fixed_step = step_rows
        if step_rows is not None:
            self.unit = max(step_rows, self.hold_rows)
        schedule = RowDecay(self.unit) if half_life is None else HalfLife(half_life)
        self.rule = Stepwise(schedule)
        self.online = Online()
        self.average: Stats | None = None
        self.running: Mixture | None = None
        self.rows = 0
        self.steps = 0
        self.starts = 0
        self.challenger: Mixture | None = None
        self.challenged = 0
        self.trial = (0, 0.0, 0.0)
        self._pending: list[tuple[Array, Array]] = []
        self.pending_rows = 0
        self._served: Mixture | None = None
        weights, means, covariances = given
        if weights is not None and means is not None and covariances is not None:
            self.running = Mixture(weights, means, covariances, family)

    # Asking -----------------------------------------------------------------------------------------------------

    @property
    def rows_seen(self) -> int:
        """Rows of positive weight taken in, those that wait for their step included."""
        return self.rows + self.pending_rows

    @property
    def room(self) -> int:
        """Rows that can be pushed before the model next changes."""
        due = self.hold_rows if self.running is None else self._next_step()
        return max(0, due - self.pending_rows)

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
        if self.average is None or self.online.seen < LATE_STEPS * self.unit:
            return self.running
        if self._served is None:
            totals = self.average.scaled(self.effective_sample_size)
            with single_threaded_blas():
                self._served = self._maximize(totals)[0]
        return self._served

    # Learning ---------------------------------------------------------------------------------------------------

    def push(self, rows: Array, weight: Array | None = None) -> list[StepReport]:
        """Take rows (n, D) in, and make every step that is due.

        Parameters
        ----------
        rows : (n, D) finite float64
        weight : (n,) >= 0, optional; rows of weight 0 are left out
        """
        if weight is not None:
            present = weight > 0
            rows, weight = rows[present], weight[present]
        reports = []
        first = 0
        while first < len(rows):
            last = min(len(rows), first + self.room)
            part = slice(first, last)
            self._gather(rows[part], np.ones(last - first) if weight is None else weight[part])
            first = last
            if self.running is None and self.pending_rows >= self.hold_rows:
                with single_threaded_blas():
                    self.running = self._begin(*self._gathered(), polish=0, n_init=1)
            if self.pending_rows >= self._next_step():
                taken = self._gathered()
                self._pending, self.pending_rows = [], 0
                with single_threaded_blas():
                    reports.append(self._step(*taken))
        return reports

    def adopt(self, model: Mixture, weight: float) -> None:
        """Go on from a model fitted on rows of total `weight`, as if they had been the stream so far."""
        stats = stats_of(model, self.reg_covar)
        self.online = Online(seen=weight, inverse_size=1.0 / weight, mean=(stats,))
        self.average = stats if self.half_life is None else None
        self.running = self._served = model

    def _gather(self, rows: Array, weight: Array) -> None:
        # A copy, because callers reuse their buffers.
        self._pending.append((np.array(rows, np.float64, order="C"), weight))
        self.pending_rows += len(rows)

    def _gathered(self) -> tuple[Array, Array | None]:
        if len(self._pending) > 1:
            parts = self._pending
            self._pending = [(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))]
        rows, weight = self._pending[0]
        return rows, None if bool((weight == 1.0).all()) else weight

    def _next_step(self) -> int:
        """Rows of the next step: a function of the rows seen alone."""
        if self.online.mean is None or self.fixed_step is not None:
            return self.unit if self.online.mean is None else max(1, self.fixed_step or 0)
        limit = min(self.online.seen / 16, MAX_STEP_ROWS, self.half_life / 8 if self.half_life else math.inf)
        rows = self.unit
        while 2 * rows <= limit:
            rows *= 2
        return rows

    def _step(self, rows: Array, weight: Array | None) -> StepReport:
        events: list[dict[str, Any]] = []
        loglik, alarm = math.nan, False
        fresh = self.online.mean is None and any(part is None for part in self.given)
        stats: Stats | None = None
        if not fresh:
            assert self.running is not None
            stats = self._e_step(self.running, rows, weight)
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
            stats = self._e_step(self.running, rows, weight)
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
            totals = self.stats
            assert totals is not None
            self.running, repairs = self._maximize(totals)
            events += repairs
            if self.half_life is None:
                self._average(stats.count)
        self._served = None
        return StepReport(self.rows, len(rows), loglik, rate, alarm, tuple(events))

    def _challenge(self, rows: Array, weight: Array | None, stats: Stats, events: list[dict[str, Any]]) -> Stats:
        """Set a start on recent rows against the model, now and then; the better predictor goes on.

        After an abrupt change forgetting alone leaves EM where few components hold everything.
        """
        assert self.running is not None
        if self.challenger is not None:
            if self._settle(rows, events):
                return self._e_step(self.running, rows, weight)
            return stats
        # A start costs as much as 10^5 rows: four times as seldom each time, or once in a half-life.
        wait = max(32.0 * self.unit, 3.0 * self.challenged)
        if self.half_life is not None:
            wait = min(max(8.0 * self.unit, self.online.seen / 2), max(self.half_life, 32.0 * self.unit))
        if self.rows - self.challenged >= wait:
            some = slice(0, self.unit)
            n_init = 1 if self.half_life is None else 2
            part = None if weight is None else weight[some]
            self.trial = (0, 0.0, 0.0)
            self.challenger, self.challenged = (
                self._begin(rows[some], part, polish=POLISH // 2, n_init=n_init),
                self.rows,
            )
        return stats

    def _settle(self, rows: Array, events: list[dict[str, Any]]) -> bool:
        """Go on with the trial of the challenger; True where it won and took over."""
        assert self.running is not None and self.challenger is not None
        gain = self.challenger.log_prob(rows) - self.running.log_prob(rows)
        n, total, squares = self.trial
        self.trial = n, total, squares = n + len(gain), total + float(gain.sum()), squares + float(gain @ gain)
        mean = total / n
        error = math.sqrt(max(squares / n - mean * mean, 0.0) / n)
        enough = MARGIN * self.n_features
        if mean - 4.0 * error > 0.0 and mean > enough:
            self.running = self.challenger
            count = float(self.unit)
            fresh = stats_of(self.running, self.reg_covar)
            self.online, self.average = Online(self.online.step, count, 1.0 / count, (fresh,)), None
            self.challenger = None
            events.append({"action": "replaced", "reason": f"a fresh start gains {mean:.2g} nats per row"})
            return True
        if mean + 3.0 * error < enough or n > 16 * self.unit:
            self.challenger = None
        return False

    @staticmethod
    def _e_step(model: Mixture, rows: Array, weight: Array | None) -> Stats:
        return model.restore(model.frame_stats(rows, weight))

    def _average(self, batch: float) -> None:
        assert self.online.mean is not None
        if self.average is None:
            self.average = self.online.mean[0]
        share = (TAIL + 1) * batch / (self.online.seen + TAIL * batch)
        self.average = self.average.blend(self.online.mean[0], share)

    def _maximize(self, totals: Stats) -> tuple[Mixture, list[dict[str, Any]]]:
        K, D = totals.mean.shape
        try:
            model, _, repairs = repairing_m_step(totals, reg_covar=self.reg_covar, reseeds=(MAX_RESEEDS,) * K)
        except CollapsedError:
            if self.running is None:
                raise
            # Nothing but one value for many half-lives: the statistics go on, the parameters wait.
            return self.running, [{"action": "held", "reason": "the rows have no variance left"}]
        thin = totals.weight < 2 * (D + 1)
        if thin.all() if self.family is TIED else thin.any():
            spread = spread_of(overall_covariance(totals))
            covariances = self.family.floor(model.covariances, spread, FLOOR, thin)
            factors, good = self.family.factor(covariances)
            if good.all():
                model = Mixture.trusted(model.weights, model.means, covariances, self.family, factors)
        return model, list(repairs)

    # Starting, dying, merging -----------------------------------------------------------------------------------

    def _begin(self, rows: Array, weight: Array | None, *, polish: int, n_init: int) -> Mixture:
        """The best of `n_init` starts on these rows, each followed by a few EM steps on them."""
        w = np.ones(len(rows)) if weight is None else weight
        count = float(w.sum())
        mean = rows[0] + w @ (rows - rows[0]) / count
        delta = rows - mean
        box = np.array([rows.min(axis=0), rows.max(axis=0)])
        survey = Survey(rows, w, mean, (delta * w[:, None]).T @ delta / count, len(rows), count, box)
        rng = np.random.RandomState([self.seed, self.starts])
        self.starts += 1
        found: list[tuple[float, Mixture]] = []
        weights, means, covariances = self.given if self.online.mean is None and not self.steps else (None,) * 3
        for attempt in range(n_init):
            # k-means makes the same mistake twice; every other start comes from rows drawn at random.
            init = "random_from_data" if attempt % 2 else self.init
            model = start(
                survey, self.n_components, self.family, init=init, rng=rng, reg_covar=self.reg_covar, centres=means
            )
            if weights is not None or means is not None or covariances is not None:
                model = Mixture(
                    model.weights if weights is None else weights,
                    model.means if means is None else means,
                    model.covariances if covariances is None else covariances,
                    self.family,
                )
            loglik = -math.inf
            for _ in range(polish):
                stats = self._e_step(model, rows, weight)
                loglik = stats.loglik
                model, _ = self._maximize(stats)
            found.append((loglik, model))
        return max(found, key=lambda pair: pair[0])[1]

    def _reseed_dead(self, rows: Array, weight: Array | None) -> list[dict[str, Any]]:
        """Give one dead component to the rows of this step that the model likes least."""
        assert self.online.mean is not None and self.running is not None
        mass = self.online.mean[0].weight / self.online.inverse_size
        dead = np.flatnonzero(mass < DEAD_ROWS)
        if not dead.size or self.n_components == 1 or len(rows) <= 4 * (self.n_features + 1):
            return []
        k = int(dead[0])
        low = lonely(self.running, rows)
        some = None if weight is None else weight[low]
        self._replace(plant(self.online.mean[0], k, rows[low], some, len(low) / len(rows)))
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
        if (other.n_components, other.n_features, other.family, other.half_life) != (
            self.n_components, self.n_features, self.family, self.half_life,
        ):  # fmt: skip
            raise ValueError(
                "Only learners of equal n_components, features, covariance_type and half_life can be merged."
            )
        if theirs.mean is not None:
            if mine.mean is None:
                self.online, self.running, self.average = theirs, other.running, other.average
            else:
                m = self._mass() * self._aged(ages[0])
                o = other._mass() * self._aged(ages[1])
                share = o / (m + o)
                average = None
                if self.average is not None and other.average is not None:
                    average = self.average.blend(other.average, share)
                self.average = average
                self.online = replace(
                    mine,
                    seen=mine.seen + theirs.seen,
                    inverse_size=(1 - share) ** 2 * mine.inverse_size + share**2 * theirs.inverse_size,
                    mean=(mine.mean[0].blend(theirs.mean[0], share),),
                )
                if not self.frozen and self.stats is not None:
                    self.running = self._maximize(self.stats)[0]
            self._served = None
        self.rows += other.rows
        self.steps += other.steps
        for rows, weight in other._pending:
            self.push(rows, weight)

    def _mass(self) -> float:
        if self.half_life is None:
            return self.effective_sample_size
        return -math.expm1(-self.online.seen / self.half_life * math.log(2)) * self.half_life

    def _aged(self, age: float) -> float:
        return 1.0 if self.half_life is None else 2.0 ** (-age / self.half_life)

    # Keeping ----------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Everything that was learnt, as named arrays and JSON-able numbers; `restore` takes it back to the bit."""
        arrays: dict[str, NDArray[Any]] = {}
        numbers: dict[str, Any] = {
            "shape": [self.n_components, self.n_features, self.family.name],
            "rows": self.rows,
            "steps": self.steps,
            "starts": self.starts,
            "seed": self.seed,
            "challenged": self.challenged,
            "trial": list(self.trial),
            "online": [self.online.step, self.online.seen, self.online.inverse_size],
        }
        for role, model in (("model", self.running), ("challenger", self.challenger)):
            if model is not None:
                arrays |= {f"{role}.{part}": getattr(model, part) for part in MODEL_PARTS}
        named = {"mean": self.online.mean[0] if self.online.mean else None, "average": self.average}
        for name, stats in named.items():
            if stats is not None:
                arrays |= {f"{name}.{part}": getattr(stats, part) for part in ("weight", "mean", "scatter")}
                numbers[name] = [stats.loglik, stats.entropy, stats.log_max, stats.count, stats.rows]
        if self.pending_rows:
            self._gathered()
            arrays["pending.rows"], arrays["pending.weight"] = self._pending[0]
        return arrays, numbers

    def restore(self, arrays: dict[str, NDArray[Any]], numbers: dict[str, Any]) -> None:
        """The inverse of `state`.

        Raises
        ------
        ValueError
            Where the state is of a learner of another shape.
        """
        shape = [self.n_components, self.n_features, self.family.name]
        if numbers["shape"] != shape:
            raise ValueError(
                f"The state is of a stream with (n_components, features, covariance_type) = {numbers['shape']}; "
                f"this one has {shape}. Use the settings it was written with, or begin a new snapshot."
            )
        stats: dict[str, Stats] = {}
        for name in ("mean", "average"):
            if name in numbers:
                weight, centre, scatter = (np.array(arrays[f"{name}.{part}"]) for part in ("weight", "mean", "scatter"))
                loglik, entropy, log_max, count, rows = numbers[name]
                stats[name] = Stats(weight, centre, scatter, loglik, entropy, log_max, count, rows, self.family)
        step, seen, inverse_size = numbers["online"]
        mean = (stats["mean"],) if "mean" in stats else None
        self.online = Online(step=step, seen=seen, inverse_size=inverse_size, mean=mean)
        self.average = stats.get("average")
        self.rows, self.steps = numbers["rows"], numbers["steps"]
        self.starts, self.seed = numbers["starts"], numbers["seed"]
        self.challenged = numbers["challenged"]
        rows, total, squares = numbers["trial"]
        self.trial = rows, total, squares
        self.running, self.challenger = self._model_from("model", arrays), self._model_from("challenger", arrays)
        self._served = None
        self._pending, self.pending_rows = [], 0
        if "pending.rows" in arrays:
            self._gather(arrays["pending.rows"], np.array(arrays["pending.weight"]))

    def _model_from(self, role: str, arrays: dict[str, NDArray[Any]]) -> Mixture | None:
        if f"{role}.weights" not in arrays:
            return None
        w, mu, sigma, factors = (np.array(arrays[f"{role}.{part}"]) for part in MODEL_PARTS)
        return Mixture.trusted(w, mu, sigma, self.family, factors)
