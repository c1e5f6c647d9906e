"""Fitted models on their way in and out: scikit-learn (and what follows from it, ONNX), bare parameters, JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.exceptions import NotFittedError

from streamgmm.estimators.fit_report import FitReport
from streamgmm.mixture.covariance import Covariance
from streamgmm.mixture.mixture import Mixture
from streamgmm.utils.jsonable import jsonable

# sklearn.mixture takes 0.15 s to import: only conversions from and to it wait for that.
if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture as SklearnMixture

JSON_FORMAT = "streamgmm-json"

# Parameters that mean the same on both sides; what is not here is dropped on the way.
_SHARED = (
    "n_components", "tol", "reg_covar", "max_iter", "n_init", "weights_init", "means_init", "precisions_init",
    "random_state", "warm_start", "verbose", "verbose_interval",
)  # fmt: skip


def to_sklearn(gm: Any) -> SklearnMixture:
    """A fitted ``sklearn.mixture.GaussianMixture`` that gives the same answers.

    Raises
    ------
    ValueError
        Where the model has a background component, which scikit-learn cannot express.
    """
    from sklearn.mixture import GaussianMixture as SklearnMixture

    model: Mixture = gm.mixture_
    if gm.noise is not None or model.noise_weight > 0:
        raise ValueError(
            "scikit-learn has no background component: to_sklearn() would change the densities. "
            "Fit with noise=None, or keep the model in a file with save()."
        )
    if model.family.n_factors:
        raise ValueError(
            f"scikit-learn's mixture has no covariance_type {model.family.covariance_type!r}. Expected another one, or "
            "GaussianMixture.from_parameters(gm.weights_, gm.means_, gm.covariances_) first, of full covariances."
        )
    settings = {name: getattr(gm, name) for name in _SHARED}
    if gm.init_params in ("kmeans", "k-means++", "random", "random_from_data"):
        settings["init_params"] = gm.init_params
    settings["n_components"] = model.n_components
    other = SklearnMixture(covariance_type=model.family.unconstrained.name, **settings)
    other.weights_ = model.weights.copy()
    other.means_ = model.means.copy()
    other.covariances_ = model.covariances.copy()
    other.precisions_cholesky_ = model.precisions_cholesky.copy()
    other.precisions_ = model.family.precisions(model.precisions_cholesky)
    other.converged_ = bool(gm.converged_)
    other.n_iter_ = int(gm.n_iter_)
    other.lower_bound_ = float(gm.lower_bound_)
    other.lower_bounds_ = list(gm.lower_bounds_)
    other.n_features_in_ = model.n_features
    if hasattr(gm, "feature_names_in_"):
        other.feature_names_in_ = gm.feature_names_in_
    return other


def plain_parameters(gm: Any) -> dict[str, Any]:
    """The parameters of an estimator that are no objects: what a file keeps of them."""
    plain = (str, int, float, bool, type(None))
    parameters = gm.get_params(deep=False).items()
    return {name: value for name, value in parameters if isinstance(value, plain) and name != "device"}


def from_sklearn(cls: Any, other: object) -> Any:
    """A fitted estimator of class `cls` from a fitted ``sklearn.mixture.GaussianMixture``."""
    from sklearn.mixture import BayesianGaussianMixture
    from sklearn.mixture import GaussianMixture as SklearnMixture

    if isinstance(other, BayesianGaussianMixture) or not isinstance(other, SklearnMixture):
        raise TypeError(
            f"Expected a fitted sklearn.mixture.GaussianMixture; got {type(other).__name__}. "
            "For other models use from_parameters(weights, means, covariances, covariance_type=...)."
        )
    if not hasattr(other, "means_"):
        raise NotFittedError("This scikit-learn GaussianMixture is not fitted yet: call its fit first.")
    settings = {name: getattr(other, name) for name in _SHARED if name != "n_components"}
    gm = from_parameters(
        cls,
        other.weights_ / np.sum(other.weights_),
        other.means_,
        other.covariances_,
        other.covariance_type,
        stopping="change",
        init_params=other.init_params,
        **settings,
    )
    gm.converged_, gm.n_iter_ = bool(other.converged_), int(other.n_iter_)
    gm.lower_bound_ = float(other.lower_bound_)
    gm.lower_bounds_ = [float(value) for value in getattr(other, "lower_bounds_", [other.lower_bound_])]
    if hasattr(other, "feature_names_in_"):
        gm._name_features(other.feature_names_in_)
    return gm


def from_parameters(
    cls: Any,
    weights: ArrayLike,
    means: ArrayLike,
    covariances: ArrayLike,
    covariance_type: str | Covariance = "full",
    **settings: Any,
) -> Any:
    """An estimator of class `cls` that answers as if it had been fitted, from its parameters."""
    return from_mixture(cls, Mixture(weights, means, covariances, covariance_type), **settings)


def from_mixture(cls: Any, model: Mixture, **settings: Any) -> Any:
    """An estimator of class `cls` that answers as if it had been fitted."""
    family = model.family
    gm = cls(
        model.n_components, covariance_type=family.covariance_type, n_factors=family.n_factors or None, **settings
    )  # fmt: skip
    gm._validate_params()
    gm.mixture_ = model
    gm.converged_ = True
    gm.n_iter_ = gm.n_passes_ = 0
    gm.lower_bound_, gm.lower_bounds_ = np.nan, []
    gm.report_ = FitReport(solver="given")
    gm.n_features_in_ = model.n_features
    return gm


def to_json(gm: Any) -> str:
    """The fitted model as JSON text: every number with all its digits, so that `from_json` restores the same bits."""
    model: Mixture = gm.mixture_
    if gm.noise is not None or model.noise_weight > 0:
        raise ValueError("JSON holds no background component. Fit with noise=None, or write a file with save().")
    parameters = plain_parameters(gm)
    document = {
        "format": JSON_FORMAT,
        "version": 1,
        "covariance_type": model.family.name,
        "weights": model.weights,
        "means": model.means,
        "covariances": model.covariances,
        "parameters": {
            k: v for k, v in parameters.items() if k not in ("n_components", "covariance_type", "n_factors")
        },
        "feature_names": list(gm.feature_names_in_) if hasattr(gm, "feature_names_in_") else None,
        "fitted": {name: getattr(gm, name) for name in ("converged_", "n_iter_", "lower_bound_", "n_passes_")},
    }
    return json.dumps(jsonable(document), indent=1, allow_nan=False)


def from_json(cls: Any, text: str) -> Any:
    """The estimator that `to_json` wrote.

    Raises
    ------
    ValueError
        Where the text is not such a document, or its parameters make no mixture.
    """
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("format") != JSON_FORMAT or document.get("version") != 1:
        raise ValueError(f"Expected a JSON document of format {JSON_FORMAT!r}, version 1, as to_json() writes it.")
    missing = {"weights", "means", "covariances", "covariance_type", "parameters", "fitted"} - document.keys()
    if missing:
        raise ValueError(f"The JSON document lacks {sorted(missing)}; write it again with to_json().")
    known = cls._get_param_names()
    parameters = {k: v for k, v in document["parameters"].items() if k in known}
    keys = ("weights", "means", "covariances", "covariance_type")
    gm = from_parameters(cls, *(document[key] for key in keys), **parameters)
    for name, kind in (("converged_", bool), ("n_iter_", int), ("n_passes_", int)):
        setattr(gm, name, kind(document["fitted"][name]))
    bound = document["fitted"]["lower_bound_"]
    gm.lower_bound_ = np.nan if bound is None else float(bound)
    names = document.get("feature_names")
    if names is not None:
        gm._name_features(names)
    return gm
