"""The first models: one pass that fills a reservoir and takes the overall moments, then k-means on the sample."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from operator import add
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from streamgmm.covariance import DIAG, TIED, Covariance
from streamgmm.covariance.triangular import Triangular
from streamgmm.em import non_finite
from streamgmm.executors import Threads, one_thread
from streamgmm.imputing import complete
from streamgmm.kernels.own import squarable
from streamgmm.mixture import Mixture
from streamgmm.repair import repairing_m_step
from streamgmm.stats import Stats
from streamgmm.weights import no_rows

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What the first pass learnt.

    Attributes
    ----------
    rows : (m, D) sample in the order of the data, in the dtype of the source
    weight : (m,) sample weights of those rows; all one where the sample is a true subset (then the draw used them)
    moments : (D,) mean and (D, D) covariance of all rows, weighted
    n_rows : rows of positive weight in the data
    count : sum of the sample weights in the data
    box : (2, D) smallest and largest value of each feature among the rows of positive weight
    wild : whether the moments are those of the bulk of the sample, as a few rows far away would decide them otherwise
    keys : (m,) what the rows were chosen by, the largest first, or None
    """

    rows: NDArray[Any]
    weight: Array
    mean: Array
    covariance: Array
    n_rows: int
    count: float
    box: Array
    wild: bool = False
    keys: Array | None = None

    def among(self, size: int) -> Survey:
        """The sample of `size` rows that the same pass would have taken."""
        m = len(self.rows)
        if self.keys is None or m <= size:
            return self
        kept = np.sort(np.argpartition(self.keys, m - size)[m - size :])
        return replace(self, rows=self.rows[kept], weight=np.ones(size), keys=self.keys[kept])

    @property
    def complete(self) -> bool:
        """Whether the sample is all there is."""
        return self.n_rows <= len(self.rows)


def sample_size(n_components: int, n_features: int, *, least: int = 10_000) -> int:
    """Rows of the reservoir: enough for K Gaussians in D dimensions."""
    return max(20 * n_components * n_features, least)


