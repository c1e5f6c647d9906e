"""`Scaler` and `PCA`: exact, from one pass over the data; what they make of a source is a source."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    OneToOneFeatureMixin,
    _fit_context,
    clone,
)
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from streamgmm.estimators._parameters import EXECUTION
from streamgmm.estimators.reader import Transforming
from streamgmm.runtime.executors import Executor
from streamgmm.sources import is_array_like, leaving_out_text
from streamgmm.sources.base import Readable, Source
from streamgmm.sources.gathered import Gathering, gathered
from streamgmm.sources.summaries.moments import Moments, moments_of
from streamgmm.sources.transformed import TransformedSource
from streamgmm.utils.affine import Affine, Checked

Array = NDArray[np.float64]

FULL_MOMENTS_UP_TO = 256
"""Features up to which `Scaler` takes the whole covariance in its pass, so that a `PCA` behind it needs none."""


class _Moving(Transforming, BaseEstimator):
    """Base of both: moments that grow, and an affine map that follows from them."""

    _fewest_rows = 1
    _moments: Moments
    _affine: Affine
    n_passes_: int

    @leaving_out_text
    def fit(self, X: Readable, y: object = None, sample_weight: ArrayLike | None = None) -> Self:
        """Learn from one pass over the data.

        Parameters
        ----------
        X : array-like (N, D), a path, or a source
        y : ignored
        sample_weight : (N,) >= 0, optional

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.Scaler().fit([[0.0, 10.0], [4.0, 10.0]]).mean_, sg.PCA().fit([[0.0, 0.0], [3.0, 4.0]]).components_[0]
        (array([ 2., 10.]), array([0.6, 0.8]))
        """
        self.__dict__.pop("_moments", None)
        self.__dict__.pop("n_passes_", None)
        return self.partial_fit(X, y, sample_weight)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Readable, y: object = None, sample_weight: ArrayLike | None = None) -> Self:
        """Learn from these rows as well; exact, whatever the pieces.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.Scaler().partial_fit([[0.0]]).partial_fit([[2.0], [4.0]]).mean_
        array([2.])
        """
        self._take(X, sample_weight)
        self._learn_all()
        return self

    def _take(self, X: Readable, sample_weight: ArrayLike | None = None) -> None:
        """Add the moments of these rows to those that are known."""
        first = not hasattr(self, "_moments")
        source = self._training_source(X, sample_weight, reset=first)
        known = self._collect(source)
        self._moments = known if first else self._moments.merge(known)
        self.n_passes_ = getattr(self, "n_passes_", 0) + (known is not getattr(source, "moments", None))

    def _learn_all(self) -> None:
        if not np.isfinite(self._moments.scatter).all():
            finite = np.isfinite(self._moments.variance)
            names = getattr(self, "feature_names_in_", np.arange(len(finite)))
            raise ValueError(
                f"feature(s) {', '.join(map(str, names[~finite][:5])) or 'in pairs'}: squares of some numbers are "
                "beyond double precision; expected numbers below about 1e150. Drop the rows that hold them, or give "
                "them weight 0."
            )
        self._learn(self._moments)

    @abstractmethod
    def _collect(self, source: Source) -> Moments:
        """The moments of a source that this map is learnt from."""

    @abstractmethod
    def _learn(self, moments: Moments) -> None:
        """Set the fitted attributes from all moments so far."""

    def transform(self, X: Readable) -> Any:
        """The rows moved: an array for arrays; for anything else a source, whose chunks are moved as they are read.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.Scaler().fit([[0.0], [4.0]]).transform([[6.0]])
        array([[2.]])
        """
        check_is_fitted(self)
        if is_array_like(X):
            return self._ask(X, Checked(self._affine, self._passes_nan), "apply")
        source = self._source(X, None, reset=False)
        known: Moments | None = getattr(source, "moments", None)
        return self._moved(source, None if known is None else known.through(self._affine))

    @property
    def _passes_nan(self) -> bool:
        return False

    @leaving_out_text
    def fit_transform(self, X: Readable, y: object = None, sample_weight: ArrayLike | None = None) -> Any:
        """Fit, then transform; what comes of a source knows its own moments, which saves the next step a pass.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.Scaler().fit_transform([[0.0], [4.0]])
        array([[-1.],
               [ 1.]])
        """
        if is_array_like(X):
            return self.fit(X, y, sample_weight).transform(X)
        source = self._source(X, sample_weight, reset=True)
        self.fit(source)
        return self._image(source)

    def _image(self, source: Source) -> TransformedSource:
        """The rows that this was learnt from, moved, with the moments that follow from theirs."""
        return self._moved(source, None if self._passes_nan else self._moments.through(self._affine))

    def _moved(self, source: Source, moments: Moments | None) -> TransformedSource:
        names = None
        if source.feature_names is not None:
            names = tuple(str(name) for name in self.get_feature_names_out())
        return TransformedSource(source, self._affine, moments=moments, feature_names=names)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


FAR = 1e6
"""Overall deviation, in typical distances from the median, above which a few rows far away have decided it."""


def without_far_rows(source: Source, moments: Moments) -> Source | None:
    """`source` of these moments with weight 0 for rows far from most others; None where none is.

    One fill value of 1e20 would make one point of everything else.
    """
    if moments.typical is None:  # of chunks without rows
        return None
    middle, typical = moments.typical
    reach = np.where(typical > 0, FAR * typical, np.inf)
    near = (np.sqrt(moments.variance) <= reach).all()
    return None if near else gathered(source, Gathering(middle, reach, place=middle, aside=True))


@dataclass(frozen=True, slots=True)
class Learnt[T: _Moving]:
    """A map, and what it was learnt from.

    Attributes
    ----------
    moving : fitted
    image : the rows that it was learnt from, moved; of weight 0 where they are `far`
    count : (D,) weight of all rows in which the feature is there
    passes : over the data
    far : whether rows far from all others had no say
    """

    moving: T
    image: TransformedSource
    count: Array
    passes: int
    far: bool


def learnt_from_most[T: _Moving](moving: T, source: Source) -> Learnt[T]:
    """Fit `moving` to `source`; without rows far from all others where these would decide it."""
    moving._take(source)
    count = moving._moments.count
    near = without_far_rows(source, moving._moments)
    if near is not None:
        again = clone(moving)
        again._take(near)
        if (again._moments.count >= 0.5 * count).all():
            again._learn_all()
            return Learnt(again, again._image(near), count, moving.n_passes_ + again.n_passes_, True)
    moving._learn_all()
    return Learnt(moving, moving._image(source), count, moving.n_passes_, False)


class Scaler(OneToOneFeatureMixin, _Moving):
    """Zero mean and unit variance, feature by feature, from one pass: a StandardScaler for data of any size.

    Parameters
    ----------
    with_mean, with_std : bool, default True
    missing : {"error", "ignore"}, default "error"
        "ignore" takes each feature over the rows in which it is not NaN, and lets NaN through.
    executor, n_jobs :
        As in `GaussianMixture`.

    Attributes
    ----------
    mean_, var_, scale_ : (D,), None where not asked for
        As in StandardScaler; the scale of a constant feature is 1.
    n_samples_seen_ : int
        Rows of positive weight.
    n_passes_ : int

    Examples
    --------
    >>> import streamgmm as sg
    >>> sg.Scaler().fit_transform([[0.0, 10.0], [2.0, 10.0]])
    array([[-1.,  0.],
           [ 1.,  0.]])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "with_mean": ["boolean"],
        "with_std": ["boolean"],
        "missing": [StrOptions({"error", "ignore"})],
        **EXECUTION,
    }

    def __init__(
        self,
        *,
        with_mean: bool = True,
        with_std: bool = True,
        missing: str = "error",
        executor: Executor | str | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.with_mean = with_mean
        self.with_std = with_std
        self.missing = missing
        self.executor = executor
        self.n_jobs = n_jobs

    @property
    def _passes_nan(self) -> bool:
        return self.missing == "ignore"

    def _collect(self, source: Source) -> Moments:
        full = source.n_features <= FULL_MOMENTS_UP_TO and not self._passes_nan and not source.in_memory
        return moments_of(source, self._executor(), full=full, skip_nan=self._passes_nan)

    def _learn(self, moments: Moments) -> None:
        D = len(moments.mean)
        self.n_samples_seen_ = moments.rows
        self.mean_ = moments.mean if self.with_mean else None
        self.var_ = moments.variance if self.with_std else None
        self.scale_ = None
        if self.with_std:
            # A variance at the rounding error of the mean is none (StandardScaler's rule).
            eps = np.finfo(np.float64).eps
            noise = moments.count * eps * moments.variance + (moments.count * moments.mean * eps) ** 2
            self.scale_ = np.where(moments.variance <= noise, 1.0, np.sqrt(moments.variance))
        self._affine = Affine(
            moments.mean if self.with_mean else np.zeros(D), np.ones(D) if self.scale_ is None else 1.0 / self.scale_
        )

    def inverse_transform(self, X: ArrayLike) -> Array:
        """(N, D) rows in the units of the data.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.Scaler().fit([[0.0], [4.0]]).inverse_transform([[2.0]])
        array([[6.]])
        """
        check_is_fitted(self)
        return np.asarray(X) / self._affine.matrix + self._affine.shift

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._passes_nan
        return tags


class PCA(ClassNamePrefixFeaturesOutMixin, _Moving):
    """Principal components from the exact covariance, taken in one pass, or in none behind a `Scaler`.

    Parameters
    ----------
    n_components : int, float in (0, 1) or None
        How many; or the least number that explains this share of the variance; None keeps all D, or as many as the rows
        span where there are fewer rows than D.
    whiten : bool, default False
        Scale the components to unit variance.
    executor, n_jobs :
        As in `GaussianMixture`.

    Attributes
    ----------
    components_ : (d, D) orthonormal rows, by falling variance; the largest loading of each is positive
    explained_variance_, explained_variance_ratio_, singular_values_ : (d,)
        With N - 1 in the denominator, as in scikit-learn; N is the sum of weights.
    mean_ : (D,)
    noise_variance_ : float
        Mean variance of the directions left out.
    n_components_, n_samples_, n_passes_ : int

    Notes
    -----
    Eigenvectors of the covariance: a direction whose deviation is below 1e-8 of the largest is noise, where an SVD of
    the rows would reach 1e-16. The moments are centred, so an offset costs nothing.

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> X = np.random.default_rng(0).normal(size=(100, 3)) * [10.0, 1.0, 0.1]
    >>> sg.PCA(n_components=2).fit(X).transform(X).shape
    (100, 2)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [
            Interval(Integral, 1, None, closed="left"),
            Interval(Real, 0, 1, closed="neither"),
            None,
        ],
        "whiten": ["boolean"],
        **EXECUTION,
    }

    def __init__(
        self,
        n_components: int | float | None = None,
        *,
        whiten: bool = False,
        executor: Executor | str | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.n_components = n_components
        self.whiten = whiten
        self.executor = executor
        self.n_jobs = n_jobs

    def _collect(self, source: Source) -> Moments:
        return moments_of(source, self._executor(), full=True)

    def _learn(self, moments: Moments) -> None:
        D = len(moments.mean)
        count = float(moments.count[0])
        most = min(moments.rows, D)
        wanted = self.n_components
        given = isinstance(wanted, Integral)
        if wanted is not None and given and wanted > most:
            raise ValueError(
                f"n_components={wanted} must be between 1 and min(n_samples, n_features)={most}. Lower n_components."
            )
        values, vectors = np.linalg.eigh(moments.scatter / max(count - 1.0, 1.0))
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1].T
        total = values.sum()
        share = values / total if total > 0 else np.zeros(D)
        noise = D * np.finfo(np.float64).eps * values[0]
        if wanted is None:
            d = D if moments.rows >= D else max(1, int((values > noise).sum()))
        elif given:
            d = int(wanted)
        else:
            d = min(int(np.searchsorted(np.cumsum(share), wanted, side="right")) + 1, most)
        vectors = vectors[:d]
        largest = np.abs(vectors).argmax(axis=1)
        vectors = vectors * np.sign(vectors[np.arange(d), largest])[:, None]
        self.components_ = np.ascontiguousarray(vectors)
        self.explained_variance_ = values[:d]
        self.explained_variance_ratio_ = share[:d]
        self.singular_values_ = np.sqrt(values[:d] * max(count - 1.0, 1.0))
        self.noise_variance_ = float(values[d:most].mean()) if d < most else 0.0
        self.mean_ = moments.mean
        self.n_components_ = self._n_features_out = d
        self.n_samples_ = moments.rows
        # Directions without variance stay without: their scale would only blow rounding up.
        self._deviation = np.sqrt(np.where(values[:d] > noise, values[:d], 1.0))
        matrix = vectors.T / self._deviation if self.whiten else vectors.T
        self._affine = Affine(moments.mean, np.ascontiguousarray(matrix))

    def inverse_transform(self, X: ArrayLike) -> Array:
        """(N, D) rows in the space of the data; the directions left out are at their means.

        Examples
        --------
        >>> import streamgmm as sg
        >>> pca = sg.PCA(1).fit([[0.0, 0.0], [3.0, 4.0]])
        >>> pca.inverse_transform(pca.transform([[3.0, 4.0]])).round(6)
        array([[3., 4.]])
        """
        check_is_fitted(self)
        rows = np.asarray(X)
        if self.whiten:
            rows = rows * self._deviation
        return np.asarray(rows @ self.components_ + self.mean_)

    def get_covariance(self) -> Array:
        """(D, D) covariance of the probabilistic model: the kept directions, and the noise variance in all others.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.PCA(1).fit([[0.0, 0.0], [3.0, 4.0]]).get_covariance().round(6)
        array([[4.5, 6. ],
               [6. , 8. ]])
        """
        check_is_fitted(self)
        excess = np.maximum(self.explained_variance_ - self.noise_variance_, 0.0)
        covariance = (self.components_.T * excess) @ self.components_
        return np.asarray(covariance + self.noise_variance_ * np.eye(len(self.mean_)))
