"""From the sample to the models that set out on full readings: many starts, short EM, ranking, few survivors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.acceleration import Accelerator, Squarem
from streamgmm.em.candidates import Memory, Retire, Start, candidates, nobody
from streamgmm.em.componentwise import Local
from streamgmm.em.convergence import aitken
from streamgmm.em.hooks import NOWHERE, Keeper, Watcher
from streamgmm.em.initialization.methods import DIVERSE, made, prepared
from streamgmm.em.initialization.split_merge import Soil, chain, rearranged
from streamgmm.em.loop import Models
from streamgmm.em.passes import Stage, readings
from streamgmm.em.sample_em import CHEAP, cheap, in_memory, mean_log_likelihoods
from streamgmm.em.update import Maximize, Update
from streamgmm.em.variants import Exact
from streamgmm.mixture.covariance import Covariance
from streamgmm.mixture.mixture import Mixture
from streamgmm.runtime.executors import Executor
from streamgmm.sources import Source
from streamgmm.sources.summaries.sample import Survey, sample_size
from streamgmm.utils.row_random import uniform

ROUNDS = ((15, 0.5), (25, 0.7), (60, 0.0), (200, 0.0))
"""EM on the sample: so many steps, then this share of the starts goes on, and as many as survive at least.

EM that has converged on a sample sits in an optimum of the sample; so it ends for a start as soon as rows that it did
not see say that it gets worse, and full readings begin while there is something to gain.
"""
OVERSAMPLING = 2
"""First models drawn for each start that was asked for: on the sample they are cheap."""
WIDE = 1e5
"""Components x features^2 above which it is one: each of them costs much."""
GROWN = 3
"""One of so many starts is grown (see `growing`), where there is more than one."""
HOLD = 5
"""One of so many rows of a sample is held out."""
DEAR_GROWN = 1
"""Of a sample on which steps are not cheap (see `em.sample_em.CHEAP`) only as many first models are made as were asked
for, and so many of them grown; they take `LADDER` to it, and one is left there, for `DEAR_ROUNDS` of `local` steps:
full readings, which show their progress, do the rest."""
LADDER = ((1, 15, 3), (5, 20, 1))
"""Steps on parts of a dear sample: so many times `few_rows`, so many steps, and so many models that are left then."""
DEAR_ROUNDS = ((60, 0.0),)
PIECE = 10
FOLLOWED = 1e6
"""Rows x components x features^2 of all the data up to which every start is followed to its end, and none dropped."""
TOLERANCE = 1e-6
PATIENCE = 2
"""Pieces of `PIECE` steps without a gain on rows not seen after which a start has ended on the sample."""
JUDGES = 50_000
"""Rows that models on a part of a sample are judged on, about."""
RICH = 100_000
"""Rows of a sample that many starts are followed on: its curvature has to stand for that of all rows."""
KNOWN, KNOWN_BYTES = 8, 2**29
"""Rows for each parameter from which a sample is as good as the data, and what they may take. In n rows the optimum
of a model of P parameters lies P / (2 n) nats per row above what it is worth on others: with 8, a sixteenth."""


def sample_rows(K: int, D: int, family: Covariance | None = None, *, rich: bool) -> int:
    """Rows of the sample: `RICH` where steps on so many are cheap, `KNOWN` for each parameter where that is more.

    Parameters
    ----------
    family : of the one mixture that is sought; None where there are several
    """
    if family is not None and family.n_factors:
        return sample_size(K, min(D, family.n_factors + 2))  # of which each row tells D parameters
    if not rich:
        return sample_size(K, D)
    many = min(RICH, int(CHEAP / (K * D**2)))
    parameters = 0 if family is None else family.n_parameters(K, D)
    known = min(KNOWN * parameters, KNOWN_BYTES // (8 * D))
    return sample_size(K, D, least=max(10_000, many, known))


def few_rows(K: int, D: int) -> int:
    """Rows of the part of a sample on which mixtures grow and first steps are taken."""
    return max(10_000, 4 * K * D)


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """Rows in memory to learn from, and rows to judge on what was learnt.

    Attributes
    ----------
    rows, weight : (m, D), (m,) to learn from
    held, held_weight : (h, D), (h,) to judge on
    complete : bool
        Whether the rows are all there are, so that they are their own judge.
    """

    rows: NDArray[Any]
    weight: NDArray[np.float64]
    held: NDArray[Any]
    held_weight: NDArray[np.float64]
    complete: bool

    @classmethod
    def of(cls, survey: Survey) -> Ground:
        """Of a true sample every fifth row is held out."""
        rows, weight = survey.rows, survey.weight
        if survey.complete:
            return cls(rows, weight, rows, weight, True)
        held = np.arange(len(rows)) % HOLD == HOLD - 1
        return cls(rows[~held], weight[~held], rows[held], weight[held], False)

    def part(self, size: int, which: int = 0) -> Ground:
        """`size` rows to learn from, others for each `which`, if there are twice as many; judged as before."""
        n = len(self.rows)
        if n < 2 * size:
            return self
        mine = np.sort(np.argpartition(uniform(which, np.arange(n, dtype=np.uint64)), size)[:size])
        judge = slice(None, None, max(HOLD if self.complete else 1, len(self.held) // JUDGES))
        return Ground(self.rows[mine], self.weight[mine], self.held[judge], self.held_weight[judge], False)

    @property
    def learn(self) -> Source:
        return _source(self.rows, self.weight)

    @property
    def judge(self) -> Source:
        return _source(self.held, self.held_weight)

    def soil(self, maximize: Maximize, executor: Executor, seed: int) -> Soil:
        return Soil(np.ascontiguousarray(self.rows), self.weight, maximize, executor, seed)


def _source(rows: NDArray[Any], weight: NDArray[np.float64]) -> Source:
    return in_memory(rows, None if (weight == 1.0).all() else weight)


KEPT = ("ladder", "walk")
"""Entries of a search in its `Keeper`."""


def draw(
    survey: Survey,
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

    A single start is drawn in every kind: on the sample that costs no reading. Of the same generator, more starts
    begin with those that fewer have; the first `but` are left out.
    """
    kinds = DIVERSE.get(init, (init,))
    if oversampling is None:
        oversampling = _oversampling(survey.rows.shape[0], survey.rows.shape[1], K)
    if n_init == 1:
        oversampling *= len(kinds)
    chosen = [kinds[i % len(kinds)] for i in range(oversampling * n_init)]
    starts = [prepared(survey, K, family, init=kind, rng=rng, reg_covar=reg_covar) for kind in chosen]
    return list(zip(chosen[but:], made(starts[but:], threads=threads), strict=True))


