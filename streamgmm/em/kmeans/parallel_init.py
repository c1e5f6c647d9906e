"""k-means‖: a start for k-means, and for mixtures, from a few passes of all the data."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from streamgmm.em.initialization.far_rows import FARTHEST, drawn_in
from streamgmm.em.initialization.methods import Wanted, without_splinters
from streamgmm.em.kmeans.centres import Centres, LloydStats, nearest
from streamgmm.em.loop import e_step, merge_all
from streamgmm.errors import NonFiniteRowError, non_finite
from streamgmm.mixture.covariance import Covariance
from streamgmm.mixture.labelled_stats import stats_from_responsibilities
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.repair import repairing_m_step
from streamgmm.mixture.stats import Stats
from streamgmm.runtime.executors import Executor, within
from streamgmm.runtime.thread_limits import one_thread
from streamgmm.sources.base import Chunk, Source
from streamgmm.sources.summaries.reservoir import Draw, largest, merge_draws
from streamgmm.sources.summaries.sample import SampleSummary
from streamgmm.sources.transformed import TransformedSource
from streamgmm.utils.affine import Affine
from streamgmm.utils.phases import reading
from streamgmm.utils.row_random import row_keys

Array = NDArray[np.float64]

SPREAD = "kmeans||"
"""The value of `init_params` of a mixture that stands for all this."""
ROUNDS = 5


Drawn = tuple[Draw, ...]


def _draw_chunk(centres: tuple[Centres, ...], size: int, seeds: tuple[int, ...], chunk: Chunk) -> Drawn:
    rows, weight = chunk.load()
    drawn = []
    for one, seed in zip(centres, seeds, strict=True):
        try:
            _, distance = one.assign(rows)
        except NonFiniteRowError as error:
            raise non_finite(rows, error.row, chunk) from None
        chance = distance if weight is None else distance * weight
        possible = np.flatnonzero(chance > 0)
        numbers, log_u = row_keys(chunk, len(rows), seed)
        chance = chance[possible]
        drawn.append(largest(log_u[possible] / chance, numbers[possible], rows[possible], chance, size))
    return tuple(drawn)


def _merge(size: int, a: Drawn, b: Drawn) -> Drawn:
    return tuple(merge_draws(size, left, right) for left, right in zip(a, b, strict=True))


def kmeans_parallel(
    source: Source,
    executor: Executor,
    first: Array,
    K: int,
    rng: np.random.RandomState,
    *,
    rounds: int = ROUNDS,
    fewest: int = 0,
) -> tuple[list[Array], int]:
    """Starting centres by k-means‖ (Bahmani et al. 2012): (K, D) for each start, and the passes this took.

    Each of `rounds` passes adds 2 K rows, drawn with chances proportional to the squared distance from the
    candidates so far; one more pass counts the rows nearest to each, and weighted k-means leaves K of them. The draw
    is without replacement by keys log(u) / chance (Efraimidis & Spirakis 2006), where u depends on seed and row number
    only: no pass is needed to find the normalising sum, and chunking and threads do not matter. All starts share the
    passes.

    Parameters
    ----------
    first : (starts, D)
        The first candidate of each start, in the units of the data.
    fewest : int
        Rows below which a centre gives way to one more for the largest cluster; see
        `em.initialization.methods.without_splinters`.
    """
    candidates = [row[None].astype(np.float64) for row in first]
    size = 2 * K
    for _ in range(rounds):
        centres = tuple(Centres(points, row) for points, row in zip(candidates, first, strict=True))
        seeds = tuple(int(rng.randint(2**31 - 1)) for _ in first)
        task = within(source, partial(_draw_chunk, centres, size, seeds))
        with reading(source, "drawing centres"):
            drawn = executor.run(task, source.chunks(), partial(_merge, size))
        candidates = [np.concatenate([points, draw.rows]) for points, draw in zip(candidates, drawn, strict=True)]
    centres = tuple(Centres(points, row) for points, row in zip(candidates, first, strict=True))
    with reading(source, "weighing centres"):
        counts = executor.run(within(source, partial(e_step, centres)), source.chunks(), merge_all)
    chosen = [_reclustered(points, stats, K, rng, fewest) for points, stats in zip(candidates, counts, strict=True)]
    return chosen, rounds + 1


def _reclustered(candidates: Array, stats: LloydStats, K: int, rng: np.random.RandomState, fewest: int) -> Array:
    """(K, D) of the candidates by k-means, each as heavy as the rows nearest to it, of which there are `stats`."""
    kept = stats.mass > 0
    candidates, mass = candidates[kept], stats.mass[kept] * (stats.rows / stats.count)
    if len(candidates) <= K:
        return np.concatenate([candidates, np.repeat(candidates[:1], K - len(candidates), axis=0)])
    from sklearn.cluster import KMeans

    shown = _shown(candidates, mass)
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = KMeans(K, n_init=5, random_state=rng.randint(2**31 - 1)).fit(shown, sample_weight=mass)
    within = stats.inertia / stats.count
    labels = without_splinters(shown, model.labels_, K, fewest, mass, within=within)
    if labels is model.labels_ and shown is candidates:
        return np.asarray(model.cluster_centers_)
    held = [labels == k if (labels == k).any() else labels == labels[k] for k in range(K)]  # fewer points than K
    return np.stack([np.average(candidates[mine], axis=0, weights=mass[mine]) for mine in held])


def _shown(candidates: Array, mass: Array) -> Array:
    """Candidates as k-means takes them: those far from all others nearer, since it would see one point of the rest."""
    middle = np.median(candidates, axis=0)
    with np.errstate(over="ignore"):
        apart = np.abs(candidates - middle)
        typical = np.array([np.median(column[column > 0]) if column.any() else 1.0 for column in apart.T])
        z = (candidates - middle) / np.where(typical > 0, typical, 1.0)
    if (np.abs(z) <= FARTHEST).all():
        return candidates
    return drawn_in(z, mass)(z) * typical + middle


def spread_out(
    source: Source,
    executor: Executor,
    sample: SampleSummary,
    wanted: Wanted,
    rng: np.random.RandomState,
    *,
    reg_covar: float,
    missing: bool = False,
) -> tuple[list[Mixture], int]:
    """First models of the starts that are wanted, with centres by k-means‖ on whitened rows; and the passes this took.

    Every row belongs to the nearest centre, and the models are made of all rows: groups that the sample does not know
    have their components. All starts share the passes.

    Raises
    ------
    ValueError
        Where entries may be `missing`: rows have no distances then.
    """
    if missing:
        raise ValueError(
            f"init_params={SPREAD!r} measures distances between rows, and missing='marginalize' expects some without "
            "all of their entries. Use init_params='kmeans', which starts on a sample that is completed."
        )
    K, family = wanted.K, wanted.family
    whiten = family.whitener(sample.mean, sample.covariance)
    affine = Affine(sample.mean, whiten(sample.mean + np.eye(len(sample.mean))))
    chance = sample.weight / sample.weight.sum()
    first = affine.apply(sample.rows[rng.choice(len(sample.rows), wanted.n_init, p=chance)])
    centres, passes = kmeans_parallel(
        TransformedSource(source, affine), executor, first, K, rng, fewest=family.least_rows(len(affine.shift))
    )
    task = partial(_labelled_stats, affine, tuple(centres), family, sample.mean if sample.wild else None)
    with reading(source, "initial models"):
        totals = executor.run(task, source.chunks(), merge_all)
    models = [repairing_m_step(stats, reg_covar=reg_covar, reseeds=(0,) * K).model for stats in totals]
    return models, passes + 1


def _labelled_stats(
    affine: Affine, centres: tuple[Array, ...], family: Covariance, origin: Array | None, chunk: Chunk
) -> tuple[Stats, ...]:
    """Statistics of the rows of a chunk, each in the component of the nearest centre, for every set of centres."""
    rows, weight = chunk.load()
    w = np.ones(len(rows)) if weight is None else weight
    z = affine.apply(np.asarray(rows, np.float64))
    return tuple(
        stats_from_responsibilities(rows, w, nearest(z, points), len(points), family, origin) for points in centres
    )
