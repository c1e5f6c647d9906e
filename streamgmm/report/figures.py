"""Pictures with matplotlib: components in a plane, convergence, criteria against K, weights, uncertainty.

Every function draws on `ax` (its own figure without one) and returns it; matplotlib is imported when one is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.mixture.mixture import Mixture

Array = NDArray[np.float64]

PALETTE = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#0077bb", "#cc3311", "#009988",
    "#997700", "#6699cc", "#994455", "#44aa99", "#882255", "#999933", "#332288", "#117733", "#88ccee", "#cc6677",
)  # fmt: skip
"""Colours of components, told apart by most colour-blind readers too (Paul Tol); repeated beyond twenty."""


def colour(k: int) -> str:
    """The colour of component k."""
    return PALETTE[k % len(PALETTE)]


@dataclass(frozen=True, slots=True)
class Plane:
    """Two directions to look at: x -> axes^T (x - centre).

    Attributes
    ----------
    centre : (D,)
    axes : (D, 2)
    share : (2,) share of the standardised variance along each axis
    """

    centre: Array
    axes: Array
    share: Array

    @classmethod
    def of(cls, mixture: Mixture) -> Plane:
        """The plane of a mixture's own two leading axes."""
        D = mixture.n_features
        if D <= 2:
            return cls(np.zeros(D), np.eye(D, 2), np.full(2, 1.0 / D))
        centre, covariance = overall(mixture)
        scale = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        scale[scale == 0] = 1.0
        values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
        vectors = vectors[:, ::-1][:, :2]
        vectors *= np.where(np.abs(vectors).max(axis=0) == vectors.max(axis=0), 1.0, -1.0)  # a sign that is settled
        return cls(centre, vectors / scale[:, None], values[::-1][:2] / D)

    def project(self, rows: NDArray[Any]) -> Array:
        """(N, 2) coordinates of rows (N, D)."""
        return (np.asarray(rows, np.float64) - self.centre) @ self.axes

    def ellipses(self, mixture: Mixture) -> tuple[Array, Array]:
        """(K, 2) means and (K, 2, 2) covariances of the components as the plane shows them."""
        return self.project(mixture.means), self.axes.T @ dense(mixture) @ self.axes

    def labels(self, names: Sequence[str] | None = None) -> tuple[str, str]:
        """What to write on the axes."""
        if len(self.centre) <= 2:
            named = [*(("feature 0", "feature 1")[: len(self.centre)] if names is None else names), ""]
            return str(named[0]), str(named[1])
        x, y = (f"principal axis {i + 1} ({100 * share:.0f} % of variance)" for i, share in enumerate(self.share))
        return x, y


def dense(mixture: Mixture) -> Array:
    """(K, D, D) covariances of any family."""
    return mixture.family.dense(mixture.covariances, *mixture.means.shape)


def overall(mixture: Mixture) -> tuple[Array, Array]:
    """(D,) mean and (D, D) covariance of the whole mixture."""
    weights = mixture.weights / mixture.weights.sum()
    mean = weights @ mixture.means
    delta = mixture.means - mean
    return mean, np.einsum("k,kde->de", weights, dense(mixture)) + (weights[:, None] * delta).T @ delta


