"""`describe`: what each component is like and what sets it apart, in the units of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from streamgmm.errors import NonFiniteRowError, non_finite
from streamgmm.estimators.fitted import Fitted
from streamgmm.estimators.projection import ProjectedMixture, Projection
from streamgmm.estimators.reader import data_of, executor_of
from streamgmm.mixture.mixture import Mixture
from streamgmm.report.description import Description, Observed, description_of
from streamgmm.report.view import feature_moments
from streamgmm.runtime.executors import Executor, Threads, within
from streamgmm.sources import open_source
from streamgmm.sources.base import Chunk, Readable
from streamgmm.sources.summaries.reservoir import Draw, largest, merge_draws
from streamgmm.utils.phases import reading
from streamgmm.utils.row_random import row_keys

if TYPE_CHECKING:
    from streamgmm.estimators.mixture_estimator import MixtureEstimator

__all__ = ["Description", "describe"]

Array = NDArray[np.float64]

SAMPLE_ROWS = 20_000
BLOCK = 16_384
"""Rows whose responsibilities are in memory at a time."""


def describe(
    gm: MixtureEstimator,
    X: Readable = None,
    sample_weight: ArrayLike | None = None,
    *,
    feature_names: Sequence[str] | None = None,
) -> Description:
    """Description of each component, and the features that set it apart from the others.

    Sizes, typical rows, ranges and contrasts follow from the parameters exactly, without a pass over the data. With X,
    one pass counts the rows of each component; ranges (exact up to 20,000 rows, from a sample of them beyond) and the
    most typical row of each component come from the data.

    Parameters
    ----------
    gm : fitted GaussianMixture or BayesianGaussianMixture, or a Mixture
        Of a Bayesian mixture the components in use are described. After principal components (`project`) the features
        are those of the data, so far as the components explain them.
    X : array-like (N, D), a path, or a source, optional
    sample_weight : (N,), optional
    feature_names : D names, optional
        By default those of the fit.

    Returns
    -------
    Description
        `.table`, `.to_frame()`, `.plot()`; `str()` gives a sentence or two for each component.

    Raises
    ------
    TypeError
        For what is no fitted mixture.

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal([30, 5], [2, 1], (300, 2)), rng.normal([60, 5], [4, 1], (100, 2))])
    >>> print(sg.describe(sg.GaussianMixture(2, random_state=0).fit(X), X, feature_names=["age", "size"]))
    Component 0 holds 75.0 % of the rows (about 300). Compared with the rest, age is lower (29.8 against 59.9).
    Component 1 holds 25.0 % of the rows (about 100). Compared with the rest, age is higher (59.9 against 29.8).
    """
    model, projection = _parts(gm)
    means, variances = feature_moments(model, projection)
    deviations = np.sqrt(np.maximum(variances, 0.0))
    names = _names(gm, means.shape[1], feature_names)
    which = np.asarray(getattr(gm, "components_in_use_", np.arange(len(means))), np.int64)
    total = getattr(gm, "report_", {}).get("weight") if X is None else None
    seen = None if X is None else _observed(gm, model, projection, which, X, sample_weight)
    return description_of(model.weights, means, deviations, names, components=which, total=total, observed=seen)


def _parts(gm: MixtureEstimator) -> tuple[Mixture, Projection | None]:
    if isinstance(gm, Mixture):
        return gm, None
    if not isinstance(gm, Fitted):
        raise TypeError(
            f"describe: expected a fitted GaussianMixture, BayesianGaussianMixture or a Mixture; got "
            f"{type(gm).__name__}. Of a Selection describe .best, of an OutlierDetector .estimator_, of a Pipeline its "
            "last step."
        )
    check_is_fitted(gm)
    return gm.mixture_, gm.projection_


def _names(gm: MixtureEstimator, D: int, given: Sequence[str] | None) -> list[str]:
    known = getattr(gm, "feature_names_in_", None) if given is None else given
    if known is None:
        return [f"x{j}" for j in range(D)]
    if len(known) != D:
        raise ValueError(f"feature_names: expected {D} names, one for each feature; got {len(known)}.")
    return [str(name) for name in known]


# With data ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Statistics of some rows: (K,) weights of the components, rows of positive weight, and a sample of them."""

    shares: Array
    n_rows: int
    draw: Draw


