"""Preprocessing before a fit, and the model after it: columns, scaling, principal components.

A model of scaled rows is written in the units of the data, where it is a mixture too. One of principal components
cannot be: such a model carries its projection, and answers for the rows of the data all the same.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from streamgmm.cli.terminal import as_option, message, stderr_console
from streamgmm.errors import ConfigError

if TYPE_CHECKING:  # a command that reads no data should not wait for what does
    from streamgmm.cli.config import Config
    from streamgmm.estimators.mixture_estimator import MixtureEstimator
    from streamgmm.estimators.projection import Projection
    from streamgmm.mixture.mixture import Mixture
    from streamgmm.runtime.executors import Executor
    from streamgmm.sources.base import Source
    from streamgmm.utils.affine import Affine

CHOOSE = "To choose yourself: --columns A,B,..."


def open_rows(path: Any, columns: Any = None, **options: Any) -> Source:
    """`open_features`, which tells what is left out where no columns are named, and what looks like an identifier."""
    from streamgmm.sources.features import OnlyRowNumbersError, identifiers, listed, open_features

    try:
        source = open_features(path, columns=columns, **options)
    except OnlyRowNumbersError as error:
        raise ConfigError(str(error)) from None
    if source.left_out:
        message(f"note: left out, because they are row labels: {listed(source.left_out)}. {CHOOSE}")
    used = source.feature_names or ()
    if source.not_numbers:
        message(
            f"note: left out, because they hold no numbers: {listed(source.not_numbers)}. Used: {listed(used)}. "
            f"To choose yourself: --columns {_option(list(used))}"
        )
    _tell_notice(source)
    found = [] if columns is not None else identifiers(source)
    if found:
        message(
            f"note: {listed(found)} look{'s' * (len(found) == 1)} like row numbers or identifiers, and "
            f"{'is' if len(found) == 1 else 'are'} used as a feature. "
            f"To leave out: --exclude {shlex.quote(as_option(found))}"
        )
    return source


def leaving_out_late_text[**P, T](command: Callable[P, T]) -> Callable[P, T]:
    """`sources.features.leaving_out_text`, told at the terminal."""

    @wraps(command)
    def again(*args: P.args, **kwargs: P.kwargs) -> T:
        from streamgmm.sources.features import leaving_out_text

        return leaving_out_text(command, tell=lambda text: message(f"note: {text}"))(*args, **kwargs)

    return again


def _tell_notice(source: Source) -> None:
    if source.notice:
        words = source.notice.replace("header=False", "--no-header").replace("header=True", "--header")
        message(f"note: {words}")


def _option(names: list[str]) -> str:
    """Some names as --columns takes them."""
    return shlex.quote(as_option(names[:3])) + ",..." * (len(names) > 3)


def _bring(gm: MixtureEstimator, scale: Affine) -> None:
    """Bring what was done to rows far away from the units of a fit to those that `scale` leads from."""
    if gm.gathering_ is not None:
        gm.gathering_ = gm.gathering_.stretched(scale.shift, 1.0 / scale.matrix)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows ready for a fit.

    Attributes
    ----------
    raw, source : as stored; as fitted
    passes : passes that the preparation took
    scale : Affine or None
        From the units of the data to those of the fit, where only a scale lies between.
    log_scale : float
        Sum over all numbers of the data of w log s: what densities in the units of the data are lower by.
    projection : Projection or None
    """

    raw: Source
    source: Source
    passes: int = 0
    scale: Affine | None = None
    log_scale: float = 0.0
    projection: Projection | None = None

    def mixture(self, fitted: Mixture) -> Mixture:
        """A fitted mixture in the units of the data; as it is where rows are projected."""
        from streamgmm.mixture.covariance import DIAG, Factor
        from streamgmm.mixture.mixture import Mixture
        from streamgmm.mixture.variational import VariationalMixture

        if self.scale is None:
            return fitted
        shift, s = self.scale.shift, 1.0 / self.scale.matrix
        if isinstance(fitted, VariationalMixture):
            return fitted.stretched(shift, s)
        # Scaled features keep the structure of diagonal covariances, but neither one variance nor shared orientations.
        kept = fitted.family.unconstrained is DIAG
        kind, sigma = (fitted.family if kept else fitted.family.unconstrained).name, fitted.covariances
        if isinstance(fitted.family, Factor):
            # Noise that was equal in all features is so no more; what components shared they still do.
            kind = fitted.family.name if fitted.family.shared else kind
            loadings, noise = fitted.family.split_columns(sigma)
            sigma = np.concatenate([loadings * s[:, None], (noise * s**2)[..., None]], axis=-1)
        elif kind == "spherical":
            kind, sigma = "diag", sigma[:, None] * s**2
        else:
            sigma = sigma * (s**2 if sigma.shape == (len(fitted.weights), len(s)) and kept else np.outer(s, s))
        return Mixture(
            fitted.weights,
            fitted.means * s + shift,
            sigma,
            kind,
            noise_weight=fitted.noise_weight,
            box=None if fitted.box is None else fitted.box * s + shift,
            missing="marginalize" if fitted.missing else "error",
        )

    def go_on(self, gm: MixtureEstimator) -> None:
        """Bring an estimator that was fitted in the units of the data to those of the fit, to go on there.

        Raises
        ------
        ConfigError
            Where the data have another number of features.
        """
        from streamgmm.mixture.variational import VariationalMixture
        from streamgmm.utils.affine import Affine

        if gm.n_features_in_ != self.raw.n_features:
            raise ConfigError(
                f"--warm-start: that model was fitted to {gm.n_features_in_} features; {self.raw.name} has "
                f"{self.raw.n_features}. Choose the same columns."
            )
        if self.scale is None:
            return
        weight = 1.0 if isinstance(gm.mixture_, VariationalMixture) else gm.report_.get("weight")
        # From the units of the data to those of the fit: the other way round than `mixture` goes.
        there = Affine(-self.scale.shift * self.scale.matrix, 1.0 / self.scale.matrix)
        gm.mixture_ = replace(self, scale=there).mixture(gm.mixture_)
        _bring(gm, there)
        gm.lower_bounds_ = [value + self.log_scale / weight for value in gm.lower_bounds_] if weight else []

    def restore(self, gm: MixtureEstimator) -> None:
        """Bring a fitted estimator to the rows of the data: mixture, trace and criteria, or the projection."""
        from streamgmm.mixture.variational import VariationalMixture

        if self.projection is not None:
            gm.project(self.projection, self.raw.feature_names)
        if self.scale is None:
            return
        last, gm.mixture_ = gm.mixture_, self.mixture(gm.mixture_)
        _bring(gm, self.scale)
        family = gm.mixture_.family
        factors = {"n_factors": family.n_factors or None} if "n_factors" in gm.get_params() else {}
        gm.set_params(covariance_type=family.covariance_type, **factors)
        if "weight" not in gm.report_:  # no iteration was asked for
            return
        # The bounds of a posterior are of all rows.
        if isinstance(last, VariationalMixture) and isinstance(gm.mixture_, VariationalMixture):
            gm.lower_bound_ += gm.mixture_.simplified_bound - last.simplified_bound
            gm.lower_bounds_ = [value - self.log_scale for value in gm.lower_bounds_]
            return
        per_row = self.per_row(gm)
        gm.lower_bound_ -= per_row
        gm.lower_bounds_ = [value - per_row for value in gm.lower_bounds_]
        starts = [{**start, "lower_bound": start["lower_bound"] - per_row} for start in gm.report_["starts"]]
        gm.report_ |= {**self.criteria(gm.report_), "starts": starts}

    def per_row(self, gm: MixtureEstimator) -> float:
        """Nats per row by which densities in the units of the data are lower."""
        return self.log_scale / float(gm.report_["weight"]) if self.log_scale else 0.0

    def criteria(self, row: Mapping[str, Any], weight: float | None = None) -> dict[str, Any]:
        """Log-likelihood and criteria of `row` in the units of the data; with `weight` the means per row too."""
        shifts = dict.fromkeys(("bic", "aic", "icl"), 2 * self.log_scale) | {"loglik": -self.log_scale}
        moved = {name: row[name] + shift for name, shift in shifts.items() if name in row}
        if weight is not None:
            means = ("lower_bound", "heldout", "cv")
            moved |= {name: row[name] - self.log_scale / weight for name in means if row[name] is not None}
        return moved


