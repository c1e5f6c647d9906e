"""`streamgmm select`: the whole workflow, from a range of K to a page about the chosen one."""

from __future__ import annotations

import inspect
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from streamgmm.cli.fit import Settings, What, configured, follow, open_data, outcome, output_folder, rows_of
from streamgmm.cli.progress import FitProgress
from streamgmm.cli.terminal import NOT_CONVERGED, Json, emit, message, table
from streamgmm.config import Config, ConfigError
from streamgmm.resident import Peak

Folder = Annotated[str | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for the chosen model.")]
Kinds = Annotated[
    list[str] | None, typer.Option("--covariance", help="full, tied, diag, spherical; repeat for several.")
]


def select(
    what: What,
    k_min: Annotated[int | None, typer.Option("--k-min", help="Smallest K.")] = None,
    k_max: Annotated[int | None, typer.Option("--k-max", help="Largest K.")] = None,
    covariance: Kinds = None,
    criterion: Annotated[str | None, typer.Option(help="bic, aic or icl.")] = None,
    settings: Settings = None,
    out: Folder = None,
    report: Annotated[bool, typer.Option("--report", help="Also write DIR/report.html, K switchable.")] = False,
    json: Json = False,
) -> None:
    """Choose K: every K, covariance type and start on the same readings of the data.

    Then fits the chosen one to the end, and with --out leaves what fit --out leaves.
    """
    config = configured(
        what, settings, select__k_min=k_min, select__k_max=k_max, select__covariance_types=covariance,
        select__criterion=criterion, output__dir=out or ("out/selected" if report else None),
    )  # fmt: skip
    document, _ = run_select(config, report=report)
    if json:
        emit(document)
    else:
        print(_table(document))
    if not document["converged"]:
        raise typer.Exit(NOT_CONVERGED)


def run_select(config: Config, *, report: bool) -> tuple[dict[str, Any], Any]:
    """Sweep, choose, finish the fit, write the folder and the page."""
    from streamgmm.cli.folder import write_folder
    from streamgmm.cli.warmup import compile_kernels
    from streamgmm.report.history import History
    from streamgmm.selection import select as sweep

    chosen = config.select
    if chosen.k_min > chosen.k_max:
        raise ConfigError(f"k_min = {chosen.k_min} is larger than k_max = {chosen.k_max}.")
    source = open_data(config)
    known = inspect.signature(sweep).parameters
    given = config.fit.model_dump() | config.model.model_dump() | config.compute.model_dump(exclude={"memory_limit"})
    passed = {k: v for k, v in given.items() if k in known and k not in ("n_components", "max_iter")}
    folder = config.output.dir
    with ExitStack() as stack:
        if folder is not None:
            stack.enter_context(output_folder(Path(folder)))
        message(f"{source.name}: {rows_of(source)}; K = {chosen.k_min} to {chosen.k_max}")
        compiled = compile_kernels(tuple(chosen.covariance_types), str(source.dtype))
        peak, history = Peak(), History()
        progress = FitProgress(source.n_chunks, source.n_rows)
        began = time.perf_counter()

        def on_step(step: Any) -> None:
            progress.step(step)
            history.add(step)

        with progress.showing(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = sweep(
                source, range(chosen.k_min, chosen.k_max + 1), chosen.covariance_types,
                criterion=chosen.criterion, on_step=on_step, **passed,
            )  # fmt: skip
        gm = found.best
        final = history
        passes = found.n_passes
        if not gm.converged_:
            gm.set_params(warm_start=True, max_iter=config.fit.max_iter)
            final = follow(gm, source)
            gm.set_params(warm_start=False)
            passes += gm.n_passes_
        document = {
            **outcome(gm, source, config),
            "passes": passes,
            "seconds": {"total": time.perf_counter() - began},
            "compile_seconds": compiled,
            "memory": peak.report(),
            "selection": {"table": found.table, "minimum": found.minimum, "elbow": found.elbow, **found.report},
        }
        if folder is not None:
            write_folder(Path(folder), gm, config, document, final)
            message(f"written: {folder}/model.safetensors, report.json, config.toml")
            if report:
                _page(Path(folder), config, document, found, history, gm, source)
    return document, gm


def _page(
    folder: Path, config: Config, document: dict[str, Any], found: Any, history: Any, gm: Any, source: Any
) -> None:
    """The interactive page with every K of the sweep."""
    from streamgmm.cli.folder import write_text
    from streamgmm.cli.report import facts_of, remarks
    from streamgmm.executors import Threads
    from streamgmm.report.page import Shown, page
    from streamgmm.seeding import survey

    rows = survey(source, Threads(), size=max(config.output.sample_rows, 200), seed=0).rows
    best = next(
        i for i, row in enumerate(found.table)
        if (row["n_components"], row["covariance_type"]) == (gm.n_components, gm.covariance_type)
    )  # fmt: skip
    shown = []
    for i, (row, mixture, leader) in enumerate(zip(found.table, found.models, found.leaders, strict=True)):
        elsewhere = [{"title": "Not examined", "text": "diagnosed is the chosen model; choose its K above."}]
        shown.append(
            Shown(
                gm.mixture_ if i == best else mixture,
                history.arrays(leader),
                row | {"log_likelihood_per_row": row["lower_bound"]},
                remarks(gm, source) if i == best else elsewhere,
                [(name, row[name]) for name in ("status", "n_passes", "df", "lower_bound", "bic", "aic", "icl")],
                note=f"{row['status']}; BIC {row['bic']:,.0f}" + (", the chosen one" if i == best else ""),
            )
        )
    text = page(
        shown,
        np.asarray(rows),
        title=f"K = {gm.n_components} of {config.select.k_min} to {config.select.k_max}, by {found.criterion.upper()}",
        subtitle=f"{config.data.path}: {document['data']['rows']:,} rows of {source.n_features} features",
        best=best,
        elbow=found.elbow.get(gm.covariance_type),
        plane=history.plane,
        names=source.feature_names,
        facts=facts_of(document),
    )
    write_text(folder / "report.html", text)
    message(f"written: {folder}/report.html ({len(text.encode()) / 1e6:.1f} MB)")


def _table(document: dict[str, Any]) -> str:
    """The sweep for a person, the chosen row marked."""
    names = ("covariance_type", "n_components", "status", "n_passes", "df", "lower_bound", "bic", "aic", "icl")
    head = ["", "covariance", "K", "status", "passes", "df", "nats/row", "BIC", "AIC", "ICL"]
    chosen = document["n_components"], document["covariance_type"]
    rows = []
    for row in document["selection"]["table"]:
        mark = "->" if (row["n_components"], row["covariance_type"]) == chosen else ""
        rows.append([mark, *(f"{row[n]:.1f}" if n in ("bic", "aic", "icl") else row[n] for n in names)])
    elbows = ", ".join(f"{K} ({kind})" for kind, K in document["selection"]["elbow"].items())
    end = f"chosen: K = {chosen[0]}, {chosen[1]}; elbow at {elbows}; {document['passes']} readings of the data in all"
    return f"{table(head, rows)}\n\n{end}"