def _observed(
    gm: MixtureEstimator,
    model: Mixture,
    projection: Projection | None,
    which: NDArray[np.int64],
    X: Readable,
    weight: ArrayLike | None,
) -> Observed:
    if isinstance(gm, Mixture):
        source = open_source(X, weight=weight)
        executor: Executor = Threads()
    else:
        source = data_of(gm, X, weight)
        executor = executor_of(gm, source)
    asked = model if projection is None else ProjectedMixture(model, projection)
    task = within(source, partial(_look, asked.responsibilities, model.n_components))
    with reading(source, "counting rows"):
        part: _Part = executor.run(task, source.chunks(), _merge)
    if not part.n_rows:
        raise ValueError("describe: X has no rows of positive weight. Expected at least one.")
    return _seen(part, asked, which)


def _look(responsibilities: Callable[[Any], Array], K: int, chunk: Chunk) -> _Part:
    rows, weight = chunk.load()
    w = np.ones(len(rows)) if weight is None else weight
    kept = np.flatnonzero(w > 0)
    numbers, log_u = row_keys(chunk, len(rows), 0)
    shares = np.zeros(K)
    for start in range(0, len(kept), BLOCK):
        block = kept[start : start + BLOCK]
        try:
            shares += w[block] @ responsibilities(rows[block])[:, :K]
        except NonFiniteRowError as error:
            raise non_finite(rows, int(block[error.row]), chunk) from None
    draw = largest(log_u[kept] / w[kept], numbers[kept], rows[kept], w[kept], SAMPLE_ROWS)
    return _Part(shares, len(kept), draw)


def _merge(a: _Part, b: _Part) -> _Part:
    return _Part(a.shares + b.shares, a.n_rows + b.n_rows, merge_draws(SAMPLE_ROWS, a.draw, b.draw))


def _seen(part: _Part, asked: Any, which: NDArray[np.int64]) -> Observed:
    rows, numbers = part.draw.rows, part.draw.numbers
    complete = part.n_rows == len(rows)
    w = part.draw.weight if complete else np.ones(len(rows))
    resp, log_prob = asked.responsibilities(rows), asked.log_prob(rows)
    label = resp.argmax(axis=1)
    whole = ~np.isnan(rows).any(axis=1)
    C, D = len(which), rows.shape[1]
    low, high, examples = np.full((3, C, D), np.nan)
    example_rows = np.full(C, -1, np.int64)
    for j in range(D):
        low[:, j], high[:, j] = quantiles(rows[:, j], w[:, None] * resp[:, which], (0.05, 0.95))
    for c, k in enumerate(which):
        mine = np.flatnonzero(whole & (label == k))
        if len(mine):
            best = mine[np.argmax(log_prob[mine] + np.log(resp[mine, k]))]
            examples[c] = rows[best]
            example_rows[c] = numbers[best] if numbers[best] < np.uint64(1) << np.uint64(40) else -1
    return Observed(part.shares[which], low, high, examples, example_rows, part.n_rows, len(rows))


def quantiles(values: Array, weights: Array, levels: Sequence[float]) -> Array:
    """(L, C) quantiles of values (m,) under each column of weights (m, C); NaN where nothing was observed.

    The smallest observed value up to which the share `level` of the weight lies: with equal weights NumPy's
    "inverted_cdf".
    """
    seen = ~np.isnan(values)
    order = np.flatnonzero(seen)[np.argsort(values[seen], kind="stable")]
    found = np.full((len(levels), weights.shape[1]), np.nan)
    below = np.cumsum(weights[order], axis=0)
    for c in range(weights.shape[1]) if len(order) else ():
        if below[-1, c] > 0:
            at = np.searchsorted(below[:, c], np.asarray(levels) * below[-1, c] * (1.0 - 1e-12))
            found[:, c] = values[order[np.minimum(at, len(order) - 1)]]
    return found
