"""Variational posteriors of Gaussian mixtures: priors, the posterior as a model, its update and its evidence bound.

Every component has a Gaussian-Wishart prior, and the weights have a Dirichlet prior or are the sticks of a truncated
Dirichlet process (Bishop 2006, section 10.2; Blei & Jordan 2006). Under the posterior the expected log-density of a
component is a quadratic in x, as that of a Gaussian with another constant: kernels and statistics are those of a
`Mixture`.

All families are the same model with full precisions; "tied", "diag" and "spherical" restrict the scale matrix of the
posterior: one for all components, diagonal, or a multiple of the identity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, digamma, gammaln, logsumexp

from streamgmm.errors import CollapsedError
from streamgmm.kernels.plan import Plan
from streamgmm.mixture.covariance import DIAG, FAMILIES, SPHERICAL, Covariance
from streamgmm.mixture.covariance.base import LOG_2PI
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.parameters import checked_rows
from streamgmm.mixture.stats import Stats

Array = NDArray[np.float64]

PROCESS, DISTRIBUTION = "dirichlet_process", "dirichlet_distribution"


@dataclass(frozen=True, slots=True, eq=False)
class GaussWishart:
    """The prior of a mixture of at most `limit` components, with nothing left open.

    Attributes
    ----------
    family : Covariance
    limit : int
        Components that the model allows. Those a posterior does not use keep their prior.
    process : bool
        Sticks of a Dirichlet process, else a symmetric Dirichlet distribution.
    concentration : float > 0
        Of the process, or of each component.
    mean_precision : float > 0
        Rows that `mean` counts for.
    mean : (D,)
    dof : float > D - 1
    scale : (D, D) for full and tied, (D,) for diag, () for spherical
        Inverse of the Wishart's scale matrix, in squared units of the data.
    """

    family: Covariance
    limit: int
    process: bool
    concentration: float
    mean_precision: float
    mean: Array
    dof: float
    scale: Array

    def per(self, values: Array) -> Array:
        """(K,) values shaped to broadcast against the covariances of `family`."""
        return np.reshape(values, (-1,) + (1,) * self.scale.ndim) if not self.family.shared else np.asarray(values)


class PriorParameters(NamedTuple):
    """Parameters of a prior as they are given; None is filled in by `gauss_wishart`."""

    concentration: float | None = None
    mean_precision: float | None = None
    mean: ArrayLike | None = None
    dof: float | None = None
    scale: ArrayLike | None = None


def gauss_wishart(
    family: Covariance,
    limit: int,
    D: int,
    given: PriorParameters,
    *,
    weight_type: str,
    data_mean: Array,
    data_covariance: Array,
    reg_covar: float = 0.0,
) -> GaussWishart:
    """The prior with what is None filled in: 1 / limit, 1, the data's mean, D, and the data's covariance.

    Raises
    ------
    ValueError
        Where a parameter has a shape or value that makes no prior.
    """
    if family is not FAMILIES.get(family.name):
        raise ValueError(
            f"covariance_type must be one of {[*FAMILIES]} for a Bayesian mixture; got {family.name!r}. Choose one of "
            "them, or use GaussianMixture."
        )
    concentration, mean_precision, mean, dof, scale = given
    nu = float(D if dof is None else dof)
    if not nu > D - 1:
        raise ValueError(f"The parameter 'degrees_of_freedom_prior' should be greater than {D - 1}, but got {nu:.3f}.")
    centre = np.array(data_mean if mean is None else mean, np.float64)
    if centre.shape != (D,) or not np.isfinite(centre).all():
        raise ValueError(
            f"The parameter 'means' should have the shape of ({D},), with finite numbers, but got {centre.shape}. "
            "Give mean_prior as one number for each feature."
        )
    return GaussWishart(
        family,
        limit,
        weight_type == PROCESS,
        1.0 / limit if concentration is None else float(concentration),
        1.0 if mean_precision is None else float(mean_precision),
        centre,
        nu,
        _scale(family, D, scale, data_covariance, reg_covar),
    )


def prior_under(prior: GaussWishart, given: PriorParameters, weight_type: str) -> GaussWishart:
    """The prior of `given` for the same components; `prior` itself where nothing differs.

    The mean and the scale stay where they are None. Everything else has its default there.

    Raises
    ------
    ValueError
        As `gauss_wishart`.
    """
    family, limit, D = prior.family, prior.limit, len(prior.mean)
    usual = PriorParameters(1.0 / limit, 1.0, prior.mean, D, prior.scale)
    wanted = usual._replace(**{name: value for name, value in given._asdict().items() if value is not None})
    known = (prior.concentration, prior.mean_precision, prior.dof)
    if (
        (weight_type == PROCESS) == prior.process
        and (wanted.concentration, wanted.mean_precision, wanted.dof) == known
        and np.array_equal(np.asarray(wanted.mean), prior.mean)
        and np.array_equal(np.asarray(wanted.scale), prior.scale)
    ):
        return prior
    nothing = np.zeros((D, D))
    return gauss_wishart(
        family, limit, D, wanted, weight_type=weight_type, data_mean=prior.mean, data_covariance=nothing
    )  # fmt: skip


def _scale(family: Covariance, D: int, given: ArrayLike | None, covariance: Array, reg_covar: float) -> Array:
    shape = family.scatter_shape(1, D)[1 if not family.shared else 0 :]
    if given is None:
        scale = np.asarray(family.from_overall(covariance), np.float64).reshape(shape)
        if _positive(scale):
            return scale
        # A constant feature: as `reg_covar` keeps the components apart from it.
        scale = scale + (reg_covar * np.eye(D) if scale.ndim == 2 else reg_covar)
        if _positive(scale):
            return scale
        raise ValueError(
            "covariance_prior: the covariance of the data is singular (constant or linearly dependent features), so it "
            "makes no prior. Give covariance_prior, raise reg_covar, or drop those features."
        )
    scale = np.array(given, np.float64)
    if scale.shape != shape:
        raise ValueError(
            f"The parameter '{family.name} covariance_prior' should have the shape of {shape}, but got {scale.shape}."
        )
    if not (np.isfinite(scale).all() and _positive(scale)):
        what = "symmetric, positive-definite" if scale.ndim == 2 else "positive"
        raise ValueError(
            f"'{family.name} covariance_prior' should be {what}, with finite numbers; got {scale.tolist()}. Give a "
            "covariance in squared units of the data, or None for that of the data."
        )
    return scale


def _positive(scale: Array) -> bool:
    if scale.ndim < 2:
        return bool(np.isfinite(scale).all() and (scale > 0).all())
    if not np.isfinite(scale).all() or not np.allclose(scale, scale.T):
        return False
    spread = np.sqrt(np.maximum(np.diag(scale), 0.0))
    if not (spread > 0).all():
        return False
    return bool(np.linalg.eigvalsh(scale / np.outer(spread, spread)).min() > 1e-12)


@dataclass(frozen=True, slots=True, eq=False, init=False)
class VariationalMixture(Mixture):
    """The posterior of a mixture: expected weights, means and covariances, and how certain they are.

    As a `Mixture` it has the expected parameters. Its log-densities and responsibilities are those of the E-step:
    log p(x) = logsumexp_k E[log pi_k] + E[log N(x | mu_k, Lambda_k)], which does not integrate to 1.

    Attributes
    ----------
    concentration : (K,) of the Dirichlet; (2, K) parameters of the sticks' beta distributions for a process
    mean_precision : (K,) rows behind the means, the prior's included
    dof : (K,), or () for tied
    prior : GaussWishart
    """

    concentration: Array = field(repr=False)
    mean_precision: Array = field(repr=False)
    dof: Array = field(repr=False)
    prior: GaussWishart = field(repr=False)

    @classmethod
    def posterior(
        cls,
        prior: GaussWishart,
        concentration: Array,
        mean_precision: Array,
        means: Array,
        dof: Array,
        covariances: Array,
        factors: Array | None = None,
    ) -> VariationalMixture:
        """The posterior with these parameters; nothing is copied.

        Raises
        ------
        CollapsedError
            Where a covariance has no Cholesky factor.
        """
        if factors is None:
            factors, good = prior.family.factor(covariances)
            if not good.all():
                raise CollapsedError(~good)
        self = object.__new__(cls)
        self._set(expected_weights(prior, concentration), means, covariances, prior.family, factors)
        put = partial(object.__setattr__, self)
        for name, array in (("concentration", concentration), ("mean_precision", mean_precision), ("dof", dof)):
            array = np.asarray(array, np.float64)
            array.flags.writeable = False
            put(name, array)
        put("prior", prior)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.prior, self.concentration, self.mean_precision, self.means, self.dof, self.covariances)
        return VariationalMixture.posterior, (*parts, self.factors)

    def __repr__(self) -> str:
        K, D = self.means.shape
        return f"VariationalMixture(n_components={K}, n_features={D}, covariance_type={self.family.name!r})"

    def plan(self, base: float) -> tuple[Plan, Array]:
        """As `Mixture.plan`, with the constants of the expected log-densities."""
        return self.family.plan(
            self.weights, self.means, self.covariances, self.factors, base, self.log_weights + self.log_shrinkage
        )

    @property
    def log_weights(self) -> Array:
        """(K,) E[log pi]."""
        if not self.prior.process:
            unused = (self.prior.limit - self.n_components) * self.prior.concentration
            return digamma(self.concentration) - digamma(self.concentration.sum() + unused)
        a, b = self.concentration
        whole = digamma(a + b)
        rest = np.cumsum(digamma(b) - whole)
        return digamma(a) - whole + np.concatenate([[0.0], rest[:-1]])

    @property
    def log_shrinkage(self) -> Array:
        """(K,) E[log N(x | mu, Lambda)] less the log-density of the Gaussian with the expected parameters."""
        D = self.n_features
        return np.broadcast_to(0.5 * (_log_det_excess(self.dof, D) - D / self.mean_precision), (self.n_components,))

    @property
    def divergence(self) -> float:
        """KL divergence of the posterior of all parameters from their prior, in nats."""
        prior, D, limit = self.prior, self.n_features, self.prior.limit
        copies = limit if self.family.shared else 1
        ratio = prior.mean_precision / self.mean_precision
        precisions = self.family.precisions(self.precisions_cholesky)
        pull = self.family.between(np.full(self.n_components, prior.mean_precision), self.means - prior.mean)
        normal = 0.5 * (D * (ratio - 1.0 - np.log(ratio)).sum() + (precisions * pull).sum())
        # tr(W0^-1 E[Lambda]) of each component, or of the one that all share.
        axes = tuple(range(-prior.scale.ndim, 0))
        trace = (precisions * prior.scale).sum(axis=axes) * (1 if axes else D)
        log_det = self._log_det
        expected = _log_det_excess(self.dof, D) - log_det  # E[log |Lambda|]
        wishart = (
            log_wishart_norm(self.dof, D * np.log(self.dof) + log_det, D)
            - log_wishart_norm(np.asarray(prior.dof), log_det_of(prior.scale, D), D)
            + 0.5 * ((self.dof - prior.dof) * expected - self.dof * D + trace)
        )
        return float(self._weight_divergence + normal + copies * wishart.sum())

    @property
    def _log_det(self) -> Array:
        """(K,) log determinants of the covariances, or () of the shared one."""
        values = self.family.log_det(self.factors, self.n_components, self.n_features)
        return values[0] if self.family.shared else values

    @property
    def _weight_divergence(self) -> float:
        prior, K = self.prior, self.n_components
        alpha = prior.concentration
        if prior.process:
            a, b = self.concentration
            whole = digamma(a + b)
            parts = (
                betaln(1.0, alpha)
                - betaln(a, b)
                + (a - 1.0) * (digamma(a) - whole)
                + (b - alpha) * (digamma(b) - whole)
            )
            return float(parts.sum())
        total = self.concentration.sum() + (prior.limit - K) * alpha
        return float(
            gammaln(total)
            - gammaln(prior.limit * alpha)
            + (gammaln(alpha) - gammaln(self.concentration)).sum()
            + ((self.concentration - alpha) * self.log_weights).sum()
        )

    @property
    def simplified_bound(self) -> float:
        """The evidence bound at this model, right after its M-step, less the entropy of the rows and constants.

        scikit-learn's `lower_bound_` is this plus the entropy.
        """
        D = self.n_features
        wishart = log_wishart_norm(self.dof, D * np.log(self.dof) + self._log_det, D)
        # scikit-learn leaves out a constant of the norm that depends on D alone.
        wishart = wishart + 0.25 * D * (D - 1) * math.log(math.pi)
        copies = self.n_components if self.family.shared else 1
        if self.prior.process:
            weights = -betaln(*self.concentration).sum()
        else:
            weights = gammaln(self.concentration.sum()) - gammaln(self.concentration).sum()
        return float(-copies * wishart.sum() - weights - 0.5 * D * np.log(self.mean_precision).sum())

    @property
    def shares(self) -> Array:
        return self.mass / self.mass.sum()

    def with_parameters(
        self, shares: Array, means: Array, covariances: Array, factors: Array, noise_weight: float = 0.0
    ) -> VariationalMixture:
        prior = self.prior
        mass = shares * self.mass.sum()
        dof = self.dof if self.family.shared else prior.dof + mass
        return VariationalMixture.posterior(
            prior, concentrated(mass, prior), prior.mean_precision + mass, means, dof, covariances, factors
        )

    @property
    def mass(self) -> Array:
        """(K,) rows of each component: the mean precision less the prior's."""
        return np.maximum(self.mean_precision - self.prior.mean_precision, 0.0)

    def predictive(self, X: ArrayLike) -> Array:
        """(N,) log posterior predictive density: a mixture of Student t (Bishop 2006, eq. 10.81).

        It accounts for the uncertainty of all parameters and integrates to 1. Component k has
        dof + 1 - D degrees of freedom; diag and spherical take the restricted posterior as it is.
        """
        rows = checked_rows(X, self.n_features)
        D = self.n_features
        nu = np.broadcast_to(self.dof, (self.n_components,)) + 1.0 - D
        kappa = self.mean_precision
        # Scale of the t distribution, in units of the expected covariance.
        scale = np.broadcast_to(self.dof, (self.n_components,)) * (1.0 + kappa) / (kappa * nu)
        log_det = self.family.log_det(self.factors, self.n_components, D)
        const = (
            np.log(np.maximum(self.weights, 1e-300))
            + gammaln(0.5 * (nu + D))
            - gammaln(0.5 * nu)
            - 0.5 * D * np.log(nu * math.pi)
            - 0.5 * (log_det + D * np.log(scale))
        )
        whole = self.family.dense(self.covariances, self.n_components, D)
        lower = np.linalg.cholesky(whole)
        out = np.empty(len(rows))
        for start in range(0, len(rows), 8192):
            part = rows[start : start + 8192].astype(np.float64)
            logs = np.empty((self.n_components, len(part)))
            for k in range(self.n_components):
                z = np.linalg.solve(lower[k], (part - self.means[k]).T)
                logs[k] = const[k] - 0.5 * (nu[k] + D) * np.log1p(np.einsum("dn,dn->n", z, z) / (scale[k] * nu[k]))
            out[start : start + len(part)] = logsumexp(logs, axis=0)
        return out

    def stretched(self, shift: Array, factors: Array) -> VariationalMixture:
        """The posterior of rows x * factors + shift, given that of rows x; spherical becomes diag."""
        prior, spherical = self.prior, self.family is SPHERICAL
        family = DIAG if spherical else self.family

        def covariance(value: Array) -> Array:
            if spherical:
                return value[..., None] * factors**2
            return value * (factors**2 if family is DIAG else np.outer(factors, factors))

        return VariationalMixture.posterior(
            replace(prior, family=family, mean=prior.mean * factors + shift, scale=covariance(prior.scale)),
            self.concentration,
            self.mean_precision,
            self.means * factors + shift,
            self.dof,
            covariance(self.covariances),
        )

    def alone(self, which: NDArray[np.intp]) -> VariationalMixture:
        """The posterior of some of the components: those in use, to be looked at."""
        shared = self.family.shared
        return VariationalMixture.posterior(
            self.prior,
            self.concentration[..., which],
            self.mean_precision[which],
            self.means[which],
            self.dof if shared else self.dof[which],
            self.covariances.copy() if shared else self.covariances[which],
        )

    @property
    def weight_deviations(self) -> Array:
        """(K,) posterior standard deviations of the weights."""
        if self.prior.process:
            a, b = self.concentration
            rest = np.concatenate([[1.0], np.cumprod(b / (a + b))[:-1]])
            rest_square = np.concatenate([[1.0], np.cumprod(b * (b + 1) / ((a + b) * (a + b + 1)))[:-1]])
            mean = a / (a + b) * rest
            square = a * (a + 1) / ((a + b) * (a + b + 1)) * rest_square
            return np.sqrt(np.maximum(square - mean**2, 0.0))
        total = self.concentration.sum() + (self.prior.limit - self.n_components) * self.prior.concentration
        share = self.concentration / total
        return np.sqrt(share * (1.0 - share) / (total + 1.0))

    def padded(self) -> VariationalMixture:
        """The same posterior with all components that the prior allows: those not in use follow, with their prior.

        Of a process the sticks follow in order, so the posterior is the same. Responsibilities change by what unused
        components have of a row.
        """
        prior = self.prior
        more = prior.limit - self.n_components
        if more <= 0:
            return self
        fresh = [1.0, prior.concentration] if prior.process else prior.concentration
        added = np.repeat(np.reshape(fresh, (-1, 1)), more, axis=1)
        shared = self.family.shared
        return VariationalMixture.posterior(
            prior,
            np.concatenate([self.concentration, added if prior.process else added[0]], axis=-1),
            np.concatenate([self.mean_precision, np.full(more, prior.mean_precision)]),
            np.concatenate([self.means, np.tile(prior.mean, (more, 1))]),
            self.dof if shared else np.concatenate([self.dof, np.full(more, prior.dof)]),
            self.covariances.copy()
            if shared
            else np.concatenate([self.covariances, np.repeat((prior.scale / prior.dof)[None], more, axis=0)]),
        )


