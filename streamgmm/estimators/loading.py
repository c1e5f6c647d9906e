"""`load`: the model in a file, as the estimator that wrote it."""

from __future__ import annotations

from os import PathLike

import numpy as np

from streamgmm.em.online.state import state_of_version_1
from streamgmm.errors import ModelFileError
from streamgmm.estimators.bayesian_mixture import BayesianGaussianMixture
from streamgmm.estimators.fit_report import FitReport
from streamgmm.estimators.gaussian_mixture import GaussianMixture
from streamgmm.estimators.mixture_estimator import SAVED, STREAM, MixtureEstimator
from streamgmm.estimators.model_file import ModelFile, load_model
from streamgmm.estimators.projection import Projection
from streamgmm.runtime.encoding import is_packed, unpacked
from streamgmm.sources.gathered import Gathering

__all__ = ["load"]


def load(path: str | PathLike[str]) -> GaussianMixture | BayesianGaussianMixture:
    """The model that `GaussianMixture.save` or `streamgmm fit --out` wrote. Nothing in the file is run.

    Parameters
    ----------
    path : path
        A model file, or the folder that `streamgmm fit --out` wrote.

    Raises
    ------
    ModelFileError
        Where the file is damaged, forged, or of a later version.
    FileNotFoundError
        Where there is no such file, or no model in the folder.

    Examples
    --------
    >>> import numpy as np, os, tempfile, streamgmm as sg
    >>> gm = sg.GaussianMixture(2, random_state=0).fit(np.arange(12.0).reshape(6, 2))
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> gm.save(path)
    >>> bool((sg.load(path).means_ == gm.means_).all())
    True
    """
    content = load_model(path)
    bayesian = content.header.get("estimator") == BayesianGaussianMixture.__name__
    try:
        return _restored(BayesianGaussianMixture if bayesian else GaussianMixture, content)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        kind = "BayesianGaussianMixture" if bayesian else "GaussianMixture"
        raise ModelFileError(f"{path}: its header does not describe a {kind}: {error}") from None


def _restored[Kind: MixtureEstimator](cls: type[Kind], content: ModelFile) -> Kind:
    known = cls._get_param_names()
    parameters = {k: v for k, v in dict(content.header["parameters"]).items() if k in known}
    gm = cls(**parameters)
    gm._validate_params()
    for name, kind in SAVED.items():
        if name in content.header["fitted"]:
            setattr(gm, name, _value(name, kind, content.header["fitted"][name]))
    gm.mixture_ = gm._mixture_of(content)
    gm.n_features_in_ = content.mixture.n_features
    gm.gathering_ = Gathering.read(content.arrays, content.mixture.n_features)
    projection = Projection.read(content.arrays)
    if projection is not None:
        gm.project(projection)
    names = content.header["feature_names"]
    if names is not None:
        if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
            raise ValueError("feature_names must be a list of texts")
        gm._name_features(names)
    arrays = {name.removeprefix(STREAM): array for name, array in content.arrays.items() if name.startswith(STREAM)}
    if is_packed(arrays):
        gm._stream().restore(unpacked(arrays))
    elif content.header.get("stream") is not None:
        gm._stream().restore(state_of_version_1(arrays, content.header["stream"]))
    return gm


def _value(name: str, kind: type, stored: object) -> object:
    """A fitted attribute of the type it has, of JSON, where NaN and infinity are null."""
    if kind is list and isinstance(stored, list):
        return [_value(name, float, each) for each in stored]
    if kind is float and (stored is None or (isinstance(stored, int | float) and not isinstance(stored, bool))):
        return np.nan if stored is None else float(stored)
    if kind is FitReport and isinstance(stored, dict):
        return FitReport(stored)
    if type(stored) is not kind:
        raise ValueError(f"{name} must be of type {kind.__name__}; got {str(stored)[:40]!r}")
    return stored
