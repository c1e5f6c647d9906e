"""From the sample to the models that set out on full passes: many starts, short EM, ranking, few survivors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.acceleration import Accelerator, Squarem
from streamgmm.em.candidates import Candidates, Retire, Start, keep_all, new_candidates
from streamgmm.em.componentwise import Local
from streamgmm.em.convergence import aitken
from streamgmm.em.hooks import NO_CHECKPOINT, CheckpointSlot, FitObserver
from streamgmm.em.initialization.methods import DIVERSE, SCALED, made, prepared
from streamgmm.em.initialization.split_merge import SplitContext, chain, rearranged
from streamgmm.em.loop import Models
from streamgmm.em.passes import Stage, passes
from streamgmm.em.sample_em import CHEAP, cheap, in_memory, mean_log_likelihoods
from streamgmm.em.update import Maximize, Update
from streamgmm.em.variants import Exact
from streamgmm.mixture.covariance import Covariance
from streamgmm.mixture.covariance.full_tied import Triangular
from streamgmm.mixture.mixture import Mixture
from streamgmm.runtime.executors import Executor
from streamgmm.sources import Source
from streamgmm.sources.summaries.sample import SampleSummary, sample_size
from streamgmm.utils.phases import advanced, phase
from streamgmm.utils.row_random import uniform

ROUNDS = ((15, 0.5), (25, 0.7), (60, 0.0), (200, 0.0))
"""EM on the sample: so many steps, then this share of the starts goes on, and as many as survive at least.

