"""`streamgmm select`: the whole workflow, from a range of K to a page about the chosen one."""

from __future__ import annotations

import inspect
import shlex
import time
import warnings
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamgmm.cli import completion
from streamgmm.cli.commands.fit import (  # fmt: skip
    GO_ON,
    NEXT,
    UNFINISHED,
    Columns,
    Pca,
    Scale,
    Settings,
    What,
    configured,
    continued,
    follow,
    open_data,
    outcome,
    output_folder,
    rows_of,
    words_of,
)
from streamgmm.cli.preprocessing import Prepared, leaving_out_late_text, prepare
from streamgmm.cli.terminal import (
    NOT_CONVERGED,
    Device,
    Exclude,
    Header,
    Id,
    Json,
    emit,
    message,
    stderr_console,
    table,
)
from streamgmm.errors import ConfigError
from streamgmm.runtime.executors import Executor
from streamgmm.runtime.peak_memory import Peak

if TYPE_CHECKING:
    from streamgmm.cli.config import Config
    from streamgmm.estimators.mixture_estimator import MixtureEstimator
    from streamgmm.estimators.selection import Selection
    from streamgmm.report.history import History

NEXT_OF_PAGE = "next: open {0}/report.html   streamgmm inspect {0}   streamgmm predict {0} {1} --out labels.csv"
N_INIT = 10
"""Starts of each K, where none are asked for."""

Folder = Annotated[str | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for the chosen model.")]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--covariance",
        help="full, tied, diag, spherical, VEV, mclust (all 14), factor.",
        autocompletion=completion.covariances,
    ),
]
Criterion = Annotated[
    str | None, typer.Option(help="bic, aic, icl, heldout or cv.", autocompletion=completion.criteria)
]
Factors = Annotated[list[int] | None, typer.Option("--factors", metavar="Q", help="Of factor; repeatable.")]


