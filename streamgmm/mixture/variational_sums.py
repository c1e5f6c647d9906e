"""Gains of changes of a variational posterior, from its statistics alone, without a pass.

For given responsibilities the best posterior has the evidence bound

    sum_k f(N_k, mean_k, scatter_k) + g(N_1, ..., N_K) + entropy of the responsibilities + constant

with f the log ratio of the normalising constants of a component's prior and posterior, and g that of the weights. So a
change that touches two components costs no more than these two.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, entr, gammaln

from streamgmm.mixture.stats import Stats
from streamgmm.mixture.variational import GaussWishart, log_det_of, log_wishart_norm, mass_after, updated

Array = NDArray[np.float64]
Order = NDArray[np.intp]


def component_evidence(weight: Array, mean: Array, scatter: Array, prior: GaussWishart, reg_covar: float) -> Array:
    """(P,) f of each of P components, in nats; 0 for one without rows. Not for tied covariances."""
    family, D = prior.family, len(prior.mean)
    precision, _, dof, covariances = updated(weight, mean, scatter, prior, reg_covar)
    factors, _ = family.factor(covariances)
    log_det = family.log_det(factors, len(weight), D)
    own = log_wishart_norm(dof, D * np.log(dof) + log_det, D) + 0.5 * D * np.log(precision)
    return np.asarray(_prior_norm(prior) - own)


def _prior_norm(prior: GaussWishart) -> float:
    D = len(prior.mean)
    norm = log_wishart_norm(np.asarray(prior.dof), log_det_of(prior.scale, D), D)
    return float(norm + 0.5 * D * math.log(prior.mean_precision))


def weight_evidence(weight: Array, prior: GaussWishart) -> float:
    """g of masses (K,), in nats: unused components that follow change nothing."""
    alpha = prior.concentration
    if prior.process:
        return float((betaln(1.0 + weight, alpha + mass_after(weight)) - betaln(1.0, alpha)).sum())
    return float((gammaln(alpha + weight) - gammaln(alpha)).sum())


def taken(stats: Stats, order: Order) -> Stats:
    """Statistics of the components `order` alone, in this order; those of the rows stay."""
    scatter = stats.scatter if stats.family.shared else stats.scatter[order]
    return replace(stats, weight=stats.weight[order], mean=stats.mean[order], scatter=scatter)


def joined(stats: Stats, i: int, j: int) -> Stats:
    """Statistics in which i and j are one component, in the place of i."""
    kept = np.delete(np.arange(len(stats.weight)), j)
    pair = _pairs(stats, np.array([i]), np.array([j]))
    weight, mean, scatter = stats.weight.copy(), stats.mean.copy(), stats.scatter
    weight[i], mean[i] = pair.weight[0], pair.mean[0]
    if stats.family.shared:
        scatter = scatter + pair.between[0]
    else:
        scatter = scatter.copy()
        scatter[i] = pair.scatter[0]
    return taken(replace(stats, weight=weight, mean=mean, scatter=scatter), kept)


def parted(stats: Stats, k: int, pair: Stats) -> Stats:
    """Statistics in which the two components of `pair` stand for component k, scaled to its mass."""
    factor = stats.weight[k] / pair.weight.sum()
    rest = np.delete(np.arange(len(stats.weight)), k)
    scatter = stats.scatter
    if not stats.family.shared:
        scatter = np.concatenate([stats.scatter[rest], factor * pair.scatter])
    return replace(
        stats,
        weight=np.concatenate([stats.weight[rest], factor * pair.weight]),
        mean=np.concatenate([stats.mean[rest], pair.mean]),
        scatter=scatter,
    )


class _Pair(NamedTuple):
    weight: Array
    mean: Array
    scatter: Array
    between: Array


def _pairs(stats: Stats, i: Order, j: Order) -> _Pair:
    """Statistics of the pairs (i, j) taken together; with tied covariances what they add to the scatter of all."""
    family = stats.family
    one, two = stats.weight[i], stats.weight[j]
    weight = one + two
    share = np.divide(two, weight, out=np.zeros_like(two), where=weight > 0)
    delta = np.where((one > 0)[:, None], stats.mean[j] - stats.mean[i], 0.0)
    first = np.where((one > 0)[:, None], stats.mean[i], stats.mean[j])
    mean = first + share[:, None] * delta
    if family.shared:
        between = (one * share)[:, None, None] * delta[:, :, None] * delta[:, None, :]
        return _Pair(weight, mean, between, between)
    between = family.between(one * share, delta)
    return _Pair(weight, mean, stats.scatter[i] + stats.scatter[j] + between, between)


class Merges(NamedTuple):
    """Pairs of components, and what it would gain to make each one, in nats."""

    i: Order
    j: Order
    hoped: Array
    """(P,) gain if a row's components were never in doubt: an upper bound for the responsibilities as they are."""
    sure: Array
    """(P,) lower bound of the gain."""

    def between_occupied(self, weight: Array) -> Merges:
        """Pairs whose components both have more than `EMPTY` rows."""
        both = (weight[self.i] > EMPTY) & (weight[self.j] > EMPTY)
        return Merges(self.i[both], self.j[both], self.hoped[both], self.sure[both])