def uniform(seed: int, row: NDArray[np.uint64]) -> Array:
    """Uniform (0, 1] numbers that depend on seed and row number only (splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = (row + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return ((x >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    keys: Array
    numbers: NDArray[np.uint64]
    rows: NDArray[Any]
    weight: Array
    count: float
    n_rows: int
    mean: Array
    scatter: Array
    box: Array


def _survey_chunk(chunk: Any, *, size: int, seed: int, missing: bool) -> _Part:
    rows, weight = chunk.load()
    n, D = rows.shape
    first = np.uint64(chunk.start) if chunk.start is not None else np.uint64(chunk.index) << np.uint64(40)
    w = np.ones(n) if weight is None else weight
    gaps = np.isnan(rows) if missing else np.zeros((0, D), bool)
    incomplete = gaps.any(axis=1)
    if incomplete.any():
        w = np.where(gaps.all(axis=1), 0.0, w)
    keys = _keys(seed, first, w)
    present = int(np.count_nonzero(w > 0))
    chosen = np.argpartition(keys, n - size)[n - size :] if size < present else np.flatnonzero(w > 0)
    chosen.sort()
    sample = keys[chosen], first + chosen.astype(np.uint64), rows[chosen], w[chosen]
    count = float(w.sum())
    mean = np.zeros(D)
    scatter = np.zeros((D, D))
    box = np.array([np.full(D, np.inf), np.full(D, -np.inf)])
    if count > 0:
        box = corners(rows if present == n else rows[w > 0])
        if incomplete.any():  # the moments are of complete rows only, and made anew from the sample
            rows, w = np.where(gaps, 0.0, rows), np.where(incomplete, 0.0, w)
        mean, scatter = weighted_moments(rows, w)
        if not np.isfinite(scatter).all():
            if not w.all():  # a row without weight is no row, whatever it holds
                mean, scatter = weighted_moments(rows[w > 0], w[w > 0])
            bad = np.flatnonzero(~np.isfinite(rows).all(axis=1) & (w > 0))
            if bad.size:
                raise non_finite(rows, int(bad[0]), chunk)
    return _Part(*sample, count, present, mean, scatter, box)


def _keys(seed: int, first: np.uint64, w: Array) -> Array:
    """(n,) log(u) / w of rows `first`, `first` + 1, ...; minus infinity without weight. The largest make the sample."""
    keys = np.empty(len(w))
    for part in _parts(len(w), 1):
        row = first + np.arange(part.start, part.stop, dtype=np.uint64)
        with np.errstate(divide="ignore"):
            np.divide(np.log(uniform(seed, row)), w[part], out=keys[part])
    keys[w <= 0] = -np.inf
    return keys


def _parts(n: int, D: int) -> Iterator[slice]:
    """Runs of rows that stay in the cache while they are worked on: copies of a chunk would be many chunks."""
    step = max(256, 2**14 // D)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def weighted_moments(rows: NDArray[Any], w: Array) -> tuple[Array, Array]:
    """(D,) mean and (D, D) scatter of rows with weights."""
    n, D = rows.shape
    origin = rows[0].astype(np.float64)
    first, scatter = np.zeros(D), np.zeros((D, D))
    with np.errstate(invalid="ignore", over="ignore"):
        for part in _parts(n, D):
            first += w[part] @ (rows[part] - origin)
        mean = origin + first / max(float(w.sum()), np.finfo(float).tiny)
        for part in _parts(n, D):
            delta = rows[part] - mean
            scatter += (delta * w[part, None]).T @ delta
    return mean, scatter


def corners(rows: NDArray[Any]) -> Array:
    """(2, D) smallest and largest observed value of each feature; NaN is passed over."""
    n, D = rows.shape
    beside = max(1, 256 // D) if rows.flags.c_contiguous else 1
    wide = rows[: n // beside * beside].reshape(-1, beside * D)  # short rows would be compared one by one
    found = []
    for extreme in (np.fmin, np.fmax):
        some = extreme.reduce(wide, axis=0).reshape(-1, D) if len(wide) else rows[:0]
        found.append(extreme.reduce(np.concatenate([some, rows[wide.size // D :]]), axis=0))
    return np.array(found, np.float64)


def background_box(box: Array) -> Array:
    """The box of a uniform background, from the smallest and largest values of the data.

    Raises
    ------
    ValueError
        Where a feature is constant, so that the box has no volume.
    """
    flat = np.flatnonzero(~(box[0] < box[1]))
    if flat.size:
        raise ValueError(
            f"noise='uniform' needs a box with a volume; feature(s) {flat.tolist()} are constant. Drop them, or set "
            "noise=None."
        )
    return box


def _merge_parts(a: _Part, b: _Part, *, size: int) -> _Part:
    if a.count == 0 or b.count == 0:
        return b if a.count == 0 else a
    keys = np.concatenate([a.keys, b.keys])
    keep = np.arange(len(keys)) if len(keys) <= size else np.sort(np.argpartition(-keys, size - 1)[:size])
    count = a.count + b.count
    with np.errstate(over="ignore", invalid="ignore"):  # of rows whose squares are beyond doubles: see `_sound`
        delta = b.mean - a.mean
        between = np.outer(delta, delta) * (a.count * b.count / count)
    return _Part(
        keys[keep],
        np.concatenate([a.numbers, b.numbers])[keep],
        np.concatenate([a.rows, b.rows])[keep],
        np.concatenate([a.weight, b.weight])[keep],
        count,
        a.n_rows + b.n_rows,
        a.mean + delta * (b.count / count),
        a.scatter + b.scatter + between,
        np.array([np.minimum(a.box[0], b.box[0]), np.maximum(a.box[1], b.box[1])]),
    )


def survey(source: Any, executor: Any, *, size: int, seed: int, missing: bool = False) -> Survey:
    """One pass: a sample of `size` rows, and the overall mean and covariance.

    The sample keeps the rows with the largest u^(1/w) (Efraimidis & Spirakis 2006), u being a function of seed and
    absolute row number, so it does not depend on chunking, order or threads.

    Parameters
    ----------
    missing : bool
        Take NaN as not observed: the sample is then completed (see `imputing.complete`), and the moments are those of
        one Gaussian fitted to it.

    Raises
    ------
    ValueError
        Where no row has positive weight.
    """
    task = partial(_survey_chunk, size=size, seed=seed, missing=missing)
    part = executor.run(task, source.chunks(), partial(_merge_parts, size=size))
    if part.count <= 0 and missing:
        raise ValueError(
            "missing='marginalize': every row has zero weight, or nothing is observed in it. Expected some numbers."
        )
    if part.count <= 0:
        raise no_rows()
    whole = part.n_rows <= size
    order = np.argsort(part.numbers)
    rows, weight = part.rows[order], part.weight[order] if whole else np.ones(len(order))
    mean, covariance = part.mean, part.scatter / part.count
    if missing and np.isnan(rows).any():
        rows, mean, covariance = complete(rows, weight, seed)
    return sound(Survey(rows, weight, mean, covariance, part.n_rows, part.count, part.box, keys=part.keys[order]))


FARTHEST = 1e4
"""Distance of a row from the median, in median distances, from which it has no say in centre and scale."""
_SPREAD = 0.5
"""Mean distance of the sample from the overall mean, in overall deviations, below which it is looked into."""
_INFLATED = 100.0
"""Overall variance, in variances of the bulk, up to which rows far away have not decided it."""


def sound(survey: Survey) -> Survey:
    """The survey with the moments of the bulk of its sample, where a few rows far away have decided the overall ones.

    One fill value of 1e20 would make one point of everything else, wherever a start is sought, a prior is taken from
    the data or a covariance is floored.
    """
    rows = np.asarray(survey.rows, np.float64)
    variance = np.diag(survey.covariance)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        mean_distance = np.mean(np.abs(rows - survey.mean), axis=0)
        if np.isfinite(survey.covariance).all() and (mean_distance >= _SPREAD * np.sqrt(variance)).all():
            return survey  # 0.8 of a deviation for a Gaussian, next to nothing where one row makes the deviation
        bulk = _near_the_median(rows)
        mean, scatter = weighted_moments(rows[bulk], survey.weight[bulk])
        covariance = scatter / survey.weight[bulk].sum()
        if (variance <= _INFLATED * np.diag(covariance)).all():
            return survey
    return replace(survey, mean=mean, covariance=covariance, wild=True)


def _near_the_median(rows: Array) -> NDArray[np.bool_]:
    """(m,) mask of rows within `FARTHEST` of every feature's median; all, where that leaves none."""
    bulk = np.ones(len(rows), bool)
    for column in rows.T:
        apart = np.abs(column - np.median(column))
        if apart.any():
            bulk &= apart <= FARTHEST * np.median(apart[apart > 0])
    return bulk if bulk.any() else ~bulk