def _log_det_excess(dof: Array, D: int) -> Array:
    """E[log |Lambda|] + log |E[Lambda]^-1| under a Wishart distribution."""
    at = 0.5 * (np.asarray(dof)[..., None] - np.arange(D))
    return np.asarray(D * math.log(2.0) + digamma(at).sum(axis=-1) - D * np.log(dof))


def log_det_of(scale: Array, D: int) -> Array:
    """Log determinant of a scale in the shape of one component."""
    if scale.ndim == 2:
        return np.asarray(np.linalg.slogdet(scale)[1])
    return np.asarray(np.log(scale).sum() if scale.ndim else D * np.log(scale))


def log_wishart_norm(dof: Array, log_det: Array, D: int) -> Array:
    """log B(W, dof) of Bishop's eq. B.79, from log |W^-1|."""
    at = 0.5 * (np.asarray(dof)[..., None] - np.arange(D))
    gammas = gammaln(at).sum(axis=-1) + 0.25 * D * (D - 1) * math.log(math.pi)
    return np.asarray(0.5 * dof * log_det - 0.5 * dof * D * math.log(2.0) - gammas)


def expected_weights(prior: GaussWishart, concentration: Array) -> Array:
    """(K,) E[pi] of the components, scaled to sum to 1."""
    if prior.process:
        a, b = concentration
        left = np.concatenate([[1.0], np.cumprod(b / (a + b))[:-1]])
        weights = a / (a + b) * left
    else:
        weights = np.asarray(concentration, np.float64)
    return weights / weights.sum()


