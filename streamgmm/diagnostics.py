"""`diagnose`: what an expert would say about a fitted mixture, each remark with its evidence and a remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from streamgmm.estimator import GaussianMixture
from streamgmm.mixture import Mixture
from streamgmm.queries import cheapest_pair, merge_components
from streamgmm.seeding import Survey, survey
from streamgmm.shapes import Pieces, Shape, pieces_of, shape_of

Array = NDArray[np.float64]

SAMPLE_ROWS = 20_000
PIECE_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark.

    Attributes
    ----------
    code : str
        Short name, stable between releases.
    message : str
        What was found, in a sentence.
    evidence : dict
        The numbers behind it.
    remedy : str
        What to do.

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> X = np.random.default_rng(0).normal(size=(500, 2)) * [1.0, 1000.0]
    >>> print(sg.diagnose(sg.GaussianMixture().fit(X), X)[0].remedy[:12])
    Scale first:
    """

    code: str
    message: str
    evidence: dict[str, Any] = field(default_factory=dict)
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.code}: {self.message} {self.remedy}"


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """What the checks look at.

    Attributes
    ----------
    gm, model : the fitted estimator and its mixture
    sample : one reading's worth: rows, weights, overall moments
    dtype : of the data
    names : of the features
    resp : (m, K) responsibilities of the sample
    shapes : of each component's rows, None where it has too few of them in the sample
    pieces : what each component's rows fall into, likewise
    """

    gm: GaussianMixture
    model: Mixture
    sample: Survey
    dtype: np.dtype[Any]
    names: list[str]
    resp: Array
    shapes: tuple[Shape | None, ...]
    pieces: tuple[Pieces | None, ...]

    def named(self, features: Any) -> list[str]:
        """Names of the features in a mask."""
        return [self.names[i] for i in np.flatnonzero(features)]


def diagnose(gm: GaussianMixture, X: Any, sample_weight: ArrayLike | None = None) -> list[Finding]:
    """What an expert would remark about `gm` and the data it was fitted to; empty where nothing is wrong.

    One reading of X: overall moments from all rows, everything else from a sample of 20,000 of them.

    Parameters
    ----------
    gm : fitted GaussianMixture
    X : what it was fitted to
    sample_weight : (N,), optional

    Returns
    -------
    list of Finding

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> X = np.random.default_rng(0).normal(size=(500, 2)) * [1.0, 1000.0]
    >>> [finding.code for finding in sg.diagnose(sg.GaussianMixture().fit(X), X)]
    ['unscaled-features']
    """
    check_is_fitted(gm)
    case = _examine(gm, X, sample_weight)
    return [finding for check in CHECKS for finding in check(case)]


def _examine(gm: GaussianMixture, X: Any, sample_weight: ArrayLike | None) -> Case:
    source = gm._seen(X, sample_weight)
    sample = survey(source, gm._executor(), size=SAMPLE_ROWS, seed=0, missing=gm.missing == "marginalize")
    model = gm.mixture_
    rows = np.asarray(sample.rows, np.float64)
    resp = model.responsibilities(rows)[:, : model.n_components]
    shapes: list[Shape | None] = []
    pieces: list[Pieces | None] = []
    for k in range(model.n_components):
        weight = resp[:, k] * sample.weight
        here = np.flatnonzero(weight > 1e-3)
        enough = weight.sum() >= max(100, 10 * (model.n_features + 1))
        shapes.append(shape_of(rows[here], weight[here]) if enough else None)
        few = here[np.sort(np.random.default_rng(k).permutation(len(here))[:PIECE_ROWS])]
        pieces.append(pieces_of(rows[few], weight[few]) if enough and model.n_features <= 20 else None)
    known = (
        getattr(gm, "feature_names_in_", range(model.n_features)) if gm.projection_ is None else gm.projection_.names
    )
    names = [str(name) for name in known]
    return Case(gm, model, sample, source.dtype, names, resp, tuple(shapes), tuple(pieces))


Check = Callable[[Case], Iterator[Finding]]


# Data -----------------------------------------------------------------------------------------------------------------


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
    kind = case.model.family.name
    if kind == "full" and n / 10 < D:
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


# The fit --------------------------------------------------------------------------------------------------------------


