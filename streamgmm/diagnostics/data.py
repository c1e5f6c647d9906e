"""Remarks about the data: scales, constants and categories, many features, single precision."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from streamgmm.diagnostics.case import Case, Check, Finding
from streamgmm.estimators.fit_report import words_of_drowned
from streamgmm.mixture.covariance import FULL

__all__ = ["CHECKS"]


def drowned_features(case: Case) -> Iterator[Finding]:
    """`reg_covar` beside the variances: where it is large, no other remark about components means anything."""
    mean, variance, reg_covar = case.sample.mean, np.diag(case.sample.covariance), case.gm.reg_covar
    words = words_of_drowned(mean, variance, reg_covar, case.names)
    if words:
        yield Finding(
            "drowned-features",
            words[0],
            {"reg_covar": reg_covar, "variances": dict(zip(case.names, variance.tolist(), strict=True))},
            words[1],
        )


def unscaled_features(case: Case) -> Iterator[Finding]:
    deviation = np.sqrt(np.diag(case.sample.covariance))
    present = deviation > 0
    if present.sum() < 2:
        return
    ratio = float(deviation[present].max() / deviation[present].min())
    if ratio > 30:
        yield Finding(
            "unscaled-features",
            f"Standard deviations of the features differ by a factor of {ratio:.3g}.",
            {"ratio": ratio, "deviations": dict(zip(case.names, deviation.tolist(), strict=True))},
            "Scale first: make_pipeline(sg.Scaler(), ...). reg_covar is in squared units of the data, and spherical "
            "covariances compare features with each other.",
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
            f"Feature(s) {which} have one value only.",
            {"features": which},
            "Leave them out: they hold no information, and a covariance with them is singular.",
        )
    few = (distinct > 1) & (distinct <= 10) & (distinct * 20 <= len(rows))
    if few.any():
        which = case.named(few)
        counts = {case.names[i]: int(distinct[i]) for i in np.flatnonzero(few)}
        yield Finding(
            "categorical-columns",
            f"Feature(s) {which} take at most 10 values: they look like categories or counts, not measurements.",
            {"distinct": counts, "rows": len(rows)},
            "A Gaussian cannot describe categories. Leave them out and compare clusters with them afterwards, fit "
            "within each category, or encode them numerically with care.",
        )


def many_features(case: Case) -> Iterator[Finding]:
    D, n = case.model.n_features, case.sample.count
    kind = case.model.family.unconstrained
    if kind is FULL and n / 10 < D:
        yield Finding(
            "few-rows-for-full",
            f"Full covariances of {D} features from {n:.6g} rows: D > n / 10.",
            {"n_features": D, "rows": n, "n_parameters": case.model.n_parameters},
            'Use covariance_type="diag" or "tied", reduce with sg.PCA, or add a prior (prior="default").',
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
            f"Feature(s) {which} are stored as float32, whose steps there are up to {share.max():.1%} of a component's "
            "deviation.",
            {"features": which, "step_over_deviation": float(share.max())},
            "Store them as float64, or take their offset away before they become float32.",
        )


CHECKS: tuple[Check, ...] = (drowned_features, unscaled_features, constant_features, many_features, float32_trouble)