def variational_m_step(stats: Stats, prior: GaussWishart, reg_covar: float = 0.0) -> VariationalMixture:
    """The posterior that maximises the evidence bound for the responsibilities behind `stats` (Bishop, 10.57 to 10.63).

    Parameters
    ----------
    reg_covar : float
        Added to the variance of every row.
    """
    precision, means, dof, covariances = updated(stats.weight, stats.mean, stats.scatter, prior, reg_covar)
    concentration = concentrated(stats.weight, prior)
    return VariationalMixture.posterior(prior, concentration, precision, means, dof, covariances)


def concentrated(weight: Array, prior: GaussWishart) -> Array:
    """Parameters of the weights after (K,) rows of each component: (K,), or (2, K) of a process."""
    if not prior.process:
        return prior.concentration + weight
    return np.stack([1.0 + weight, prior.concentration + mass_after(weight)])


def mass_after(weight: Array) -> Array:
    """(K,) rows of all components after each."""
    return np.concatenate([np.cumsum(weight[::-1])[-2::-1], [0.0]])


def updated(
    weight: Array, mean: Array, scatter: Array, prior: GaussWishart, reg_covar: float
) -> tuple[Array, Array, Array, Array]:
    """Mean precisions (K,), means (K, D), degrees of freedom and expected covariances after the rows of statistics."""
    family, (K, D) = prior.family, mean.shape
    precision = prior.mean_precision + weight
    delta = np.where(weight[:, None] > 0, mean - prior.mean, 0.0)
    means = prior.mean + (weight / precision)[:, None] * delta
    ridge = family.add_to_diagonal(np.zeros(family.shape(K, D)), reg_covar) * family.divisor(weight, D)
    scatter = scatter + ridge + family.between(weight * prior.mean_precision / precision, delta)
    if family.shared:
        dof = np.asarray(prior.dof + weight.sum() / prior.limit)
        return precision, means, dof, (prior.scale + scatter / prior.limit) / dof
    dof = prior.dof + weight
    return precision, means, dof, (prior.scale + scatter / family.divisor(np.ones(K), D)) / prior.per(dof)


