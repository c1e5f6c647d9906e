"""Sufficient statistics of a mixture: the value that chunks become, and its algebra."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.kernels.plain.own_mean import squarable
from streamgmm.mixture.covariance.base import AnyPlan, AnySums, Covariance
from streamgmm.mixture.observation import Observation
from streamgmm.mixture.parameters import Questions
from streamgmm.utils.affine import Affine
from streamgmm.utils.types import RandomState

Array = NDArray[np.float64]


class MixtureLike(Questions, Protocol):
    """Members of `Mixture`, for type checkers only: the module of that class imports this one."""

    @property
    def n_parameters(self) -> int: ...

    @property
    def precisions_cholesky(self) -> Array: ...

    def accumulate(self, X: ArrayLike, sample_weight: ArrayLike | None = None) -> Stats: ...

    def frame_stats(self, rows: NDArray[Any], weight: Array | None = None) -> Stats: ...

    def restore(self, stats: Stats) -> Stats: ...

    def through(self, affine: Affine) -> Self | None: ...

    def log_prob(self, X: ArrayLike) -> Array: ...

    def labels(self, X: ArrayLike) -> NDArray[np.int64]: ...

    def moments(self) -> tuple[Array, Array]: ...

    def sample(self, n_samples: int = 1, random_state: RandomState = None) -> tuple[Array, NDArray[np.int64]]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Stats:
    """Expected sufficient statistics of N rows under K components, centred, in float64.

    A monoid under `merge`, with a scale. There is no subtraction: what was added cannot be taken out again without
    losing digits.

    Attributes
    ----------
    weight : (K,) total responsibility of each component, in rows.
    mean : (K, D) responsibility-weighted means, in the units of the data; zeros for a component without weight.
    scatter : sum of r (x - mean)(x - mean)^T: full (K, D, D), tied (D, D) pooled, diag (K, D), spherical (K,) summed
        over features. Not divided by the weight.
    loglik : sum of w log p(x), in nats, under the mixture that made the responsibilities.
    entropy : -sum of w r log r, in nats; with missing entries, plus the entropy of what was integrated out.
    log_max : sum of w log max_k r, in nats (the ICL penalty is -2 log_max).
    count : sum of the sample weights w.
    rows : number of rows with positive weight.
    family : the covariance family, which knows the shape of `scatter`.
    observation : None, or how the mixture treats background and missing entries. With a background its mass is
        `count` less the sum of `weight`.
    dropped : number of rows of positive weight with nothing observed; they are in none of the sums.

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> one = sg.Mixture([1.0], [[0.0]], [1.0], "spherical")
    >>> stats = one.accumulate(np.array([[1.0], [3.0]]))
    >>> float(stats.mean[0, 0]), stats.rows, float(stats.maximize().covariances[0])
    (2.0, 2, 1.0)
    """

    weight: Array
    mean: Array
    scatter: Array
    loglik: float
    entropy: float
    log_max: float
    count: float
    rows: int
    family: Covariance
    observation: Observation | None = None
    dropped: int = 0
    _m_step: ClassVar[Callable[..., MixtureLike]]
    """`streamgmm.mixture.m_step.m_step`, which the package sets: that module imports this one."""

    @classmethod
    def zeros(cls, family: Covariance, n_components: int, n_features: int) -> Stats:
        """The neutral element of `merge`.

        Examples
        --------
        >>> import streamgmm as sg
        >>> stats = sg.Mixture([1.0], [[0.0]], [1.0], "spherical").accumulate([[3.0]])
        >>> float(sg.Stats.zeros(stats.family, 1, 1).merge(stats).mean[0, 0])
        3.0
        """
        K, D = n_components, n_features
        scatter = np.zeros(family.scatter_shape(K, D))
        return cls(np.zeros(K), np.zeros((K, D)), scatter, 0.0, 0.0, 0.0, 0.0, 0, family)

    def merge(self, other: Stats) -> Stats:
        """Statistics of both sets of rows together (Chan, Golub & LeVeque 1983, eq. 2.1, per component).

        Raises
        ------
        ValueError
            Where they have another shape, or are of another kind of covariances.

        Examples
        --------
        >>> import streamgmm as sg
        >>> one = sg.Mixture([1.0], [[0.0]], [1.0], "spherical")
        >>> one.accumulate([[1.0]]).merge(one.accumulate([[3.0]])).scatter  # (1 - 2)^2 + (3 - 2)^2
        array([2.])
        """
        if self.mean.shape != other.mean.shape or not self._same_kind(other):
            raise ValueError(
                f"merge: expected statistics of one shape (K, D) and one kind of covariances; got {self.mean.shape} of "
                f"{self.family.name!r} and {other.mean.shape} of {other.family.name!r}. Accumulate both with one "
                "mixture."
            )
        weight = self.weight + other.weight
        share = np.divide(other.weight, weight, out=np.zeros_like(weight), where=weight > 0)[:, None]
        delta = other.mean - self.mean
        mean = np.where(self.weight[:, None] > 0, self.mean + share * delta, other.mean)
        scatter = self.family.merged_scatter(self, other, self.weight * share[:, 0], squarable(delta))
        return Stats(
            weight,
            mean,
            scatter,
            self.loglik + other.loglik,
            self.entropy + other.entropy,
            self.log_max + other.log_max,
            self.count + other.count,
            self.rows + other.rows,
            self.family,
            self.observation or other.observation,
            self.dropped + other.dropped,
        )

    def _same_kind(self, other: Stats) -> bool:
        a, b = self.family, other.family
        return a is b or a.unconstrained is b.unconstrained

    def scaled(self, factor: float) -> Stats:
        """Statistics of the same rows with every sample weight times `factor` >= 0.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.Mixture([1.0], [[0.0]], [1.0], "spherical").accumulate([[1.0], [3.0]]).scaled(0.5).weight
        array([1.])
        """
        return Stats(
            self.weight * factor,
            self.mean,
            self.scatter * factor,
            self.loglik * factor,
            self.entropy * factor,
            self.log_max * factor,
            self.count * factor,
            self.rows,
            self.family,
            self.observation,
            self.dropped,
        )

    def blend(self, other: Stats, rate: float) -> Stats:
        """(1 - rate) self + rate other: the stochastic approximation step (Cappe & Moulines 2009, eq. 13).

        Examples
        --------
        >>> import streamgmm as sg
        >>> one = sg.Mixture([1.0], [[0.0]], [1.0], "spherical")
        >>> one.accumulate([[1.0]]).blend(one.accumulate([[3.0]]), 0.25).mean
        array([[1.5]])
        """
        return self.scaled(1.0 - rate).merge(other.scaled(rate))

    def maximize(self, reg_covar: float = 0.0) -> MixtureLike:
        """The mixture that maximises the expected log-likelihood: the exact M-step.

        Parameters
        ----------
        reg_covar : float, >= 0
            Added to every variance, in squared units of the data.

        Returns
        -------
        Mixture

        Examples
        --------
        >>> import streamgmm as sg
        >>> best = sg.Mixture([1.0], [[0.0]], [1.0], "spherical").accumulate([[1.0], [3.0]]).maximize()
        >>> best.means, best.covariances
        (array([[2.]]), array([1.]))
        """
        return self._m_step(reg_covar=reg_covar)


def stats_from_sums(family: Covariance, sums: AnySums, plan: AnyPlan) -> Stats:
    """Centred statistics from the raw sums of one kernel run under `plan`, in its frame; see `Covariance.moments`."""
    first, *others = family.moments(sums, plan)
    loglik, entropy, log_max, count, rows = sums.totals.tolist()
    total = Stats(*first, loglik, entropy, log_max, count, int(rows), family)
    for part in others:
        total = total.merge(Stats(*part, 0.0, 0.0, 0.0, 0.0, 0, family))
    return total


def in_units(stats: Stats, means: Array, spread: Array) -> Stats:
    """Statistics in the units of the data, from those in a frame (`spread` as in `Mixture.frame`), whose means are less
    the components' own `means`, (K, D) in the units of the data."""
    with np.errstate(over="ignore", invalid="ignore"):  # variances beyond doubles: see `repair`
        moved = stats.mean * spread if spread.ndim == 1 else stats.mean @ spread.T
        scatter = stats.family.spread_scatter(stats.scatter, spread)
    return replace(stats, mean=moved + means, scatter=scatter)


def merge(a: Stats, b: Stats) -> Stats:
    """Statistics of two sets of rows together; see `Stats.merge`.

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> one = sg.Mixture([1.0], [[0.0]], [1.0], "spherical")
    >>> both = sg.merge(one.accumulate(np.array([[1.0]])), one.accumulate(np.array([[3.0]])))
    >>> float(both.mean[0, 0]), both.rows
    (2.0, 2)
    """
    return a.merge(b)
