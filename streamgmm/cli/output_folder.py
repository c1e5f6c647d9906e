"""The folder that `fit --out` writes, and how it is read again."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import streamgmm
from streamgmm.utils.atomic import atomic_path
from streamgmm.utils.jsonable import jsonable

if TYPE_CHECKING:
    from streamgmm.cli.config import Config
    from streamgmm.estimators.mixture_estimator import MixtureEstimator
    from streamgmm.report.history import History

REPORT, CONFIG, HISTORY = "report.json", "config.toml", "history.safetensors"


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"streamgmm": streamgmm.__version__, "python": platform.python_version()}
    for name in ("numpy", "scipy", "numba", "scikit-learn", "zarr"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_folder(
    folder: Path, gm: MixtureEstimator, config: Config, document: dict[str, Any], history: History
) -> None:
    """Write model, report, resolved config and history, each whole or not at all; the model first: disks get full."""
    from streamgmm.cli.config import dump_toml
    from streamgmm.estimators.model_file import MODEL_NAME

    gm.save(folder / MODEL_NAME)
    write_text(folder / REPORT, json.dumps(jsonable(document), allow_nan=False, indent=2) + "\n")
    write_text(folder / CONFIG, dump_toml(config))
    history.save(folder / HISTORY)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def load(where: str) -> MixtureEstimator:
    """The fitted estimator in a folder or a file."""
    return streamgmm.load(where)


def peeked(where: str) -> Any:
    """The result of `load`, as far as a look at a Gaussian mixture asks for it, in a tenth of the time.

    No estimator is made: scikit-learn alone takes a second to import.
    """
    from streamgmm.estimators.model_file import load_model
    from streamgmm.estimators.projection import Projection

    content = load_model(where)
    header, fitted = content.header, content.header.get("fitted")
    names = header.get("feature_names")
    plain = header.get("estimator") == "GaussianMixture" and isinstance(names, list | None)
    if not plain or not isinstance(fitted, dict):
        return load(where)
    projection = Projection.read(content.arrays)
    width = content.mixture.n_features if projection is None else len(projection.shift)
    known = {} if names is None else {"feature_names_in_": names}
    return SimpleNamespace(mixture_=content.mixture, projection_=projection, n_features_in_=width, **known, **fitted)


def feature_names(gm: MixtureEstimator) -> list[str]:
    """Names of the columns of the data that the model speaks of."""
    known = getattr(gm, "feature_names_in_", None)
    return [f"x{j}" for j in range(gm.n_features_in_)] if known is None else [str(name) for name in known]
