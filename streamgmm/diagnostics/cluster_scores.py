"""Scores of a clustering on data of any size: exact where sums suffice, sampled with a stated error elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.errors import NonFiniteRowError, non_finite
from streamgmm.estimators.reader import Reader, executor_of, model_of, rows_of
from streamgmm.mixture.mixture import Mixture
from streamgmm.runtime.executors import within
from streamgmm.sources.base import Chunk, Readable
from streamgmm.sources.summaries.reservoir import Draw, largest, merge_draws
from streamgmm.utils import html
from streamgmm.utils.phases import reading
from streamgmm.utils.row_random import row_keys

Array = NDArray[np.float64]
Labels = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class ClusterScores:
    """Separation of the clusters of hard labels.

    Attributes
    ----------
    calinski_harabasz : float
        Between over within scatter, each per degree of freedom; larger is better. Exact.
    davies_bouldin : float
        Mean over clusters of the worst (spread + spread) / distance to another; smaller is better. Exact.
    simplified_silhouette : float
        Silhouette with distances to centroids (Hruschka et al. 2004); larger is better. Exact.
    silhouette : float
        Mean silhouette (Rousseeuw 1987) of a sample of the rows among themselves.
    silhouette_error : float
        Its standard error from sampling; 0 where the sample is all rows.
    sizes : (K,) weight of each cluster; clusters without rows take no part.
    rows : number of rows of positive weight; those labelled -1 (background) take no part.

    Examples
    --------
    >>> import streamgmm as sg
    >>> X = [[0.0], [2.0], [10.0], [12.0]]
    >>> scores = sg.cluster_scores(sg.KMeans(2, random_state=0).fit(X), X)
    >>> scores.calinski_harabasz, scores.davies_bouldin
    (50.0, 0.2)
    """

    calinski_harabasz: float
    davies_bouldin: float
    simplified_silhouette: float
    silhouette: float
    silhouette_error: float
    sizes: Array
    rows: int

    def _repr_html_(self) -> str:
        error = f" ± {self.silhouette_error:.2g} from sampling" if self.silhouette_error else ""
        facts = html.facts([
            ("silhouette (larger is better)", f"{self.silhouette:.4g}{error}"),
            ("simplified silhouette (larger is better)", self.simplified_silhouette),
            ("Calinski-Harabasz (larger is better)", self.calinski_harabasz),
            ("Davies-Bouldin (smaller is better)", self.davies_bouldin),
            ("rows", self.rows),
        ])  # fmt: skip
        total = float(self.sizes.sum())
        lines = [[html.component(k), html.share(float(w) / total), float(w)] for k, w in enumerate(self.sizes)]
        return html.wrapped("Cluster scores", facts, html.table(["cluster", "share", "weight"], lines, sortable=True))


def cluster_scores(
    model: object,
    X: Readable,
    sample_weight: ArrayLike | None = None,
    *,
    sample_rows: int = 5_000,
    random_state: int = 0,
) -> ClusterScores:
    """Davies-Bouldin, Calinski-Harabasz and silhouette of the labels that a fitted model gives to X; two passes.

    Parameters
    ----------
    model : fitted GaussianMixture or KMeans
    X : array-like (N, D), a path, or a source
    sample_weight : (N,) >= 0, optional
        0 is no row, 2 is the row twice.
    sample_rows : int
        Rows of the sample for the silhouette, which costs their number squared.

    Raises
    ------
    ValueError
        Where the labels make fewer than two clusters.

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> X = np.concatenate([np.random.default_rng(0).normal(m, 1, (200, 1)) for m in (-9, 9)])
    >>> bool(sg.cluster_scores(sg.KMeans(2, random_state=0).fit(X), X).silhouette > 0.8)
    True
    """
    asked = model_of(model) if isinstance(model, Reader) else None
    if not isinstance(model, Reader) or asked is None:
        raise TypeError(f"Expected a fitted GaussianMixture or KMeans; got {type(model).__name__}, fitted or not.")
    K = len(asked.means if isinstance(asked, Mixture) else asked.points)
    source = rows_of(model, X, sample_weight)
    labels: Labels = within(source, asked.labels)
    executor = executor_of(model)
    with reading(source, "clusters and a sample"):
        first: _First = executor.run(
            partial(_first, labels, K, sample_rows, random_state), source.chunks(), partial(_merge_first, sample_rows)
        )
    present = first.weight > 0
    if present.sum() < 2:
        raise ValueError(
            f"The labels make {int(present.sum())} cluster(s); scores compare at least 2. Raise the number of clusters."
        )
    means = first.mean[present]
    with reading(source, "distances"):
        second = executor.run(partial(_second, labels, present, means), source.chunks(), np.add)
    spread = second[:-1] / first.weight[present]
    draw = first.draw
    silhouette, error = _silhouette(draw, labels(draw.rows), first.rows)
    return ClusterScores(
        _calinski_harabasz(first, present),
        _davies_bouldin(spread, means),
        float(second[-1] / first.weight.sum()),
        silhouette,
        error,
        first.weight,
        first.rows,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _First:
    """Hard statistics by cluster, and a sample: weight (K,), mean (K, D), scatter (K,) summed over features."""

    weight: Array
    mean: Array
    scatter: Array
    rows: int
    draw: Draw


def _first(labels: Labels, K: int, size: int, seed: int, chunk: Chunk) -> _First:
    rows, weight = chunk.load()
    try:
        label = labels(rows)
    except NonFiniteRowError as error:
        raise non_finite(rows, error.row, chunk) from None
    w = np.where(label >= 0, 1.0 if weight is None else weight, 0.0)
    mass, mean, scatter = np.zeros(K), np.zeros((K, rows.shape[1])), np.zeros(K)
    for k in range(K):
        here = (label == k) & (w > 0)
        if here.any():
            x = rows[here].astype(np.float64)
            mass[k] = w[here].sum()
            mean[k] = x[0] + (w[here] @ (x - x[0])) / mass[k]
            scatter[k] = w[here] @ ((x - mean[k]) ** 2).sum(axis=1)
    kept = np.flatnonzero(w > 0)
    numbers, log_u = row_keys(chunk, len(rows), seed)
    draw = largest(log_u[kept] / w[kept], numbers[kept], rows[kept], w[kept], size)
    return _First(mass, mean, scatter, len(kept), draw)


def _merge_first(size: int, a: _First, b: _First) -> _First:
    weight = a.weight + b.weight
    share = np.divide(b.weight, weight, out=np.zeros_like(weight), where=weight > 0)
    delta = b.mean - a.mean
    mean = np.where(a.weight[:, None] > 0, a.mean + share[:, None] * delta, b.mean)
    between = a.weight * share * (delta**2).sum(axis=1)
    return _First(weight, mean, a.scatter + b.scatter + between, a.rows + b.rows, merge_draws(size, a.draw, b.draw))


def _second(labels: Labels, present: NDArray[np.bool_], means: Array, chunk: Chunk) -> Array:
    """Sum of distances to the own centroid for each cluster, then the sum of simplified silhouettes."""
    from scipy.spatial.distance import cdist

    rows, weight = chunk.load()
    place = np.cumsum(present) - 1
    label = labels(rows)
    w = np.where(label >= 0, 1.0 if weight is None else weight, 0.0)
    own = place[np.maximum(label, 0)]
    distance = cdist(rows, means)
    index = np.arange(len(rows))
    near = distance[index, own]
    distance[index, own] = np.inf
    other = distance.min(axis=1)
    worst = np.maximum(near, other)
    score = np.divide(other - near, worst, out=np.zeros(len(rows)), where=worst > 0)
    sums = np.bincount(own, weights=w * near, minlength=len(means))
    return np.append(sums, w @ score)


def _calinski_harabasz(first: _First, present: NDArray[np.bool_]) -> float:
    weight, mean = first.weight[present], first.mean[present]
    centre = weight @ mean / weight.sum()
    between = float(weight @ ((mean - centre) ** 2).sum(axis=1))
    within = float(first.scatter[present].sum())
    K = len(weight)
    return 1.0 if within == 0 else between * (float(weight.sum()) - K) / (within * (K - 1))


def _davies_bouldin(spread: Array, means: Array) -> float:
    from scipy.spatial.distance import cdist

    apart = cdist(means, means)
    np.fill_diagonal(apart, np.inf)
    if np.allclose(spread, 0) or np.allclose(apart[np.isfinite(apart)], 0):
        return 0.0
    with np.errstate(divide="ignore"):
        return float(((spread[:, None] + spread) / apart).max(axis=1).mean())


def _silhouette(draw: Draw, label: NDArray[Any], population: int) -> tuple[float, float]:
    """Mean silhouette of rows among themselves, and its standard error as that of a sample from `population` rows."""
    from scipy.spatial.distance import cdist

    complete = len(draw.rows) == population
    w = draw.weight if complete else np.ones(len(draw.rows))
    names, own = np.unique(label, return_inverse=True)
    if len(names) < 2:
        return np.nan, np.nan
    member = np.zeros((len(own), len(names)))
    member[np.arange(len(own)), own] = w
    mass = member.sum(axis=0)
    scores = np.empty(len(own))
    for start in range(0, len(own), 1024):
        part = slice(start, start + 1024)
        sums = cdist(draw.rows[part], draw.rows) @ member
        index = np.arange(len(sums))
        mine = own[part]
        rest = mass[mine] - 1.0
        inner = np.divide(sums[index, mine], rest, out=np.zeros(len(sums)), where=rest > 0)
        outer = sums / mass
        outer[index, mine] = np.inf
        nearest = outer.min(axis=1)
        worst = np.maximum(inner, nearest)
        good = (rest > 0) & (worst > 0)
        scores[part] = np.divide(nearest - inner, worst, out=np.zeros(len(sums)), where=good)
    mean = float(np.average(scores, weights=w))
    if complete:
        return mean, 0.0
    left = 1.0 - len(scores) / population
    return mean, float(scores.std(ddof=1) * np.sqrt(left / len(scores)))
