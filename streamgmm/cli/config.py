"""TOML configs: sections, keys, meanings and defaults; what is not known is refused with a suggestion."""

from __future__ import annotations

import difflib
import glob
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamgmm.errors import ConfigError

__all__ = ["Config", "dump_toml", "load_config", "parse_value"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSection(_Section):
    """Source of the rows."""

    path: str | list[str] | None = Field(
        default=None, description="file, folder, pattern or URL of the data; or a list of them"
    )
    columns: list[str] | None = Field(default=None, description="columns to use; all numeric ones by default")
    exclude: list[str] | None = Field(default=None, description="columns to leave out, where columns is not set")
    header: bool | None = Field(default=None, description="the first line of a CSV names its columns; None: it is seen")
    weight: str | None = Field(default=None, description="column of sample weights")
    id: str | None = Field(default=None, description="column that names the rows, on the report page; no feature")
    chunk_rows: int | None = Field(default=None, gt=0, description="rows per chunk where the format has none")
    missing_chunks: Literal["error", "skip", "fill"] = Field(default="error", description="what an absent chunk means")
    scale: bool = Field(default=False, description="each feature to mean 0 and deviation 1 before the fit")
    pca: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="fit so many principal components, or as many as hold this share of the variance"
    )


CovarianceType = Literal[
    "full", "tied", "diag", "spherical",
    "EII", "VII", "EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV", "VVV",
    "factor", "factor-shared", "ppca",
]  # fmt: skip


class ModelSection(_Section):
    """The [model] section: the mixture that is fitted."""

    n_components: int = Field(default=1, ge=1, description="K, the number of Gaussians")
    covariance_type: CovarianceType = "full"
    n_factors: int | None = Field(default=None, ge=1, description="of factor, factor-shared and ppca")
    reg_covar: float = Field(default=1e-6, ge=0, description="added to every variance, in squared units of the data")
    missing: Literal["error", "marginalize"] = Field(default="error", description="what NaN means")
    on_collapse: Literal["repair", "raise"] = "repair"
    prior: Literal["default"] | None = None
    noise: Literal["uniform"] | None = None
    bayesian: bool = Field(default=False, description="infer how many of n_components are needed; fit only")
    weight_concentration_prior_type: Literal["dirichlet_process", "dirichlet_distribution"] = "dirichlet_process"
    weight_concentration_prior: float | None = Field(default=None, gt=0, description="bayesian; 1 / n_components")
    mean_precision_prior: float | None = Field(
        default=None, gt=0, description="bayesian; rows that the prior mean counts for"
    )
    degrees_of_freedom_prior: float | None = Field(default=None, gt=0, description="bayesian; above features - 1")


class FitSection(_Section):
    """The [fit] section: how it is fitted."""

    solver: Literal["auto", "exact", "squarem", "incremental", "stepwise"] = "auto"
    stopping: Literal["aitken", "change"] = "aitken"
    tol: float = Field(default=1e-6, ge=0, description="nats per row")
    max_iter: int = Field(default=100, ge=0)
    n_init: int = Field(default=1, ge=1, description="starts; all share every pass")
    init_params: Literal["kmeans", "k-means++", "kmeans||", "random", "random_from_data"] = "kmeans"
    moves: int = Field(default=0, ge=0, description="split-and-merge moves of each start on the sample; fit only")
    random_state: int | None = Field(default=0, ge=0)
    half_life: float | None = Field(default=None, gt=0)
    max_time: float | None = Field(default=None, gt=0, description="seconds")


class ComputeSection(_Section):
    """Where and within what it runs."""

    executor: Literal["threads", "dask"] | None = None
    scheduler: str | None = Field(default=None, description="address of a Dask scheduler")
    n_jobs: int | None = None
    device: str | None = Field(
        default=None, pattern=r"^(cpu|cuda(:\d+)?)$", description='"cuda" or "cuda:N": a graphics card for passes of EM'
    )
    memory_limit: str | int | None = Field(default=None, description='such as "2GB"')
    checkpoint: str | None = Field(default=None, description="folder")


class SelectSection(_Section):
    """The [select] section: what `streamgmm select` compares."""

    k_min: int = Field(default=1, ge=1)
    k_max: int = Field(default=15, ge=1)
    covariance_types: list[CovarianceType | Literal["mclust"]] = Field(
        default=["full"], description='"mclust" stands for the fourteen structures of mclust'
    )
    factors: list[int] | None = Field(default=None, description="numbers of factors to try, for factor analysers")
    criterion: Literal["bic", "aic", "icl", "heldout", "cv"] = "bic"
    folds: int = Field(default=5, ge=2, description='of which "heldout" leaves one out, "cv" each in turn')


