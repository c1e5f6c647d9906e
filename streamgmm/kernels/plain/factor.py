"""The E-step of mixtures of factor analysers, in NumPy: products of matrices, and memory linear in the features.

Sigma = Lambda Lambda^T + Psi has rank q plus a diagonal, so that with M = I + Lambda^T Psi^-1 Lambda, M^-1 = L L^T and
A = Psi^-1 Lambda L (Woodbury), for d = z - mu:

    d^T Sigma^-1 d = d^T Psi^-1 d - |A^T d|^2        and the factors have    E[f | z] = L A^T d,    Cov[f | z] = L L^T.

The *fast* form expands d about one origin and does a block of rows for all components in two products of matrices, and
their sums in two more. It cancels where a component is narrow beside its distance from the origin, or its noise is
small beside its loadings; the bound 2 eps (z^T Psi^-1 z + mu^T Psi^-1 mu) is known for each row and component. Rows
that it does not hold for take the *own* form, component by component, with d from the units of the data and

    d^T Sigma^-1 d = (d - Lambda f)^T Psi^-1 (d - Lambda f) + f^T f,        f = L A^T d,

a sum of squares in which an error of f counts only squared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels.cuda.backend import is_device_array
from streamgmm.kernels.plain.own_mean import check_finite, squarable
from streamgmm.kernels.plain.reference import Shares, softmax
from streamgmm.kernels.plan import TOLERANCE, Array, Family

__all__ = ["FactorMoments", "FactorPlan", "FactorSums", "Origin", "posterior_factors", "run", "run_missing"]

EPS = float(np.finfo(np.float64).eps)
NUMBERS = 1 << 18
"""Numbers in the largest array of a block: two megabytes, so that products of matrices are large and still cached."""
_MOST_ROWS, _LEAST_ROWS = 1024, 32
_NEGLIGIBLE = 4e-18  # responsibility below which an error of less than a nat cannot matter
_LOWEST = -1e300  # of a logit: an infinite one times its share of 0 would be NaN


@dataclass(frozen=True, slots=True)
class Origin:
    """The way from rows to the components' own means.

    Attributes
    ----------
    means : (K, D) in the units of the data
    scale : (D,) units of the frame in one unit of the data
    move : callable (rows) -> rows, applied first, or None
    """

    means: Array
    scale: Array
    move: Callable[[Array], Array] | None = None


class FactorPlan(NamedTuple):
    """A mixture of factor analysers in its frame, z = whiten (x - shift)."""

    family: Family
    shift: Array  # (F,)
    whiten: Array  # (D, 1) scales, or (D, F) through a rotation
    means: Array  # (K, D)
    loadings: Array  # (K, D, q)
    precision: Array  # (K, D) reciprocals of the noise variances
    basis: Array  # (K, D, q): A
    turn: Array  # (K, q, q): L
    const: Array  # (K,) log pi - log det(Sigma) / 2 + log det whiten - D/2 log 2 pi
    base: float  # log-density of the background, its weight included; -inf for none
    own: Origin

    @property
    def coef(self) -> Array:
        """(K, q D + 2 D + 1) zeros without memory: as many numbers as a row is multiplied with."""
        K, D, q = self.loadings.shape
        return np.broadcast_to(np.zeros(()), (K, (q + 2) * D + 1))


class FactorMoments(NamedTuple):
    """Sums over rows, in the frame: of responsibilities r, and of deviations from the weighted means.

    Attributes
    ----------
    mass : (K,) sum of r
    mean : (K, D) weighted mean of z, less the component's own
    square : (K, D) sum of r (z - mean)^2
    cross : (K, D, q) sum of r (z - mean) E[f]^T
    latent : (K, q, q) sum of r E[(f - its mean)(f - its mean)^T]
    first : (K, q) sum of r E[f]
    """

    mass: Array
    mean: Array
    square: Array
    cross: Array
    latent: Array
    first: Array


class FactorSums(NamedTuple):
    """The result of one run: moments of the two forms, of those that took rows, and totals (5,) as in `Sums`."""

    moments: tuple[FactorMoments, ...]
    totals: Array


def run(
    plan: FactorPlan,
    rows: NDArray[Any],
    weight: Array | None,
    *,
    statistics: bool,
    logp: Array | None = None,
    resp: Array | None = None,
    label: NDArray[np.int64] | None = None,
) -> FactorSums:
    """E-step over `rows` (n, F), with the arguments of `streamgmm.kernels.dispatch.run`.

    Raises
    ------
    NonFiniteRowError
        At the first row with NaN or infinity.
    ValueError
        For rows on a graphics card.
    """
    if is_device_array(rows):
        raise ValueError("Factor analysers run on the CPU; got rows on a graphics card. Expected a NumPy array.")
    K, D, q = plan.loadings.shape
    most = int(np.clip(NUMBERS // max(D, K * (1 + q)), _LEAST_ROWS, _MOST_ROWS))
    size = -(-len(rows) // max(1, -(-len(rows) // most)))  # blocks of equal length
    fast, own, totals = _Fast(plan, size, statistics), _Own(plan, statistics), np.zeros(5)
    for first in range(0, len(rows), size or 1):
        block = slice(first, first + size)
        some = rows[block]
        w = None if weight is None else weight[block]
        shares, far = fast.shares(some, best=label is not None)
        left = np.flatnonzero(far)
        if left.size and w is not None:  # a row without weight is no row, whatever it holds
            shares.resp[:, left[w[left] == 0.0]] = 0.0
            shares.sums[:, left[w[left] == 0.0]] = 0.0
            left = left[w[left] != 0.0]
        if left.size:
            check_finite(some[left], first + left)
            apart = own.take(some[left], None if w is None else w[left], best=label is not None)
            for whole, part in zip(shares, apart, strict=True):
                whole[..., left] = part
        if statistics:
            fast.add(shares.resp if w is None else shares.resp * w, far)
        shares.add_totals(totals, w)
        shares.answer(block, logp, resp, label)
    return FactorSums((fast.moments(), *own.found) if statistics else (), totals)


class _Fast:
    """The fast form: one block after the other, and sums over them."""

    def __init__(self, plan: FactorPlan, size: int, statistics: bool) -> None:
        K, D, q = plan.loadings.shape
        self.plan = plan
        self._rows, self._squares = np.empty((size, D)), np.empty((size, D))
        self._centred = np.empty((size, len(plan.shift))) if _is_rotated(plan) else self._rows
        self._products, self._reach = np.empty((K * (1 + q), size)), np.empty((K, size))
        self._turned = plan.basis.swapaxes(1, 2).reshape(K * q, D)
        with np.errstate(over="ignore", invalid="ignore"):
            pull = plan.precision * plan.means
            self._at = (plan.basis.swapaxes(1, 2) @ plan.means[:, :, None]).reshape(K * q, 1)
            self._distance = (pull * plan.means).sum(axis=1)[:, None]
        self._linear = np.concatenate([pull, self._turned])
        if statistics:
            self._first, self._second = np.zeros((K * (1 + q), D)), np.zeros((K, D))
            self._mass, self._latent = np.zeros(K), np.zeros((K, q))

    def shares(self, rows: NDArray[Any], *, best: bool) -> tuple[Shares, NDArray[np.bool_]]:
        """Shares of rows (B, F), and which of them (B,) this form does not hold."""
        plan = self.plan
        K, _, q = plan.loadings.shape
        with np.errstate(over="ignore", invalid="ignore"):  # of rows that are left to the own form
            B = len(rows)
            z, z2 = self._rows[:B], self._squares[:B]
            x = np.subtract(rows, plan.shift, out=self._centred[:B])
            if _is_rotated(plan):
                np.matmul(x, plan.whiten.T, out=z)
            else:
                z *= plan.whiten[:, 0]
            np.multiply(z, z, out=z2)
            self._z, self._z2 = z, z2
            linear = np.matmul(self._linear, z.T, out=self._products[:, :B])
            cutoff = np.matmul(plan.precision, z2.T, out=self._reach[:, :B])
            g = linear[K:]
            g -= self._at
            self._g = g.reshape(K, q, -1)
            logits = linear[:K]
            logits -= 0.5 * (cutoff + self._distance)
            logits += 0.5 * np.einsum("kqb,kqb->kb", self._g, self._g)
            logits += plan.const[:, None]
            broken = ~np.isfinite(cutoff).all(axis=0)
            if broken.any():
                logits[:, broken] = 0.0
            shares = softmax(logits, plan.base, best=best)
            cutoff += self._distance
            cutoff *= 2.0 * EPS
            far = cutoff > TOLERANCE
            if far.any():
                far &= ~(cutoff < 1.0) | (shares.resp > _NEGLIGIBLE)
        return shares, np.asarray(far.any(axis=0) | broken)

    def add(self, resp: Array, far: NDArray[np.bool_]) -> None:
        """Add the rows of the last block, with weighted responsibilities (K, B); those that are `far` elsewhere."""
        if far.any():
            resp = np.where(far, 0.0, resp)
            self._z[far] = self._z2[far] = 0.0
            self._g[:, :, far] = 0.0
        self._g *= resp[:, None, :]
        taken = self._products[:, : len(self._z)]  # of which `_g` are the last rows
        taken[: len(resp)] = resp
        self._first += taken @ self._z
        self._second += resp @ self._z2
        self._mass += resp.sum(axis=1)
        self._latent += self._g.sum(axis=2)

    def moments(self) -> FactorMoments:
        plan = self.plan
        K, D, q = plan.loadings.shape
        mean = _divided(self._first[:K], self._mass)
        square = np.maximum(self._second - self._mass[:, None] * mean**2, 0.0)
        cross = self._first[K:].reshape(K, q, D) - self._latent[:, :, None] * mean[:, None, :]
        cross = cross.swapaxes(1, 2)
        latent = plan.basis.swapaxes(1, 2) @ cross + self._mass[:, None, None] * np.eye(q)
        turned = plan.turn.swapaxes(1, 2)
        latent = plan.turn @ (0.5 * (latent + latent.swapaxes(1, 2))) @ turned
        first = (plan.turn @ self._latent[:, :, None])[:, :, 0]
        mean = np.where(self._mass[:, None] > 0, mean - plan.means, 0.0)
        return FactorMoments(self._mass, mean, square, cross @ turned, latent, first)


def _is_rotated(plan: FactorPlan) -> bool:
    return len(plan.shift) > 1 and plan.whiten.shape[1] == len(plan.shift)


class _Own:
    """The own form: rows about each component's mean, from the units of the data."""

    def __init__(self, plan: FactorPlan, statistics: bool) -> None:
        self.plan = plan
        self._statistics = statistics
        self.found: list[FactorMoments] = []

    def take(self, rows: NDArray[Any], weight: Array | None, *, best: bool) -> Shares:
        """Shares of finite rows (m, F); their moments are kept."""
        plan = self.plan
        K, _, q = plan.loadings.shape
        x = np.asarray(rows, np.float64)
        if plan.own.move is not None:
            x = plan.own.move(x)
        logits, latent = np.empty((K, len(x))), np.empty((K, len(x), q))
        with np.errstate(over="ignore", under="ignore"):
            for k in range(K):
                delta = self._delta(x, k)
                latent[k] = (delta @ plan.basis[k]) @ plan.turn[k].T
                rest = delta - latent[k] @ plan.loadings[k].T
                distance = rest**2 @ plan.precision[k] + np.einsum("mq,mq->m", latent[k], latent[k])
                logits[k] = np.maximum(plan.const[k] - 0.5 * distance, _LOWEST)
            shares = softmax(logits, plan.base, best=best)
            if self._statistics:
                taken = shares.resp if weight is None else shares.resp * weight
                self.found.append(_stacked([self._moments(x, k, taken[k], latent[k]) for k in range(K)]))
        return shares

    def _delta(self, x: Array, k: int) -> Array:
        own = self.plan.own
        return squarable((x - own.means[k]) * own.scale)

    def _moments(self, x: Array, k: int, r: Array, f: Array) -> tuple[Any, ...]:
        D, q = self.plan.loadings.shape[1:]
        present = r > 0.0
        x, r, f = x[present], r[present], f[present]
        mass = r.sum()
        if mass == 0.0:
            return mass, np.zeros(D), np.zeros(D), np.zeros((D, q)), np.zeros((q, q)), np.zeros(q)
        delta = self._delta(x, k)
        mean = delta[0] + r / mass @ (delta - delta[0])  # of equal rows it is that row, to the last digit
        delta -= mean
        first = r @ f
        apart = f - first / mass
        weighted = r[:, None] * apart
        turn = self.plan.turn[k]
        latent = apart.T @ weighted + mass * turn @ turn.T
        return mass, mean, r @ delta**2, delta.T @ weighted, latent, first