EM that has converged on a sample sits in an optimum of the sample; so it ends for a start as soon as rows that it did
not see say that it gets worse, and full passes begin while there is something to gain.
"""
OVERSAMPLING = 2
"""First models drawn for each start that was asked for: on the sample they are cheap."""
WIDE = 1e5
"""Components x features^2 above which it is one: each of them costs much."""
GROWN_SHARE = 3
"""One of so many starts is grown (see `growing`), where there is more than one."""
HOLD = 5
"""One of so many rows of a sample is held out."""
EXPENSIVE_GROWN = 1
"""Of a sample on which steps are not cheap (see `em.sample_em.CHEAP`) only as many first models are made as were asked
for, and so many of them grown; they take `SAMPLE_STAGES` to it, and one is left there, for `EXPENSIVE_ROUNDS` of
`local` steps:
full passes, which show their progress, do the rest."""
SAMPLE_STAGES = ((1, 15, 3), (5, 20, 1))
"""Steps on parts of an expensive sample: so many times `few_rows`, so many steps, and so many models that are left
then."""
EXPENSIVE_ROUNDS = ((60, 0.0),)
STEPS_PER_CHECK = 10
FOLLOWED = 1e6
"""Rows x components x features^2 of all the data up to which every start is followed to its end, and none dropped."""
TOLERANCE = 1e-6
MOST = sum(steps for steps, _ in ROUNDS)
SHORT = 5
"""Steps that a rival of the first start takes at a time."""
RIVALS = 0.6
"""Steps of all rivals of the first start on all of the data, in steps of the first."""
SAME = 1e-4
"""Nats per row within which two starts have come to the same."""
ALIKE, RATIO = 0.25, 2.0
"""Deviations of means, and ratios of variances and of weights, within which two starts are on the way to the same: of
100 random mixtures those that ended apart never came so near."""
DOUBT, SOLID = 1e-3, 10
"""Mean of -log of a row's largest responsibility, in nats, below which a model is certain, and rows for each feature
that each of its components then has. Of 100 random mixtures 154 of 600 starts ended so, each in the best optimum."""
PATIENCE = 2
"""Pieces of `STEPS_PER_CHECK` steps without a gain on rows not seen after which a start has ended on the sample."""
MAX_VALIDATION_ROWS = 50_000
"""Rows that models on a part of a sample are judged on, about."""
MULTISTART_ROWS = 100_000
"""Rows of a sample that many starts are followed on: its curvature has to stand for that of all rows."""
ROWS_PER_PARAMETER, MAX_SAMPLE_BYTES = 8, 2**29
"""Rows for each parameter from which a sample is as good as the data, and what they may take. In n rows the optimum
of a model of P parameters lies P / (2 n) nats per row above what it is worth on others: with 8, a sixteenth."""


def sample_rows(K: int, D: int, family: Covariance | None = None, *, rich: bool) -> int:
    """Rows of the sample: `MULTISTART_ROWS` where steps on so many are cheap, `ROWS_PER_PARAMETER` for each parameter
    where that is more.

    Parameters
    ----------
    family : of the one mixture that is sought; None where there are several
    """
    if family is not None and family.n_factors:
        return sample_size(K, min(D, family.n_factors + 2))  # of which each row tells D parameters
    if not rich:
        return sample_size(K, D)
    many = min(MULTISTART_ROWS, int(CHEAP / (K * D**2)))
    parameters = 0 if family is None else family.n_parameters(K, D)
    known = min(ROWS_PER_PARAMETER * parameters, MAX_SAMPLE_BYTES // (8 * D))
    return sample_size(K, D, least=max(10_000, many, known))


def few_rows(K: int, D: int) -> int:
    """Rows of the part of a sample on which mixtures grow and first steps are taken."""
    return max(10_000, 4 * K * D)


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
    def of(cls, survey: SampleSummary) -> SampleSplit:
        """Of a true sample every fifth row is held out."""
        rows, weight = survey.rows, survey.weight
        if survey.complete:
            return cls(rows, weight, rows, weight, True, survey.n_rows)
        held = np.arange(len(rows)) % HOLD == HOLD - 1
        return cls(rows[~held], weight[~held], rows[held], weight[held], False, survey.n_rows)

    def part(self, size: int, which: int = 0) -> SampleSplit:
        """`size` rows to learn from, others for each `which`, if there are twice as many; judged as before."""
        n = len(self.rows)
        if n < 2 * size:
            return self
        mine = np.sort(np.argpartition(uniform(which, np.arange(n, dtype=np.uint64)), size)[:size])
        judge = slice(None, None, max(HOLD if self.complete else 1, len(self.held) // MAX_VALIDATION_ROWS))
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


_Make = Callable[[], Mixture]

KEPT = ("ladder", "walk")
"""Entries of a search in its `CheckpointSlot`."""


def draw(
    survey: SampleSummary,
    K: int,
    family: Covariance,
    *,
    init: str,
    n_init: int,
    rng: np.random.RandomState,
    reg_covar: float,
    oversampling: int | None = None,
    threads: int = 1,
    but: int = 0,
) -> list[tuple[str, Mixture]]:
    """First models, `oversampling` for each start; the kinds alternate, since no way of starting is best everywhere.

    A single start is drawn in every kind: on the sample that costs no pass. Of the same generator, more starts
    begin with those that fewer have; the first `but` are left out.
    """
    if oversampling is None:
        oversampling = _oversampling(survey.rows.shape[0], survey.rows.shape[1], K)
    n = oversampling * (len(DIVERSE.get(init, (init,))) if n_init == 1 else n_init)
    planned = _planned(survey, K, family, init=init, n=n, rng=rng, reg_covar=reg_covar)[but:]
    models = made([make for _, make in planned], threads=threads)
    return [(kind, model) for (kind, _), model in zip(planned, models, strict=True)]


def _planned(
    survey: SampleSummary,
    K: int,
    family: Covariance,
    *,
    init: str,
    n: int,
    rng: np.random.RandomState,
    reg_covar: float,
) -> list[tuple[str, Callable[[], Mixture]]]:
    """`n` starts of alternating kinds, and what makes each of them."""
    kinds = DIVERSE.get(init, (init,))
    chosen = [kinds[i % len(kinds)] for i in range(n)]
    return [(kind, prepared(survey, K, family, init=kind, rng=rng, reg_covar=reg_covar)) for kind in chosen]


def _oversampling(m: int, D: int, K: int) -> int:
    return OVERSAMPLING if cheap(m, K, D) and K * D**2 <= WIDE else 1


def chains(
    split: SampleSplit,
    numbers: Sequence[int],
    family: Covariance,
    *,
    n: int,
    rng: np.random.RandomState,
    maximize: Maximize,
    executor: Executor,
) -> list[dict[int, Mixture]]:
    """`n` times mixtures of these numbers of components, each grown from the one before, on different rows."""
    size = few_rows(numbers[-1], split.rows.shape[1])
    found = []
    phase("growing initial models", n * (numbers[-1] - 1), "components")
    for i in range(n):
        split_context = split.part(size, i).split_context(
            replace(maximize, repair=True), executor, int(rng.randint(2**31 - 1))
        )
        found.append(chain(split_context.one(family), numbers, split_context))
    return found


def search(
    survey: SampleSummary,
    K: int,
    family: Covariance,
    *,
    init: str,
    n_init: int,
    rng: np.random.RandomState,
    observe: Callable[[Mixture], Mixture],
    maximize: Maximize,
    executor: Executor,
    threads: int = 1,
    moves: int = 0,
    watcher: FitObserver | None = None,
    keeper: CheckpointSlot = NO_CHECKPOINT,
) -> list[Start]:
    """The models that set out on full passes, the best first: drawn and grown ones after their way on the sample.

    Parameters
    ----------
    observe : callable (model) -> model
        Tells a model how it is observed: see `Mixture.observing`.
    threads : int
        Threads that make first models.
    moves : int
        Split-and-merge moves that each of them may make; see `em.initialization.split_merge.rearranged`.
    keeper : CheckpointSlot
        Holds how far an expensive search has come, and is asked where to go on.
    """
    split = SampleSplit.of(survey)
    m, D = survey.rows.shape
    expensive = not cheap(m, K, D)
    alone: list[Start] = []
    known = _oversampling(m, D, K) * len(DIVERSE.get(init, (init,)))
    nested, followed = survey.among(sample_rows(K, D, rich=False)), split.complete and m * K * D**2 <= FOLLOWED
    if n_init > 1 and not expensive and not (followed and nested is survey):
        # A race drops late winners, so it may not drop what a single start would have come to.
        alone = search(
            nested, K, family, init=init, n_init=1, rng=deepcopy(rng), observe=observe, maximize=maximize,
            executor=executor, threads=threads,
        )  # fmt: skip
    few = few_rows(K, survey.rows.shape[1])
    keeper = keeper if expensive else NO_CHECKPOINT
    seed = int(rng.randint(2**31 - 1)) if moves else 0
    phase("initial models", None, "models")
    if n_init == 1 and not expensive:
        planned = _planned(survey, K, family, init=init, n=known, rng=rng, reg_covar=maximize.reg_covar)
        one = in_turn(
            _varied(planned, D, family), split, observe=observe, maximize=maximize, executor=executor, threads=threads,
            share=RIVALS * survey.n_rows / m, watcher=watcher,
        )  # fmt: skip
        return _moved([one], split, maximize, executor, seed, moves)
    rung, first = keeper.get("ladder") or (0, [])
    if rung == 0:
        n_grown = max(1, n_init // GROWN_SHARE) if n_init > 1 and init in DIVERSE else 0
        n_grown = min(n_grown, EXPENSIVE_GROWN) if expensive else n_grown
        part = split.part(few) if expensive else split
        drawn = draw(
            replace(survey, rows=part.rows, weight=part.weight) if expensive else survey, K, family, init=init,
            n_init=n_init - n_grown if expensive else n_init, rng=rng, reg_covar=maximize.reg_covar,
            oversampling=1 if expensive else None, threads=threads,
            but=known if alone and nested is survey else 0,
        )  # fmt: skip
        grown = chains(split, (K,), family, n=n_grown, rng=rng, maximize=maximize, executor=executor)
        first = [("grown", found[K]) for found in grown if K in found] + drawn
        first = [(kind, observe(model)) for kind, model in first]
    phase("EM on the sample", None, "steps")
    survivors = max(2, n_init // 3)
    rounds: Sequence[tuple[int, float]] = ROUNDS
    if followed:
        rounds = ((sum(steps for steps, _ in ROUNDS), 0.0),)
    if expensive:
        survivors, rounds = 1, EXPENSIVE_ROUNDS
        for i, (times, steps, left) in enumerate(SAMPLE_STAGES[rung:], rung + 1):
            found = explore(
                first, split.part(times * few), maximize=maximize, executor=executor, survivors=left,
                rounds=((steps, 0.0),),
            )  # fmt: skip
            first = [(one.init, one.model) for one in found]
            keeper.put("ladder", (i, first))
    found = explore(
        first + [(one.init, one.model) for one in alone], split, maximize=maximize, executor=executor,
        survivors=survivors, rounds=rounds, watcher=watcher, local=expensive, keeper=keeper, spared=len(alone),
    )  # fmt: skip
    return _moved(found, split, maximize, executor, seed, moves)


def _moved(
    found: list[Start], split: SampleSplit, maximize: Maximize, executor: Executor, seed: int, moves: int
) -> list[Start]:
    """The starts after at most so many split-and-merge moves each."""
    if moves == 0:
        return found
    split_context = split.split_context(replace(maximize, repair=True), executor, seed)
    models = tuple(rearranged(one.model, split_context, moves) for one in found)
    scores = mean_log_likelihoods(models, split.judge, executor).tolist()
    moved = [Start(model, one.init, score) for model, one, score in zip(models, found, scores, strict=True)]
    return [max(pair, key=lambda one: one.score) for pair in zip(found, moved, strict=True)]


def explore(
    first: Sequence[tuple[str, Mixture]],
    split: SampleSplit,
    *,
    maximize: Maximize,
    executor: Executor,
    survivors: int,
    rounds: Sequence[tuple[int, float]],
    watcher: FitObserver | None = None,
    at: int = 0,
    local: bool = False,
    keeper: CheckpointSlot = NO_CHECKPOINT,
    spared: int = 0,
) -> list[Start]:
    """Short EM on the sample for every first model, worse ones dropped between rounds; the best come first.

    The last `spared` of them are not dropped: there may be as many more than `survivors`. After a round of share 1 only
    those are dropped that have come to the same as a better one.

    Models are ranked on rows that their EM did not see, or by the likelihood itself where the sample is all there is.
    With `local` each step may be followed by many of the components that move most (see `local`).
    """
    sample_em = SampleEM(
        tuple(model for _, model in first), split, maximize, executor, watcher, at, local=local, keeper=keeper
    )
    for steps, share in rounds:
        sample_em.go(steps)
        if share == 1.0:
            sample_em.join()
        else:
            sample_em.leave(max(survivors, round(share * len(sample_em.alive))), len(first) - spared)
    chosen = sample_em.alive
    if watcher is not None:
        watcher.begun(at, [(i, sample_em.taken[i]) for i in chosen])
    return [sample_em.start(i, first[i][0]) for i in chosen]


def _varied(planned: list[tuple[str, _Make]], D: int, family: Covariance) -> list[tuple[str, _Make]]:
    """The starts named by what they differ in, the second of another kind than the first where there are several."""
    one_frame = D == 1 or not isinstance(family, Triangular)  # whitened rows are rows scaled feature by feature
    named = [("kmeans" if one_frame and kind == SCALED else kind, make) for kind, make in planned]
    other = next((i for i, (kind, _) in enumerate(named) if kind != named[0][0]), 1)
    return named[:1] + named[other : other + 1] + named[1:other] + named[other + 1 :]


def in_turn(
    planned: Sequence[tuple[str, _Make]],
    split: SampleSplit,
    *,
    observe: Callable[[Mixture], Mixture],
    maximize: Maximize,
    executor: Executor,
    share: float,
    threads: int = 1,
    watcher: FitObserver | None = None,
) -> Start:
    """The best of these starts: the first is followed to its end, the others for `SHORT` steps at a time.

    Another start is given up when its gains, `OPTIMISM` times over, do not reach the first; one that passes it is
    followed
    to its own end. All is over when one of another kind comes to the same value, or when the others have taken `share`
    times the steps of the first: a fit from one start should not cost many times what that start costs. Where the first
    is certain of every row, one rival is tried.
    """
    first = [observe(model) for model in made([make for _, make in planned[:2]], threads=threads)]
    phase("EM on the sample", None, "steps")
    sample_em = SampleEM(tuple(first), split, maximize, executor, watcher)
    best, spent, rivals = 0, 0, list(range(1, len(planned)))
    several = len({kind for kind, _ in planned}) > 1
    sample_em.go(MOST, [0])
    if rivals and planned[1][0] != planned[0][0] and alike(first[1], sample_em.kept[0]):
        rivals = []
    budget = SHORT if sample_em.certain(0) else max(2 * SHORT, share * sample_em.steps(0))
    while rivals and spent < budget:
        for i in tuple(rivals):
            if i == len(sample_em.kept):
                sample_em.add(observe(made([planned[i][1]])[0]))
            before = sample_em.steps(i)
            sample_em.go(SHORT if before or i > 1 else min(2 * SHORT, max(2, sample_em.steps(0) // 2)), [i])
            spent += sample_em.steps(i) - before
            if sample_em.agree(i, best) and not (several and planned[i][0] == planned[best][0]):
                rivals = []
            elif sample_em.value(i) > sample_em.value(best):
                sample_em.go(MOST, [i])
                rivals.remove(i)
            elif sample_em.settled(i) or sample_em.prune_dominated(i, best):
                rivals.remove(i)
            best = max(best, i, key=lambda j: (sample_em.score[j], -j))
            if not rivals or spent >= budget:
                break
    if watcher is not None:
        watcher.begun(0, [(best, sample_em.taken[best])])
    return sample_em.start(best, planned[best][0])


def alike(a: Mixture, b: Mixture) -> bool:
    """Whether each component of one mixture is nearly one of the other: its mean, variances and weight."""
    var_a, var_b = (m.family.variances(m.covariances, *m.means.shape) for m in (a, b))
    apart = np.abs(a.means[:, None] - b.means) / np.sqrt(np.minimum(var_a[:, None], var_b))
    nearest = apart.max(axis=2).argmin(axis=1)
    if len(set(nearest.tolist())) < len(nearest):
        return False
    ratios = np.abs(np.log(var_a / var_b[nearest])).max(), np.abs(np.log(a.weights / b.weights[nearest])).max()
    return bool(apart[np.arange(len(nearest)), nearest].max() < ALIKE and max(ratios) < np.log(RATIO))


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
        maximize: Maximize,
        executor: Executor,
        watcher: FitObserver | None = None,
        at: int = 0,
        retire: Retire = keep_all,
        *,
        local: bool = False,
        keeper: CheckpointSlot = NO_CHECKPOINT,
    ) -> None:
        maximize = replace(maximize, repair=True)  # of a start on the sample nobody needs to hear that it collapsed
        self._learn, self._complete, self._rows = split.learn, split.complete, len(split.rows)
        # Rows that are their own judge are dealt out, which copies them, but once.
        self._judge = self._learn if split.held is split.rows else split.judge
        accelerator: Accelerator = Squarem(TOLERANCE)
        if local:
            accelerator = Local(self._learn, executor, maximize, TOLERANCE)
        slack = 0.1 * TOLERANCE if local and maximize.reg_covar > 0 else 0.0
        self._update = Update(maximize, aitken(TOLERANCE), 10**9, accelerator, retire, slack)
        self._executor, self._watcher, self._at = executor, watcher, at
        self._candidates: Candidates = new_candidates(models)
        self._stale = [0] * len(models)
        self._settled: set[int] = set()
        # Rows that are their own judge show no gain where regularisation lets the likelihood fall, on the way to where
        # EM rests: worth to be seen through where steps are cheap.
        self._patient = self._complete and not local
        self.alive = list(range(len(models)))
        self.kept, self.score, self.taken = list(models), [-np.inf] * len(models), [0] * len(models)
        self._keeper, self._pieces, self._walked = keeper, 0, 0
        if (before := keeper.get("walk")) is not None:
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
        """Whether what a model may hope for is less than the value of another."""
        return self.steps(i) > 3 and self._candidates[i].reach < self.value(leader)

    def certain(self, i: int) -> bool:
        """Whether a model is in no doubt about the rows, and that not for want of rows: then no group is divided."""
        last, model = self._candidates[i].last, self._candidates[i].accepted
        if last is None:
            return False
        enough = model.weights.min() * self._rows >= SOLID * (model.n_features + 1)
        return bool(enough and last.log_max > -DOUBT * last.count)

    def agree(self, i: int, j: int) -> bool:
        """Whether two models have come to the same, or are on the way to it."""
        same = abs(self.value(i) - self.value(j)) < SAME
        return same or alike(self._candidates[i].accepted, self._candidates[j].accepted)

    def start(self, i: int, init: str) -> Start:
        """A model as it sets out on full passes."""
        return Start(self.kept[i], init, float(self.score[i]), self._candidates[i].plain if self._patient else ())

    def _keep(self) -> None:
        state = (
            self._pieces, self._candidates, list(self._stale), sorted(self._settled), list(self.alive), list(self.kept),
            list(self.score), list(self.taken),
        )  # fmt: skip
        self._keeper.put("walk", state)

    def go(self, steps: int, only: Sequence[int] | None = None) -> None:
        """So many EM steps for everybody; fewer for those that have converged, or get worse on rows not seen."""
        for piece in range(0, steps, STEPS_PER_CHECK):
            self._pieces += 1
            moving = [i for i in (self.alive if only is None else only) if i not in self._settled]
            if self._pieces <= self._walked:
                continue  # before the fit was interrupted
            if not moving:
                return
            self._candidates = tuple(
                replace(c, status="running" if c.index in moving else "dropped") for c in self._candidates
            )
            stage = Stage(Exact(), self._update, min(STEPS_PER_CHECK, steps - piece))
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
                if self._candidates[i].status != "running" or (self._stale[i] >= PATIENCE and not self._patient):
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
        return abs(self.score[i] - self.score[j]) < SAME and alike(self.kept[i], self.kept[j])
