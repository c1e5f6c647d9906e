"""k-means‖: a start for k-means, and for mixtures, from a few readings of all the data."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from streamgmm.centres import Centres
from streamgmm.em import e_step, merge_all, non_finite
from streamgmm.kernels import NonFiniteRowError
from streamgmm.seeding import _uniform as uniform

Array = NDArray[np.float64]

ROUNDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class _Draw:
    """Rows with the largest keys, in the order of their keys; equal keys (of rows repeated) by position."""

    keys: Array
    numbers: NDArray[np.uint64]
    rows: Array


def _largest(keys: Array, numbers: NDArray[np.uint64], rows: NDArray[Any], size: int) -> _Draw:
    if len(keys) > size:
        keep = np.argpartition(-keys, size - 1)[:size]
        keys, numbers, rows = keys[keep], numbers[keep], rows[keep]
    order = np.lexsort((numbers, -keys))
    return _Draw(keys[order], numbers[order], rows[order].astype(np.float64))


def _draw_chunk(centres: Centres, size: int, seed: int, chunk: Any) -> _Draw:
    rows, weight = chunk.load()
    try:
        _, distance = centres.assign(rows)
    except NonFiniteRowError as error:
        raise non_finite(rows, error.row, chunk) from None
    numbers = np.arange(len(rows), dtype=np.uint64)
    numbers += np.uint64(chunk.start) if chunk.start is not None else np.uint64(chunk.index) << np.uint64(40)
    chance = distance if weight is None else distance * weight
    possible = np.flatnonzero(chance > 0)
    keys = np.log(uniform(seed, numbers[possible])) / chance[possible]
    return _largest(keys, numbers[possible], rows[possible], size)


def _merge_draws(size: int, a: _Draw, b: _Draw) -> _Draw:
    join = np.concatenate
    return _largest(join([a.keys, b.keys]), join([a.numbers, b.numbers]), join([a.rows, b.rows]), size)


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
        drawn = executor.run(partial(_draw_chunk, centres, 2 * K, seed), source.chunks(), partial(_merge_draws, 2 * K))
        if len(drawn.rows) == 0:  # every row is a candidate already
            break
        candidates = np.concatenate([candidates, drawn.rows])
    centres = Centres(candidates, first)
    (stats,) = executor.run(partial(e_step, cast(Any, (centres,))), source.chunks(), merge_all)
    kept = stats.mass > 0
    candidates, mass = candidates[kept], stats.mass[kept]
    if len(candidates) <= K:
        return np.concatenate([candidates, np.repeat(candidates[:1], K - len(candidates), axis=0)]), readings
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = KMeans(K, n_init=5, random_state=rng.randint(2**31 - 1)).fit(candidates, sample_weight=mass)
    return np.asarray(model.cluster_centers_), readings
