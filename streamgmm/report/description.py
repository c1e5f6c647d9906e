"""Descriptions of components, by what sets each apart: from the model alone, exactly, without a pass over the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.report import figures
from streamgmm.utils import html
from streamgmm.utils.numbers import count, percent, written
from streamgmm.utils.printable import short_name

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Description", "Observed", "contrasts", "description_of"]

Array = NDArray[np.float64]

TELLING = 0.1
"""Nats of a feature's divergence from which on it is named; a shift of 0.45 deviations."""
MOST_NAMED = 3
HIGHER = 0.5
"""Standardised difference from which on a feature is called higher or lower; below it is called wider or narrower."""
CENTRAL_90 = 1.6448536269514722
"""Deviations around the mean that hold 90 % of a Gaussian."""


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """Statistics of the rows of each component, (C,) components and (C, D) features.

    Attributes
    ----------
    rows : (C,) sums of responsibilities, weighted
    low, high : (C, D) quantiles 0.05 and 0.95 of the observed values, rows counted by their responsibilities
    examples : (C, D) the complete row of largest density under the component among those that belong to it; NaN where
        there is none
    example_rows : (C,) its number in the data, -1 where it is not known
    n_rows : rows that were read
    n_sample : rows from which quantiles and examples come
    """

    rows: Array
    low: Array
    high: Array
    examples: Array
    example_rows: NDArray[np.int64]
    n_rows: int
    n_sample: int


