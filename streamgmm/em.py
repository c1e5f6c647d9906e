"""EM: a chunk becomes statistics, statistics merge, merged statistics become a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.covariance.base import LOG_2PI
from streamgmm.executors import within
from streamgmm.kernels import NonFiniteRowError
from streamgmm.mixture import Mixture
from streamgmm.prior import Conjugate
from streamgmm.rules import Block, Rule
from streamgmm.stats import Stats

Array = NDArray[np.float64]
Models = tuple[Mixture, ...]
Update = Callable[[Models, tuple[Stats, ...], Any], tuple[Models, Any]]


@dataclass(frozen=True, slots=True)
class Step:
    """One block: the models after it, what rule and update remember, and the statistics that led to it."""

    models: Models
    state: Any
    memory: Any
    block: Block
    stats: tuple[Stats, ...]


def em(
    source: Any,
    models: Models,
    *,
    rule: Rule,
    executor: Any,
    update: Update,
    state: Any = None,
    memory: Any = None,
    task: Callable[[Models, Any], tuple[Stats, ...]] | None = None,
) -> Iterator[Step]:
    """Yield one `Step` per block; stop by ceasing to iterate, or when no model is left.

    Parameters
    ----------
    source : Source
    models : tuple of Mixture
        All share every reading of the data.
    rule : Rule
        Which chunks make a block, and how its statistics enter the total; where it gives none, the models are held.
    executor : Executor
    update : callable (models, totals, memory) -> (models, memory)
        The M-step, and whatever is composed with it: acceleration, repair, retirement.
    state, memory :
        As found in an earlier `Step`, to go on from there.
    task : callable (models, chunk) -> statistics, optional
        Instead of `e_step`, where models do not all see the same rows.
    """
    state = rule.init(models, source) if state is None else state
    for block in rule.blocks(source):
        framed = executor.run(within(source, partial(task or e_step, models)), block.chunks, merge_all)
        stats = tuple(model.restore(part) for model, part in zip(models, framed, strict=True))
        state, totals = rule.absorb(state, block, stats)
        if totals is not None:
            models, memory = update(models, totals, memory)
        yield Step(models, state, memory, block, stats)
        if not models:
            return


def e_step(models: Models, chunk: Any) -> tuple[Stats, ...]:
    """Statistics of one chunk under every model, each in its model's own frame (`Mixture.restore` leads back)."""
    models, rows, weight = as_seen(models, chunk)
    try:
        return tuple(model.frame_stats(rows, weight) for model in models)
    except NonFiniteRowError as error:
        raise non_finite(rows, error.row, chunk) from None


def as_seen(models: Models, chunk: Any) -> tuple[Models, Any, Any]:
    """The rows of a chunk, their weights, and the models as they see these rows.

    Where the chunk moves its rows by an affine map that all models can take into their whitening, the rows come as they
    were read and the models as they look through the map: nothing is moved, nothing is copied.
    """
    unmoved = getattr(chunk, "unmoved", None)
    if unmoved is None:
        return models, *chunk.load()
    rows, weight, affine = unmoved()
    views = tuple(view for model in models if (view := model.through(affine)) is not None)
    return (views, rows, weight) if len(views) == len(models) else (models, affine.apply(rows), weight)


def merge_all(a: tuple[Stats, ...], b: tuple[Stats, ...]) -> tuple[Stats, ...]:
    """Merge the statistics of two runs of rows, model by model."""
    return tuple(left.merge(right) for left, right in zip(a, b, strict=True))


def m_step(
    stats: Stats, *, reg_covar: float = 0.0, prior: Conjugate | None = None, previous: Mixture | None = None
) -> Mixture:
    """The mixture that maximises the expected log-likelihood of `stats`, or with a prior the expected log-posterior.

    Parameters
    ----------
    reg_covar : float
        Added to every variance, in squared units of the data.
    prior : Conjugate, optional
    previous : Mixture, optional
        That made `stats`: where the M-step has no closed form its covariances are improved, so that EM climbs.

    Raises
    ------
    CollapsedError
        Where a covariance has no Cholesky factor.
    """
    family = stats.family
    weights, noise = proportions(stats)
    means, covariances = estimates(stats, reg_covar, prior, previous)
    factors, good = family.factor(covariances)
    if not good.all():
        raise CollapsedError(~good)
    return Mixture.trusted(weights, means, covariances, family, factors, noise, stats.observation)


