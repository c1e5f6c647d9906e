"""E-steps over rows with missing entries: exact under missing at random, for all families.

Rows are grouped by the pattern of what is missing. To the rows of one pattern a mixture *is* its marginal over the
observed features, so a large group goes through the ordinary kernels under that marginal, and its statistics are lifted
to all features by the conditional moments, which are affine in the observed part. Small groups share one kernel that
handles one pattern after another (`streamgmm.kernels.missing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import NonFiniteRowError
from streamgmm.kernels import dispatch
from streamgmm.kernels.cuda.backend import is_device_array
from streamgmm.kernels.plain import missing as reference_missing
from streamgmm.kernels.plain.factor import run_missing
from streamgmm.kernels.plan import Plan, read_only
from streamgmm.mixture.covariance.base import LOG_2PI
from streamgmm.mixture.covariance.factor import Factor
from streamgmm.mixture.parameters import Parameters
from streamgmm.mixture.stats import Stats, stats_from_sums

Array = NDArray[np.float64]

WORTH = 20_000
"""Rows times numbers in `Plan.coef` from which on the rows of a pattern get a marginal mixture of their own (measured:
that costs 0.1 ms and more, and then 2 to 10 times less a row), but not for less than 16 rows."""
_BLOCK = 16


@dataclass(frozen=True, slots=True, eq=False)
class Marginal:
    """A mixture as rows of one pattern see it.

    Attributes
    ----------
    features : (d,) what was observed
    plan : the marginal, ready for the kernels
    lift : what leads from its statistics to those of all features; see `Covariance.lift`
    hidden : (K,) entropy of the missing part given the observed one, in nats; hidden_noise that of the background
    """

    features: NDArray[np.int64]
    plan: Plan
    lift: tuple[Array, Array]
    hidden: Array
    hidden_noise: float


@dataclass(slots=True, eq=False)
class Answers:
    """Per-row output arrays, each wanted or None: log p (n,), responsibilities, labels, rows with the gaps filled."""

    logp: Array | None = None
    resp: Array | None = None
    label: NDArray[np.int64] | None = None
    filled: Array | None = None

    def like(self, n: int) -> Answers:
        """Uninitialised arrays of the same kind for n rows."""
        return Answers(*(None if a is None else np.empty((n, *a.shape[1:]), a.dtype) for a in self._arrays()))

    def put(self, index: NDArray[np.int64], part: Answers) -> None:
        for whole, some in zip(self._arrays(), part._arrays(), strict=True):
            if whole is not None and some is not None:
                whole[index] = some

    def _arrays(self) -> tuple[Any, ...]:
        return self.logp, self.resp, self.label, self.filled


class Patterns:
    """One mixture, asked about rows with NaN. Marginals are made when first wanted and kept."""

    def __init__(self, model: Parameters, plan: Any, spread: Array) -> None:
        self._model = model
        self._plan = plan  # a FactorPlan for factor analysers
        self._spread = spread
        self._marginals: dict[bytes, Marginal] = {}
        self._callers = 0

    def run(
        self, rows: NDArray[Any], weight: Array | None, *, statistics: bool, answers: Answers | None = None
    ) -> tuple[Stats | None, Array, int]:
        """E-step over `rows` (n, D), NaN where an entry is missing.

        Returns
        -------
        Statistics in the mixture's frame (None where not asked for), the (5,) totals of `kernels.Sums`, and the number
        of rows of positive weight in which nothing is observed. Those are in neither; their answers are the prior's.

        Raises
        ------
        NonFiniteRowError
            At a row with infinity.
        TypeError
            For rows on a graphics card.
        """
        if is_device_array(rows):
            raise TypeError("missing values are marginalized on the host: pass NumPy rows, or missing='error'.")
        answers = answers or Answers()
        if isinstance(self._model.family, Factor):
            return self._with_factors(rows, weight, answers, statistics)
        small = dispatch.is_small(len(rows), *self._plan.coef.shape)
        groups = _groups(rows, small) if len(rows) else []
        shown = [~np.isnan(rows[index[0]]) for index in groups]
        worth = [self._is_worth(len(index), observed, answers) for index, observed in zip(groups, shown, strict=True)]
        self._make_marginals([observed for observed, own in zip(shown, worth, strict=True) if own])
        few: list[NDArray[np.int64]] = []
        stats = Stats.zeros(self._model.family, *self._model.means.shape) if statistics else None
        totals = np.zeros(5)
        dropped = 0
        for index, observed, own in zip(groups, shown, worth, strict=True):
            if not observed.any():
                dropped += len(index) if weight is None else int((weight[index] > 0).sum())
                self._know_nothing(index, answers)
            elif not own:
                few.append(index)
            else:
                part, sums = self._many(rows, index, weight, observed, answers, statistics, small)
                totals += sums
                stats = stats.merge(part) if stats is not None and part is not None else None
        if few:
            part, sums = self._few(rows, few, weight, answers, statistics, small)
            totals += sums
            stats = stats.merge(part) if stats is not None and part is not None else None
        return stats if stats is None else replace(stats, dropped=dropped), totals, dropped

    def _with_factors(
        self, rows: NDArray[Any], weight: Array | None, answers: Answers, statistics: bool
    ) -> tuple[Stats | None, Array, int]:
        """Rows of factor analysers: every pattern at once."""
        model = self._model
        seen = ~np.isnan(rows)
        index = np.flatnonzero(seen.any(axis=1))
        blank = np.flatnonzero(~seen.any(axis=1))
        if blank.size:
            self._know_nothing(blank, answers)
        w = None if weight is None else weight[index]
        part = answers.like(len(index))
        log_weights, log_noise = self._log_shares
        base: Array | float = -np.inf
        if model.box is not None:
            base = log_noise - seen[index] @ np.log(model.box[1] - model.box[0])
        try:
            sums = run_missing(
                self._plan, rows[index], w, log_weights, base, statistics=statistics, logp=part.logp, resp=part.resp,
                label=part.label, filled=part.filled,
            )  # fmt: skip
        except NonFiniteRowError as error:
            raise NonFiniteRowError(int(index[error.row])) from None
        if part.filled is not None and model.box is not None:
            shares = np.empty((len(index), model.n_components + 1))
            run_missing(self._plan, rows[index], w, log_weights, base, statistics=False, resp=shares)
            part.filled += np.where(seen[index], 0.0, shares[:, -1:] * model.box.mean(axis=0))
        answers.put(index, part)
        dropped = len(blank) if weight is None else int((weight[blank] > 0).sum())
        stats = None
        if statistics:
            zero = Stats.zeros(model.family, *model.means.shape)
            stats = zero if not sums.moments else stats_from_sums(model.family, sums, self._plan)
            stats = replace(stats, dropped=dropped)
        return stats, sums.totals, dropped

    def _is_worth(self, n_rows: int, observed: NDArray[np.bool_], answers: Answers) -> bool:
        """True if rows of one pattern are taken under a marginal mixture of their own."""
        large = n_rows * min(self._plan.coef.size, WORTH // 16) >= WORTH
        return large and answers.filled is None and bool(observed.any())

    def _make_marginals(self, patterns: list[NDArray[np.bool_]]) -> None:
        """Make what `_many` will look up; every second caller begins at the end, so that two threads share the work."""
        self._callers += 1
        for observed in patterns[:: 1 if self._callers % 2 else -1]:
            if not observed.all():
                self._marginal(observed)

    def _know_nothing(self, index: NDArray[np.int64], answers: Answers) -> None:
        """Rows without an observed entry: p = 1, and everything else as before any data."""
        model = self._model
        shares = model.weights if model.box is None else np.append(model.weights, model.noise_weight)
        if answers.logp is not None:
            answers.logp[index] = 0.0
        if answers.resp is not None:
            answers.resp[index] = shares
        if answers.label is not None:
            best = int(np.argmax(shares))
            answers.label[index] = best if best < model.n_components else -1
        if answers.filled is not None:
            centre = 0.0 if model.box is None else model.noise_weight * model.box.mean(axis=0)
            answers.filled[index] = model.weights @ model.means + centre

    def _many(
        self,
        rows: NDArray[Any],
        index: NDArray[np.int64],
        weight: Array | None,
        observed: NDArray[np.bool_],
        answers: Answers,
        statistics: bool,
        small: bool,
    ) -> tuple[Stats | None, Array]:
        """Rows of one pattern, under the marginal mixture of what they show."""
        complete = observed.all()
        marginal = None if complete else self._marginal(observed)
        if complete and len(index) == len(rows):
            some, w = rows, weight
        else:
            some = _taken(rows, index, np.flatnonzero(observed), small)
            w = None if weight is None else weight[index]
        part = answers.like(len(index))
        plan = self._plan if marginal is None else marginal.plan
        try:
            sums = dispatch.run(plan, some, w, statistics=statistics, logp=part.logp, resp=part.resp, label=part.label)
        except NonFiniteRowError as error:
            raise NonFiniteRowError(int(index[error.row])) from None
        answers.put(index, part)
        if not statistics:
            return None, sums.totals
        family = self._model.family
        stats = stats_from_sums(family, sums, plan)
        if marginal is not None:
            own = np.zeros_like(self._plan.means)
            mean, scatter = family.lifted(
                stats.weight, stats.mean, stats.scatter, marginal.lift, marginal.features, own
            )
            noise = stats.count - stats.weight.sum() if marginal.hidden_noise else 0.0
            hidden = float(stats.weight @ marginal.hidden + noise * marginal.hidden_noise)
            stats = replace(stats, mean=mean, scatter=scatter, entropy=stats.entropy + hidden)
        return stats, sums.totals

    def _marginal(self, observed: NDArray[np.bool_]) -> Marginal:
        key = observed.tobytes()
        marginal = self._marginals.get(key)
        if marginal is None:
            model, o = self._model, np.flatnonzero(observed)
            family = model.family
            covariances = family.marginal(model.covariances, o)
            factors, _ = family.factor(covariances)
            base, hidden_noise = -np.inf, 0.0
            if model.box is not None and model.noise_weight > 0:
                seen = float(np.log(model.box[1, o] - model.box[0, o]).sum())
                base, hidden_noise = float(np.log(model.noise_weight)) - seen, model.log_volume - seen
            plan, spread = family.plan(model.weights, model.means[:, o], covariances, factors, base)
            K, D = model.means.shape
            log_det = family.log_det(model.factors, K, D) - family.log_det(factors, K, len(o))
            hidden = 0.5 * (log_det + (D - len(o)) * (1.0 + LOG_2PI))
            lift = family.lift(model.covariances, o, spread, self._spread)
            marginal = Marginal(o, plan, lift, hidden, hidden_noise)
            self._marginals[key] = marginal
        return marginal

    def _few(
        self,
        rows: NDArray[Any],
        groups: list[NDArray[np.int64]],
        weight: Array | None,
        answers: Answers,
        statistics: bool,
        small: bool,
    ) -> tuple[Stats | None, Array]:
        """Rows of many patterns, pattern by pattern: in NumPy where they are part of a `small` pass."""
        index = np.concatenate(groups)
        some = _taken(rows, index, np.arange(rows.shape[1]), small)
        part = answers.like(len(index))
        step = self._few_in_numpy if small else self._few_compiled
        try:
            moments, totals = step(some, groups, None if weight is None else weight[index], part, statistics)
        except NonFiniteRowError as error:
            raise NonFiniteRowError(int(index[error.row])) from None
        answers.put(index, part)
        if not statistics:
            return None, totals
        family = self._model.family
        mass, first, second = moments
        first, second = family.to_frame(first, second, self._spread)
        shift = np.divide(first, mass[:, None], out=np.zeros_like(first), where=mass[:, None] > 0)
        scatter = family.scatter_from_moments(second, mass, shift)
        loglik, entropy, log_max, count, n_rows = totals.tolist()
        return Stats(mass, shift, scatter, loglik, entropy, log_max, count, int(n_rows), family), totals

    @property
    def _log_shares(self) -> tuple[Array, float]:
        """Logarithms of the components' weights (K,), and of the background's."""
        model = self._model
        with np.errstate(divide="ignore"):
            log_weights = np.maximum(np.log(model.weights), -1e300)
            return log_weights, float(np.log(model.noise_weight)) if model.box is not None else -np.inf

    def _few_in_numpy(
        self, rows: Array, groups: Sequence[NDArray[np.int64]], weight: Array | None, part: Answers, statistics: bool
    ) -> tuple[tuple[Array, Array, Array], Array]:
        model = self._model
        log_weights, log_noise = self._log_shares
        variances = model.family.for_missing(model.covariances, rows.shape[1])
        return reference_missing.missing(
            rows, weight, log_weights, model.means, variances, log_noise, model.box, statistics=statistics,
            logp=part.logp, resp=part.resp, label=part.label, filled=part.filled,
        )  # fmt: skip

    def _few_compiled(
        self, rows: Array, groups: Sequence[NDArray[np.int64]], weight: Array | None, part: Answers, statistics: bool
    ) -> tuple[tuple[Array, Array, Array], Array]:
        from streamgmm.kernels.missing import missing

        model, family = self._model, self._model.family
        K, D = model.means.shape
        starts = np.cumsum([0, *map(len, groups)])
        variances = family.for_missing(model.covariances, D)
        moments = (np.zeros(K), np.zeros((K, D)), np.zeros(variances.shape))
        none = (np.empty(0), np.empty((0, 0)), np.empty((0, 0, 0)))
        totals = np.zeros(5)
        log_weights, log_noise = self._log_shares
        bad = missing(
            int(family.kernel), rows, read_only(none[0] if weight is None else weight), starts,
            log_weights, read_only(model.means), read_only(variances), log_noise,
            read_only(none[1] if model.box is None else model.box), _BLOCK,
            none[0] if part.logp is None else part.logp, none[1] if part.resp is None else part.resp,
            np.empty(0, np.int64) if part.label is None else part.label,
            none[1] if part.filled is None else part.filled, *(moments if statistics else none), totals,
        )  # fmt: skip
        if bad >= 0:
            raise NonFiniteRowError(bad)
        return moments, totals


def _groups(rows: NDArray[Any], small: bool) -> list[NDArray[np.int64]]:
    """The numbers of the rows of each pattern of NaN, in the order in which patterns are met first."""
    if small:
        order, starts = reference_missing.group(rows)
        return np.split(order, starts[1:-1])
    from streamgmm.kernels.missing import group

    n = len(rows)
    order, starts = np.empty(n, np.int64), np.zeros(n + 1, np.int64)
    found = group(read_only(rows), order, starts, np.full(1 << max(1, (2 * n - 1).bit_length()), -1))
    return np.split(order, starts[1:found])


def _taken(rows: NDArray[Any], index: NDArray[np.int64], features: NDArray[np.int64], small: bool) -> Array:
    """rows[index][:, features] as float64."""
    if small:
        return np.asarray(rows[index[:, None], features], np.float64)
    from streamgmm.kernels.missing import gather

    some = np.empty((len(index), len(features)))
    gather(read_only(rows), index, features, some)
    return some
