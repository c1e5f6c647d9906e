"""What a fitted mixture answers about rows, read as they come: labels, densities, likelihoods, criteria."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from streamgmm.em.loop import as_seen
from streamgmm.errors import NonFiniteRowError, non_finite
from streamgmm.estimators._reader import Reader
from streamgmm.estimators.asking import Asking
from streamgmm.estimators.projection import Behind
from streamgmm.mixture.criteria import criteria
from streamgmm.mixture.mixture import Mixture
from streamgmm.runtime.executors import within

__all__ = ["Predicting", "score_chunk"]

Array = NDArray[np.float64]


class Predicting(Asking, Reader):
    """Mixin for estimators with a `mixture_`, of the rows as they are or of their principal components."""

    random_state: Any

    def predict(self, X: Any, *, out: Any = None) -> Any:
        """(N,) most responsible component of each row, -1 for the background.

        Parameters
        ----------
        X : array-like, a path, or a source
            For what is not in memory the answer is an iterator of arrays, one per chunk.
        out : array, optional
            Written instead, slice by slice: an ndarray, a memmap, a Zarr array.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> gm.predict([[-1.0], [5.0]])
        array([0, 1])
        >>> np.save("rows.npy", [[-1.0], [5.0]])
        >>> [part.tolist() for part in gm.predict("rows.npy")]
        [[0, 1]]
        """
        return self._map(X, "labels", out)

    def predict_proba(self, X: Any, *, out: Any = None) -> Any:
        """(N, K) responsibilities, with a background (N, K + 1), its own last; `X` and `out` as in `predict`.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> gm.predict_proba([[2.0]])
        array([[0.5, 0.5]])
        """
        return self._map(X, "responsibilities", out)

    def score_samples(self, X: Any, *, out: Any = None) -> Any:
        """(N,) log p(x) in nats; `X` and `out` as in `predict`.

        Examples
        --------
        >>> import streamgmm as sg
        >>> one = sg.GaussianMixture.from_parameters([1.0], [[0.0]], [1.0], "spherical")
        >>> one.score_samples([[0.0], [2.0]]).round(4)
        array([-0.9189, -2.9189])
        """
        return self._map(X, "log_prob", out)

    def _map(self, X: Any, question: str, out: Any = None) -> Any:
        check_is_fitted(self)
        model = self.mixture_ if self.projection_ is None else Behind(self.mixture_, self.projection_)
        return self._ask(X, model, question, out)

    def impute(self, X: Any, *, out: Any = None) -> Any:
        """(N, D) X with every NaN replaced by its conditional mean given what its row shows; `out` as in `predict`.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> gm.impute([[2.0, np.nan]])
        array([[2., 1.]])
        """
        self._fitted("impute")
        return self._map(X, "impute", out)

    def score(self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None) -> float:
        """Mean log-likelihood per row, in nats (weighted mean with weights).

        Examples
        --------
        >>> import streamgmm as sg
        >>> one = sg.GaussianMixture.from_parameters([1.0], [[0.0]], [1.0], "spherical")
        >>> round(one.score([[0.0], [2.0]]), 4)
        -1.9189
        """
        totals = self._totals(X, sample_weight)
        return float(totals[0] / totals[3])

    def _totals(self, X: Any, sample_weight: ArrayLike | None = None) -> Any:
        """Sums over the rows of X: log p, entropy, log max r, weight, rows."""
        check_is_fitted(self)
        source = self._seen(X, sample_weight)
        task = within(source, partial(score_chunk, self.mixture_))
        return self._executor(source).run(task, source.chunks(), np.add)

    def _criteria(self, X: Any) -> dict[str, float]:
        loglik, _, log_max, weight, _ = self._totals(X)
        return criteria(loglik, log_max, weight, self.mixture_.n_parameters)

    def bic(self, X: Any) -> float:
        """Bayesian information criterion; smaller is better.

        Examples
        --------
        >>> import streamgmm as sg
        >>> one = sg.GaussianMixture.from_parameters([1.0], [[0.0]], [1.0], "spherical")
        >>> round(one.bic([[-1.0], [1.0]]), 4)
        7.062
        """
        return self._criteria(X)["bic"]

    def aic(self, X: Any) -> float:
        """Akaike information criterion; smaller is better.

        Examples
        --------
        >>> import streamgmm as sg
        >>> one = sg.GaussianMixture.from_parameters([1.0], [[0.0]], [1.0], "spherical")
        >>> round(one.aic([[-1.0], [1.0]]), 4)
        9.6758
        """
        return self._criteria(X)["aic"]

    def icl(self, X: Any) -> float:
        """Integrated completed likelihood: bic - 2 sum log max_k r (Biernacki et al. 2000); smaller is better.

        Examples
        --------
        A row half way between two components costs 2 log 2:

        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> round(gm.icl([[2.0], [2.0]]) - gm.bic([[2.0], [2.0]]), 4)
        2.7726
        """
        return self._criteria(X)["icl"]

    def sample(self, n_samples: int = 1) -> tuple[Array, NDArray[np.int64]]:
        """Draw rows from the mixture: (N, D) values and (N,) labels.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> values, labels = gm.sample(5)
        >>> values.shape, labels.shape
        ((5, 1), (5,))
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least one sample.")
        values, labels = self.mixture_.sample(n_samples, check_random_state(self.random_state))
        return values if self.projection_ is None else self.projection_.back(values), labels


def score_chunk(model: Mixture, chunk: Any) -> Array:
    """(5,) sums over one chunk: log p, entropy, log max r, weight, rows."""
    (seen,), rows, weight = as_seen((model,), chunk)
    try:
        return seen.totals(rows, weight)
    except NonFiniteRowError as error:
        raise non_finite(rows, error.row, chunk) from None
