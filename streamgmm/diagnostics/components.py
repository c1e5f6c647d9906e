"""Remarks about the components: dead, alike, too many, too few, and rows that no Gaussian describes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from streamgmm.diagnostics.case import Case, Check, Finding, first_few
from streamgmm.diagnostics.shapes import Shape
from streamgmm.mixture.components import bhattacharyya
from streamgmm.mixture.queries import cheapest_pair, merge_components
from streamgmm.mixture.support import unsupported

__all__ = ["CHECKS"]


def _surplus(pairs: Sequence[tuple[int, int]]) -> int:
    """Components more than there are groups of equal ones."""
    group = {k: k for pair in pairs for k in pair}
    for a, b in pairs:
        old, new = group[a], group[b]
        group = {k: new if g == old else g for k, g in group.items()}
    return len(group) - len(set(group.values()))


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
                f"Set n_components={model.n_components - len(which)}."
                if code == "dead-components" and len(which) < model.n_components
                else "Set prior='default', which keeps every covariance apart from a singular one.",
            )


def duplicate_components(case: Case) -> Iterator[Finding]:
    pairs = [(int(a), int(b)) for a, b in np.argwhere(bhattacharyya(case.model) < 0.02)]
    if pairs:
        yield Finding(
            "duplicate-components",
            f"Components {first_few([f'{a} and {b}' for a, b in pairs])} are all but the same Gaussian.",
            {"pairs": pairs},
            f"Lower n_components to {case.model.n_components - _surplus(pairs)}: these components share one cluster.",
        )


def one_owns_all(case: Case) -> Iterator[Finding]:
    K = case.model.n_components
    largest = float(case.model.weights.max())
    if K > 1 and largest > 0.95:
        yield Finding(
            "one-component-owns-everything",
            f"Component {int(case.model.weights.argmax())} holds {largest:.1%} of the data.",
            {"component": int(case.model.weights.argmax()), "weight": largest},
            f"Compare the BIC with that of n_components={K - 1}.",
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
            f"Component(s) {first_few(far)} hold less than 1 % of the data, far from all others.",
            {"components": far, "weights": model.weights[far].tolist()},
            'Look at these rows; if they are errors, let a background take them: noise="uniform".',
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
            "For clusters, choose the number by ICL: criterion='icl'."
            if case.chosen_by != "icl"
            else "For clusters, merge components: merge_components.",
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
            f"Try n_components={case.model.n_components - 1} with more starts: n_init=30."
            if case.chosen_by
            else f"Compare BIC over a range: sg.select(X, range(1, {case.model.n_components + 1})).",
        )


def too_few(case: Case) -> Iterator[Finding]:
    split = {k: p.groups for k, p in enumerate(case.pieces) if p is not None and p.groups > 1}
    if split:
        gains = {k: case.pieces[k].gain for k in split}  # type: ignore[union-attr]
        yield Finding(
            "too-few-components",
            f"The rows of component(s) {first_few([f'{k} ({n} clusters)' for k, n in split.items()])} fall into "
            "separate clusters.",
            {"clusters": split, "gain_per_row": gains},
            f"Raise n_components to {case.model.n_components + sum(n - 1 for n in split.values())}"
            f"{', with more starts: n_init=20' if case.chosen_by and case.gm.n_init > 1 else ''}.",
        )


def heavy_tails(case: Case) -> Iterator[Finding]:
    found = {k: s for k, s in enumerate(case.shapes) if s is not None and s.kurtosis > 1.5 and s.beyond > 0.004}
    if found:
        yield Finding(
            "heavy-tails",
            f"Standardised residuals of component(s) {first_few(list(found))} have heavier tails than a Gaussian's.",
            {
                "kurtosis_ratio": {k: s.kurtosis for k, s in found.items()},
                "share_beyond_0.1_percent": {k: s.beyond for k, s in found.items()},
            },
            'Transform the features (logarithm, ranks), or let a background take the tails: noise="uniform".',
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
            f"The rows of component(s) {first_few(list(odd))} hang together in a shape that no Gaussian has "
            + ("(skewed, or flat)." if case.model.n_features == 1 else "(a ring, a crescent, a slab, a skewed cloud)."),
            odd,
            "Transform the feature: logarithm, square root or ranks."
            if case.model.n_features == 1
            else "Describe the shape with several components, and merge them afterwards: merge_components.",
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
