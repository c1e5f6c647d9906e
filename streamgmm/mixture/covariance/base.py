"""Interface of a covariance family: shapes, factors, estimates, and how it is laid out for the kernels.

A family is an object chosen once, where a string enters (`streamgmm.mixture.covariance.family`). Arrays: full (K, D,
D), tied (D, D), diag (K, D), spherical (K,), as in scikit-learn. A *frame* is an affine map z = A (x - m) under which
the overall covariance of the mixture is about the identity; `spread` is the inverse of A (lower triangular or (D,)
scales).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels import dispatch
from streamgmm.kernels.plain.factor import FactorPlan, FactorSums
from streamgmm.kernels.plain.own_mean import Own
from streamgmm.kernels.plan import Family, Plan, Sums

Array = NDArray[np.float64]

AnyPlan = Plan | FactorPlan
AnySums = Sums | FactorSums
"""Arguments of the kernels from a family, and their results."""

LOG_2PI = math.log(2 * math.pi)
EPS = float(np.finfo(np.float64).eps)


def log_weights(weights: Array) -> Array:
    """log pi, with a finite floor: -inf times the zero padding of a block would be NaN."""
    if weights.min() > 0:
        return np.log(weights)
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(weights), -1e300)


def shares(weights: Array) -> Array:
    """Weights that sum to 1, whatever part a background takes; equal ones where it takes all."""
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(weights), 1.0 / len(weights))


@cache
def packed_indices(D: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of a packed lower triangle, in the kernels' order (0, 0), (1, 0), (1, 1), (2, 0), ..."""
    return np.tril_indices(D)


@cache
def square_indices(D: int) -> NDArray[np.intp]:
    """(D^2,) where in a packed lower triangle each entry of the whole symmetric matrix stands."""
    i, j = packed_indices(D)
    found = np.empty((D, D), np.intp)
    found[i, j] = found[j, i] = np.arange(len(i))
    return found.ravel()


def means_of(first: Array, weight: Array) -> Array:
    if weight.min() > 0:
        return first / weight[:, None]
    return np.divide(first, weight[:, None], out=np.zeros_like(first), where=weight[:, None] > 0)


OFFSET = 1e5
"""Distance of a mean from the origin of a frame, in its component's deviations, up to which the frame serves it: an
error of 1e-10 nats."""


LARGEST = 1e300
"""Coordinates of a mean beyond this in a frame count as this."""


MIDST = 4e3
"""Scales of a frame within which a row may be taken in it."""


def within_reach(seen: Array) -> Array:
    """(K,) factors <= 1 that bring means at seen (K, D) deviations so near that the squares stay finite.

    A component at 1e140 of its own deviations has no share of any row near the origin, however far it is.
    """
    return np.minimum(1.0, 1e140 / np.maximum(np.nan_to_num(np.abs(seen)).max(axis=1), 1.0))


def bulk(share: Array, means: Array, variances: Array, limit: float, *, exact: bool = False) -> NDArray[np.bool_]:
    """(K,) mask of the components of largest weight that can share one scale; never empty.

    Around one of them all means lie within `limit` of its deviations, and no deviation is larger than that. That one is
    not itself so much wider than half of the weight.

    Parameters
    ----------
    exact : bool
        They are to share one origin too: means also lie within `limit` of their own deviations, and nothing narrow lies
        in the midst of a wide one, where rows are not far enough to be taken otherwise.
    """
    deviation = np.sqrt(np.where(np.isfinite(variances), np.maximum(variances, 0.0), np.inf))
    order = np.argsort(deviation, axis=0, kind="stable")
    half = (np.cumsum(share[order], axis=0) < 0.5).sum(axis=0).clip(max=len(share) - 1)
    median = np.take_along_axis(deviation, np.take_along_axis(order, half[None], axis=0), axis=0)[0]
    best, most = np.zeros(len(share), bool), -1.0
    with np.errstate(over="ignore", invalid="ignore"):
        for b in np.argsort(-share, kind="stable"):
            apart = np.abs(means - means[b])
            least = np.where(apart > 0, apart, np.inf).min(axis=0)
            scale = np.where(deviation[b] > 0, deviation[b], np.where(np.isfinite(least), least, 0.0))
            near = ((apart <= limit * scale) & (deviation <= limit * scale)).all(axis=1)
            if exact:
                own = (apart <= limit * deviation).all(axis=1)
                within = (apart <= MIDST * scale).all(axis=1)
                near &= own
                near[b] = True
                if (within & ~own & ~near).any():
                    continue
            elif ((median > 0) & (deviation[b] > limit * median)).any():
                continue
            near[b] = True
            if share[near].sum() > most * (1.0 + 1e-9):
                best, most = near, share[near].sum()
            if near.all():
                break
    if not best.any():
        best[np.argmin(deviation.max(axis=1))] = True
    return best