class StreamSection(_Section):
    """The [stream] section: what `streamgmm stream` reads and does; [data] path and columns say where."""

    source: Literal["auto", "lines", "arrow", "zarr", "parquet", "kafka", "redis", "synthetic"] = Field(
        default="auto", description='by [data] path: a file, a folder, or "-" for lines from standard input'
    )
    format: Literal["auto", "ndjson", "csv", "float64"] = Field(default="auto", description="of lines and of messages")
    width: int | None = Field(default=None, ge=1, description="numbers per row, where no columns are named")
    follow: bool = Field(default=False, description="wait for more at the end")
    servers: str | None = Field(default=None, description="Kafka: host:port,...; Redis: redis://host:port/0")
    topic: str | None = Field(default=None, description="Kafka; Redis: key of the stream")
    group: str = Field(default="streamgmm", description="Kafka: under which offsets are shown")
    idle: float | None = Field(default=None, gt=0, description="Kafka, Redis: end after so many seconds with nothing")
    snapshot: str | None = Field(default=None, description="the one file that a restart needs")
    snapshot_rows: float = Field(default=1e6, gt=0, description="a snapshot is due after so many rows")
    snapshot_seconds: float = Field(default=10.0, gt=0, description="or so many seconds")
    anomaly_rate: float | None = Field(default=None, gt=0, lt=1, description="share of rows to call anomalies")
    on_drift: Literal["report", "boost", "reset"] = "report"
    false_alarms: float | None = Field(default=1e-3, gt=0, le=0.25, description="per step while nothing changes")
    on_bad: Literal["set aside", "raise"] = Field(default="set aside", description="rows with NaN, other widths, text")
    on_jump: Literal["raise", "count"] = Field(default="raise", description="missing rows")
    restructure: bool = Field(default=False, description="merge components that are one, and use the freed one")
    step_rows: int | None = Field(default=None, ge=1, description="rows per update; about 10 K D by default")
    max_rows: int | None = Field(default=None, ge=1, description="end after so many")
    metrics: str | None = Field(default=None, description="file of JSON lines")
    metrics_seconds: float = Field(default=1.0, gt=0)
    anomalies: str | None = Field(default=None, description="file of JSON lines, one for each anomaly")
    dead_letters: str | None = Field(default=None, description="file of JSON lines for records that are no rows")


class OutputSection(_Section):
    """The [output] section: what is left behind."""

    dir: str | None = Field(default=None, description="folder for the model, the report and the resolved config")
    sample_rows: int = Field(default=2000, ge=0, description="rows drawn for pictures, kept in the folder")


class Config(_Section):
    """A whole config."""

    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    fit: FitSection = FitSection()
    compute: ComputeSection = ComputeSection()
    select: SelectSection = SelectSection()
    stream: StreamSection = StreamSection()
    output: OutputSection = OutputSection()

    def flat(self) -> dict[str, Any]:
        """Every key with its value; keys are unique over the sections."""
        return {key: value for section in self.model_dump().values() for key, value in section.items()}


_SECTIONS: dict[str, tuple[str, ...]] = {
    name: tuple(type(getattr(Config(), name)).model_fields) for name in Config.model_fields
}


def load_config(path: str | os.PathLike[str] | None = None, *settings: Mapping[str, Any] | Iterable[str]) -> Config:
    """The config at `path` (the defaults without one) with `settings` laid over it, one after the other.

    Parameters
    ----------
    settings : ``["fit.tol=1e-8", ...]`` (the section may be left out) or ``{"fit.tol": 1e-8}``
        Texts after ``=`` are TOML values; what is not one is taken as a string.

    Raises
    ------
    ConfigError
        Where the file cannot be read, a section or key is unknown, or a value is not allowed.

    Examples
    --------
    >>> load_config(None, ["tol=1e-8", "model.covariance_type=diag"]).fit.tol
    1e-08
    """
    name = "settings" if path is None else os.fspath(path)
    tree: dict[str, Any] = {} if path is None else _read(Path(path))
    _move(tree)
    for section, keys in tree.items():
        if section not in _SECTIONS:
            hint = _key_hint(section) or _suggest(section, _SECTIONS)
            raise ConfigError(f"{name}: unknown section [{section}]{hint} Sections: {', '.join(_SECTIONS)}.")
        if not isinstance(keys, dict):
            raise ConfigError(f"{name}: [{section}] must be a section with keys, got {keys!r}.")
        for key in keys:
            if key not in _SECTIONS[section]:
                raise ConfigError(f"{name}: unknown key {key!r} in [{section}]{_hint(section, key)}")
    for where, value in chain.from_iterable(map(_pairs, settings)):
        section, key = _find(where)
        tree.setdefault(section, {})[key] = value
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][:2])
        words = first["msg"][:1].lower() + first["msg"][1:]
        raise ConfigError(f"{name}: {place} = {first['input']!r}: {words}.") from None
    if path is not None:
        config = _absolute(config, Path(path).resolve().parent)
    return config


