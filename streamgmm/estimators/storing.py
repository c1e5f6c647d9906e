"""Fitted models on their way in and out: files, bare parameters, scikit-learn, JSON."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from streamgmm.em.online import Learner
from streamgmm.estimators import conversion
from streamgmm.estimators._parameters import MixtureParameters
from streamgmm.estimators._reader import Reader
from streamgmm.estimators.asking import Asking
from streamgmm.estimators.model_file import ModelFile, save_model
from streamgmm.estimators.projection import Projection
from streamgmm.mixture.covariance import Covariance

__all__ = ["Stored"]

_SAVED: dict[str, type] = {
    "converged_": bool, "n_iter_": int, "lower_bound_": float, "lower_bounds_": list, "n_passes_": int, "report_": dict,
}  # fmt: skip


_STREAM = "stream."


class Stored(Asking, Reader, MixtureParameters):
    """A mixture that can be kept."""

    _stream: Callable[..., Learner]

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted model to one safetensors file, atomically; `streamgmm.load` reads it.

        After `partial_fit` the statistics of the stream and the rows that wait are kept too, and a later `partial_fit`
        goes on from there. Parameters that are objects (a RandomState, an executor, arrays of initial values) are not
        kept.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.GaussianMixture().fit([[0.0], [4.0]]).save("model.safetensors")
        >>> sg.load("model.safetensors").means_
        array([[2.]])
        """
        check_is_fitted(self)
        header = {
            "estimator": type(self).__name__,
            "parameters": conversion.plain_parameters(self),
            "fitted": {name: getattr(self, name) for name in _SAVED if hasattr(self, name)},
            "feature_names": list(self.feature_names_in_) if hasattr(self, "feature_names_in_") else None,
        }
        arrays = {} if self.projection_ is None else self.projection_.arrays()
        learner: Learner | None = getattr(self, "_learner", None)
        if learner is not None:
            learnt, header["stream"] = learner.state()
            arrays |= {_STREAM + name: array for name, array in learnt.items()}
        save_model(path, self.mixture_, header=header, arrays=arrays)

    @classmethod
    def _from_file(cls, content: ModelFile) -> Self:
        known = cls._get_param_names()
        parameters = {k: v for k, v in dict(content.header["parameters"]).items() if k in known}
        self = cls(**parameters)
        self._validate_params()
        for name, kind in _SAVED.items():
            if name in content.header["fitted"]:
                value = content.header["fitted"][name]
                setattr(self, name, np.nan if value is None and kind is float else kind(value))
        self.mixture_ = content.mixture
        self.n_features_in_ = content.mixture.n_features
        projection = Projection.read(content.arrays)
        if projection is not None:
            self.project(projection)
        names = content.header["feature_names"]
        if names is not None:
            self._name_features(names)
        learnt = content.header.get("stream")
        if learnt is not None:
            start = len(_STREAM)
            arrays = {name[start:]: array for name, array in content.arrays.items() if name.startswith(_STREAM)}
            self._stream().restore(arrays, learnt)
        return self

    @classmethod
    def from_parameters(
        cls,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
        covariance_type: str | Covariance = "full",
        **settings: Any,
    ) -> Self:
        """An estimator that answers as if fitted, from (K,) weights, (K, D) means and covariances; see `Mixture`.

        `settings` are parameters of the estimator. With ``warm_start=True`` a later `fit` goes on from here.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> gm.predict([[-1.0], [5.0]])
        array([0, 1])
        """
        return cast(Self, conversion.from_parameters(cls, weights, means, covariances, covariance_type, **settings))

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """The same mixture as a fitted ``sklearn.mixture.GaussianMixture``, with its settings.

        Examples
        --------
        >>> import streamgmm as sg
        >>> from sklearn.mixture import GaussianMixture
        >>> sg.GaussianMixture.from_sklearn(GaussianMixture().fit([[0.0], [4.0]])).means_
        array([[2.]])
        """
        return cast(Self, conversion.from_sklearn(cls, model))

    def to_sklearn(self) -> Any:
        """The same mixture as a fitted ``sklearn.mixture.GaussianMixture``; refused with a background component.

        Refused after a `project` too: scikit-learn's mixture has no projection.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> gm.to_sklearn().predict([[-1.0], [5.0]])
        array([0, 1])
        """
        self._fitted("to_sklearn")
        return conversion.to_sklearn(self)

    def to_json(self) -> str:
        """The fitted model as JSON text, every number with all its digits.

        Examples
        --------
        >>> import streamgmm as sg
        >>> import json
        >>> json.loads(sg.GaussianMixture().fit([[0.0], [4.0]]).to_json())["means"]
        [[2.0]]
        """
        self._fitted("to_json")
        return conversion.to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The estimator that `to_json` wrote.

        Examples
        --------
        >>> import streamgmm as sg
        >>> text = sg.GaussianMixture().fit([[0.0], [4.0]]).to_json()
        >>> sg.GaussianMixture.from_json(text).means_
        array([[2.]])
        """
        return cast(Self, conversion.from_json(cls, text))
