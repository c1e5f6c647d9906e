"""Pictures of several panels: all pairs of features, each feature by itself, the loadings of factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.plane import Plane
from streamgmm.report import figures
from streamgmm.report.view import telling_features

__all__ = ["corner", "loadings", "marginals"]

MOST_PAIRED = 6
MOST_ALONE = 12
MOST_COMPONENTS = 6
MOST_LOADED = 40


def _chosen(mixture: Mixture, features: Sequence[int] | None, most: int) -> list[int]:
    return telling_features(mixture, most) if features is None else [int(j) for j in features]


def _panels(n_rows: int, n_columns: int, width: float, height: float) -> tuple[Any, NDArray[Any]]:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install 'streamgmm[plot]'.") from None
    size = (width * n_columns, height * n_rows)
    return plt.subplots(n_rows, n_columns, figsize=size, layout="constrained", squeeze=False)


def _note(shown: int, of: int) -> str:
    return "" if shown == of else f"; the {shown} of {of} features in which components differ most"


def _named(names: Sequence[str] | None, j: int) -> str:
    return f"feature {j}" if names is None else figures.plain(names[j])


def corner(
    mixture: Mixture,
    rows: ArrayLike | None = None,
    *,
    features: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> NDArray[Any]:
    """Every pair of features with the ellipses of two deviations, and each feature's density on the diagonal.

    Parameters
    ----------
    rows : (N, D), optional
        Coloured by their label.
    features : by default the six, or fewer, in which components differ most

    Returns
    -------
    (d, d) axes of matplotlib; those above the diagonal are off.
    """
    chosen = _chosen(mixture, features, MOST_PAIRED)
    d = len(chosen)
    figure, axes = _panels(d, d, 2.0 + 2.0 / d, 2.0 + 1.2 / d)
    table = None if rows is None else np.asarray(rows)
    paint = None if table is None else figures.paint(mixture.labels(table))
    for a, i in enumerate(chosen):
        for b, j in enumerate(chosen):
            ax = axes[a, b]
            if b > a:
                ax.set_axis_off()
                continue
            if a == b:
                figures.curve(ax, mixture, i, None if table is None else table[:, i])
                ax.set_yticks([])
            else:
                if table is not None:
                    ax.scatter(table[:, j], table[:, i], c=paint, **figures.dots(2 * len(table)))
                figures.outlines(ax, mixture, Plane.of_features(mixture.n_features, j, i), (2.0,))
            ax.tick_params(labelsize="small", labelbottom=a == d - 1, labelleft=b == 0 and a > 0)
            if a == d - 1:
                ax.set_xlabel(_named(names, j))
            if b == 0 and a > 0:
                ax.set_ylabel(_named(names, i))
    title = "Pairs of features: ellipses of two standard deviations, densities on the diagonal"
    figure.suptitle(title + _note(d, mixture.n_features), fontsize="medium", wrap=True)
    return axes


def marginals(
    mixture: Mixture,
    rows: ArrayLike | None = None,
    *,
    features: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> NDArray[Any]:
    """The density of each feature, black, over those of the components; a histogram of the rows behind.

    Parameters
    ----------
    features : by default the twelve, or fewer, in which components differ most

    Returns
    -------
    (d,) axes of matplotlib.
    """
    chosen = _chosen(mixture, features, MOST_ALONE)
    d = len(chosen)
    columns = min(d, 3)
    figure, axes = _panels(-(-d // columns), columns, 3.2, 2.4)
    table = None if rows is None else np.asarray(rows)
    for ax, j in zip(axes.flat, chosen, strict=False):
        figures.curve(ax, mixture, j, None if table is None else table[:, j])
        ax.set_yticks([])
        ax.set_xlabel(_named(names, j))
    for ax in axes.flat[d:]:
        ax.set_axis_off()
    title = "Each feature: the mixture black, its components in colour" + _note(d, mixture.n_features)
    figure.suptitle(title, fontsize="medium", wrap=True)
    return axes.ravel()[:d]


def loadings(mixture: Mixture, *, names: Sequence[str] | None = None) -> NDArray[Any]:
    """The correlation of each feature with each factor, a panel for each component of factor analysers.

    It is lambda_jf / sqrt(sum_f lambda_jf^2 + psi_j), between -1 and 1; factors are determined up to a rotation. Panels
    are those of the six heaviest components, rows the forty features that the factors explain best, in their order.

    Returns
    -------
    (k,) axes of matplotlib.

    Raises
    ------
    ValueError
        Where the mixture has no factors.
    """
    if not mixture.family.n_factors:
        raise ValueError(
            f"kind='loadings' is of factor analysers; got covariance_type {mixture.family.name!r}. Fit with "
            "covariance_type='factor', or draw kind='corner'."
        )
    deviations = np.sqrt(mixture.covariances[:, :, -1])
    columns = np.concatenate([mixture.covariances[:, :, :-1], deviations[:, :, None]], axis=2)
    columns /= np.abs(columns).max(axis=2, keepdims=True)  # squares of any unit can be kept
    correlations = columns[:, :, :-1] / np.sqrt((columns**2).sum(axis=2, keepdims=True))
    D, q = correlations.shape[1:]
    shown = np.argsort(-mixture.weights, kind="stable")[:MOST_COMPONENTS]
    explained = np.einsum("k,kdq->d", mixture.weights, correlations**2)
    rows = np.sort(np.argsort(-explained, kind="stable")[:MOST_LOADED])
    figure, axes = _panels(1, len(shown), 1.6 + 0.35 * q, 1.6 + 0.2 * len(rows))
    for ax, k in zip(axes[0], shown.tolist(), strict=True):
        image = ax.imshow(correlations[k][rows], cmap="PuOr", vmin=-1.0, vmax=1.0, aspect="auto")
        ax.set_title(f"{k} ({100 * mixture.weights[k]:.0f} %)", fontsize="small")
        ax.set_xticks(range(q), [str(f) for f in range(q)])
        ax.set_yticks(range(len(rows)), [_named(names, j) for j in rows.tolist()] if ax is axes[0, 0] else [])
        ax.set_xlabel("factor")
    figure.colorbar(image, ax=axes[0, -1], label="correlation with the factor")
    note = "" if len(rows) == D else f"; the {len(rows)} of {D} features that factors explain best"
    figure.suptitle(f"Loadings by component: which features move together{note}", fontsize="medium", wrap=True)
    return axes[0]
