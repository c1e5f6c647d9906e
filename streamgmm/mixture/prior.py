"""Conjugate priors: the posterior mode instead of the maximum of the likelihood."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.mixture.covariance import Covariance
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.stats import Stats

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NormalInverseWishart:
    """Conjugate prior of every component: mean ~ N(mean, covariance / shrinkage), covariance ~ IW(dof, scale).

    What is None is taken from the data, as mclust does (Fraley & Raftery 2007): the overall mean, D + 2 degrees of
    freedom, and a scale that shares the overall covariance out among K components. Diagonal and spherical covariances
    have inverse gamma priors of the same kind. Of mclust's other structures EII, EEI, VEI, EVI, EEV and VEV have this
    prior, restricted to covariances of the structure: where all components share one covariance (EII, EEI) it counts
    once, else for each component. VEE, EVE, VVE and EVV have none, as in mclust.

    Parameters
    ----------
    shrinkage : float >= 0, default 0.01
        Rows that the prior mean counts for.
    mean : (D,), optional
    dof : float > 0, optional
    scale : optional
        In squared units of the data. A number, (D,) or (D, D) for full and tied; a number or (D,) for diag; a number
        for spherical.

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> X = np.array([[0.0], [0.0], [0.0], [5.0], [6.0], [7.0]])
    >>> gm = sg.GaussianMixture(2, prior=sg.NormalInverseWishart(), reg_covar=0.0, random_state=0).fit(X)
    >>> bool(gm.covariances_.min() > 0.1)
    True
    """

    shrinkage: float = 0.01
    mean: ArrayLike | None = None
    dof: float | None = None
    scale: ArrayLike | None = None

    @property
    def needs_data(self) -> bool:
        """True if something is left to be taken from the overall moments of the data.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.NormalInverseWishart().needs_data, sg.NormalInverseWishart(mean=[0.0], scale=1.0).needs_data
        (True, False)
        """
        return self.mean is None or self.scale is None

    def resolve(self, family: Covariance, K: int, D: int, mean: Array | None, covariance: Array | None) -> Conjugate:
        """The prior of a mixture with K components in D dimensions.

        Parameters
        ----------
        mean, covariance : (D,) and (D, D), the overall moments of the data (divisor n - 1); None where not needed

        Raises
        ------
        ValueError
            Where a parameter has a shape or a value that makes no prior.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> family = sg.Mixture([1.0], [[0.0]], [1.0], "spherical").family
        >>> sg.NormalInverseWishart(scale=1.0).resolve(family, 1, 1, np.array([5.0]), None).mean
        array([5.])
        """
        if not family.has_prior:
            raise ValueError(
                f"prior: covariance_type {family.name!r} has none. Expected full, tied, diag, spherical, EII, EEI, "
                "VEI, EVI, EEV or VEV; set prior=None, or choose one of these."
            )
        dof = float(D + 2 if self.dof is None else self.dof)
        if not (np.isfinite(self.shrinkage) and self.shrinkage >= 0 and np.isfinite(dof) and dof > 0):
            raise ValueError(f"prior: expected shrinkage >= 0 and dof > 0; got {self.shrinkage} and {dof}.")
        centre = np.array(mean if self.mean is None else self.mean, np.float64)
        if centre.shape != (D,) or not np.isfinite(centre).all():
            raise ValueError(f"prior: mean must be finite and of shape ({D},); got {centre}.")
        if self.scale is None:
            assert covariance is not None
            scale = family.default_scale(covariance, K)
        else:
            given = np.array(self.scale, np.float64)
            if given.shape not in ((), (D,), (D, D)) or not np.isfinite(given).all():
                raise ValueError(f"prior: scale must be finite: a number, ({D},) or ({D}, {D}); got {given}.")
            scale = family.prior_scale(given, D)
        least = np.linalg.eigvalsh(scale).min() if scale.ndim == 2 else scale.min()
        if self.scale is not None and least <= 0:
            raise ValueError(f"prior: scale must be positive definite; its smallest eigenvalue is {least}.")
        return Conjugate(family, K, float(self.shrinkage), centre, dof, np.asarray(scale))


@dataclass(frozen=True, slots=True, eq=False)
class Conjugate:
    """A prior with nothing left open.

    Attributes
    ----------
    family, K : what it is the prior of
    shrinkage, dof : floats
    mean : (D,)
    scale : (D, D) for full and tied, (D,) for diag, () for spherical, and for the structures as for these
    """

    family: Covariance
    K: int
    shrinkage: float
    mean: Array
    dof: float
    scale: Array

    def under(self, given: NormalInverseWishart) -> Conjugate:
        """The prior of `given` for the same components: what is None there stays. This one where nothing differs."""
        scale = 1.0 if given.scale is None else given.scale
        now = replace(given, scale=scale).resolve(self.family, self.K, len(self.mean), self.mean, None)
        if given.scale is None:
            now = replace(now, scale=self.scale)
        numbers = (now.shrinkage, now.dof) == (self.shrinkage, self.dof)
        same = numbers and np.array_equal(now.mean, self.mean) and np.array_equal(now.scale, self.scale)
        return self if same else now

    @property
    def _exponent(self) -> float:
        return self.family.prior_exponent(self.dof, self.K, len(self.mean))

    @property
    def _part(self) -> Array:
        """The scale as each of the scatters takes it."""
        return self.scale * self.family.prior_share(self.K)

    def estimate(self, stats: Stats, reg_covar: float = 0.0) -> tuple[Array, Array]:
        """Means (K, D) and covariances at the mode of the expected posterior, `reg_covar` added to the variances."""
        family, N, D = self.family, stats.weight, len(self.mean)
        delta = stats.mean - self.mean
        total = N + self.shrinkage
        share = np.divide(N, total, out=np.zeros_like(N), where=total > 0)
        scatter = stats.scatter + self._part + family.between(self.shrinkage * share, delta)
        covariances = family.mode(scatter, family.divisor(N, D) + self._exponent, reg_covar, D)
        return self.mean + share[:, None] * delta, covariances

    def log_density(self, model: Mixture) -> float:
        """Log of the prior at the parameters of `model`, in nats, less its constant."""
        family = self.family
        pull = family.between(np.full(self.K, self.shrinkage), model.means - self.mean)
        return family.log_kernel(self._part + pull, self._exponent, model.covariances, model.factors)
