"""What can be asked of a fitted mixture in scikit-learn's manner: values, predictions, criteria, pictures, files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from streamgmm import exchange, plotting
from streamgmm.asking import Asking
from streamgmm.covariance import Covariance
from streamgmm.em import as_seen, non_finite
from streamgmm.kernels import NonFiniteRowError
from streamgmm.mixture import Mixture
from streamgmm.persistence import ModelFile, save_model
from streamgmm.projection import Behind, Projection
from streamgmm.reading import Reader
from streamgmm.seeding import survey
from streamgmm.sources.base import Source

Array = NDArray[np.float64]

_SAVED: dict[str, type] = {
    "converged_": bool, "n_iter_": int, "lower_bound_": float, "lower_bounds_": list, "n_passes_": int, "report_": dict,
}  # fmt: skip


class Fitted(Asking, Reader):
    """Mixin for estimators whose fit leaves a `mixture_`."""

    mixture_: Mixture
    projection_: Projection | None = None
    lower_bounds_: list[float]
    random_state: Any
    get_params: Callable[..., dict[str, Any]]  # of BaseEstimator, as the next two
    _validate_params: Callable[[], None]
    _get_param_names: ClassVar[Callable[[], list[str]]]

    # Values ----------------------------------------------------------------------------------------------

    def _model(self) -> Mixture:
        mixture: Mixture | None = self.__dict__.get("mixture_")
        if mixture is None:
            raise AttributeError(f"this {type(self).__name__} is not fitted yet; call fit first")
        return mixture

    @property
    def weights_(self) -> Array:
        """(K,) weights of the components; with `noise_weight_` they sum to 1.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> gm.weights_
        array([0.5, 0.5])
        """
        return self._model().weights

    @property
    def noise_weight_(self) -> float:
        """Weight of the uniform background; 0 without one.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture(noise="uniform").fit([[-1.0], [0.0], [1.0], [99.0]])
        >>> bool(abs(gm.weights_.sum() + gm.noise_weight_ - 1) < 1e-12)
        True
        """
        return self._model().noise_weight

    @property
    def means_(self) -> Array:
        """(K, D) means, in the units of the data.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.GaussianMixture().fit([[0.0, 1.0], [4.0, 3.0]]).means_
        array([[2., 2.]])
        """
        return self._model().means

    @property
    def covariances_(self) -> Array:
        """Covariances: full (K, D, D), tied (D, D), diag (K, D), spherical (K,).

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.GaussianMixture(covariance_type="diag", reg_covar=0).fit([[0.0, 1.0], [4.0, 3.0]]).covariances_
        array([[4., 1.]])
        """
        return self._model().covariances

    @property
    def precisions_cholesky_(self) -> Array:
        """Upper triangular U with U U^T = precision (full, tied); reciprocal deviations (diag, spherical).

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.GaussianMixture(covariance_type="diag", reg_covar=0).fit([[0.0, 1.0], [4.0, 3.0]]).precisions_cholesky_
        array([[0.5, 1. ]])
        """
        return self._model().precisions_cholesky

    @property
    def precisions_(self) -> Array:
        """Inverses of `covariances_`, in the same shape.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.GaussianMixture(covariance_type="diag", reg_covar=0).fit([[0.0, 1.0], [4.0, 3.0]]).precisions_
        array([[0.25, 1.  ]])
        """
        model = self._model()
        return model.family.precisions(model.precisions_cholesky)

    # Principal components -----------------------------------------------------------------------------------------

    def project(self, projection: Projection, feature_names: Sequence[str] | None = None) -> Self:
        """Take rows of the data from now on, and answer for their principal components, which it was fitted to.

        Parameters
        ----------
        projection : Projection
            Its d components are the features of the fit. Kept as `projection_`, in `save` too; a new `fit` drops it.
        feature_names : D names, optional

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> from streamgmm.projection import Projection
        >>> X = np.array([[0.0, 5.0], [1.0, 5.0], [8.0, 5.0], [9.0, 5.0]])
        >>> first = Projection(np.zeros(2), np.array([[1.0], [0.0]]), np.array([[1.0, 0.0]]))
        >>> gm = sg.GaussianMixture().fit(first.apply(X)).project(first)
        >>> gm.means_, gm.n_features_in_, gm.score_samples(X).shape
        (array([[4.5]]), 2, (4,))
        """
        check_is_fitted(self)
        d = self.mixture_.n_features
        if projection.n_components != d:
            raise ValueError(f"a mixture of {d} features needs as many components; got {projection.n_components}")
        self.projection_ = projection
        self.n_features_in_ = projection.n_features
        self.__dict__.pop("feature_names_in_", None)
        if feature_names is not None:
            self.feature_names_in_ = np.array([str(name) for name in feature_names], dtype=object)
        return self

    def _source(self, X: Any, sample_weight: ArrayLike | None, *, reset: bool) -> Source:
        if reset and self.projection_ is not None:
            if getattr(self, "warm_start", False):
                raise ValueError(
                    "warm_start: this model was fitted to principal components, fit takes rows as they are. Set "
                    "warm_start=False; or fit gm.projection_.apply(X), starting from means_init=gm.means_."
                )
            self.__dict__.pop("projection_")
        return super()._source(X, sample_weight, reset=reset)

    def _seen(self, X: Any, sample_weight: ArrayLike | None = None) -> Source:
        source = self._source(X, sample_weight, reset=False)
        return source if self.projection_ is None else self.projection_.of(source)

    # Pictures ---------------------------------------------------------------------------------------------------

    def plot(self, kind: str = "ellipses", X: Any = None, *, ax: Any = None, n_rows: int = 2000) -> Any:
        """Draw one picture with matplotlib; the axes.

        Parameters
        ----------
        kind : {"ellipses", "convergence", "weights", "uncertainty"}
            Components on the first two principal axes, rows coloured by hard label; the trace of the log-likelihood;
            the weights; how sure the labels are.
        X : array-like, path or source, optional ("uncertainty" needs it)
            `n_rows` of its rows are drawn at random, in one reading.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> X = np.random.default_rng(0).normal(size=(200, 3))
        >>> gm = sg.GaussianMixture(2, random_state=0, tol=1e-3).fit(X)
        >>> gm.plot("ellipses", X).get_ylabel()[:16]
        'principal axis 2'
        """
        check_is_fitted(self)
        names = getattr(self, "feature_names_in_", None) if self.projection_ is None else self.projection_.names
        if kind == "convergence":
            return plotting.convergence(self.lower_bounds_, ax=ax)
        if kind == "weights":
            return plotting.weights(self.mixture_, ax=ax)
        if kind not in ("ellipses", "uncertainty"):
            raise ValueError(
                f"kind must be 'ellipses', 'convergence', 'weights' or 'uncertainty'; got {kind!r}. "
                "Criteria against K are drawn by Selection.plot()."
            )
        rows = None
        if X is not None:
            source = self._seen(X)
            rows = survey(source, self._executor(source), size=n_rows, seed=0).rows
        if kind == "uncertainty":
            if rows is None:
                raise ValueError("kind='uncertainty' needs X: rows whose labels are in doubt.")
            return plotting.uncertainty(self.mixture_, rows, ax=ax, names=names)
        return plotting.ellipses(self.mixture_, rows, ax=ax, names=names)

    # Files ------------------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted model to one safetensors file, atomically; `streamgmm.load` reads it.

        Parameters that are objects (a RandomState, an executor, arrays of initial values) are not kept.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.GaussianMixture().fit([[0.0], [4.0]]).save("model.safetensors")
        >>> sg.load("model.safetensors").means_
        array([[2.]])
        """
        check_is_fitted(self)
        plain = (str, int, float, bool, type(None))
        header = {
            "estimator": type(self).__name__,
            "parameters": {k: v for k, v in self.get_params(deep=False).items() if isinstance(v, plain)},
            "fitted": {name: getattr(self, name) for name in _SAVED if hasattr(self, name)},
            "feature_names": list(self.feature_names_in_) if hasattr(self, "feature_names_in_") else None,
        }
        arrays = None if self.projection_ is None else self.projection_.arrays()
        save_model(path, self.mixture_, header=header, arrays=arrays)

    @classmethod
    def _from_file(cls, content: ModelFile) -> Self:
        known = cls._get_param_names()
        parameters = {k: v for k, v in dict(content.header["parameters"]).items() if k in known}
        self = cls(**parameters)
        self._validate_params()
        for name, kind in _SAVED.items():
            if name in content.header["fitted"]:
                value = content.header["fitted"][name]
                setattr(self, name, np.nan if value is None and kind is float else kind(value))
        self.mixture_ = content.mixture
        self.n_features_in_ = content.mixture.n_features
        projection = Projection.read(content.arrays)
        if projection is not None:
            self.project(projection)
        names = content.header["feature_names"]
        if names is not None:
            if len(names) != self.n_features_in_:
                raise ValueError(f"{len(names)} feature names for {self.n_features_in_} features")
            self.feature_names_in_ = np.array([str(name) for name in names], dtype=object)
        return self

    # Exchange ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_parameters(
        cls,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
        covariance_type: str | Covariance = "full",
        **settings: Any,
    ) -> Self:
        """An estimator that answers as if fitted, from (K,) weights, (K, D) means and covariances; see `Mixture`.

        `settings` are parameters of the estimator. With ``warm_start=True`` a later `fit` goes on from here.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> gm.predict([[-1.0], [5.0]])
        array([0, 1])
        """
        return cast(Self, exchange.from_parameters(cls, weights, means, covariances, covariance_type, **settings))

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """The same mixture as a fitted ``sklearn.mixture.GaussianMixture``, with its settings.

        Examples
        --------
        >>> import streamgmm as sg
        >>> from sklearn.mixture import GaussianMixture
        >>> sg.GaussianMixture.from_sklearn(GaussianMixture().fit([[0.0], [4.0]])).means_
        array([[2.]])
        """
        return cast(Self, exchange.from_sklearn(cls, model))

    def to_sklearn(self) -> Any:
        """The same mixture as a fitted ``sklearn.mixture.GaussianMixture``; refused with a background component.

        Refused after a `project` too: scikit-learn's mixture has no projection.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> gm.to_sklearn().predict([[-1.0], [5.0]])
        array([0, 1])
        """
        check_is_fitted(self)
        self._speaks_of_features("to_sklearn")
        return exchange.to_sklearn(self)

    def to_json(self) -> str:
        """The fitted model as JSON text, every number with all its digits.

        Examples
        --------
        >>> import streamgmm as sg
        >>> import json
        >>> json.loads(sg.GaussianMixture().fit([[0.0], [4.0]]).to_json())["means"]
        [[2.0]]
        """
        check_is_fitted(self)
        self._speaks_of_features("to_json")
        return exchange.to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The estimator that `to_json` wrote.

        Examples
        --------
        >>> import streamgmm as sg
        >>> text = sg.GaussianMixture().fit([[0.0], [4.0]]).to_json()
        >>> sg.GaussianMixture.from_json(text).means_
        array([[2.]])
        """
        return cast(Self, exchange.from_json(cls, text))

    # Questions --------------------------------------------------------------------------------------------------

    def predict(self, X: Any, *, out: Any = None) -> Any:
        """(N,) most responsible component of each row, -1 for the background.

        Parameters
        ----------
        X : array-like, a path, or a source
            For what is not in memory the answer is an iterator of arrays, one per chunk.
        out : array, optional
            Written instead, slice by slice: an ndarray, a memmap, a Zarr array.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> gm.predict([[-1.0], [5.0]])
        array([0, 1])
        >>> np.save("rows.npy", [[-1.0], [5.0]])
        >>> [part.tolist() for part in gm.predict("rows.npy")]
        [[0, 1]]
        """
        return self._map(X, "labels", out)

    def predict_proba(self, X: Any, *, out: Any = None) -> Any:
        """(N, K) responsibilities, with a background (N, K + 1), its own last; `X` and `out` as in `predict`.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> gm.predict_proba([[2.0]])
        array([[0.5, 0.5]])
        """
        return self._map(X, "responsibilities", out)

    def score_samples(self, X: Any, *, out: Any = None) -> Any:
        """(N,) log p(x) in nats; `X` and `out` as in `predict`.

        Examples
        --------
        >>> import streamgmm as sg
        >>> one = sg.GaussianMixture.from_parameters([1.0], [[0.0]], [1.0], "spherical")
        >>> one.score_samples([[0.0], [2.0]]).round(4)
        array([-0.9189, -2.9189])
        """
        return self._map(X, "log_prob", out)

    def _map(self, X: Any, question: str, out: Any = None) -> Any:
        check_is_fitted(self)
        model = self.mixture_ if self.projection_ is None else Behind(self.mixture_, self.projection_)
        return self._ask(X, model, question, out)

    def impute(self, X: Any, *, out: Any = None) -> Any:
        """(N, D) X with every NaN replaced by its conditional mean given what its row shows; `out` as in `predict`.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> gm.impute([[2.0, np.nan]])
        array([[2., 1.]])
        """
        check_is_fitted(self)
        self._speaks_of_features("impute")
        return self._map(X, "impute", out)

    def score(self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None) -> float:
        """Mean log-likelihood per row, in nats (weighted mean with weights).

        Examples
        --------
        >>> import streamgmm as sg
        >>> one = sg.GaussianMixture.from_parameters([1.0], [[0.0]], [1.0], "spherical")
        >>> round(one.score([[0.0], [2.0]]), 4)
        -1.9189
        """
        totals = self._totals(X, sample_weight)
        return float(totals[0] / totals[3])

    def _totals(self, X: Any, sample_weight: ArrayLike | None = None) -> Any:
        """Sums over the rows of X: log p, entropy, log max r, weight, rows."""
        check_is_fitted(self)
        source = self._seen(X, sample_weight)
        return self._executor(source).run(partial(score_chunk, self.mixture_), source.chunks(), np.add)

    def bic(self, X: Any) -> float:
        """Bayesian information criterion; smaller is better.

        Examples
        --------
        >>> import streamgmm as sg
        >>> one = sg.GaussianMixture.from_parameters([1.0], [[0.0]], [1.0], "spherical")
        >>> round(one.bic([[-1.0], [1.0]]), 4)
        7.062
        """
        loglik, _, _, count, _ = self._totals(X)
        return float(-2.0 * loglik + self.mixture_.n_parameters * np.log(count))

    def aic(self, X: Any) -> float:
        """Akaike information criterion; smaller is better.

        Examples
        --------
        >>> import streamgmm as sg
        >>> one = sg.GaussianMixture.from_parameters([1.0], [[0.0]], [1.0], "spherical")
        >>> round(one.aic([[-1.0], [1.0]]), 4)
        9.6758
        """
        return float(-2.0 * self._totals(X)[0] + 2.0 * self.mixture_.n_parameters)

    def icl(self, X: Any) -> float:
        """Integrated completed likelihood: bic - 2 sum log max_k r (Biernacki et al. 2000); smaller is better.

        Examples
        --------
        A row half way between two components costs 2 log 2:

        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> round(gm.icl([[2.0], [2.0]]) - gm.bic([[2.0], [2.0]]), 4)
        2.7726
        """
        loglik, _, log_max, count, _ = self._totals(X)
        return float(-2.0 * loglik + self.mixture_.n_parameters * np.log(count) - 2.0 * log_max)

    def sample(self, n_samples: int = 1) -> tuple[Array, NDArray[np.int64]]:
        """Draw rows from the mixture: (N, D) values and (N,) labels.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> values, labels = gm.sample(5)
        >>> values.shape, labels.shape
        ((5, 1), (5,))
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least one sample.")
        values, labels = self.mixture_.sample(n_samples, check_random_state(self.random_state))
        return values if self.projection_ is None else self.projection_.back(values), labels


def score_chunk(model: Mixture, chunk: Any) -> Array:
    """(5,) sums over one chunk: log p, entropy, log max r, weight, rows."""
    (seen,), rows, weight = as_seen((model,), chunk)
    try:
        return seen.totals(rows, weight)
    except NonFiniteRowError as error:
        raise non_finite(rows, error.row, chunk) from None
