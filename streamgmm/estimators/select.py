"""Choose the number of components and the covariance family: every candidate on the same passes over the data."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from streamgmm.em.candidates import Candidate, Candidates, Initialization, best
from streamgmm.em.convergence import RULES
from streamgmm.em.hooks import FitObserver
from streamgmm.em.kmeans.parallel_init import SPREAD
from streamgmm.em.model_selection.race import Plan, SelectionRun, criteria, race
from streamgmm.em.passes import Step
from streamgmm.estimators._device import check_executor, scratch_of, warn_cpu
from streamgmm.estimators.fit_report import Clock
from streamgmm.estimators.gaussian_mixture import GaussianMixture
from streamgmm.estimators.memory_plan import parse_bytes
from streamgmm.mixture.covariance import FACTORS, MCLUST, Covariance, family
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.prior import NormalInverseWishart
from streamgmm.mixture.support import doubt, unsupported
from streamgmm.report import figures
from streamgmm.report.description import frame_of
from streamgmm.report.progress import progress
from streamgmm.runtime.device import PlacedSource, placed
from streamgmm.runtime.executors import Executor
from streamgmm.runtime.thread_limits import resolve_n_jobs, single_threaded_blas
from streamgmm.sources import leaving_out_text
from streamgmm.sources.base import Readable
from streamgmm.utils import html
from streamgmm.utils.by_component import component_threads
from streamgmm.utils.types import RandomState

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CRITERIA = ("bic", "aic", "icl", "heldout", "cv")


class SelectionReport(dict[str, Any]):
    """What happened in a selection, by name; called, it writes the page about it."""

    def __init__(self, items: Mapping[str, Any], selection: Selection) -> None:
        super().__init__(items)
        self._selection = selection

    def __call__(self, X: Any, path: str | os.PathLike[str] = "report.html", **options: Any) -> Path:
        """Write one interactive page about every K, switchable, that works offline; see `streamgmm.write_report`."""
        from streamgmm import write_report  # by the package's face: it stands above the estimators

        return write_report(self._selection, X, path, **options)


@dataclass(frozen=True, slots=True, repr=False)
class Selection:
    """What `select` found.

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

    def to_frame(self) -> Any:
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
            for kind, K in self.elbow.items():
                ax.axvline(K, linestyle=":", linewidth=1, color="0.5", label=f"elbow, {kind}")
            ax.legend()
        return ax


def kinds_of(
    covariance_types: str | Sequence[str], n_factors: int | Iterable[int] | None = None, *, prior: bool = False
) -> tuple[Covariance, ...]:
    """The families behind these names, each once; "mclust" stands for all fourteen structures of mclust.

    With a prior it stands for the ten that have one. Of factor analysers there is one for each number of factors.
    """
    asked = (covariance_types,) if isinstance(covariance_types, str) else tuple(covariance_types)
    numbers = (
        []
        if n_factors is None
        else [int(q) for q in ([n_factors] if isinstance(n_factors, int | np.integer) else n_factors)]
    )
    if numbers and not set(asked) & set(FACTORS):
        raise ValueError(
            f"n_factors belongs to covariance_types {', '.join(map(repr, FACTORS))}; got n_factors={n_factors!r} with "
            f"{list(asked)}. Set n_factors=None."
        )
    found: list[Covariance] = []
    for kind in asked:
        if kind == "mclust":
            found += [kind for kind in MCLUST.values() if kind.has_prior or not prior]
        elif kind in FACTORS:
            found += [family(kind, q) for q in numbers] or [family(kind)]
        else:
            found.append(family(kind))
    return tuple(dict.fromkeys(found))


def _sign(value: float | None, sign: float) -> float | None:
    return None if value is None else sign * value