class WeightedMoments(Protocol):
    """Moments that a covariance is estimated from: `streamgmm.mixture.stats.Stats` has them, and `ComponentMoments`."""

    @property
    def weight(self) -> Array: ...

    @property
    def mean(self) -> Array: ...

    @property
    def scatter(self) -> Array: ...


class ComponentMoments(NamedTuple):
    """Weight (K,), mean (K, D) and scatter of rows about it, component by component; see `Stats`."""

    weight: Array
    mean: Array
    scatter: Array


class Framed(NamedTuple):
    """A mixture in its frame.

    Attributes
    ----------
    spread, whiten : the way from the frame, and to it
    mu : (K, D) means
    inner : what whitens a row against a component: upper triangles of precisions, or reciprocal deviations
    quadratic, linear : (K, ...) coefficients of the features of log p
    size : (K,) norms of the precisions
    """

    spread: Array
    whiten: Array
    mu: Array
    inner: Array
    quadratic: Array
    linear: Array
    size: Array


class Covariance(ABC):
    """One covariance family. Subclasses are final and have one instance each, so `is` compares families."""

    name: str
    """Of the family and all that belongs to it; one that can be read back."""
    kernel: Family
    n_factors: int = 0
    """Columns of the loadings; 0 for all but factor analysers."""
    shared: bool = False
    """Whether the covariance of a component depends on the rows of the others."""
    has_prior: bool = True
    """Whether there is a conjugate prior: mclust has one for ten of its fourteen structures."""

    @property
    def covariance_type(self) -> str:
        """Name by which an estimator calls it; with `n_factors` this names the family."""
        return self.name

    def __repr__(self) -> str:
        return f"<{self.name} covariance>"

    def __reduce__(self) -> tuple[Callable[..., Covariance], tuple[Any, ...]]:
        return by_name, (self.name,)

    # Shapes and counts ------------------------------------------------------------------------------------------

    @abstractmethod
    def shape(self, K: int, D: int) -> tuple[int, ...]:
        """Shape of the covariances."""

    def scatter_shape(self, K: int, D: int) -> tuple[int, ...]:
        """Shape of the scatter in `Stats`."""
        return self.shape(K, D)

    @abstractmethod
    def n_parameters(self, K: int, D: int) -> int:
        """Free parameters of the covariances alone."""

    def least_rows(self, D: int) -> int:
        """Rows that it takes to span a covariance."""
        return D + 1

    def check_features(self, D: int) -> None:
        """Raise ValueError where the family does not exist in D dimensions; most do everywhere."""
        return

    # Statistics -------------------------------------------------------------------------------------------------

    def merged_scatter(self, a: WeightedMoments, b: WeightedMoments, moved: Array, delta: Array) -> Array:
        """Scatter of the rows of `a` and `b` together, whose means are delta (K, D) apart; see `Stats.merge`."""
        scatter = a.scatter + b.scatter
        scatter += self.between(moved, delta)
        return scatter

    @abstractmethod
    def between(self, weight: Array, delta: Array) -> Array:
        """Scatter of means that lie delta (K, D) apart, with weights (K,): sum w delta delta^T in this family."""

    @abstractmethod
    def spread_scatter(self, scatter: Array, spread: Array) -> Array:
        """The scatter of x = m + spread z, given that of z."""

    @abstractmethod
    def scatter_from_features(self, sums: Sums, weight: Array, mean: Array) -> Array:
        """Scatter about `mean` from the raw sums of the feature form."""

    def scatter_from_moments(self, second: Array, mass: Array, shift: Array) -> Array:
        """Scatter about mu + shift, from moments about mu, as the centred form makes them."""
        return second - self.between(mass, shift)

    sums: ClassVar[staticmethod[..., AnySums]] = staticmethod(dispatch.run)
    """(plan, rows, weight, ...) -> sums: the E-step over rows under what `plan` made, for `moments`."""

    def moments(self, sums: AnySums, plan: AnyPlan) -> list[ComponentMoments]:
        """Centred moments from the raw sums of one kernel run under `plan`, in its frame; of each form that took rows.

        Means are less the components' own: a mean far away would round what the scatter is about.
        """
        assert isinstance(sums, Sums)
        D = self._n_features(sums)
        weight = sums.feature[:, -1].copy()
        mean = means_of(sums.feature[:, -1 - D : -1], weight)
        scatter = self.scatter_from_features(sums, weight, mean)
        mean = np.where(weight[:, None] > 0, mean - plan.means, 0.0)
        found = [ComponentMoments(weight, mean, scatter)]
        if sums.centred is not None:
            _, mass, first, second = sums.centred
            shift = means_of(first, mass)
            scatter = self.scatter_from_moments(second, mass, shift)
            found.append(ComponentMoments(mass, shift, scatter))
        if sums.own is not None:
            mass, shift, second = sums.own
            scatter = self.scatter_from_moments(second, mass, np.zeros_like(shift))
            found.append(ComponentMoments(mass, shift, scatter))
        return found

    @abstractmethod
    def _n_features(self, sums: Sums) -> int: ...

    # Parameters -------------------------------------------------------------------------------------------------

    @property
    def unconstrained(self) -> Covariance:
        """The family with the same arrays whose components share nothing but what its name says."""
        return self

    def constrained(self, covariances: Array, weights: Array, D: int) -> Array:
        """The covariances of this family nearest to given ones: the M-step of rows that have these."""
        return covariances

    def estimate(self, stats: WeightedMoments, reg_covar: float, previous: Array | None = None) -> Array:
        """Maximum likelihood covariances, plus `reg_covar` on the diagonal. Components without weight get NaN.

        Where the maximum has no closed form, `previous` covariances are improved.
        """
        D = stats.mean.shape[1]
        return self.mode(stats.scatter, self.divisor(stats.weight, D), reg_covar, D)

    def mode(self, scatter: Array, divisor: Array, reg_covar: float, D: int) -> Array:
        """Covariances of largest density given scatters and what these are divided by, as `divisor` shapes it.

        scatter / divisor, plus `reg_covar` on the diagonal, unless components are tied; NaN where the divisor is 0.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.add_to_diagonal(scatter / divisor, reg_covar)

    @abstractmethod
    def add_to_diagonal(self, covariances: Array, value: float) -> Array:
        """The covariances with `value` added to every variance."""

    @abstractmethod
    def divisor(self, weight: Array, D: int) -> Array:
        """Divisor of a scatter of components with `weight` (K,) rows, shaped to broadcast against it."""

    @abstractmethod
    def factor(self, covariances: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Cholesky factors (lower triangular, or deviations) and a mask of the components that have one."""

    @abstractmethod
    def precisions_cholesky(self, factors: Array) -> Array:
        """scikit-learn's `precisions_cholesky_`: upper triangular U, U U^T = precision, or reciprocal deviations."""

    @abstractmethod
    def precisions(self, precisions_cholesky: Array) -> Array:
        """Precisions from their Cholesky factors."""

    @abstractmethod
    def covariances_from_precisions(self, precisions: Array) -> Array:
        """Inverse of `precisions`, in the family's shape."""

    @abstractmethod
    def dense(self, covariances: Array, K: int, D: int) -> Array:
        """The covariances as (K, D, D), whatever the family."""

    @abstractmethod
    def log_det(self, factors: Array, K: int, D: int) -> Array:
        """(K,) log determinants of the covariances, from their factors."""

    # Conjugate prior --------------------------------------------------------------------------------------------

    @abstractmethod
    def prior_scale(self, scale: Array, D: int) -> Array:
        """A prior scale given as a number, (D,) or (D, D), in the shape of one component of this family.

        Raises
        ------
        ValueError
            Where the family has no room for that shape.
        """

    @abstractmethod
    def default_scale(self, covariance: Array, K: int) -> Array:
        """mclust's default scale: the overall covariance (D, D), or its mean variance, shared out among K volumes."""

    @abstractmethod
    def prior_exponent(self, dof: float, K: int, D: int) -> float:
        """Term that the prior adds to the divisor of a covariance (twice the exponent of 1/|covariance|)."""

    def prior_share(self, K: int) -> float:
        """The part of the prior scale that each of the K scatters takes: 1 / K where they share one covariance."""
        return 1.0

    @abstractmethod
    def log_kernel(self, scatter: Array, exponent: float, covariances: Array, factors: Array) -> float:
        """-(exponent log |covariance| + tr(scatter covariance^-1)) / 2, summed over components; no constants."""

    # Missing entries --------------------------------------------------------------------------------------------

    @abstractmethod
    def marginal(self, covariances: Array, features: NDArray[np.int64]) -> Array:
        """Covariances of some of the features."""

    @abstractmethod
    def lift(self, covariances: Array, o: NDArray[np.int64], spread_o: Array, spread: Array) -> tuple[Array, Array]:
        """Map from the statistics of observed features `o` to those of all.

        Returns
        -------
        The linear map of E[x | x_o] - mean, and Cov[x | x_o], both between frames: from that of the marginal, with
        `spread_o`, to that of the whole mixture, with `spread`.
        """

    @abstractmethod
    def lifted(
        self,
        weight: Array,
        delta: Array,
        scatter: Array,
        lift: tuple[Array, Array],
        o: NDArray[np.int64],
        means: Array,
    ) -> tuple[Array, Array]:
        """Mean and scatter over all features, in the frame, from those over the features `o`.

        Parameters
        ----------
        delta : (K, d) mean of the rows less the component's mean
        means : (K, D) the component means in the frame
        """

    @abstractmethod
    def for_missing(self, covariances: Array, D: int) -> Array:
        """The covariances as `kernels.missing` takes them: (K, D, D), (1, D, D) or (K, D, 1)."""

    @abstractmethod
    def to_frame(self, first: Array, second: Array, spread: Array) -> tuple[Array, Array]:
        """First and second moments about the means, from the units of the data to the frame."""

    # Queries ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def regression(self, covariances: Array, o: NDArray[np.int64], m: NDArray[np.int64]) -> tuple[Array, Array]:
        """Slopes (K, m, o) of E[x_m | x_o], K = 1 where all components share them, and covariances of x_m given x_o."""

    @abstractmethod
    def pool(self, covariances: Array, weights: Array, share: Array, delta: Array, member: Array) -> Array:
        """Covariances of groups of components, moments preserved as far as the family has room for them.

        Parameters
        ----------
        weights : (K,) of the mixture
        share : (K,) of each component in its group
        delta : (K, D) its mean less that of the group
        member : (G, K) 1 where component k belongs to group g
        """

    # Starts ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def whitener(self, mean: Array, covariance: Array) -> Callable[[NDArray[Any]], Array]:
        """The map of rows (m, D) in which a start is sought, given the overall moments.

        k-means in the units of the data finds useless starts where clusters are elongated or units differ. Whitened for
        full and tied, scaled for diag; spherical is not free to scale features against each other.
        """

    @abstractmethod
    def scatter_of(self, x: Array, resp: Array, mean: Array) -> Array:
        """Scatter of rows x (m, D) with responsibilities (m, K), weights included, about the means (K, D)."""

    # Repair -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def total_scatter(self, scatter: Array, D: int) -> Array:
        """Scatter summed over components: (D, D), or (D,) for the families without cross products."""

    @abstractmethod
    def from_overall(self, overall: Array) -> Array:
        """One component's covariance that equals the overall one: (D, D), or variances (D,) without cross products."""

    @abstractmethod
    def floor(self, covariances: Array, spread: Array, floor: float, which: NDArray[np.bool_]) -> Array:
        """Raise the marked components' eigenvalues below `floor`, in the coordinates that `spread` whitens.

        (D, D) lower triangular, or a column (D, 1) of scales for families without cross products.
        """

    @abstractmethod
    def split(self, covariances: Array, j: int, spread: Array) -> tuple[Array, Array]:
        """Halve component j along its widest direction: the step (D,) to both sides, and the covariance of a half."""

    def replace_component(self, covariances: Array, which: tuple[int, ...], value: Array) -> Array:
        """The covariances with those of the components `which` replaced."""
        covariances = covariances.copy()
        for k in which:
            covariances[k] = value
        return covariances

    # Kernels ----------------------------------------------------------------------------------------------------

    def plan(
        self,
        weights: Array,
        means: Array,
        covariances: Array,
        factors: Array,
        base: float,
        log_factors: Array | None = None,
    ) -> tuple[Plan, Array]:
        """Plan for the kernels, and the `spread` that leads back from their frame.

        `log_factors` (K,) stand before the densities of the components instead of log `weights`.
        """
        K, D = means.shape
        share = shares(weights)
        with np.errstate(over="ignore", invalid="ignore"):
            shift, at = self._frame(share, means, covariances, factors)
            log_pi = log_weights(weights) if log_factors is None else log_factors
            const = log_pi - 0.5 * (self.log_det(factors, K, D) + D * LOG_2PI)
            constant = const - 0.5 * np.einsum("ki,ki->k", at.linear, at.mu)
            coef = np.concatenate([at.quadratic, at.linear, constant[:, None]], axis=1)
            narrow, radius = EPS * at.size, np.sqrt(np.add.reduce(at.mu * at.mu, axis=1))
        own = Own(self.kernel, means, const, lambda: self._roots(factors, K, D), base, at.whiten)
        return Plan(self.kernel, shift, at.whiten, coef, at.mu, at.inner, const, base, narrow, radius, own), at.spread

    def _frame(self, share: Array, means: Array, covariances: Array, factors: Array) -> tuple[Array, Framed]:
        """The origin, and the mixture in its frame: of all components, or of those near each other (`bulk`).

        One component a million deviations away would move the origin so far that no row kept its last digits.
        """
        shift = share @ means
        at = self._framed(share, means - shift, covariances, factors)
        if np.abs(self._seen(at)).max() <= OFFSET:
            return shift, at
        near = bulk(share, means, self.variances(covariances, *means.shape), OFFSET, exact=True)
        share = shares(np.where(near, share, 0.0))
        # Its own rounding would matter beside components that are far away, and have next to no weight.
        shift = share[near] @ means[near]
        delta = means - shift
        at = self._framed(share, np.where(near[:, None], delta, 0.0), covariances, factors)
        return shift, self._remote(at, delta, near)

    @abstractmethod
    def _seen(self, at: Framed) -> Array:
        """(K, D) means in deviations of their own component."""

    @abstractmethod
    def _remote(self, at: Framed, delta: Array, near: NDArray[np.bool_]) -> Framed:
        """`at`, with components that are not `near` put where they are, or as far away as numbers allow."""

    @abstractmethod
    def _roots(self, factors: Array, K: int, D: int) -> Array:
        """Factors by which `Own` whitens differences: see there."""

    @abstractmethod
    def variances(self, covariances: Array, K: int, D: int) -> Array:
        """(K, D) variances of each feature in each component."""

    @abstractmethod
    def _framed(self, share: Array, delta: Array, covariances: Array, factors: Array) -> Framed:
        """The mixture in a frame in which its overall covariance is about the identity.

        Parameters
        ----------
        share : (K,) weights that sum to 1
        delta : (K, D) means less the overall mean
        """


INSTANCES: dict[str, Covariance] = {}
"""The families that have one name each, as `streamgmm.mixture.covariance` lists them."""


def by_name(name: str) -> Covariance:
    """The one object of that name: copies and pickles of a family are itself."""
    return INSTANCES[name]
