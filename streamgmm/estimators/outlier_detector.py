"""`OutlierDetector`: rows of low density are outliers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin, _fit_context, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from streamgmm.em.initialization.methods import INIT
from streamgmm.estimators._parameters import FAMILY, WHOLE, whole_numbers
from streamgmm.estimators.cards import beside_diagram, outlier_card
from streamgmm.estimators.gaussian_mixture import GaussianMixture
from streamgmm.estimators.reader import Reader, answers_by_chunk
from streamgmm.estimators.select import select
from streamgmm.mixture.covariance import TIED
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.tails import Tails
from streamgmm.runtime.executors import Executor, within
from streamgmm.sources import is_array_like, leaving_out_text
from streamgmm.sources.base import Chunk, Readable, Source
from streamgmm.sources.summaries.quantiles import Scale, exact_threshold
from streamgmm.utils.sample_weight import check_weight
from streamgmm.utils.types import RandomState

Array = NDArray[np.float64]

_SHARED = (
    "tol", "reg_covar", "max_iter", "n_init", "init_params", "stopping", "missing", "prior", "on_collapse",
    "random_state", "executor", "n_jobs",
)  # fmt: skip
"""Settings of a mixture under which `select` can fit several numbers of components together."""


_MIXTURE = (
    "covariance_type", "tol", "reg_covar", "max_iter", "n_init", "init_params", "missing", "random_state", "executor",
    "n_jobs",
)  # fmt: skip
"""Parameters of the detector that are those of its mixture."""


class OutlierDetector(Reader, OutlierMixin, BaseEstimator):
    """Calls the rows of lowest density under a Gaussian mixture outliers.

    Outliers that lie together earn a component of their own, and a high density in it. So the lightest components, as
    long as all of them hold less than `contamination` of the weight, are taken for such clusters and left out of the
    density (`light_components="keep"` leaves them in).

    Parameters
    ----------
    n_components : int or sequence of int, default 1
        Of several, the number with the lowest BIC is taken; all are fitted on the same passes, as in `select`.
    contamination : float in (0, 0.5], default 0.05
        Share of the training rows, by weight, that lies below the threshold.
    light_components : {"drop", "keep"}, default "drop"
        Whether components that together weigh less than `contamination` count as outliers.
    n_init : int or "auto", default "auto"
        Starts of each mixture. "auto" is 4 where a number of components is chosen, otherwise 1: the BIC compares
        numbers, not luck.
    covariance_type, tol, reg_covar, max_iter, init_params, random_state :
        Of the mixture, as in `GaussianMixture`.
    estimator : GaussianMixture or None
        A mixture to clone instead, with all of its settings (missing values, priors); then only `n_components`, where
        it is a sequence, `contamination` and `light_components` count.
    executor, n_jobs :
        As in `GaussianMixture`.
    missing : {"error", "marginalize"}, default "error"
        What NaN means; as in `GaussianMixture`. Densities of rows that miss different features cannot be compared, so
        with "marginalize" scores are logarithms of tail probabilities (`GaussianMixture.tail_probability`). A row of
        which nothing is observed is no outlier.

    Attributes
    ----------
    estimator_ : GaussianMixture
        The fitted mixture.
    mixture_ : Mixture
        What scores are taken from: the fitted mixture without its light components.
    dropped_ : tuple of int
        Those components.
    n_components_, n_iter_ : int
    bic_ : dict of int to float
        BIC of each number of components that was tried; for one that could no longer win, when that was clear.
    offset_ : float
        The threshold, in nats: a row is an outlier where ``score_samples`` is below it.
    outlier_share_ : float
        Share of the training rows, by weight, below the threshold.
    offset_error_ : float
        Share of the training rows by which those below the threshold may fall short of `contamination`: 0 for arrays in
        memory, about 1e-5 where scores went through a sketch.
    n_passes_ : int

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> X = np.r_[np.random.default_rng(0).normal(size=(99, 2)), [[9.0, 9.0]]]
    >>> sg.OutlierDetector(contamination=0.01).fit_predict(X)[-2:]
    array([ 1, -1])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [WHOLE, "array-like", range],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
        "light_components": [StrOptions({"drop", "keep"})],
        **{name: GaussianMixture._parameter_constraints[name] for name in _MIXTURE},
        "covariance_type": [FAMILY],
        "max_iter": [WHOLE],
        "n_init": [StrOptions({"auto"}), WHOLE],
        "init_params": [StrOptions(set(INIT))],
        "estimator": [GaussianMixture, None],
    }

    def __init__(
        self,
        n_components: int | Iterable[int] = 1,
        *,
        contamination: float = 0.05,
        light_components: str = "drop",
        covariance_type: str = "full",
        tol: float = 1e-6,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int | str = "auto",
        init_params: str = "kmeans",
        random_state: RandomState = None,
        estimator: GaussianMixture | None = None,
        executor: Executor | str | None = None,
        n_jobs: int | None = None,
        missing: str = "error",
    ) -> None:
        self.n_components = n_components
        self.contamination = contamination
        self.light_components = light_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state
        self.estimator = estimator
        self.executor = executor
        self.n_jobs = n_jobs
        self.missing = missing

    @leaving_out_text
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Readable, y: object = None, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the mixture, and read the data once more for the threshold.

        Parameters
        ----------
        X : array-like (N, D), a path, or a source
        y : ignored
        sample_weight : (N,) >= 0, optional

        Examples
        --------
        >>> import streamgmm as sg
        >>> X = [[float(i)] for i in range(19)] + [[99.0]]
        >>> detector = sg.OutlierDetector(contamination=0.05).fit(X)
        >>> bool(detector.score_samples([[99.0]]) < detector.offset_)
        True
        """
        source = self._training_source(X, sample_weight)
        in_memory = is_array_like(X)
        self.estimator_, self.bic_, passes = self._fitted(source)
        self.n_components_, self.n_iter_ = self.estimator_.n_components, self.estimator_.n_iter_
        if hasattr(self, "feature_names_in_"):
            self.estimator_.feature_names_in_ = self.feature_names_in_
        self.mixture_, self.dropped_ = self._scoring_mixture()
        self._scores = _Scores(self.mixture_)
        self.offset_, self.outlier_share_, self.offset_error_ = self._threshold(source, in_memory, sample_weight)
        self.n_passes_ = passes + 1
        return self

    def _fitted(self, source: Source) -> tuple[GaussianMixture, dict[int, float], int]:
        """The mixture with the lowest BIC, the BIC of each number of components, and the passes they took."""
        numbers = self._numbers()
        mixture = self._mixture(numbers[-1])
        settings = mixture.get_params()
        plain = GaussianMixture().get_params()
        others = {name for name, value in settings.items() if np.ndim(value) > 0 or value != plain[name]}
        passable = {"n_components", "covariance_type", "solver", *_SHARED}
        if len(numbers) == 1 or others - passable or mixture.solver == "stepwise":
            fits = [self._mixture(k).fit(source) for k in numbers]
            extra = sum("bic" not in gm.report_ for gm in fits)
            bic = {gm.n_components: float(gm.report_["bic"] if "bic" in gm.report_ else gm.bic(source)) for gm in fits}
            return min(fits, key=lambda gm: bic[gm.n_components]), bic, sum(gm.n_passes_ for gm in fits) + extra
        # Rows in memory cost less to read than steps on a sample of them save (2 to 4 times, measured).
        solver = "squarem" if source.in_memory and mixture.solver == "auto" else mixture.solver
        found = select(
            source, numbers, (mixture.covariance_type,), solver=solver, **{name: settings[name] for name in _SHARED}
        )
        if not found.best.converged_:
            warnings.warn(
                f"The mixture with the lowest BIC (n_components={found.best.n_components}) did not converge in "
                f"max_iter={mixture.max_iter} passes. Raise max_iter or tol.",
                ConvergenceWarning,
                stacklevel=5,
            )
        return found.best, {row["n_components"]: row["bic"] for row in found.table}, found.n_passes

    def _numbers(self) -> list[int]:
        """Numbers of components to try."""
        if isinstance(self.n_components, Integral):
            return [int(self.n_components)]
        otherwise = f"n_components must be a positive integer or a sequence of such; got {self.n_components!r}."
        numbers = sorted(set(whole_numbers(cast("Iterable[int]", self.n_components), otherwise)))
        if numbers[0] < 1:
            raise ValueError(otherwise)
        return numbers

    def _mixture(self, n_components: int) -> GaussianMixture:
        if self.estimator is not None:
            gm: GaussianMixture = clone(self.estimator)
            return gm if isinstance(self.n_components, Integral) else gm.set_params(n_components=n_components)
        chosen = not isinstance(self.n_components, Integral)
        n_init = (4 if chosen else 1) if isinstance(self.n_init, str) else self.n_init
        settings = {name: getattr(self, name) for name in _MIXTURE}
        return GaussianMixture(n_components, **{**settings, "n_init": n_init})

    def _scoring_mixture(self) -> tuple[Mixture, tuple[int, ...]]:
        model = self.estimator_.mixture_
        if self.light_components == "keep" or model.noise_weight > 0:
            return model, ()
        light = lightest(model, self.contamination)
        return (without(model, light), tuple(sorted(light.tolist()))) if len(light) else (model, ())

    def _threshold(
        self, source: Source, in_memory: bool, sample_weight: ArrayLike | None
    ) -> tuple[float, float, float]:
        """The threshold, the share of the weight below it, and how much of the share may be missing."""
        model, share = self._scores, self.contamination
        if in_memory:
            scores = np.concatenate(list(answers_by_chunk(source, model, "log_prob", self._executor())))
            return *exact_threshold(scores, check_weight(sample_weight, len(scores)), share), 0.0
        scale = Scale(_guess(source, model, share))
        counts = self._executor().run(within(source, partial(_count, model, scale)), source.chunks(), np.add)
        return scale.threshold(counts, share)

    # Questions --------------------------------------------------------------------------------------------------

    def _ask_mixture(self, X: Readable, question: str) -> Any:
        check_is_fitted(self)
        return self._ask(X, _Judge(self._scores, self.offset_), question)

    def score_samples(self, X: Readable) -> Any:
        """(N,) log p(x) in nats, or log tail probabilities where values may be missing; the lower, the more abnormal.

        Examples
        --------
        >>> import streamgmm as sg
        >>> X = [[float(i)] for i in range(19)] + [[99.0]]
        >>> scores = sg.OutlierDetector(contamination=0.05).fit(X).score_samples([[9.0], [99.0]])
        >>> bool(scores[0] > scores[1])
        True
        """
        return self._ask_mixture(X, "log_prob")

    def decision_function(self, X: Readable) -> Any:
        """(N,) nats above the threshold: negative for outliers.

        Examples
        --------
        >>> import streamgmm as sg
        >>> X = [[float(i)] for i in range(19)] + [[99.0]]
        >>> sg.OutlierDetector(contamination=0.05).fit(X).decision_function([[9.0], [99.0]]) < 0
        array([False,  True])
        """
        return self._ask_mixture(X, "decision")

    def predict(self, X: Readable) -> Any:
        """(N,) +1 for inliers, -1 for outliers.

        Examples
        --------
        >>> import streamgmm as sg
        >>> X = [[float(i)] for i in range(19)] + [[99.0]]
        >>> sg.OutlierDetector(contamination=0.05).fit(X).predict([[9.0], [99.0]])
        array([ 1, -1])
        """
        return self._ask_mixture(X, "verdict")

    def fit_predict(self, X: Readable, y: object = None, sample_weight: ArrayLike | None = None) -> Any:
        """Fit, then judge the rows: (N,) +1 or -1.

        Examples
        --------
        >>> import streamgmm as sg
        >>> X = [[float(i)] for i in range(19)] + [[99.0]]
        >>> sg.OutlierDetector(contamination=0.05).fit_predict(X)[-2:]
        array([ 1, -1])
        """
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def _html_repr(self) -> str:
        return beside_diagram(self, outlier_card, "outlier_share_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        missing = self.missing if self.estimator is None else self.estimator.missing
        tags.input_tags.allow_nan = missing == "marginalize"
        return tags


def lightest(model: Mixture, share: float) -> NDArray[np.intp]:
    """The lightest components, as many as together weigh less than `share`; ascending by weight."""
    order = np.argsort(model.weights, kind="stable")
    return order[np.cumsum(model.weights[order]) < share]


def without(model: Mixture, components: NDArray[np.intp]) -> Mixture:
    """The mixture of the other components, with weights that sum to 1."""
    keep = np.setdiff1d(np.arange(model.n_components), components)
    weights = model.weights[keep] / model.weights[keep].sum()
    tied = model.family is TIED
    covariances, factors = (a if tied else a[keep] for a in (model.covariances, model.factors))
    return Mixture.trusted(weights, model.means[keep], covariances, model.family, factors, 0.0, model.observation)


class _Scores:
    """Score of rows: log-densities, or log tail probabilities where rows may have gaps."""

    def __init__(self, model: Mixture) -> None:
        self.model = model
        self._tails = Tails(model) if model.missing else None

    def log_prob(self, rows: NDArray[Any]) -> Array:
        return self.model.log_prob(rows) if self._tails is None else self._tails.log_tail(rows)


class _Judge:
    """Scores and a threshold."""

    def __init__(self, model: _Scores, offset: float) -> None:
        self.model = model
        self.offset = offset
        self.log_prob = model.log_prob

    def decision(self, rows: NDArray[Any]) -> Array:
        return self.model.log_prob(rows) - self.offset

    def verdict(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        # The threshold is the log-density of a row, known to about 1e-9 nats: rounding must not exclude it.
        return np.where(self.decision(rows) >= -1e-9 * max(1.0, abs(self.offset)), 1, -1)


def _guess(source: Source, model: _Scores, share: float) -> float:
    """The threshold of the first chunk that has rows of positive weight."""
    for chunk in source.chunks():
        rows, weight = chunk.load()
        if len(rows) and (weight is None or weight.sum() > 0):
            return exact_threshold(within(source, model.log_prob)(rows), weight, share)[0]
    return 0.0


def _count(model: _Scores, scale: Scale, chunk: Chunk) -> Array:
    rows, weight = chunk.load()
    return scale.counts(model.log_prob(rows), weight)
