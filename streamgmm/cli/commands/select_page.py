"""The interactive page of a whole selection: every K of the sweep, switchable."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamgmm.cli.commands.report import facts_of
from streamgmm.cli.output_folder import write_text
from streamgmm.cli.preprocessing import Prepared
from streamgmm.cli.terminal import message, stderr_console

if TYPE_CHECKING:
    from streamgmm.cli.config import Config
    from streamgmm.estimators.selection import Selection


def selection_page(
    folder: Path,
    config: Config,
    document: dict[str, Any],
    found: Selection,
    history: Any,
    ready: Prepared,
    findings: list[Any],
) -> None:
    """Write ``report.html`` into `folder`.

    Parameters
    ----------
    found : Selection, in the units of the data
    history : History of the sweep
    ready, findings : the data, and what was diagnosed of the chosen model
    """
    from streamgmm.diagnostics.page import Ids, PageParts
    from streamgmm.diagnostics.page import selection_page as page_of
    from streamgmm.estimators.reader import stored_rows_of
    from streamgmm.report.progress import ProgressLine, showing

    figures = ("BIC", "AIC", "ICL")
    raw = ready.raw
    parts = PageParts(
        findings=findings,
        facts=[(f"chosen K: {name}" if name in figures else name, fact) for name, fact in facts_of(document)],
        plane=history.plane,
        frames=lambda i: history.arrays(found.leaders[i]),
        best=document["selection"]["chosen"],
    )
    ids = None if config.data.id is None else Ids(config.data.id, raw)
    rows = max(config.output.sample_rows, 200)
    with showing(ProgressLine(), stderr_console()):
        text = page_of(found, stored_rows_of(found.best, raw), ids=ids, n_rows=rows, parts=parts)
    write_text(folder / "report.html", text)
    message(f"written: {folder}/report.html ({len(text.encode()) / 1e6:.1f} MB); open it in a browser")
