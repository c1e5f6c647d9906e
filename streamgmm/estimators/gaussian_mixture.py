"""`GaussianMixture`: scikit-learn's face on the engine. Strings become objects here, once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import import_module
from os import PathLike
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import DensityMixin, _fit_context
from sklearn.utils.validation import check_is_fitted

from streamgmm.em.candidates import Candidates, Initialization, best, new_candidates, running
from streamgmm.em.convergence import RULES
from streamgmm.em.hooks import FitObserver
from streamgmm.em.initialization.initialize import InitSettings, begin, begin_again
from streamgmm.em.initialization.multistart import KEPT, sample_rows
from streamgmm.em.loop import Step
from streamgmm.em.online import Learner
from streamgmm.em.passes import PassCursor, RowCount, Stage, passes
from streamgmm.em.solvers import SOLVERS, Settings
from streamgmm.em.update import Maximize
from streamgmm.em.variants import Block
from streamgmm.errors import ModelFileError
from streamgmm.estimators import conversion
from streamgmm.estimators._device import card_of, check_executor, scratch_of, warn_cpu
from streamgmm.estimators._fit_report import Clock, print_progress, report_of, warn_if_drowned, warn_unless_converged
from streamgmm.estimators._fitted import Fitted
from streamgmm.estimators._memory_plan import MemoryPlan, Shape, parse_bytes, plan_memory
from streamgmm.estimators._parameters import MixtureParameters
from streamgmm.estimators._partial_fit import Partial
from streamgmm.estimators.model_file import ModelFile, load_model, save_model
from streamgmm.estimators.projection import Projection
from streamgmm.kernels import dispatch
from streamgmm.mixture.covariance import Covariance
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.prior import NormalInverseWishart
from streamgmm.runtime.checkpoint import Journal, open_journal
from streamgmm.runtime.device import PlacedSource, placed
from streamgmm.runtime.executors import Executor, Threads
from streamgmm.runtime.peak_memory import Peak
from streamgmm.runtime.thread_limits import resolve_n_jobs, single_threaded_blas
from streamgmm.sources.base import Source
from streamgmm.utils.by_component import component_threads

_SAVED: dict[str, type] = {
    "converged_": bool, "n_iter_": int, "lower_bound_": float, "lower_bounds_": list, "n_passes_": int, "report_": dict,
}  # fmt: skip


_OTHERS = {"BayesianGaussianMixture": "streamgmm.estimators.bayesian_mixture"}
"""Further estimators whose files `load` reads, and where they stand."""

_STREAM = "stream."


_WITHOUT_EFFECT = {
    "verbose", "verbose_interval", "executor", "n_jobs", "memory_limit", "checkpoint", "max_time", "device"
}  # fmt: skip
"""Parameters that a model does not depend on. The chunks that `memory_limit` may lead to, and the blocks on a card, are
told by the source."""


_ADDED = {"n_factors"}
"""Parameters that checkpoints of before do not have; None is what they did."""


class GaussianMixture(Fitted, Partial, DensityMixin, MixtureParameters):
    """Gaussian mixture fitted by exact EM, one chunk of the data at a time.

    Parameters
    ----------
    n_components : int, default 1
    covariance_type : {"full", "tied", "diag", "spherical"} or one of mclust's identifiers, default "full"
        Three letters for volume, shape and orientation: Equal in all components, Variable, or the Identity (Celeux &
        Govaert 1995): "EII", "VII", "EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV", "VVV".
        full is VVV, tied EEE, diag VVI, spherical VII. `covariances_` has the shape of the nearest of these four.
        "factor", "factor-shared" and "ppca" are mixtures of factor analysers with `n_factors` factors, covariances of
        that rank plus a diagonal, for many features: the noise variances are free, equal in all components, or equal in
        all features of a component (probabilistic principal components). Work and memory are linear in D.
    n_factors : int or None, default None
        q, from 1 to D - 1, for "factor", "factor-shared" and "ppca"; None for the others.
    tol : float, default 1e-6
        In nats per row. With ``stopping="aitken"`` the fit stops when the estimated distance of the mean log-likelihood
        from its limit is below `tol`; with ``"change"`` when its last change is (scikit-learn's rule, there with 1e-3).
        0 never stops early.
    reg_covar : float, default 1e-6
        Added to every variance, in squared units of the data.
    max_iter : int, default 100
        Full-data E-steps per start.
    n_init : int, default 1
        Starts; all share every pass over the data, and the best is kept.
    init_params : {"kmeans", "k-means++", "kmeans||", "random", "random_from_data"}, default "kmeans"
        How first models are drawn, from a sample that one pass takes, in whitened units. "kmeans||" (k-means‖,
        Bahmani et al. 2012) draws among all rows, and makes the models of all rows, in 7 more passes that all starts
        share: for groups too small to be in a sample.
    weights_init, means_init, precisions_init : array-like, optional
        As in scikit-learn.
    random_state : int, RandomState or None
    warm_start : bool, default False
        Go on from the parameters of the last fit.
    verbose, verbose_interval : int
        Print progress every `verbose_interval` iterations.
    half_life : float or None, default None
        For `partial_fit`: rows after which a row's weight in the stream has halved. None: no fixed forgetting; steps
        decay, so that a stationary stream converges.
    solver : {"auto", "exact", "squarem", "incremental", "stepwise"}, default "auto"
        How the same optimum is reached; see `streamgmm.em.solvers`. "exact" is plain EM, step for step. "auto" looks
        for starts on a sample, and goes on in steps corrected by the sample, or extrapolated ones, until plain EM steps
        confirm that the limit is reached.
    moves : int, default 0
        Split-and-merge moves (Ueda et al. 2000) that each start may make on the sample to leave a poor optimum, where
        ``solver="auto"`` looks for starts: two components that are nearly one are merged and a third is split, as long
        as that raises the likelihood.
    stopping : {"aitken", "change"}, default "aitken"
    missing : {"error", "marginalize"}, default "error"
        "marginalize" takes NaN as not observed: exact EM under missing at random. Rows with nothing observed are left
        out and counted in ``report_["dropped"]``. Infinity stays an error.
    on_collapse : {"repair", "raise"}, default "repair"
        What happens to a component without mass or without a positive definite covariance.
    prior : {None, "default"} or a `NormalInverseWishart`, default None
        Posterior mode instead of maximum likelihood; "default" is mclust's conjugate prior. `lower_bounds_` is then the
        penalised objective.
    noise : {None, "uniform"}, default None
        "uniform" adds a background with constant density over the data's bounding box, which soaks up outliers: label
        -1, and one more column in `predict_proba`. It starts with what `weights_init` leaves to 1, or else a half.
    executor : {None, "threads", "dask"} or an Executor
        "dask" uses the active client, or else Dask's local scheduler; None is threads, and dask for dask collections
        where a client is active. All give the same bits.
    n_jobs : int or None
        Threads; None is all cores available to the process.
    device : {None, "cpu", "cuda", "cuda:N"}, default None
        Where passes of EM run, and answers are computed; None is the CPU, or the card that X lies on. On a graphics
        card of NVIDIA rows stay in its memory from pass to pass as far as they fit. Starts, steps on a sample,
        ``missing="marginalize"``, ``solver="stepwise"`` and `partial_fit` run on the CPU. See the guide to graphics
        cards, docs/gpu.md.
    memory_limit : str, int or None
        Bytes, or a text such as "2GB", by which the process may grow over its size with everything imported and
        compiled. What is needed is computed before reading: chunks are read in parts, threads left out, the sample made
        smaller; where that does not help the fit is refused with `MemoryLimitError`. What is left over holds decoded
        chunks. `report_["memory"]` has the projection and what was measured.
    checkpoint : path or None
        A folder for the state of the fit, written on the way and taken up again by a fit to the same data with the same
        settings, to the same bits; a finished one gives its model at once. A first Ctrl-C or SIGTERM then ends the fit
        after a chunk, with everything written. A file in such a folder may be named; it then has to fit.
    max_time : float or None
        Seconds after which the fit ends with the pass it is in, as if `max_iter` had been reached. Steps on the sample
        before the first of these are not cut short.

    Attributes
    ----------
    weights_ : (K,)
    means_ : (K, D)
    covariances_, precisions_, precisions_cholesky_ : in the shape of `covariance_type`, as in scikit-learn; of factor
        analysers (K, D, D), made when asked for
    loadings_, noise_variance_ : (K, D, q) and (K, D), of factor analysers
    mixture_ : Mixture
        The fitted model as a frozen value.
    projection_ : Projection or None
        Of a model that `streamgmm fit --pca` wrote: the principal components that the mixture is of. Rows are taken and
        given as they were before it.
    noise_weight_ : float
        Weight of the background; with `weights_` it sums to 1.
    prior_ : Conjugate or None
        The prior with everything taken from the data filled in.
    converged_ : bool
    n_iter_ : int
    lower_bound_ : float
        Mean log-likelihood per row, in nats, of the model before the last M-step.
    lower_bounds_ : list of float
        The same for every E-step.
    n_passes_ : int
        Full passes over the data, initialisation included.
    report_ : dict
        Criteria of the last E-step (``solver="stepwise"`` has none, and says why under ``"criteria"``), repairs, rows
        read, timings.

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> gm = sg.GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> sorted(gm.means_[:, 0].round(6).tolist())
    [1.0, 10.0]
    """

    _stream: Callable[..., Learner]

    # Fitting ----------------------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the mixture.

        Parameters
        ----------
        X : array-like (N, D), a path, or a source
            See `streamgmm.open_source` for what is understood.
        y : ignored
        sample_weight : (N,) >= 0, optional
            0 is no row, 2 is the row twice.

        Raises
        ------
        ValueError
            On NaN or infinity, K > N, negative or all-zero weights, and shapes that do not agree.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture().fit([[0.0], [4.0]], sample_weight=[3, 1])
        >>> gm.means_.round(6), gm.covariances_.round(4)
        (array([[1.]]), array([[[3.]]]))
        """
        began = time.perf_counter()
        source = self._training_source(X, sample_weight)
        self._learner = None
        executor = self._executor(source)
        with single_threaded_blas():  # for the M-steps too: threads cost more than they bring on small matrices
            for _ in self._steps(source, executor, began):
                pass
        return self

    def fit_steps(
        self,
        X: Any,
        y: Any = None,
        sample_weight: ArrayLike | None = None,
        *,
        on_chunk: Any = None,
        watcher: FitObserver | None = None,
    ) -> Iterator[Step]:
        """As `fit`, but yield every `Step`: for progress, pictures, scoring on the way. Fitted when exhausted.

        Parameters
        ----------
        on_chunk : callable (chunk), optional
            Called with each chunk that has been read.
        watcher : optional
            Told of the steps on the sample, where starts are followed there; see `streamgmm.em.hooks.FitObserver`.

        Examples
        --------
        >>> import streamgmm as sg
        >>> X = [[float(i % 10 + 50 * (i > 30))] for i in range(60)]
        >>> gm = sg.GaussianMixture(2, solver="exact", random_state=0)
        >>> trace = [step.candidates[0].objective for step in gm.fit_steps(X)]
        >>> trace == gm.lower_bounds_
        True
        """
        began = time.perf_counter()
        self._validate_params()
        source = self._training_source(X, sample_weight)
        executor = self._executor(source)
        executor.on_chunk = on_chunk
        try:
            yield from self._steps(source, executor, began, watcher)
        finally:
            executor.on_chunk = None

    def fit_predict(self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None) -> Any:
        """Fit, then label the rows: (N,). The labels cost one more pass than `fit`.

        Examples
        --------
        >>> import streamgmm as sg
        >>> X = [[float(i % 10 + 50 * (i > 30))] for i in range(60)]
        >>> labels = sg.GaussianMixture(2, random_state=0).fit_predict(X)
        >>> len(set(labels[:31])), len(set(labels[31:])), bool(labels[0] == labels[-1])
        (1, 1, False)
        """
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def discard_checkpoint(self, X: Any, sample_weight: ArrayLike | None = None) -> int:
        """Delete the checkpoints of a fit to these data with these parameters; the number of files deleted.

        Examples
        --------
        >>> import streamgmm as sg, tempfile
        >>> X = [[0.0], [1.0], [2.0], [4.0]]
        >>> gm = sg.GaussianMixture(checkpoint=tempfile.mkdtemp()).fit(X)
        >>> gm.discard_checkpoint(X) > 0, gm.discard_checkpoint(X)
        (True, 0)
        """
        source = self._training_source(X, sample_weight)
        backend = self._card(source)
        return self._journal(source if backend is None else self._placed(source, backend)).discard()

    # The way of a fit -------------------------------------------------------------------------------------------

    def _steps(
        self, source: Source, executor: Executor, began: float, watcher: FitObserver | None = None
    ) -> Iterator[Step]:
        """Fit `source`, yielding every `Step`; attributes are set when the last one is taken."""
        if source.n_rows is not None and source.n_rows < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                f"n_samples = {source.n_rows}. Lower n_components."
            )
        backend = self._card(source)
        if backend is not None:
            check_executor(executor)
        elif self._cpu_only and self.device not in (None, "cpu"):
            warn_cpu(f"A fit with {self._cpu_only}", stacklevel=5)
        memory_plan, peak = self._memory_plan(source, executor, backend)
        source = memory_plan.source
        if backend is not None:
            source = self._placed(source, backend, memory_plan.numbers.get("pinned"))
        journal = self._journal(source)
        with journal.running(), component_threads(resolve_n_jobs(self.n_jobs)):
            executor = memory_plan.executor(executor)
            reader = journal.executor(executor)
            begun: Initialization = journal.once(
                "begin", lambda: self._begin(source, reader, executor, journal, memory_plan, watcher)
            )
            clock = Clock(began, time.perf_counter())
            known = tuple(one.known for one in begun.explored)
            place = journal.get("em") or (
                begun.solved or new_candidates(begun.models, begun.traces, known),
                PassCursor(),
            )
            rows = journal.get("rows") or RowCount(begun.rows)
            candidates, position = place
            if begun.solved:
                yield Step((), position, candidates, Block(0, 0, ()), ())
            stages = self._stages(begun, source, executor)
            if self.max_iter > 0 and running(candidates):
                for step in passes(source, candidates, stages, reader, position=position):
                    candidates, position = place = step.candidates, step.state
                    rows = rows.after(step, source)
                    journal.put("rows", rows)
                    journal.put("em", place)
                    if self.verbose:
                        print_progress(candidates, position.passes, self.verbose_interval)
                    yield step
                    if self.max_time is not None and time.perf_counter() - began > self.max_time:
                        break
            self._finish(candidates, begun, begun.passes + position.passes, clock)
            journal.put("em", place, last=True)
            self.report_["checkpoint"] = journal.report()
            memory_used: dict[str, Any] = {**memory_plan.numbers, **peak.report()}
            if isinstance(source, PlacedSource):
                memory_used["device"] = source.report()
                self.report_["seconds"] = cast(Any, self.report_["seconds"]) | source.seconds()
            self.report_["memory"] = memory_used

    def _stages(self, begun: Initialization, source: Source, executor: Executor) -> tuple[Stage, ...]:
        """How the candidates are carried on, pass by pass."""
        self.prior_ = begun.prior
        settings = Settings(
            self.n_components, source.n_features,
            Maximize(self.reg_covar, self.on_collapse == "repair", begun.prior), RULES[self.stopping](self.tol),
            self.tol, self.max_iter, executor, begun.sample, source.n_rows,
        )  # fmt: skip
        return SOLVERS[self.solver](settings)

    def _finish(self, candidates: Candidates, begun: Initialization, n_passes: int, clock: Clock) -> None:
        """Set what is known of a fit that has ended."""
        winner = best(candidates)
        self.prior_ = begun.prior
        self.mixture_ = winner.accepted
        self.converged_ = winner.status == "converged"
        self.n_iter_ = winner.n_iter
        self.lower_bounds_ = list(winner.trace)
        self.lower_bound_ = winner.objective
        self.n_passes_ = n_passes
        self.report_ = report_of(candidates, begun, solver=self.solver, n_passes=n_passes, clock=clock)
        if self.max_iter > 0:
            # Where fit was called, behind scikit-learn's wrapper.
            warn_unless_converged(candidates, self.tol, self.max_iter, stacklevel=5)
            warn_if_drowned(self.mixture_, self.reg_covar, self._names_here, stacklevel=5)

    @property
    def _names_here(self) -> Any:
        """Names of the features of the mixture, or None."""
        return getattr(self, "feature_names_in_", None) if self.projection_ is None else self.projection_.names

    def _begin(
        self,
        source: Source,
        reader: Executor,
        executor: Executor,
        journal: Journal,
        memory_plan: MemoryPlan,
        watcher: FitObserver | None,
    ) -> Initialization:
        """What the fit begins with; see `beginnings`. `reader` reads the data, `executor` the sample."""
        K, D = self.n_components, source.n_features
        chosen = self._family(D)
        if self._goes_on:
            trace, prior = tuple(self.lower_bounds_), getattr(self, "prior_", None)
            return begin_again(self.mixture_, trace, prior, chosen, (K, D), self.missing)
        solves = self.max_iter > 0 and self.tol > 0  # tol=0 asks for every iteration, and gets it
        wanted = InitSettings(
            chosen, K, D, self._given(chosen, D), self.init_params, self.n_init, self.moves, self.missing,
            NormalInverseWishart() if isinstance(self.prior, str) else self.prior, self.noise is not None,
            self.reg_covar, self.on_collapse == "repair", solves, self.solver == "auto",
            memory_plan.sample_rows or self._sample_rows(D), memory_plan.starts,
        )  # fmt: skip
        begun = begin(
            wanted, source, reader, executor, lambda: journal.generator(self.random_state), watcher, journal
        )  # fmt: skip
        journal.forget("sample", *KEPT)
        return begun

    @property
    def _goes_on(self) -> bool:
        return self.warm_start and hasattr(self, "mixture_")

    def _sample_rows(self, n_features: int) -> int:
        many = self.solver == "auto" and self.n_init > 1
        return sample_rows(self.n_components, n_features, self._family(n_features), rich=many)

    @property
    def _cpu_only(self) -> str:
        """What of the settings has no form for graphics cards; empty where everything has."""
        return "missing='marginalize'" if self.missing == "marginalize" else (
            "solver='stepwise'" if self.solver == "stepwise" else ""
        )  # fmt: skip

    def _card(self, source: Source) -> Any:
        """The graphics card on which EM is to run, or None."""
        backend = card_of(self.device, source)
        return None if self._cpu_only else backend

    def _placed(self, source: Source, backend: Any, pinned_bytes: int | None = None) -> PlacedSource:
        scratch = scratch_of(source, self._family(source.n_features), self.n_components)
        cuts = 16 if self.solver == "incremental" else 1
        return placed(source, backend, cuts=cuts, scratch=scratch, pinned_bytes=pinned_bytes)

    def _memory_plan(self, source: Source, executor: Executor, backend: Any = None) -> tuple[MemoryPlan, Peak]:
        """What `memory_limit` allows, and a gauge that starts at the size of the process without data."""
        K, D = self.n_components, source.n_features
        given = all(value is not None for value in (self.weights_init, self.means_init, self.precisions_init))
        sampled = 0 if given or self._goes_on else self._sample_rows(D)
        chosen, saved = self._family(D), self.checkpoint is not None
        shape = Shape(chosen, K, D, self.n_init, sampled, {"incremental": 32, "stepwise": 3}.get(self.solver, 0), saved)
        n_jobs, elsewhere = executor.threads_per_process, not isinstance(executor, Threads)
        limit, pinned = self.memory_limit, {}
        if backend is not None and limit is not None:
            pinned = {"pinned": parse_bytes(limit) // 8}
            limit = parse_bytes(limit) - pinned["pinned"]
        plan = plan_memory(source, shape, limit=limit, n_jobs=n_jobs, elsewhere=elsewhere)
        plan.numbers.update(pinned)
        if self.memory_limit is not None:
            dispatch.ready(chosen.kernel, K, D, source.dtype, source.most_rows)
        return plan, Peak()

    def _journal(self, source: Source) -> Journal:
        """Where the state of a fit of `source` is kept: see `checkpoint`."""
        settings = {k: v for k, v in self.get_params(deep=False).items() if k not in _WITHOUT_EFFECT}
        settings = {k: v for k, v in settings.items() if v is not None or k not in _ADDED}
        if self._goes_on:
            settings["warm_start"] = (self.mixture_, self.lower_bounds_)
        return open_journal(self.checkpoint, source.fingerprint, {"estimator": type(self).__name__, **settings})

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "marginalize"
        return tags

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted model to one safetensors file, atomically; `streamgmm.load` reads it.

        After `partial_fit` the statistics of the stream and the rows that wait are kept too, and a later `partial_fit`
        goes on from there. Parameters that are objects (a RandomState, an executor, arrays of initial values) are not
        kept.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.GaussianMixture().fit([[0.0], [4.0]]).save("model.safetensors")
        >>> sg.load("model.safetensors").means_
        array([[2.]])
        """
        check_is_fitted(self)
        header = {
            "estimator": type(self).__name__,
            "parameters": conversion.plain_parameters(self),
            "fitted": {name: getattr(self, name) for name in _SAVED if hasattr(self, name)},
            "feature_names": list(self.feature_names_in_) if hasattr(self, "feature_names_in_") else None,
        }
        arrays = {**self._further_arrays(), **({} if self.projection_ is None else self.projection_.arrays())}
        learner: Learner | None = getattr(self, "_learner", None)
        if learner is not None:
            learnt, header["stream"] = learner.state()
            arrays |= {_STREAM + name: array for name, array in learnt.items()}
        save_model(path, self.mixture_, header=header, arrays=arrays)

    def _further_arrays(self) -> dict[str, Any]:
        """Arrays of a model file beside those of a `Mixture`."""
        return {}

    @classmethod
    def _mixture_of(cls, content: ModelFile) -> Mixture:
        """The fitted model in a file."""
        return content.mixture

    @classmethod
    def _from_file(cls, content: ModelFile) -> Self:
        known = cls._get_param_names()
        parameters = {k: v for k, v in dict(content.header["parameters"]).items() if k in known}
        self = cls(**parameters)
        self._validate_params()
        for name, kind in _SAVED.items():
            if name in content.header["fitted"]:
                value = content.header["fitted"][name]
                setattr(self, name, np.nan if value is None and kind is float else kind(value))
        self.mixture_ = self._mixture_of(content)
        self.n_features_in_ = content.mixture.n_features
        projection = Projection.read(content.arrays)
        if projection is not None:
            self.project(projection)
        names = content.header["feature_names"]
        if names is not None:
            self._name_features(names)
        learnt = content.header.get("stream")
        if learnt is not None:
            start = len(_STREAM)
            arrays = {name[start:]: array for name, array in content.arrays.items() if name.startswith(_STREAM)}
            self._stream().restore(arrays, learnt)
        return self

    @classmethod
    def from_parameters(
        cls,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
        covariance_type: str | Covariance = "full",
        **settings: Any,
    ) -> Self:
        """An estimator that answers as if fitted, from (K,) weights, (K, D) means and covariances; see `Mixture`.

        `settings` are parameters of the estimator. With ``warm_start=True`` a later `fit` goes on from here.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> gm.predict([[-1.0], [5.0]])
        array([0, 1])
        """
        return cast(Self, conversion.from_parameters(cls, weights, means, covariances, covariance_type, **settings))

    @classmethod
    def from_factors(
        cls,
        weights: ArrayLike,
        means: ArrayLike,
        loadings: ArrayLike,
        noise_variance: ArrayLike,
        covariance_type: str = "factor",
        **settings: Any,
    ) -> Self:
        """As `from_parameters`, for factor analysers: covariances are loadings loadings^T plus diagonals.

        Parameters
        ----------
        loadings : (K, D, q)
        noise_variance : (K, D), or whatever broadcasts to that
        covariance_type : {"factor", "factor-shared", "ppca"}

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_factors([1.0], [[0.0, 0.0]], [[[1.0], [1.0]]], 0.5)
        >>> gm.covariances_
        array([[[1.5, 1. ],
                [1. , 1.5]]])
        """
        model = Mixture.from_factors(weights, means, loadings, noise_variance, covariance_type)
        return cast(Self, conversion.from_mixture(cls, model, **settings))

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """The same mixture as a fitted ``sklearn.mixture.GaussianMixture``, with its settings.

        Examples
        --------
        >>> import streamgmm as sg
        >>> from sklearn.mixture import GaussianMixture
        >>> sg.GaussianMixture.from_sklearn(GaussianMixture().fit([[0.0], [4.0]])).means_
        array([[2.]])
        """
        return cast(Self, conversion.from_sklearn(cls, model))

    def to_sklearn(self) -> Any:
        """The same mixture as a fitted ``sklearn.mixture.GaussianMixture``; refused with a background component.

        Refused after a `project` too: scikit-learn's mixture has no projection.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> gm.to_sklearn().predict([[-1.0], [5.0]])
        array([0, 1])
        """
        self._fitted("to_sklearn")
        return conversion.to_sklearn(self)

    def to_json(self) -> str:
        """The fitted model as JSON text, every number with all its digits.

        Examples
        --------
        >>> import streamgmm as sg
        >>> import json
        >>> json.loads(sg.GaussianMixture().fit([[0.0], [4.0]]).to_json())["means"]
        [[2.0]]
        """
        self._fitted("to_json")
        return conversion.to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The estimator that `to_json` wrote.

        Examples
        --------
        >>> import streamgmm as sg
        >>> text = sg.GaussianMixture().fit([[0.0], [4.0]]).to_json()
        >>> sg.GaussianMixture.from_json(text).means_
        array([[2.]])
        """
        return cast(Self, conversion.from_json(cls, text))


def load(path: str | PathLike[str]) -> GaussianMixture:
    """The model that `GaussianMixture.save` or `streamgmm fit --out` wrote. Nothing in the file is run.

    Parameters
    ----------
    path : path
        A model file, or the folder that `streamgmm fit --out` wrote.

    Raises
    ------
    ModelFileError
        Where the file is damaged, forged, or of a later version.
    FileNotFoundError
        Where there is no such file, or no model in the folder.

    Examples
    --------
    >>> import numpy as np, os, tempfile, streamgmm as sg
    >>> gm = sg.GaussianMixture(2, random_state=0).fit(np.arange(12.0).reshape(6, 2))
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> gm.save(path)
    >>> bool((sg.load(path).means_ == gm.means_).all())
    True
    """
    content = load_model(path)
    name = str(content.header.get("estimator"))
    kind: type[GaussianMixture] = GaussianMixture
    if name in _OTHERS:
        kind = getattr(import_module(_OTHERS[name]), name)
    try:
        return kind._from_file(content)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: its header does not describe a {kind.__name__}: {error}") from None
