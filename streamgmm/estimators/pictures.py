"""Pictures of a fitted mixture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from streamgmm.estimators.projection import Projection
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.plane import Plane
from streamgmm.report import figures, panels
from streamgmm.report.description import description_of
from streamgmm.report.view import feature_moments
from streamgmm.runtime.executors import Executor, within
from streamgmm.sources.base import Chunk, Readable, Source
from streamgmm.sources.summaries.reservoir import draw_rows, merge_draws
from streamgmm.utils.phases import reading
from streamgmm.utils.types import Feature

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw", "timeline"]

Array = NDArray[np.float64]

KINDS = (
    "ellipses", "classification", "uncertainty", "density", "corner", "marginals", "profiles", "loadings", "timeline",
    "weights", "convergence",
)  # fmt: skip
"""Kinds of pictures of `plot`."""
KINDS_OF_ROWS = ("classification", "uncertainty", "timeline")
KINDS_OF_FEATURES = ("ellipses", "classification", "uncertainty", "density", "corner", "marginals")
PANELS = ("corner", "marginals", "loadings")
RUNS = 120
"""Of rows, in a timeline."""
_BLOCK = 16_384


class Drawn(Protocol):
    """A fitted mixture estimator, as far as pictures show it."""

    lower_bounds_: list[float]

    @property
    def mixture_(self) -> Mixture: ...

    @property
    def projection_(self) -> Projection | None: ...

    def _seen(self, X: Readable) -> Source: ...

    def _executor(self, source: Source) -> Executor: ...


def _along(model: Mixture, n_rows: int, runs: int, chunk: Chunk) -> Array:
    """(runs, K + 3) sums by run of rows: w r, background included, then w log p, w times the row's number, and w."""
    assert chunk.start is not None  # sources that count their rows know it
    rows, weight = chunk.load()
    w = np.ones(len(rows)) if weight is None else weight
    width = model.n_components + (model.box is not None)
    out = np.zeros((runs, width + 3))
    for at in range(0, len(rows), _BLOCK):
        kept = at + np.flatnonzero(w[at : at + _BLOCK] > 0)
        part, mass, number = rows[kept], w[kept], chunk.start + kept
        values = np.column_stack([model.responsibilities(part), model.log_prob(part), number, np.ones(len(part))])
        np.add.at(out, number * runs // n_rows, mass[:, None] * values)
    return out


def draw(
    gm: Drawn,
    kind: str,
    X: Readable,
    *,
    ax: Axes | None,
    n_rows: int,
    features: Feature | Sequence[Feature] | None,
) -> Axes:
    """One picture of `gm`; see `Fitted.plot`."""
    if kind not in KINDS:
        raise ValueError(
            f"kind must be one of {', '.join(map(repr, KINDS))}; got {kind!r}. "
            "Criteria against K are drawn by Selection.plot()."
        )
    if X is None and kind in KINDS_OF_ROWS:
        raise ValueError(f"kind={kind!r} needs X: rows to be drawn.")
    if ax is not None and kind in PANELS:
        raise ValueError(f"kind={kind!r} has several panels and makes its own axes: leave ax=None.")
    if features is not None and kind not in KINDS_OF_FEATURES:
        listed = ", ".join(map(repr, KINDS_OF_FEATURES))
        raise ValueError(f"features= belongs to kinds {listed}; got kind={kind!r}. Leave features=None.")
    if kind in ("convergence", "weights", "profiles", "timeline"):
        return _plot_whole(gm, kind, X, ax)
    names = getattr(gm, "feature_names_in_", None) if gm.projection_ is None else gm.projection_.names
    if kind == "loadings":
        return panels.loadings(gm.mixture_, names=names)  # type: ignore[return-value]
    chosen = None if features is None else _drawn_features(gm, kind, features, names)
    rows = None if X is None else _drawn_rows(gm, X, n_rows)
    if kind in PANELS:
        return getattr(panels, kind)(gm.mixture_, rows, features=chosen, names=names)
    if kind == "density":
        pair = None if chosen is None else (chosen[0], chosen[1])
        return figures.density(gm.mixture_, rows, ax=ax, features=pair, names=names)
    plane = None if chosen is None else Plane.of_features(gm.mixture_.n_features, *chosen)
    drawing = figures.uncertainty if kind == "uncertainty" else figures.ellipses
    return drawing(gm.mixture_, rows, ax=ax, plane=plane, names=names)  # type: ignore[arg-type]


def _plot_whole(gm: Drawn, kind: str, X: Readable, ax: Axes | None) -> Axes:
    """The pictures that are not of rows in a plane of features."""
    if kind == "convergence":
        return figures.convergence(gm.lower_bounds_, ax=ax)
    if kind == "weights":
        return figures.weights(gm.mixture_, ax=ax)
    if kind == "timeline":
        return figures.timeline(*timeline(gm, X), ax=ax)
    means, variances = feature_moments(gm.mixture_, gm.projection_)
    deviations = np.sqrt(np.maximum(variances, 0.0))
    known = getattr(gm, "feature_names_in_", None)
    names = [f"x{j}" for j in range(means.shape[1])] if known is None else [str(name) for name in known]
    used = np.asarray(getattr(gm, "components_in_use_", np.arange(len(means))))
    found = description_of(gm.mixture_.weights, means, deviations, names, components=used)
    return found.plot(ax=ax)


def _drawn_features(
    gm: Drawn, kind: str, features: Feature | Sequence[Feature], names: Sequence[str] | None
) -> list[int]:
    D = gm.mixture_.n_features
    asked = [features] if isinstance(features, str | int) else list(features)
    listed = [] if names is None else [str(name) for name in names]
    unknown = [name for name in asked if isinstance(name, str) and name not in listed]
    if unknown:
        raise ValueError(f"features: there is no {unknown[0]!r}; expected numbers or names among {listed}.")
    chosen = [listed.index(name) if isinstance(name, str) else int(name) for name in asked]
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(D)):
        raise ValueError(f"features: expected different features from 0 to {D - 1}; got {asked}.")
    if kind not in PANELS and len(chosen) != 2:
        raise ValueError(f"features: kind={kind!r} is drawn in the plane of two features; got {len(chosen)}.")
    return chosen


def _drawn_rows(gm: Drawn, X: Readable, n_rows: int) -> Array:
    """(m, D) rows drawn at random, in the order of the data; NaN where nothing was observed."""
    source = gm._seen(X)
    task = partial(draw_rows, n_rows, 0, gm.mixture_.missing)
    with reading(source, "drawing rows"):
        draw = gm._executor(source).run(task, source.chunks(), partial(merge_draws, n_rows))
    return draw.rows[np.argsort(draw.numbers)]


def timeline(gm: Drawn, X: Readable) -> tuple[Array, Array, Array]:
    """Runs of neighbouring rows, in their order: (R, K) shares, background included, log-density, number of a row."""
    source = gm._seen(X)
    if source.n_rows is None:
        raise ValueError(
            f"kind='timeline' needs the number of rows before it reads them, and {source.name} does not tell it. "
            "Write the data to .npy, Zarr or Parquet first: streamgmm data convert."
        )
    runs = min(RUNS, source.n_rows)
    task = within(source, partial(_along, gm.mixture_, source.n_rows, runs))
    with reading(source, "counting along the rows"):
        sums = gm._executor(source).run(task, source.chunks(), np.add)
    sums = sums[sums[:, -1] > 0]
    weight = sums[:, -1]
    return sums[:, :-3] / weight[:, None], sums[:, -3] / weight, sums[:, -2] / weight