_FEW = 0.05
"""Share of the weight up to which rows far away are taken for one group, whatever they hold."""


def drawn_in(z: Array, weight: Array) -> Callable[[Array], Array]:
    """A map of whitened rows that brings what is far away near: k-means is to see clusters, not one distance.

    Few rows far away become one point outside the others; of many the order of distances is kept.
    """
    bulk = (np.abs(z) <= FARTHEST).all(axis=1)
    share = weight[~bulk].sum() / weight.sum()
    if share <= _FEW:
        # So far that k-means++ meets it first, and no farther: its tolerance is a part of the overall variance.
        place = 10.0 * np.sqrt(np.mean(z[bulk] ** 2) / max(share, 1e-4))
        return lambda z: np.where((np.abs(z) <= FARTHEST).all(axis=1, keepdims=True), z, place)

    def nearer(z: Array) -> Array:
        size = np.abs(z) / FARTHEST
        return np.where(size <= 1.0, z, np.sign(z) * FARTHEST * (1.0 + np.log(np.maximum(size, 1.0))))

    return nearer


# Starts ---------------------------------------------------------------------------------------------------------------

LLOYD_STEPS = 30
"""Steps of k-means for a start: EM goes on from there. On 63,000 photo patches, K = 50, the inertia is then 0.13 %
above that of the 107 steps to the end."""


class Way(NamedTuple):
    """A way to assign the rows of a sample to components: chance first, in the order of the starts, then pure work.

    Attributes
    ----------
    draw : callable (weights (m,), K, generator) -> drawn
    assign : callable (whitened rows (m, D), weights (m,), K, drawn) -> labels (m,) or responsibilities (m, K)
    """

    draw: Callable[[Array, int, np.random.RandomState], Any]
    assign: Callable[[Array, Array, int, Any], NDArray[Any]]


def _seed(weight: Array, K: int, rng: np.random.RandomState) -> int:
    return int(rng.randint(2**31 - 1))


def _rows(weight: Array, K: int, rng: np.random.RandomState) -> NDArray[Any]:
    return rng.choice(len(weight), K, replace=False, p=weight / weight.sum())


def _kmeans(z: Array, weight: Array, K: int, seed: int) -> NDArray[Any]:
    if K == 1:
        return np.zeros(len(z), np.int64)
    from sklearn.cluster import KMeans  # a quarter of a second, which one Gaussian need not wait

    with one_thread():
        model = KMeans(K, n_init=1, max_iter=LLOYD_STEPS, random_state=seed)
        model.fit(z, sample_weight=weight)
    return np.asarray(model.labels_)


def _kmeans_plusplus(z: Array, weight: Array, K: int, seed: int) -> NDArray[Any]:
    from sklearn.cluster import kmeans_plusplus

    centres, _ = kmeans_plusplus(z, K, sample_weight=weight, random_state=seed)
    return nearest(z, centres)


def _nearest_rows(z: Array, weight: Array, K: int, rows: NDArray[Any]) -> NDArray[Any]:
    return nearest(z, z[rows])


def _random(z: Array, weight: Array, K: int, seed: int) -> NDArray[Any]:
    resp = np.random.RandomState(seed).uniform(size=(len(z), K))
    return np.asarray(resp / resp.sum(axis=1, keepdims=True))


INIT: dict[str, Way] = {
    "kmeans": Way(_seed, _kmeans),
    "k-means++": Way(_seed, _kmeans_plusplus),
    "random_from_data": Way(_rows, _nearest_rows),
    "random": Way(_seed, _random),
}


