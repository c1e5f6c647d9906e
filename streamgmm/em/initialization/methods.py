"""The first models: ways to assign the rows of a sample to components, and the mixture of each assignment."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import add
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from streamgmm.em.initialization.far_rows import drawn_in, few_apart
from streamgmm.em.kmeans.centres import nearest
from streamgmm.mixture.covariance import DIAG, SPHERICAL, Covariance
from streamgmm.mixture.covariance.full_tied import Triangular
from streamgmm.mixture.labelled_stats import stats_from_responsibilities
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.repair import repairing_m_step
from streamgmm.runtime.executors import Threads
from streamgmm.runtime.thread_limits import one_thread
from streamgmm.sources.summaries.moments import weighted_moments
from streamgmm.sources.summaries.sample import SampleSummary

Array = NDArray[np.float64]


ISOLATED = 30.0
"""Distance of a few rows from the nearest cluster, in its radii, from which they keep a component of their own."""
PLENTY = 4
"""Rows for each component, in units of those that span a covariance, from which every component can have enough."""


def without_splinters(
    z: Array, labels: NDArray[Any], K: int, fewest: int, mass: Array | None = None, *, within: float = 0.0
) -> NDArray[Any]:
    """Labels (m,) of points z (m, D) without clusters of fewer than `fewest` rows, where there are rows for all.

    k-means spends centres on the tails of a distribution, and a component that starts on so few rows has no volume: EM
    cannot take it away from them. Its rows go to the nearest cluster, and the largest one is halved across its widest
    direction. What lies far from everything keeps its cluster.

    Parameters
    ----------
    mass : (m,), optional
        Rows that each point stands for; one by default.
    within : float
        Mean squared distance of these rows from their point.
    """
    rows = np.ones(len(z)) if mass is None else mass
    counts = np.bincount(labels, rows, minlength=K)
    small = (counts > 0) & (counts < fewest)
    large = np.flatnonzero(counts >= fewest)
    if not small.any() or not len(large) or rows.sum() < PLENTY * K * fewest:
        return labels
    labels = labels.copy()
    centres, radii = np.empty((len(large), z.shape[1])), np.empty(len(large))  # radii are squared
    for i, k in enumerate(large.tolist()):
        mine = labels == k
        centres[i], scatter = weighted_moments(z[mine], rows[mine], diagonal=True)
        radii[i] = scatter.sum() / counts[k] + within
    freed = []
    for k in np.flatnonzero(small).tolist():
        mine = labels == k
        centre = np.average(z[mine], axis=0, weights=rows[mine])
        if (((centre - centres) ** 2).sum(axis=1) <= ISOLATED**2 * radii).any():
            labels[mine] = large[nearest(z[mine], centres)]
            freed.append(k)
    for k in freed:
        _halve(z, rows, labels, k)
    return labels


def _halve(z: Array, mass: Array, labels: NDArray[Any], new: int) -> None:
    """Give half of the rows of the largest cluster that has two points the label `new`, across its widest direction."""
    several = np.bincount(labels, minlength=new + 1) > 1
    mine = np.flatnonzero(labels == np.where(several, np.bincount(labels, mass, minlength=new + 1), 0.0).argmax())
    mean, scatter = weighted_moments(z[mine], mass[mine])
    order = mine[np.argsort((z[mine] - mean) @ np.linalg.eigh(scatter)[1][:, -1], kind="stable")]
    below = np.cumsum(mass[order])[:-1]
    cut = int(np.argmin(np.abs(below - 0.5 * mass[mine].sum()))) + 1
    labels[order[cut:]] = new


# Starts ---------------------------------------------------------------------------------------------------------------

LLOYD_STEPS = 30
"""Steps of k-means for a start: EM goes on from there. On 63,000 photo patches, K = 50, the inertia is then 0.13 %
above that of the 107 steps to the end."""


class InitMethod(NamedTuple):
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


INIT: dict[str, InitMethod] = {
    "kmeans": InitMethod(_seed, _kmeans),
    "k-means++": InitMethod(_seed, _kmeans_plusplus),
    "random_from_data": InitMethod(_rows, _nearest_rows),
    "random": InitMethod(_seed, _random),
}


DIVERSE: dict[str, tuple[str, ...]] = {"kmeans": ("kmeans", "kmeans scaled", "rows")}
"""Kinds of starts that restarts alternate between: k-means on whitened rows, on rows scaled by feature, drawn rows."""

SCALED = "kmeans scaled"
_INTERNAL: dict[str, InitMethod] = {SCALED: INIT["kmeans"], "rows": INIT["random_from_data"]}


BETTER = 0.5
"""Nats per row from which other labels are better beyond doubt; else a start does not depend on units and shears."""


def _assigned(way: InitMethod, z: Array, weight: Array, K: int, drawn: Any, family: Covariance) -> NDArray[Any]:
    """Labels (m,) without splinters, or responsibilities (m, K)."""
    resp = way.assign(z, weight, K, drawn)
    return without_splinters(z, resp, K, family.least_rows(z.shape[1])) if resp.ndim == 1 else resp


def prepared(
    survey: SampleSummary,
    K: int,
    family: Covariance,
    *,
    init: str,
    rng: np.random.RandomState,
    reg_covar: float,
    centres: Array | None = None,
    in_units: bool = True,
) -> Callable[[], Mixture]:
    """One first model with K components, from the sample: what makes it, in any thread, once chance has had its say.

    Parameters
    ----------
    init : a key of `INIT`, or one of `DIVERSE`
    centres : (K, D), optional
        Means given by the user: rows go to the nearest of them.
    in_units : bool
        k-means may see the rows as they are, too; see `Wanted`.
    """
    way = (INIT | _INTERNAL)[init if centres is None else "kmeans"]
    drawn = way.draw(survey.weight, K, rng) if centres is None else None

    def within(frame: Covariance) -> Mixture:
        to_frame = frame.whitener(survey.mean, survey.covariance)
        z = to_frame(survey.rows)
        apart = few_apart(survey, z)
        if centres is not None:
            at = to_frame(centres)
            nearer = drawn_in(z, survey.weight) if survey.wild else None
            resp = nearest(z, at) if nearer is None else nearest(nearer(z), nearer(at))
        elif apart is not None and K > 1 and way.assign in (_kmeans, _kmeans_plusplus):
            resp = np.full(len(z), K - 1)
            resp[~apart] = _assigned(way, z[~apart], survey.weight[~apart], K - 1, drawn, family)
        else:
            z = drawn_in(z, survey.weight)(z) if survey.wild else z
            resp = _assigned(way, z, survey.weight, K, drawn, family)
        origin = survey.mean if survey.wild else None
        stats = stats_from_responsibilities(survey.rows, survey.weight, resp, K, family, origin)
        return repairing_m_step(stats, reg_covar=reg_covar, reseeds=(0,) * K).model

    def make() -> Mixture:
        usual = within(DIAG if init == SCALED and isinstance(family, Triangular) else family)
        one_frame = K == 1 or survey.rows.shape[1] == 1 or isinstance(family, type(SPHERICAL))
        if init != "kmeans" or centres is not None or survey.wild or one_frame or not in_units:
            return usual
        # Whitened rows lose groups that lie far apart along one axis; rows as they are, those of small units.
        other = within(SPHERICAL)
        return other if _classification(other) > _classification(usual) + BETTER else usual

    return make


def _classification(model: Mixture) -> float:
    """Classification log-likelihood per row of the rows whose labels gave `model`, but for a constant.

    The criterion C1 of Celeux & Govaert (1992), at its maximum for these labels.
    """
    K, D = model.means.shape
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = model.shares * (np.log(model.shares) - 0.5 * model.family.log_det(model.factors, K, D))
    return float(np.where(model.shares > 0, terms, 0.0).sum())


@dataclass(frozen=True, slots=True)
class Wanted:
    """Aim of a search: mixtures of K components of one family, from `n_init` starts of the kind `init`.

    With `in_units` k-means may see the rows as they are, too. Not so under a prior taken from the data, where nothing
    depends on units and shears.
    """

    K: int
    family: Covariance
    init: str
    n_init: int
    in_units: bool = True

    @property
    def kinds(self) -> tuple[str, ...]:
        """Ways of starting, which alternate."""
        return DIVERSE.get(self.init, (self.init,))


@dataclass(frozen=True, slots=True)
class _Place:
    """One of several starts, as an executor takes them."""

    index: int
    make: Callable[[], Mixture]


def made(starts: Iterable[Callable[[], Mixture]], *, threads: int = 1) -> list[Mixture]:
    """First models in the order of `prepared` starts, several at a time; the same bits for any number of threads."""
    places = [_Place(i, make) for i, make in enumerate(starts)]
    if not places:
        return []
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters is dealt with by the repair of collapsed components.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return Threads(threads).run(lambda place: [place.make()], places, add)


__all__ = ["INIT", "Wanted", "made", "prepared", "without_splinters"]
