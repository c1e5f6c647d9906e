"""Mixtures that grow on rows at hand: components are split where two fit their rows better than one.

k-means and random rows start every component at once, and EM keeps most of their mistakes. A mixture that grows from
one component, always where that gains most (greedy EM: Vlassis & Likas 2002, Verbeek et al. 2003), makes its mistakes
one at a time: on the nine features of shuttle, K = 15, and on photo patches, K = 50, it ends above the best of ten
others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.acceleration import Squarem
from streamgmm.em.candidates import Candidate, new_candidates
from streamgmm.em.convergence import aitken
from streamgmm.em.kmeans.centres import nearest
from streamgmm.em.loop import Models
from streamgmm.em.passes import Stage, passes
from streamgmm.em.sample_em import in_memory
from streamgmm.em.update import Maximize, Update
from streamgmm.em.variants import Exact
from streamgmm.errors import CollapsedError
from streamgmm.mixture.covariance import TIED, Covariance, spread_of
from streamgmm.mixture.labelled_stats import stats_from_responsibilities
from streamgmm.mixture.m_step import m_step
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.queries import cheapest_pair, merge_components
from streamgmm.mixture.repair import repairing_m_step
from streamgmm.runtime.executors import Executor
from streamgmm.sources.summaries.moments import weighted_moments
from streamgmm.utils.phases import advanced

Array = NDArray[np.float64]

DIVISIONS = 2
"""Ways in which the rows of a component are divided: across its widest direction, then by random pairs of rows."""
FOLLOWED = 3
"""Splits that are followed up in the whole mixture where one is wanted."""
AT_ONCE = 3
"""One of so many components may be split at a time, where more than one split is wanted."""
CHANGED = 0.2
"""Change of a component's weight, as a share of it, after which its split is sought anew."""
LOCAL_STEPS = 6
"""EM steps of two components on the rows of one."""
FIRST_STEPS, STEPS = 10, 15
"""EM steps of the whole mixture after splits, and more of them after one that was chosen among several."""
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Two components for one.

    Attributes
    ----------
    gain : nats gained on the rows of the component, more than 0
    component : its number
    weight : its weight when the split was found
    share : (2,) of its weight
    means, covariances : of the two, in the shapes of the family with K = 2
    """

    gain: float
    component: int
    weight: float
    share: Array
    means: Array
    covariances: Array


@dataclass(frozen=True, slots=True, eq=False)
class ComponentRows:
    """The rows of one component, with their weights, as an executor takes them."""

    index: int
    component: int
    rows: NDArray[Any]
    weight: Array


@dataclass(frozen=True, slots=True, eq=False)
class SplitContext:
    """Data and settings for the growth of a mixture.

    Attributes
    ----------
    rows, weight : (m, D), (m,)
    maximize : Maximize
    executor : Executor
    seed : int
    drawn_from : int
        Rows of the data that these are drawn from.
    """

    rows: NDArray[Any]
    weight: Array
    maximize: Maximize
    executor: Executor
    seed: int
    drawn_from: int = 0

    def one(self, family: Covariance) -> Mixture:
        """One component for all rows."""
        stats = stats_from_responsibilities(self.rows, self.weight, np.zeros(len(self.rows), np.int64), 1, family)
        return repairing_m_step(stats, reg_covar=self.maximize.reg_covar, reseeds=(0,)).model

    def follow(self, models: Models, steps: int) -> Candidate:
        """The best of these after so many EM steps."""
        source = in_memory(self.rows, self.weight, self.drawn_from)
        update = Update(self.maximize, aitken(TOLERANCE), 10**9, Squarem(TOLERANCE))
        candidates = new_candidates(models)
        for step in passes(source, candidates, (Stage(Exact(), update, steps),), self.executor):
            candidates = step.candidates
        return max(candidates, key=lambda c: (c.objective, -c.index))


def chain(model: Mixture, numbers: Iterable[int], split_context: SplitContext) -> dict[int, Mixture]:
    """Mixtures with these numbers of components (ascending), each grown from the one before, while rows support it."""
    found = {}
    known: dict[int, Split] = {}
    for K in numbers:
        model, known = grow(model, K, split_context, known)
        if model.n_components != K:
            break
        found[K] = model
    return found


def grow(
    model: Mixture, K: int, split_context: SplitContext, known: Mapping[int, Split] | None = None
) -> tuple[Mixture, dict[int, Split]]:
    """`model` with K components, or as many as its rows support; and the splits that were found and not made."""
    splits = dict(known or {})
    while model.n_components < K:
        k = model.n_components
        splits = best_splits(model, split_context, splits)
        found = sorted(splits.values(), key=lambda split: (-split.gain, split.component))
        if not found:
            break
        n = min(K - k, max(1, k // AT_ONCE), len(found))
        choices = [found[:n]] if n > 1 else [[one] for one in found[:FOLLOWED]]
        models = tuple(divided(model, chosen) for chosen in choices)
        ahead = split_context.follow(models, FIRST_STEPS)
        advanced("components", n)
        model = ahead.accepted if n > 1 else split_context.follow((ahead.accepted,), STEPS).accepted
        for split in choices[ahead.index]:
            del splits[split.component]
    return model, splits


def best_splits(model: Mixture, split_context: SplitContext, known: Mapping[int, Split]) -> dict[int, Split]:
    """The best split of every component whose rows are enough for two.

    Found on each component's own rows alone (those it has the largest share of), so that all together cost no more than
    EM steps of two components. A component that is about as heavy as when its split was found keeps it.
    """
    kept = {k: old for k, old in known.items() if abs(model.weights[k] - old.weight) <= CHANGED * old.weight}
    labels = model.labels(split_context.rows)
    order = np.argsort(labels, kind="stable")
    edges = np.searchsorted(labels[order], np.arange(model.n_components + 1))
    fewest = 4 * model.family.least_rows(model.n_features)
    chunks: list[ComponentRows] = []
    for k, (low, high) in enumerate(pairwise(edges)):
        if high - low >= fewest and k not in kept:
            part = order[low:high]  # ascending: the sort is stable
            chunks.append(ComponentRows(len(chunks), k, split_context.rows[part], split_context.weight[part]))
    if not chunks:
        return kept
    diagonal = model.family.n_factors > 0
    overall = (
        weighted_moments(split_context.rows, split_context.weight, diagonal=diagonal)[1] / split_context.weight.sum()
    )
    spread = np.diag(np.sqrt(np.where(overall > 0, overall, 1.0))) if diagonal else spread_of(overall)
    task = partial(
        _best_split, model, spread, split_context.maximize.reg_covar, split_context.seed + model.n_components
    )
    return kept | {split.component: split for split in split_context.executor.run(task, chunks, _join)}


def _join(a: tuple[Split, ...], b: tuple[Split, ...]) -> tuple[Split, ...]:
    return a + b


def _best_split(model: Mixture, spread: Array, reg_covar: float, seed: int, part: ComponentRows) -> tuple[Split, ...]:
    """The best split of a component on its rows, or nothing."""
    rows, weight, k = part.rows, part.weight, part.component
    family = model.family
    rng = np.random.RandomState((seed, k))
    maximum = partial(m_step, reg_covar=reg_covar)
    try:
        one = maximum(stats_from_responsibilities(rows, weight, np.zeros(len(rows), np.int64), 1, family))
    except CollapsedError:
        return ()
    before = one.totals(rows, weight)[0]
    own = family.dense if not family.n_factors else family.variances
    z = family.whitener(one.means[0], own(one.covariances, 1, model.n_features)[0])(rows)
    step, _ = family.split(one.covariances, 0, spread)
    divisions = [nearest(rows - one.means[0], np.stack([step, -step]))]
    divisions += [nearest(z, z[rng.choice(len(z), 2, replace=False)]) for _ in range(DIVISIONS - 1)]
    fewest = 2 * family.least_rows(model.n_features)
    best: tuple[Split, ...] = ()
    for labels in divisions:
        try:
            two = maximum(stats_from_responsibilities(rows, weight, labels, 2, family))
            for _ in range(LOCAL_STEPS):
                two = maximum(two.restore(two.frame_stats(rows, weight)))
        except CollapsedError:
            continue
        gain = float(two.totals(rows, weight)[0] - before)
        if two.weights.min() * len(rows) >= fewest and gain > (best[0].gain if best else 0.0):
            best = (Split(gain, k, float(model.weights[k]), two.weights, two.means, two.covariances),)
    return best


def divided(model: Mixture, chosen: Sequence[Split]) -> Mixture:
    """`model` with these components split; the second halves come last."""
    family = model.family
    weights, means, covariances = model.weights.copy(), model.means.copy(), model.covariances.copy()
    for split in chosen:
        k = split.component
        weights = np.append(weights, weights[k] * split.share[1])
        weights[k] *= split.share[0]
        means = np.concatenate([means, split.means[1:]])
        means[k] = split.means[0]
        if family is not TIED:
            covariances = np.concatenate([covariances, split.covariances[1:]])
            covariances[k] = split.covariances[0]
    covariances = family.constrained(covariances, weights, means.shape[1])
    factors, _ = family.factor(covariances)
    return Mixture.trusted(weights, means, covariances, family, factors, model.noise_weight, model.observation)


def rearranged(model: Mixture, split_context: SplitContext, moves: int) -> Mixture:
    """`model` after at most so many split-and-merge moves (Ueda et al. 2000), each kept only where it gains.

    EM cannot carry a component through others to where it is missing. A move merges the two components that lose least
    by it and splits a third, on the same number of components.
    """
    best = split_context.follow((model,), STEPS)
    for _ in range(moves if model.n_components > 2 else 0):
        found = best_splits(best.accepted, split_context, {})
        ordered = sorted(found.values(), key=lambda split: (-split.gain, split.component))[:FOLLOWED]
        proposals = tuple(
            # The second half of a split comes last, so the numbers of the pair stay.
            merge_components(divided(best.accepted, [split]), [cheapest_pair(best.accepted, but=split.component)])
            for split in ordered
        )
        if not proposals:
            break
        after = split_context.follow((split_context.follow(proposals, FIRST_STEPS).accepted,), STEPS)
        if not after.objective > best.objective + TOLERANCE:
            break
        best = after
    return best.accepted
