"""Choose the number of components and the covariance family: every candidate on the same passes over the data."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

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
from streamgmm.estimators._device import on_workers, scratch_of, warn_cpu
from streamgmm.estimators._parameters import whole_numbers
from streamgmm.estimators.fit_report import Clock
from streamgmm.estimators.gaussian_mixture import GaussianMixture
from streamgmm.estimators.memory_plan import parse_bytes
from streamgmm.estimators.selection import Selection, doubts, elbow
from streamgmm.mixture.covariance import FACTORS, MCLUST, Covariance, family
from streamgmm.mixture.prior import NormalInverseWishart
from streamgmm.mixture.support import doubt, unsupported
from streamgmm.report.progress import progress
from streamgmm.runtime.device import PlacedSource, placed
from streamgmm.runtime.executors import Executor, Threads
from streamgmm.runtime.thread_limits import resolve_n_jobs, single_threaded_blas
from streamgmm.runtime.worker_cards import SentSource
from streamgmm.sources import leaving_out_text
from streamgmm.sources.base import Readable, Source
from streamgmm.utils.by_component import component_threads
from streamgmm.utils.sample_weight import no_rows
from streamgmm.utils.types import RandomState

UNASKED = range(1, 16)
"""Numbers of components where none are named: fewer where rows do not support them."""
CRITERIA = ("bic", "aic", "icl", "heldout", "cv")


def kinds_of(
    covariance_types: str | Sequence[str], n_factors: int | Iterable[int] | None = None, *, prior: bool = False
) -> tuple[Covariance, ...]:
    """The families behind these names, each once; "mclust" stands for all fourteen structures of mclust.

    With a prior it stands for the ten that have one. Of factor analysers there is one for each number of factors.
    """
    try:
        asked = (covariance_types,) if isinstance(covariance_types, str) else tuple(covariance_types)
    except TypeError:
        asked = ()
    if not asked or not all(isinstance(kind, str | Covariance) for kind in asked):
        raise ValueError(
            "covariance_types must be one name, or those to compare, such as ('full', 'diag'); "
            f"got {covariance_types!r}."
        )
    numbers = [] if n_factors is None else whole_numbers(
        [n_factors] if isinstance(n_factors, int | np.integer) else n_factors,
        f"n_factors must be a whole number, or those to compare, such as [2, 4]; got {n_factors!r}.",
    )  # fmt: skip
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


@leaving_out_text
def select(
    X: Readable, n_components: Iterable[int] = UNASKED, covariance_types: str | Sequence[str] = ("full",),
    n_init: int = 10, criterion: str = "bic", *, n_factors: int | Iterable[int] | None = None, folds: int = 5,
    drop: bool = True, max_iter: int = 24, tol: float = 1e-6, reg_covar: float = 1e-6, init_params: str = "kmeans",
    solver: str = "auto", stopping: str = "aitken", missing: str = "error",
    prior: str | NormalInverseWishart | None = None, on_collapse: str = "repair", random_state: RandomState = None,
    sample_weight: ArrayLike | None = None, executor: Executor | str | None = None, n_jobs: int | None = None,
    device: str | None = None, memory_limit: str | int | None = None, on_step: Callable[[Step], None] | None = None,
    watcher: FitObserver | None = None, verbose: int = 0,
) -> Selection:  # fmt: skip
    """Fit every number of components and covariance type on the same passes, and choose.

    Starts are found on one sample; the best of each kind go on together, each pass serving all.

    Parameters
    ----------
    X : array-like (N, D), a path, or a source
    n_components : iterable of int
        By default 1 to 15, or as many as have D + 1 rows each.
    covariance_types : str or sequence of str
        As `covariance_type` of `GaussianMixture`; "mclust" stands for all fourteen structures of mclust, with a prior
        for the ten that have one.
    n_factors : int or iterable of int, optional
        Numbers of factors of "factor", "factor-shared" and "ppca": each is a kind of its own, such as "factor:8".
    n_init : int
        Starts of each kind, followed on the sample: all of them to their end where the table is small, else the better
        ones. With more than one, the best mixture of the next larger number with its cheapest pairs merged is one more.
        The best two go on to full passes.
    criterion : {"bic", "aic", "icl", "heldout", "cv"}
        "heldout": log-likelihood of one fold under models fitted to the others; "cv": of every fold in turn. Models for
        the folds are fitted on the same passes, and judged in one more.
    folds : int
        Of which "heldout" and "cv" speak; a row's fold depends on its number only.
    missing : {"error", "marginalize"}, as in `GaussianMixture`
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
    Ks = _numbers(n_components)
    kinds = kinds_of(covariance_types, n_factors, prior=prior is not None)
    _check(Ks, init_params, solver, criterion, folds)
    common: dict[str, Any] = {
        "tol": tol, "reg_covar": reg_covar, "max_iter": max_iter, "n_init": n_init, "init_params": init_params,
        "solver": solver, "stopping": stopping, "missing": missing, "prior": prior, "on_collapse": on_collapse,
        "random_state": random_state, "executor": executor, "n_jobs": n_jobs, "device": device,
    }  # fmt: skip
    probe = GaussianMixture(Ks[-1], **common)
    probe._validate_params()
    source = probe._training_source(X, sample_weight)
    _check_data(source, kinds, solver, folds if criterion in ("heldout", "cv") else 0)
    plan = _plan(probe, tuple((kind, K) for kind in kinds for K in Ks), criterion, folds, drop=drop)
    plan = _for_source(replace(plan, open_ended=n_components is UNASKED), source)
    run, source = _raced(probe, source, plan, memory_limit, on_step, watcher, verbose)
    return _with_times_of_card(_result(run, run.plan, probe, common, criterion, began), source)