@dataclass(frozen=True, slots=True, eq=False)
class Description:
    """Description of each component, and the features that set it apart from the rest, in the units of the data.

    "The rest" of a component is the mixture of the other components, without a background. Its moments follow from the
    parameters, so nothing below needs a pass over the data, and nothing is estimated.

    Attributes
    ----------
    names : tuple of str
        The D features.
    components : (C,) numbers of the components that are described, the heaviest first.
    weights : (C,) their weights.
    rows : (C,) rows (sums of weights) that belong to them, or None where no data are known.
    means, deviations : (C, D) of each feature: the typical row, and how far rows are from it.
    low, high : (C, D) range of each feature: 90 % of the component's rows lie between them; of the Gaussian where
        `observed` is None, of the rows otherwise.
    rest_means, rest_deviations : (C, D) of the rest; NaN for the only component.
    differences : (C, D) standardised differences, (mean - rest mean) / sqrt((variance + rest variance) / 2).
    divergences : (C, D) Kullback-Leibler divergence, in nats, of each feature's Gaussian in the component from the
        Gaussian with the rest's mean and variance. It sees differences of spread as well; what differs in correlations
        alone is not seen by either.
    centre, scale : (D,) overall mean and deviation of the components described.
    observed : what the rows show, where X was given, or None.

    Examples
    --------
    >>> import streamgmm as sg
    >>> pair = sg.Mixture([0.25, 0.75], [[0.0, 5.0], [4.0, 5.0]], [[1.0, 1.0], [1.0, 1.0]], "diag")
    >>> found = sg.describe(pair, feature_names=["age", "income"])
    >>> print(found.sentences[1])
    Component 0 holds 25.0 % of the rows. Compared with the rest, age is lower (0.0 against 4.0).
    >>> found.table[0]["feature"], found.table[0]["difference"]
    ('age', 4.0)
    """

    names: tuple[str, ...]
    components: NDArray[np.int64]
    weights: Array
    rows: Array | None
    means: Array
    deviations: Array
    low: Array
    high: Array
    rest_means: Array
    rest_deviations: Array
    differences: Array
    divergences: Array
    centre: Array
    scale: Array
    observed: Observed | None = None

    @property
    def table(self) -> list[dict[str, Any]]:
        """One dict for each component and feature, the most telling feature of a component first.

        Keys: component, weight, rows, feature, typical, deviation, low, high, rest, rest_deviation, difference, kl, and
        with rows of the data: example, example_row. None stands for what is not known.

        Examples
        --------
        >>> import streamgmm as sg
        >>> pair = sg.Mixture([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> [row["kl"] for row in sg.describe(pair).table]
        [8.0, 8.0]
        """
        return [self._row(c, j) for c in range(len(self.components)) for j in self.order(c)]

    def _row(self, c: int, j: int) -> dict[str, Any]:
        found = {
            "component": int(self.components[c]),
            "weight": float(self.weights[c]),
            "rows": None if self.rows is None else float(self.rows[c]),
            "feature": self.names[j],
            "typical": float(self.means[c, j]),
            "deviation": float(self.deviations[c, j]),
            "low": _known(self.low[c, j]),
            "high": _known(self.high[c, j]),
            "rest": _known(self.rest_means[c, j]),
            "rest_deviation": _known(self.rest_deviations[c, j]),
            "difference": _known(self.differences[c, j]),
            "kl": _known(self.divergences[c, j]),
        }
        if self.observed is not None:
            number = int(self.observed.example_rows[c])
            found["example"] = _known(self.observed.examples[c, j])
            found["example_row"] = number if number >= 0 else None
        return found

    def order(self, c: int) -> list[int]:
        """Features of the c-th component described, by falling divergence; by number where there is no rest.

        Examples
        --------
        >>> import streamgmm as sg
        >>> pair = sg.Mixture([0.5, 0.5], [[0.0, 5.0], [0.0, 9.0]], [1.0, 1.0], "spherical")
        >>> sg.describe(pair).order(0)
        [1, 0]
        """
        return np.argsort(-np.nan_to_num(self.divergences[c], nan=0.0, posinf=np.inf), kind="stable").tolist()

    def telling(self, c: int) -> list[int]:
        """Features that set the c-th component described apart: at most three, of at least 0.1 nats.

        Examples
        --------
        >>> import streamgmm as sg
        >>> pair = sg.Mixture([0.5, 0.5], [[0.0, 5.0], [0.0, 9.0]], [1.0, 1.0], "spherical")
        >>> sg.describe(pair).telling(0)
        [1]
        """
        return [j for j in self.order(c) if self.divergences[c, j] >= TELLING][:MOST_NAMED]

    def phrase(self, c: int, j: int) -> str:
        """One feature of the c-th component described, compared with the rest.

        Examples
        --------
        >>> import streamgmm as sg
        >>> pair = sg.Mixture([0.5, 0.5], [[0.0], [0.0]], [1.0, 9.0], "spherical")
        >>> sg.describe(pair).phrase(0, 0)
        'x0 varies less (deviation 1.0 against 3.0)'
        """
        name, own, rest = short_name(self.names[j]), self.deviations[c, j], self.rest_deviations[c, j]
        finest = min((s for s in (own, rest) if s > 0), default=0.0)
        if abs(self.differences[c, j]) >= HIGHER:
            side = "higher" if self.differences[c, j] > 0 else "lower"
            return f"{name} is {side} ({self._written(c, j)} against {written(self.rest_means[c, j], finest)})"
        side = "more" if own > rest else "less"
        return f"{name} varies {side} (deviation {written(own, finest)} against {written(rest, finest)})"

    def _written(self, c: int, j: int) -> str:
        spreads = [s for s in (self.deviations[c, j], self.rest_deviations[c, j]) if s > 0]
        return written(self.means[c, j], min(spreads, default=0.0))

    def sentence(self, c: int) -> str:
        """The c-th component described, in one or two sentences.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.describe(sg.Mixture([1.0], [[4.0]], [1.0], "spherical")).sentence(0)
        'Component 0 holds 100 % of the rows. There is no other to compare it with. It is typical that x0 is 4.0.'
        """
        about = "" if self.rows is None else f" (about {count(float(self.rows[c]))})"
        head = f"Component {self.components[c]} holds {percent(float(self.weights[c]))} of the rows{about}."
        if np.isnan(self.divergences[c]).all():
            typical = [
                f"{short_name(self.names[j])} is {self._written(c, j)}" for j in range(min(len(self.names), MOST_NAMED))
            ]
            return f"{head} There is no other to compare it with. It is typical that {_listed(typical)}."
        found = [self.phrase(c, j) for j in self.telling(c)]
        if not found:
            return f"{head} No single feature sets it apart from the rest."
        return f"{head} Compared with the rest, {_listed(found)}."

    @property
    def sentences(self) -> tuple[str, ...]:
        """`sentence` of every component.

        Examples
        --------
        >>> import streamgmm as sg
        >>> pair = sg.Mixture([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> sg.describe(pair).sentences[0]
        'Component 0 holds 50.0 % of the rows. Compared with the rest, x0 is lower (0.0 against 4.0).'
        """
        return tuple(self.sentence(c) for c in range(len(self.components)))

    def to_frame(self) -> pd.DataFrame:
        """`table` as a pandas DataFrame.

        Raises
        ------
        ImportError
            Where pandas is not installed.

        Examples
        --------
        >>> import streamgmm as sg
        >>> pair = sg.Mixture([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> sg.describe(pair).to_frame().shape
        (2, 12)
        """
        return frame_of(self.table)

    def plot(self, *, ax: Any = None) -> Any:
        """Draw the profiles with matplotlib: each component's means in deviations from the overall mean; the axes.

        Examples
        --------
        >>> import streamgmm as sg
        >>> pair = sg.Mixture([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> sg.describe(pair).plot().get_ylabel()
        'deviations from the overall mean'
        """
        scale = np.where(self.scale > 0, self.scale, 1.0)
        spread = self.deviations / scale
        return figures.profiles(
            (self.means - self.centre) / scale, spread, self.weights, self.names, components=self.components, ax=ax
        )

    def __str__(self) -> str:
        return "\n".join(self.sentences)

    def _repr_html_(self) -> str:
        return html.wrapped(
            f"{len(self.components)} component{'s' * (len(self.components) != 1)}, {len(self.names)} "
            f"feature{'s' * (len(self.names) != 1)}",
            _summary(self),
            *(_details(self, c) for c in range(min(len(self.components), MOST_DETAILED))),
        )


MOST_DETAILED = 30
"""Components of which a notebook shows every feature."""
MOST_FEATURES = 50