def prepare(config: Config, raw: Source, executor: Executor | str | None = None) -> Prepared:
    """Scale and project the rows as [data] says; one pass over the data for both.

    Raises
    ------
    ConfigError
        Where principal components are asked of rows with missing values.
    """
    from streamgmm.report.progress import ProgressLine, showing

    if not config.data.scale and config.data.pca is None:
        return Prepared(raw, raw)
    with showing(ProgressLine(), stderr_console()):
        return _transformed(config, raw, executor)


def _transformed(config: Config, raw: Source, executor: Executor | str | None) -> Prepared:
    from streamgmm.estimators.preprocessing import PCA, Scaler, learnt_from_most
    from streamgmm.estimators.projection import Projection
    from streamgmm.utils.affine import Affine

    data, gaps = config.data, config.model.missing == "marginalize"
    if isinstance(data.pca, int) and data.pca > raw.n_features:
        raise ConfigError(f"pca = {data.pca}: {raw.name} has {raw.n_features} feature(s). Take as many at most.")
    if gaps and data.pca is not None:
        raise ConfigError(
            "pca: needs rows without missing values; got missing = marginalize. Leave one of the two out."
        )
    runs: dict[str, Any] = {"executor": executor or config.compute.executor, "n_jobs": config.compute.n_jobs}
    source: Any = raw
    scale, passes = Affine(np.zeros(raw.n_features), np.ones(raw.n_features)), 0
    if data.scale:
        scaled = learnt_from_most(Scaler(missing="ignore" if gaps else "error", **runs), raw)
        source, passes, scale = scaled.image, scaled.passes, scaled.image.affine
        if scaled.far:
            message(f"{raw.name}: rows far from all others have no say in the scale of the features")
        if data.pca is None:
            log_scale = -float(scaled.count @ np.log(scale.matrix))
            message(
                f"scaled: {raw.n_features} features to mean 0 and deviation 1; the model is written in their own units"
            )
            return Prepared(raw, scaled.moving.transform(raw) if scaled.far else source, passes, scale, log_scale)
    found = learnt_from_most(PCA(data.pca, **runs), source)
    pca = found.moving
    if found.far:
        message(f"{raw.name}: rows far from all others have no say in the principal components")
    kept = 100 * pca.explained_variance_ratio_.sum()
    message(f"principal components: {pca.n_components_} of {raw.n_features} keep {kept:.1f} % of the variance")
    shift = scale.shift if data.scale else pca.mean_  # behind a scaler the mean is 0
    matrix, inverse = scale.matrix[:, None] * pca.components_.T, pca.components_ / scale.matrix
    projection = Projection(shift, matrix, inverse)
    return Prepared(raw, projection.projected(raw), passes + found.passes, projection=projection)
