"""Candidates of every kind and number of components on the same sample, and then on the same passes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.candidates import Candidate, Candidates, Start, new_candidates, prune_dominated, running
from streamgmm.em.convergence import Stopping
from streamgmm.em.hooks import FitObserver
from streamgmm.em.initialization import search_settings
from streamgmm.em.initialization.far_rows import without_extremes
from streamgmm.em.initialization.followed_starts import SampleEM, SampleSplit, SearchContext
from streamgmm.em.initialization.initialize import solved
from streamgmm.em.initialization.methods import DIVERSE, Wanted
from streamgmm.em.initialization.multistart import chains, draw, explore
from streamgmm.em.initialization.sample import survey
from streamgmm.em.initialization.search_settings import few_rows, sample_rows
from streamgmm.em.model_selection.cross_validation import held_out, task_of
from streamgmm.em.passes import PassCursor, Step, passes
from streamgmm.em.sample_em import cheap
from streamgmm.em.solvers import SOLVERS, Settings
from streamgmm.em.update import Maximize
from streamgmm.em.variants import Block
from streamgmm.errors import MemoryLimitError
from streamgmm.mixture.covariance import Covariance
from streamgmm.mixture.criteria import criteria as criteria_of
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.observation import observed
from streamgmm.mixture.prior import Conjugate, NormalInverseWishart
from streamgmm.mixture.queries import reduced
from streamgmm.mixture.support import doubt, supported
from streamgmm.runtime.executors import Executor, within
from streamgmm.sources.base import Source
from streamgmm.sources.summaries.sample import SampleSummary
from streamgmm.utils.numbers import size as bytes_text
from streamgmm.utils.phases import advanced, phase, reading, stepped

log = logging.getLogger("streamgmm.select")
Array = NDArray[np.float64]
Kind = tuple[Covariance, int]
"""Family and number of components."""

ROUNDS = ((5, 1.0), (5, 0.5), (10, 0.0))
"""EM of the drawn models on a part of the sample; after the first steps those that are one are followed once."""
FOLLOWED = ((5, 1.0), (5, 1.0))
"""Instead of `ROUNDS` where the table is small: as in a fit all starts go on, but for those that have become one. A
race drops late winners, and with them the K that they speak for."""
FOLLOWED_WORK = 2e5
"""Rows x components x features^2 of all the data up to which that is so: there are many K, and a step of 3,000 rows of
eight features takes milliseconds."""
WALK = 200
"""EM steps on all of the sample at most, for those that are left."""
SURVIVORS = 2
"""Starts of each kind that go on: to all of the sample where that is much, and to full passes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Candidates of a comparison, and how they are compared.

    Attributes
    ----------
    kinds : tuple of (family, K)
    splits : tuple of int
        Folds that are left out in turn; none where nothing is judged on rows held out.
    folds : int
    criterion : str or None
        By which dominated candidates are dropped; None drops none.
    solver : str
    tol, reg_covar, max_iter, n_init, init_params, missing : as in `GaussianMixture`
    open_ended : bool
        Whether nobody named the numbers of components.
    """

    kinds: tuple[Kind, ...]
    splits: tuple[int, ...]
    folds: int
    criterion: str | None
    solver: str
    stopping: Stopping
    tol: float
    reg_covar: float
    max_iter: int
    n_init: int
    init_params: str
    missing: str
    repair: bool
    prior: NormalInverseWishart | None
    open_ended: bool = False

    def for_rows(self, n: int, D: int) -> Plan:
        """Of `n` rows no more components than they give D + 1 rows each, where the range is `open_ended`.

        Raises
        ------
        ValueError
            Where there are more components than rows.
        """
        most = max(1, n // (D + 1))
        if self.open_ended and most < self.largest:
            kept = tuple((f, K) for f, K in self.kinds if most >= K)
            log.warning("%d rows support at most %d component%s; no more are tried", n, most, "s" * (most > 1))
            return replace(self, kinds=kept)
        if n < self.largest:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components up to {self.largest}, n_samples = {n} rows "
                f"of positive weight. Lower the largest number of components to {most}."
            )
        return self

    @property
    def largest(self) -> int:
        return max(K for _, K in self.kinds)

    def rows(self, D: int, *, rich: bool) -> int:
        """Rows of the sample."""
        widest = max((f for f, _ in self.kinds), key=lambda f: D if not f.n_factors else f.n_factors)
        family = widest if widest.n_factors else None
        return sample_rows(self.largest, D, family, rich=rich and self.solver == "auto" and self.n_init > 1)

    def check_memory(self, source: Source, limit: int | None, n_jobs: int) -> int:
        """Rows of the sample that fit, or a refusal with numbers."""
        D, K = source.n_features, self.largest
        rich, lean = self.rows(D, rich=True), self.rows(D, rich=False)
        if limit is None:
            return rich
        each = [8 * (K + K * D + int(np.prod(f.scatter_shape(K, D)))) for f, K in self.kinds]
        # Statistics: a partial sum for each thread and a few waiting in the fold; models and their plans are as large.
        needed = sum(each) * (SURVIVORS + len(self.splits)) * (n_jobs + 6)
        chunks = (source.chunk_bytes or 0) * (n_jobs + 1)
        for size in (rich, lean):
            # Held twice, since part of it is put aside, and once more for labels of k-means.
            sample = size * (2 * D * 8 + 8 * K * n_jobs)
            if needed + sample + chunks <= limit:
                return size
        raise MemoryLimitError(
            f"select needs about {bytes_text(needed + sample + chunks)}: {bytes_text(needed)} for the statistics of "
            f"{len(self.kinds)} kinds of model, {bytes_text(sample)} for the sample, {bytes_text(chunks)} for chunks; "
            f"{bytes_text(limit)} may be used. Raise memory_limit, or narrow n_components or covariance_types."
        )


@dataclass(frozen=True, slots=True)
class SelectionRun:
    """Where every candidate ended: those of a kind on all rows, and one for each fold.

    Attributes
    ----------
    plan : Plan
        The one that was carried out.
    candidates : Candidates
    kind_of, fold_of : tuple of int
        Of each candidate: the position of its kind, and the fold left out (-1: none).
    scores : (len(candidates), 2)
        Log-likelihood and weight of the fold left out.
    priors : resolved priors by kind
    sample : SampleSummary
    n_passes : int
    started : float
        When full passes began.
    solved : frozenset of int
        Kinds that the first pass finished: see `em.initialization.initialize.solved`.
    """

    plan: Plan
    candidates: Candidates
    kind_of: tuple[int, ...]
    fold_of: tuple[int, ...]
    scores: Array
    priors: dict[Kind, Conjugate]
    sample: SampleSummary
    n_passes: int
    started: float
    solved: frozenset[int] = frozenset()

    def team(self, kind: int) -> Candidates:
        """The candidates of a kind that saw all rows."""
        return tuple(c for c in self.candidates if self.kind_of[c.index] == kind and self.fold_of[c.index] < 0)


def race(
    source: Source,
    runner: Executor,
    plan: Plan,
    *,
    sample_rows: int,
    rng: np.random.RandomState,
    on_step: Callable[[Step], None] | None,
    watcher: FitObserver | None,
) -> SelectionRun:
    """Carry every kind from the sample to its limit on all rows, as far as it can still win."""
    D = source.n_features
    gaps = plan.missing == "marginalize"
    sample = survey(
        source,
        runner,
        size=sample_rows,
        seed=int(rng.randint(2**31 - 1)),
        missing=gaps,
        diagonal=all(f.n_factors for f, _ in plan.kinds),
    )
    plan = plan.for_rows(sample.n_rows, D)
    if plan.largest > 1:
        families = [family for family, _ in plan.kinds]
        source, sample, _ = without_extremes(source, sample, families, pulled=plan.prior is not None)
    priors: dict[Kind, Conjugate] = {}
    if plan.prior is not None:
        covariance = sample.covariance * (sample.count / max(sample.count - 1.0, 1.0))
        priors = {(f, K): plan.prior.resolve(f, K, D, sample.mean, covariance) for f, K in plan.kinds}
    maximize = Maximize(plan.reg_covar, plan.repair, priors or None)
    observation = observed(None, plan.missing, D)
    done = _solved(sample, plan, maximize)
    first = _first(sample, plan, maximize, runner, rng, lambda model: model.observing(observation), done)
    begun = _walked(first, sample, plan, maximize, runner, watcher, done)
    # For every fold the model that did best on all rows.
    folded = [g for g in range(len(plan.kinds)) for _ in plan.splits]
    kind_of = tuple([g for g, found in enumerate(begun) for _ in found] + folded)
    fold_of = tuple([-1] * (len(kind_of) - len(folded)) + [v for _ in plan.kinds for v in plan.splits])
    models = tuple(one.model for found in begun for one in found) + tuple(begun[g][0].model for g in folded)
    known = tuple(one.known for found in begun for one in found) + ((),) * len(folded)
    started = time.perf_counter()
    settings = Settings(
        plan.largest, D, maximize, plan.stopping, plan.tol, plan.max_iter, runner, None if sample.complete else sample,
        source.n_rows, retire=Pruner(kind_of, fold_of, plan.criterion, sample.n_rows, plan.reg_covar),
    )  # fmt: skip
    candidates = tuple(
        replace(done[g], index=c.index) if (g := kind_of[c.index]) in done and fold_of[c.index] < 0 else c
        for c in new_candidates(models, known=known)
    )
    of_step = partial(task_of, fold_of, plan.folds) if plan.splits else None
    n_passes = 1
    if not running(candidates):
        solved = Step((), PassCursor(), candidates, Block(0, 0, ()), ())
        stepped(solved)
        if on_step is not None:
            on_step(solved)
    for step in passes(source, candidates, SOLVERS[plan.solver](settings), runner, task_of=of_step):
        candidates = step.candidates
        n_passes += 1
        stepped(step)
        if on_step is not None:
            on_step(step)
    scores = np.zeros((len(candidates), 2))
    if plan.splits:
        apart = [c for c in candidates if fold_of[c.index] >= 0]
        judged = tuple((c.accepted, fold_of[c.index]) for c in apart)
        task = within(source, partial(held_out, judged, plan.folds))
        with reading(source, "judging by rows held out"):
            scores[[c.index for c in apart]] = runner.run(task, source.chunks(), np.add)
        n_passes += 1
    return SelectionRun(plan, candidates, kind_of, fold_of, scores, priors, sample, n_passes, started, frozenset(done))


def _solved(sample: SampleSummary, plan: Plan, maximize: Maximize) -> dict[int, Candidate]:
    """By kind the fits of one component to complete rows, which the first pass gives in closed form."""
    if plan.missing != "error" or not plan.tol > 0 or not plan.max_iter > 0:
        return {}
    ones = {
        g: solved(sample, kind, maximize) for g, (kind, K) in enumerate(plan.kinds) if K == 1 and not kind.n_factors
    }
    return {g: one for g, one in ones.items() if one is not None}


def _first(
    sample: SampleSummary,
    plan: Plan,
    maximize: Maximize,
    runner: Executor,
    rng: np.random.RandomState,
    observe: Callable[[Mixture], Mixture],
    done: Mapping[int, Candidate],
) -> list[list[Start]]:
    """For every kind the best of what was drawn and of what has grown, on a part of the sample.

    Growing is shared: from each number of components to the next.
    """
    D, ground = sample.rows.shape[1], SampleSplit.from_survey(sample)
    part = ground.part(few_rows(plan.largest, D))
    small = replace(sample, rows=part.rows, weight=part.weight)
    context = SearchContext(maximize, runner, threads=getattr(runner, "n_jobs", 1))
    one_of = search_settings.SEARCH.grown_share
    n_grown = max(1, plan.n_init // one_of) if plan.n_init > 1 and plan.init_params in DIVERSE else 0
    grown = {
        kind: chains(ground, [K for f, K in plan.kinds if f is kind], kind, context, n=n_grown, rng=rng)
        for kind in dict.fromkeys(f for f, _ in plan.kinds)
    }  # fmt: skip
    found = []
    phase("initial models", len(plan.kinds), "candidates")
    for g, (kind, K) in enumerate(plan.kinds):
        if g in done:
            found.append([Start(done[g].model, plan.init_params, done[g].objective)])
            advanced("candidates")
            continue
        n_init = 1 if K == 1 else plan.n_init
        wanted = Wanted(K, kind, plan.init_params, n_init, in_units=plan.prior is None)
        first = draw(small, wanted, rng, reg_covar=plan.reg_covar, oversampling=1, threads=context.threads)
        if K > 1:
            first = [("grown", models[K]) for models in grown[kind] if K in models] + first
        first = [(name, observe(model)) for name, model in first]
        rounds = FOLLOWED if _followed(part, K) else ROUNDS
        found.append(explore(first, part, context, survivors=min(n_init, SURVIVORS), rounds=rounds))
        advanced("candidates")
    return found


def _followed(split: SampleSplit, K: int) -> bool:
    """True if every start with K components is followed to its end."""
    m, D = split.rows.shape
    return split.complete and m * K * D**2 <= FOLLOWED_WORK


def _walked(
    first: Sequence[Sequence[Start]],
    sample: SampleSummary,
    plan: Plan,
    maximize: Maximize,
    runner: Executor,
    watcher: FitObserver | None,
    done: Mapping[int, Candidate],
) -> list[list[Start]]:
    """For every kind its best starts after their way on all of the sample, the best first.

    Where the sample is all of the data, what is dominated there is not followed any further.
    """
    drawn = [g for g, found in enumerate(first) for _ in found]
    merges = _merges(plan, *sample.rows.shape)
    kind_of = (*drawn, *(g for _, g in merges))
    alone, criterion = (-1,) * len(kind_of), plan.criterion if sample.complete else None
    split = SampleSplit.from_survey(sample)
    followed = frozenset(g for g, (_, K) in enumerate(plan.kinds) if _followed(split, K))
    walk = SampleEM(
        tuple(one.model for found in first for one in found),
        split,
        SearchContext(maximize, runner, watcher=watcher),
        retire=Pruner(kind_of, alone, criterion, sample.n_rows, plan.reg_covar, followed),
    )
    phase("EM on the sample", WALK, "steps")
    walk.go(WALK, [i for i, g in enumerate(drawn) if g not in done])

    def members(kind: int) -> list[int]:
        return [i for i in range(len(walk.kept)) if kind_of[i] == kind]

    def rank(i: int) -> tuple[int, float]:
        return doubt(walk.kept[i], sample.n_rows, plan.reg_covar), -walk.score[i]

    for above, g in merges:
        model, own = walk.kept[min(members(above), key=rank)], min(members(g), key=rank)
        try:
            fewer = reduced(model, plan.kinds[g][1])
        except ValueError:  # what is left to merge lies too far apart
            fewer = walk.kept[own]
        _follow_merged(walk, fewer, own)
    inits = [one.init for found in first for one in found] + ["merged"] * len(merges)
    chosen = []
    for g in range(len(first)):
        best = sorted(members(g), key=lambda i: -walk.score[i])
        sound = min(best, key=rank)  # one against which least speaks
        chosen.append(best[:SURVIVORS] if sound in best[:SURVIVORS] else [*best[: SURVIVORS - 1], sound])
    if watcher is not None:
        watcher.begun(0, [(i, walk.taken[i]) for own in chosen for i in own])
    begun = [[walk.start(i, inits[i]) for i in own] for own in chosen]
    if plan.missing != "error":  # the sample was filled in: its steps are not those of the data
        begun = [[replace(one, known=()) for one in found] for found in begun]
    return begun


def _merges(plan: Plan, m: int, D: int) -> list[tuple[int, int]]:
    """Pairs of kinds, from many components to few: models of the second begin as those of the first, merged too.

    k-means and growth leave some numbers of components in poor optima. A mixture of more, in which the components of a
    group are all there and one group has two, leads out of them.
    """
    if plan.n_init == 1 or plan.init_params not in DIVERSE:
        return []
    found = []
    for family in dict.fromkeys(f for f, _ in plan.kinds):
        own = sorted((g for g, (f, _) in enumerate(plan.kinds) if f is family), key=lambda g: -plan.kinds[g][1])
        pairs = [(above, g) for above, g in pairwise(own) if plan.kinds[g][1] > 1]
        found += [pair for pair in pairs if not family.n_factors and cheap(m, plan.kinds[pair[0]][1], D)]
    return found


def _follow_merged(walk: SampleEM, model: Mixture, best: int) -> None:
    """Follow one more start until it is out of reach of the `best` one, or on the way to the same."""
    settings = search_settings.SEARCH
    walk.add(model)
    i = len(walk.kept) - 1
    for _ in range(WALK // settings.rival_steps):
        walk.go(settings.rival_steps, [i])
        if walk.settled(i) or walk.agree(i, best) or walk.prune_dominated(i, best):
            return


@dataclass(frozen=True, slots=True)
class Pruner:
    """Retirement: within each kind, then of kinds whose criterion, at its most hopeful, is beaten already.

    Attributes
    ----------
    kind_of, fold_of : tuple of int
        See `SelectionRun`.
    criterion : str or None
    rows, reg_covar : see `mixture.support.unsupported`
        Nothing is given up for a candidate with such components.
    followed : frozenset of int
        Kinds within which no start is dropped for what others have come to, nor by the criterion while one leads.
    """

    kind_of: tuple[int, ...]
    fold_of: tuple[int, ...]
    criterion: str | None
    rows: int
    reg_covar: float
    followed: frozenset[int] = frozenset()

    def __call__(self, candidates: Candidates) -> Candidates:
        after = list(candidates)
        for g in sorted(set(self.kind_of) - self.followed):
            members = tuple(c for c in candidates if self.kind_of[c.index] == g and self.fold_of[c.index] < 0)
            if any(c.status == "running" for c in members):
                ordered = sorted(members, key=lambda c: (-c.objective, c.index))
                # What gains by components that the rows do not support is no reason to drop what does not.
                leader = next(filter(self._counts, ordered), ordered[0])
                for c in prune_dominated(members, leader):
                    after[c.index] = c
        if self.criterion is None:
            return tuple(after)
        values = [(criteria(c)[self.criterion], i) for i, c in enumerate(after) if c.last is not None]
        value, first = next((pair for pair in sorted(values) if self._counts(after[pair[1]])), (math.inf, -1))
        safe = self.followed & {self.kind_of[first]} if first >= 0 else self.followed
        for i, c in enumerate(after):
            if c.status == "running" and len(c.trace) > 3 and c.last is not None and self.kind_of[i] not in safe:
                hopeful = criteria(c, hope=True)["bic" if self.criterion == "icl" else self.criterion]
                if hopeful > value:
                    after[i] = c.dropped()
        return tuple(after)

    def _counts(self, candidate: Candidate) -> bool:
        return candidate.last is not None and supported(candidate.accepted, self.rows, self.reg_covar)


def criteria(candidate: Candidate, *, hope: bool = False) -> dict[str, float]:
    """BIC, AIC and ICL of the last E-step; with `hope` at the log-likelihood it may still reach."""
    last = candidate.last
    assert last is not None
    loglik = last.loglik + (last.count * (candidate.reach() - candidate.objective) if hope else 0.0)
    return criteria_of(loglik, last.log_max, last.count, candidate.model.n_parameters)
