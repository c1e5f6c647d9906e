"""HTML of fitted estimators for notebooks: how the fit went, what was found, and scikit-learn's diagram."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import estimator_html_repr

from streamgmm.estimators.fit_report import FitReport
from streamgmm.estimators.projection import Projection
from streamgmm.mixture import card
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.variational import VariationalMixture
from streamgmm.report.view import feature_moments
from streamgmm.utils import html

__all__ = ["beside_diagram", "kmeans_card", "mixture_card", "outlier_card"]

Array = NDArray[np.float64]


class FittedMixture(Protocol):
    """A fitted mixture estimator, as far as a card shows it."""

    n_features_in_: int

    @property
    def mixture_(self) -> Mixture: ...

    @property
    def projection_(self) -> Projection | None: ...


class FittedKMeans(Protocol):
    """Fitted k-means, as far as a card shows it."""

    cluster_centers_: Array
    inertia_: float
    n_iter_: int
    n_passes_: int
    n_features_in_: int
    report_: FitReport


class FittedDetector(Protocol):
    """A fitted detector of outliers, as far as a card shows it."""

    bic_: dict[int, float]
    contamination: float
    dropped_: tuple[int, ...]
    estimator_: Any
    mixture_: Mixture
    n_features_in_: int
    n_passes_: int
    offset_: float
    offset_error_: float
    outlier_share_: float


def beside_diagram(estimator: Any, made: Callable[[Any], str], fitted: str) -> str:
    """HTML that `made` makes of an estimator with the attribute `fitted`, and the diagram of its parameters."""
    diagram = str(estimator_html_repr(estimator))
    return made(estimator) + diagram if fitted in vars(estimator) else diagram


def mixture_card(gm: FittedMixture) -> str:
    """A fitted mixture: how the fit went, weights and means in the units of the data, ellipses."""
    model, projection = gm.mixture_, gm.projection_
    names, used = _names(gm), _used(gm)
    report = getattr(gm, "report_", {})
    converged = getattr(gm, "converged_", None)
    facts = html.facts([
        ("components", len(used)),
        ("features", len(names)),
        ("covariance type", model.family.name),
        ("principal components", None if projection is None else projection.n_components),
        ("background", html.share(model.noise_weight) if model.box is not None else None),
        ("converged", converged if converged is None else bool(converged)),
        ("passes", getattr(gm, "n_passes_", None)),
        ("rows", report.get("rows")),
        ("log-likelihood per row", getattr(gm, "lower_bound_", None)),
        ("BIC", report.get("bic")),
    ])  # fmt: skip
    return html.wrapped(type(gm).__name__, facts, *_components(gm, names, used))


def kmeans_card(km: FittedKMeans) -> str:
    """Fitted k-means: how the fit went, sizes and centres of the clusters, and circles of two deviations."""
    centres, sizes = km.cluster_centers_, np.asarray(km.report_["sizes"], np.float64)
    (K, D), rows = centres.shape, float(sizes.sum())
    names = _names(km)
    deviation = np.sqrt(km.inertia_ / (rows * D))
    facts = html.facts([
        ("clusters", K),
        ("features", D),
        ("status", km.report_["status"]),
        ("iterations", km.n_iter_),
        ("passes", km.n_passes_),
        ("rows", rows),
        ("inertia", km.inertia_),
        ("deviation within clusters", html.Number(deviation, f"{deviation:.4g} in every feature")),
    ])  # fmt: skip
    apart = np.broadcast_to(centres.std(axis=0), centres.shape)
    table = card.components_table(sizes / rows, centres, apart, names, head=("cluster", "share", "centre"), sizes=sizes)
    spread = float(np.clip(max(deviation, 1e-6 * np.abs(centres).max()), 1e-150, 1e150))  # its square can be kept
    circles = Mixture(sizes / rows, centres, np.full(K, spread**2), "spherical")
    return html.wrapped(type(km).__name__, facts, table, card.picture(circles, names))


def outlier_card(detector: FittedDetector) -> str:
    """A fitted detector: its threshold, the share of outliers, and the mixture behind it."""
    gm = detector.estimator_
    short = f", short by up to {detector.offset_error_:.1g}" if detector.offset_error_ > 0 else ""
    scored = "log tail probability" if detector.mixture_.missing else "log-density, in nats"
    dropped = ", ".join(map(str, detector.dropped_))
    facts = html.facts([
        ("a row is an outlier where its", scored),
        ("is below the threshold of", float(detector.offset_)),
        ("contamination asked for", html.share(detector.contamination)),
        ("outliers among the training rows", html.Raw(f"{100 * detector.outlier_share_:.3g}&nbsp;%{short}")),
        ("numbers of components tried", ", ".join(map(str, detector.bic_)) if len(detector.bic_) > 1 else None),
        ("components taken for clusters of outliers", dropped or None),
        ("components", gm.n_components),
        ("covariance type", gm.mixture_.family.name),
        ("passes", detector.n_passes_),
        ("rows", gm.report_.get("rows")),
    ])  # fmt: skip
    return html.wrapped(type(detector).__name__, facts, *_components(gm, _names(detector), _used(gm)))


def _components(gm: FittedMixture, names: list[str], used: NDArray[np.intp]) -> tuple[str, str]:
    """Weights and means as a table, and ellipses."""
    model, projection = gm.mixture_, gm.projection_
    means, variances = feature_moments(model, projection)
    deviations = np.sqrt(np.maximum(variances, 0.0))
    table = card.components_table(model.weights[used], means[used], deviations[used], names, used.tolist())
    drawn = model.alone(used) if isinstance(model, VariationalMixture) else model
    return table, card.picture(drawn, names if projection is None else projection.names, used.tolist())


def _names(estimator: Any) -> list[str]:
    """Names of the features; of rows without names x0, x1, ..."""
    known = getattr(estimator, "feature_names_in_", None)
    return [f"x{j}" for j in range(estimator.n_features_in_)] if known is None else [str(name) for name in known]


def _used(gm: FittedMixture) -> NDArray[np.intp]:
    return np.asarray(getattr(gm, "components_in_use_", np.arange(gm.mixture_.n_components)))