def frame_of(table: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A table of dicts as a pandas DataFrame."""
    try:
        import pandas as pd
    except ImportError:
        raise ImportError("to_frame() needs pandas: pip install pandas. `table` is a list of dicts.") from None
    return pd.DataFrame(list(table))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _summary(found: Description) -> str:
    """The table with a line for each component."""
    head = ["component", "share", "rows", "compared with the rest"]
    body = []
    for c, k in enumerate(found.components):
        words = _listed([found.phrase(c, j) for j in found.telling(c)] or ["no single feature sets it apart"])
        rows = None if found.rows is None else html.Number(float(found.rows[c]), count(float(found.rows[c])))
        body.append([html.component(int(k)), html.share(float(found.weights[c])), rows, words])
    return html.table(head, body)


def _details(found: Description, c: int) -> str:
    """All features of one component, folded."""
    head = ["feature", "typical", "range (90 %)", "rest", "difference", "KL (nats)"]
    body = []
    for j in found.order(c)[:MOST_FEATURES]:
        spread = min((s for s in (found.deviations[c, j], found.rest_deviations[c, j]) if s > 0), default=0.0)
        low, high, rest = (written(v[c, j], spread) for v in (found.low, found.high, found.rest_means))
        body.append([
            short_name(found.names[j]), html.Number(found.means[c, j], written(found.means[c, j], spread)),
            f"{low} to {high}",
            html.Number(found.rest_means[c, j], rest), _known(found.differences[c, j]), _known(found.divergences[c, j]),
        ])  # fmt: skip
    more = len(found.names) - len(body)
    note = html.note(f"and {more} more features: see .table") if more > 0 else ""
    return html.folded(f"Component {found.components[c]}: all features", html.table(head, body, sortable=True) + note)


# From a mixture -------------------------------------------------------------------------------------------------------


def contrasts(weights: Array, means: Array, deviations: Array) -> tuple[Array, Array, Array, Array]:
    """Each component against the mixture of the others, feature by feature.

    Parameters
    ----------
    weights : (K,)
    means, deviations : (K, D)

    Returns
    -------
    Means and deviations of the others, standardised differences, and divergences in nats, (K, D) each; NaN where the
    others have no weight.
    """
    K, D = means.shape
    scale = np.maximum(deviations.max(axis=0), np.ptp(means, axis=0))
    scale[scale == 0] = 1.0
    own = deviations / scale
    rest, spread, shift = np.full((3, K, D), np.nan)
    for k in range(K):
        share = np.delete(weights, k)
        if share.sum() <= 0:
            continue
        share = share / share.sum()
        delta = np.delete((means - means[k]) / scale, k, axis=0)
        shift[k] = share @ delta
        spread[k] = np.sqrt(share @ (np.delete(own, k, axis=0) ** 2 + (delta - shift[k]) ** 2))
        rest[k] = means[k] + scale * shift[k]
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = np.sqrt((own**2 + spread**2) / 2.0)
        difference = np.where(shift == 0, 0.0, -shift / pooled)
        ratio, far = own / spread, shift / spread
        divergence = 0.5 * (ratio**2 + far**2 - 1.0) - np.log(ratio)
    same = (own == 0) & (spread == 0) & (shift == 0)
    divergence = np.where(same, 0.0, np.maximum(divergence, 0.0))
    alone = np.isnan(shift)
    difference[alone] = divergence[alone] = np.nan
    return rest, spread * scale, difference, divergence


def description_of(
    weights: Array,
    means: Array,
    deviations: Array,
    names: Sequence[str],
    *,
    components: NDArray[np.int64] | None = None,
    total: float | None = None,
    observed: Observed | None = None,
) -> Description:
    """The description of components with these weights (K,), means and deviations (K, D), in the units to be shown.

    Parameters
    ----------
    components : (C,) numbers of those that are described; all by default. The others are no part of the rest.
    total : rows (sum of weights) of the data, where known
    observed : of the same components, in the same order
    """
    which = np.arange(len(weights)) if components is None else np.asarray(components, np.int64)
    place = np.argsort(-weights[which], kind="stable")
    which = which[place]
    w, mu, sigma = weights[which], means[which], deviations[which]
    seen = None if observed is None else _reordered(observed, place)
    rest, rest_deviations, difference, divergence = contrasts(w, mu, sigma)
    share = w / w.sum() if w.sum() > 0 else np.full(len(w), 1.0 / len(w))
    centre = mu[0] + share @ (mu - mu[0])
    scale = np.sqrt(share @ (sigma**2 + (mu - centre) ** 2))
    rows = seen.rows if seen is not None else None if total is None else w * total
    low, high = (mu - CENTRAL_90 * sigma, mu + CENTRAL_90 * sigma) if seen is None else (seen.low, seen.high)
    return Description(
        tuple(map(str, names)), which, w, rows, mu, sigma, low, high, rest, rest_deviations, difference, divergence,
        centre, scale, seen,
    )  # fmt: skip


def _reordered(seen: Observed, place: NDArray[np.intp]) -> Observed:
    low, high, examples = (part[place] for part in (seen.low, seen.high, seen.examples))
    return replace(
        seen, rows=seen.rows[place], low=low, high=high, examples=examples, example_rows=seen.example_rows[place]
    )
