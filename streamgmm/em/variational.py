"""Variational inference on the loop of EM: its M-step, where it begins, and its solvers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.acceleration import Accelerator, Corrected, Squarem
from streamgmm.em.candidates import Candidate, Candidates, Initialization, keep_all, new_candidates
from streamgmm.em.convergence import aitken
from streamgmm.em.hooks import NO_CHECKPOINT, CheckpointSlot
from streamgmm.em.initialization.far_rows import counted, without_extremes
from streamgmm.em.initialization.methods import Wanted, made, prepared
from streamgmm.em.initialization.sample import survey
from streamgmm.em.kmeans.parallel_init import SPREAD, spread_out
from streamgmm.em.passes import Stage, passes
from streamgmm.em.sample_em import SampleStep
from streamgmm.em.solvers import EXPENSIVE, INNER, SAMPLE_WORK, Settings, exact, incremental
from streamgmm.em.update import Maximize, Update
from streamgmm.em.variants import Exact
from streamgmm.em.variational_moves import LARGE, SMALL, At, Bench, Moves, bench_rows, search
from streamgmm.em.variational_update import MovingUpdate
from streamgmm.errors import non_finite
from streamgmm.mixture.components import stats_of
from streamgmm.mixture.covariance import Covariance
from streamgmm.mixture.labelled_stats import stats_from_responsibilities
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.stats import Stats
from streamgmm.mixture.variational import (
    GaussWishart,
    VariationalMixture,
    evidence,
    evidence_of,
    rows_behind,
    variational_m_step,
)
from streamgmm.mixture.variational_sums import tidied
from streamgmm.runtime.executors import Executor
from streamgmm.sources.base import Source
from streamgmm.sources.summaries.sample import SampleSummary
from streamgmm.utils.sample_weight import no_rows

POLISHING = 300
"""Steps on rows in memory at most, before the first pass."""
CLOSER = 0.01
"""Part of `tol` that these steps go to: on a plateau a distance to the limit is estimated too small."""
DOUBT = 1e-3
"""Mean of -log of a row's largest responsibility, in nats, below which a posterior is certain."""
CORRECTING = 20_000
"""Rows of a sample whose steps correct those on all rows."""


@dataclass(frozen=True, slots=True)
class Infer(Maximize):
    """The M-step of variational inference, and the evidence bound that its steps climb."""

    posterior: GaussWishart | None = None
    tidy: bool = False
    """Join components where the statistics say that it pays."""

    @property
    def prior_known(self) -> GaussWishart:
        """The prior of the parameters."""
        assert self.posterior is not None
        return self.posterior

    def step(self, stats: Stats, model: Mixture) -> Mixture:
        return variational_m_step(stats, self.prior_known, self.reg_covar)

    def __call__(
        self, candidate: Candidate, stats: Stats
    ) -> tuple[Mixture, tuple[int, ...], tuple[dict[str, Any], ...]]:
        if stats.count <= 0:
            raise no_rows()
        change = ""
        if self.tidy:
            stats, change = tidied(stats, self.prior_known, self.reg_covar)
        return self.step(stats, candidate.model), candidate.reseeds, ({"action": change},) if change else ()

    def value(self, model: Mixture, stats: Stats) -> float:
        return evidence(cast(VariationalMixture, model), stats) / stats.count

    def bound(self, model: Mixture, stats: Stats) -> float:
        return evidence_of(cast(VariationalMixture, model), stats) / stats.count


@dataclass(frozen=True, slots=True, eq=False)
class VariationalBeginning:
    """The settings of a fit that decide where it begins; see `BayesianGaussianMixture`.

    Attributes
    ----------
    prior : callable (SampleSummary) -> GaussWishart
    responsibilities : (N, K), (N,) labels, or None
        Of all rows; instead of drawn models.
    searches : bool
        Whether moves are made on the sample first.
    """

    family: Covariance
    n_components: int
    init: str
    n_init: int
    reg_covar: float
    tol: float
    prior: Callable[[SampleSummary], GaussWishart]
    responsibilities: NDArray[Any] | None
    searches: bool
    sample_rows: int
    threads: int


@dataclass(frozen=True, slots=True, eq=False)
class VariationalBegin(Initialization):
    """Start of variational inference: `Initialization`, and the prior of the parameters."""

    posterior: GaussWishart | None = None
    moves: Moves = field(default_factory=dict)


