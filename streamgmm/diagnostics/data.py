"""Remarks about the data: scales, constants and categories, many features, single precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from streamgmm.diagnostics.case import PIECE_ROWS, Case, Check, Finding, first_few
from streamgmm.diagnostics.shapes import pieces_of
from streamgmm.estimators.fit_report import words_of_drowned, words_of_long_tails
from streamgmm.mixture.covariance import FULL
from streamgmm.sources.features import is_identifier
from streamgmm.utils.phases import unwatched

__all__ = ["CHECKS"]

COMPARING = ("spherical", "EII", "VII", "EVE", "VVE", "EEV", "VEV", "ppca")
"""Families that change with the units of single features; the others only have other numbers in other units."""

Array = NDArray[np.float64]
FEWEST_ROWS = 100
DECADES, SKEWED = 1.5, 2.0
"""Of a feature to be fitted in logarithms: decades between quantiles, and skewness, at least."""
SKEWED_GROUP = 1.0
"""Skewness, at least, of a group that has a tail of its own: a log-normal's of a third of a nat."""


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


def long_tails(case: Case) -> Iterator[Finding]:
    """Amounts, counts and durations: positive, over decades, and nearer to a Gaussian in logarithms."""
    found = {name: tail for j, name in enumerate(case.names) if (tail := long_tail(case, j)) is not None}
    if found:
        words = words_of_long_tails(list(found))
        yield Finding("long-tails", words[0], {name: asdict(tail) for name, tail in found.items()}, words[1])


@dataclass(frozen=True, slots=True)
class LongTail:
    """A feature that should be fitted in logarithms.

    Attributes
    ----------
    decades : between the 1 % and the 99 % quantile of the positive values
    skewness, skewness_of_logarithm : of all rows
    components_of_logarithm : that BIC asks for
    nats_per_row : that these describe the feature better than the components of the fit do
    """

    decades: float
    skewness: float
    skewness_of_logarithm: float
    components_of_logarithm: int
    nats_per_row: float


def long_tail(case: Case, j: int) -> LongTail | None:
    """Gain of feature j in logarithms of what is not 0; None without a gain, or where it comes from clusters alone."""
    low = float(case.sample.box[0, j])
    x = np.asarray(case.sample.rows[:, j], np.float64)
    present = x >= low  # what was filled in for a missing value may lie below
    kept = np.flatnonzero(present & (x > 0))
    if low < 0 or len(kept) < max(FEWEST_ROWS, 0.5 * present.sum()) or x[kept].max() == x[kept].min():
        return None
    positive = len(kept) / present.sum()
    kept = kept[np.sort(np.random.default_rng(j).permutation(len(kept))[:PIECE_ROWS])]
    x, weight = x[kept], case.sample.weight[kept]
    logarithm = np.log(x)
    spread = np.quantile(x, [0.01, 0.99])
    decades = float(np.log10(spread[1] / spread[0]))
    skew, skew_of_log = skewness(x, weight), skewness(logarithm, weight)
    if decades < DECADES or skew < SKEWED or abs(skew_of_log) > skew / 2:
        return None
    with unwatched():
        pieces = pieces_of(logarithm[:, None], weight)
    variance = float(np.cov(logarithm, aweights=weight, ddof=0))
    # Densities of x, not of its logarithm: with the derivative.
    in_logs = (
        np.log(positive)
        + pieces.gain
        - 0.5 * np.log(2 * np.pi * np.e * variance)
        - float(np.average(logarithm, weights=weight))
    )
    gain = float(in_logs - np.average(marginal_log_density(case, j, x), weights=weight))
    fewer = 3 * (case.model.n_components - pieces.count)  # parameters
    if gain + 0.5 * fewer * np.log(len(x)) / len(x) <= 0 or not mostly_skewed(x, logarithm, pieces.parts):
        return None
    return LongTail(decades, skew, skew_of_log, pieces.count, gain)


def mostly_skewed(x: Array, logarithm: Array, parts: tuple[Array, ...]) -> bool:
    """True if at least half of the weight lies in groups that are skewed by themselves, and less so in logarithms.

    Groups that are narrow beside their distance are groups in any unit; a group of amounts has a tail of its own.
    """
    if len(parts) == 1:
        return True
    skewed = [skewness(x, part) > max(SKEWED_GROUP, 2 * abs(skewness(logarithm, part))) for part in parts]
    mass = [float(part.sum()) for part in parts]
    return 2 * sum(own for own, is_skewed in zip(mass, skewed, strict=True) if is_skewed) >= sum(mass)


def skewness(x: Array, weight: Array) -> float:
    """Third standardised moment."""
    centred = x - np.average(x, weights=weight)
    return float(np.average(centred**3, weights=weight) / np.average(centred**2, weights=weight) ** 1.5)


def marginal_log_density(case: Case, j: int, x: Array) -> Array:
    """(n,) log-density of feature j under the components of the fit."""
    model = case.model
    variance = model.family.variances(model.covariances, *model.means.shape)[:, j]
    logs = np.log(model.weights / model.weights.sum()) - 0.5 * np.log(2 * np.pi * variance)
    logs = logs - 0.5 * (x[:, None] - model.means[:, j]) ** 2 / variance
    return np.asarray(np.logaddexp.reduce(logs, axis=1))


def many_features(case: Case) -> Iterator[Finding]:
    D, n = case.model.n_features, case.sample.count
    kind = case.model.family.unconstrained
    each = D * (D + 3) // 2 + 1
    narrow, costly = n / 10 < D, case.chosen_by in ("bic", "icl") and each > n
    if kind is FULL and (narrow or costly):
        yield Finding(
            "few-rows-for-full",
            f"Full covariances of {D} features from {n:.6g} rows: D > n / 10."
            if narrow
            else f"A component with a full covariance of {D} features takes {each:,} parameters, and there are {n:.6g} "
            f"rows: {str(case.chosen_by).upper()} prefers few components then, whatever the groups.",
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
    long_tails,
    many_features,
    float32_trouble,
)
