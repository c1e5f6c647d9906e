"""`KMeans`: Lloyd's algorithm on the engine of the mixture, of which it is the limit."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from streamgmm.em.initialization.sample import survey
from streamgmm.em.kmeans.centres import Centres, LloydStats
from streamgmm.em.kmeans.lloyd import LloydUpdate, Run, Runs, relocate
from streamgmm.em.kmeans.parallel_init import kmeans_parallel
from streamgmm.em.loop import e_step, em, merge_all
from streamgmm.em.variants import Exact
from streamgmm.estimators._parameters import DEVICE, EXECUTION, NOT_NEGATIVE, WHOLE
from streamgmm.estimators.cards import beside_diagram, kmeans_card
from streamgmm.estimators.fit_report import FitReport
from streamgmm.estimators.reader import Transforming
from streamgmm.report.progress import drawing, progress
from streamgmm.runtime.executors import Executor, within
from streamgmm.runtime.thread_limits import one_thread
from streamgmm.sources import is_array_like, leaving_out_text
from streamgmm.sources.base import Chunk, Readable, Source
from streamgmm.sources.summaries.sample import SampleSummary, sample_size
from streamgmm.utils.phases import stepped
from streamgmm.utils.sample_weight import no_rows
from streamgmm.utils.types import RandomState

Array = NDArray[np.float64]

SAMPLE_TRIES = 4
"""Seedings that are followed up on the sample; the best goes on to passes of all the data."""


class KMeans(Transforming, ClassNamePrefixFeaturesOutMixin, ClusterMixin, BaseEstimator):
    """k-means by Lloyd's algorithm, exact, one chunk of the data at a time.

    From the same centres it takes scikit-learn's steps, on data of any size; all starts share every pass. It is the
    limit of a Gaussian mixture with equal weights and equal spherical covariances as these shrink.

    Parameters
    ----------
    n_clusters : int, default 8
    init : {"k-means++", "k-means||", "random"} or array-like (K, D), default "k-means++"
        "k-means++" seeds on a sample taken in one pass and, where that is not all of the data, goes on with k-means
        on the sample, four times, and starts from the best. "k-means||" (Bahmani et al. 2012) chooses from all rows in
        7 passes, which all starts share.
    n_init : int or "auto", default "auto"
        Starts. "auto" is 10 for "random", otherwise 1.
    max_iter : int, default 300
    tol : float, default 1e-4
        A run stops when the squared movement of its centres is at most `tol` times the mean variance of the features.
    verbose : int, default 0
        1: one line of live progress in a terminal or notebook, elsewhere a line for each pass; 2: lines everywhere.
    random_state : int, RandomState or None
    executor, n_jobs :
        As in `GaussianMixture`.
    device : {None, "cpu"}, default None
        k-means runs on the CPU; a graphics card is refused.

    Attributes
    ----------
    cluster_centers_ : (K, D)
    labels_ : (N,) int32
        Only after a fit to an array in memory; elsewhere `predict` streams them.
    inertia_ : float
        Weighted sum of squared distances of rows to their centres.
    n_iter_ : int
    n_passes_ : int
        Passes of the data: start, steps, and one more for the inertia of the last centres unless nothing moved.
    report_ : dict
        With "sizes", the weight of the rows of each cluster.

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> sg.KMeans(2, random_state=0).fit(X).inertia_
    16.0
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_clusters": [WHOLE],
        "init": [StrOptions({"k-means++", "k-means||", "random"}), "array-like"],
        "n_init": [StrOptions({"auto"}), WHOLE],
        "max_iter": [WHOLE],
        "tol": [NOT_NEGATIVE],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
        **EXECUTION,
        **DEVICE,
    }

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: str | ArrayLike = "k-means++",
        n_init: int | str = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        verbose: int = 0,
        random_state: RandomState = None,
        executor: Executor | str | None = None,
        n_jobs: int | None = None,
        device: str | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.random_state = random_state
        self.executor = executor
        self.n_jobs = n_jobs
        self.device = device

    _fewest_rows = 1

    @leaving_out_text
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Readable, y: object = None, sample_weight: ArrayLike | None = None) -> Self:
        """Find the centres.

        Parameters
        ----------
        X : array-like (N, D), a path, or a source
        y : ignored
        sample_weight : (N,) >= 0, optional
            0 is no row, 2 is the row twice.

        Examples
        --------
        >>> import streamgmm as sg
        >>> km = sg.KMeans(2, random_state=0).fit([[0.0], [2.0], [10.0], [12.0]])
        >>> sorted(km.cluster_centers_.ravel().tolist()), km.inertia_
        ([1.0, 11.0], 4.0)
        """
        with progress(max_iter=self.max_iter, verbose=int(self.verbose)):
            return self._fit(X, sample_weight)

    def _fit(self, X: Any, sample_weight: ArrayLike | None) -> Self:
        began = time.perf_counter()
        if self.device not in (None, "cpu"):
            raise ValueError(
                f"KMeans(device={self.device!r}): k-means runs on the CPU only. Use device='cpu', or fit the mixture "
                "of which it is a limit: GaussianMixture(covariance_type='spherical', device='cuda')."
            )
        source = self._training_source(X, sample_weight)
        executor = self._executor(source)
        if source.n_rows == 0:
            raise no_rows()
        if source.n_rows is not None and source.n_rows < self.n_clusters:
            raise ValueError(f"n_samples={source.n_rows} should be >= n_clusters={self.n_clusters}. Lower n_clusters.")
        starts, passes = self._starts(source, executor)
        runs: Runs = tuple(Run(centres) for centres in starts)
        update = LloydUpdate(self.tol, self.max_iter, partial(relocate, source, executor))
        steps = em(source, starts, rule=Exact(), executor=executor, update=update, candidates=runs)
        for step in steps:
            runs = step.candidates
            passes += 1
            stepped(replace(step, candidates=(), stats=()))
            if self.verbose > 1 or (self.verbose and not drawing()):
                print(f"Iteration {step.block.pass_number}, inertia {min(run.inertias[-1] for run in runs):.10g}.")
        passes += sum(run.extra_passes for run in runs)
        run = runs[0]
        if len(runs) > 1:
            inertias, more = self._inertias(source, executor, runs)
            run = runs[int(np.argmin(inertias))]
            passes += more
        in_memory = is_array_like(X)
        self.inertia_, sizes = run.inertias[-1], run.mass
        if in_memory or run.status != "settled":
            last, labels = self._last_reading(source, executor, run.centres, in_memory)
            self.inertia_, sizes = last.inertia, last.mass
            passes += 1
        if in_memory:
            self.labels_ = np.concatenate(labels)
        elif hasattr(self, "labels_"):
            del self.labels_
        self.cluster_centers_ = run.centres.points
        self._centres = run.centres
        self._n_features_out = self.n_clusters
        self.n_iter_ = len(run.inertias)
        self.n_passes_ = passes
        self.report_ = FitReport({
            "n_passes": passes,
            "n_iter": self.n_iter_,
            "status": run.status,
            "inertias": list(run.inertias),
            "sizes": np.asarray(sizes).tolist(),
            "starts": [{"inertia": r.inertias[-1], "n_iter": len(r.inertias), "status": r.status} for r in runs],
            "seconds": time.perf_counter() - began,
        })  # fmt: skip
        self._warn(run)
        return self

    def _warn(self, run: Run) -> None:
        if run.empty:
            warnings.warn(
                f"Number of distinct clusters ({self.n_clusters - run.empty}) found smaller than n_clusters "
                f"({self.n_clusters}). Possibly due to duplicate points in X.",
                ConvergenceWarning,
                stacklevel=6,
            )

    def _inertias(self, source: Source, executor: Executor, runs: Runs) -> tuple[list[float], int]:
        """Inertia of every run's last centres, and the passes that took: none where every run has settled."""
        moved = [run for run in runs if run.status != "settled"]
        if not moved:
            return [run.inertias[-1] for run in runs], 0
        models = tuple(run.centres for run in moved)
        stats = executor.run(within(source, partial(e_step, models)), source.chunks(), merge_all)
        fresh = iter(stats)
        return [run.inertias[-1] if run.status == "settled" else next(fresh).inertia for run in runs], 1

    def _last_reading(self, source: Source, executor: Executor, centres: Centres, keep: bool) -> Final:
        """Sums about the last centres, and the labels chunk by chunk if they are to be kept."""
        task = within(source, partial(_final, centres, keep))
        return executor.run(task, source.chunks(), _join_final)

    # Starts -----------------------------------------------------------------------------------------------------

    def _starts(self, source: Source, executor: Executor) -> tuple[tuple[Centres, ...], int]:
        """First centres of every start, and the passes they took."""
        K, D = self.n_clusters, source.n_features
        if not isinstance(self.init, str):
            points = np.array(self.init, np.float64)
            if points.shape != (K, D):
                raise ValueError(
                    f"The shape of the initial centers {points.shape} does not match the number of clusters and "
                    f"features {(K, D)}."
                )
            if not np.isfinite(points).all():
                raise ValueError("init: the initial centers must be finite; found NaN or infinity.")
            return (Centres(points, middle(source)),), 0
        rng = check_random_state(self.random_state)
        sample = survey(source, executor, size=sample_size(K, D), seed=int(rng.randint(2**31 - 1)))
        if sample.n_rows < K:
            raise ValueError(
                f"n_samples={sample.n_rows} rows of positive weight should be >= n_clusters={K}. Lower n_clusters."
            )
        n_init = (10 if self.init == "random" else 1) if self.n_init == "auto" else int(cast(int, self.n_init))
        passes = 1
        if self.init == "k-means||":
            chance = sample.weight / sample.weight.sum()
            first = sample.rows[rng.choice(len(sample.rows), n_init, p=chance)]
            chosen, more = kmeans_parallel(source, executor, first, K, rng)
            passes += more
        else:
            chosen = [self._points(sample, rng) for _ in range(n_init)]
        return tuple(Centres(points, sample.mean) for points in chosen), passes

    def _points(self, sample: SampleSummary, rng: np.random.RandomState) -> Array:
        K = self.n_clusters
        z = sample.rows - sample.mean
        if self.init == "random":
            chance = sample.weight / sample.weight.sum()
            return np.asarray(sample.rows[rng.choice(len(z), K, replace=False, p=chance)], np.float64)
        tries = 1 if len(z) == sample.n_rows else SAMPLE_TRIES
        from sklearn.cluster import kmeans_plusplus  # with all of scikit-learn's clustering: only where it is wanted

        with one_thread():
            seeds = [kmeans_plusplus(z, K, sample_weight=sample.weight, random_state=rng)[0] for _ in range(tries)]
            points = seeds[0] if tries == 1 else best_on_sample(z, sample.weight, seeds)
        return np.asarray(points + sample.mean, np.float64)

    # Questions --------------------------------------------------------------------------------------------------

    def predict(self, X: Readable) -> Any:
        """(N,) nearest centre of each row.

        Examples
        --------
        >>> import streamgmm as sg
        >>> km = sg.KMeans(2, random_state=0).fit([[0.0], [2.0], [10.0], [12.0]])
        >>> bool(km.predict([[1.0]]) == km.labels_[0])
        True
        """
        check_is_fitted(self)
        return self._ask(X, self._centres, "labels")

    def transform(self, X: Readable) -> Any:
        """(N, K) Euclidean distances to the centres.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> km = sg.KMeans(2, random_state=0).fit([[0.0], [2.0], [10.0], [12.0]])
        >>> np.sort(km.transform([[3.0]]))
        array([[2., 8.]])
        """
        check_is_fitted(self)
        return self._ask(X, self._centres, "distances")

    def fit_transform(self, X: Readable, y: object = None, sample_weight: ArrayLike | None = None) -> Any:
        """Fit, then (N, K) Euclidean distances to the centres.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> np.sort(sg.KMeans(2, random_state=0).fit_transform([[0.0], [2.0], [10.0], [12.0]])[0])
        array([ 1., 11.])
        """
        return self.fit(X, sample_weight=sample_weight).transform(X)

    def fit_predict(self, X: Readable, y: object = None, sample_weight: ArrayLike | None = None) -> Any:
        """Fit, then label the rows: (N,).

        Examples
        --------
        >>> import streamgmm as sg
        >>> labels = sg.KMeans(2, random_state=0).fit_predict([[0.0], [2.0], [10.0], [12.0]])
        >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
        True
        """
        self.fit(X, sample_weight=sample_weight)
        return self.labels_ if is_array_like(X) else self.predict(X)

    def score(self, X: Readable, y: object = None, sample_weight: ArrayLike | None = None) -> float:
        """Minus the inertia of X under the fitted centres.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.KMeans(2, random_state=0).fit([[0.0], [2.0], [10.0], [12.0]]).score([[3.0]])
        -4.0
        """
        check_is_fitted(self)
        source = self._training_source(X, sample_weight, reset=False)
        task = within(source, partial(e_step, (self._centres,)))
        (stats,) = self._executor(source).run(task, source.chunks(), merge_all)
        return -float(stats.inertia)

    def _html_repr(self) -> str:
        return beside_diagram(self, kmeans_card, "cluster_centers_")