@leaving_out_text
def select(
    X: Readable,
    n_components: Iterable[int] = range(1, 16),
    covariance_types: str | Sequence[str] = ("full",),
    n_init: int = 10,
    criterion: str = "bic",
    *,
    n_factors: int | Iterable[int] | None = None,
    folds: int = 5,
    drop: bool = True,
    max_iter: int = 24,
    tol: float = 1e-6,
    reg_covar: float = 1e-6,
    init_params: str = "kmeans",
    solver: str = "auto",
    stopping: str = "aitken",
    missing: str = "error",
    prior: str | NormalInverseWishart | None = None,
    on_collapse: str = "repair",
    random_state: RandomState = None,
    sample_weight: ArrayLike | None = None,
    executor: Executor | str | None = None,
    n_jobs: int | None = None,
    device: str | None = None,
    memory_limit: str | int | None = None,
    on_step: Callable[[Step], None] | None = None,
    watcher: FitObserver | None = None,
    verbose: int = 0,
) -> Selection:
    """Fit every number of components and covariance type on the same passes, and choose.

    Starts are found on one sample; the best of each kind go on together, each pass serving all.

    Parameters
    ----------
    X : array-like (N, D), a path, or a source
    n_components : iterable of int
    covariance_types : str or sequence of str
        As `covariance_type` of `GaussianMixture`; "mclust" stands for all fourteen structures of mclust, with a prior
        for the ten that have one.
    n_factors : int or iterable of int, optional
        Numbers of factors of "factor", "factor-shared" and "ppca": each is a kind of its own, such as "factor:8".
    n_init : int
        Starts of each kind, followed on the sample; the best two go on to full passes.
    criterion : {"bic", "aic", "icl", "heldout", "cv"}
        "heldout": log-likelihood of one fold under models fitted to the others; "cv": of every fold in turn. Models for
        the folds are fitted on the same passes, and judged in one more.
    folds : int
        Of which "heldout" and "cv" speak; a row's fold depends on its number only.
    missing : {"error", "marginalize"}
        What NaN means; as in `GaussianMixture`.
    drop : bool
        Leave out what can no longer win; it stays in the table, as "dropped".
    max_iter : int
        Passes at most, beside the first.
    device : {None, "cpu", "cuda", "cuda:N"}
        As in `GaussianMixture`; the sample, and criteria "heldout" and "cv", are for the CPU.
    memory_limit : int or str, optional
        Bytes, or a text such as "512MB", that the sample and the statistics of all candidates may take.
    on_step : callable, optional
        Called with every `Step`: for progress and pictures.
    watcher : optional
        Told of the steps on the sample; see `streamgmm.em.hooks.FitObserver`.
    verbose : int
        1: one line of live progress in a terminal or notebook.

    Raises
    ------
    ValueError
        For a criterion that does not exist, an empty range, or more components than rows.
    MemoryLimitError
        With the numbers, before anything is read.

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> X = np.concatenate([np.random.default_rng(0).normal(m, 1, (200, 1)) for m in (-5, 5)])
    >>> sg.select(X, range(1, 5), n_init=2, random_state=0).best.n_components
    2
    """
    began = time.perf_counter()
    Ks = sorted({int(K) for K in n_components})
    if not Ks or Ks[0] < 1 or not covariance_types:
        raise ValueError(f"n_components must name numbers >= 1, and covariance_types be given; got {Ks}.")
    if init_params == SPREAD:
        raise ValueError(
            f"select starts from one sample; init_params={SPREAD!r} would read all rows 7 times for every K. "
            "Use init_params='kmeans', or fit GaussianMixture for the K in question."
        )
    if solver == "stepwise":
        raise ValueError(
            "select compares log-likelihoods of whole passes, and solver='stepwise' never evaluates all rows under one "
            "model. Use solver='auto', or fit GaussianMixture for each K and compare bic(X)."
        )
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {CRITERIA}; got {criterion!r}.")
    if criterion in ("heldout", "cv") and folds < 2:
        raise ValueError(f"folds must be at least 2; got {folds}.")
    common: dict[str, Any] = {
        "tol": tol, "reg_covar": reg_covar, "max_iter": max_iter, "n_init": n_init, "init_params": init_params,
        "solver": solver, "stopping": stopping, "missing": missing, "prior": prior, "on_collapse": on_collapse,
        "random_state": random_state, "executor": executor, "n_jobs": n_jobs,
        "device": device,
    }  # fmt: skip
    probe = GaussianMixture(Ks[-1], **common)
    probe._validate_params()
    source = probe._training_source(X, sample_weight)
    runner = probe._executor(source)
    if source.n_rows is not None and source.n_rows < Ks[-1]:
        raise ValueError(
            f"Expected n_samples >= n_components but got n_components up to {Ks[-1]}, n_samples = {source.n_rows}. "
            "Lower the largest number of components."
        )
    kinds = kinds_of(covariance_types, n_factors, prior=prior is not None)
    for kind in kinds:
        kind.check_features(source.n_features)
        if kind.n_factors and solver == "incremental":
            raise ValueError("solver='incremental' adds up factors of different models. Use solver='auto'.")
    splits = {"cv": tuple(range(folds)), "heldout": (0,)}.get(criterion, ())
    plan = Plan(
        kinds=tuple((kind, K) for kind in kinds for K in Ks),
        splits=splits,
        folds=folds,
        criterion=criterion if drop and not splits else None,
        solver=solver,
        stopping=RULES[stopping](tol),
        tol=tol,
        reg_covar=reg_covar,
        max_iter=max_iter,
        n_init=n_init,
        init_params=init_params,
        missing=missing,
        repair=on_collapse == "repair",
        prior=NormalInverseWishart() if isinstance(prior, str) else prior,
    )
    backend = probe._card(source)
    on_cpu = f"criterion={criterion!r}" if splits else probe._cpu_only
    on_cpu = on_cpu or next((f"covariance_types={kind.name!r}" for kind, _ in plan.kinds if kind.n_factors), "")
    if backend is not None and not on_cpu:
        check_executor(runner)
        scratch = max(scratch_of(source, kind, K) for kind, K in plan.kinds)
        source = placed(source, backend, scratch=scratch)
    elif device not in (None, "cpu"):
        warn_cpu(f"select with {on_cpu}", stacklevel=3)
    limit = None if memory_limit is None else parse_bytes(memory_limit)
    size = plan.check_memory(source, limit, getattr(runner, "n_jobs", 1))
    rng = check_random_state(random_state)
    shown = progress(tol=tol, max_iter=max_iter, verbose=verbose)
    with shown, single_threaded_blas(), component_threads(resolve_n_jobs(n_jobs)):
        run = race(source, runner, plan, sample_rows=size, rng=rng, on_step=on_step, watcher=watcher)
    found = _result(run, plan, probe, common, criterion, began)
    if isinstance(source, PlacedSource):
        found.report["device"] = source.report()
        found.report["seconds"] |= source.seconds()
    return found


