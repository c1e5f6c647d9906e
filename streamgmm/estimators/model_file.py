"""A mixture, and what else belongs to a model, in one file; loading runs no code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import ModelFileError
from streamgmm.mixture.mixture import Mixture
from streamgmm.runtime.array_file import MODEL, read_arrays, write_arrays
from streamgmm.sources.opening import near

__all__ = ["ModelFile", "load_model", "save_model"]


MODEL_NAME = "model.safetensors"
"""Name of the model in the folder that `streamgmm fit --out` writes."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Contents of a model file.

    Attributes
    ----------
    mixture : Mixture
    header : dict
        JSON values: estimator parameters, report, feature names; whatever the writer put there.
    arrays : dict of str to array
        Further arrays.
    """

    mixture: Mixture
    header: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


def save_model(
    path: str | os.PathLike[str],
    mixture: Mixture,
    *,
    header: Mapping[str, Any] | None = None,
    arrays: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Write a mixture, and what else belongs to a model, to one safetensors file.

    Parameters
    ----------
    mixture : Mixture
        Written as float64 ``weights``, ``means`` and ``covariances``, and ``box`` where there is a background.
    header : JSON values, optional
    arrays : further arrays, optional
    """
    parts = {"weights": mixture.weights, "means": mixture.means, "covariances": mixture.covariances}
    if mixture.box is not None:
        parts["box"] = mixture.box
    clash = parts.keys() & (arrays or {}).keys()
    if clash:
        raise ValueError(f"arrays must not be called {sorted(clash)}: those names belong to the mixture.")
    content = {
        "covariance_type": mixture.family.name,
        "noise_weight": mixture.noise_weight,
        "missing": "marginalize" if mixture.missing else "error",
        "header": dict(header or {}),
    }
    write_arrays(path, {**parts, **(arrays or {})}, content, MODEL)


def model_path(where: str | os.PathLike[str]) -> Path:
    """The model file meant by a file or by the folder that `streamgmm fit --out` wrote.

    Raises
    ------
    FileNotFoundError
        Where nothing is there, naming what is near, or where a folder holds no model.
    """
    path = Path(where)
    if path.is_dir():
        if not (path / MODEL_NAME).exists():
            raise FileNotFoundError(
                f"{where}: holds no {MODEL_NAME}. Expected a folder that fit --out wrote, or a model file."
            )
        return path / MODEL_NAME
    if not path.exists():
        raise FileNotFoundError(f"{where}: no such file or folder. Check the path{near(os.fspath(where))}")
    return path


def load_model(path: str | os.PathLike[str]) -> ModelFile:
    """Read a model file, or the one in a folder that `streamgmm fit --out` wrote.

    Raises
    ------
    ModelFileError
        Where the file is damaged, forged, of a later version, or holds no valid mixture.
    OSError
        Where the file cannot be opened.
    """
    path = model_path(path)
    arrays, content = read_arrays(path, MODEL)
    try:
        weights, means, covariances = (_float64(arrays, name) for name in ("weights", "means", "covariances"))
        mixture = Mixture(
            weights,
            means,
            covariances,
            covariance_type=str(content["covariance_type"]),
            noise_weight=float(content.get("noise_weight", 0.0)),
            box=_float64(arrays, "box") if "box" in arrays else None,
            missing=str(content.get("missing", "error")),
        )
        header = content["header"]
        if not isinstance(header, dict):
            raise ValueError("the header must be a JSON object")
    except KeyError as error:
        raise ModelFileError(f"{os.fspath(path)}: holds no {error.args[0]!r}; not a complete model.") from None
    except ValueError as error:
        raise ModelFileError(f"{os.fspath(path)}: holds no valid mixture: {error}") from None
    return ModelFile(mixture, header, arrays)


def _float64(arrays: dict[str, NDArray[Any]], name: str) -> NDArray[np.float64]:
    array = arrays.pop(name)
    if array.dtype != np.float64:
        raise ValueError(f"{name} must be float64, found {array.dtype}")
    return array
