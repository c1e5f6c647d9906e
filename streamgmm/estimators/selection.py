"""Result of `select`: a table of candidates, the best of them, and what to know before trusting it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamgmm.estimators.gaussian_mixture import GaussianMixture
from streamgmm.mixture.mixture import Mixture
from streamgmm.report import figures
from streamgmm.report.description import frame_of
from streamgmm.sources.base import Readable
from streamgmm.utils import html

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Selection", "doubts", "elbow", "elbows"]


class SelectionReport(dict[str, Any]):
    """Events of a selection, by name; called, it writes the page about it."""

    def __init__(self, items: Mapping[str, Any], selection: Selection) -> None:
        super().__init__(items)
        self._selection = selection

    def __call__(self, X: Readable, path: str | os.PathLike[str] = "report.html", **options: Any) -> Path:
        """Write one interactive page about every K, switchable, that works offline; see `streamgmm.write_report`."""
        from streamgmm import write_report  # by the package's face: it stands above the estimators

        return write_report(self._selection, X, path, **options)


@dataclass(frozen=True, slots=True, repr=False)
class Selection:
    """Result of `select`.

    Attributes
    ----------
    table : list of dict
        One row for each covariance type ("factor:8" has `n_factors` = 8) and number of components: status
        ("converged", "stopped" at `max_iter`,
        "dropped"), n_iter, n_passes (passes it took part in), df, loglik, lower_bound, bic, aic, icl, heldout, cv
        (nats per row, larger is better; None where they were not asked for), n_starts, n_dropped, n_repairs, and
        unsupported: sentences about components of fewer than D + 1 rows, or without variance of their own in some
        direction. A likelihood gains without limit by such components. Candidates with too few rows are passed over
        as long as there are others; those without variance, as long as others have more than one component.
    best : GaussianMixture
        Fitted, with the smallest criterion (the largest held-out likelihood) among those not passed over.
    criterion : str
    minimum, elbow : dict
        By covariance type the K with the best criterion among those not passed over, and the K where the log-likelihood
        bends most.
    n_passes : int
        Passes of the data, all candidates together.
    report : dict
        Passes, seconds, what was dropped, and `warnings`: which candidates were passed over, where the best K is the
        largest that was tried, and which candidates had not converged. Called as ``report(X, "page.html")`` it writes
        the interactive page about every K: see `streamgmm.write_report`.
    models : tuple of Mixture
        The best model of each row of the table.
    leaders : tuple of int
        Its number among the candidates of `Step.candidates`.

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> X = np.concatenate([np.random.default_rng(0).normal(m, 1, (200, 1)) for m in (-5, 5)])
    >>> found = sg.select(X, range(1, 4), n_init=2, random_state=0)
    >>> found.minimum, [row["n_components"] for row in found.table]
    ({'full': 2}, [1, 2, 3])
    """

    table: list[dict[str, Any]]
    best: GaussianMixture
    criterion: str
    minimum: dict[str, int]
    elbow: dict[str, int]
    n_passes: int
    report: dict[str, Any]
    models: tuple[Mixture, ...] = ()
    leaders: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "report", SelectionReport(self.report, self))

    @property
    def chosen(self) -> int:
        """The row of the table that `best` is of.

        Examples
        --------
        >>> import streamgmm as sg
        >>> X = [[float(i % 10 + 50 * (i > 30))] for i in range(60)]
        >>> sg.select(X, range(1, 4), n_init=1, random_state=0).chosen
        1
        """
        found = self.best.mixture_.family.name, self.best.mixture_.n_components
        return [(row["covariance_type"], row["n_components"]) for row in self.table].index(found)

    @property
    def why(self) -> str:
        """Why `best` is the choice, in a sentence or two; then what to know before trusting it.

        Examples
        --------
        >>> import streamgmm as sg
        >>> X = [[float(i % 10 + 50 * (i > 30))] for i in range(60)]
        >>> sg.select(X, range(1, 4), n_init=1, random_state=0).why[:46]
        'Chosen: 2 components, full covariances, for th'
        """
        return "\n".join([self._reason(), *self.report.get("warnings", ())])

    def _reason(self) -> str:
        row, larger = self.table[self.chosen], self.criterion in ("heldout", "cv")
        name = {"heldout": "held-out log-likelihood", "cv": "cross-validated log-likelihood"}.get(
            self.criterion, self.criterion.upper()
        )
        value = row[self.criterion]
        passed = [other for other in self.table if other["unsupported"] and other is not row]
        rivals = [other for other in self.table if other is not row and other not in passed
                  and other[self.criterion] is not None]  # fmt: skip
        plural = "s" * (row["n_components"] != 1)
        head = (
            f"Chosen: {row['n_components']} component{plural}, {row['covariance_type']} covariances, for the "
            f"{'largest' if larger else 'smallest'} {name}, {value:.6g}"
        )
        if not rivals:
            return f"{head}."
        next_best = (max if larger else min)(rivals, key=lambda other: other[self.criterion])
        gap = abs(next_best[self.criterion] - value)
        return (
            f"{head}; the next best is {next_best['n_components']} ({next_best['covariance_type']}), {gap:.3g} "
            f"{'smaller' if larger else 'larger'}."
        )

    def to_frame(self) -> pd.DataFrame:
        """`table` as a pandas DataFrame.

        Raises
        ------
        ImportError
            Where pandas is not installed.

        Examples
        --------
        >>> import streamgmm as sg
        >>> X = [[float(i % 10 + 50 * (i > 30))] for i in range(60)]
        >>> frame = sg.select(X, range(1, 4), n_init=1, random_state=0).to_frame()
        >>> frame.n_components.tolist()
        [1, 2, 3]
        """
        return frame_of(self.table)

    def __repr__(self) -> str:
        row = self.table[self.chosen]
        return (
            f"Selection(n_components={row['n_components']}, covariance_type={row['covariance_type']!r}, "
            f"{self.criterion}={row[self.criterion]:.6g}, candidates={len(self.table)}, n_passes={self.n_passes})"
        )

    def __str__(self) -> str:
        return self.why

    def _repr_html_(self) -> str:
        wanted = list(dict.fromkeys([self.criterion, "bic", "aic", "icl"]))
        criteria = [name.upper() for name in wanted]
        head = ["components", "covariances", *criteria, "parameters", "status", "passes", "note"]
        lines = [
            [
                row["n_components"], row["covariance_type"], *(row[name] for name in wanted), row["df"], row["status"],
                row["n_passes"], row["unsupported"][0] if row["unsupported"] else "",
            ]
            for row in self.table
        ]  # fmt: skip
        chosen = self.table[self.chosen]
        curve = html.curves(
            self._curves(), title=f"{self.criterion.upper()} against the number of components, the choice ringed",
            labels=("number of components", self.criterion.upper()),
            marked=(chosen["n_components"], chosen[self.criterion]),
        )  # fmt: skip
        table = html.table(head, lines, sortable=True, marked=self.chosen)
        return html.wrapped("Selection", *map(html.note, self.why.split("\n")), curve, table)

    def _curves(self) -> dict[str, tuple[list[float], list[float]]]:
        """The criterion against K, by covariance type."""
        found: dict[str, tuple[list[float], list[float]]] = {}
        for row in sorted(self.table, key=lambda row: row["n_components"]):
            value = row[self.criterion]
            if value is not None and np.isfinite(value):
                K, values = found.setdefault(row["covariance_type"], ([], []))
                K.append(float(row["n_components"]))
                values.append(float(value))
        return found

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw the criteria against K with matplotlib, the best and the elbow marked; the axes.

        Of several covariance types the chosen criterion is drawn, one line for each.

        Examples
        --------
        >>> import streamgmm as sg
        >>> X = [[float(i % 10 + 50 * (i > 30))] for i in range(60)]
        >>> sg.select(X, range(1, 4), n_init=1, random_state=0).plot().get_xlabel()
        'number of components K'
        """
        several = len(self.elbow) > 1  # one line each
        names = dict.fromkeys([self.criterion] if several else [self.criterion, "bic", "aic"])
        table = self.table
        if self.criterion in ("heldout", "cv"):
            # Per row and larger is better, unlike the others: drawn alone, with its sign turned.
            names = {self.criterion: None}
            table = [{**row, self.criterion: _sign(row[self.criterion], -1.0)} for row in table]
        ax = figures.criteria(table, names=tuple(names), ax=ax)
        if not several:
            for kind, K in elbows(self.table, self.elbow).items():
                ax.axvline(K, linestyle=":", linewidth=1, color="0.5", label=f"elbow, {kind}")
            ax.legend()
        return ax


