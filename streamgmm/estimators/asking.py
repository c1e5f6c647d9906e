"""Questions to the fitted mixture of an estimator, features by name or by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from streamgmm.estimators.projection import Projection
from streamgmm.mixture.mixture import Mixture
from streamgmm.sources.arranged import select_names
from streamgmm.sources.formats.tables import is_frame

Array = NDArray[np.float64]


class Asking:
    """Mixin for estimators with a `mixture_`; see the methods of `Mixture` of the same names."""

    mixture_: Mixture
    projection_: Projection | None

    def marginal(self, features: Any) -> Mixture:
        """The distribution of some features, given by name or number, whatever the others are.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture().fit([[0.0, 1.0], [4.0, 3.0]])
        >>> gm.marginal([1]).means
        array([[2.]])
        """
        return self._fitted("marginal").marginal(self._numbers(features))

    def condition(self, given: Mapping[Any, float]) -> Mixture:
        """The distribution of the other features where some have given values: ``{feature: value}``.

        Its `moments` are the prediction and its covariance.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> gm.condition({0: 2.0}).moments()
        (array([1.]), array([[0.75]]))
        """
        return self._fitted("condition").condition({self._number(name): value for name, value in given.items()})

    def regression(self, X: ArrayLike, given: Any) -> tuple[Array, Array]:
        """Predict the other features, in ascending order, from columns X (N, d) of the features `given`.

        Returns
        -------
        Means (N, m) and covariances (N, m, m) of the prediction, row by row.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> mean, covariance = gm.regression([[2.0], [-2.0]], given=[0])
        >>> mean.ravel(), covariance.ravel()
        (array([ 1., -1.]), array([0.75, 0.75]))
        """
        model, numbers = self._fitted("regression"), self._numbers(given)
        known = getattr(self, "feature_names_in_", None)
        if known is not None and is_frame(X):
            X = select_names(X, [str(known[i]) for i in np.atleast_1d(np.asarray(numbers))])
        return model.regression(X, numbers)

    def merge_components(
        self, groups: Sequence[Sequence[int]] | None = None, *, n_components: int | None = None
    ) -> Mixture:
        """A mixture with fewer components and the same overall moments; this estimator stays as it is.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> gm.merge_components([[0, 1]]).covariances
        array([5.])
        """
        return self._fitted("merge_components").merge_components(groups, n_components=n_components)

    def _fitted(self, question: str) -> Mixture:
        check_is_fitted(self)
        self._speaks_of_features(question)
        return self.mixture_

    def _speaks_of_features(self, question: str) -> None:
        """Refuse what a model of principal components cannot answer in the features of the data."""
        if self.projection_ is not None:
            raise ValueError(
                f"{question}: this model was fitted to {self.projection_.n_components} principal components of "
                f"{self.projection_.n_features} features, and is no mixture of those. Ask gm.mixture_ about the "
                "components (rows go through gm.projection_.apply first), or fit without principal components."
            )

    def _numbers(self, features: Any) -> Any:
        if isinstance(features, str):
            return [self._number(features)]
        if isinstance(features, Sequence):
            return [self._number(name) for name in features]
        return features

    def _number(self, name: Any) -> Any:
        if not isinstance(name, str):
            return name
        names = list(getattr(self, "feature_names_in_", ()))
        if name not in names:
            known = f"the fit knows {names}" if names else "the fit saw no feature names; use numbers"
            raise ValueError(f"There is no feature {name!r}: {known}.")
        return names.index(name)