def merges(stats: Stats, prior: GaussWishart, reg_covar: float) -> Merges:
    """All pairs i < j, ordered by the gain that is hoped for.

    Joining responsibilities loses sum_n r_m h(r_i / r_m) of their entropy, h that of two shares. It is concave, so the
    loss is at most N_m h(N_i / N_m), and never more than all entropy there is.
    """
    K = len(stats.weight)
    i, j = np.triu_indices(K, 1)
    if not len(i):
        return Merges(i, j, np.zeros(0), np.zeros(0))
    hoped = _fit_gain(stats, i, j, prior, reg_covar) + _weight_gain(stats.weight, i, j, prior)
    pair = stats.weight[i] + stats.weight[j]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(pair > 0, stats.weight[i] / pair, 0.0)
    loss = np.minimum(pair * (entr(share) + entr(1.0 - share)), max(stats.entropy, 0.0))
    order = np.argsort(-hoped, kind="stable")
    return Merges(i[order], j[order], hoped[order], (hoped - loss)[order])


def _fit_gain(stats: Stats, i: Order, j: Order, prior: GaussWishart, reg_covar: float) -> Array:
    """(P,) gains of pairs without their weights, a block of pairs at a time: each takes some (D, D) arrays."""
    size = max(1, BLOCK // len(prior.mean) ** 2)
    blocks = [(i[start : start + size], j[start : start + size]) for start in range(0, len(i), size)]
    if prior.family.shared:
        return np.concatenate([_tied_gain(stats, *block, prior, reg_covar) for block in blocks])
    own = component_evidence(stats.weight, stats.mean, stats.scatter, prior, reg_covar)
    pairs = (_pairs(stats, *block) for block in blocks)
    joint = [component_evidence(pair.weight, pair.mean, pair.scatter, prior, reg_covar) for pair in pairs]
    return np.concatenate(joint) - own[i] - own[j]


def _tied_gain(stats: Stats, i: Order, j: Order, prior: GaussWishart, reg_covar: float) -> Array:
    pair = _pairs(stats, i, j)
    D, N, limit = len(prior.mean), stats.weight, prior.limit

    def pull(weight: Array, mean: Array) -> Array:
        part = weight * prior.mean_precision / (prior.mean_precision + weight)
        delta = mean - prior.mean
        return np.asarray(part[:, None, None] * delta[:, :, None] * delta[:, None, :])

    own = pull(N, np.where(N[:, None] > 0, stats.mean, prior.mean))
    whole = limit * prior.scale + stats.scatter + own.sum(axis=0) + reg_covar * N.sum() * np.eye(D)
    after = whole + pair.between + pull(pair.weight, pair.mean) - own[i] - own[j]
    dof = prior.dof + N.sum() / limit
    kappa = np.log(prior.mean_precision + N)
    freed = np.log(prior.mean_precision + pair.weight) + math.log(prior.mean_precision) - kappa[i] - kappa[j]
    change = np.linalg.slogdet(after)[1] - np.linalg.slogdet(whole)[1]
    return np.asarray(-0.5 * limit * dof * change - 0.5 * D * freed)


def _weight_gain(weight: Array, i: Order, j: Order, prior: GaussWishart) -> Array:
    """(P,) change of `weight_evidence` where component i < j takes the rows of j."""
    alpha = prior.concentration
    if not prior.process:
        g = gammaln(alpha + weight) - gammaln(alpha)
        return np.asarray(gammaln(alpha + weight[i] + weight[j]) - gammaln(alpha) - g[i] - g[j])

    def stick(own: Array, after: Array) -> Array:
        return np.asarray(betaln(1.0 + own, alpha + np.maximum(after, 0.0)) - betaln(1.0, alpha))

    # Sticks between i and j lose the rows of j from what follows them; those before i and after j stay.
    after = mass_after(weight)
    own = stick(weight, after)
    relieved = stick(weight[:, None], after[:, None] - weight) - own[:, None]
    passed = np.cumsum(np.triu(relieved, 1), axis=0)
    between = passed[j - 1, j] - passed[i, j]
    return np.asarray(stick(weight[i] + weight[j], after[i] - weight[j]) - own[i] - own[j] + between)


def tidied(stats: Stats, prior: GaussWishart, reg_covar: float) -> tuple[Stats, str]:
    """Join components as long as that is sure to raise the evidence; sticks in the order of mass.

    Components without rows go too: an unused component is the prior, whether it stands in the arrays or not.

    Returns
    -------
    stats, "merged" where there are fewer components, "sorted" where their order is another, or ""
    """
    before = len(stats.weight)
    present = np.flatnonzero(stats.weight > EMPTY)
    if len(present) < before:
        stats = taken(stats, present)
    while len(stats.weight) > 1:
        found = merges(stats, prior, reg_covar)
        best = int(np.argmax(found.sure))
        if not found.sure[best] > GAIN:
            break
        stats = joined(stats, int(found.i[best]), int(found.j[best]))
    change = "merged" if len(stats.weight) < before else ""
    if prior.process:
        order = np.argsort(-stats.weight, kind="stable")
        if weight_evidence(stats.weight[order], prior) > weight_evidence(stats.weight, prior) + GAIN:
            stats, change = taken(stats, order), change or "sorted"
    return stats, change


BLOCK = 2**18
"""Entries of the covariances of pairs that are judged at a time."""
GAIN = 1e-3
"""Nats by which a move has to raise the evidence."""
EMPTY = 1e-9
"""Rows up to which a component holds nothing."""