def single_start(case: Case) -> Iterator[Finding]:
    gm = case.gm
    if gm.n_init == 1 and case.model.n_components > 1 and gm.means_init is None and gm.n_iter_ > 0:
        yield Finding(
            "single-start",
            "One start only: EM finds the optimum nearest to where it began.",
            {"n_init": 1},
            "Set n_init=5 or 10; all starts share every reading of the data.",
        )


def not_converged(case: Case) -> Iterator[Finding]:
    gm = case.gm
    if not gm.converged_ and gm.n_iter_ > 0:
        trace = list(gm.lower_bounds_)
        gain = trace[-1] - trace[-2] if len(trace) > 1 else np.nan
        yield Finding(
            "not-converged",
            f"The fit ended after {gm.n_iter_} iterations before it converged (tol={gm.tol:g}).",
            {"n_iter": gm.n_iter_, "last_gain": gain},
            "Raise max_iter; warm_start=True goes on from here.",
        )


def falling_trace(case: Case) -> Iterator[Finding]:
    gm = case.gm
    if gm.reg_covar != 0 or gm.report_.get("repairs") or len(gm.lower_bounds_) < 2:
        return
    trace = np.array(gm.lower_bounds_)
    falls = np.diff(trace)
    worst = float(falls.min())
    if worst < -1e-9 * max(1.0, float(np.abs(trace).max())):
        yield Finding(
            "falling-trace",
            f"The objective fell by {-worst:.3g} nats per row at iteration {int(falls.argmin()) + 2}.",
            {"largest_fall": -worst, "iteration": int(falls.argmin()) + 2},
            "With reg_covar=0 exact EM never falls beyond rounding: look for nearly singular components (add reg_covar "
            "or a prior), or for data that changed between readings.",
        )


# Components -----------------------------------------------------------------------------------------------------------


def dead_components(case: Case) -> Iterator[Finding]:
    rows = case.model.weights * case.sample.count
    needed = case.model.n_features + 1
    dead = rows < needed
    if dead.any() and case.model.n_components > 1:
        which = np.flatnonzero(dead).tolist()
        yield Finding(
            "dead-components",
            f"Component(s) {which} hold fewer rows than it takes to span a covariance ({needed}).",
            {"components": which, "rows": rows[dead].tolist()},
            "Lower n_components, or raise n_init.",
        )


def duplicate_components(case: Case) -> Iterator[Finding]:
    model = case.model
    K, D = model.means.shape
    dense = model.family.dense(model.covariances, K, D)
    pairs = [
        (a, b)
        for a in range(K)
        for b in range(a + 1, K)
        if _bhattacharyya(model.means[a], model.means[b], dense[a], dense[b]) < 0.02
    ]
    if pairs:
        yield Finding(
            "duplicate-components",
            f"Components {pairs} are all but the same Gaussian.",
            {"pairs": pairs},
            "Lower n_components: these components share one cluster.",
        )


def _bhattacharyya(mean_a: Array, mean_b: Array, cov_a: Array, cov_b: Array) -> float:
    """Distance of two Gaussians, -log of the overlap of the square roots of their densities."""
    middle = 0.5 * (cov_a + cov_b)
    delta = mean_a - mean_b
    logs = [np.linalg.slogdet(matrix)[1] for matrix in (middle, cov_a, cov_b)]
    return float(0.125 * delta @ np.linalg.solve(middle, delta) + 0.5 * (logs[0] - 0.5 * (logs[1] + logs[2])))


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
            "n_components may be too large: compare BIC and ICL over a range, sg.select(X, n_components=range(1, 16)).",
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
            "n_components may be too large: compare BIC and ICL over a range, sg.select(X, n_components=range(1, 16)).",
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
        strange = [
            s for s in p.shapes if s.rows > 100 and (s.kurtosis < 0.85 or (s.skewness > 0.25 and s.kurtosis < 1.5))
        ]
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
    unscaled_features,
    constant_features,
    many_features,
    float32_trouble,
    single_start,
    not_converged,
    falling_trace,
    dead_components,
    duplicate_components,
    one_owns_all,
    outlier_components,
    too_many,
    too_few,
    heavy_tails,
    odd_shapes,
)
