"""`write_report`: one page about a fit or a selection, and what the command line adds to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.diagnostics import Finding, diagnose
from streamgmm.estimators.mixture_estimator import MixtureEstimator
from streamgmm.estimators.projection import ProjectedMixture
from streamgmm.estimators.reader import executor_of, stored_rows_of
from streamgmm.estimators.selection import Selection, elbows
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.plane import Plane
from streamgmm.report.page import Head, Shown, page
from streamgmm.report.rows import PageRows, read_rows
from streamgmm.sources import is_array_like, open_quietly
from streamgmm.sources.base import Readable, Source
from streamgmm.sources.formats.tables import column_names, is_frame, select
from streamgmm.utils.atomic import atomic_path

__all__ = ["PageParts", "fit_page", "selection_page", "write_report"]

ROWS = 2000
"""Rows drawn for the pictures."""
_FACTS = {
    "status": "status", "n_passes": "passes", "df": "free parameters", "lower_bound": "log-likelihood per row (nats)",
    "bic": "BIC", "aic": "AIC", "icl": "ICL",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PageParts:
    """Contents of a page beside what model and rows tell.

    Attributes
    ----------
    findings : what `diagnose` said; asked by default, in a pass of its own
    facts : (name, value) pairs
    plane : in which `frames` were recorded
    frames : gives the recorded path of model i, as `streamgmm.report.history` keeps it
    best : number of the chosen candidate, where the model's own kind does not tell
    """

    findings: Sequence[Finding] | None = None
    facts: Sequence[tuple[str, Any]] = ()
    plane: Plane | None = None
    frames: Callable[[int], Mapping[str, NDArray[np.float64]]] = field(default=lambda i: {})
    best: int | None = None


def write_report(
    fitted: Any,
    X: Readable,
    path: str | os.PathLike[str] = "report.html",
    *,
    sample_weight: ArrayLike | None = None,
    id: str | ArrayLike | None = None,
    n_rows: int = ROWS,
) -> Path:
    """Write one interactive page about a fit, or about every K of a selection; it works offline.

    It shows the components over a sample of the data and what sets them apart, the choice of K, the rows of lowest
    density with the features that make them so, the rows with the most uncertain label, and what `diagnose` says. Reads
    the data twice. Missing values stay missing: densities and labels are those of what was observed.

    Parameters
    ----------
    fitted : fitted GaussianMixture or BayesianGaussianMixture, or a Selection
    X : what it was fitted to: array-like (N, D), a path, or a source
    path : of the file to write
    sample_weight : (N,), optional
    id : name of a column of X, or one value for each row, optional
        What rows are called on the page, beside their numbers, which count from 0.
    n_rows : rows drawn for the pictures; densities, counts and lists are those of all rows

    Returns
    -------
    The path that was written.

    Raises
    ------
    ValueError
        Where `id` names no column, or has another length than X.
    FileNotFoundError
        Where the folder of `path` does not exist.

    Examples
    --------
    >>> import numpy as np, streamgmm as sg, tempfile
    >>> X = np.concatenate([np.random.default_rng(0).normal(m, 1, (200, 2)) for m in (-5, 5)])
    >>> folder = tempfile.mkdtemp()
    >>> sg.write_report(sg.GaussianMixture(2, random_state=0).fit(X), X, f"{folder}/page.html").name
    'page.html'
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: the folder {target.parent} does not exist. Make it first.")
    if not 10 <= n_rows <= 5000:
        raise ValueError(f"n_rows must be between 10 and 5000; got {n_rows}.")
    gm = fitted.best if isinstance(fitted, Selection) else fitted
    if not isinstance(gm, MixtureEstimator):
        raise TypeError(f"a report needs a fitted mixture or a Selection; got {type(fitted).__name__}.")
    source, ids = _opened(gm, X, sample_weight, id)
    if isinstance(fitted, Selection):
        text = selection_page(fitted, source, ids=ids, n_rows=n_rows)
    else:
        text = fit_page(gm, source, ids=ids, n_rows=n_rows)
    with atomic_path(target) as part:
        part.write_text(text, encoding="utf-8")
    return target


