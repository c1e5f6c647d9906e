"""A mixture as notebooks show it: weights, means and a small picture of its ellipses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamgmm.mixture.parameters import Parameters
from streamgmm.mixture.plane import Plane
from streamgmm.utils import html
from streamgmm.utils.numbers import count, written

__all__ = ["components_table", "picture", "whole_card"]

Array = NDArray[np.float64]

MOST_COMPONENTS = 30
MOST_FEATURES = 10
MOST_DRAWN = 60
WIDEST = 256
"""Features up to which the principal axes are found for a small picture."""


MIXTURE_HEAD = ("component", "weight", "mean")
"""Names of the columns of a mixture: number, share, and what stands before the name of a feature."""


def whole_card(mixture: Parameters) -> str:
    """The weights and means of a mixture, and a picture."""
    K, D = mixture.means.shape
    deviations = np.sqrt(mixture.family.variances(mixture.covariances, K, D))
    names = [f"x{j}" for j in range(D)]
    table = components_table(mixture.weights, mixture.means, deviations, names)
    return html.wrapped(repr(mixture), table, picture(mixture, names))


def components_table(
    weights: Array,
    means: Array,
    deviations: Array,
    names: Sequence[str],
    numbers: Sequence[int] | None = None,
    *,
    head: tuple[str, str, str] = MIXTURE_HEAD,
    sizes: Array | None = None,
) -> str:
    """Weights (K,) and means (K, D) as an HTML table, the heaviest first.

    Parameters
    ----------
    deviations : (K, D), of which the digits of the means follow
    numbers : (K,) of the components
    head : names of the columns, as `MIXTURE_HEAD`
    sizes : (K,) rows of each, for one more column
    """
    K, D = means.shape
    called = list(range(K)) if numbers is None else [int(k) for k in numbers]
    order = np.argsort(-weights, kind="stable")[:MOST_COMPONENTS]
    shown = min(D, MOST_FEATURES)
    rows = [
        [
            html.component(called[k]),
            *([] if sizes is None else [html.Number(float(sizes[k]), count(float(sizes[k])))]),
            html.share(float(weights[k])),
            *(html.Number(float(means[k, j]), written(means[k, j], deviations[k, j])) for j in range(shown)),
        ]
        for k in order.tolist()
    ]
    number, weight, mean = head
    named = [number, *([] if sizes is None else ["rows"]), weight, *(f"{mean} {name}" for name in names[:shown])]
    body = html.table(named, rows, sortable=K > 1)
    more = []
    if len(rows) < K:
        more.append(f"{K - len(rows)} lighter {number}s")
    if shown < D:
        more.append(f"{D - shown} more features")
    return body + (html.note(f"and {' and '.join(more)}") if more else "")


def picture(mixture: Parameters, names: Sequence[str] | None = None, numbers: Sequence[int] | None = None) -> str:
    """The components as ellipses of two deviations in `Plane.of_principal_axes`, of one feature as densities; SVG.

    Empty for more features than a small picture can say anything of.
    """
    K, D = mixture.means.shape
    called = list(range(K)) if numbers is None else [int(k) for k in numbers]
    if D > WIDEST:
        return ""
    if D == 1:
        return _densities(mixture, "x0" if names is None else str(names[0]))
    order = np.argsort(-mixture.weights, kind="stable")[:MOST_DRAWN]
    plane = Plane.of_principal_axes(mixture)
    means, covariances = plane.ellipses(mixture)
    return html.ellipses(
        means[order], covariances[order], mixture.weights[order], [called[k] for k in order],
        title=f"{len(order)} of {K} components as ellipses of two standard deviations", labels=plane.labels(names),
    )  # fmt: skip


def _densities(mixture: Parameters, name: str) -> str:
    """The density of one feature, and of each component where there are few."""
    means = mixture.means[:, 0]
    sigma = np.sqrt(mixture.family.variances(mixture.covariances, *mixture.means.shape)[:, 0])
    x = np.linspace((means - 3.5 * sigma).min(), (means + 3.5 * sigma).max(), 241)
    parts = mixture.weights * np.exp(-0.5 * ((x[:, None] - means) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    lines = {"all": (x.tolist(), parts.sum(axis=1).tolist())}
    if 1 < len(means) <= MOST_FEATURES:
        lines |= {f"{k}": (x.tolist(), parts[:, k].tolist()) for k in range(len(means))}
    return html.curves(lines, title=f"density of {name} and of its components", labels=(name, "density"), dots=False)
