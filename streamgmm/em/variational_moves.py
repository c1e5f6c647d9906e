"""Moves that change the number of components of a variational posterior: merge, delete, birth.

A move is a proposal: a posterior made of changed statistics. It is accepted where its evidence bound, taken by an
E-step of its own, is above that of the model it would replace (Hughes & Sudderth 2013). Proposals come from the
statistics (merges) and from rows of a sample (births: components that are better explained as two).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.loop import e_step, merge_all
from streamgmm.em.sample_em import in_memory
from streamgmm.mixture.labelled_stats import stats_from_responsibilities
from streamgmm.mixture.stats import Stats
from streamgmm.mixture.variational import GaussWishart, VariationalMixture, evidence, variational_m_step
from streamgmm.mixture.variational_sums import (
    GAIN,
    component_evidence,
    joined,
    merges,
    parted,
    taken,
    tidied,
    weight_evidence,
)
from streamgmm.runtime.executors import Executor, within
from streamgmm.sources.base import Source
from streamgmm.sources.summaries.sample import SampleSummary

Array = NDArray[np.float64]

PATIENCE = 4
"""Steps after which a proposal has to be above the model that it would replace."""
OPTIMISM = 4.0
"""Gains like its last one that a proposal is trusted to have before it."""
LOCAL_STEPS = 12
"""Steps of a birth on the rows of its component."""
TAILS = (0.6, 0.9)
"""Shares of a component's rows, from the inside, that a birth takes for its core."""
SETTLED = 1e-5
"""Nats per row and step below which moves are tried."""
SETTLING = 30
"""Steps after which they are tried anyway."""
SPARE = 1.0
"""Rows up to which a component is not in use."""
FAILURES = 6
"""Proposals of one kind that may fail in a row."""
ROUNDS = 60
"""Moves that are accepted on the sample at most."""
SMALL, LARGE = 10_000, 100_000
"""Rows of the two parts of a sample that moves are made on, one after the other."""
STEP_WORK = 4e8
"""Rows x components x features^2 of a step on either part, where that leaves `LEAST` rows."""
LEAST = 2000
WORK = 2e11
"""The same of all steps on one part, at most."""


def bench_rows(K: int, D: int, most: int = LARGE) -> int:
    """Rows of a sample on which moves are cheap, at most `most`."""
    return min(most, max(LEAST, int(STEP_WORK / (K * D**2))))


@dataclass(slots=True)
class Budget:
    """Steps that are left."""

    steps: int


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """Statistics changed by a move."""

    kind: str
    stats: Stats


@dataclass(frozen=True, slots=True, eq=False)
class At:
    """A posterior, its statistics and its evidence bound in nats."""

    model: VariationalMixture
    stats: Stats
    value: float


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """Rows in memory on which steps cost little, each as heavy as `scale` rows.

    Attributes
    ----------
    rows, weight : (m, D), (m,), in the order of `source`
    pairs : dict
        Statistics of the births that were looked at last, by a hash of their rows and labels: where a component has
        kept its rows they are not computed again.
    """

    rows: NDArray[Any]
    weight: Array
    source: Source
    scale: float
    prior: GaussWishart
    reg_covar: float
    executor: Executor
    budget: Budget
    pairs: dict[bytes, Stats] = field(default_factory=dict)

    @classmethod
    def from_survey(
        cls, survey: SampleSummary, prior: GaussWishart, reg_covar: float, executor: Executor, *, size: int, heavy: bool
    ) -> Bench:
        """At most `size` rows of a sample; `heavy` ones stand for all rows of the data."""
        whole = survey.complete and len(survey.rows) <= size
        part = survey if whole else survey.among(size)
        weight = survey.weight if whole else np.ones(len(part.rows))
        if survey.complete and not whole:  # weights chose no rows of a sample that is everything
            kept = np.linspace(0, len(survey.rows) - 1, size).astype(np.intp)
            part, weight = replace(survey, rows=survey.rows[kept]), survey.weight[kept]
        scale = survey.count / weight.sum() if heavy else 1.0
        rows = np.ascontiguousarray(part.rows, np.float64)
        steps = int(WORK / (rows.size * rows.shape[1] * prior.limit))
        source = in_memory(rows, weight)
        return cls(rows, weight, source, scale, prior, reg_covar, executor, Budget(max(2 * SETTLING, steps)))

    def afresh(self) -> Bench:
        """The same rows for another search, with as many steps."""
        return replace(self, budget=Budget(self.budget.steps))

    def holds_all(self, survey: SampleSummary) -> bool:
        """True if these rows are all rows of the data."""
        return survey.complete and len(self.rows) == len(survey.rows)

    def at(self, model: VariationalMixture) -> At:
        """The E-step of `model`."""
        self.budget.steps -= 1
        task = within(self.source, partial(e_step, (model,)))
        (framed,) = self.executor.run(task, self.source.chunks(), merge_all)
        stats = model.restore(framed).scaled(self.scale)
        return At(model, stats, evidence(model, stats))

    def step(self, stats: Stats) -> VariationalMixture:
        return variational_m_step(stats, self.prior, self.reg_covar)

    def after(self, here: At) -> At:
        """The next step, with what merges are sure to pay."""
        return self.at(self.step(tidied(here.stats, self.prior, self.reg_covar)[0]))

    def settled(self, here: At, steps: int = SETTLING) -> At:
        """The posterior after some steps, until they gain little."""
        for _ in range(steps):
            last, here = here, self.after(here)
            if here.value - last.value < SETTLED * here.stats.count:
                break
        return here

    def tried(self, change: Change, here: At) -> At | None:
        """Where a change leads if it is worth more than `here` after a few steps."""
        there = self.at(self.step(change.stats))
        for _ in range(PATIENCE):
            if there.value > here.value + GAIN:
                return there
            last, there = there, self.after(there)
            if there.value + OPTIMISM * (there.value - last.value) < here.value:
                break
        return there if there.value > here.value + GAIN else None