# Results --------------------------------------------------------------------------------------------------------------


def _result(
    race: SelectionRun,
    plan: Plan,
    probe: GaussianMixture,
    common: dict[str, Any],
    criterion: str,
    began: float,
) -> Selection:
    table: list[dict[str, Any]] = []
    teams: list[Candidates] = []
    leaders: list[Candidate] = []
    doubts_of: list[int] = []
    rows = race.sample.n_rows
    for g, (kind, K) in enumerate(plan.kinds):
        team = race.team(g)
        leader = _leader(team, rows, plan.reg_covar)
        assert leader.last is not None
        value = None
        if plan.splits:
            mine = [c.index for c in race.candidates if race.kind_of[c.index] == g and race.fold_of[c.index] >= 0]
            loglik, weight = race.scores[mine].sum(axis=0)
            value = float(loglik / weight)
        table.append(
            {
                "covariance_type": kind.name,
                "n_factors": kind.n_factors or None,
                "n_components": K,
                "status": leader.status,
                "n_iter": leader.n_iter,
                "n_passes": 1 if g in race.solved else 1 + max(c.n_iter for c in team),
                "df": leader.model.n_parameters,
                "loglik": leader.last.loglik,
                "lower_bound": leader.objective,
                **criteria(leader),
                "heldout": value if criterion == "heldout" else None,
                "cv": value if criterion == "cv" else None,
                "n_starts": len(team),
                "n_dropped": sum(c.status == "dropped" for c in team),
                "n_repairs": len(leader.repairs),
                "unsupported": list(unsupported(leader.accepted, rows, plan.reg_covar).values()),
            }
        )
        doubts_of.append(doubt(leader.accepted, rows, plan.reg_covar))
        leaders.append(leader)
        teams.append(team if leader is best(team) else (leader,))

    sign = -1.0 if plan.splits else 1.0

    def chosen(among: Sequence[int]) -> int:
        sound = _sound([(doubts_of[i], table[i]["n_components"]) for i in among])
        return min((i for i, good in zip(among, sound, strict=True) if good), key=lambda i: sign * table[i][criterion])

    winner = chosen(range(len(table)))
    minimum, bend = {}, {}
    for kind in dict.fromkeys(row["covariance_type"] for row in table):
        members = [i for i, row in enumerate(table) if row["covariance_type"] == kind]
        own = [table[i] for i in members]
        minimum[kind] = table[chosen(members)]["n_components"]
        bend[kind] = elbow([row["n_components"] for row in own], [row["lower_bound"] for row in own])
    report = {
        "n_passes": race.n_passes,
        "rows": race.sample.n_rows,
        "sample_rows": len(race.sample.rows),
        "candidates": len(race.candidates),
        "dropped": [
            {"covariance_type": row["covariance_type"], "n_components": row["n_components"], "starts": row["n_dropped"]}
            for row in table
            if row["n_dropped"]
        ],
        "warnings": doubts(table, table[winner], criterion),
        "seconds": {"total": time.perf_counter() - began, "start": race.started - began},
    }
    gm = _estimator(race, plan.kinds[winner], teams[winner], probe, common, began)
    return Selection(
        table, gm, criterion, minimum, bend, race.n_passes, report,
        tuple(one.accepted for one in leaders), tuple(one.index for one in leaders),
    )  # fmt: skip


