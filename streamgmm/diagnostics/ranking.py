"""Choice and order of findings: causes before what follows from them, and none against another."""

from __future__ import annotations

from collections.abc import Iterable

from streamgmm.diagnostics.case import Finding

__all__ = ["MOST", "RANK", "ranked"]

MOST = 5
"""Findings that are told at most."""

RANK = (
    "drowned-features",
    "falling-trace",
    "float32-resolution",
    "dead-components",
    "thin-components",
    "not-converged",
    "constant-features",
    "categorical-columns",
    "identifier-columns",
    "few-rows-for-full",
    "unscaled-features",
    "long-tails",
    "poor-optimum",
    "duplicate-components",
    "too-few-components",
    "not-gaussian",
    "heavy-tails",
    "outliers-own-a-component",
    "one-component-owns-everything",
    "too-many-components",
    "single-start",
    "many-features",
)
"""Codes, the most important first."""

_COMPONENTS = frozenset({
    "duplicate-components", "too-many-components", "too-few-components", "one-component-owns-everything",
    "outliers-own-a-component", "not-gaussian", "heavy-tails",
})  # fmt: skip

HIDES = {
    # Components blurred into each other look alike and too many; and both remarks say to scale.
    "drowned-features": _COMPONENTS | {"unscaled-features"},
    # A fit that is not sound, or not over, says little about the number of components.
    "falling-trace": _COMPONENTS,
    "dead-components": _COMPONENTS | {"thin-components"},
    "thin-components": _COMPONENTS,
    "not-converged": frozenset({"duplicate-components", "too-many-components", "one-component-owns-everything"}),
    # Columns that are no measurements make clusters of their own.
    "categorical-columns": frozenset({"too-few-components", "not-gaussian", "too-many-components"}),
    "few-rows-for-full": frozenset({"many-features"}),
    # A tail is tiled by components of all sizes, and each more of them seems to help.
    "long-tails": _COMPONENTS | {"poor-optimum"},
    "poor-optimum": frozenset({"single-start", "too-many-components", "too-few-components", "duplicate-components"}),
    "duplicate-components": frozenset({"too-many-components", "too-few-components"}),
    "too-few-components": frozenset({"too-many-components", "one-component-owns-everything"}),
    "not-gaussian": frozenset({"too-many-components", "heavy-tails"}),
    "heavy-tails": frozenset({"too-many-components", "outliers-own-a-component", "one-component-owns-everything"}),
    "outliers-own-a-component": frozenset({"one-component-owns-everything", "too-many-components"}),
    "one-component-owns-everything": frozenset({"too-many-components"}),
}
"""Findings that are not told beside another: they follow from it, say the same, or advise the opposite."""


def ranked(found: Iterable[Finding]) -> list[Finding]:
    """At most `MOST` findings, the most important first, without those that another one `HIDES`."""
    listed = sorted(_with_optimum(list(found)), key=lambda finding: RANK.index(finding.code))
    hidden: set[str] = set()
    kept = []
    for finding in listed:
        if finding.code not in hidden:
            kept.append(finding)
            hidden |= HIDES.get(finding.code, frozenset())
    return kept[:MOST]


def _with_optimum(found: list[Finding]) -> list[Finding]:
    """With one remark where components share a cluster while another one spans several: the number may be right."""
    by_code = {finding.code: finding for finding in found}
    few = by_code.get("too-few-components")
    many = by_code.get("duplicate-components") or by_code.get("too-many-components")
    pair = None if many is None else (many.evidence.get("pairs") or [many.evidence.get("pair")])[0]
    if few is None or pair is None or set(pair) & {int(k) for k in few.evidence["clusters"]}:
        return found
    spans = ", ".join(map(str, few.evidence["clusters"]))
    return [
        *found,
        Finding(
            "poor-optimum",
            f"Component(s) {spans} span separate clusters, while {pair[0]} and {pair[1]} share one.",
            {"clusters": few.evidence["clusters"], "pair": list(pair)},
            "Fit again with more starts: n_init=10.",
        ),
    ]