Moves = dict[str, int]
"""Number of moves of each kind."""


def search(bench: Bench, model: VariationalMixture) -> tuple[At, Moves]:
    """The posterior after all moves that pay on these rows."""
    counts: Moves = {}

    def count(kind: str, number: int) -> None:
        if number > 0:
            counts[kind] = counts.get(kind, 0) + number

    here = bench.settled(bench.at(model))
    count("merged", model.n_components - here.model.n_components)
    kind = "merged"
    for _ in range(ROUNDS):
        found = next(_successes(bench, here, kind), None)
        if found is None:
            break
        kind, there = found
        last, here = here, bench.settled(there)
        born = int(kind == "born")
        count(kind, 1)
        count("merged", last.model.n_components - here.model.n_components - 1 + 2 * born)
    return here, counts


def _successes(bench: Bench, here: At, first: str) -> Iterator[tuple[str, At]]:
    """Moves that pay. Those of the kind `first`, which paid last, are tried first: where components are born one after
    the other, merges and deletions would fail after each birth."""
    kinds: dict[str, Callable[[At], Iterator[Change]]] = {
        "merged": merged, "deleted": deleted, "born": partial(born, bench),
    }  # fmt: skip
    for kind in sorted(kinds, key=lambda kind: kind != first):
        for change in islice(kinds[kind](here), FAILURES):
            if bench.budget.steps <= 0:
                return
            there = bench.tried(change, here)
            if there is not None:
                yield change.kind, there


def merged(here: At) -> Iterator[Change]:
    """Pairs taken together, the most promising first."""
    prior = here.model.prior
    found = merges(here.stats, prior, 0.0)
    for i, j, hoped in zip(found.i.tolist(), found.j.tolist(), found.hoped.tolist(), strict=True):
        if hoped <= GAIN:
            return
        yield Change("merged", joined(here.stats, i, j))


def deleted(here: At) -> Iterator[Change]:
    """One component less, the smallest first; its rows go to the others."""
    K = len(here.stats.weight)
    if K > 1:
        for k in np.argsort(here.stats.weight, kind="stable").tolist():
            yield Change("deleted", taken(here.stats, np.delete(np.arange(K), k)))


def born(bench: Bench, here: At) -> Iterator[Change]:
    """One component more: those whose rows alone are worth more as two, the largest gain first.

    Where there are as many components as the prior allows, the lightest gives way if it holds a row or less.
    """
    weight = here.stats.weight
    if len(weight) >= here.model.prior.limit:
        lightest = int(np.argmin(weight))
        if len(weight) == 1 or weight[lightest] > SPARE:
            return
        rest = np.delete(np.arange(len(weight)), lightest)
        here = At(here.model.alone(rest), taken(here.stats, rest), here.value)
    found = sorted(_births(bench, here), key=lambda birth: (-birth.gain, birth.k))
    for birth in found:
        yield Change("born", parted(here.stats, birth.k, birth.pair))


@dataclass(frozen=True, slots=True, eq=False)
class Birth:
    """Component k as a pair, and what its own rows gain by that."""

    k: int
    gain: float
    pair: Stats = field(repr=False)