def select(
    what: What,
    k_min: Annotated[int | None, typer.Option("--k-min", help="Smallest K (1).")] = None,
    k_max: Annotated[int | None, typer.Option("--k-max", help="Largest K (15).")] = None,
    covariance: Kinds = None,
    factors: Factors = None,
    criterion: Annotated[
        str | None, typer.Option(help="bic, aic, icl, heldout or cv.", autocompletion=completion.criteria)
    ] = None,
    columns: Columns = None,
    exclude: Exclude = None,
    header: Header = None,
    id: Id = None,
    scale: Scale = None,
    pca: Pca = None,
    settings: Settings = None,
    out: Folder = None,
    report: Annotated[bool, typer.Option("--report", help="Also write DIR/report.html.")] = False,
    proba: Annotated[str | None, typer.Option("--proba", metavar="FILE", help="Write every row's soft labels.")] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Choose K: all candidates on the same passes over the data.

    Fits the chosen one to the end and says what an expert would of it.
    """
    from streamgmm.cli.writers import check_out

    config = configured(
        what, settings, select__k_min=k_min, select__k_max=k_max, select__covariance_types=covariance,
        select__factors=factors,
        select__criterion=criterion, output__dir=out or ("out/selected" if report else None), data__columns=columns,
        data__exclude=exclude, data__header=header, data__id=id, data__scale=scale, data__pca=pca,
        compute__device=device,
    )  # fmt: skip
    check_out(proba)
    document = run_select(config, report=report, proba=proba)
    if json:
        emit(document)
    else:
        print(_table(document))
    if not document["converged"]:
        message(UNFINISHED if config.output.dir is None else GO_ON.format(continued(config)))
        raise typer.Exit(NOT_CONVERGED)


@leaving_out_late_text
def run_select(config: Config, *, report: bool, proba: str | None = None) -> dict[str, Any]:
    """Sweep, choose, finish the fit, write the folder, the soft labels and the page; what happened."""
    from streamgmm.cli.commands.report import remarks
    from streamgmm.cli.commands.warmup import compile_kernels
    from streamgmm.cli.output_folder import write_folder
    from streamgmm.cli.writers import write_rows
    from streamgmm.report.history import History
    from streamgmm.report.progress import ProgressLine, showing

    config = _checked(config)
    chosen = config.select
    raw, config = open_data(config)
    folder = config.output.dir
    with ExitStack() as stack:
        executor: Executor | str | None = config.compute.executor
        if config.compute.scheduler is not None:
            from streamgmm.runtime.dask import connected

            executor = stack.enter_context(connected(config.compute.scheduler))
        if folder is not None:
            stack.enter_context(output_folder(Path(folder)))
        message(f"{raw.name}: {rows_of(raw)}; K = {chosen.k_min} to {chosen.k_max}, {starts(config)} of each")
        compiled = compile_kernels(chosen.covariance_types, chosen.k_max, raw)
        peak, began = Peak(), time.perf_counter()
        ready = prepare(config, raw, executor)
        history = History(ready.mixture)
        found = _sweep(config, ready, executor, history)
        gm, final, passes = found.best, history, found.n_passes + ready.passes
        if not gm.converged_:
            gm.set_params(warm_start=True, max_iter=config.fit.max_iter)
            final = follow(gm, ready)
            gm.set_params(warm_start=False)
            gm.report_["chosen_by"] = found.criterion
            passes += gm.n_passes_
        chosen_row = found.chosen
        history.follow(found.leaders[chosen_row])
        history.offset = -ready.per_row(gm)
        found = _in_data_units(found, ready, gm)
        ready.restore(gm)
        model = config.model.model_copy(
            update={
                "covariance_type": gm.covariance_type,
                "n_factors": gm.n_factors,
                "n_components": gm.n_components,
            }
        )
        config = config.model_copy(update={"model": model})
        with showing(ProgressLine(), stderr_console()):
            findings = remarks(gm, raw, config)
        document = {
            **outcome(gm, ready, config),
            "passes": passes + 1,  # the findings take one
            "seconds": {"total": time.perf_counter() - began},
            "compile_seconds": compiled,
            "memory": peak.report(),
            "findings": [str(finding) for finding in findings],
            "selection": {
                "criterion": found.criterion,
                "table": found.table,
                "chosen": chosen_row,
                "minimum": found.minimum,
                "elbow": found.elbow,
                **found.report,
            },
        }
        if folder is not None:
            write_folder(Path(folder), gm, config, document, final)
            message(f"written: {folder}/model.safetensors, report.json, config.toml")
        if proba is not None:
            count = write_rows(proba, [f"p{k}" for k in range(gm.n_components)], iter(gm.predict_proba(raw)))
            message(f"{count:,} rows of soft labels written: {proba}")
        if report:
            from streamgmm.cli.commands.select_page import selection_page

            selection_page(Path(str(folder)), config, document, found, history, ready, findings)
        if folder is not None:
            line = NEXT_OF_PAGE if report else NEXT  # `report` would put a page of one K in the place of this one
            message(line.format(shlex.quote(folder), words_of(config)))
    return document


def starts(config: Config) -> str:
    """Number of starts in words."""
    return f"{config.fit.n_init} start{'s' * (config.fit.n_init != 1)}"


def _checked(config: Config) -> Config:
    """The config with the restarts that a sweep wants; what a sweep cannot do is refused."""
    chosen = config.select
    if chosen.k_min > chosen.k_max:
        raise ConfigError(
            f"k_min = {chosen.k_min} is larger than k_max = {chosen.k_max}. Lower --k-min, or raise --k-max."
        )
    defaults, flat = type(config)().flat(), config.flat()
    unknown = [k for k in ("noise", "half_life", "max_time", "checkpoint") if flat[k] != defaults[k]]
    if unknown:
        raise ConfigError(f"{', '.join(unknown)}: not understood by select. Take it out, and use it in fit.")
    if "n_init" not in config.fit.model_fields_set:
        config = config.model_copy(update={"fit": config.fit.model_copy(update={"n_init": N_INIT})})
    return config


def _sweep(config: Config, ready: Prepared, executor: Executor | str | None, history: History) -> Any:
    """`streamgmm.select` with the config's settings and live progress."""
    from streamgmm.estimators.memory_plan import parse_bytes
    from streamgmm.estimators.select import UNASKED
    from streamgmm.estimators.select import select as sweep
    from streamgmm.report.progress import ProgressLine, showing

    chosen, limit = config.select, config.compute.memory_limit
    asked = {"k_min", "k_max"} & chosen.model_fields_set
    Ks = range(chosen.k_min, chosen.k_max + 1) if asked else UNASKED
    known = inspect.signature(sweep).parameters
    given = config.fit.model_dump() | config.model.model_dump() | config.compute.model_dump()
    given |= {"executor": executor, "memory_limit": None if limit is None else parse_bytes(limit)}
    passed = {k: v for k, v in given.items() if k in known and k not in ("n_components", "n_factors", "max_iter")}
    with showing(ProgressLine(config.fit.tol), stderr_console()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sweep(
            ready.source, Ks, chosen.covariance_types,
            n_factors=chosen.factors, criterion=chosen.criterion, folds=chosen.folds,
            on_step=history.add, watcher=history, **passed,
        )  # fmt: skip


def _in_data_units(found: Selection, ready: Prepared, gm: MixtureEstimator) -> Any:
    """The sweep's figures and models in the units of the data."""
    weight = float(gm.report_["weight"])
    table = [{**row, **ready.criteria(row, weight)} for row in found.table]
    return replace(found, table=table, models=tuple(map(ready.mixture, found.models)))


def _table(document: dict[str, Any]) -> str:
    """The sweep for a person, the chosen row marked."""
    from streamgmm.estimators.selection import elbows

    selection = document["selection"]
    judged = [name for name in ("heldout", "cv") if selection["table"][0][name] is not None]
    names = ("covariance_type", "n_components", "status", "n_passes", "df", "lower_bound", "bic", "aic", "icl", *judged)
    head = ["", "covariance", "K", "status", "passes", "df", "nats/row", "BIC", "AIC", "ICL", *map(str.upper, judged)]
    chosen = document["selection"]["chosen"]
    rows = []
    for i, row in enumerate(selection["table"]):
        cells = [f"{row[n]:.1f}" if n in ("bic", "aic", "icl") else row[n] for n in names]
        rows.append(["->" if i == chosen else "!" if row["unsupported"] else "", *cells])
    best = selection["table"][chosen]
    bends = ", ".join(f"{K} ({kind})" for kind, K in elbows(selection["table"], selection["elbow"]).items())
    end = (
        f"chosen by {selection['criterion'].upper()}: K = {best['n_components']}, {best['covariance_type']}; "
        f"{f'elbow at {bends}; ' if bends else ''}{document['passes']} passes over the data in all"
    )
    passed = [text for text in selection["warnings"] if text.startswith(("Passed over", "Every candidate"))]
    if any(row["unsupported"] for row in selection["table"]):
        passed.append("! marks candidates with components that the rows do not support.")
    several = [_grid(selection), ""] if len(selection["elbow"]) > 1 else []
    lines = [table(head, rows), "", *several, end, *passed, *_edge(selection, best)]
    said = document["findings"]
    lines += ["", f"diagnosed, the chosen K only: {len(said) or 'no'} finding{'s' * (len(said) != 1)}"]
    return "\n".join(lines + [f"  {text}" for text in said])


def _grid(selection: dict[str, Any]) -> str:
    """The criterion against K, one line for each covariance type; the chosen one marked."""
    name, marked = selection["criterion"], selection["chosen"]
    digits = 1 if name in ("bic", "aic", "icl") else 4
    lines: dict[str, dict[int, str]] = {}
    for i, row in enumerate(selection["table"]):
        mark = "->" if i == marked else "!" if row["unsupported"] else ""
        lines.setdefault(row["covariance_type"], {})[row["n_components"]] = f"{mark}{row[name]:.{digits}f}"
    Ks = sorted({row["n_components"] for row in selection["table"]})
    return table(
        [name.upper(), *(f"K={K}" for K in Ks)], [[kind, *(of.get(K, "") for K in Ks)] for kind, of in lines.items()]
    )


def _edge(selection: dict[str, Any], best: dict[str, Any]) -> list[str]:
    """A warning where the best K is the largest that was tried."""
    tried = {row["n_components"] for row in selection["table"]}
    largest = max(tried)
    if best["n_components"] < largest or len(tried) == 1:
        return []
    return [f"the best K is the largest that was tried: the curve may go on; try --k-max {2 * largest}"]
