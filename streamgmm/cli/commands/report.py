"""`streamgmm report`: one interactive page about a fit."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamgmm.cli.commands.fit import level_words
from streamgmm.cli.config import Config
from streamgmm.cli.output_folder import CONFIG, HISTORY, REPORT, write_text
from streamgmm.cli.terminal import Json, emit, message
from streamgmm.sources.base import Source

if TYPE_CHECKING:
    from streamgmm.estimators.mixture_estimator import MixtureEstimator

BYTES = ("limit", "projected", "before", "peak", "growth")
"""What of the memory report is in bytes, and of interest."""


def report(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder written by fit --out.", show_default=False)],
    data: Annotated[str | None, typer.Option("--data", metavar="DATA", help="Rows; by default those fitted.")] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="FILE.html", help="DIR/report.html.")] = None,
    rows: Annotated[int, typer.Option("--rows", help="Rows drawn for the picture.", min=10, max=5000)] = 2000,
    json: Json = False,
) -> None:
    """Write an interactive page that works offline.

    One slider steps through the EM iterations over a sample of the data, another moves the anomaly threshold. Reads
    the data once.
    """
    target = Path(folder) / "report.html" if out is None else Path(out)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"--out {target}: the folder {target.parent} does not exist. Make it first.")
    text = folder_page(Path(folder), data, rows)
    write_text(target, text)
    if json:
        emit({"file": str(target), "bytes": len(text.encode())})
    else:
        print(target)
        message(f"{len(text.encode()) / 1e6:.1f} MB; open it in a browser")


def folder_page(folder: Path, data: str | None = None, n_rows: int = 2000) -> str:
    """The page about the fit in `folder`, as HTML."""
    from streamgmm.cli.commands.fit import open_data
    from streamgmm.cli.commands.predict import fitted
    from streamgmm.cli.config import load_config
    from streamgmm.report.history import load_history
    from streamgmm.report.page import Shown, page

    gm, opened = fitted(str(folder))
    document: dict[str, Any] = json_.loads((folder / REPORT).read_text(encoding="utf-8"))
    config = load_config(folder / CONFIG)
    if data is None:
        source, _ = open_data(config)
    else:
        source = opened(data, None)
    drawn = draw(gm, source, n_rows)
    mixture, shares = gm.mixture_, gm.mixture_.responsibilities(drawn)
    if hasattr(gm, "components_in_use_"):
        mixture, shares = mixture.alone(gm.components_in_use_), shares[:, gm.components_in_use_]
    answers = shares, gm.mixture_.log_prob(drawn)
    if gm.missing == "marginalize":
        drawn = gm.mixture_.impute(drawn)
    plane, frames = load_history(folder / HISTORY) if (folder / HISTORY).exists() else (None, {})
    facts = facts_of(document)
    K, D = mixture.n_components, document["data"]["features"]
    shown = Shown(mixture, frames, document, texts(remarks(gm, source, config), gm), facts, answers=answers)
    names = document.get("feature_names")
    return page(
        [shown],
        drawn,
        title=f"{K} Gaussians, {gm.covariance_type} covariances",
        subtitle=f"{document['data']['path']}: {document['data']['rows']:,} rows of {D} features",
        plane=plane,
        names=names,
        back=None if gm.projection_ is None else gm.projection_.back,
    )


def draw(gm: MixtureEstimator, source: Source, n_rows: int) -> Any:
    """(N, D) rows of `source`, as the mixture takes them, drawn at random in one pass."""
    from streamgmm.em.initialization.sample import survey
    from streamgmm.estimators.reader import rows_of
    from streamgmm.runtime.executors import Threads

    return survey(rows_of(gm, source), Threads(), size=n_rows, seed=0, missing=gm.missing == "marginalize").rows


def facts_of(document: dict[str, Any]) -> list[tuple[str, Any]]:
    """What the page lists of a fit."""
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
    """What `diagnose` says of a fit. Of scales it says nothing where they were dealt with before the fit."""
    from streamgmm.diagnostics import diagnose

    dealt_with = {"unscaled-features"} if config.data.scale or config.data.pca is not None else set()
    return [finding for finding in diagnose(gm, source) if finding.code not in dealt_with]


def texts(findings: list[Any], gm: MixtureEstimator) -> list[dict[str, str]]:
    """Findings, and what was repaired, as the page shows them."""
    found = [
        {"title": finding.code.replace("-", " ").capitalize(), "text": f"{finding.message} {finding.remedy}"}
        for finding in findings
    ]
    for event in getattr(gm, "report_", {}).get("repairs", []):
        text = ", ".join(f"{key} {value}" for key, value in event.items() if key != "action")
        found.append({"title": f"Repair: {event.get('action', 'mended')}", "text": text})
    return found