def _births(bench: Bench, here: At) -> Iterator[Birth]:
    labels = here.model.labels(bench.rows)
    known = bench.pairs.copy()
    bench.pairs.clear()
    for k in range(len(here.stats.weight)):
        mine = np.flatnonzero(labels == k)
        if len(mine) < 2 * (bench.rows.shape[1] + 2):
            continue
        rows, weight = bench.rows[mine], bench.weight[mine] * bench.scale
        one = stats_from_responsibilities(rows, weight, np.zeros(len(rows), np.intp), 1, bench.prior.family)
        births = []
        for label in _parts(here.model, k, rows):
            key = blake2b(mine.tobytes() + label.tobytes()).digest()
            pair = bench.pairs[key] = known[key] if key in known else _pair(bench, rows, weight, label)
            births.append(_birth(bench, here, k, one, pair))
        best = max(births, key=lambda birth: birth.gain)
        if best.gain > 0.0:
            yield best


def _parts(model: VariationalMixture, k: int, rows: Array) -> Iterator[NDArray[np.intp]]:
    """Labels 0 and 1 of the rows of a component: two halves, and a core with what is around it."""
    D = rows.shape[1]
    whiten = model.family.dense(model.covariances, model.n_components, D)[k]
    z = np.linalg.solve(np.linalg.cholesky(whiten), (rows - model.means[k]).T).T
    yield _halves(z)
    radius = np.einsum("ij,ij->i", z, z)
    for share in TAILS:
        yield (radius > np.quantile(radius, share)).astype(np.intp)


def _halves(z: Array) -> NDArray[np.intp]:
    """Two-means of whitened rows, from the two ends of the direction in which fourth moments are smallest.

    Of two groups of equal shape that is the direction between them (Pena & Prieto 2001); it is an eigenvector of
    E[|z|^2 z z^T], whatever the units.
    """
    z = z - z.mean(axis=0)
    fourth = (z * np.einsum("ij,ij->i", z, z)[:, None]).T @ z
    label = (z @ np.linalg.eigh(fourth)[1][:, 0] > 0).astype(np.intp)
    for _ in range(20):
        if label.all() or not label.any():
            break
        a, b = z[label == 0].mean(axis=0), z[label == 1].mean(axis=0)
        before, label = label, ((z - 0.5 * (a + b)) @ (b - a) > 0).astype(np.intp)
        if (before == label).all():
            break
    return label


def _pair(bench: Bench, rows: Array, weight: Array, label: NDArray[np.intp]) -> Stats:
    """Statistics of the rows of a component in two, from `label`, after a few steps on these rows alone."""
    prior = bench.prior
    pair = stats_from_responsibilities(rows, weight, label, 2, prior.family)
    if not (pair.weight > 0).all():
        return pair
    local = replace(prior, limit=2) if not prior.family.shared else prior
    for _ in range(LOCAL_STEPS):
        pair = variational_m_step(pair, local, bench.reg_covar).accumulate(rows, weight)
    return pair


def _birth(bench: Bench, here: At, k: int, one: Stats, pair: Stats) -> Birth:
    """Gain of the two components of `pair` in the place of `one`, number k."""
    prior, reg = bench.prior, bench.reg_covar
    pair = tidied(pair, prior, reg)[0]
    if len(pair.weight) < 2:
        return Birth(k, -np.inf, pair)
    mass = here.stats.weight
    factor = mass[k] / pair.weight.sum()
    parts = np.concatenate([np.delete(mass, k), factor * pair.weight])
    gain = weight_evidence(np.sort(parts)[::-1], prior) - weight_evidence(np.sort(mass)[::-1], prior) + pair.entropy
    if not prior.family.shared:
        whole = component_evidence(one.weight, one.mean, one.scatter, prior, reg)
        gain += float(component_evidence(pair.weight, pair.mean, pair.scatter, prior, reg).sum() - whole.sum())
    else:
        gain += _tied_gain(here, one, pair)
    return Birth(k, gain, pair)


def _tied_gain(here: At, one: Stats, pair: Stats) -> float:
    """Contribution of the scatter between the two parts, taken out of that of all rows."""
    prior, D = here.model.prior, here.model.n_features
    delta = pair.mean - one.mean
    between = prior.family.between(pair.weight, delta)
    ratio = np.linalg.solve(here.model.covariances, between) / float(here.model.dof * prior.limit)
    inside = np.linalg.slogdet(np.eye(D) - ratio)
    return float(-0.5 * here.stats.count * inside[1]) if inside[0] > 0 else -np.inf
