"""Common base of the estimators of mixtures: `fit`, `partial_fit`, and their files."""

from __future__ import annotations

import io
import math
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Self, TypeGuard, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, DensityMixin, _fit_context
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted

from streamgmm.em.candidates import Candidates, Initialization, new_candidates, running
from streamgmm.em.hooks import FitObserver
from streamgmm.em.initialization.far_rows import tell_of
from streamgmm.em.online import Learner, StepReport
from streamgmm.em.passes import PassCursor, RowCount, Stage, Step, passes
from streamgmm.em.variants import Block
from streamgmm.errors import non_finite
from streamgmm.estimators import conversion
from streamgmm.estimators._device import card_of, on_workers, scratch_of, warn_cpu
from streamgmm.estimators._stream_checks import check_settings, check_unchanged
from streamgmm.estimators.fit_report import Clock, FitReport, print_progress, warn_if_drowned
from streamgmm.estimators.fitted import Fitted
from streamgmm.estimators.memory_plan import MemoryPlan, Shape, plan_memory
from streamgmm.estimators.model_file import ModelFile, save_model
from streamgmm.kernels import dispatch
from streamgmm.kernels.cuda.base import Backend
from streamgmm.mixture.covariance import Covariance, family
from streamgmm.mixture.init_parameters import NOTHING, Given
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.prior import NormalInverseWishart
from streamgmm.report.progress import drawing, progress
from streamgmm.runtime.checkpoint import Journal, open_journal
from streamgmm.runtime.device import PlacedSource, placed
from streamgmm.runtime.encoding import packed
from streamgmm.runtime.executors import Executor, Indexed, Threads
from streamgmm.runtime.peak_memory import Peak
from streamgmm.runtime.thread_limits import resolve_n_jobs, single_threaded_blas
from streamgmm.runtime.worker_cards import SentSource
from streamgmm.sources import again_without_text, is_array_like, leaving_out_text, refuse_unreadable
from streamgmm.sources.base import Chunk, Readable, Source
from streamgmm.sources.gathered import Gathering, gathered
from streamgmm.sources.living import living_rows
from streamgmm.utils.by_component import component_threads
from streamgmm.utils.phases import stepped
from streamgmm.utils.sample_weight import check_weight, no_rows

Array = NDArray[np.float64]

SAVED: dict[str, type] = {
    "converged_": bool, "n_iter_": int, "lower_bound_": float, "lower_bounds_": list, "n_passes_": int,
    "report_": FitReport,
}  # fmt: skip

STREAM = "stream."

_WITHOUT_EFFECT = {
    "verbose", "verbose_interval", "executor", "n_jobs", "memory_limit", "checkpoint", "max_time", "device"
}  # fmt: skip
"""Parameters that a model does not depend on. The chunks that `memory_limit` may lead to, and the blocks on a card, are
told by the source."""


_ADDED = {"n_factors"}
"""Parameters that checkpoints of before do not have; None is what they did."""