def proportions(stats: Stats) -> tuple[Array, float]:
    """(K,) weights of the components and the weight of the background, together 1."""
    total = stats.weight.sum()
    if stats.observation is None or stats.observation.box is None:
        return stats.weight / total, 0.0
    noise = max(stats.count - total, 0.0)
    return stats.weight / (total + noise), float(noise / (total + noise))


def estimates(
    stats: Stats, reg_covar: float, prior: Conjugate | None, previous: Mixture | None = None
) -> tuple[Array, Array]:
    """Means (K, D) and covariances: maximum likelihood, or with a prior the posterior mode; not yet factored."""
    if prior is None:
        known = None if previous is None else previous.covariances
        return stats.mean, stats.family.estimate(stats, reg_covar, known)
    return prior.estimate(stats, reg_covar)


def objective(model: Mixture, stats: Stats, prior: Conjugate | None = None) -> float:
    """What EM climbs, in nats per row: the mean log-likelihood of `model`, penalised where there is a prior.

    Parameters
    ----------
    model : the mixture that made the responsibilities behind `stats`
    """
    penalty = 0.0 if prior is None else prior.log_density(model)
    return (stats.loglik + penalty) / stats.count


def bound(model: Mixture, stats: Stats) -> float:
    """F = Q + H (Neal & Hinton 1998): expected complete log-likelihood of `stats` under `model`, plus their entropy.

    Equals ``stats.loglik`` where `model` made the statistics, and is below the log-likelihood of the rows otherwise.
    """
    family, present = stats.family, stats.weight > 0
    delta = np.where(present[:, None], stats.mean - model.means, 0.0)
    precisions = family.precisions(model.precisions_cholesky)
    energy = np.sum(precisions * (stats.scatter + family.between(stats.weight, delta)))
    with np.errstate(divide="ignore"):
        log_pi = np.where(present, np.log(model.weights), 0.0)
    K, D = model.means.shape
    const = log_pi - 0.5 * (family.log_det(model.factors, K, D) + D * LOG_2PI)
    value = float(stats.weight @ const - 0.5 * energy + stats.entropy)
    if model.noise_weight > 0.0:
        value += float((stats.count - stats.weight.sum()) * (np.log(model.noise_weight) - model.log_volume))
    return value


class CollapsedError(ValueError):
    """An M-step met covariances without a Cholesky factor; `collapsed` (K,) or (1,) marks them."""

    def __init__(self, collapsed: Any, repairing: bool = False) -> None:
        super().__init__(
            "Fitting the mixture model failed because some components have ill-defined empirical covariance (for "
            "instance caused by singleton or collapsed samples): component(s) "
            f"{np.flatnonzero(collapsed).tolist()}. Try to decrease the number of components, increase reg_covar, or "
            "scale the input data." + ("" if repairing else " on_collapse='repair' replaces such components instead.")
        )
        self.collapsed = collapsed


def non_finite(rows: Any, row: int, chunk: Any) -> ValueError:
    """The error for a row that holds NaN or infinity."""
    infinite = np.isinf(rows[row])
    column = int(np.argmax(infinite if infinite.any() else np.isnan(rows[row])))
    value = rows[row, column]
    start = getattr(chunk, "start", None)
    where = f"row {start + row}" if start is not None else f"row {row} of chunk {getattr(chunk, 'index', 0)}"
    kind = "NaN" if np.isnan(value) else "infinity"
    remedy = (
        "drop or impute such rows, or set missing='marginalize' of a GaussianMixture"
        if kind == "NaN"
        else "drop or clip such rows"
    )
    names = getattr(getattr(chunk, "columns", None), "names", None)
    name = f"column {column}" if names is None else f"column {names[column]!r}"
    return ValueError(f"Input X contains {kind}: {where}, {name}. Expected finite numbers; {remedy}.")
