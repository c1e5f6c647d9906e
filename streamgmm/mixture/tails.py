"""Tail probabilities of densities: how unusual a row is among rows that show the same features.

Densities of rows with different features missing cannot be compared: a row that shows fewer numbers is a product of
fewer factors. The chance that a row of the model, seen through the same features, has no larger density can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc, gammaln, logsumexp

from streamgmm.mixture.covariance.base import LOG_2PI
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.observation import observed

__all__ = ["Tails", "log_chi2_tail"]

Array = NDArray[np.float64]

DRAWS = 20_000
"""Rows drawn from the model, by which densities are calibrated."""
TAIL = 200
"""Draws of lowest density, beyond which the shape of the tail is that of the components alone."""
_RANKS = np.unique(np.r_[TAIL : 10 * TAIL : TAIL // 4, 10 * TAIL : DRAWS : DRAWS // 40, DRAWS])
"""Ranks of draws whose densities are kept."""


@dataclass(frozen=True, slots=True, eq=False)
class _Analytic:
    """The tail of the components of one pattern, as if they did not overlap.

    Attributes
    ----------
    peaks : (K,) log of weight times density at the mean of each component
    d : features observed
    log_weights : (K,)
    """

    peaks: Array
    d: int
    log_weights: Array

    def beyond(self, logp: Array) -> Array:
        """Log of sum_k w_k P(chi2_d > 2 (peak_k - t)): exact where components do not overlap, else too large."""
        square = np.maximum(2.0 * (self.peaks - logp[:, None]), 0.0)
        return np.asarray(logsumexp(self.log_weights + log_chi2_tail(square, self.d), axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class _Calibration:
    """The distribution of log-densities of one pattern.

    Attributes
    ----------
    levels, shares : (m,) ascending log-densities of draws, and the share of draws up to each
    analytic : the tail of the components
    shift : what is added to the logarithm of the components' tail to meet `shares` at the first level
    """

    levels: Array
    shares: Array
    analytic: _Analytic
    shift: float

    def log_tail(self, logp: Array) -> Array:
        inside = np.log(np.interp(logp, self.levels, self.shares))
        low = logp < self.levels[0]
        if low.any():
            inside[low] = self.analytic.beyond(logp[low]) + self.shift
        return np.minimum(inside, 0.0)


class Tails:
    """Tail probabilities of rows under a mixture, calibrated by `DRAWS` rows drawn from it, for each pattern of gaps.

    P(p(Y) <= p(x)), Y being drawn from the model and seen in the features that x shows: 1 for the most typical rows,
    small for anomalies. Rows of the model fall below p with chance p, whatever they show. A row that shows nothing has
    1. Draws give the probability to about 7 % of itself; beyond the `TAIL` lowest of them the tail of the components
    goes on from there.

    Parameters
    ----------
    model : Mixture

    Examples
    --------
    >>> import numpy as np
    >>> one = Mixture([1.0], [[0.0, 0.0]], [np.eye(2)], missing="marginalize")
    >>> Tails(one).tail_probability(np.array([[0.0, 0.0], [np.nan, 3.0], [np.nan, np.nan]])).round(3)
    array([1.   , 0.003, 1.   ])
    """

    def __init__(self, model: Mixture) -> None:
        self.model = model
        self._known: dict[bytes, _Calibration] = {}
        self._analytic: dict[bytes, _Analytic] = {}
        self._draws: Array | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "_known": {}, "_analytic": {}, "_draws": None}

    def tail_probability(self, rows: NDArray[Any]) -> Array:
        """(N,) probabilities of rows (N, D)."""
        return np.exp(self.log_tail(rows))

    def log_tail(self, rows: NDArray[Any], logp: Array | None = None) -> Array:
        """(N,) natural logarithms of the probabilities, which tell far anomalies apart.

        Parameters
        ----------
        logp : (N,) log-densities of the rows, where they are known
        """
        logp = self.model.log_prob(rows) if logp is None else logp
        out = np.zeros(len(rows))
        for gaps, here in _patterns(rows):
            out[here] = self._calibration(gaps).log_tail(logp[here])
        return out

    def log_bound(self, rows: NDArray[Any], logp: Array) -> Array:
        """(N,) upper bounds of `log_tail`, without draws: exact where components do not overlap, else too large.

        Parameters
        ----------
        logp : (N,) log-densities of the rows

        Examples
        --------
        >>> import numpy as np
        >>> one = Mixture([1.0], [[0.0, 0.0]], [np.eye(2)], missing="marginalize")
        >>> rows = np.array([[3.0, 0.0], [np.nan, np.nan]])
        >>> Tails(one).log_bound(rows, one.log_prob(rows))
        array([-4.5,  0. ])
        """
        out = np.zeros(len(rows))
        for gaps, here in _patterns(rows):
            key = gaps.tobytes()
            if key not in self._analytic:
                self._analytic[key] = _components(self.model, gaps)
            out[here] = np.minimum(self._analytic[key].beyond(logp[here]), 0.0)
        return out

    def _calibration(self, gaps: NDArray[np.bool_]) -> _Calibration:
        key = gaps.tobytes()
        found = self._known.get(key)
        if found is None:  # threads may find the same at the same time
            found = self._known[key] = self._calibrated(gaps)
        return found

    def _calibrated(self, gaps: NDArray[np.bool_]) -> _Calibration:
        model = self.model
        if self._draws is None:
            self._draws = model.sample(DRAWS, np.random.default_rng(0))[0]
        draws, D = self._draws, model.n_features
        if gaps.any():
            draws = np.where(gaps, np.nan, draws)
            model = model.observing(observed(model.box, "marginalize", D))
        levels, shares = np.sort(model.log_prob(draws))[_RANKS - 1], _RANKS / DRAWS
        analytic = _components(model, gaps)
        shift = float(np.log(shares[0]) - analytic.beyond(levels[:1])[0])
        return _Calibration(levels, shares, analytic, shift)


def _components(model: Mixture, gaps: NDArray[np.bool_]) -> _Analytic:
    shown = np.flatnonzero(~gaps)
    dense = model.family.dense(model.covariances, *model.means.shape)[:, shown[:, None], shown]
    log_weights = np.log(np.maximum(model.weights, 1e-300))
    peaks = log_weights - 0.5 * (len(shown) * LOG_2PI + np.linalg.slogdet(dense)[1])
    return _Analytic(peaks, len(shown), log_weights)


def _patterns(rows: NDArray[Any]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.intp]]]:
    """The patterns of gaps among rows that show something, and where the rows of each stand."""
    gaps = np.isnan(rows)
    _, first, which = np.unique(np.packbits(gaps, axis=1), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    edges = np.searchsorted(which.ravel()[order], np.arange(len(first) + 1))
    for i, row in enumerate(first):
        if not gaps[row].all():
            yield gaps[row], order[edges[i] : edges[i + 1]]


def log_chi2_tail(x: Array, d: int) -> Array:
    """log P(chi2_d > x), also where the probability underflows.

    Examples
    --------
    >>> log_chi2_tail(np.array([0.0, 3.0, 3000.0]), 2)
    array([    0. ,    -1.5, -1500. ])
    """
    a, half = 0.5 * d, 0.5 * np.asarray(x, np.float64)
    tail = gammaincc(a, half)
    small = tail < 1e-290
    out = np.log(np.where(small, 1.0, tail))
    if small.any():
        z = half[small]
        # Q(a, z) = z^(a-1) e^-z / Gamma(a) * continued fraction (Lentz's, in its backward form).
        fraction = np.zeros_like(z)
        for n in range(60, 0, -1):
            fraction = n * (n - a) / (z + 2 * n + 1 - a - fraction)
        out[small] = a * np.log(z) - z - gammaln(a) - np.log(z + 1 - a - fraction)
    return out
