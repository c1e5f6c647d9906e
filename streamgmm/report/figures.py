"""Pictures with matplotlib: components in a plane, densities, convergence, criteria against K, weights, profiles.

Colours are told apart by colour-blind readers; what must be told apart in print differs in its line too.
Every function draws on `ax` (its own figure without one) and returns it; matplotlib is imported when one is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.plane import Plane as Plane
from streamgmm.mixture.plane import dense as dense
from streamgmm.mixture.plane import ellipse
from streamgmm.report.view import telling_features
from streamgmm.utils.colours import PALETTE as PALETTE
from streamgmm.utils.colours import colour
from streamgmm.utils.printable import printable, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]


def plain(name: object) -> str:
    """A name as text that matplotlib takes for no formula, without what its fonts lack: control characters, emoji."""
    text = short_name(printable(str(name))).replace("$", r"\$")
    return "".join("□" if ord(mark) > 0xFFFF else mark for mark in text)


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
) -> Axes:
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
    plane = plane or Plane.of_principal_axes(mixture)
    if rows is not None:
        scatter(ax, mixture, np.asarray(rows), plane)
    outlines(ax, mixture, plane, deviations)
    x, y = plane.labels(names)
    K = mixture.n_components
    rings = " and ".join(f"{n:g}" for n in deviations)
    title = f"{K} component{'s' * (K != 1)}: ellipses of {rings} standard deviations"
    ax.set(xlabel=plain(x), ylabel=plain(y), title=title)
    return ax


def paint(labels: NDArray[Any]) -> list[str]:
    """Colours of rows by their component; grey for the background."""
    return ["#999999" if k < 0 else colour(k) for k in labels.tolist()]


def scatter(ax: Axes, mixture: Mixture, rows: NDArray[Any], plane: Plane) -> None:
    """Rows (N, D) as points, coloured by their label; rows with missing values only where the plane is of features that
    were observed."""
    x, y = placed(mixture, rows, plane).T
    ax.scatter(x, y, c=paint(mixture.labels(rows)), **dots(len(rows)))


def dots(n: int) -> dict[str, Any]:
    """Size and strength of n points: few are large, many do not hide each other."""
    return {"s": min(16.0, max(3.0, 4000 / n)), "alpha": min(0.8, max(0.35, 200 / n)), "linewidths": 0.0}


def placed(mixture: Mixture, rows: NDArray[Any], plane: Plane) -> Array:
    """(N, 2) where rows stand in a plane. Between principal axes a missing value stands at its expected value."""
    if plane.features is None and np.isnan(rows).any():
        rows = mixture.impute(rows)
    return plane.project(rows)


def outlines(ax: Axes, mixture: Mixture, plane: Plane, deviations: Sequence[float]) -> None:
    """Ellipses of all components."""
    means, covariances = plane.ellipses(mixture)
    for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        outline = ellipse(covariance)
        strength = 0.35 + 0.65 * float(np.sqrt(mixture.weights[k] / mixture.weights.max()))
        for n in deviations:
            ax.plot(*(mean + n * outline).T, color=colour(k), linewidth=1.6 / n, alpha=strength)
        ax.plot(*mean, "x", color="black", markersize=4)


def _curves(mixture: Mixture, rows: ArrayLike | None, ax: Any, names: Sequence[str] | None) -> Any:
    values = None if rows is None else np.asarray(rows)[:, 0]
    curve(ax, mixture, 0, values)
    ax.set(xlabel="feature 0" if names is None else plain(names[0]), ylabel="density", title="Density of one feature")
    return ax


DASHES = ("-", "--", "-.", ":")


def curve(ax: Axes, mixture: Mixture, feature: int, values: NDArray[Any] | None = None) -> None:
    """The marginal density of one feature, black, over those of its components, and a histogram of values."""
    mean, weights = mixture.means[:, feature], mixture.weights
    spread = np.sqrt(mixture.family.variances(mixture.covariances, *mixture.means.shape)[:, feature])
    x = np.linspace((mean - 4 * spread).min(), (mean + 4 * spread).max(), 512)
    if values is not None:
        seen = values[~np.isnan(values)]
        ax.hist(seen, bins=min(80, max(10, len(seen) // 20)), density=True, color="0.85")
    parts = weights * np.exp(-0.5 * ((x[:, None] - mean) / spread) ** 2) / (spread * np.sqrt(2 * np.pi))
    for k in range(mixture.n_components):
        ax.plot(x, parts[:, k], DASHES[k % len(DASHES)], color=colour(k), linewidth=1)
    density = parts.sum(axis=1)
    if mixture.box is not None:
        low, high = mixture.box[:, feature]
        density = density + np.where((x >= low) & (x <= high), mixture.noise_weight / (high - low), 0.0)
    ax.plot(x, density, color="black", linewidth=1.5)


BLUES = ("#6f97c2", "#4f7fb0", "#25588c", "#0b2e57")
HELD = (0.95, 0.75, 0.5, 0.25)
"""Shares of the rows within the contours of a density."""


def density(
    mixture: Mixture,
    rows: ArrayLike | None = None,
    *,
    ax: Any = None,
    features: tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
) -> Axes:
    """Contours of the joint density of two features, each around the region of highest density that holds a share.

    Parameters
    ----------
    rows : (N, D), optional
    features : two of them; by default those in which components differ most
    """
    ax = _axes(ax)
    if mixture.n_features == 1:
        return _curves(mixture, rows, ax, names)
    first, second = features or telling_features(mixture, 2)
    two = mixture.marginal([first, second])
    spread = np.sqrt(two.family.variances(two.covariances, *two.means.shape))
    low, high = (two.means - 4 * spread).min(axis=0), (two.means + 4 * spread).max(axis=0)
    x, y = (np.linspace(low[i], high[i], 160) for i in (0, 1))
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    height = np.exp(two.observing(None).log_prob(grid.reshape(-1, 2))).reshape(grid.shape[:2])
    if rows is not None:
        points = np.asarray(rows)
        ax.scatter(points[:, first], points[:, second], color="0.6", **dots(len(points)))
    levels = contour_levels(height, HELD)
    kept = [i for i in range(len(levels)) if i == 0 or levels[i] > levels[i - 1]]
    lines = ax.contour(x, y, height, levels=[levels[i] for i in kept], colors=BLUES, linewidths=1.4)
    ax.clabel(lines, colors="black", fmt={levels[i]: f"{100 * HELD[i]:.0f} %" for i in kept}, fontsize="small")
    labels = Plane.of_features(mixture.n_features, first, second).labels(names)
    title = "Density: each contour holds that share of the rows"
    ax.set(xlabel=plain(labels[0]), ylabel=plain(labels[1]), title=title)
    return ax


def contour_levels(height: Array, shares: Sequence[float]) -> list[float]:
    """Densities above which a share of the mass on an even grid lies, for each of the shares."""
    falling = np.sort(height, axis=None)[::-1]
    mass = np.cumsum(falling)
    at = np.searchsorted(mass, np.asarray(shares) * mass[-1])
    return [float(v) for v in falling[np.minimum(at, falling.size - 1)]]


def convergence(trace: Sequence[float], *, ax: Any = None) -> Axes:
    """Mean log-likelihood per row against the pass over the data."""
    ax = _axes(ax)
    ax.plot(np.arange(1, len(trace) + 1), trace, marker="." if len(trace) < 60 else None, color=PALETTE[0])
    ax.set(
        xlabel="pass over the data",
        ylabel="log-likelihood per row (nats)",
        title="Convergence: flat at its end, or not done",
    )
    ax.xaxis.get_major_locator().set_params(integer=True)
    return ax


def criteria(table: Sequence[Mapping[str, Any]], *, names: Sequence[str] = ("bic", "aic"), ax: Any = None) -> Axes:
    """Criteria against K, the smallest of each marked; of several covariance types the first criterion, a line each.

    Parameters
    ----------
    table : dicts with ``n_components``, the criteria, and where there are several ``covariance_type``
    """
    ax = _axes(ax)
    kinds = list(dict.fromkeys(row.get("covariance_type", "full") for row in table))
    several = len(kinds) > 1
    if several:
        names = names[:1]
    for i, kind in enumerate(kinds):
        rows = sorted((r for r in table if r.get("covariance_type", "full") == kind), key=lambda r: r["n_components"])
        for name, style in zip(names, ("-", "--", ":"), strict=False):
            line = [(row["n_components"], row[name]) for row in rows if row.get(name) is not None]
            if not line:
                continue
            K, value = np.array(line, np.float64).T
            style = DASHES[i % len(DASHES)] if several else style
            ax.plot(K, value, style, marker=".", color=colour(i), label=kind if several else name.upper())
            best = int(np.argmin(value))
            ax.plot(K[best], value[best], "o", markersize=9, fillstyle="none", color=colour(i))
    what = names[0].upper() if several else "criterion"
    title = "Choice of K and covariance" if several else "Choice of K"
    ax.set(
        xlabel="number of components K",
        ylabel=f"{what} (smaller is better)",
        title=f"{title}: the lowest point of each curve is ringed",
    )
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(ncols=1 + len(kinds) // 8, fontsize="small" if len(kinds) > 8 else None)
    return ax


def weights(mixture: Mixture, *, ax: Any = None) -> Axes:
    """Weights of the components, heaviest first."""
    ax = _axes(ax)
    order = np.argsort(-mixture.weights)
    ax.bar(np.arange(len(order)), mixture.weights[order], color=[colour(int(k)) for k in order])
    ax.set(xlabel="component", ylabel="weight", title="Weights, the heaviest first")
    if len(order) <= 30:
        ax.set_xticks(np.arange(len(order)), [str(k) for k in order])
    return ax


def uncertainty(
    mixture: Mixture, rows: ArrayLike, *, ax: Any = None, plane: Plane | None = None, names: Sequence[str] | None = None
) -> Axes:
    """Picture of the certainty of each row's label: 1 - max_k r_ik, large and dark where components share a row."""
    ax = _axes(ax)
    points = np.asarray(rows)
    doubt = 1.0 - mixture.responsibilities(points).max(axis=1)
    plane = plane or Plane.of_principal_axes(mixture)
    flat = placed(mixture, points, plane)
    order = np.argsort(doubt)
    picture = ax.scatter(
        *flat[order].T, c=doubt[order], s=dots(len(flat))["s"] + 30 * doubt[order], cmap=_doubts(), vmin=0,
        vmax=max(0.5, 1 - 1 / mixture.n_components), linewidths=0,
    )  # fmt: skip
    ax.figure.colorbar(picture, ax=ax, label="1 - largest responsibility")
    x, y = plane.labels(names)
    title = f"Uncertainty: dark rows lie between components (mean {doubt.mean():.3f})"
    ax.set(xlabel=plain(x), ylabel=plain(y), title=title)
    return ax