class MixtureEstimator(Fitted, DensityMixin, BaseEstimator):
    """A mixture with scikit-learn's methods; `GaussianMixture` and `BayesianGaussianMixture` say how it begins."""

    n_components: int
    covariance_type: str
    n_factors: int | None
    reg_covar: float
    max_iter: int
    n_init: int
    init_params: str
    weights_init: ArrayLike | None
    means_init: ArrayLike | None
    precisions_init: ArrayLike | None
    warm_start: bool
    verbose: int
    verbose_interval: int
    solver: str
    missing: str
    on_collapse: str
    prior: str | NormalInverseWishart | None
    noise: str | None
    memory_limit: str | int | None
    checkpoint: str | PathLike[str] | None
    max_time: float | None
    half_life: float | None

    report_: FitReport
    n_iter_: int
    n_passes_: int
    converged_: bool
    lower_bound_: float
    _learner: Learner | None = None
    gathering_: Gathering | None = None

    # What kinds of mixtures differ in ---------------------------------------------------------------------------------

    def _family(self, n_features: int) -> Covariance:
        """The covariance family that the parameters name, checked against them."""
        return family(self.covariance_type)

    def _given(self, family: Covariance, D: int) -> Given:
        """First parameters that the user gives, checked."""
        return NOTHING

    @abstractmethod
    def _begin(
        self,
        source: Source,
        reader: Executor,
        executor: Executor,
        journal: Journal,
        memory_plan: MemoryPlan,
        watcher: FitObserver | None,
    ) -> Initialization:
        """Start of the fit. `reader` reads the data, `executor` the sample."""

    @abstractmethod
    def _sample_rows(self, n_features: int) -> int:
        """Rows of the sample that first models are made of."""

    @abstractmethod
    def _stages(self, begun: Initialization, source: Source, executor: Executor) -> tuple[Stage, ...]:
        """Solver that carries the candidates on, pass by pass."""

    @abstractmethod
    def _finish(self, candidates: Candidates, begun: Initialization, n_passes: int, clock: Clock) -> None:
        """Set what is known of a fit that has ended."""

    # Fitting ----------------------------------------------------------------------------------------------------------

    @leaving_out_text
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Readable, y: object = None, sample_weight: ArrayLike | None = None) -> Self:
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
        shown = progress(tol=self.tol, max_iter=self.max_iter, verbose=int(self.verbose))
        with shown, single_threaded_blas():  # for the M-steps too: threads cost more than they bring on small matrices
            for _ in self._steps(source, executor, began):
                pass
        return self

    def fit_steps(
        self,
        X: Readable,
        y: object = None,
        sample_weight: ArrayLike | None = None,
        *,
        on_chunk: Callable[[Indexed], None] | None = None,
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
        self._validate_params()

        def steps() -> Iterator[Step]:
            return self._watched_steps(X, sample_weight, on_chunk, watcher)

        yield from steps() if isinstance(X, Source) else again_without_text(steps)

    def _watched_steps(
        self,
        X: Readable,
        sample_weight: ArrayLike | None,
        on_chunk: Callable[[Indexed], None] | None,
        watcher: FitObserver | None,
    ) -> Iterator[Step]:
        began = time.perf_counter()
        source = self._training_source(X, sample_weight)
        executor = self._executor(source)
        executor.on_chunk = on_chunk
        try:
            yield from self._steps(source, executor, began, watcher)
        finally:
            executor.on_chunk = None

    def fit_predict(self, X: Readable, y: object = None, sample_weight: ArrayLike | None = None) -> Any:
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

    def discard_checkpoint(self, X: Readable, sample_weight: ArrayLike | None = None) -> int:
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

    # Steps of a fit --------------------------------------------------------------------------------------------------

    def _steps(
        self, source: Source, executor: Executor, began: float, watcher: FitObserver | None = None
    ) -> Iterator[Step]:
        """Fit `source`, yielding every `Step`; attributes are set when the last one is taken."""
        if source.n_rows == 0:
            raise no_rows()
        if source.n_rows is not None and source.n_rows < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                f"n_samples = {source.n_rows}. Lower n_components."
            )
        sent = on_workers(self.device, executor, source) and not self._cpu_only
        backend = None if not isinstance(executor, Threads) else self._card(source)
        if self._cpu_only and self.device not in (None, "cpu"):
            warn_cpu(f"A fit with {self._cpu_only}", stacklevel=6)
        memory_plan, peak = self._memory_plan(source, executor, backend)
        source = SentSource(memory_plan.source, str(self.device)) if sent else memory_plan.source
        if backend is not None:
            source = self._placed(source, backend, memory_plan.numbers.get("pinned"))
        journal = self._journal(source)
        with journal.running(), component_threads(resolve_n_jobs(self.n_jobs), compiled=backend is not None):
            executor = memory_plan.executor(executor)
            reader = journal.executor(executor)
            begun: Initialization | None = journal.get("begin")
            if begun is None:
                begun = self._begin(source, reader, executor, journal, memory_plan, watcher)
                if self._goes_on and self.gathering_ is not None:  # what was no part of the model becomes none
                    tell_of(self.gathering_, source)
                    begun = replace(begun, gathering=self.gathering_)
                journal.put("begin", begun)
            clock = Clock(began, time.perf_counter())
            known = tuple(one.known for one in begun.explored)
            place = journal.get("em") or (
                begun.solved or new_candidates(begun.models, begun.traces, known),
                PassCursor(),
            )
            rows = journal.get("rows") or RowCount(begun.rows)
            candidates, position = place
            if begun.solved:
                first = Step((), position, candidates, Block(0, 0, ()), ())
                stepped(first)
                yield first
            stages = self._stages(begun, source, executor)
            if self.max_iter > 0 and running(candidates):
                data = gathered(source, begun.gathering)
                if begun.gathering is not None and isinstance(source, PlacedSource):
                    warn_cpu("A fit to rows of which some lie far from all others", stacklevel=5)
                for step in passes(data, candidates, stages, reader, position=position):
                    candidates, position = place = step.candidates, step.state
                    rows = rows.after(step, source)
                    journal.put("rows", rows)
                    journal.put("em", place)
                    stepped(step)
                    if self.verbose > 1 or (self.verbose and not drawing()):
                        print_progress(candidates, position.passes, self.verbose_interval)
                    yield step
                    if self.max_time is not None and time.perf_counter() - began > self.max_time:
                        break
            self._finish(candidates, begun, begun.passes + position.passes, clock)
            self.gathering_ = begun.gathering
            journal.put("em", place, last=True)
            self.report_["checkpoint"] = journal.report()
            memory_used: dict[str, Any] = {**memory_plan.numbers, **peak.report()}
            if isinstance(source, PlacedSource):
                memory_used["device"] = source.report()
                self.report_["seconds"] = cast(Any, self.report_["seconds"]) | source.seconds()
            self.report_["memory"] = memory_used

    @property
    def _names_here(self) -> Sequence[str] | None:
        """Names of the features of the mixture, or None."""
        return getattr(self, "feature_names_in_", None) if self.projection_ is None else self.projection_.names

    @property
    def _goes_on(self) -> bool:
        return self.warm_start and hasattr(self, "mixture_")

    @property
    def _cpu_only(self) -> str:
        """Settings that have no form for graphics cards; empty where all have."""
        return "missing='marginalize'" if self.missing == "marginalize" else (
            "solver='stepwise'" if self.solver == "stepwise" else ""
        )  # fmt: skip

    def _card(self, source: Source) -> Backend | None:
        """The graphics card on which EM is to run, or None."""
        backend = card_of(self.device, source)
        return None if self._cpu_only else backend

    def _placed(self, source: Source, backend: Backend, pinned_bytes: int | None = None) -> PlacedSource:
        scratch = scratch_of(source, self._family(source.n_features), self.n_components)
        cuts = 16 if self.solver == "incremental" else 1
        return placed(source, backend, cuts=cuts, scratch=scratch, pinned_bytes=pinned_bytes)

    def _memory_plan(
        self, source: Source, executor: Executor, backend: Backend | None = None
    ) -> tuple[MemoryPlan, Peak]:
        """Plan for `memory_limit`, and a gauge that starts at the size of the process without data."""
        K, D = self.n_components, source.n_features
        given = all(value is not None for value in (self.weights_init, self.means_init, self.precisions_init))
        sampled = 0 if given or self._goes_on else self._sample_rows(D)
        chosen, saved = self._family(D), self.checkpoint is not None
        shape = Shape(chosen, K, D, self.n_init, sampled, {"incremental": 32, "stepwise": 3}.get(self.solver, 0), saved)
        plan = plan_memory(
            source, shape, limit=self.memory_limit, n_jobs=executor.threads_per_process,
            elsewhere=not isinstance(executor, Threads), pins=backend is not None,
        )  # fmt: skip
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

    # Streams ----------------------------------------------------------------------------------------------------------

    def partial_fit(self, X: Readable, y: object = None, sample_weight: ArrayLike | None = None) -> Self:
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
        if isinstance(X, Iterator):
            for batch in X:
                self.partial_fit(batch)
            return self
        if not is_array_like(X):
            source = self._training_source(X, sample_weight, reset=self._fresh)
            for chunk in source.chunks():
                self._learn(*chunk.load(), chunk)
            return self
        rows = X if self._plain(X) else np.ascontiguousarray(self._checked(X, self._fresh, 1), np.float64)
        self._learn(rows, check_weight(sample_weight, len(rows)))
        return self

    def _plain(self, X: Readable) -> TypeGuard[Array]:
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
        settings = {name: getattr(self, name) for name in ("prior", "noise", "missing") if hasattr(self, name)}
        check_settings(settings, self.projection_ is not None)
        last = self._learner or self.__dict__.get("mixture_")
        if last is not None:
            check_unchanged(last, self.n_components, self._family(self.n_features_in_))

    @property
    def _fresh(self) -> bool:
        return self._learner is None and "mixture_" not in self.__dict__

    def _learn(self, rows: Array, weight: Array | None, chunk: Chunk | None = None) -> list[StepReport]:
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
            made.restore(learner.state())
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
        self.report_ = FitReport({
            "solver": "stepwise",
            "rows": learner.rows_seen,
            "rows_waiting": learner.pending_rows,
            "rows_set_aside": learner.set_aside,
            "steps": learner.steps,
            "effective_sample_size": learner.effective_sample_size,
            "weight": learner.online.seen,
        })  # fmt: skip

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

    # Files ------------------------------------------------------------------------------------------------------------

    def __sklearn_tags__(self) -> Tags:
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
            "fitted": {name: getattr(self, name) for name in SAVED if hasattr(self, name)},
            "feature_names": list(self.feature_names_in_) if hasattr(self, "feature_names_in_") else None,
        }
        arrays = {**self._further_arrays(), **({} if self.projection_ is None else self.projection_.arrays())}
        arrays |= {} if self.gathering_ is None else self.gathering_.arrays()
        learner: Learner | None = getattr(self, "_learner", None)
        if learner is not None:
            arrays |= {STREAM + name: array for name, array in packed(learner.state()).items()}
        save_model(path, self.mixture_, header=header, arrays=arrays)

    def _further_arrays(self) -> dict[str, Any]:
        """Arrays of a model file beside those of a `Mixture`."""
        return {}

    @classmethod
    def _mixture_of(cls, content: ModelFile) -> Mixture:
        """The fitted model in a file."""
        return content.mixture