def _stacked(parts: list[tuple[Any, ...]]) -> FactorMoments:
    return FactorMoments(*(np.stack(column) for column in zip(*parts, strict=True)))


def run_missing(
    plan: FactorPlan,
    rows: NDArray[Any],
    weight: Array | None,
    log_weights: Array,
    base: Array | float,
    *,
    statistics: bool,
    logp: Array | None = None,
    resp: Array | None = None,
    label: NDArray[np.int64] | None = None,
    filled: Array | None = None,
) -> FactorSums:
    """E-step over rows (n, D) with NaN where an entry was not observed, each with something observed.

    Rows are taken in the own form, with precision 0 for what is missing. Given the observed entries its own moments
    follow from those of the factors, which have another covariance V = (I + Lambda_o^T Psi_o^-1 Lambda_o)^-1 in each
    row. O(D q^2) for a row and a component.

    Parameters
    ----------
    log_weights : (K,)
    base : log-density of the background over what a row shows, its weight included: a number, or (n,)
    filled : (n, D), optional                # OUT missing entries by their conditional mean; nothing for a background

    Raises
    ------
    NonFiniteRowError
        At the first row with infinity.
    """
    K, D, q = plan.loadings.shape
    totals, found = np.zeros(5), []
    size = int(np.clip(NUMBERS // max(D, K * q * q), _LEAST_ROWS, _MOST_ROWS))
    base = np.broadcast_to(np.asarray(base, np.float64), len(rows))
    for first in range(0, len(rows), size):
        block = slice(first, first + size)
        x = np.asarray(rows[block], np.float64)
        seen = ~np.isnan(x)
        x = np.where(seen, x, 0.0)
        check_finite(x, first + np.arange(len(x)))
        w = None if weight is None else weight[block]
        given = [_Given.from_rows(plan, k, x, seen) for k in range(K)]
        logits = np.stack([log_weights[k] + one.log_density for k, one in enumerate(given)])
        shares = softmax(np.maximum(logits, _LOWEST), base[block], best=label is not None)
        shares.add_totals(totals, w)
        if statistics:
            taken = shares.resp if w is None else shares.resp * w
            found.append(_stacked([one.moments(plan, k, taken[k]) for k, one in enumerate(given)]))
        shares.answer(block, logp, resp, label)
        if filled is not None:
            means = [plan.own.means[k] + one.delta / plan.own.scale for k, one in enumerate(given)]
            expected = sum(r[:, None] * mean for r, mean in zip(shares.resp, means, strict=True))
            filled[block] = np.where(seen, x, expected)
    return FactorSums(tuple(found), totals)


def posterior_factors(plan: FactorPlan, rows: NDArray[Any]) -> Array:
    """(n, K, q) means of the factors given rows (n, D), of which NaN was not observed."""
    K, _, q = plan.loadings.shape
    found = np.empty((len(rows), K, q))
    for first in range(0, len(rows), _LEAST_ROWS):
        block = slice(first, first + _LEAST_ROWS)
        x = np.asarray(rows[block], np.float64)
        seen = ~np.isnan(x)
        for k in range(K):
            found[block, k] = _Given.from_rows(plan, k, np.where(seen, x, 0.0), seen).factors
    return found


class _Given(NamedTuple):
    """Answers of one component for rows of which part was observed."""

    log_density: Array  # (B,) of what was observed
    delta: Array  # (B, D) E[z] less the mean, in the frame
    hidden: Array  # (B, D) 1.0 where nothing was observed
    factors: Array  # (B, q) their means
    spread: Array  # (B, q, q) V

    @classmethod
    def from_rows(cls, plan: FactorPlan, k: int, x: Array, seen: NDArray[np.bool_]) -> _Given:
        own, loadings = plan.own, plan.loadings[k]
        D, q = loadings.shape
        with np.errstate(over="ignore", under="ignore"):
            delta = squarable(np.where(seen, (x - own.means[k]) * own.scale, 0.0))
            precision = seen * plan.precision[k]
            inner = precision @ (loadings[:, :, None] * loadings[:, None, :]).reshape(D, q * q)
            inner = inner.reshape(-1, q, q) + np.eye(q)
            spread = np.linalg.inv(inner)
            factors = (spread @ ((precision * delta) @ loadings)[:, :, None])[:, :, 0]
            told = factors @ loadings.T
            distance = (precision * (delta - told) ** 2).sum(axis=1) + (factors**2).sum(axis=1)
            unit: Array = seen @ (np.log(plan.precision[k]) + 2.0 * np.log(own.scale) - np.log(2.0 * np.pi))
            log_density = 0.5 * (unit - np.linalg.slogdet(inner)[1] - distance)
        return cls(log_density, np.where(seen, delta, told), (~seen).astype(np.float64), factors, spread)

    def moments(self, plan: FactorPlan, k: int, r: Array) -> tuple[Any, ...]:
        """As `FactorMoments` of this component, from weighted responsibilities r (B,)."""
        loadings = plan.loadings[k]
        D, q = loadings.shape
        mass = r.sum()
        if mass == 0.0:
            return mass, np.zeros(D), np.zeros(D), np.zeros((D, q)), np.zeros((q, q)), np.zeros(q)
        mean = r @ self.delta / mass
        apart = self.delta - mean
        first = r @ self.factors
        weighted = r[:, None] * (self.factors - first / mass)
        unknown = r[:, None] * self.hidden
        spread = (unknown.T @ self.spread.reshape(-1, q * q)).reshape(D, q, q)
        told = (spread @ loadings[:, :, None])[:, :, 0]
        square = r @ apart**2 + unknown.sum(axis=0) / plan.precision[k] + (told * loadings).sum(axis=1)
        latent = (self.factors - first / mass).T @ weighted + np.tensordot(r, self.spread, 1)
        return mass, mean, square, apart.T @ weighted + told, latent, first


def _divided(total: Array, mass: Array) -> Array:
    return np.divide(total, mass[:, None], out=np.zeros_like(total), where=mass[:, None] > 0)