def _doubts() -> Any:
    """Grey for rows that are sure, dark for those that are not."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("doubts", ["#c4c4c4", "#ee7733", "#44001a"])


def timeline(shares: Array, log_density: Array, ends: Array, *, ax: Any = None) -> Axes:
    """Picture of the components' shares in successive runs of rows, and of the fit there.

    Parameters
    ----------
    shares : (T, K), or (T, K + 1) with a background
    log_density : (T,) mean log-density of each run, in nats
    ends : (T,) row number at the middle of each run
    """
    ax = _axes(ax)
    K = shares.shape[1]
    ax.stackplot(ends, shares.T, colors=[colour(k) for k in range(K)], alpha=0.75, edgecolor="white", linewidth=0.4)
    ax.set(xlabel="row", ylabel="share of each component", ylim=(0, 1), xlim=(ends[0], ends[-1]))
    ax.set_title("Timeline: shares along the rows; black: mean log-density")
    other = ax.twinx()
    other.plot(ends, log_density, color="black", linewidth=1.2)
    other.set_ylabel("mean log-density (nats)")
    return ax


MOST_PROFILED = 30
"""Features of a profile at most: those in which components differ most."""


def profiles(
    means: Array,
    deviations: Array,
    weights: Array,
    names: Sequence[str],
    *,
    components: Sequence[int] | NDArray[np.int64] | None = None,
    ax: Any = None,
) -> Axes:
    """A line for each component over the features; its band holds one deviation to either side.

    Parameters
    ----------
    means, deviations : (K, D) in deviations from the overall mean
    weights : (K,); light components are drawn thin
    names : of the D features
    components : (K,) their numbers, for colours and names
    """
    ax = _axes(ax)
    numbers = list(range(len(means))) if components is None else [int(k) for k in components]
    D = means.shape[1]
    shown = np.arange(D)
    if D > MOST_PROFILED:
        shown = np.sort(np.argsort(-np.ptp(means, axis=0), kind="stable")[:MOST_PROFILED])
    at = np.arange(len(shown))
    for k, mean, spread, weight in zip(numbers, means[:, shown], deviations[:, shown], weights, strict=True):
        line = ax.plot(at, mean, marker="o", markersize=4, color=colour(k), linewidth=0.8 + 2.0 * float(weight))[0]
        line.set_label(f"{k} ({100 * weight:.0f} %)")
        if len(means) <= 8:
            ax.fill_between(at, mean - spread, mean + spread, color=colour(k), alpha=0.12, linewidth=0)
    ax.axhline(0.0, color="0.5", linewidth=0.8, linestyle=":")
    ax.set_xticks(at, [plain(names[j]) for j in shown.tolist()], rotation=0 if len(shown) <= 4 else 60, ha="center")
    which = "Profiles" if len(shown) == D else f"Profiles of {len(shown)} of {D} features"
    ax.set(ylabel="deviations from the overall mean", title=f"{which}: where lines part, components differ")
    if len(means) <= 20:
        ax.legend(title="component", fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax
