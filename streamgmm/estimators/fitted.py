"""A fitted mixture in scikit-learn's manner: values, answers, pictures, files, principal components."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from streamgmm.em.loop import seen
from streamgmm.estimators._device import card_of, scratch_of, warn_cpu
from streamgmm.estimators.cards import beside_diagram, mixture_card
from streamgmm.estimators.pictures import draw
from streamgmm.estimators.projection import ProjectedMixture, Projection
from streamgmm.estimators.reader import Reader
from streamgmm.mixture.covariance import Factor
from streamgmm.mixture.criteria import criteria
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.tails import Tails
from streamgmm.runtime.device import placed
from streamgmm.runtime.executors import within
from streamgmm.sources.arranged import matched, select_names
from streamgmm.sources.base import Chunk, Readable, Source, Writable
from streamgmm.sources.formats.device import lies_on_card
from streamgmm.sources.formats.tables import is_frame
from streamgmm.utils.phases import reading
from streamgmm.utils.types import Feature, RandomState

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Fitted", "score_chunk"]

Array = NDArray[np.float64]


def score_chunk(model: Mixture, chunk: Chunk) -> Array:
    """(5,) sums over one chunk: log p, entropy, log max r, weight, rows."""
    with seen((model,), chunk) as ((view,), rows, weight):
        return view.totals(rows, weight)


def totals_of(gm: Fitted, X: Readable, sample_weight: ArrayLike | None = None) -> Array:
    """(5,) sums over the rows of X: log p, entropy, log max r, weight, rows."""
    return gm._totals(X, sample_weight)


class Fitted(Reader):
    """Methods of an estimator whose fit has left a `mixture_`."""

    random_state: RandomState
    device: str | None

    mixture_: Mixture

    projection_: Projection | None = None
    lower_bounds_: list[float]

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
        >>> from streamgmm.estimators.projection import Projection
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
        self._name_features(feature_names)
        return self

    def _source(self, X: Readable, sample_weight: ArrayLike | None, *, reset: bool) -> Source:
        if reset and self.projection_ is not None:
            if getattr(self, "warm_start", False):
                raise ValueError(
                    "warm_start: this model was fitted to principal components, fit takes rows as they are. Set "
                    "warm_start=False; or fit gm.projection_.apply(X), starting from means_init=gm.means_."
                )
            self.__dict__.pop("projection_")
        known = self._known_names if reset and getattr(self, "warm_start", False) and hasattr(self, "mixture_") else ()
        source = super()._source(X, sample_weight, reset=reset)
        if known:
            found, self.feature_names_in_ = self._known_names, np.array(known, dtype=object)
            source = matched(source, known, found or None)
        return source

    def _seen(self, X: Readable, sample_weight: ArrayLike | None = None) -> Source:
        source = self._source(X, sample_weight, reset=False)
        return source if self.projection_ is None else self.projection_.projected(source)

    def plot(
        self,
        kind: str = "ellipses",
        X: Readable = None,
        *,
        ax: Axes | None = None,
        n_rows: int = 2000,
        features: Feature | Sequence[Feature] | None = None,
    ) -> Axes:
        """Draw one picture with matplotlib; the axes, of "corner", "marginals" and "loadings" an array of them.

        Parameters
        ----------
        kind : {"ellipses", "classification", "uncertainty", "density", "corner", "marginals", "profiles", \
                "loadings", "timeline", "weights", "convergence"}
            Components as ellipses on the first two principal axes, or on two `features`, rows coloured by hard label
            ("classification" asks for rows); how sure the labels are; contours of the joint density of two features;
            all pairs of features; each feature by itself; each component's means in deviations; the correlations of
            features with the factors of factor analysers; the share of each component along the rows, in their order;
            the weights; the trace of the log-likelihood.
        X : array-like, path or source, optional ("classification", "uncertainty" and "timeline" need it)
            `n_rows` of its rows are drawn at random, in one pass; "timeline" counts all of them.
        features : names or numbers, optional
            Two for a plane; for "corner" and "marginals" any, by default those in which components differ most.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> X = np.random.default_rng(0).normal(size=(200, 3))
        >>> gm = sg.GaussianMixture(2, random_state=0, tol=1e-3).fit(X)
        >>> gm.plot("ellipses", X).get_ylabel()[:16]
        'principal axis 2'
        >>> gm.plot("density", X, features=[0, 2]).get_ylabel()
        'feature 2'
        """
        check_is_fitted(self)
        return draw(self, kind, X, ax=ax, n_rows=n_rows, features=features)

    def _html_repr(self) -> str:
        """HTML for a notebook: the fitted mixture, and scikit-learn's diagram of the parameters."""
        return beside_diagram(self, mixture_card, "mixture_")

    def report(self, X: Readable, path: str | os.PathLike[str] = "report.html", **options: Any) -> Path:
        """Write one interactive page about this fit that works offline; see `streamgmm.write_report`.

        Examples
        --------
        >>> import streamgmm as sg, tempfile
        >>> X = [[float(i % 10 + 50 * (i > 30)), float(i % 7)] for i in range(60)]
        >>> gm = sg.GaussianMixture(2, random_state=0).fit(X)
        >>> gm.report(X, f"{tempfile.mkdtemp()}/page.html").name
        'page.html'
        """
        from streamgmm import write_report  # by the package's face: it stands above the estimators

        check_is_fitted(self)
        return write_report(self, X, path, **options)

    def _model(self) -> Mixture:
        mixture: Mixture | None = self.__dict__.get("mixture_")
        if mixture is None:
            raise AttributeError(f"this {type(self).__name__} is not fitted yet; call fit first")
        return mixture

    @property
    def weights_(self) -> Array:
        """(K,) weights of the components; with `noise_weight_` they sum to 1."""
        return self._model().weights

    @property
    def noise_weight_(self) -> float:
        """Weight of the uniform background; 0 without one."""
        return self._model().noise_weight

    @property
    def means_(self) -> Array:
        """(K, D) means, in the units of the data."""
        return self._model().means

    @property
    def covariances_(self) -> Array:
        """Covariances: full (K, D, D), tied (D, D), diag (K, D), spherical (K,); of factor analysers (K, D, D)."""
        model = self._model()
        if isinstance(model.family, Factor):
            return model.family.dense(model.covariances, *model.means.shape)
        return model.covariances

    def _factor_analysers(self) -> tuple[Mixture, Factor]:
        model = self._model()
        if not isinstance(model.family, Factor):
            raise AttributeError(
                f"covariance_type {model.family.name!r} has no loadings; fit with covariance_type='factor'"
            )
        return model, model.family

    @property
    def loadings_(self) -> Array:
        """(K, D, q) loadings of factor analysers; determined up to a rotation of the factors of each component."""
        model, family = self._factor_analysers()
        return family.split_columns(model.covariances)[0]

    @property
    def noise_variance_(self) -> Array:
        """(K, D) noise variances of factor analysers."""
        model, family = self._factor_analysers()
        return family.split_columns(model.covariances)[1]

    def factor_scores(self, X: Readable, *, out: Writable | None = None) -> Any:
        """(N, K, q) posterior means of the factors of each component, given the row; `X`, `out` as in `predict`.

        Those of component k mean something where its `predict_proba` does. Entries that are NaN were not observed.

        Examples
        --------
        >>> import streamgmm as sg
        >>> one = sg.GaussianMixture.from_factors([1.0], [[0.0, 0.0]], [[[1.0], [1.0]]], 0.5)
        >>> one.factor_scores([[1.0, 1.0]])  # 4 / 5: the factor is drawn to 0
        array([[[0.8]]])
        """
        self._factor_analysers()
        return self._ask(X, *self._asked(X, "factor_scores"), out)

    @property
    def precisions_cholesky_(self) -> Array:
        """Upper triangular U with U U^T = precision (full, tied); reciprocal deviations (diag, spherical)."""
        return self._model().precisions_cholesky

    @property
    def precisions_(self) -> Array:
        """Inverses of `covariances_`, in the same shape."""
        model = self._model()
        return model.family.precisions(model.precisions_cholesky)

    def predict(self, X: Readable, *, out: Writable | None = None) -> Any:
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
        return self._ask(X, *self._asked(X, "labels"), out)

    def predict_proba(self, X: Readable, *, out: Writable | None = None) -> Any:
        """(N, K) responsibilities, with a background (N, K + 1), its own last; `X` and `out` as in `predict`.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> gm.predict_proba([[2.0]])
        array([[0.5, 0.5]])
        """
        return self._ask(X, *self._asked(X, "responsibilities"), out)

    def score_samples(self, X: Readable, *, out: Writable | None = None) -> Any:
        """(N,) log p(x) in nats; `X` and `out` as in `predict`.

        Examples
        --------
        >>> import streamgmm as sg
        >>> one = sg.GaussianMixture.from_parameters([1.0], [[0.0]], [1.0], "spherical")
        >>> one.score_samples([[0.0], [2.0]]).round(4)
        array([-0.9189, -2.9189])
        """
        return self._ask(X, *self._asked(X, "log_prob"), out)

    def tail_probability(self, X: Readable, *, out: Writable | None = None) -> Any:
        """(N,) chances that a row of the model, seen in the features that the row shows, has no larger density.

        Small for anomalies, and comparable between rows that miss different features, which densities are not. A row
        of which nothing is observed has 1. `X` and `out` as in `predict`; see `streamgmm.mixture.tails.Tails`.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> one = sg.GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [np.eye(2)])
        >>> one.tail_probability([[0.0, 0.0], [3.0, 0.0]]).round(2)
        array([1.  , 0.01])
        """
        check_is_fitted(self)
        return self._ask(X, self._before_projection(Tails(self.mixture_)), "tail_probability", out=out)

    def _asked(self, X: Readable, question: str) -> tuple[Any, str, Source | None]:
        """The model that answers, `question`, and the rows of X on the card where they are answered; None for the
        CPU."""
        check_is_fitted(self)
        cpu = self._before_projection(self.mixture_), question, None
        if self.device in (None, "cpu") and not lies_on_card(X) and not isinstance(X, Source):
            return cpu
        source = self._seen(X)
        backend = card_of(self.device, source)
        if backend is None or self._cpu_answers(source, question, stacklevel=3):
            return cpu
        scratch = self._scratch(source, fused=False)
        answer = self._answer_bytes(question)
        there = placed(source, backend, keep=False, answer_bytes=answer, scratch=scratch).for_em()
        return self.mixture_, question, there

    def _before_projection(self, model: Any) -> Any:
        """`model` as rows of the data are shown to it."""
        return model if self.projection_ is None else ProjectedMixture(model, self.projection_)

    def _scratch(self, source: Source, *, fused: bool) -> int:
        return scratch_of(source, self.mixture_.family, self.mixture_.n_components, fused=fused)

    def _cpu_answers(self, source: Source, question: str, stacklevel: int) -> bool:
        """True if a question has no form for graphics cards; says so where one was asked for."""
        family = self.mixture_.family
        causes = {
            "impute": question == "impute",
            "missing='marginalize'": self.mixture_.missing,
            f"covariance_type={family.name!r}": family.n_factors,
            "a Dask collection": source.kind == "dask",
        }
        cause = next((name for name, holds in causes.items() if holds), None)
        if cause is not None and self.device is not None:
            warn_cpu(f"A question with {cause}" if cause != "impute" else cause, stacklevel + 1)
        return cause is not None

    def _answer_bytes(self, question: str) -> int:
        return 8 * (len(self.mixture_.weights) + 1 if question == "responsibilities" else 1)

    def impute(self, X: Readable, *, out: Writable | None = None) -> Any:
        """(N, D) X with every NaN replaced by its conditional mean given what its row shows; `out` as in `predict`.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> gm.impute([[2.0, np.nan]])
        array([[2., 1.]])
        """
        self._fitted("impute")
        return self._ask(X, *self._asked(X, "impute"), out)

    def score(self, X: Readable, y: object = None, sample_weight: ArrayLike | None = None) -> float:
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

    def _totals(self, X: Readable, sample_weight: ArrayLike | None = None) -> Array:
        """Sums over the rows of X: log p, entropy, log max r, weight, rows."""
        check_is_fitted(self)
        source = self._seen(X, sample_weight)
        backend = card_of(self.device, source)
        if backend is not None and not self._cpu_answers(source, "score", stacklevel=4):
            source = placed(source, backend, keep=False, scratch=self._scratch(source, fused=True)).for_em()
        task = within(source, partial(score_chunk, self.mixture_))
        with reading(source, "scoring"):
            return self._executor(source).run(task, source.chunks(), np.add)

    def _criteria(self, X: Readable) -> dict[str, float]:
        loglik, _, log_max, weight, _ = self._totals(X)
        return criteria(loglik, log_max, weight, self.mixture_.n_parameters)

    def bic(self, X: Readable) -> float:
        """Bayesian information criterion; smaller is better.

        Examples
        --------
        >>> import streamgmm as sg
        >>> one = sg.GaussianMixture.from_parameters([1.0], [[0.0]], [1.0], "spherical")
        >>> round(one.bic([[-1.0], [1.0]]), 4)
        7.062
        """
        return self._criteria(X)["bic"]

    def aic(self, X: Readable) -> float:
        """Akaike information criterion; smaller is better.

        Examples
        --------
        >>> import streamgmm as sg
        >>> one = sg.GaussianMixture.from_parameters([1.0], [[0.0]], [1.0], "spherical")
        >>> round(one.aic([[-1.0], [1.0]]), 4)
        9.6758
        """
        return self._criteria(X)["aic"]

    def icl(self, X: Readable) -> float:
        """Integrated completed likelihood: bic - 2 sum log max_k r (Biernacki et al. 2000); smaller is better.

        Examples
        --------
        A row half way between two components costs 2 log 2:

        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> round(gm.icl([[2.0], [2.0]]) - gm.bic([[2.0], [2.0]]), 4)
        2.7726
        """
        return self._criteria(X)["icl"]

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

    def marginal(self, features: Feature | Sequence[Feature]) -> Mixture:
        """The distribution of some features, given by name or number, whatever the others are.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture().fit([[0.0, 1.0], [4.0, 3.0]])
        >>> gm.marginal([1]).means
        array([[2.]])
        """
        return self._fitted("marginal").marginal(self._numbers(features))

    def condition(self, given: Mapping[Feature, float]) -> Mixture:
        """The distribution of the other features where some have given values: ``{feature: value}``.

        Its `moments` are the prediction and its covariance.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> gm.condition({0: 2.0}).moments()
        (array([1.]), array([[0.75]]))
        """
        return self._fitted("condition").condition({self._number(name): value for name, value in given.items()})

    def regression(self, X: ArrayLike, given: Feature | Sequence[Feature]) -> tuple[Array, Array]:
        """Predict the other features, in ascending order, from columns X (N, d) of the features `given`.

        Returns
        -------
        Means (N, m) and covariances (N, m, m) of the prediction, row by row.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> mean, covariance = gm.regression([[2.0], [-2.0]], given=[0])
        >>> mean.ravel(), covariance.ravel()
        (array([ 1., -1.]), array([0.75, 0.75]))
        """
        model, numbers = self._fitted("regression"), self._numbers(given)
        known = getattr(self, "feature_names_in_", None)
        if known is not None and is_frame(X):
            X = select_names(X, [str(known[i]) for i in np.atleast_1d(np.asarray(numbers))])
        return model.regression(X, numbers)

    def merge_components(
        self, groups: Sequence[Sequence[int]] | None = None, *, n_components: int | None = None
    ) -> Mixture:
        """A mixture with fewer components and the same overall moments; this estimator stays as it is.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> gm.merge_components([[0, 1]]).covariances
        array([5.])
        """
        return self._fitted("merge_components").merge_components(groups, n_components=n_components)

    def _fitted(self, question: str) -> Mixture:
        check_is_fitted(self)
        self._speaks_of_features(question)
        return self.mixture_

    def _speaks_of_features(self, question: str) -> None:
        """Refuse what a model of principal components cannot answer in the features of the data."""
        if self.projection_ is not None:
            raise ValueError(
                f"{question}: this model was fitted to {self.projection_.n_components} principal components of "
                f"{self.projection_.n_features} features, and is no mixture of those. Ask gm.mixture_ about the "
                "components (rows go through gm.projection_.apply first), or fit without principal components."
            )

    def _numbers(self, features: Feature | Sequence[Feature]) -> int | Sequence[int]:
        if isinstance(features, str):
            return [self._number(features)]
        if isinstance(features, Sequence):
            return [self._number(name) for name in features]
        return features

    def _number(self, name: Feature) -> int:
        if not isinstance(name, str):
            return name
        names = list(getattr(self, "feature_names_in_", ()))
        if name not in names:
            known = f"the fit knows {names}" if names else "the fit saw no feature names; use numbers"
            raise ValueError(f"There is no feature {name!r}: {known}.")
        return names.index(name)
