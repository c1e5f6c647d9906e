"""One self-contained interactive page: everything a fit knows, offline, in one file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.mixture.mixture import Mixture
from streamgmm.report.figures import PALETTE, Plane
from streamgmm.utils.jsonable import jsonable

Array = NDArray[np.float64]
SHOWN = 6
"""Features whose values are listed; the picture is made of all of them."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One model on the page.

    Attributes
    ----------
    mixture : Mixture
    frames : dict of arrays
        The path of the fit as `streamgmm.report.history` keeps it; empty where it was not recorded.
    criteria : dict of float
        ``bic``, ``aic``, ``icl``, ``log_likelihood_per_row``, where known; ``covariance_type``, where it is not
        that of the mixture in the units of the data.
    findings : list of {"title", "text"}
    facts : list of (name, value)
    note : str
    answers : ((N, K) responsibilities, (N,) log-densities) of the sample
        Where the mixture alone cannot give them: rows with missing values.
    """

    mixture: Mixture
    frames: Mapping[str, Array] = field(default_factory=dict)
    criteria: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[Mapping[str, str]] = ()
    facts: Sequence[tuple[str, Any]] = ()
    note: str = ""
    answers: tuple[Array, Array] | None = None


def page(
    models: Sequence[Shown],
    rows: NDArray[Any],
    *,
    title: str,
    subtitle: str = "",
    best: int = 0,
    elbow: int | None = None,
    criterion: str = "bic",
    plane: Plane | None = None,
    names: Sequence[str] | None = None,
    facts: Sequence[tuple[str, Any]] = (),
    back: Callable[[Array], Array] | None = None,
) -> str:
    """The page as HTML.

    Parameters
    ----------
    models : one `Shown` per K, and per covariance type where there are several
    rows : (N, D)
        A sample of the data; one to three thousand rows make a good picture.
    criterion : str
        Drawn against K where there are several covariance types, one line each.
    plane : Plane
        The one that the frames were recorded in; by default that of the best model.
    names : of the features that are listed
    back : brings `rows` and means to the units that are listed, where the models live in others
    """
    plane = plane or Plane.of(models[best].mixture)
    D = models[best].mixture.n_features
    back = back or np.asarray
    listed = back(np.asarray(rows, np.float64))
    named = [str(name) for name in names] if names is not None else [f"x{j}" for j in range(listed.shape[1])]
    seen = named if back is np.asarray else ["principal component 1", "principal component 2"]
    points = plane.project(rows)
    if D == 1:  # one feature: spread the rows over the height, which means nothing
        points[:, 1] = np.random.default_rng(0).normal(size=len(points))
    document = {
        "title": title,
        "subtitle": subtitle,
        "palette": PALETTE,
        "labels": plane.labels(seen) if D > 1 else (seen[0], "(spread at random)"),
        "note": f"{len(rows):,} rows drawn at random, coloured by their component under the final model; ellipses hold "
        "one and two standard deviations. Red rings: rows below the anomaly threshold.",
        "window": _window(points),
        "points": _rounded(points),
        "rows": _rounded(listed[:, :SHOWN]),
        "shown": named[:SHOWN],
        "models": [_model(one, rows, plane, back) for one in models],
        "best": best,
        "elbow": elbow,
        "criterion": criterion,
        "facts": list(facts),
    }
    text = json.dumps(jsonable(document), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    template = files("streamgmm.report").joinpath("page.html").read_text(encoding="utf-8")
    return template.replace("/*DATA*/", text)


def _model(one: Shown, rows: NDArray[Any], plane: Plane, back: Callable[[Array], Array]) -> dict[str, Any]:
    mixture = one.mixture
    means = back(mixture.means)
    K = mixture.n_components
    shares, logp = one.answers or (mixture.responsibilities(rows), mixture.log_prob(rows))
    label, certainty = shares.argmax(axis=1), shares.max(axis=1)
    label[label == K] = -1  # background
    order = np.argsort(-mixture.weights)
    kind = one.criteria.get("covariance_type", mixture.family.name)
    return {
        "name": f"{K}, {kind}",
        "K": K,
        "kind": kind,
        "note": one.note,
        "frames": _frames(one, plane),
        "labels": label,
        "logp": _rounded(logp),
        "components": [
            {
                "k": int(k),
                "weight": mixture.weights[k],
                "rows": int((label == k).sum()),
                "certainty": certainty[label == k].mean() if (label == k).any() else None,
                "mean": means[k, :SHOWN],
            }
            for k in order
        ],
        "findings": list(one.findings),
        "facts": list(one.facts),
        **{name: one.criteria.get(name) for name in ("bic", "aic", "icl")},
    }


def _frames(one: Shown, plane: Plane) -> list[dict[str, Any]]:
    """Iterations as the page steps through them; the final model alone where no path was recorded."""
    frames = one.frames
    if not len(frames.get("iteration", ())):
        means, covariances = plane.ellipses(one.mixture)
        level = one.criteria.get("log_likelihood_per_row")
        return [{"it": 1, "x": 1, "s": 0, "ll": level, "w": one.mixture.weights, "m": means, "c": _three(covariances)}]
    sampled = frames["sampled"].astype(bool)
    steps = int(frames["iteration"][sampled].max(initial=0))
    return [
        {
            "it": int(iteration),
            "x": int(iteration) + (0 if sampled[t] else steps),
            "s": int(sampled[t]),
            "ll": float(frames["objective"][t]),
            "w": np.round(frames["weights"][t], 5),
            "m": _rounded(frames["means"][t]),
            "c": _rounded(_three(frames["covariances"][t])),
        }
        for t, iteration in enumerate(frames["iteration"])
    ]


def _three(covariances: Array) -> Array:
    """(K, 3): variances and covariance of (K, 2, 2)."""
    return np.stack([covariances[:, 0, 0], covariances[:, 0, 1], covariances[:, 1, 1]], axis=1)


def _rounded(values: NDArray[Any], digits: int = 6) -> Any:
    """Nested lists of numbers of a few digits: the page is text."""
    flat = [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in np.ravel(values).tolist()]
    return np.array(flat, dtype=object).reshape(np.shape(values))


def _window(points: Array) -> dict[str, list[float]]:
    """Axes that show nearly all rows: far outliers may stand outside."""
    low, high = np.percentile(points, [0.25, 99.75], axis=0)
    pad = 0.12 * (high - low) + 1e-12
    return {"x": [low[0] - pad[0], high[0] + pad[0]], "y": [low[1] - pad[1], high[1] + pad[1]]}
