"""k-means‖: a start for k-means, and for mixtures, from a few readings of all the data."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from streamgmm.centres import Centres
from streamgmm.draws import Draw, largest, merge_draws, row_keys
from streamgmm.em import e_step, merge_all, non_finite
from streamgmm.executors import one_thread
from streamgmm.kernels import NonFiniteRowError

Array = NDArray[np.float64]

ROUNDS = 5


def _draw_chunk(centres: Centres, size: int, seed: int, chunk: Any) -> Draw:
    rows, weight = chunk.load()
    try:
        _, distance = centres.assign(rows)
    except NonFiniteRowError as error:
        raise non_finite(rows, error.row, chunk) from None
    chance = distance if weight is None else distance * weight
    possible = np.flatnonzero(chance > 0)
    numbers, log_u = row_keys(chunk, len(rows), seed)
    chance = chance[possible]
    return largest(log_u[possible] / chance, numbers[possible], rows[possible], chance, size)


def kmeans_parallel(
    source: Any, executor: Any, first: Array, K: int, rng: np.random.RandomState, *, rounds: int = ROUNDS
) -> tuple[Array, int]:
    """Starting centres by k-means‖ (Bahmani et al. 2012): (K, D), and the readings of the data this took.

    Each of `rounds` readings adds 2 K rows, drawn with chances proportional to the squared distance from the
    candidates so far; one more reading counts the rows nearest to each, and weighted k-means leaves K of them. The draw
    is without replacement by keys log(u) / chance (Efraimidis & Spirakis 2006), where u depends on seed and row number
    only: no reading is needed to find the normalising sum, and chunking and threads do not matter.

    Parameters
    ----------
    first : (D,)
        The first candidate, in the units of the data.
    """
    candidates = first[None].astype(np.float64)
    readings = 1
    for _ in range(rounds):
        readings += 1
        centres = Centres(candidates, first)
        seed = int(rng.randint(2**31 - 1))
        drawn = executor.run(partial(_draw_chunk, centres, 2 * K, seed), source.chunks(), partial(merge_draws, 2 * K))
        if len(drawn.rows) == 0:  # every row is a candidate already
            break
        candidates = np.concatenate([candidates, drawn.rows])
    centres = Centres(candidates, first)
    (stats,) = executor.run(partial(e_step, cast(Any, (centres,))), source.chunks(), merge_all)
    kept = stats.mass > 0
    candidates, mass = candidates[kept], stats.mass[kept]
    if len(candidates) <= K:
        return np.concatenate([candidates, np.repeat(candidates[:1], K - len(candidates), axis=0)]), readings
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = KMeans(K, n_init=5, random_state=rng.randint(2**31 - 1)).fit(candidates, sample_weight=mass)
    return np.asarray(model.cluster_centers_), readings
