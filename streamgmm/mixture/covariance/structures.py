"""M-steps of covariances that components share in part: volume, shape or orientation (Celeux & Govaert 1995).

Sigma_k = lambda_k Q_k A_k Q_k^T with volume lambda_k > 0, orientation Q_k (orthogonal) and shape A_k (diagonal,
determinant 1). Three letters say for volume, shape and orientation whether it is Equal in all components, Variable, or
the Identity. Every function takes the scatters W_k of the components and their weights N_k, in rows, and returns the
covariances that maximise the expected log-likelihood, or with `previous` do not lower it:

    -1/2 sum_k (N_k log |Sigma_k| + tr(W_k Sigma_k^-1))
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamgmm.mixture.covariance.base import Array, Covariance, WeightedMoments
from streamgmm.mixture.covariance.diag_spherical import DIAG, SPHERICAL, Diag, Spherical
from streamgmm.mixture.covariance.full_tied import FULL, Full

TOLERANCE = 1e-14
"""Relative change of the volumes at which an alternating M-step ends."""
MAX_ROUNDS = 500
"""Rounds of an alternating M-step; each raises the expected log-likelihood, so ending early is safe."""


class Effort(NamedTuple):
    """Limits of the search for a common orientation: it may end early, as each rotation raises the log-likelihood.

    Attributes
    ----------
    sweeps : int
        Over all pairs of axes, at most.
    inner : int
        Steps of majorisation for the angles of one set of pairs.
    least : float
        Largest sine of twice a rotation in the last sweep.
    """

    sweeps: int
    inner: int
    least: float


FIRST = Effort(100, 4, 1e-10)
"""Where nothing is known of the orientation."""
NEXT = Effort(4, 2, 0.01)
"""From the orientation of the model before: what a sweep leaves is about the square of its angles, and EM goes on."""


def _unit(log_values: Array) -> tuple[Array, Array]:
    """Geometric means over the last axis, and the values divided by them, both from logarithms."""
    mean = log_values.mean(axis=-1)
    return np.exp(mean), np.exp(log_values - mean[..., None])


def _safe_log(values: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(values)


def equal_volume(values: Array, weight: Array) -> Array:
    """Eigenvalues (K, D) of covariances with one volume, from those of the scatters (EVI, EVV)."""
    size, shape = _unit(_safe_log(values))
    return size.sum() / weight.sum() * shape


def equal_shape(values: Array, weight: Array) -> Array:
    """Eigenvalues (K, D) of covariances with one shape and volumes of their own (VEI, VEV).

    Alternates lambda_k = sum_d values_kd / a_d / (D N_k) and a = sum_k values_k / lambda_k, brought to product 1.
    """
    D = values.shape[1]
    present = weight > 0
    values, mass = values[present], weight[present]
    volume = np.exp(_safe_log(values / mass[:, None]).mean(axis=1))
    for _ in range(MAX_ROUNDS):
        shape = _unit(_safe_log((values / volume[:, None]).sum(axis=0)))[1]
        before, volume = volume, (values / shape).sum(axis=1) / (D * mass)
        if not (np.abs(volume - before) > TOLERANCE * volume).any():
            break
    found = np.full((len(weight), D), np.nan)
    found[present] = volume[:, None] * shape
    return found


def equal_form(scatter: Array, weight: Array) -> Array:
    """Covariances (K, D, D) = lambda_k C with one C of determinant 1 (VEE)."""
    D = scatter.shape[1]
    present = weight > 0
    scatter, mass = scatter[present], weight[present]
    volume = np.einsum("kdd->k", scatter) / (D * mass)
    for _ in range(MAX_ROUNDS):
        form = (scatter / volume[:, None, None]).sum(axis=0)
        sign, log_det = np.linalg.slogdet(form)
        if sign <= 0 or not np.isfinite(log_det):
            return np.full((len(weight), D, D), np.nan)
        form /= np.exp(log_det / D)
        before = volume
        volume = np.einsum("kij,ji->k", scatter, np.linalg.inv(form)) / (D * mass)
        if not (np.abs(volume - before) > TOLERANCE * volume).any():
            break
    found = np.full((len(weight), D, D), np.nan)
    found[present] = volume[:, None, None] * form
    return found


@cache
def _pairings(D: int) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp]], ...]:
    """All pairs of D axes, in rounds of disjoint ones (the circle method of tournaments)."""
    seats = [*range(D), *([-1] if D % 2 else [])]
    half, rounds = len(seats) // 2, []
    for _ in range(len(seats) - 1):
        pairs = [(a, b) for a, b in zip(seats[:half], seats[: half - 1 : -1], strict=True) if min(a, b) >= 0]
        if pairs:  # of one axis there are none
            rounds.append((np.array([min(p) for p in pairs]), np.array([max(p) for p in pairs])))
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return tuple(rounds)


def common_axes(scatter: Array, weight: Array | None, start: Array, effort: Effort = FIRST) -> tuple[Array, Array]:
    """Axes Q (D, D) shared by all components, and the diagonals (K, D) of Q^T W_k Q.

    Minimises sum_k N_k log |diag Q^T W_k Q| (VVE: common principal components, Flury 1984), or without weights
    sum_k |diag Q^T W_k Q|^(1/D) (EVE), by rotations of pairs of axes (Flury & Gautschi 1986) from the axes `start`.

    The scatters of two rotated axes are m + u and m - u with u = h cos 2t + g sin 2t. Both objectives are concave in
    the diagonals; with their slopes held they are a cosine of 2t, which lies above and is minimised (majorisation), so
    that no rotation raises them.
    """
    D = scatter.shape[1]
    Q, W = start.copy(), start.T @ scatter @ start
    for _ in range(effort.sweeps):
        largest = 0.0
        for i, j in _pairings(D):
            one, two = W[:, i, i], W[:, j, j]
            g, h, m = W[:, i, j], 0.5 * (one - two), 0.5 * (one + two)
            if weight is None:
                size = np.exp(np.log(np.einsum("kdd->kd", W)).mean(axis=1))[:, None]
                log_area = np.log(one * two)
            cosine, sine = np.ones(len(i)), np.zeros(len(i))
            for _ in range(effort.inner):
                u = h * cosine + g * sine
                slope = 2.0 * u / ((m + u) * (m - u))  # 1 / (m - u) - 1 / (m + u)
                slope *= (
                    weight[:, None] if weight is not None else size * np.exp((np.log((m + u) * (m - u)) - log_area) / D)
                )
                x, y = (slope * h).sum(axis=0), (slope * g).sum(axis=0)
                length = np.hypot(x, y)
                moved = length > 0
                np.divide(x, length, out=cosine, where=moved)
                np.divide(y, length, out=sine, where=moved)
            angle = 0.5 * np.arctan2(sine, cosine)
            largest = max(largest, float(np.abs(sine).max()))
            turn = np.eye(D)
            turn[i, i] = turn[j, j] = np.cos(angle)
            turn[j, i] = np.sin(angle)
            turn[i, j] = -turn[j, i]
            Q, W = Q @ turn, turn.T @ W @ turn
        if not largest > effort.least:
            break
    return Q, np.einsum("kdd->kd", W)


def _axes_of(covariances: Array) -> Array | None:
    """The axes that all covariances (K, D, D) share; None where they are not all finite."""
    if not np.isfinite(covariances).all():
        return None
    part = 1.0 + 0.618034 * np.arange(len(covariances)) % 1.0  # no two sums of eigenvalues are equal by construction
    sizes = np.einsum("kdd->k", covariances)
    return np.asarray(np.linalg.eigh(np.tensordot(part / sizes, covariances, 1))[1])


class Structured(Covariance):
    """A covariance whose M-step ties components together; kernels and statistics are its `unconstrained` family's.

    `reg_covar` enters the scatters, as N_k reg_covar I, so that the covariances keep their structure; without
    constraints that is the same as adding it to the variances.
    """

    shared = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.has_prior = name not in ("VEE", "EVE", "VVE", "EVV")

    def n_parameters(self, K: int, D: int) -> int:
        volume, shape, orientation = ({"E": 1, "V": K, "I": 0}[letter] for letter in self.name)
        return volume + (D - 1) * shape + D * (D - 1) // 2 * orientation

    def estimate(self, stats: WeightedMoments, reg_covar: float, previous: Array | None = None) -> Array:
        D = stats.mean.shape[1]
        return self._mode(stats.scatter, self.divisor(stats.weight, D), reg_covar, D, previous)

    def mode(self, scatter: Array, divisor: Array, reg_covar: float, D: int) -> Array:
        return self._mode(scatter, divisor, reg_covar, D, None)

    def _mode(self, scatter: Array, divisor: Array, reg_covar: float, D: int, previous: Array | None) -> Array:
        ridge = self.add_to_diagonal(np.zeros(scatter.shape), reg_covar) * divisor
        weight = (divisor / self.divisor(np.ones(1), D)).reshape(-1)
        with np.errstate(all="ignore"):  # what does not exist is NaN, and treated as a collapse
            return self._maximum(scatter + ridge, weight, D, previous)

    @property
    def _one(self) -> bool:
        """True if all components have the same covariance: EII, EEI."""
        return "V" not in self.name

    def prior_share(self, K: int) -> float:
        return 1.0 / K if self._one else 1.0

    def constrained(self, covariances: Array, weights: Array, D: int) -> Array:
        with np.errstate(all="ignore"):
            return self._maximum(covariances * self.divisor(weights, D), weights, D, covariances)

    @abstractmethod
    def _maximum(self, scatter: Array, weight: Array, D: int, previous: Array | None) -> Array:
        """The covariances of largest expected log-likelihood; with `previous`, of one no smaller than theirs."""


class StructuredSpherical(Structured, Spherical):
    """EII."""

    unconstrained = SPHERICAL

    def prior_exponent(self, dof: float, K: int, D: int) -> float:
        return D + (dof + 2) / K

    def _maximum(self, scatter: Array, weight: Array, D: int, previous: Array | None) -> Array:
        return np.full(len(weight), scatter.sum() / (weight.sum() * D))


class StructuredDiag(Structured, Diag):
    """EEI, VEI, EVI."""

    unconstrained = DIAG

    def prior_exponent(self, dof: float, K: int, D: int) -> float:
        return 1 + (dof + 2) / K if self._one else dof + 3

    def _maximum(self, scatter: Array, weight: Array, D: int, previous: Array | None) -> Array:
        if self.name == "EEI":
            return np.repeat(scatter.sum(axis=0)[None] / weight.sum(), len(weight), axis=0)
        return (equal_shape if self.name == "VEI" else equal_volume)(scatter, weight)


class StructuredFull(Structured, Full):
    """VEE, EVE, VVE, EEV, VEV, EVV."""

    unconstrained = FULL

    def _maximum(self, scatter: Array, weight: Array, D: int, previous: Array | None) -> Array:
        if not np.isfinite(scatter).all():
            return np.full(scatter.shape, np.nan)
        if self.name == "VEE":
            return equal_form(scatter, weight)
        if self.name in ("EVE", "VVE"):
            return self._about_common_axes(scatter, weight, previous)
        values, axes = np.linalg.eigh(scatter)
        if self.name == "EEV":
            values = np.repeat(values.sum(axis=0)[None] / weight.sum(), len(weight), axis=0)
        else:
            values = (equal_shape if self.name == "VEV" else equal_volume)(values, weight)
        return (axes * values[:, None, :]) @ axes.swapaxes(1, 2)

    def _about_common_axes(self, scatter: Array, weight: Array, previous: Array | None) -> Array:
        known = None if previous is None else _axes_of(previous)
        mass = weight if self.name == "VVE" else None
        if known is None:
            axes, values = common_axes(scatter, mass, np.linalg.eigh(scatter.sum(axis=0))[1])
        else:
            axes, values = common_axes(scatter, mass, known, NEXT)
        values = equal_volume(values, weight) if mass is None else values / weight[:, None]
        return (axes * values[:, None, :]) @ axes.T


STRUCTURES: dict[str, Covariance] = {
    "EII": StructuredSpherical("EII"),
    **{name: StructuredDiag(name) for name in ("EEI", "VEI", "EVI")},
    **{name: StructuredFull(name) for name in ("VEE", "EVE", "VVE", "EEV", "VEV", "EVV")},
}
