"""`streamgmm report`: one interactive page about a fit."""

from __future__ import annotations

import json as json_
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamgmm.cli.commands.fit import level_words
from streamgmm.cli.output_folder import CONFIG, HISTORY, REPORT, write_text
from streamgmm.cli.terminal import Id, Json, emit, message, stderr_console
from streamgmm.cli.wording import in_options
from streamgmm.sources.base import Source

if TYPE_CHECKING:
    from streamgmm.cli.config import Config
    from streamgmm.estimators.mixture_estimator import MixtureEstimator

BYTES = ("limit", "projected", "before", "peak", "growth")
"""Entries of the memory report in bytes that are of interest."""


def report(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder written by fit --out.", show_default=False)],
    data: Annotated[str | None, typer.Option("--data", metavar="DATA", help="Rows; by default those fitted.")] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE.html", help="DIR/report.html, or chosen.html.")
    ] = None,
    id: Id = None,
    rows: Annotated[int, typer.Option("--rows", help="Rows drawn for the pictures.", min=10, max=5000)] = 2000,
    json: Json = False,
) -> None:
    """Write an interactive page that works offline.

    Components and what sets them apart, pairs of features, the path of the fit, anomalies and uncertain rows with their
    numbers in the data. Reads the data twice. Where select wrote a page of every K, that page is kept, and the
    recommended K has its own: DIR/chosen.html.
    """
    from streamgmm.report.progress import ProgressLine, showing

    if not (Path(folder) / REPORT).is_file():
        raise FileNotFoundError(
            f"{folder}: expected a folder that `fit --out` or `select --out` wrote; there is no {REPORT} in it."
            if Path(folder).is_dir()
            else f"{folder}: is no folder. Expected one that `fit --out` or `select --out` wrote."
        )
    whole = Path(folder) / "report.html"
    kept = out is None and n_models(whole) > 1
    target = Path(out) if out is not None else whole.with_name("chosen.html") if kept else whole
    if not target.parent.is_dir():
        raise FileNotFoundError(f"--out {target}: the folder {target.parent} does not exist. Make it first.")
    with showing(ProgressLine(), stderr_console()):
        text = folder_page(Path(folder), data, rows, id)
    write_text(target, text)
    if json:
        emit({"file": str(target), "bytes": len(text.encode())})
    else:
        print(target)
        message(f"{len(text.encode()) / 1e6:.1f} MB; open it in a browser")
        if kept:
            message(f"note: this page shows the recommended K alone; {whole} shows every K of the selection, and stays")


def n_models(path: Path) -> int:
    """Number of models that the page at `path` shows; 0 where there is none."""
    if not path.exists():
        return 0
    with path.open(encoding="utf-8", errors="replace") as file:
        found = re.search(r'name="streamgmm-models" content="(\d+)"', file.read(2000))
    return int(found[1]) if found else 0


def folder_page(folder: Path, data: str | None = None, n_rows: int = 2000, id: str | None = None) -> str:
    """The page about the fit in `folder`, as HTML."""
    from streamgmm.cli.commands.fit import open_data
    from streamgmm.cli.commands.predict import fitted
    from streamgmm.cli.config import load_config
    from streamgmm.diagnostics.page import Ids, PageParts, fit_page
    from streamgmm.estimators.reader import stored_rows_of
    from streamgmm.report.history import load_history

    gm, opened = fitted(str(folder))
    document: dict[str, Any] = json_.loads((folder / REPORT).read_text(encoding="utf-8"))
    config = load_config(folder / CONFIG)
    source = open_data(config)[0] if data is None else opened(data, None)
    plane, frames = load_history(folder / HISTORY) if (folder / HISTORY).exists() else (None, {})
    parts = PageParts(
        findings=remarks(gm, source, config),
        facts=facts_of(document),
        plane=plane,
        frames=lambda _: frames,
    )
    id = id or (config.data.id if data is None else None)
    ids = None if id is None else Ids(id, source)
    return fit_page(gm, stored_rows_of(gm, source), ids=ids, n_rows=n_rows, parts=parts)


def facts_of(document: dict[str, Any]) -> list[tuple[str, Any]]:
    """Facts about a fit that the page lists."""
    seconds, memory = document["seconds"], document["memory"]
    return [
        ("data", document["data"]["path"]),
        ("rows", document["data"]["rows"]),
        ("features", document["data"]["features"]),
        ("passes over the data", document["passes"]),
        ("iterations", document["iterations"]),
        ("converged", "yes" if document["converged"] else "no"),
        *level_words(document),
        *((name.upper(), document[name]) for name in ("bic", "aic", "icl") if document.get(name) is not None),
        ("repairs", len(document["repairs"])),
        *((f"seconds, {name}", value) for name, value in seconds.items() if isinstance(value, int | float)),
        ("seconds, compiling", document["compile_seconds"]),
        *((f"MB, {name}", memory[name] / 1e6) for name in BYTES if memory.get(name) is not None),
        *((f"version of {name}", value) for name, value in document["versions"].items()),
    ]


def remarks(gm: MixtureEstimator, source: Source, config: Config) -> list[Any]:
    """Findings of `diagnose` about a fit, with remedies in the words of the terminal.

    Of scales they say nothing where those were dealt with before the fit.
    """
    from streamgmm.diagnostics import diagnose

    dealt_with = {"unscaled-features"} if config.data.scale or config.data.pca is not None else set()
    return [
        replace(finding, remedy=in_options(finding.remedy))
        for finding in diagnose(gm, source)
        if finding.code not in dealt_with
    ]