def _oversampling(m: int, D: int, K: int) -> int:
    return OVERSAMPLING if cheap(m, K, D) and K * D**2 <= WIDE else 1


def chains(
    ground: Ground,
    numbers: Sequence[int],
    family: Covariance,
    *,
    n: int,
    rng: np.random.RandomState,
    maximize: Maximize,
    executor: Executor,
) -> list[dict[int, Mixture]]:
    """`n` times mixtures of these numbers of components, each grown from the one before, on different rows."""
    size = few_rows(numbers[-1], ground.rows.shape[1])
    found = []
    for i in range(n):
        soil = ground.part(size, i).soil(replace(maximize, repair=True), executor, int(rng.randint(2**31 - 1)))
        found.append(chain(soil.one(family), numbers, soil))
    return found


def search(
    survey: Survey,
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
    watcher: Watcher | None = None,
    keeper: Keeper = NOWHERE,
) -> list[Start]:
    """The models that set out on full readings, the best first: drawn and grown ones after their way on the sample.

    Parameters
    ----------
    observe : callable (model) -> model
        Tells a model how it is observed: see `Mixture.observing`.
    threads : int
        Threads that make first models.
    moves : int
        Split-and-merge moves that each of them may make; see `em.initialization.split_merge.rearranged`.
    keeper : Keeper
        Holds how far a dear search has come, and is asked where to go on.
    """
    ground = Ground.of(survey)
    m, D = survey.rows.shape
    dear = not cheap(m, K, D)
    alone: list[Start] = []
    known = _oversampling(m, D, K) * len(DIVERSE.get(init, (init,)))
    nested, followed = survey.among(sample_rows(K, D, rich=False)), ground.complete and m * K * D**2 <= FOLLOWED
    if n_init > 1 and not dear and not (followed and nested is survey):
        # A race drops late winners, so it may not drop what a single start would have come to.
        alone = search(
            nested, K, family, init=init, n_init=1, rng=deepcopy(rng), observe=observe, maximize=maximize,
            executor=executor, threads=threads,
        )  # fmt: skip
    few = few_rows(K, survey.rows.shape[1])
    keeper = keeper if dear else NOWHERE
    seed = int(rng.randint(2**31 - 1)) if moves else 0
    rung, first = keeper.get("ladder") or (0, [])
    if rung == 0:
        n_grown = max(1, n_init // GROWN) if n_init > 1 and init in DIVERSE else 0
        n_grown = min(n_grown, DEAR_GROWN) if dear else n_grown
        part = ground.part(few) if dear else ground
        drawn = draw(
            replace(survey, rows=part.rows, weight=part.weight) if dear else survey, K, family, init=init,
            n_init=n_init - n_grown if dear else n_init, rng=rng, reg_covar=maximize.reg_covar,
            oversampling=1 if dear else None, threads=threads,
            but=known if alone and nested is survey else 0,
        )  # fmt: skip
        grown = chains(ground, (K,), family, n=n_grown, rng=rng, maximize=maximize, executor=executor)
        first = [("grown", found[K]) for found in grown if K in found] + drawn
        first = [(kind, observe(model)) for kind, model in first]
    survivors = 1 if n_init == 1 else max(2, n_init // 3)
    rounds: Sequence[tuple[int, float]] = ROUNDS
    if followed and n_init > 1:
        rounds = ((sum(steps for steps, _ in ROUNDS), 0.0),)
    if dear:
        survivors, rounds = 1, DEAR_ROUNDS
        for i, (times, steps, left) in enumerate(LADDER[rung:], rung + 1):
            found = explore(
                first, ground.part(times * few), maximize=maximize, executor=executor, survivors=left,
                rounds=((steps, 0.0),),
            )  # fmt: skip
            first = [(one.init, one.model) for one in found]
            keeper.put("ladder", (i, first))
    found = explore(
        first + [(one.init, one.model) for one in alone], ground, maximize=maximize, executor=executor,
        survivors=survivors, rounds=rounds, watcher=watcher, local=dear, keeper=keeper, spared=len(alone),
    )  # fmt: skip
    if moves == 0:
        return found
    soil = ground.soil(replace(maximize, repair=True), executor, seed)
    models = tuple(rearranged(one.model, soil, moves) for one in found)
    scores = mean_log_likelihoods(models, ground.judge, executor).tolist()
    moved = [Start(model, one.init, score) for model, one, score in zip(models, found, scores, strict=True)]
    return [max(pair, key=lambda one: one.score) for pair in zip(found, moved, strict=True)]


def explore(
    first: Sequence[tuple[str, Mixture]],
    ground: Ground,
    *,
    maximize: Maximize,
    executor: Executor,
    survivors: int,
    rounds: Sequence[tuple[int, float]],
    watcher: Watcher | None = None,
    at: int = 0,
    local: bool = False,
    keeper: Keeper = NOWHERE,
    spared: int = 0,
) -> list[Start]:
    """Short EM on the sample for every first model, worse ones dropped between rounds; the best come first.

    The last `spared` of them are not dropped: there may be as many more than `survivors`.

    Models are ranked on rows that their EM did not see, or by the likelihood itself where the sample is all there is.
    With `local` each step may be followed by many of the components that move most (see `local`).
    """
    walk = Walk(tuple(model for _, model in first), ground, maximize, executor, watcher, at, local=local, keeper=keeper)
    for steps, share in rounds:
        walk.go(steps)
        walk.leave(max(survivors, round(share * len(walk.alive))), len(first) - spared)
    chosen = walk.alive
    if watcher is not None:
        watcher.begun(at, [(i, walk.taken[i]) for i in chosen])
    return [Start(walk.kept[i], first[i][0], float(walk.score[i])) for i in chosen]


class Walk:
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
        ground: Ground,
        maximize: Maximize,
        executor: Executor,
        watcher: Watcher | None = None,
        at: int = 0,
        retire: Retire = nobody,
        *,
        local: bool = False,
        keeper: Keeper = NOWHERE,
    ) -> None:
        maximize = replace(maximize, repair=True)  # of a start on the sample nobody needs to hear that it collapsed
        self._learn, self._complete = ground.learn, ground.complete
        # Rows that are their own judge are dealt out, which copies them, but once.
        self._judge = self._learn if ground.held is ground.rows else ground.judge
        accelerator: Accelerator = Squarem(TOLERANCE)
        if local:
            accelerator = Local(self._learn, executor, maximize, TOLERANCE)
        slack = 0.1 * TOLERANCE if local and maximize.reg_covar > 0 else 0.0
        self._update = Update(maximize, aitken(TOLERANCE), 10**9, accelerator, retire, slack)
        self._executor, self._watcher, self._at = executor, watcher, at
        self._memory: Memory = candidates(models)
        self._stale = [0] * len(models)
        self._settled: set[int] = set()
        # Rows that are their own judge show no gain where regularisation lets the likelihood fall, on the way to where
        # EM rests: worth to be seen through where steps are cheap.
        self._patient = self._complete and not local
        self.alive = list(range(len(models)))
        self.kept, self.score, self.taken = list(models), [-np.inf] * len(models), [0] * len(models)
        self._keeper, self._pieces, self._walked = keeper, 0, 0
        if (before := keeper.get("walk")) is not None:
            self._walked, self._memory, self._stale, settled, self.alive, *rest = before
            self._settled = set(settled)
            self.kept, self.score, self.taken = rest

    def _keep(self) -> None:
        state = (
            self._pieces, self._memory, list(self._stale), sorted(self._settled), list(self.alive), list(self.kept),
            list(self.score), list(self.taken),
        )  # fmt: skip
        self._keeper.put("walk", state)

    def go(self, steps: int) -> None:
        """So many EM steps for everybody; fewer for those that have converged, or get worse on rows not seen."""
        for piece in range(0, steps, PIECE):
            self._pieces += 1
            moving = [i for i in self.alive if i not in self._settled]
            if self._pieces <= self._walked:
                continue  # before the fit was interrupted
            if not moving:
                return
            self._memory = tuple(replace(c, status="running" if c.index in moving else "dropped") for c in self._memory)
            stage = Stage(Exact(), self._update, min(PIECE, steps - piece))
            for step in readings(self._learn, self._memory, (stage,), self._executor):
                self._memory = step.memory
                if self._watcher is not None:
                    self._watcher.sampled(self._at, self._memory)
            models = tuple(self._memory[i].accepted for i in moving)
            values = mean_log_likelihoods(models, self._judge, self._executor).tolist()
            for i, model, value in zip(moving, models, values, strict=True):
                better = value > self.score[i]
                self._stale[i] = 0 if better else self._stale[i] + 1
                if better or self._complete:
                    self.score[i], self.kept[i], self.taken[i] = value, model, len(self._memory[i].trace)
                if self._memory[i].status != "running" or (self._stale[i] >= PATIENCE and not self._patient):
                    self._settled.add(i)
            self._keep()

    def leave(self, n: int, spared: int) -> None:
        """The best `n` go on, and every model from number `spared`."""
        ordered = sorted(self.alive, key=lambda i: (-self.score[i], i))
        self.alive = [i for place, i in enumerate(ordered) if place < n or i >= spared]
