"""One self-contained interactive page: everything a fit knows, offline, in one file."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.plane import Plane, dense
from streamgmm.mixture.tails import Tails
from streamgmm.report.description import description_of
from streamgmm.report.rows import SURE, Answered, Answers, Asked, Extremes, PageRows
from streamgmm.report.unusual import GIVEN_UP_TO, Deviation, deviations
from streamgmm.report.view import Projected, View, feature_moments, separation
from streamgmm.utils.colours import PALETTE
from streamgmm.utils.jsonable import jsonable
from streamgmm.utils.printable import short_name

__all__ = ["Head", "Shown", "page"]

Array = NDArray[np.float64]
SHOWN = 6
"""Features whose values stand in the tables."""
PROFILED = 120
"""Features in the picture of the components' profiles."""
FRAME_BYTES = 500_000
"""Of all paths together; of longer ones every second, third, ... step is shown."""
LISTED, ELSEWHERE = 30, 12
"""Rows that stand out listed of the best model, and of each other one."""
PATTERNS = 64
"""Patterns of missing values in the sample, times models, up to which their densities are calibrated by draws."""
UNSURE = 0.999
"""Responsibility from which a label is not called uncertain."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One model on the page.

    Attributes
    ----------
    mixture : Mixture
    answers : Answers, optional
        What is asked about rows of the data, where that is not the mixture: one behind a projection.
    frames : dict of arrays
        The path of the fit as `streamgmm.report.history` keeps it; empty where it was not recorded.
    trace : log-likelihood per row of each pass, for the curve where there are no frames
    criteria : dict of float
        ``bic``, ``aic``, ``icl``, where known; ``covariance_type``, where it is not that of the mixture in the
        units of the data.
    findings : list of {"title", "text"}
    facts : list of (name, value)
    note : str
    used : numbers of the components that are shown; all by default
    """

    mixture: Mixture
    answers: Answers | None = None
    frames: Mapping[str, Array] = field(default_factory=dict)
    trace: Sequence[float] = ()
    criteria: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[Mapping[str, str]] = ()
    facts: Sequence[tuple[str, Any]] = ()
    note: str = ""
    used: Sequence[int] | None = None

    @property
    def asked(self) -> Asked:
        """Answers for rows of the data, and their ranking."""
        return Asked.from_mixture(self.mixture) if self.answers is None else Asked(self.answers)


@dataclass(frozen=True, slots=True)
class Head:
    """The models that a page shows together.

    Attributes
    ----------
    title, subtitle : str
    best : number of the model that is shown first
    elbow : K where the log-likelihood bends most, or None
    criterion : drawn against K where there are several covariance types, one line each
    plane : Plane
        The one that the frames were recorded in; by default that of the best model.
    names : of the features of the data
    facts : list of (name, value)
    projection : the principal components that the models were fitted to, if they were
    identify, id_name : gives the ids of rows by number, where rows have them; and what they are called
    """

    title: str
    subtitle: str = ""
    best: int = 0
    elbow: int | None = None
    criterion: str = "bic"
    plane: Plane | None = None
    names: Sequence[str] | None = None
    facts: Sequence[tuple[str, Any]] = ()
    projection: Projected | None = None
    identify: Callable[[NDArray[np.int64]], Sequence[Any]] | None = None
    id_name: str | None = None