_MOVED = {("stream", "header"): "data"}
"""Keys that were in another section, and where they are now."""


def _move(tree: dict[str, Any]) -> None:
    """Put keys of configs of before where they are now."""
    for (section, key), now in _MOVED.items():
        keys = tree.get(section)
        if isinstance(keys, dict) and key in keys:
            tree.setdefault(now, {}).setdefault(key, keys.pop(key))


def _absolute(config: Config, folder: Path) -> Config:
    """Paths in a file are meant from where the command runs unless only the file's own folder has them."""
    path = config.data.path
    if path is None:
        return config
    found = _beside(path, folder) if isinstance(path, str) else [_beside(one, folder) for one in path]
    return config.model_copy(update={"data": config.data.model_copy(update={"path": found})})


def _beside(path: str, folder: Path) -> str:
    file = path.split("::")[0]
    if "://" in path or path.startswith("~") or glob.glob(glob.escape(file)) or glob.glob(file):
        return path
    beside = folder / file
    return str(folder / path) if beside.exists() or glob.glob(glob.escape(f"{folder}/") + file) else path


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file. Check the path, or give the data themselves.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from None


def _pairs(settings: Mapping[str, Any] | Iterable[str]) -> list[tuple[str, Any]]:
    if isinstance(settings, Mapping):
        return list(settings.items())
    pairs = []
    for text in settings:
        where, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: expected key=value, for instance --set fit.tol=1e-8.")
        pairs.append((where.strip(), parse_value(value.strip())))
    return pairs


def parse_value(text: str) -> Any:
    """A TOML value; what is not one is a text, and the word none is None."""
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _find(where: str) -> tuple[str, str]:
    """Section and key of ``section.key`` or of a ``key`` alone."""
    section, dot, key = where.rpartition(".")
    section = _MOVED.get((section, key), section)
    if dot and section in _SECTIONS:
        if key in _SECTIONS[section]:
            return section, key
        raise ConfigError(f"unknown key {key!r} in [{section}]{_hint(section, key)}")
    if dot:
        raise ConfigError(f"unknown section [{section}]{_suggest(section, _SECTIONS)}")
    homes = [name for name, keys in _SECTIONS.items() if key in keys]
    if not homes:
        raise ConfigError(f"unknown key {key!r}{_hint('', key)}")
    return homes[0], key


def _hint(section: str, key: str) -> str:
    return _key_hint(key) or _suggest(key, _SECTIONS.get(section, ())) if section else _suggest_any(key)


def _key_hint(key: str) -> str:
    homes = [name for name, keys in _SECTIONS.items() if key in keys]
    return f": it belongs in [{homes[0]}]." if homes else ""


def _suggest(word: str, words: Iterable[str]) -> str:
    words = list(words)
    near = difflib.get_close_matches(word, words, 1, 0.6)
    if near:
        return f": did you mean {near[0]!r}?"
    return _suggest_any(word) if words and set(words) != set(_SECTIONS) else "."


def _suggest_any(word: str) -> str:
    everything = {key: section for section, keys in _SECTIONS.items() for key in keys}
    near = difflib.get_close_matches(word, everything, 1, 0.6)
    if near:
        return f": did you mean {near[0]!r} in [{everything[near[0]]}]?"
    return f". Known keys: {', '.join(everything)}."


def dump_toml(config: Config) -> str:
    """The config as TOML, every key written out; keys without a value as comments."""
    lines = []
    for name, section in config.model_dump().items():
        lines.append(f"[{name}]")
        for key, value in section.items():
            lines.append(f"# {key} is not set" if value is None else f"{key} = {_toml(value)}")
        lines.append("")
    return "\n".join(lines)


def _toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, float) and value in (float("inf"), -float("inf")):
        return "inf" if value > 0 else "-inf"
    return json.dumps(value)  # strings, numbers and booleans are written alike in JSON and TOML