def fit_page(
    gm: MixtureEstimator, source: Source, *, ids: Ids | None = None, n_rows: int = ROWS, parts: PageParts | None = None
) -> str:
    """The page about one fit, as HTML.

    Parameters
    ----------
    source : rows of the data, as the fit took them
    """
    parts = parts or PageParts()
    report = getattr(gm, "report_", {})
    used = getattr(gm, "components_in_use_", range(gm.mixture_.n_components))
    shown = Shown(
        gm.mixture_,
        _asked(gm, gm.mixture_),
        parts.frames(0),
        _trace(gm),
        {name: report.get(name) for name in ("bic", "aic", "icl")},
        texts(diagnose(gm, source) if parts.findings is None else parts.findings, gm),
        used=used,
    )
    K = len(used)
    title = f"{K} Gaussian{'s' * (K != 1)}, {gm.mixture_.family.name} covariances"
    return _page(gm, [shown], source, ids, n_rows, parts, Head(title))


def selection_page(
    found: Selection, source: Source, *, ids: Ids | None = None, n_rows: int = ROWS, parts: PageParts | None = None
) -> str:
    """The page about every candidate of a selection, as HTML; the best one is that of `found.best`."""
    parts = parts or PageParts()
    gm = found.best
    best = found.chosen if parts.best is None else parts.best
    said = texts(diagnose(gm, source) if parts.findings is None else parts.findings, gm)
    elsewhere = [{"title": "Not examined", "text": "Diagnosed is the chosen model only; choose its K above."}]
    shown = []
    for i, (row, swept) in enumerate(zip(found.table, found.models, strict=True)):
        mixture = gm.mixture_ if i == best else swept
        shown.append(
            Shown(
                mixture,
                _asked(gm, mixture),
                parts.frames(i),
                _trace(gm) if i == best else (),
                row,
                said if i == best else elsewhere,
                [(f"K shown: {text}", row[name]) for name, text in _FACTS.items()],
                note=_note(row, i == best),
            )
        )
    Ks = [row["n_components"] for row in found.table]
    title = f"K = {Ks[best]}"
    if len(shown) > 1:
        title += f"{f' of {min(Ks)} to {max(Ks)}' if min(Ks) < max(Ks) else ''}, by {found.criterion.upper()}"
    elbow = elbows(found.table, found.elbow).get(found.table[best]["covariance_type"])
    return _page(gm, shown, source, ids, n_rows, parts, Head(title, best=best, elbow=elbow, criterion=found.criterion))


def texts(findings: Iterable[Finding], gm: MixtureEstimator) -> list[dict[str, str]]:
    """Findings, and what was repaired, as a page shows them."""
    found = [
        {"title": finding.code.replace("-", " ").capitalize(), "text": f"{finding.message} {finding.remedy}"}
        for finding in findings
    ]
    for event in getattr(gm, "report_", {}).get("repairs", []):
        text = ", ".join(f"{key} {value}" for key, value in event.items() if key != "action")
        found.append({"title": f"Repair: {event.get('action', 'mended')}", "text": text})
    return found


def _page(
    gm: MixtureEstimator, shown: list[Shown], source: Source, ids: Ids | None, n_rows: int, parts: PageParts, head: Head
) -> str:
    found = read_rows(source, [one.asked for one in shown], executor_of(gm, source), size=n_rows)
    names = getattr(gm, "feature_names_in_", None)
    head = replace(
        head,
        subtitle=_subtitle(source.name, found),
        plane=parts.plane,
        names=None if names is None else [str(name) for name in names],
        facts=parts.facts or _facts_of(gm),
        projection=gm.projection_,
        identify=None if ids is None else ids.by_number(found.stored),
        id_name=None if ids is None else ids.name,
    )
    return page(shown, found, head)