def _sign(value: float | None, sign: float) -> float | None:
    return None if value is None else sign * value


def doubts(table: Sequence[dict[str, Any]], best: dict[str, Any], criterion: str = "bic") -> list[str]:
    """Warnings that a reader of the table should know before trusting it."""
    kind, K = best["covariance_type"], best["n_components"]
    tried = [row["n_components"] for row in table if row["covariance_type"] == kind]
    found = []
    sign = -1.0 if criterion in ("heldout", "cv") else 1.0
    ahead = [row for row in table if row.get("unsupported") and sign * row[criterion] < sign * best[criterion]]
    if best.get("unsupported"):
        found.append(
            "Every candidate of more than one component has components that the rows do not support; of the best, "
            f"{best['unsupported'][0]}. "
            "Try fewer components, a simpler covariance_type or prior='default'."
        )
    elif ahead:
        names = ", ".join(f"{row['n_components']} ({row['covariance_type']})" for row in ahead)
        found.append(
            f"Passed over, with a better {criterion.upper()} than the best: {names}. They gain by components that the "
            f"rows do not support; of the first, {ahead[0]['unsupported'][0]}."
        )
    if len(tried) > 1 and max(tried) == K:
        found.append(
            f"The best number of components, {K} ({kind}), is the largest that was tried: the criterion may go on "
            "improving. Widen n_components, or look at the elbow."
        )
    stopped = [row for row in table if row["status"] == "stopped"]
    if stopped:
        names = ", ".join(f"{row['n_components']} ({row['covariance_type']})" for row in stopped)
        found.append(
            f"Not converged within max_iter passes: {names}. Their criteria may still improve; raise max_iter or tol."
        )
    return found


def elbows(table: Sequence[Mapping[str, Any]], elbow: Mapping[str, int]) -> dict[str, int]:
    """The elbows to tell of: where rows support three numbers of components, and more than the fewest improve BIC.

    Elsewhere a likelihood rises by what parameters gain by chance, and its bend says nothing.
    """
    found = {}
    for kind, K in elbow.items():
        own = [row for row in table if row["covariance_type"] == kind and not row["unsupported"]]
        fewest, best = (min(own, key=lambda row: row[name], default=None) for name in ("n_components", "bic"))
        if len(own) >= 3 and best is not fewest:
            found[kind] = K
    return found


def elbow(K: Sequence[int], value: Sequence[float]) -> int:
    """The K whose point lies farthest above the chord from first to last, both axes scaled to one."""
    x, y = np.asarray(K, float), np.maximum.accumulate(np.asarray(value, float))
    if len(x) < 3 or y[-1] == y[0]:
        return int(K[0])
    above = (y - y[0]) / (y[-1] - y[0]) - (x - x[0]) / (x[-1] - x[0])
    return int(K[int(np.argmax(above))])
