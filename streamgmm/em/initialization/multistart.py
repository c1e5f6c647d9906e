"""From the sample to the models that set out on full passes: many starts, short EM, ranking, few survivors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np

from streamgmm.em.candidates import Start
from streamgmm.em.hooks import NO_CHECKPOINT
from streamgmm.em.initialization import search_settings
from streamgmm.em.initialization.followed_starts import SampleEM, SampleSplit, SearchContext
from streamgmm.em.initialization.methods import DIVERSE, SCALED, Wanted, made, prepared
from streamgmm.em.initialization.search_settings import few_rows, sample_rows
from streamgmm.em.initialization.split_merge import chain, rearranged
from streamgmm.em.sample_em import cheap, mean_log_likelihoods, step_rows
from streamgmm.mixture.covariance import Covariance
from streamgmm.mixture.covariance.full_tied import Triangular
from streamgmm.mixture.mixture import Mixture
from streamgmm.sources.summaries.sample import SampleSummary
from streamgmm.utils.phases import phase

__all__ = ["KEPT", "chains", "draw", "explore", "in_turn", "search"]

_Make = Callable[[], Mixture]

KEPT = ("ladder", "walk")
"""Entries of a search in its `CheckpointSlot`."""


def draw(
    survey: SampleSummary,
    wanted: Wanted,
    rng: np.random.RandomState,
    *,
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
        oversampling = _oversampling(survey.rows.shape[0], survey.rows.shape[1], wanted.K)
    n = oversampling * (len(wanted.kinds) if wanted.n_init == 1 else wanted.n_init)
    planned = _planned(survey, wanted, n, rng, reg_covar)[but:]
    models = made([make for _, make in planned], threads=threads)
    return [(kind, model) for (kind, _), model in zip(planned, models, strict=True)]


def _planned(
    survey: SampleSummary, wanted: Wanted, n: int, rng: np.random.RandomState, reg_covar: float
) -> list[tuple[str, _Make]]:
    """`n` starts of alternating kinds, and what makes each of them."""
    chosen = [wanted.kinds[i % len(wanted.kinds)] for i in range(n)]
    K, family = wanted.K, wanted.family
    make = partial(prepared, survey, K, family, rng=rng, reg_covar=reg_covar, in_units=wanted.in_units)
    return [(kind, make(init=kind)) for kind in chosen]


def _oversampling(m: int, D: int, K: int) -> int:
    settings = search_settings.SEARCH
    return settings.oversampling if cheap(m, K, D) and settings.wide >= K * D**2 else 1


def chains(
    split: SampleSplit,
    numbers: Sequence[int],
    family: Covariance,
    context: SearchContext,
    *,
    n: int,
    rng: np.random.RandomState,
) -> list[dict[int, Mixture]]:
    """`n` times mixtures of these numbers of components, each grown from the one before, on different rows."""
    size = few_rows(numbers[-1], split.rows.shape[1])
    maximize = replace(context.maximize, repair=True)
    found = []
    phase("growing initial models", n * (numbers[-1] - 1), "components")
    for i in range(n):
        growing = split.part(size, i).split_context(maximize, context.executor, int(rng.randint(2**31 - 1)))
        found.append(chain(growing.one(family), numbers, growing))
    return found


def search(
    survey: SampleSummary, wanted: Wanted, context: SearchContext, rng: np.random.RandomState, *, moves: int = 0
) -> list[Start]:
    """The models that set out on full passes, the best first: drawn and grown ones after their way on the sample.

    Parameters
    ----------
    moves : int
        Split-and-merge moves that each of them may make; see `em.initialization.split_merge.rearranged`.
    """
    m, D = survey.rows.shape
    expensive = not cheap(m, wanted.K, D)
    if not expensive:
        context = replace(context, slot=NO_CHECKPOINT)
    split = SampleSplit.from_survey(survey)
    followed = split.complete and m * wanted.K * D**2 <= search_settings.SEARCH.followed_work
    alone: list[Start] = []
    nested = survey.among(sample_rows(wanted.K, D, rich=False))
    if wanted.n_init > 1 and not expensive and not (followed and nested is survey):
        # A race drops late winners, so it may not drop what a single start would have come to.
        alone = search(nested, replace(wanted, n_init=1), replace(context, watcher=None), deepcopy(rng))
    seed = int(rng.randint(2**31 - 1)) if moves else 0
    phase("initial models", None, "models")
    known = _oversampling(m, D, wanted.K) * len(wanted.kinds)
    if wanted.n_init == 1 and not expensive:
        planned = _in_order(_planned(survey, wanted, known, rng, context.maximize.reg_covar), D, wanted.family)
        price = step_rows(survey.n_rows, wanted.K, D) / step_rows(m, wanted.K, D)
        found = [in_turn(planned, split, context, price=price)]
    elif expensive:
        found = _searched_by_stages(survey, split, wanted, context, rng)
    else:
        but = known if alone and nested is survey else 0
        found = _raced(survey, split, wanted, context, rng, alone=alone, followed=followed, but=but)
    return _moved(found, split, context, seed, moves)


def _n_grown(wanted: Wanted) -> int:
    """Number of the starts that are grown."""
    one_of = search_settings.SEARCH.grown_share
    return max(1, wanted.n_init // one_of) if wanted.n_init > 1 and wanted.init in DIVERSE else 0


def _grown(
    split: SampleSplit, wanted: Wanted, context: SearchContext, rng: np.random.RandomState, n: int
) -> list[tuple[str, Mixture]]:
    """Grown first models, `n` or as many as the rows support."""
    found = chains(split, (wanted.K,), wanted.family, context, n=n, rng=rng)
    return [("grown", models[wanted.K]) for models in found if wanted.K in models]


def _raced(
    survey: SampleSummary,
    split: SampleSplit,
    wanted: Wanted,
    context: SearchContext,
    rng: np.random.RandomState,
    *,
    alone: list[Start],
    followed: bool,
    but: int,
) -> list[Start]:
    """The survivors of all starts, of which `alone` are not dropped; where steps on the sample are cheap."""
    settings = search_settings.SEARCH
    drawn = draw(survey, wanted, rng, reg_covar=context.maximize.reg_covar, threads=context.threads, but=but)
    first = _grown(split, wanted, context, rng, _n_grown(wanted)) + drawn
    first = [(kind, context.observe(model)) for kind, model in first] + [(one.init, one.model) for one in alone]
    phase("EM on the sample", None, "steps")
    rounds = ((settings.most_steps, 0.0),) if followed else settings.rounds
    return explore(first, split, context, survivors=max(2, wanted.n_init // 3), rounds=rounds, spared=len(alone))


def _searched_by_stages(
    survey: SampleSummary, split: SampleSplit, wanted: Wanted, context: SearchContext, rng: np.random.RandomState
) -> list[Start]:
    """One survivor, after steps on ever larger parts of a sample on which steps are expensive."""
    settings = search_settings.SEARCH
    few = few_rows(wanted.K, survey.rows.shape[1])
    stage, first = context.slot.get("ladder") or (0, [])
    if stage == 0:
        n_grown = min(_n_grown(wanted), settings.expensive_grown)
        part = split.part(few)
        drawn = draw(
            replace(survey, rows=part.rows, weight=part.weight), replace(wanted, n_init=wanted.n_init - n_grown), rng,
            reg_covar=context.maximize.reg_covar, oversampling=1, threads=context.threads,
        )  # fmt: skip
        first = _grown(split, wanted, context, rng, n_grown) + drawn
        first = [(kind, context.observe(model)) for kind, model in first]
    phase("EM on the sample", None, "steps")
    quiet = replace(context, watcher=None, slot=NO_CHECKPOINT)
    for i, (times, steps, left) in enumerate(settings.sample_stages[stage:], stage + 1):
        found = explore(first, split.part(times * few), quiet, survivors=left, rounds=((steps, 0.0),))
        first = [(one.init, one.model) for one in found]
        context.slot.put("ladder", (i, first))
    return explore(first, split, context, survivors=1, rounds=settings.expensive_rounds, local=True)


def _moved(found: list[Start], split: SampleSplit, context: SearchContext, seed: int, moves: int) -> list[Start]:
    """The starts after at most so many split-and-merge moves each."""
    if moves == 0:
        return found
    moving = split.split_context(replace(context.maximize, repair=True), context.executor, seed)
    models = tuple(rearranged(one.model, moving, moves) for one in found)
    scores = mean_log_likelihoods(models, split.judge, context.executor).tolist()
    moved = [Start(model, one.init, score) for model, one, score in zip(models, found, scores, strict=True)]
    return [max(pair, key=lambda one: one.score) for pair in zip(found, moved, strict=True)]


def explore(
    first: Sequence[tuple[str, Mixture]],
    split: SampleSplit,
    context: SearchContext,
    *,
    survivors: int,
    rounds: Sequence[tuple[int, float]],
    at: int = 0,
    local: bool = False,
    spared: int = 0,
) -> list[Start]:
    """Short EM on the sample for every first model, worse ones dropped between rounds; the best come first.

    The last `spared` of them are not dropped: there may be as many more than `survivors`. After a round of share 1 only
    those are dropped that have come to the same as a better one.

    Models are ranked on rows that their EM did not see, or by the likelihood itself where the sample is all there is.
    With `local` each step may be followed by many of the components that move most (see `em.componentwise`).
    """
    sample_em = SampleEM(tuple(model for _, model in first), split, context, at, local=local)
    for steps, share in rounds:
        sample_em.go(steps)
        if share == 1.0:
            sample_em.join()
        else:
            sample_em.leave(max(survivors, round(share * len(sample_em.alive))), len(first) - spared)
    chosen = sample_em.alive
    if context.watcher is not None:
        context.watcher.begun(at, [(i, sample_em.taken[i]) for i in chosen])
    return [sample_em.start(i, first[i][0]) for i in chosen]


def _in_order(planned: Sequence[tuple[str, _Make]], D: int, family: Covariance) -> list[tuple[str, _Make]]:
    """The first start, then the others, the last first; next to it k-means in another frame, where there is one."""
    first, *others = planned
    others.reverse()
    if D > 1 and isinstance(family, Triangular):  # else whitened rows are rows scaled feature by feature
        scaled = [i for i, (kind, _) in enumerate(others) if kind == SCALED][:1]
        others = [others[i] for i in scaled] + [one for i, one in enumerate(others) if i not in scaled]
    return [first, *others]


def in_turn(planned: Sequence[tuple[str, _Make]], split: SampleSplit, context: SearchContext, *, price: float) -> Start:
    """The best of these starts: the first is followed to its end, then the others as far as that pays.

    Where EM converges fast it has nearly always come to the best optimum that any start leads to; where it creeps,
    seldom. So the others have no more than `rival_share` times the steps of the first beyond its first `quick_steps`,
    unless one of its components has few rows, and cost no more than the first one and `least_passes` passes; and none
    is made where it is certain of every row. They take `rival_steps` at a time, until they come to the same as the
    best, or gains like their last ones, `rival_optimism` times over, do not reach it; one that passes the best is
    followed to its own end.

    Parameters
    ----------
    price : float
        Steps on the sample that cost as much as one on all rows.
    """
    settings = search_settings.SEARCH
    phase("EM on the sample", None, "steps")
    sample_em = SampleEM((context.observe(made([planned[0][1]])[0]),), split, context)
    sample_em.go(settings.most_steps, [0])
    best, spent, rivals, first = 0, 0, list(range(1, len(planned))), sample_em.steps(0)
    free = settings.quick_steps if sample_em.solid(0, settings.few_rows) else 0
    most = min(price * first - free, first + settings.least_passes * price)
    budget = 0.0 if sample_em.certain(0) else settings.rival_share * most
    while rivals and spent < budget:
        for i in tuple(rivals):
            if i == len(sample_em.kept):
                sample_em.add(context.observe(made([planned[i][1]])[0]))
                spent += settings.making_steps
            before = sample_em.steps(i)
            more = settings.rival_steps
            sample_em.go(min(2 * more, first // 2) if i == 1 and not before else more, [i])
            spent += sample_em.steps(i) - before
            if sample_em.agree(i, best) or sample_em.settled(i) or sample_em.prune_dominated(i, best):
                rivals.remove(i)
            elif sample_em.value(i) > sample_em.value(best):
                sample_em.go(settings.most_steps, [i])
                rivals.remove(i)
            best = max(best, i, key=lambda j: (sample_em.score[j], -j))
            if spent >= budget:
                break
    if context.watcher is not None:
        context.watcher.begun(0, [(best, sample_em.taken[best])])
    return sample_em.start(best, planned[best][0])