def _estimator(
    race: SelectionRun,
    group: tuple[Covariance, int],
    team: Candidates,
    probe: GaussianMixture,
    common: dict[str, Any],
    began: float,
) -> GaussianMixture:
    kind, K = group
    gm = GaussianMixture(K, covariance_type=kind.covariance_type, n_factors=kind.n_factors or None, **common)
    gm.n_features_in_ = probe.n_features_in_
    if hasattr(probe, "feature_names_in_"):
        gm.feature_names_in_ = probe.feature_names_in_
    team = tuple(replace(c, index=i) for i, c in enumerate(team))
    begin = Initialization(tuple(c.model for c in team), race.priors.get(group), race.sample.n_rows, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the table has the status of every candidate
        gm._finish(team, begin, race.n_passes, Clock(began, race.started))
    return gm


def _leader(team: Candidates, rows: int, reg_covar: float) -> Candidate:
    """The best candidate of a kind, of those against which least speaks."""
    found = [2 if c.last is None else doubt(c.accepted, rows, reg_covar) for c in team]
    return best(tuple(c for c, much in zip(team, found, strict=True) if much == min(found)))


def _sound(candidates: Sequence[tuple[int, int]]) -> list[bool]:
    """Which of these, given by `doubt` and K, are compared by the criterion: those against which least speaks.

    One component is never in doubt. Where it is the only one of which that is true, the data have directions without
    variance in every group, and no candidate is worse for them.
    """
    least = min(much for much, _ in candidates)
    several = [much for much, K in candidates if K > 1]
    if least == 0 and several and min(several) == 1:
        least = 1
    return [much <= least for much, _ in candidates]


def doubts(table: Sequence[dict[str, Any]], best: dict[str, Any], criterion: str = "bic") -> list[str]:
    """What a reader of the table should know before trusting it."""
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


def elbow(K: Sequence[int], value: Sequence[float]) -> int:
    """The K whose point lies farthest above the chord from first to last, both axes scaled to one."""
    x, y = np.asarray(K, float), np.maximum.accumulate(np.asarray(value, float))
    if len(x) < 3 or y[-1] == y[0]:
        return int(K[0])
    above = (y - y[0]) / (y[-1] - y[0]) - (x - x[0]) / (x[-1] - x[0])
    return int(K[int(np.argmax(above))])


__all__ = ["Selection", "elbow", "select"]