def begin_variational(
    wanted: VariationalBeginning,
    source: Source,
    reader: Executor,
    executor: Executor,
    generator: Callable[[], np.random.RandomState],
    slot: CheckpointSlot = NO_CHECKPOINT,
) -> VariationalBegin:
    """First posteriors: from responsibilities that are given, or from models drawn from the sample."""
    family, K = wanted.family, wanted.n_components
    rng = generator()
    seed = int(rng.randint(2**31 - 1))
    sample = survey(source, reader, size=wanted.sample_rows, seed=seed)
    if sample.n_rows < K:
        raise ValueError(
            f"Expected n_samples >= n_components but got n_components = {K}, n_samples = {sample.n_rows} rows "
            "of positive weight. Lower n_components."
        )
    source, sample, gathering = without_extremes(source, sample, (family,), pulled=True)
    prior = wanted.prior(sample)
    begun = partial(
        VariationalBegin, prior=None, rows=counted(sample, gathering), sample=sample, posterior=prior,
        gathering=gathering,
    )  # fmt: skip
    if wanted.responsibilities is not None:
        stats = given_stats(source, wanted.responsibilities, K, family)
        return begun((variational_m_step(stats, prior, wanted.reg_covar),), passes=2)
    drawn, more = drawn_models(wanted, source, reader, sample, rng)
    models = tuple(as_posterior(model, sample.count, prior, wanted.reg_covar) for model in drawn)
    if not wanted.searches:
        return begun(models, passes=1 + more)
    _, model, moves = searched(sample, models, prior, wanted.reg_covar, executor, wanted.tol)
    return begun((model,), passes=1 + more, moves=moves)


def begin_variational_again(
    last: VariationalMixture, trace: tuple[float, ...], prior: GaussWishart, reg_covar: float
) -> VariationalBegin:
    """From where the last fit ended; under another prior from the posterior that its rows then have."""
    if prior is last.prior:
        return VariationalBegin((last,), None, traces=(trace,), posterior=prior)
    return VariationalBegin(
        (variational_m_step(rows_behind(last, reg_covar), prior, reg_covar),), None, posterior=prior
    )


def searched(
    sample: SampleSummary,
    models: tuple[VariationalMixture, ...],
    prior: GaussWishart,
    reg_covar: float,
    executor: Executor,
    tol: float,
) -> tuple[float, VariationalMixture, Moves]:
    """Evidence and posterior after moves on a small part of the sample, then on a large one, and what they were.

    On the small part every model is followed, and one that grows from a single component: births find what merges of
    many components miss. On 5,000 flights it ended above all other starts.
    """
    bench = _bench(sample, prior, reg_covar, executor, SMALL)
    found = [search(bench.afresh(), model) for model in models]
    if prior.limit > 1 and not any(certain(here) for here, _ in found):
        labels = np.zeros(len(bench.rows), np.intp)
        whole = stats_from_responsibilities(bench.rows, bench.weight, labels, 1, prior.family)
        found.append(search(bench.afresh(), bench.step(whole)))
    here, counts = max(found, key=lambda one: one[0].value)
    if len(bench.rows) < len(sample.rows):
        bench = _bench(sample, prior, reg_covar, executor, LARGE)
        here, further = search(bench, here.model)
        counts = {kind: counts.get(kind, 0) + further.get(kind, 0) for kind in counts.keys() | further.keys()}
    if bench.holds_all(sample) and tol > 0.0:
        last = polished(bench, here.model, reg_covar, tol)
        return bench.at(last).value, last, counts
    # The posterior of as many rows as there are.
    last = variational_m_step(here.stats.scaled(sample.count / here.stats.count), prior, reg_covar)
    return here.value, last, counts


def _bench(sample: SampleSummary, prior: GaussWishart, reg_covar: float, executor: Executor, most: int) -> Bench:
    size = bench_rows(prior.limit, len(prior.mean), most)
    return Bench.from_survey(sample, prior, reg_covar, executor, size=size, heavy=False)


def certain(here: At) -> bool:
    """True if there is no doubt about which component a row is of, so that nothing is left to be found."""
    return here.stats.log_max > -DOUBT * here.stats.count