def page(models: Sequence[Shown], found: PageRows, head: Head) -> str:
    """The page as HTML.

    Parameters
    ----------
    models : one `Shown` per K, and per covariance type where there are several
    found : what `read_rows` found of the data, asking each model's `Shown.asked` in the same order

    Examples
    --------
    >>> import streamgmm as sg
    >>> from streamgmm.report.rows import read_rows
    >>> from streamgmm.runtime.executors import Threads
    >>> pair = sg.Mixture([0.5, 0.5], [[-2.0], [2.0]], [1.0, 1.0], "spherical")
    >>> rows = read_rows(sg.open_source(pair.sample(100, 0)[0]), [Shown(pair).asked], Threads(1), size=50)
    >>> page([Shown(pair)], rows, Head("Two")).startswith("<!doctype html>")
    True
    """
    best, projection, names = head.best, head.projection, head.names
    first = models[best].mixture
    D = found.rows.shape[1]
    named = tuple(f"x{j}" for j in range(D)) if names is None else tuple(map(str, names))
    total = sum(one.mixture.n_components for one in models)
    plane = head.plane or Plane.of_principal_axes(first)
    view = View.from_rows(first, found.rows, plane=plane, names=named, projection=projection, n_components=total)
    telling = separation(first.weights, *feature_moments(first, projection))
    order = np.argsort(-telling, kind="stable")
    drawn_frames = sum(one.mixture.n_components for one in models if one.frames)
    steps = max(2, int(FRAME_BYTES / (32 * max(1, drawn_frames))))
    patterns = len(np.unique(np.isnan(found.rows), axis=0))
    filled = bool(np.isnan(found.rows).any())
    layout = _Layout(view, order[:PROFILED], steps, patterns * len(models) <= PATTERNS, filled)
    shown = sorted(order[:SHOWN].tolist())
    pool = _Pool(found, projection, head.identify, [short_name(name) for name in named])
    document = {
        "title": head.title,
        "subtitle": head.subtitle,
        "palette": PALETTE,
        "best": best,
        "elbow": head.elbow,
        "criterion": head.criterion,
        "rows": {"stored": found.stored, "used": found.n_rows, "drawn": len(found.rows)},
        "axes": [
            {"label": label, "centre": centre, "scale": scale}
            for label, centre, scale in zip(view.labels, view.centre, view.scale, strict=True)
        ],
        "planar": view.planar,
        "plane_is_features": projection is None and D <= 2,
        "axis_features": view.features,
        "points": _floats(view.standardised(found.rows)),
        "holes": np.flatnonzero(np.isnan(found.rows).any(axis=1)),
        "numbers": found.numbers,
        "ids": None if head.identify is None else list(map(str, head.identify(found.numbers))),
        "id_name": head.id_name,
        "names": named,
        "telling": [float(f"{value:.4g}") for value in telling],
        "shown": shown,
        "profiled": order[:PROFILED],
        "sure": SURE,
        "models": [
            _model(one, answered, pool, layout, brief=i != best)
            for i, (one, answered) in enumerate(zip(models, found.answers, strict=True))
        ],
        "facts": list(head.facts),
    }
    document |= pool.entries(shown, view)
    text = json.dumps(jsonable(document), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return _filled(text, len(models))


def _filled(text: str, n_models: int) -> str:
    """The template with its style, script and data."""
    folder = files("streamgmm.report").joinpath("static")
    html, style, script = (
        folder.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    return (
        html.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script).replace("/*MODELS*/", str(n_models))
        .replace("/*DATA*/", text)
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """Axes, features in the picture of profiles, steps of the path.

    Attributes
    ----------
    drawing : whether tails are calibrated by draws
    filled : whether rows have missing values, which the sample of a start was filled in for
    """

    view: View
    profiled: NDArray[np.intp]
    steps: int
    drawing: bool
    filled: bool


def _model(one: Shown, answered: Answered, pool: _Pool, layout: _Layout, *, brief: bool) -> dict[str, Any]:
    mixture, K, found = one.mixture, one.mixture.n_components, pool.found
    view, profiled = layout.view, layout.profiled
    resp, logp = one.asked.answers.responsibilities(found.rows), one.asked.answers.log_prob(found.rows)
    label = resp.argmax(axis=1)
    means, variances = feature_moments(mixture, pool.projection)
    used = list(range(K)) if one.used is None else [int(k) for k in one.used]
    used.sort(key=lambda k: -mixture.weights[k])
    drawn, covariances = view.components(mixture)
    unsure = _certain_left_out(answered.uncertain)
    most = ELSEWHERE if brief else LISTED
    tails, lowest = one.asked.tails, answered.lowest
    if tails is not None and layout.drawing:  # or their bounds stay
        lowest = replace(lowest, key=tails.log_tail(lowest.rows, lowest.logp))
    kind_of_score, score = _score(tails, found.rows, logp, layout.drawing)
    kind = one.criteria.get("covariance_type", mixture.family.name)
    return {
        "name": f"{len(used)}, {kind}",
        "K": len(used),
        "kind": kind,
        "note": one.note,
        "used": used,
        "weights": mixture.weights,
        "background": mixture.noise_weight,
        "log_density": answered.loglik / answered.count,
        "unsure": answered.unsure,
        "labels": _packed(np.where(label == K, -1, label), "<i2"),
        "logp": _floats(logp),
        "score": None if tails is None else _floats(score),
        "score_kind": kind_of_score,
        "certainty": _packed(np.round(255 * resp.max(axis=1)), "<u1"),
        "means": _floats(drawn),
        "covariances": _floats(covariances),
        "profile": {
            "mean": _floats(means[:, profiled]),
            "deviation": _floats(np.sqrt(variances[:, profiled])),
            "apart": _floats(_apart(mixture.weights, means, variances)[:, profiled]),
        },
        "members": answered.members,
        "certain": [_rounded(c / n) if n else None for c, n in zip(answered.certainty, answered.members, strict=True)],
        "phrases": _phrases(mixture, means, variances, used, pool.names),
        "frames": _frames(one, view, layout.steps, filled=layout.filled),
        "trace": [_rounded(value) for value in _thinned_trace(one.trace)],
        "lowest": pool.listed(lowest.first(most), mixture, means, variances, ranked=tails is not None),
        "uncertain": pool.listed(unsure.first(most), mixture, means, variances),
        "findings": list(one.findings),
        "facts": list(one.facts),
        **{name: one.criteria.get(name) for name in ("bic", "aic", "icl")},
    }


def _score(tails: Tails | None, rows: Array, logp: Array, drawing: bool) -> tuple[str, Array]:
    """Score that ranks the sample's rows: "density", "tail", or the "bound" of tails where draws are expensive."""
    if tails is None:
        return "density", logp
    return ("tail", tails.log_tail(rows, logp)) if drawing else ("bound", tails.log_bound(rows, logp))


def _phrases(mixture: Mixture, means: Array, variances: Array, used: Sequence[int], names: Sequence[str]) -> list[str]:
    """(K,) what sets each component apart from the rest of those in use."""
    said = [""] * mixture.n_components
    if len(used) > 1:
        found = description_of(mixture.weights, means, np.sqrt(variances), names, components=np.array(used, np.int64))
        for c, k in enumerate(found.components):
            said[int(k)] = ", ".join(found.phrase(c, j) for j in found.telling(c)) or "no single feature"
    return said


def _certain_left_out(extremes: Extremes) -> Extremes:
    return extremes.first(int((extremes.key < UNSURE).sum()))


def _apart(weights: Array, means: Array, variances: Array) -> Array:
    """(K, D) mean of each component less the overall mean, in overall standard deviations."""
    share = weights / weights.sum()
    centre = share @ means
    overall = np.sqrt(share @ (variances + (means - centre) ** 2))
    return np.divide(means - centre, overall, out=np.zeros_like(means), where=overall > 0)


class _Pool:
    """Rows that are listed for some model, each once."""

    def __init__(
        self,
        found: PageRows,
        projection: Projected | None,
        identify: Callable[[NDArray[np.int64]], Sequence[Any]] | None,
        names: Sequence[str],
    ) -> None:
        self.names = names
        self.found, self.projection, self._identify = found, projection, identify
        self._at: dict[int, int] = {}
        self._rows: list[Array] = []

    def listed(
        self, extremes: Extremes, mixture: Mixture, means: Array, variances: Array, *, ranked: bool = False
    ) -> list[dict[str, Any]]:
        """A model's answers for some rows, and the features that make each unusual under its component.

        Parameters
        ----------
        ranked : whether the rows' keys are logarithms of tail probabilities
        """
        K, D = means.shape
        full = self.projection is None and D <= GIVEN_UP_TO
        covariances = dense(mixture) if full else None
        said = []
        numbers = self.found.numbers_of(extremes.place).tolist()
        parts = zip(numbers, extremes.rows, extremes.key, extremes.logp, extremes.resp, strict=True)
        for number, row, key, logp, resp in parts:
            at = self._at.setdefault(number, len(self._rows))
            if at == len(self._rows):
                self._rows.append(row)
            k = int(resp[:K].argmax())
            covariance = np.diag(variances[k]) if covariances is None else covariances[k]
            two = np.argsort(-resp, kind="stable")[:2]
            said.append({
                "at": at,
                "logp": _rounded(logp, 9),
                "log_tail": _rounded(key, 9) if ranked else None,
                "labels": [int(j) if j < K else -1 for j in two],
                "shares": [_rounded(resp[j]) for j in two],
                "nearest": k,
                "why": [_reason(one) for one in self._deviations(row, means[k], covariance)],
            })  # fmt: skip
        return said

    def _deviations(self, row: Array, mean: Array, covariance: Array) -> list[Deviation]:
        """Behind principal components the deviations are those of what is left of the row, the values the row's."""
        if self.projection is None:
            return deviations(row, mean, covariance)
        seen = self.projection.apply(row[None])[0] @ self.projection.inverse + self.projection.shift
        return [replace(one, value=float(row[one.feature])) for one in deviations(seen, mean, covariance)]

    def entries(self, shown: Sequence[int], view: View) -> dict[str, Any]:
        """Number, id and values of each row, and where it is drawn."""
        numbers = np.array(list(self._at), np.int64)
        ids = [None] * len(numbers) if self._identify is None else list(map(str, self._identify(numbers)))
        listed = [
            {"row": int(number), "id": one, "values": [float(row[j]) for j in shown]}
            for number, one, row in zip(numbers, ids, self._rows, strict=True)
        ]
        rows = np.array(self._rows).reshape(len(listed), self.found.rows.shape[1])
        return {"listed": listed, "listed_points": _floats(view.standardised(rows))}


def _reason(one: Deviation) -> list[Any]:
    return [one.feature, one.value, _rounded(one.expected), _rounded(one.deviations, 3), int(one.given)]


def _frames(one: Shown, view: View, most: int, *, filled: bool) -> dict[str, Any] | None:
    """The path of the fit as the page steps through it, at most `most` steps; None where it was not recorded.

    Of a sample that was `filled` in the log-likelihood is that of all features, and no level of this path.
    """
    frames = one.frames
    if not len(frames.get("iteration", ())):
        return None
    sampled = frames["sampled"].astype(bool)
    T = len(sampled)
    ends = {0, T - 1, int(sampled.sum()) - 1} - {-1}
    kept = np.array(sorted({*range(0, T, max(1, -(-T // most))), *ends}))
    means, covariances = view.frames(frames["means"][kept], frames["covariances"][kept])
    iteration = frames["iteration"].astype(int)
    before = int(iteration[sampled].max(initial=0))
    return {
        "iteration": iteration[kept],
        "x": np.where(sampled, iteration, iteration + before)[kept],
        "sampled": sampled[kept].astype(int),
        "level": [
            None if filled and of_sample else _rounded(value, 9)
            for value, of_sample in zip(frames["objective"][kept], sampled[kept], strict=True)
        ],
        "weights": _floats(frames["weights"][kept]),
        "means": _floats(means),
        "covariances": _floats(covariances),
    }


def _thinned_trace(trace: Sequence[float], most: int = 400) -> Sequence[float]:
    return list(trace)[:: max(1, -(-len(trace) // most))]


def _floats(values: Array) -> str:
    return _packed(values, "<f4")


def _packed(values: Array | NDArray[np.intp], kind: str) -> str:
    """Numbers as the script unpacks them: bytes in base64."""
    with np.errstate(over="ignore"):
        return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode()


def _rounded(value: float, digits: int = 6) -> float | None:
    """A number of a few digits: the page is text."""
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None