def _for_source(plan: Plan, source: Source) -> Plan:
    """The plan for as many rows as a source says it has; see `Plan.for_rows`."""
    return plan if source.n_rows is None else plan.for_rows(source.n_rows, source.n_features)


def _numbers(n_components: Iterable[int]) -> list[int]:
    """The numbers of components to compare, in order."""
    return sorted(set(whole_numbers(
        n_components,
        "n_components must be the whole numbers to compare, such as range(1, 11) or [2, 3, 5]; "
        f"got {n_components!r}. For one number use GaussianMixture(n_components).",
    )))  # fmt: skip


def _check(Ks: Sequence[int], init_params: str, solver: str, criterion: str, folds: int) -> None:
    """Refuse what no data would make possible."""
    if Ks[0] < 1:
        raise ValueError(f"n_components must be numbers >= 1; got {Ks}.")
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
    otherwise = f"folds must be a whole number, at least 2; got {folds!r}."
    if criterion in ("heldout", "cv") and whole_numbers([folds], otherwise)[0] < 2:
        raise ValueError(otherwise)


def _check_data(source: Source, kinds: Sequence[Covariance], solver: str, folds: int) -> None:
    """Refuse what these data do not make possible."""
    if source.n_rows == 0:
        raise no_rows()
    if source.n_rows is not None and source.n_rows < folds:
        raise ValueError(f"folds must be at most the number of rows, {source.n_rows}; got {folds}. Lower folds.")
    for kind in kinds:
        kind.check_features(source.n_features)
        if kind.n_factors and solver == "incremental":
            raise ValueError("solver='incremental' adds up factors of different models. Use solver='auto'.")


def _plan(
    probe: GaussianMixture, kinds: tuple[tuple[Covariance, int], ...], criterion: str, folds: int, *, drop: bool
) -> Plan:
    """The candidates, to be fitted with the settings of `probe`."""
    splits = {"cv": tuple(range(folds)), "heldout": (0,)}.get(criterion, ())
    return Plan(
        kinds=kinds,
        splits=splits,
        folds=folds,
        criterion=criterion if drop and not splits else None,
        solver=probe.solver,
        stopping=RULES[probe.stopping](probe.tol),
        tol=probe.tol,
        reg_covar=probe.reg_covar,
        max_iter=probe.max_iter,
        n_init=probe.n_init,
        init_params=probe.init_params,
        missing=probe.missing,
        repair=probe.on_collapse == "repair",
        prior=NormalInverseWishart() if isinstance(probe.prior, str) else probe.prior,
    )