def rows_behind(model: VariationalMixture, reg_covar: float = 0.0) -> Stats:
    """Statistics whose `variational_m_step` is `model`: of the rows alone, with nothing of the prior in them.

    The entropy of the responsibilities is not known from the posterior; it is set to the most that it can be.
    """
    prior, family, (K, D) = model.prior, model.family, model.means.shape
    weight, kappa = model.mass, prior.mean_precision
    present = weight > 0
    grown = np.divide(kappa + weight, weight, out=np.zeros(K), where=present)
    delta = grown[:, None] * (model.means - prior.mean)
    ridge = family.add_to_diagonal(np.zeros(family.shape(K, D)), reg_covar) * family.divisor(weight, D)
    total = model.covariances * prior.per(model.dof) - prior.scale
    total = total * (prior.limit if family.shared else family.divisor(np.ones(K), D))
    scatter = total - ridge - family.between(weight * kappa / (kappa + weight), delta)
    if not family.shared:
        scatter[~present] = 0.0
    mean = np.where(present[:, None], prior.mean + delta, 0.0)
    count = float(weight.sum())
    entropy = count * math.log(max(int(present.sum()), 1))
    return Stats(weight, mean, scatter, 0.0, entropy, 0.0, count, 0, family)


def evidence(model: VariationalMixture, stats: Stats) -> float:
    """The evidence lower bound of `model` in nats, exact: its responsibilities are those behind `stats`."""
    return float(stats.loglik - model.divergence)


def evidence_of(model: VariationalMixture, stats: Stats) -> float:
    """The evidence lower bound for responsibilities that may be those of another model, from sums alone."""
    family, (K, D) = stats.family, model.means.shape
    present = stats.weight > 0
    delta = np.where(present[:, None], stats.mean - model.means, 0.0)
    precisions = family.precisions(model.precisions_cholesky)
    energy = np.sum(precisions * (stats.scatter + family.between(stats.weight, delta)))
    log_pi = model.log_weights + model.log_shrinkage - 0.5 * (family.log_det(model.factors, K, D) + D * LOG_2PI)
    return float(stats.weight @ log_pi - 0.5 * energy + stats.entropy - model.divergence)


def used(model: VariationalMixture, least: float = 1.0) -> NDArray[np.intp]:
    """Components that hold more than `least` rows, in their order."""
    return np.flatnonzero(model.mass > least)
