"""A mixture as one vector of free parameters, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamgmm.mixture.covariance.factor import Factor
from streamgmm.mixture.covariance.full_tied import Triangular
from streamgmm.mixture.mixture import Mixture

Array = NDArray[np.float64]

FALL = 1e-6
"""Share of a weight that is left of it at least: a weight that a proposal makes 0 can never rise again."""


def _log_weights(model: Mixture) -> Array:
    """(K,) or, with that of a background, (K + 1,)."""
    with np.errstate(divide="ignore"):
        return np.log(model.shares if model.box is None else np.append(model.shares, model.noise_weight))


@dataclass(frozen=True, slots=True, eq=False)
class Coordinates:
    """Mixtures of the shape of `origin` as unconstrained vectors, in its frame."""

    origin: Mixture

    def pack(self, model: Mixture) -> Array:
        """(P,) coordinates; infinite where a weight is 0."""
        shift, spread = self.origin.frame
        log_weights = _log_weights(model)
        delta = model.means - shift
        if isinstance(model.family, Triangular):
            means = np.linalg.solve(spread, delta.T).T
            lower = np.linalg.solve(spread, model.factors)
            D = len(shift)
            i, j = np.tril_indices(D, -1)
            diagonal = np.diagonal(lower, axis1=-2, axis2=-1)
            with np.errstate(divide="ignore", invalid="ignore"):  # beyond rounding there is no proposal
                parts = [np.log(diagonal), lower[..., i, j]]
        elif isinstance(model.family, Factor):
            loadings, deviations = model.family.split_columns(model.factors)
            means, parts = delta / spread, [np.log(deviations / spread), loadings / spread[:, None]]
        else:
            means, parts = delta / spread, [np.log(model.factors)]
        return np.concatenate([log_weights, means.ravel(), *(part.ravel() for part in parts)])

    @property
    def scale(self) -> Array:
        """(P,) factors that make differences of coordinates comparable: about the information of the complete data.

        Means and factors in units of their component's own spread, all times the root of its weight.
        """
        origin = self.origin
        K, D = origin.means.shape
        root = np.sqrt(origin.shares)
        parts = [root if origin.box is None else np.append(root, np.sqrt(origin.noise_weight))]
        if isinstance(origin.family, Triangular):
            lower = np.linalg.solve(origin.frame[1], origin.factors)
            inverse = 1.0 / np.diagonal(lower, axis1=-2, axis2=-1)
            i, _ = np.tril_indices(D, -1)
            own = root if lower.ndim == 3 else np.ones(())
            parts += [root[:, None] * inverse, np.sqrt(2.0) * np.broadcast_to(own[..., None], inverse.shape)]
            parts += [own[..., None] * inverse[..., i]]
        elif isinstance(origin.family, Factor):
            inverse = root[:, None] * (origin.frame[1] / origin.factors[..., -1])
            parts += [inverse, np.repeat(np.sqrt(2.0) * root, D), np.repeat(inverse, origin.family.n_factors)]
        else:
            spread = np.broadcast_to(origin.factors.reshape(K, -1), (K, D)) / origin.frame[1]
            parts += [root[:, None] / spread, np.repeat(root, origin.factors.size // K)]
        return np.concatenate([part.ravel() for part in parts])

    def unpack(self, vector: Array) -> Mixture | None:
        """The mixture at `vector`, its weights no less than `FALL` times the origin's; None where it overflows."""
        origin = self.origin
        family = origin.family
        shift, spread = origin.frame
        K, D = origin.means.shape
        n_weights = K + (origin.box is not None)
        if not np.isfinite(vector).all():
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            log_weights = np.maximum(vector[:n_weights], _log_weights(origin) + np.log(FALL))
            weights = np.exp(log_weights - log_weights.max())
            weights /= weights.sum()
            means = vector[n_weights : n_weights + K * D].reshape(K, D)
            rest = vector[n_weights + K * D :]
            if isinstance(family, Triangular):
                shape = origin.factors.shape[:-2]
                lower = np.zeros(origin.factors.shape)
                d = np.arange(D)
                n_diagonal = origin.factors.size // D
                lower[..., d, d] = np.exp(rest[:n_diagonal]).reshape(*shape, D)
                i, j = np.tril_indices(D, -1)
                lower[..., i, j] = rest[n_diagonal:].reshape(*shape, len(i))
                factors = spread @ lower
                covariances = factors @ np.swapaxes(factors, -1, -2)
                means = means @ spread.T + shift
            elif isinstance(family, Factor):
                noise_variance = (np.exp(rest[: K * D]).reshape(K, D) * spread) ** 2
                loadings = rest[K * D :].reshape(K, D, family.n_factors) * spread[:, None]
                covariances = np.concatenate([loadings, noise_variance[..., None]], axis=-1)
                means = means * spread + shift
            else:
                factors = np.exp(rest).reshape(origin.factors.shape)
                covariances = factors**2
                means = means * spread + shift
        if not (np.isfinite(covariances).all() and np.isfinite(means).all() and np.isfinite(weights).all()):
            return None
        # Factored afresh: an extrapolated factor may be so ill-conditioned that its inverse overflows.
        covariances = family.constrained(covariances, weights[:K], D)
        factors, good = family.factor(covariances)
        if not good.all():
            return None
        noise = 0.0 if origin.box is None else float(weights[K])
        return origin.with_parameters(weights[:K], means, covariances, factors, noise)
