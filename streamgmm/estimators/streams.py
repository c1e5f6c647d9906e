"""Estimators in stream sessions, and two streams in one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamgmm.em.online import Learner, StepReport
from streamgmm.estimators.mixture_estimator import MixtureEstimator

__all__ = ["begin_stream", "give_model", "learner_of", "merge_streams"]


def learner_of(gm: MixtureEstimator) -> Learner | None:
    """Learner of the stream of `gm` so far; None before the first row."""
    return gm._learner


def begin_stream(
    gm: MixtureEstimator, n_features: int, names: Sequence[str] | None = None, *, anew: bool = False, **options: Any
) -> Learner:
    """A learner with the settings of `gm`, which goes on from its model; `gm` keeps it too.

    Parameters
    ----------
    n_features, names
        Of the rows, where `gm` knows neither.
    anew : bool
        Forget what `gm` was fitted to.
    options : see `Learner`
    """
    if anew:
        gm._learner = None
        gm.__dict__.pop("mixture_", None)
    if anew or not hasattr(gm, "n_features_in_"):
        gm.n_features_in_ = n_features
        if names is not None or not anew:
            gm._name_features(names)
    return gm._stream(**options)


def give_model(gm: MixtureEstimator, learner: Learner, reports: list[StepReport]) -> None:
    """Set the fitted attributes of `gm` to what `learner` knows after the steps of `reports`."""
    gm._learner = learner
    gm._publish(reports)


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