DIVERSE: dict[str, tuple[str, ...]] = {"kmeans": ("kmeans", "kmeans scaled", "rows")}
"""What restarts alternate between: k-means on whitened rows, on rows scaled feature by feature, rows drawn."""

_SCALED = "kmeans scaled"
_INTERNAL: dict[str, Way] = {_SCALED: INIT["kmeans"], "rows": INIT["random_from_data"]}


def nearest(z: Array, centres: Array) -> NDArray[Any]:
    """(m,) index of the centre nearest to each row."""
    return np.asarray(np.argmin(np.einsum("ki,ki->k", centres, centres) - 2.0 * (z @ centres.T), axis=1))


def stats_from_responsibilities(
    rows: NDArray[Any], weight: Array, resp: NDArray[Any], K: int, family: Covariance, origin: Array | None = None
) -> Stats:
    """Statistics of the sample under given labels (m,) or responsibilities (m, K).

    Sums are taken about `origin` (D,): the rows' mean, unless rows far away would cost the others their digits.
    """
    m, D = rows.shape
    origin = rows.mean(axis=0, dtype=np.float64) if origin is None else origin
    x = rows - origin
    if resp.ndim == 1:
        mass, mean, scatter = _labelled(x, weight, resp, K, family)
    else:
        dense = resp * weight[:, None]
        mass = dense.sum(axis=0)
        mean = np.divide(dense.T @ x, mass[:, None], out=np.zeros((K, D)), where=mass[:, None] > 0)
        scatter = family.scatter_of(x, dense, mean)
    return Stats(mass, mean + origin, scatter, 0.0, 0.0, 0.0, float(weight.sum()), m, family)


def _labelled(x: Array, weight: Array, labels: NDArray[Any], K: int, family: Covariance) -> tuple[Array, Array, Array]:
    """Mass (K,), mean (K, D) and scatter of rows that belong to one component each: every row is touched once."""
    mass, mean = np.zeros(K), np.zeros((K, x.shape[1]))
    scatter = np.zeros(family.scatter_shape(K, x.shape[1]))
    order = np.argsort(labels, kind="stable")
    nothing = np.zeros((1, x.shape[1]))
    for k, mine in enumerate(np.split(order, np.searchsorted(labels[order], np.arange(1, K)))):
        own, w = x[mine], weight[mine]
        mass[k] = w.sum()
        if mass[k] > 0:
            mean[k] = own[0] + w @ (own - own[0]) / mass[k]  # of equal rows it is that row, to the last digit
            part = family.scatter_of(squarable(own - mean[k]), w[:, None], nothing)
            if family is TIED:
                scatter += part
            else:
                scatter[k] = part[0]
    return mass, mean, scatter


def prepared(
    survey: Survey,
    K: int,
    family: Covariance,
    *,
    init: str,
    rng: np.random.RandomState,
    reg_covar: float,
    centres: Array | None = None,
) -> Callable[[], Mixture]:
    """One first model with K components, from the sample: what makes it, in any thread, once chance has had its say.

    Parameters
    ----------
    init : a key of `INIT`, or one of `DIVERSE`
    centres : (K, D), optional
        Means given by the user: rows go to the nearest of them.
    """
    way = (INIT | _INTERNAL)[init if centres is None else "kmeans"]
    drawn = way.draw(survey.weight, K, rng) if centres is None else None

    def make() -> Mixture:
        frame = DIAG if init == _SCALED and isinstance(family, Triangular) else family
        to_frame = frame.whitener(survey.mean, survey.covariance)
        z = to_frame(survey.rows)
        at = None if centres is None else to_frame(centres)
        if survey.wild:
            nearer = drawn_in(z, survey.weight)
            z, at = nearer(z), None if at is None else nearer(at)
        resp = way.assign(z, survey.weight, K, drawn) if at is None else nearest(z, at)
        origin = survey.mean if survey.wild else None
        stats = stats_from_responsibilities(survey.rows, survey.weight, resp, K, family, origin)
        return repairing_m_step(stats, reg_covar=reg_covar, reseeds=(0,) * K).model

    return make


@dataclass(frozen=True, slots=True)
class _Place:
    """One of several starts, as an executor takes them."""

    index: int
    make: Callable[[], Mixture]


def made(starts: Iterable[Callable[[], Mixture]], *, threads: int = 1) -> list[Mixture]:
    """First models in the order of `prepared` starts, several at a time; the same bits for any number of threads."""
    places = [_Place(i, make) for i, make in enumerate(starts)]
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters is dealt with by the repair of collapsed components.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return Threads(threads).run(lambda place: [place.make()], places, add)


__all__ = ["INIT", "Survey", "made", "prepared", "sample_size", "survey"]
