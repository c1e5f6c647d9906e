"""Input and result of the checks: a case, and findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.diagnostics.shapes import Pieces, Shape, pieces_of, shape_of
from streamgmm.em.initialization.sample import Completed, survey
from streamgmm.estimators.mixture_estimator import MixtureEstimator
from streamgmm.estimators.reader import executor_of, rows_of
from streamgmm.mixture.covariance import FULL
from streamgmm.mixture.mixture import Mixture
from streamgmm.sources.base import Readable
from streamgmm.sources.summaries.sample import SampleSummary
from streamgmm.utils import html
from streamgmm.utils.phases import advanced, phase, unwatched
from streamgmm.utils.printable import short_name

__all__ = ["Case", "Check", "Finding", "Findings", "examine", "first_few"]

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
    >>> print(sg.diagnose(sg.GaussianMixture(covariance_type="spherical").fit(X), X)[0].remedy[:12])
    Scale first:
    """

    code: str
    message: str
    evidence: dict[str, Any] = field(default_factory=dict)
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.code}: {self.message} {self.remedy}"

    def _repr_html_(self) -> str:
        return Findings([self])._repr_html_()


class Findings(list[Finding]):
    """Findings of `diagnose`: a list, which notebooks show as a table and `print` a line each.

    Examples
    --------
    >>> print(Findings())
    nothing to remark
    """

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "nothing to remark"

    def _repr_html_(self) -> str:
        if not self:
            return html.wrapped("Nothing to remark")
        rows = [[one.code.replace("-", " "), one.message, one.remedy] for one in self]
        return html.wrapped(
            f"{len(self)} finding{'s' * (len(self) > 1)}", html.table(["what", "evidence", "remedy"], rows)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """Model and data that the checks look at.

    Attributes
    ----------
    gm, model : the fitted estimator and its mixture
    sample : one pass's worth: rows, weights, overall moments
    dtype : of the data
    names : of the features
    resp : (m, K) responsibilities of the sample
    shapes : of each component's rows, None where it has too few of them in the sample
    pieces : what each component's rows fall into, likewise
    """

    gm: MixtureEstimator
    model: Mixture
    sample: SampleSummary
    dtype: np.dtype[Any]
    names: list[str]
    resp: Array
    shapes: tuple[Shape | None, ...]
    pieces: tuple[Pieces | None, ...]

    def named(self, features: NDArray[np.bool_]) -> list[str]:
        """Names of the features in a mask."""
        return [self.names[i] for i in np.flatnonzero(features)]

    @property
    def chosen_by(self) -> str | None:
        """The criterion by which `select` chose the number of components, or None."""
        return getattr(self.gm, "report_", {}).get("chosen_by")


def first_few(items: Sequence[Any], most: int = 5) -> str:
    """The first of these, and how many more there are.

    Examples
    --------
    >>> first_few(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(short_name(str(item)) for item in items[:most]) + more


Check = Callable[[Case], Iterator[Finding]]
"""Looks at a case, and remarks on it or not."""


def completed(model: Mixture, rows: NDArray[Any], weight: Array, seed: int) -> Completed:
    """Rows with each gap filled by a draw from the fitted mixture, given what the row shows.

    If the model is right, these are rows of the model, so only what was observed can speak against it. Filled under
    one Gaussian, as a start's sample is, values would lie between the components, and each would seem to have tails.
    """
    rng = np.random.default_rng(seed)
    gaps = np.isnan(rows)
    filled = np.array(rows, np.float64)
    dense = model.family.dense(model.covariances, *model.means.shape)
    share = model.responsibilities(filled)[:, : model.n_components].cumsum(axis=1)
    label = (share < rng.random((len(rows), 1)) * share[:, -1:]).sum(axis=1).clip(max=model.n_components - 1)
    for k in range(model.n_components):
        here = np.flatnonzero(gaps.any(axis=1) & (label == k))
        if here.size:
            alone = Mixture(np.ones(1), model.means[[k]], dense[[k]], FULL)
            draws, _ = alone.sample(len(here), rng)
            residual = draws - alone.impute(np.where(gaps[here], np.nan, draws))
            filled[here] = np.where(gaps[here], alone.impute(filled[here]) + residual, filled[here])
    mean = np.average(filled, axis=0, weights=weight)
    covariance = np.atleast_2d(np.cov(filled.T, aweights=weight, ddof=0))
    return Completed(filled, mean, covariance)


def beside(model: Mixture, k: int) -> Callable[[Array], Array] | None:
    """Log-density of the components other than k, per unit of weight of k; None where there are no others."""
    others = np.delete(np.arange(model.n_components), k)
    weights = model.weights[others]
    if not weights.sum() > 0:
        return None
    dense = model.family.dense(model.covariances, *model.means.shape)
    rest = Mixture(weights / weights.sum(), model.means[others], dense[others], FULL)
    share = float(np.log(weights.sum() / model.weights[k]))
    return lambda rows: rest.log_prob(rows) + share


def examine(gm: MixtureEstimator, X: Readable, sample_weight: ArrayLike | None) -> Case:
    """One pass of X: a sample, what each component took of it, and how that is shaped."""
    source = rows_of(gm, X, sample_weight)
    model = gm.mixture_
    missing = gm.missing == "marginalize"
    sample = survey(
        source, executor_of(gm), size=SAMPLE_ROWS, seed=0, missing=missing, filling=partial(completed, model)
    )
    rows = np.asarray(sample.rows, np.float64)
    resp = model.responsibilities(rows)[:, : model.n_components]
    shapes: list[Shape | None] = []
    pieces: list[Pieces | None] = []
    phase("shapes of components", model.n_components, "components")
    for k in range(model.n_components):
        weight = resp[:, k] * sample.weight
        here = np.flatnonzero(weight > 1e-3)
        enough = weight.sum() >= max(100, 10 * (model.n_features + 1))
        shapes.append(shape_of(rows[here], weight[here]) if enough else None)
        few = here[np.sort(np.random.default_rng(k).permutation(len(here))[:PIECE_ROWS])]
        with unwatched():
            several = enough and model.n_features <= 20
            others = beside(model, k) if model.n_features == 1 else None  # only on a line can one be in between
            pieces.append(pieces_of(rows[few], weight[few], others) if several else None)
        advanced("components")
    known = (
        getattr(gm, "feature_names_in_", range(model.n_features)) if gm.projection_ is None else gm.projection_.names
    )
    names = [str(name) for name in known]
    return Case(gm, model, sample, source.dtype, names, resp, tuple(shapes), tuple(pieces))
