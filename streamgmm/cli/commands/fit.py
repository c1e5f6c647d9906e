"""`streamgmm fit`."""

from __future__ import annotations

import errno
import inspect
import os
import shlex
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamgmm.cli import completion
from streamgmm.cli.preprocessing import Prepared, leaving_out_late_text, open_rows, prepare
from streamgmm.cli.terminal import (
    NOT_CONVERGED,
    Device,
    Exclude,
    Header,
    Id,
    Json,
    as_option,
    components,
    emit,
    facts,
    message,
    names_of,
    one_or_more,
    stderr_console,
)  # fmt: skip
from streamgmm.errors import ConfigError
from streamgmm.sources.base import Source

if TYPE_CHECKING:
    from streamgmm.cli.config import Config
    from streamgmm.estimators.mixture_estimator import MixtureEstimator

NEXT = "next: streamgmm report {0}   streamgmm inspect {0}   streamgmm predict {0} {1} --out labels.csv"
GO_ON = "not converged (exit code 3). To go on: {}"
UNFINISHED = "not converged (exit code 3): allow more with --set max_iter=1000, or ask less with --set tol=1e-4"
What = Annotated[
    list[str],
    typer.Argument(metavar="CONFIG.toml | DATA...", help="A config, or data.", show_default=False),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="A config key: fit.tol=1e-8.",
        autocompletion=completion.settings,
    ),
]
Folder = Annotated[str | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for model and report.")]


Covariance = Annotated[
    str | None,
    typer.Option(help="full, tied, diag, VEV, factor ...", autocompletion=completion.covariances),
]
Columns = Annotated[str | None, typer.Option("--columns", metavar="A,B,...", help="Columns to use (all numeric).")]
Scale = Annotated[bool | None, typer.Option("--scale", help="Scale to deviation 1 first.")]
Pca = Annotated[str | None, typer.Option("--pca", metavar="N", help="Fit principal components.")]


def configured(what: list[str], settings: list[str] | None, *, pathless: tuple[str, ...] = (), **given: Any) -> Config:
    """The config meant by a path to a config or paths to data, options given, and ``--set``; the later ones win.

    `pathless` are the values of ``stream.source`` with which [data] need not name a path.
    """
    from streamgmm.cli.config import load_config, parse_value

    options = {key.replace("__", "."): value for key, value in given.items() if value is not None}
    for key in ("data.columns", "data.exclude"):
        if key in options:
            options[key] = names_of(options[key])
    if "data.pca" in options:
        options["data.pca"] = parse_value(options["data.pca"])
    configs = [word for word in what if word.endswith(".toml")]
    if configs and len(what) > 1:
        raise ConfigError(f"{configs[0]}: a config is given alone; it names its data in [data] path.")
    if configs:
        config = load_config(configs[0], options, settings or ())
    else:
        config = load_config(None, {"data.path": one_or_more(what)}, options, settings or ())
    if config.data.path is None and config.stream.source not in pathless:
        raise ConfigError(f"{what[0]}: no data named. Add path = ... to its [data], or --set data.path=...")
    return config


def open_data(config: Config) -> tuple[Any, Config]:
    """The rows that [data] names, and the config with the columns that are used."""
    chosen = config.data.model_dump(exclude={"path", "scale", "pca", "id"}, exclude_defaults=True)
    if config.data.id is not None and config.data.columns is None:
        chosen["exclude"] = [*chosen.get("exclude", ()), config.data.id]
    source = open_rows(config.data.path, **chosen)
    if config.data.columns is None and source.feature_names is not None:
        data = config.data.model_copy(update={"columns": list(source.feature_names), "exclude": None})
        config = config.model_copy(update={"data": data})
    return source, config


def estimator(config: Config) -> MixtureEstimator:
    """A `GaussianMixture` with the config's parameters, or a Bayesian one."""
    import streamgmm

    kind: type[MixtureEstimator] = (
        streamgmm.BayesianGaussianMixture if config.model.bayesian else streamgmm.GaussianMixture
    )
    known = inspect.signature(kind).parameters
    changed = {k: v for name in ("model", "fit", "compute") for k, v in getattr(config, name).model_dump().items()}
    changed.pop("scheduler")  # `run_fit` connects to it
    changed.pop("bayesian")
    defaults = type(config)().flat()
    unknown = [key for key, value in changed.items() if key not in known and value != defaults[key]]
    if unknown:
        which = "fit of a Bayesian mixture" if config.model.bayesian else "fit without model.bayesian = true"
        raise ConfigError(f"{', '.join(unknown)}: not understood by {which}.")
    return kind(**{key: value for key, value in changed.items() if key in known})


def fit(
    what: What,
    components: Annotated[int | None, typer.Option("-k", "--components", help="Number of Gaussians.")] = None,
    covariance: Covariance = None,
    factors: Annotated[int | None, typer.Option(metavar="Q", help="Of factor, ppca.")] = None,
    bayesian: Annotated[bool | None, typer.Option("--bayesian", help="Infer how many are needed.")] = None,
    columns: Columns = None,
    exclude: Exclude = None,
    header: Header = None,
    id: Id = None,
    scale: Scale = None,
    pca: Pca = None,
    settings: Settings = None,
    out: Folder = None,
    device: Device = None,
    json: Json = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard a checkpoint.")] = False,
    warm_start: Annotated[
        str | None, typer.Option("--warm-start", metavar="MODEL", help="Go on from a fitted model.")
    ] = None,
) -> None:
    """Fit a mixture to data of any size, by exact EM.

    Exit code 3: finished, but not converged.
    """
    begin = None if warm_start is None else beginning(warm_start, components, covariance)
    if begin is not None:
        components, covariance = begin.n_components, begin.covariance_type
        factors, bayesian = getattr(begin, "n_factors", None), hasattr(begin, "n_components_in_use_") or None
        columns = columns or columns_of(begin, what, exclude)
    config = configured(
        what, settings, model__n_components=components, model__covariance_type=covariance,
        model__n_factors=factors, model__bayesian=bayesian, output__dir=out,
        data__columns=columns, data__exclude=exclude, data__header=header, data__id=id, data__scale=scale,
        data__pca=pca, compute__device=device,
    )  # fmt: skip
    document, _ = run_fit(config, fresh=fresh, begin=begin)
    if json:
        emit(document)
    else:
        print(summary(document))
    if not document["converged"]:
        message(UNFINISHED if config.output.dir is None else GO_ON.format(continued(config)))
        raise typer.Exit(NOT_CONVERGED)


def continued(config: Config) -> str:
    """The command that goes on from the model of a config, with the same settings."""
    folder = shlex.quote(str(config.output.dir))
    return f"streamgmm fit {folder}/config.toml --warm-start {folder} --set max_iter=1000"


def beginning(model: str, components: int | None, covariance: str | None) -> Any:
    """The fitted estimator in `model`, for `--warm-start`.

    Raises
    ------
    ConfigError
        Where it was fitted to principal components, or another model is asked for.
    """
    from streamgmm.cli.output_folder import load

    gm = load(model)
    if gm.projection_ is not None:
        raise ConfigError(
            f"--warm-start {model}: was fitted to principal components, which cannot be gone on with here. Fit anew."
        )
    for name, asked, has in (("-k", components, gm.n_components), ("--covariance", covariance, gm.covariance_type)):
        if asked not in (None, has):
            raise ConfigError(f"--warm-start {model}: has {name} {has}; got {name} {asked}. Leave {name} out.")
    return gm


def columns_of(gm: MixtureEstimator, what: list[str], exclude: str | None) -> str | None:
    """The columns that a model was fitted to, as --columns takes them; None where others say, or nobody named them."""
    named = getattr(gm, "feature_names_in_", None)
    config = any(word.endswith(".toml") for word in what)
    return None if named is None or config or exclude is not None else as_option(map(str, named))


@contextmanager
def telling_what_is_kept(config: Config) -> Iterator[None]:
    """Where Ctrl-C ends the work, say whether the same command will go on."""
    try:
        yield
    except KeyboardInterrupt:
        where = config.compute.checkpoint
        message(
            "interrupted: nothing was kept; with --set checkpoint=DIR the same command would go on"
            if where is None
            else f"interrupted: the same command goes on from the checkpoint in {where}"
        )
        raise


@leaving_out_late_text
def run_fit(config: Config, *, fresh: bool = False, begin: Any = None) -> tuple[dict[str, Any], Any]:
    """Fit, show progress, write the output folder; what happened, and the estimator.

    Parameters
    ----------
    begin : fitted estimator, optional
        Where to go on.
    """
    from streamgmm.cli.commands.warmup import compile_kernels

    gm = estimator(config)
    raw, config = open_data(config)
    folder = config.output.dir
    with ExitStack() as stack:
        stack.enter_context(telling_what_is_kept(config))
        if config.compute.scheduler is not None:
            from streamgmm.runtime.dask import connected

            gm.executor = stack.enter_context(connected(config.compute.scheduler))
        if folder is not None:
            stack.enter_context(output_folder(Path(folder)))
        message(f"{raw.name}: {rows_of(raw)}; K = {gm.n_components}, {gm.covariance_type} covariances")
        compiled = compile_kernels((gm.covariance_type,), gm.n_components, raw)
        ready = prepare(config, raw, gm.executor)
        if begin is not None:
            gm = begin.set_params(**{**gm.get_params(), "warm_start": True})
            ready.go_on(gm)
        if fresh:
            gm.discard_checkpoint(ready.source)
        history = follow(gm, ready)
        ready.restore(gm)
        gm.set_params(warm_start=False)
        document = {**outcome(gm, ready, config), "compile_seconds": compiled}
        document["passes"] += ready.passes
        if folder is not None:
            from streamgmm.cli.output_folder import write_folder

            write_folder(Path(folder), gm, config, document, history)
            message(f"written: {folder}/model.safetensors, report.json, config.toml")
            message(NEXT.format(shlex.quote(folder), words_of(config)))
    return document, gm


def words_of(config: Config) -> str:
    """The data of a config as words of a command."""
    path = config.data.path
    return shlex.join([path] if isinstance(path, str) else path or [])


def rows_of(source: Source) -> str:
    """Size of a source in words."""
    rows = "rows unknown before reading" if source.n_rows is None else f"{source.n_rows:,} rows"
    chunks = "" if source.n_chunks is None else f", {source.n_chunks:,} chunk{'s' * (source.n_chunks != 1)}"
    return f"{rows} x {source.n_features} {source.dtype}{chunks}"


def follow(gm: MixtureEstimator, ready: Prepared) -> Any:
    """Fit with live progress; the path that the models took, in the units of the data, for pictures."""
    from sklearn.exceptions import ConvergenceWarning

    from streamgmm.report.history import History
    from streamgmm.report.progress import ProgressLine, showing

    source = ready.source
    history = History(ready.mixture)
    with showing(ProgressLine(gm.tol, gm.max_iter), stderr_console()), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the exit code says it
        for step in gm.fit_steps(source, watcher=history):
            history.add(step)
    history.offset = -ready.per_row(gm)
    return history


def outcome(gm: MixtureEstimator, ready: Prepared, config: Config) -> dict[str, Any]:
    """Contents of `report.json` about a fit."""
    from streamgmm.cli.output_folder import versions

    raw = ready.raw
    shown = getattr(gm, "components_in_use_", slice(None))
    means = gm.means_[shown]
    return {
        "data": {"path": config.data.path, "rows": gm.report_.get("rows"), "features": raw.n_features},
        "feature_names": None if raw.feature_names is None else list(raw.feature_names),
        "means": means if gm.projection_ is None else gm.projection_.back(means),
        "weights": gm.weights_[shown],
        "n_components": gm.n_components,
        "covariance_type": gm.covariance_type,
        "converged": bool(gm.converged_),
        **level(gm),
        "passes": gm.n_passes_,
        "iterations": gm.n_iter_,
        "trace": list(gm.lower_bounds_),
        **{key: value for key, value in gm.report_.items() if key not in ("converged", "n_iter", "n_passes")},
        "versions": versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def level(gm: MixtureEstimator) -> dict[str, Any]:
    """Value that the fit has reached per row: log-likelihood, or evidence and its bound of a Bayesian mixture."""
    if not hasattr(gm, "n_components_in_use_"):
        return {"log_likelihood_per_row": getattr(gm, "lower_bound_", None)}
    evidence = gm.lower_bounds_[-1] if gm.lower_bounds_ else None
    rows = gm.report_.get("weight")
    return {
        "evidence": evidence,
        "evidence_per_row": None if evidence is None or not rows else evidence / rows,
        "components_in_use": gm.n_components_in_use_,
    }


def level_words(document: dict[str, Any]) -> list[tuple[str, Any]]:
    """`level` in words, with a number for whoever reads it."""
    names = {
        "log_likelihood_per_row": "log-likelihood per row",
        "evidence_per_row": "evidence bound per row",
        "components_in_use": "components in use",
    }
    found = [(names[name], document[name]) for name in names if document.get(name) is not None]
    return [(name, f"{value:.6f} nats" if isinstance(value, float) else value) for name, value in found]


def summary(document: dict[str, Any]) -> str:
    """Summary of a fit for a person."""
    seconds = document["seconds"]["total"]
    rows, passes = document.get("rows") or 0, document["passes"]
    memory = document["memory"]
    lines = [
        ("rows", rows),
        ("passes over the data", passes),
        ("time", f"{seconds:.1f} s ({rows * passes / max(seconds, 1e-9):,.0f} rows/s)"),
        ("compile time", f"{document['compile_seconds']:.1f} s"),
        ("resident memory", _memory(memory)),
        *level_words(document),
        ("BIC", None if "bic" not in document else f"{document['bic']:.1f}"),
        ("converged", document["converged"]),
        ("repairs", len(document["repairs"]) or None),
    ]
    return f"{facts(lines)}\n\n{components(document['weights'], document['means'], document['feature_names'])}"


def _memory(memory: dict[str, int | None]) -> str | None:
    if memory["before"] is None or memory["peak"] is None:
        return None
    before, peak = memory["before"], memory["peak"]
    return (
        f"{before / 1e6:.0f} MB before the first row, {peak / 1e6:.0f} MB at the peak (+{(peak - before) / 1e6:.0f} MB)"
    )


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Make the folder now, so that a fit of hours cannot fail on it; take it away again if the work fails."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    try:
        yield
    except BaseException:
        if made and not any(folder.iterdir()):
            folder.rmdir()
        raise