def polished(bench: Bench, model: VariationalMixture, reg_covar: float, tol: float) -> VariationalMixture:
    """Steps on rows in memory to the limit, where these are all rows there are."""
    infer, tol = Infer(reg_covar, posterior=bench.prior, tidy=True), CLOSER * tol
    update = Update(infer, aitken(tol), POLISHING, Squarem(tol), slack=0.1 * tol if reg_covar > 0 else 0.0)
    candidates: Candidates = new_candidates((model,))
    for step in passes(bench.source, candidates, (Stage(Exact(), update),), bench.executor):
        candidates = step.candidates
    return cast(VariationalMixture, candidates[0].accepted)


def drawn_models(
    wanted: VariationalBeginning, source: Source, reader: Executor, sample: SampleSummary, rng: np.random.RandomState
) -> tuple[tuple[Mixture, ...], int]:
    """`n_init` mixtures, and the passes that they took beside the first."""
    K, family = wanted.n_components, wanted.family
    if K > 1 and wanted.init == SPREAD:
        starts = Wanted(K, family, wanted.init, wanted.n_init)
        found, more = spread_out(source, reader, sample, starts, rng, reg_covar=wanted.reg_covar)
        return tuple(found), more
    init = "kmeans" if wanted.init == SPREAD else wanted.init
    make = partial(prepared, sample, K, family, init=init, rng=rng, reg_covar=wanted.reg_covar, in_units=False)
    makers = [make() for _ in range(wanted.n_init)]
    return tuple(made(makers, threads=wanted.threads)), 0


def as_posterior(model: Mixture, count: float, prior: GaussWishart, reg_covar: float) -> VariationalMixture:
    """The posterior after `count` rows that have the weights, means and covariances of `model`."""
    if isinstance(model, VariationalMixture):
        return model
    return variational_m_step(stats_of(model, reg_covar).scaled(count), prior, reg_covar)


def given_stats(source: Source, responsibilities: NDArray[Any], K: int, family: Covariance) -> Stats:
    """Statistics of all rows under given responsibilities (N, K) or labels (N,), in one pass in the order of the rows.

    Raises
    ------
    ValueError
        Where there are more or fewer of them than rows.
    """
    total, row = None, 0
    for chunk in source.chunks():
        rows, weight = chunk.load()
        part = responsibilities[row : row + len(rows)]
        row += len(rows)
        if not len(rows):
            continue
        if len(part) < len(rows):
            break
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise non_finite(rows, int(np.argmin(finite)), chunk)
        stats = stats_from_responsibilities(
            rows.astype(np.float64), np.ones(len(rows)) if weight is None else weight, part, K, family
        )
        total = stats if total is None else total.merge(stats)
    if total is None or row != len(responsibilities):
        found = "more" if row > len(responsibilities) else row
        raise ValueError(
            f"responsibilities_init has {len(responsibilities)} rows, X has {found}. Expected one for each row of X."
        )
    return total


def auto(settings: Settings) -> tuple[Stage, ...]:
    """Accelerated steps, with moves between them where the sample is not all there is."""
    infer = settings.maximize
    assert isinstance(infer, Infer)
    infer = replace(infer, tidy=True)
    accelerator: Accelerator = Squarem(settings.tol)
    bench = None
    sample, K, D = settings.survey, settings.n_components, settings.n_features
    if sample is not None:
        small = sample if sample.complete else sample.among(CORRECTING)
        if not sample.complete and K * D**2 <= EXPENSIVE:
            inner = int(np.clip(SAMPLE_WORK * sample.n_rows // len(small.rows), *INNER))
            accelerator = Corrected(
                SampleStep.from_survey(small, infer, settings.executor), settings.tol, accelerator, inner
            )
        size = bench_rows(K, D)
        if len(sample.rows) > size or not sample.complete:
            bench = Bench.from_survey(
                sample, infer.prior_known, infer.reg_covar, settings.executor, size=size, heavy=True
            )
    slack = 0.1 * settings.tol if infer.reg_covar > 0 else 0.0
    moving = MovingUpdate(infer, settings.stopping, settings.max_iter, accelerator, keep_all, slack, bench=bench)
    return (Stage(Exact(), moving),)


VARIATIONAL_SOLVERS: dict[str, Callable[[Settings], tuple[Stage, ...]]] = {
    "auto": auto,
    "exact": exact,
    "incremental": incremental,
}
