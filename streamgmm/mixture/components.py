"""Changes to the statistics of a stream by hand: a component anew, two that are one, a model turned back into sums."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamgmm.mixture.covariance import TIED, Factor
from streamgmm.mixture.labelled_stats import stats_from_responsibilities
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.stats import Stats

Array = NDArray[np.float64]


def stats_of(model: Mixture, reg_covar: float = 0.0) -> Stats:
    """Statistics of weight 1 whose M-step is `model`."""
    family, (K, D) = model.family, model.means.shape
    shape = family.scatter_shape(K, D)
    own = family.unconstrained  # components that are in a structure stay there

    if isinstance(family, Factor):
        covariances = family.add_to_diagonal(model.covariances.copy(), -reg_covar)
        covariances[..., -1] = np.maximum(covariances[..., -1], 0.0)
        scatter = family.scatter_behind(covariances, model.weights)
        return Stats(model.weights, model.means, scatter, 0.0, 0.0, 0.0, 1.0, 0, family)

    def with_scatter(scatter: Array) -> Stats:
        return Stats(model.weights, model.means, scatter, 0.0, 0.0, 0.0, 1.0, 0, family)

    divided = own.estimate(with_scatter(np.ones(shape)), 0.0)
    ridge = own.estimate(with_scatter(np.zeros(shape)), reg_covar)
    with np.errstate(divide="ignore", invalid="ignore"):
        scatter = (model.covariances - ridge) / divided
    return with_scatter(np.where(np.isfinite(scatter), scatter, 0.0))


def low_density_cluster(model: Mixture, rows: Array) -> NDArray[np.intp]:
    """Rows that belong together and that the model finds unlikely, at least D + 1; in their order.

    Of the 4 % least likely rows, the half nearest to the row with the nearest neighbours: tails of many components
    together would make a component that means nothing.
    """
    size = min(len(rows), max(4 * (rows.shape[1] + 1), len(rows) // 25))
    low = np.argpartition(model.log_prob(rows), size - 1)[:size]
    x = rows[low]
    scale = x.std(axis=0)
    x = x / np.where(scale > 0, scale, 1.0)
    square = np.einsum("ij,ij->i", x, x)
    distance = square[:, None] + square - 2.0 * (x @ x.T)
    near = max(1, size // 2 - 1)
    centre = np.argmin(np.partition(distance, near, axis=1)[:, near])
    return np.sort(low[np.argpartition(distance[centre], near)[: near + 1]])


def replace_component(stats: Stats, k: int, rows: Array, weight: Array | None, share: float) -> Stats:
    """Component k anew, with the mean and scatter of `rows` and this share of the whole.

    What k was is dropped; loglik, count and the other scalars tell of rows, not of components, and stay.
    """
    K = len(stats.weight)
    total = stats.weight.sum()
    w = np.ones(len(rows)) if weight is None else weight
    new = stats_from_responsibilities(rows, w, np.full(len(rows), k), K, stats.family)
    rest = _without(stats, k)
    rest = rest.scaled((1.0 - share) * total / rest.weight.sum())
    return _scalars(rest.merge(new.scaled(share * total / new.weight.sum())), stats)


def join(stats: Stats, i: int, j: int) -> Stats:
    """Components i and j together as i; j is left without weight."""
    moved = np.zeros_like(stats.weight)
    moved[i] = stats.weight[j]
    means = stats.mean.copy()
    means[i] = stats.mean[j]
    scatter = np.zeros_like(stats.scatter)
    if stats.family is not TIED:
        scatter[i] = stats.scatter[j]
    part = Stats(moved, means, scatter, 0.0, 0.0, 0.0, 0.0, 0, stats.family)
    return _scalars(_without(stats, j).merge(part), stats)


def _without(stats: Stats, k: int) -> Stats:
    weight = stats.weight.copy()
    weight[k] = 0.0
    return replace(stats, weight=weight, scatter=stats.family.replace_component(stats.scatter, (k,), np.zeros(())))


def _scalars(stats: Stats, old: Stats) -> Stats:
    return replace(stats, loglik=old.loglik, entropy=old.entropy, log_max=old.log_max, count=old.count, rows=old.rows)


def closest_pair(model: Mixture) -> tuple[int, int, float]:
    """The two components of smallest Bhattacharyya distance, and the distance."""
    distance = bhattacharyya(model)
    i, j = np.unravel_index(int(np.argmin(distance)), distance.shape)
    return int(i), int(j), float(distance[i, j])


def bhattacharyya(model: Mixture) -> Array:
    """(K, K) distances above the diagonal: -log of the overlap of the square roots of two densities; else infinity."""
    K, D = model.means.shape
    covariances = model.family.dense(model.covariances, K, D)
    logdet = np.linalg.slogdet(covariances)[1]
    distance = np.full((K, K), math.inf)
    for i in range(K):
        for j in range(i + 1, K):
            middle = 0.5 * (covariances[i] + covariances[j])
            delta = model.means[i] - model.means[j]
            apart = float(delta @ np.linalg.solve(middle, delta)) / 8
            distance[i, j] = apart + float(np.linalg.slogdet(middle)[1] - 0.5 * (logdet[i] + logdet[j])) / 2
    return distance