def _raced(
    probe: GaussianMixture,
    source: Source,
    plan: Plan,
    memory_limit: str | int | None,
    on_step: Callable[[Step], None] | None,
    watcher: FitObserver | None,
    verbose: int,
) -> tuple[SelectionRun, Source]:
    """All candidates after their passes over `source`, and that where it was read: here, or on a card."""
    runner = probe._executor(source)
    source = _placed(probe, source, runner, plan)
    limit = None if memory_limit is None else parse_bytes(memory_limit)
    size = plan.check_memory(source, limit, getattr(runner, "n_jobs", 1))
    rng = check_random_state(probe.random_state)
    shown = progress(tol=plan.tol, max_iter=plan.max_iter, verbose=verbose)
    threads = component_threads(resolve_n_jobs(probe.n_jobs), compiled=isinstance(source, PlacedSource))
    with shown, single_threaded_blas(), threads:
        return race(source, runner, plan, sample_rows=size, rng=rng, on_step=on_step, watcher=watcher), source


def _with_times_of_card(found: Selection, source: Source) -> Selection:
    if isinstance(source, PlacedSource):
        found.report["device"] = source.report()
        found.report["seconds"] |= source.seconds()
    return found


def _placed(probe: GaussianMixture, source: Source, runner: Executor, plan: Plan) -> Source:
    """The source on the card that `device` names, as far as the plan can run there."""
    sent = on_workers(probe.device, runner, source)
    backend = probe._card(source) if isinstance(runner, Threads) else None
    on_cpu = f"criterion={'heldout' if len(plan.splits) == 1 else 'cv'!r}" if plan.splits else probe._cpu_only
    on_cpu = on_cpu or next((f"covariance_types={kind.name!r}" for kind, _ in plan.kinds if kind.n_factors), "")
    if sent and not on_cpu:
        return SentSource(source, str(probe.device))
    if backend is not None and not on_cpu:
        scratch = max(scratch_of(source, kind, K) for kind, K in plan.kinds)
        return placed(source, backend, scratch=scratch)
    if probe.device not in (None, "cpu"):
        warn_cpu(f"select with {on_cpu}", stacklevel=5)
    return source


# Results --------------------------------------------------------------------------------------------------------------


def _result(
    race: SelectionRun,
    plan: Plan,
    probe: GaussianMixture,
    common: dict[str, Any],
    criterion: str,
    began: float,
) -> Selection:
    """The table of all kinds, and the estimator of the one that wins."""
    table: list[dict[str, Any]] = []
    teams: list[Candidates] = []
    leaders: list[Candidate] = []
    doubts_of: list[int] = []
    rows = race.sample.n_rows
    for g in range(len(plan.kinds)):
        team = race.team(g)
        leader = _leader(team, rows, plan.reg_covar)
        table.append(_row(race, plan, g, team, leader, criterion))
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
    gm.report_["chosen_by"] = criterion
    return Selection(
        table, gm, criterion, minimum, bend, race.n_passes, report,
        tuple(one.accepted for one in leaders), tuple(one.index for one in leaders),
    )  # fmt: skip


def _row(race: SelectionRun, plan: Plan, g: int, team: Candidates, leader: Candidate, criterion: str) -> dict[str, Any]:
    """The row of the table for the kind `plan.kinds[g]`, whose candidates are `team`."""
    assert leader.last is not None
    kind, K = plan.kinds[g]
    value = None
    if plan.splits:
        mine = [c.index for c in race.candidates if race.kind_of[c.index] == g and race.fold_of[c.index] >= 0]
        loglik, weight = race.scores[mine].sum(axis=0)
        value = float(loglik / weight)
    return {
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
        "unsupported": list(unsupported(leader.accepted, race.sample.n_rows, plan.reg_covar).values()),
    }


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
    """Candidates, given by `doubt` and K, that are compared by the criterion: those against which least speaks.

    One component is never in doubt. Where it is the only one of which that is true, the data have directions without
    variance in every group, and no candidate is worse for them.
    """
    least = min(much for much, _ in candidates)
    several = [much for much, K in candidates if K > 1]
    if least == 0 and several and min(several) == 1:
        least = 1
    return [much <= least for much, _ in candidates]


__all__ = ["Selection", "elbow", "select"]
