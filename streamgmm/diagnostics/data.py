"""Remarks about the data: scales, constants and categories, many features, single precision."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from streamgmm.diagnostics.case import Case, Check, Finding, first_few
from streamgmm.estimators.fit_report import words_of_drowned
from streamgmm.mixture.covariance import FULL
from streamgmm.sources.features import is_identifier

__all__ = ["CHECKS"]

COMPARING = ("spherical", "EII", "VII", "EVE", "VVE", "EEV", "VEV", "ppca")
"""Families that change with the units of single features; the others only have other numbers in other units."""


def drowned_features(case: Case) -> Iterator[Finding]:
    """`reg_covar` beside the variances: where it is large, no other remark about components means anything."""
    mean, variance, reg_covar = case.sample.mean, np.diag(case.sample.covariance), case.gm.reg_covar
    words = words_of_drowned(mean, variance, reg_covar, case.names)
    if words:
        yield Finding(
            "drowned-features",
            words[0],
            {"reg_covar": reg_covar, "variances": dict(zip(case.names, variance.tolist(), strict=True))},
            words[1].partition(", or ")[0] + ".",
        )


def unscaled_features(case: Case) -> Iterator[Finding]:
    if case.model.family.name not in COMPARING:
        return
    deviation = np.sqrt(np.diag(case.sample.covariance))
    present = deviation > 0
    if present.sum() < 2:
        return
    ratio = float(deviation[present].max() / deviation[present].min())
    if ratio > 30:
        yield Finding(
            "unscaled-features",
            f"Standard deviations of the features differ by a factor of {ratio:.3g}, and covariances of type "
            f"{case.model.family.name} compare features with each other.",
            {"ratio": ratio, "deviations": dict(zip(case.names, deviation.tolist(), strict=True))},
            "Scale first: make_pipeline(sg.Scaler(), ...).",
        )


def constant_features(case: Case) -> Iterator[Finding]:
    rows = np.asarray(case.sample.rows)
    if len(rows) < 50:
        return
    distinct = np.array([len(np.unique(rows[:, i])) for i in range(rows.shape[1])])
    if (distinct == 1).any():
        which = case.named(distinct == 1)
        yield Finding(
            "constant-features",
            f"Feature(s) {first_few(which)} have one value only.",
            {"features": which},
            "Leave them out: they hold no information, and a covariance with them is singular.",
        )
    some = (distinct > 1) & (distinct <= 10) & (distinct * 20 <= len(rows))
    if some.any():
        which = case.named(some)
        counts = {case.names[i]: int(distinct[i]) for i in np.flatnonzero(some)}
        yield Finding(
            "categorical-columns",
            f"Feature(s) {first_few(which)} take at most 10 values: they look like categories or counts, which no "
            "Gaussian describes.",
            {"distinct": counts, "rows": len(rows)},
            "Leave them out, and compare the clusters with them afterwards.",
        )


def many_features(case: Case) -> Iterator[Finding]:
    D, n = case.model.n_features, case.sample.count
    kind = case.model.family.unconstrained
    if kind is FULL and n / 10 < D:
        yield Finding(
            "few-rows-for-full",
            f"Full covariances of {D} features from {n:.6g} rows: D > n / 10.",
            {"n_features": D, "rows": n, "n_parameters": case.model.n_parameters},
            "Use covariance_type='diag', which needs "
            f"{case.model.n_components * 2 * D:,} parameters for means and variances.",
        )
    if D > 20:
        deviation = np.sqrt(np.diag(case.sample.covariance))
        deviation[deviation == 0] = 1.0
        correlation = case.sample.covariance / np.outer(deviation, deviation)
        np.fill_diagonal(correlation, 0.0)
        largest = float(np.abs(correlation).max())
        if largest > 1e-6:  # rotated data have none
            yield Finding(
                "many-features",
                f"{D} features, correlated up to {largest:.2f}, without a reduction of dimension.",
                {"n_features": D, "largest_correlation": largest},
                "Distances lose contrast in many dimensions: make_pipeline(sg.Scaler(), sg.PCA(0.95), ...).",
            )


def float32_trouble(case: Case) -> Iterator[Finding]:
    if case.dtype != np.float32:
        return
    K, D = case.model.means.shape
    dense = case.model.family.dense(case.model.covariances, K, D)
    narrowest = np.sqrt(np.diagonal(dense, axis1=1, axis2=2)).min(axis=0)
    step = np.abs(case.sample.rows).max(axis=0).astype(np.float64) * float(np.finfo(np.float32).eps)
    share = step / narrowest
    if (share > 0.01).any():
        which = case.named(share > 0.01)
        yield Finding(
            "float32-resolution",
            f"Feature(s) {first_few(which)} are stored as float32, whose steps there are up to {share.max():.1%} of a "
            "component's deviation.",
            {"features": which, "step_over_deviation": float(share.max())},
            "Store them as float64.",
        )


def identifier_columns(case: Case) -> Iterator[Finding]:
    rows = np.asarray(case.sample.rows)
    which = [name for j, name in enumerate(case.names) if is_identifier(name, rows[:, j])]
    if which:
        yield Finding(
            "identifier-columns",
            f"Feature(s) {first_few(which)} hold another whole number in every row: row numbers or identifiers.",
            {"features": which, "rows": len(rows)},
            f"Leave them out: sg.open_source(path, exclude={which[:3]!r}).",
        )


CHECKS: tuple[Check, ...] = (
    drowned_features,
    unscaled_features,
    constant_features,
    identifier_columns,
    many_features,
    float32_trouble,
)