Final = tuple[LloydStats, tuple[NDArray[np.int32], ...]]


def _final(centres: Centres, keep: bool, chunk: Chunk) -> Final:
    stats, label = centres.final_stats(*chunk.load())
    return stats, (label,) if keep else ()


def _join_final(a: Final, b: Final) -> Final:
    return a[0].merge(b[0]), a[1] + b[1]


def middle(source: Source) -> Array:
    """(D,) mean of the first chunk that has rows: near enough to all of them to sum from there."""
    for chunk in source.chunks():
        rows, _ = chunk.load()
        if len(rows):
            mean = rows.mean(axis=0, dtype=np.float64)
            return np.where(np.isfinite(mean), mean, 0.0)
    return np.zeros(source.n_features)


def best_on_sample(z: Array, weight: Array, starts: list[Array], max_iter: int = 100) -> Array:
    """Lloyd's algorithm on rows in memory, from each start until it rests: the centres of least inertia."""
    outcomes = []
    for points in starts:
        centres = Centres(points, np.zeros(z.shape[1]))
        for _ in range(max_iter):
            stats = centres.frame_stats(z, weight)
            after = centres.moved(stats)
            movement = ((after.points - centres.points) ** 2).sum()
            centres = after
            if movement <= 1e-4 * stats.variance:
                break
        outcomes.append((stats.inertia, centres.points))
    return min(outcomes, key=lambda outcome: outcome[0])[1]
