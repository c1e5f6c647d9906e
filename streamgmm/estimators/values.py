"""The parameters of a fitted mixture, under scikit-learn's names."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamgmm.mixture.mixture import Mixture

__all__ = ["Values"]

Array = NDArray[np.float64]


class Values:
    """Mixin for estimators whose fit leaves a `mixture_`."""

    mixture_: Mixture

    def _model(self) -> Mixture:
        mixture: Mixture | None = self.__dict__.get("mixture_")
        if mixture is None:
            raise AttributeError(f"this {type(self).__name__} is not fitted yet; call fit first")
        return mixture

    @property
    def weights_(self) -> Array:
        """(K,) weights of the components; with `noise_weight_` they sum to 1.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> gm.weights_
        array([0.5, 0.5])
        """
        return self._model().weights

    @property
    def noise_weight_(self) -> float:
        """Weight of the uniform background; 0 without one.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture(noise="uniform").fit([[-1.0], [0.0], [1.0], [99.0]])
        >>> bool(abs(gm.weights_.sum() + gm.noise_weight_ - 1) < 1e-12)
        True
        """
        return self._model().noise_weight

    @property
    def means_(self) -> Array:
        """(K, D) means, in the units of the data.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.GaussianMixture().fit([[0.0, 1.0], [4.0, 3.0]]).means_
        array([[2., 2.]])
        """
        return self._model().means

    @property
    def covariances_(self) -> Array:
        """Covariances: full (K, D, D), tied (D, D), diag (K, D), spherical (K,).

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.GaussianMixture(covariance_type="diag", reg_covar=0).fit([[0.0, 1.0], [4.0, 3.0]]).covariances_
        array([[4., 1.]])
        """
        return self._model().covariances

    @property
    def precisions_cholesky_(self) -> Array:
        """Upper triangular U with U U^T = precision (full, tied); reciprocal deviations (diag, spherical).

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.GaussianMixture(covariance_type="diag", reg_covar=0).fit([[0.0, 1.0], [4.0, 3.0]]).precisions_cholesky_
        array([[0.5, 1. ]])
        """
        return self._model().precisions_cholesky

    @property
    def precisions_(self) -> Array:
        """Inverses of `covariances_`, in the same shape.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.GaussianMixture(covariance_type="diag", reg_covar=0).fit([[0.0, 1.0], [4.0, 3.0]]).precisions_
        array([[0.25, 1.  ]])
        """
        model = self._model()
        return model.family.precisions(model.precisions_cholesky)