def _subtitle(name: str, found: PageRows) -> str:
    """The data, and how many rows of it say nothing."""
    D, unused = found.rows.shape[1], found.stored - found.n_rows
    words = f"{name}: {found.stored:,} row{'s' * (found.stored != 1)} of {D} feature{'s' * (D != 1)}"
    return words + (f"; {unused:,} not used, of weight 0 or with nothing observed" if unused else "")


def _asked(gm: MixtureEstimator, mixture: Mixture) -> ProjectedMixture | None:
    """Model that answers for rows of the data, where that is not the mixture."""
    return None if gm.projection_ is None else ProjectedMixture(mixture, gm.projection_)


def _trace(gm: MixtureEstimator) -> Sequence[float]:
    """The log-likelihood per row of each pass; the evidence bounds of a Bayesian fit, of all rows, per row too."""
    values = getattr(gm, "lower_bounds_", [])
    rows = gm.report_.get("weight") if hasattr(gm, "components_in_use_") else 1.0
    return [value / rows for value in values] if rows else ()


def _note(row: Mapping[str, Any], best: bool) -> str:
    words = [row["status"]]
    if best:
        words.append("the chosen one")
    elif row["unsupported"]:
        words.append(f"passed over: {row['unsupported'][0]}")
    return "; ".join(words)


def _facts_of(gm: MixtureEstimator) -> list[tuple[str, Any]]:
    """Facts about a fit in Python."""
    report = getattr(gm, "report_", {})
    pairs = [
        ("iterations", getattr(gm, "n_iter_", None)),
        ("passes over the data", getattr(gm, "n_passes_", None)),
        ("converged", "yes" if getattr(gm, "converged_", False) else "no"),
        *((name.upper(), report.get(name)) for name in ("bic", "aic", "icl")),
        ("repairs", len(report.get("repairs", []))),
        ("seconds", report.get("seconds", {}).get("total")),
    ]
    return [(name, value) for name, value in pairs if value is not None]


# Ids of rows ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Ids:
    """Names of rows: a column of what is stored, or values that were given.

    Attributes
    ----------
    name : str
    source : gives the column, where no `values` were given
    """

    name: str
    source: Source | None = None
    values: Sequence[Any] | None = None

    def by_number(self, stored: int) -> Callable[[NDArray[np.int64]], list[str]]:
        """Source of the ids of rows by number; `stored` rows there are."""
        values = self.values
        if values is None:
            assert self.source is not None
            values = [text for part in self.source.texts(self.name) for text in part]
        if len(values) != stored:
            raise ValueError(f"id: expected one value for each of {stored} rows; got {len(values)}.")
        return lambda numbers: [str(values[number]) for number in numbers]


def _opened(
    gm: MixtureEstimator, X: Readable, sample_weight: ArrayLike | None, id: str | ArrayLike | None
) -> tuple[Source, Ids | None]:
    """The rows as the fit took them, and their ids."""
    if id is None or not isinstance(id, str):
        source = stored_rows_of(gm, X, sample_weight)
        return source, None if id is None else Ids("id", values=np.asarray(id).tolist())
    if is_frame(X):
        if id not in column_names(X):
            raise ValueError(f"id={id!r} is no column of X. It has {', '.join(column_names(X)[:10])}.")
        known = [str(name) for name in getattr(gm, "feature_names_in_", ())]
        rest = known or [name for name in column_names(X) if name != id]
        column = select(X, [id])
        values = (column.iloc[:, 0] if hasattr(column, "iloc") else column[id]).to_numpy().tolist()
        return stored_rows_of(gm, select(X, rest), sample_weight), Ids(id, values=values)
    if is_array_like(X):
        raise ValueError(f"id={id!r} names a column, and X has no names. Give one value for each row.")
    if not isinstance(X, Source):
        known = [str(name) for name in getattr(gm, "feature_names_in_", ())]
        X = open_quietly(X, columns=known) if known else open_quietly(X, exclude=[id])
    return stored_rows_of(gm, X, sample_weight), Ids(id, source=X)
