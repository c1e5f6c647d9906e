"""Remarks about the components: dead, alike, too many, too few, and rows that no Gaussian describes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from streamgmm.diagnostics.case import Case, Check, Finding
from streamgmm.diagnostics.shapes import Shape
from streamgmm.mixture.components import bhattacharyya
from streamgmm.mixture.queries import cheapest_pair, merge_components
from streamgmm.mixture.support import unsupported

__all__ = ["CHECKS"]

TOO_MANY = "n_components may be too large: compare BIC and ICL over a range, sg.select(X, n_components=range(1, 16))."


def unsupported_components(case: Case) -> Iterator[Finding]:
    """In the words in which `select` passes over a candidate."""
    model = case.model
    rows = model.weights / model.weights.sum() * case.sample.n_rows
    found = unsupported(model, case.sample.n_rows, case.gm.reg_covar)
    few = [k for k in found if rows[k] < model.n_features + 1]
    thin = [k for k in found if k not in few]
    for code, which in (("dead-components", few), ("thin-components", thin)):
        if which:
            words = "; ".join(found[k] for k in which[:3])
            more = f"; and {len(which) - 3} more" if len(which) > 3 else ""
            yield Finding(
                code,
                f"{words[0].upper()}{words[1:]}{more}: a likelihood gains by that whatever the data.",
                {"components": which, "rows": rows[which].tolist()},
                "Lower n_components, take a simpler covariance_type, or set prior='default'.",
            )


def duplicate_components(case: Case) -> Iterator[Finding]:
    pairs = [(int(a), int(b)) for a, b in np.argwhere(bhattacharyya(case.model) < 0.02)]
    if pairs:
        yield Finding(
            "duplicate-components",
            f"Components {pairs} are all but the same Gaussian.",
            {"pairs": pairs},
            "Lower n_components: these components share one cluster.",
        )


def one_owns_all(case: Case) -> Iterator[Finding]:
    K = case.model.n_components
    largest = float(case.model.weights.max())
    if K > 1 and largest > 0.95:
        yield Finding(
            "one-component-owns-everything",
            f"Component {int(case.model.weights.argmax())} holds {largest:.1%} of the data.",
            {"component": int(case.model.weights.argmax()), "weight": largest},
            "Either there is one cluster, or the others are outliers: compare BIC with fewer components, look at the "
            'rows of the small ones, try noise="uniform".',
        )


def outlier_components(case: Case) -> Iterator[Finding]:
    from scipy.stats import chi2

    model = case.model
    K, D = model.means.shape
    light = np.flatnonzero(model.weights < 0.01)
    if K < 2 or not light.size:
        return
    dense = model.family.dense(model.covariances, K, D)
    heavy = np.flatnonzero(model.weights >= 0.01)
    far = []
    for k in light:
        delta = model.means[heavy] - model.means[k]
        square = [d @ np.linalg.solve(dense[j], d) for j, d in zip(heavy, delta, strict=True)]
        if min(square) > chi2.ppf(1 - 1e-6, D):
            far.append(int(k))
    if far:
        yield Finding(
            "outliers-own-a-component",
            f"Component(s) {far} hold less than 1 % of the data, far from all others.",
            {"components": far, "weights": model.weights[far].tolist()},
            'Look at these rows. If they are errors: leave them out, or let a background take them (noise="uniform"). '
            "If they are a rare kind, keep them.",
        )


def too_many(case: Case) -> Iterator[Finding]:
    if case.model.n_components < 2:
        return
    top = case.resp.max(axis=1)
    share = float(np.average(top < 0.6, weights=case.sample.weight))
    if share > 0.2:
        yield Finding(
            "too-many-components",
            f"{share:.0%} of the rows belong to no component by more than 60 %.",
            {"share_below_0.6": share},
            TOO_MANY,
        )
        return
    pair = cheapest_pair(case.model)
    merged = merge_components(case.model, [pair])
    rows = np.asarray(case.sample.rows, np.float64)
    lost = np.average(case.model.log_prob(rows) - merged.log_prob(rows), weights=case.sample.weight) * case.sample.count
    saved = 0.5 * (case.model.n_parameters - merged.n_parameters) * np.log(case.sample.count)
    if lost < saved:
        yield Finding(
            "too-many-components",
            f"Components {pair[0]} and {pair[1]} as one would lose {lost:.0f} nats of log-likelihood, less than the "
            f"{saved:.0f} that BIC counts for their parameters.",
            {"pair": list(pair), "nats_lost": float(lost), "nats_of_bic": float(saved)},
            TOO_MANY,
        )


def too_few(case: Case) -> Iterator[Finding]:
    split = {k: p.groups for k, p in enumerate(case.pieces) if p is not None and p.groups > 1}
    if split:
        gains = {k: case.pieces[k].gain for k in split}  # type: ignore[union-attr]
        yield Finding(
            "too-few-components",
            f"The rows of component(s) {list(split)} fall into separate clusters ({list(split.values())}).",
            {"clusters": split, "gain_per_row": gains},
            "Raise n_components, or compare BIC over a range: sg.select(X, n_components=range(1, 16)).",
        )


def heavy_tails(case: Case) -> Iterator[Finding]:
    found = {k: s for k, s in enumerate(case.shapes) if s is not None and s.kurtosis > 1.5 and s.beyond > 0.004}
    if found:
        yield Finding(
            "heavy-tails",
            f"Standardised residuals of component(s) {list(found)} have heavier tails than a Gaussian's.",
            {
                "kurtosis_ratio": {k: s.kurtosis for k, s in found.items()},
                "share_beyond_0.1_percent": {k: s.beyond for k, s in found.items()},
            },
            'Transform the features (logarithm, ranks), let a background take the tails (noise="uniform"), or accept '
            "that one cluster takes two concentric components.",
        )


def _odd(shape: Shape) -> bool:
    return shape.kurtosis < 0.85 or (shape.skewness > 0.25 and shape.kurtosis < 1.5)


def odd_shapes(case: Case) -> Iterator[Finding]:
    odd: dict[str, Any] = {}
    for k, p in enumerate(case.pieces):
        if p is None or p.count < 2:
            continue
        strange = [s for s in p.shapes if s.rows > 100 and _odd(s)]
        if strange:
            odd[str(k)] = {"kurtosis_ratio": [s.kurtosis for s in strange], "skewness": [s.skewness for s in strange]}
    if odd:
        yield Finding(
            "not-gaussian",
            f"The rows of component(s) {', '.join(odd)} hang together in a shape that no Gaussian has (a ring, a "
            "crescent, a slab, a skewed cloud).",
            odd,
            "Describe the shape with several components and merge them afterwards (merge_components), transform the "
            "features, or use a method made for shapes (DBSCAN, spectral clustering).",
        )


CHECKS: tuple[Check, ...] = (
    unsupported_components,
    duplicate_components,
    one_owns_all,
    outlier_components,
    too_many,
    too_few,
    heavy_tails,
    odd_shapes,
)