def ellipse(covariance: Array, *, n_points: int = 64) -> Array:
    """(n_points, 2) outline of one standard deviation of a (2, 2) covariance."""
    values, vectors = np.linalg.eigh(covariance)
    angle = np.linspace(0.0, 2 * np.pi, n_points)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (circle * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install 'streamgmm[plot]'.") from None
    return plt.subplots(figsize=(6.4, 4.8), layout="constrained")[1]


def ellipses(
    mixture: Mixture,
    rows: ArrayLike | None = None,
    *,
    ax: Any = None,
    plane: Plane | None = None,
    names: Sequence[str] | None = None,
    deviations: Sequence[float] = (1.0, 2.0),
) -> Any:
    """Components as ellipses on the first two principal axes, rows coloured by their label.

    Parameters
    ----------
    rows : (N, D), optional
    plane : Plane, optional
        Where to look from; the mixture's own by default. One feature is drawn as a density curve.
    deviations : numbers of standard deviations that the ellipses enclose
    """
    ax = _axes(ax)
    if mixture.n_features == 1:
        return _curves(mixture, rows, ax, names)
    plane = plane or Plane.of(mixture)
    if rows is not None:
        points, label = plane.project(np.asarray(rows)), mixture.labels(rows)
        ax.scatter(*points.T, s=4, c=[colour(k) for k in label], alpha=0.35, linewidths=0)
    means, covariances = plane.ellipses(mixture)
    for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        outline = ellipse(covariance)
        strength = 0.35 + 0.65 * float(np.sqrt(mixture.weights[k] / mixture.weights.max()))
        for n in deviations:
            ax.plot(*(mean + n * outline).T, color=colour(k), linewidth=1.6 / n, alpha=strength)
        ax.plot(*mean, "x", color="black", markersize=4)
    x, y = plane.labels(names)
    ax.set(xlabel=x, ylabel=y, title=f"{mixture.n_components} components")
    return ax


def _curves(mixture: Mixture, rows: ArrayLike | None, ax: Any, names: Sequence[str] | None) -> Any:
    spread = np.sqrt(dense(mixture)[:, 0, 0])
    low, high = (mixture.means[:, 0] - 4 * spread).min(), (mixture.means[:, 0] + 4 * spread).max()
    x = np.linspace(low, high, 512)[:, None]
    density = np.exp(mixture.log_prob(x))
    if rows is not None:
        ax.hist(np.asarray(rows)[:, 0], bins=80, density=True, color="0.85")
    parts = mixture.responsibilities(x) * density[:, None]
    for k in range(mixture.n_components):
        ax.plot(x[:, 0], parts[:, k], color=colour(k), linewidth=1)
    ax.plot(x[:, 0], density, color="black", linewidth=1.5)
    ax.set(xlabel="feature 0" if names is None else str(names[0]), ylabel="density")
    return ax


def convergence(trace: Sequence[float], *, ax: Any = None) -> Any:
    """Mean log-likelihood per row against the pass over the data."""
    ax = _axes(ax)
    ax.plot(np.arange(1, len(trace) + 1), trace, marker="." if len(trace) < 60 else None, color=PALETTE[0])
    ax.set(xlabel="pass over the data", ylabel="log-likelihood per row (nats)", title="Convergence")
    ax.xaxis.get_major_locator().set_params(integer=True)
    return ax


def criteria(table: Sequence[Mapping[str, Any]], *, names: Sequence[str] = ("bic", "aic"), ax: Any = None) -> Any:
    """Criteria against K, the smallest of each marked.

    Parameters
    ----------
    table : dicts with ``n_components``, the criteria, and where there are several ``covariance_type``
    """
    ax = _axes(ax)
    kinds = list(dict.fromkeys(row.get("covariance_type", "full") for row in table))
    for i, kind in enumerate(kinds):
        rows = sorted((r for r in table if r.get("covariance_type", "full") == kind), key=lambda r: r["n_components"])
        for name, style in zip(names, ("-", "--", ":"), strict=False):
            line = [(row["n_components"], row[name]) for row in rows if row.get(name) is not None]
            if not line:
                continue
            K, value = np.array(line, np.float64).T
            text = f"{name.upper()}, {kind}" if len(kinds) > 1 else name.upper()
            ax.plot(K, value, style, marker=".", color=colour(i), label=text)
            best = int(np.argmin(value))
            ax.plot(K[best], value[best], "o", markersize=9, fillstyle="none", color=colour(i))
    ax.set(xlabel="number of components K", ylabel="criterion (smaller is better)", title="Choice of K")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend()
    return ax


def weights(mixture: Mixture, *, ax: Any = None) -> Any:
    """Weights of the components, heaviest first."""
    ax = _axes(ax)
    order = np.argsort(-mixture.weights)
    ax.bar(np.arange(len(order)), mixture.weights[order], color=[colour(int(k)) for k in order])
    ax.set(xlabel="component", ylabel="weight", title="Weights")
    if len(order) <= 30:
        ax.set_xticks(np.arange(len(order)), [str(k) for k in order])
    return ax


def uncertainty(
    mixture: Mixture, rows: ArrayLike, *, ax: Any = None, plane: Plane | None = None, names: Sequence[str] | None = None
) -> Any:
    """How sure each row's label is: 1 - max_k r_ik, large and dark where components share a row."""
    ax = _axes(ax)
    points = np.asarray(rows)
    doubt = 1.0 - mixture.responsibilities(points).max(axis=1)
    plane = plane or Plane.of(mixture)
    flat = plane.project(points)
    order = np.argsort(doubt)
    picture = ax.scatter(*flat[order].T, c=doubt[order], s=3 + 30 * doubt[order], cmap="magma_r", vmin=0, linewidths=0)
    ax.figure.colorbar(picture, ax=ax, label="1 - largest responsibility")
    x, y = plane.labels(names)
    ax.set(xlabel=x, ylabel=y, title=f"Membership uncertainty (mean {doubt.mean():.3f})")
    return ax
