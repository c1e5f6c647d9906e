"""The interactive page of a whole selection: every K of the sweep, switchable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamgmm.cli.commands.report import draw, facts_of, texts
from streamgmm.cli.config import Config
from streamgmm.cli.output_folder import feature_names, write_text
from streamgmm.cli.preprocessing import Prepared
from streamgmm.cli.terminal import message

FACTS = {
    "status": "status", "n_passes": "passes", "df": "free parameters", "lower_bound": "log-likelihood per row (nats)",
    "bic": "BIC", "aic": "AIC", "icl": "ICL",
}  # fmt: skip


def selection_page(
    folder: Path,
    config: Config,
    document: dict[str, Any],
    found: Any,
    history: Any,
    gm: Any,
    ready: Prepared,
    findings: list[Any],
) -> None:
    """Write ``report.html`` into `folder`.

    Parameters
    ----------
    found : Selection
    history : History of the sweep
    gm, ready, findings : the chosen model, its data, and what was diagnosed
    """
    from streamgmm.report.page import Shown, page

    rows = draw(gm, ready.raw, max(config.output.sample_rows, 200))
    gaps = gm.missing == "marginalize"
    best = document["selection"]["chosen"]
    shown = []
    for i, (row, swept, leader) in enumerate(zip(found.table, found.models, found.leaders, strict=True)):
        mixture = gm.mixture_ if i == best else swept
        elsewhere = [{"title": "Not examined", "text": "Diagnosed is the chosen model only; choose its K above."}]
        shown.append(
            Shown(
                mixture,
                history.arrays(leader),
                row | {"log_likelihood_per_row": row["lower_bound"]},
                texts(findings, gm) if i == best else elsewhere,
                [(f"K shown: {text}", row[name]) for name, text in FACTS.items()],
                note=f"{row['status']}; BIC {row['bic']:,.0f}"
                + (
                    ", the chosen one"
                    if i == best
                    else f", passed over: {row['unsupported'][0]}"
                    if row["unsupported"]
                    else ""
                ),
                answers=(mixture.responsibilities(rows), mixture.log_prob(rows)),
            )
        )
    text = page(
        shown,
        gm.mixture_.impute(rows) if gaps else rows,
        title=f"K = {gm.n_components} of {config.select.k_min} to {config.select.k_max}, by {found.criterion.upper()}",
        subtitle=f"{ready.raw.name}: {document['data']['rows']:,} rows of {ready.raw.n_features} features",
        best=best,
        elbow=found.elbow.get(found.table[best]["covariance_type"]),
        criterion=found.criterion,
        plane=history.plane,
        names=feature_names(gm),
        facts=[
            (f"chosen K: {name}" if name in ("BIC", "AIC", "ICL") else name, fact) for name, fact in facts_of(document)
        ],
        back=None if gm.projection_ is None else gm.projection_.back,
    )
    write_text(folder / "report.html", text)
    message(f"written: {folder}/report.html ({len(text.encode()) / 1e6:.1f} MB); open it in a browser")
