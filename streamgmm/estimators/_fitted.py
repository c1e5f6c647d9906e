"""A fitted mixture in scikit-learn's manner: values, answers, pictures, files, principal components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from streamgmm.em.initialization.sample import survey
from streamgmm.estimators.predicting import Predicting
from streamgmm.estimators.projection import Projection
from streamgmm.estimators.storing import Stored
from streamgmm.estimators.values import Values
from streamgmm.report import figures
from streamgmm.sources.arranged import matched
from streamgmm.sources.base import Source

__all__ = ["Fitted"]


class Fitted(Values, Predicting, Stored):
    """What an estimator can do once its fit has left a `mixture_`."""

    projection_: Projection | None = None
    lower_bounds_: list[float]

    def project(self, projection: Projection, feature_names: Sequence[str] | None = None) -> Self:
        """Take rows of the data from now on, and answer for their principal components, which it was fitted to.

        Parameters
        ----------
        projection : Projection
            Its d components are the features of the fit. Kept as `projection_`, in `save` too; a new `fit` drops it.
        feature_names : D names, optional

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> from streamgmm.estimators.projection import Projection
        >>> X = np.array([[0.0, 5.0], [1.0, 5.0], [8.0, 5.0], [9.0, 5.0]])
        >>> first = Projection(np.zeros(2), np.array([[1.0], [0.0]]), np.array([[1.0, 0.0]]))
        >>> gm = sg.GaussianMixture().fit(first.apply(X)).project(first)
        >>> gm.means_, gm.n_features_in_, gm.score_samples(X).shape
        (array([[4.5]]), 2, (4,))
        """
        check_is_fitted(self)
        d = self.mixture_.n_features
        if projection.n_components != d:
            raise ValueError(f"a mixture of {d} features needs as many components; got {projection.n_components}")
        self.projection_ = projection
        self.n_features_in_ = projection.n_features
        self._name_features(feature_names)
        return self

    def _source(self, X: Any, sample_weight: ArrayLike | None, *, reset: bool) -> Source:
        if reset and self.projection_ is not None:
            if getattr(self, "warm_start", False):
                raise ValueError(
                    "warm_start: this model was fitted to principal components, fit takes rows as they are. Set "
                    "warm_start=False; or fit gm.projection_.apply(X), starting from means_init=gm.means_."
                )
            self.__dict__.pop("projection_")
        known = self._known_names if reset and getattr(self, "warm_start", False) and hasattr(self, "mixture_") else ()
        source = super()._source(X, sample_weight, reset=reset)
        if known:
            found, self.feature_names_in_ = self._known_names, np.array(known, dtype=object)
            source = matched(source, known, found or None)
        return source

    def _seen(self, X: Any, sample_weight: ArrayLike | None = None) -> Source:
        source = self._source(X, sample_weight, reset=False)
        return source if self.projection_ is None else self.projection_.of(source)

    def plot(self, kind: str = "ellipses", X: Any = None, *, ax: Any = None, n_rows: int = 2000) -> Any:
        """Draw one picture with matplotlib; the axes.

        Parameters
        ----------
        kind : {"ellipses", "convergence", "weights", "uncertainty"}
            Components on the first two principal axes, rows coloured by hard label; the trace of the log-likelihood;
            the weights; how sure the labels are.
        X : array-like, path or source, optional ("uncertainty" needs it)
            `n_rows` of its rows are drawn at random, in one reading.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> X = np.random.default_rng(0).normal(size=(200, 3))
        >>> gm = sg.GaussianMixture(2, random_state=0, tol=1e-3).fit(X)
        >>> gm.plot("ellipses", X).get_ylabel()[:16]
        'principal axis 2'
        """
        check_is_fitted(self)
        names = getattr(self, "feature_names_in_", None) if self.projection_ is None else self.projection_.names
        if kind == "convergence":
            return figures.convergence(self.lower_bounds_, ax=ax)
        if kind == "weights":
            return figures.weights(self.mixture_, ax=ax)
        if kind not in ("ellipses", "uncertainty"):
            raise ValueError(
                f"kind must be 'ellipses', 'convergence', 'weights' or 'uncertainty'; got {kind!r}. "
                "Criteria against K are drawn by Selection.plot()."
            )
        rows = None
        if X is not None:
            source = self._seen(X)
            rows = survey(source, self._executor(source), size=n_rows, seed=0).rows
        if kind == "uncertainty":
            if rows is None:
                raise ValueError("kind='uncertainty' needs X: rows whose labels are in doubt.")
            return figures.uncertainty(self.mixture_, rows, ax=ax, names=names)
        return figures.ellipses(self.mixture_, rows, ax=ax, names=names)
