"""`partial_fit`: the face of the learner on an estimator."""

from __future__ import annotations

import io
import math
import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state

from streamgmm.em.online import Learner, StepReport
from streamgmm.errors import non_finite
from streamgmm.estimators._fit_report import warn_if_drowned
from streamgmm.estimators._parameters import MixtureParameters
from streamgmm.estimators._reader import Reader
from streamgmm.mixture.mixture import Mixture
from streamgmm.sources import is_array_like, refuse_unreadable
from streamgmm.sources.living import living_rows
from streamgmm.utils.sample_weight import check_weight

Array = NDArray[np.float64]


class Partial(Reader, MixtureParameters):
    """A mixture that learns from a stream."""

    mixture_: Mixture
    _learner: Learner | None = None

    def partial_fit(self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Learn from some more rows of a stream (stepwise EM; Cappe & Moulines 2009).

        Rows are gathered into steps of about 10 K D, so the model depends on the rows and their order, not on how they
        are cut into batches; up to one step of rows waits. Until max(20 K, 2 K (D + 1)) rows were seen there is no
        model, unless parameters were given or `fit` was called: the stream then goes on from there.

        Parameters
        ----------
        X : array-like (n, D), n >= 1; a path or a source; or an iterator of arrays, taken once
        y : ignored
        sample_weight : (n,) >= 0, optional
            For arrays.

        Raises
        ------
        ValueError
            On NaN, infinity, other columns than before, or where `n_components`, `covariance_type`, `missing`, `noise`
            or `prior` were changed on the way. The model is then as it was.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> gm = sg.GaussianMixture(1)
        >>> for batch in np.random.default_rng(0).normal(3.0, 1.0, size=(10, 100, 1)):
        ...     gm = gm.partial_fit(batch)
        >>> gm.report_["rows"], bool(abs(gm.means_[0, 0] - 3.0) < 0.1)
        (1000, True)
        """
        if self._learner is None:
            self._validate_params()
        self._check_settings()
        if isinstance(X, io.IOBase):
            refuse_unreadable(X)
        if hasattr(X, "__next__"):
            for batch in X:
                self.partial_fit(batch)
            return self
        if not is_array_like(X):
            source = self._training_source(X, sample_weight, reset=self._fresh)
            for chunk in source.chunks():
                self._learn(*chunk.load(), chunk)
            return self
        if not self._plain(X):
            X = np.ascontiguousarray(self._checked(X, self._fresh, 1), np.float64)
        self._learn(X, check_weight(sample_weight, len(X)))
        return self

    def _plain(self, X: Any) -> bool:
        """Whether X is just what is wanted: the full checks cost as much as thousands of rows."""
        return (
            type(X) is np.ndarray
            and X.dtype == np.float64
            and X.ndim == 2
            and len(X) > 0
            and not self._fresh
            and X.shape[1] == self.n_features_in_
            and not hasattr(self, "feature_names_in_")
        )

    def _check_settings(self) -> None:
        if getattr(self, "projection_", None) is not None:
            raise ValueError(
                "partial_fit: this model was fitted to principal components, which a stream cannot go on from. "
                "Use fit, or a new GaussianMixture on gm.projection_.apply(X)."
            )
        for name, plain in (("prior", None), ("noise", None), ("missing", "error")):
            asked = getattr(self, name, plain)
            if asked != plain:
                raise ValueError(
                    f"partial_fit learns by maximum likelihood from complete rows: {name}={asked!r} is for fit. "
                    f"Set {name}={plain!r}, or use fit."
                )
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        """Refuse another kind of mixture than that of the stream, or the fit, so far."""
        last = self._learner or self.__dict__.get("mixture_")
        if last is None:
            return
        so_far, now = (last.n_components, last.family), (self.n_components, self._family(self.n_features_in_))
        if so_far[0] != now[0] or so_far[1] is not now[1]:
            raise ValueError(
                f"partial_fit: the model so far has n_components={so_far[0]} and covariance_type {so_far[1].name!r}; "
                f"expected the same, got {now[0]} and {now[1].name!r}. Set them back, or begin with a new estimator: "
                "sklearn.base.clone(gm)."
            )
        if isinstance(last, Mixture) and last.noise_weight > 0:
            raise ValueError(
                "partial_fit: the last fit has a background (noise), which a stream cannot go on from. Use fit, or "
                "begin with a new estimator: sklearn.base.clone(gm)."
            )

    @property
    def _fresh(self) -> bool:
        return self._learner is None and "mixture_" not in self.__dict__

    def _learn(self, rows: Array, weight: Array | None, chunk: Any = None) -> list[StepReport]:
        rows, weight = living_rows(rows, weight)
        if not math.isfinite(float(np.einsum("ij->", rows))) and not np.isfinite(rows).all():
            bad = ~np.isfinite(rows).all(axis=1)
            raise non_finite(rows, int(np.argmax(bad)), chunk)
        learner = self._stream()
        before = learner.set_aside
        reports = learner.push(rows, weight)
        if learner.set_aside > before:
            warnings.warn(
                f"{learner.set_aside - before} row(s) were set aside: a number in them is more than 1e8 deviations "
                "from everything learnt so far. Expected rows like the others; check fill values and units, and begin "
                "a new model where the data really moved that far.",
                stacklevel=3,
            )
        self._publish(reports)
        return reports

    def _stream(self, **options: Any) -> Learner:
        """The learner, made when first wanted: from the model at hand, from given parameters, or from nothing."""
        learner = self._learner
        if learner is not None and (learner.half_life, learner.reg_covar) == (self.half_life, self.reg_covar):
            return learner
        D = self.n_features_in_
        chosen = self._family(D)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1)) if learner is None else learner.seed
        made = self._new_learner(
            self.n_components,
            D,
            chosen,
            reg_covar=self.reg_covar,
            half_life=self.half_life,
            # There are no other rows than those of the first step to look for centres among.
            init="kmeans" if self.init_params == "kmeans||" else self.init_params,
            n_init=self.n_init,
            seed=seed,
            given=self._given(chosen, D),
            **options,
        )
        if learner is not None:
            made.restore(*learner.state())
        elif "mixture_" in self.__dict__:
            made.adopt(self.mixture_, float(self.__dict__.get("report_", {}).get("weight", made.unit)))
        self._learner = made
        return made

    def _new_learner(self, *shape: Any, **options: Any) -> Learner:
        return Learner(*shape, **options)

    def _publish(self, reports: list[StepReport]) -> None:
        """Set the fitted attributes from the learner."""
        learner = self._learner
        assert learner is not None
        model = learner.model
        if model is None:
            return
        if "mixture_" not in self.__dict__:
            warn_if_drowned(model, self.reg_covar, getattr(self, "feature_names_in_", None), stacklevel=4)
        self.mixture_ = model
        self.n_iter_ = learner.steps
        self.converged_ = False
        self.n_passes_ = 0
        last = reports[-1].loglik if reports else math.nan
        if math.isfinite(last) or not hasattr(self, "lower_bound_"):
            self.lower_bound_ = last
        self.lower_bounds_ = self.__dict__.get("lower_bounds_", [])
        self.report_ = {
            "solver": "stepwise",
            "rows": learner.rows_seen,
            "rows_waiting": learner.pending_rows,
            "rows_set_aside": learner.set_aside,
            "steps": learner.steps,
            "effective_sample_size": learner.effective_sample_size,
            "weight": learner.online.seen,
        }

    @property
    def effective_sample_size_(self) -> float:
        """Rows that the stream's statistics amount to: (sum of row weights)^2 / (sum of their squares).

        Examples
        --------
        A half-life of 100 rows keeps about 2 * 100 / log 2 of them in mind, however many come:

        >>> import numpy as np, streamgmm as sg
        >>> gm = sg.GaussianMixture(1, half_life=100).partial_fit(np.random.default_rng(0).normal(size=(5000, 1)))
        >>> 250 < gm.effective_sample_size_ < 320
        True
        """
        if self._learner is None:
            raise AttributeError("effective_sample_size_ is known after partial_fit")
        return self._learner.effective_sample_size

    def __sklearn_is_fitted__(self) -> bool:
        if "mixture_" in self.__dict__:
            return True
        if self._learner is not None:
            seen, needed = self._learner.rows_seen, self._learner.hold_rows
            raise NotFittedError(
                f"This {type(self).__name__} has no model yet: partial_fit has seen {seen} row(s), {needed} are needed "
                f"before the parameters of {self.n_components} component(s) are safe. Send {needed - seen} more."
            )
        return False


def merge_streams(a: Any, b: Any, ages: tuple[float, float] = (0.0, 0.0)) -> Any:
    """A mixture that knows what two streams taught `a` and `b`; both stay as they are.

    Parameters
    ----------
    a, b : GaussianMixture
        After `partial_fit`, from the same start: component k of one is component k of the other.
    ages : (float, float)
        Rows of the common stream that passed since the last row of `a`, and of `b`. (0, 0) for two halves of one
        stretch that were learnt side by side.

    Returns
    -------
    GaussianMixture
        With the settings of `a`.

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> X = np.random.default_rng(0).normal(size=(4000, 1))
    >>> a, b = (sg.GaussianMixture(1, random_state=0).partial_fit(part) for part in (X[:2000], X[2000:]))
    >>> bool(abs(sg.merge_streams(a, b).means_[0, 0] - X.mean()) < 0.05)
    True
    """
    from copy import deepcopy

    for name, one in (("a", a), ("b", b)):
        if getattr(one, "_learner", None) is None:
            raise ValueError(f"{name} has learnt from no stream yet: call partial_fit on it first.")
    names = [tuple(getattr(one, "feature_names_in_", ())) for one in (a, b)]
    if all(names) and names[0] != names[1]:
        raise ValueError(
            f"The two streams have their features in another order, or others: {list(names[0])} and {list(names[1])}. "
            "Let both learn from the same columns in the same order."
        )
    merged = deepcopy(a)
    merged._learner.merge(b._learner, ages)
    merged._publish([])
    return merged
