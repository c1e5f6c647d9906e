"""`GaussianMixture`: its parameters, how its fit begins and ends, and its ways to other libraries."""

from __future__ import annotations

from numbers import Integral
from os import PathLike
from typing import Any, ClassVar, Self, cast

from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, StrOptions

from streamgmm.em.candidates import Candidates, Initialization, best
from streamgmm.em.convergence import RULES
from streamgmm.em.hooks import FitObserver
from streamgmm.em.initialization.initialize import InitSettings, begin, begin_again
from streamgmm.em.initialization.methods import INIT
from streamgmm.em.initialization.multistart import KEPT
from streamgmm.em.initialization.search_settings import sample_rows
from streamgmm.em.kmeans.parallel_init import SPREAD
from streamgmm.em.passes import Stage
from streamgmm.em.solvers import SOLVERS, Settings
from streamgmm.em.update import Maximize
from streamgmm.estimators import conversion
from streamgmm.estimators._parameters import DEVICE, EXECUTION, NOT_NEGATIVE, POSITIVE, WHOLE
from streamgmm.estimators.fit_report import Clock, report_of, warn_if_drowned, warn_unless_converged
from streamgmm.estimators.memory_plan import MemoryPlan
from streamgmm.estimators.mixture_estimator import MixtureEstimator
from streamgmm.mixture.covariance import FACTORS, FAMILIES, MCLUST, Covariance, family
from streamgmm.mixture.init_parameters import Given, given_parameters
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.prior import NormalInverseWishart
from streamgmm.runtime.checkpoint import Journal
from streamgmm.runtime.executors import Executor
from streamgmm.sources.base import Source
from streamgmm.utils.types import RandomState


class GaussianMixture(MixtureEstimator):
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
        How first models are drawn, from a sample that one pass takes, in whitened units; "kmeans" in those of the
        data where that is much better. "kmeans||" (k-means‖, Bahmani et al. 2012) draws among all rows, and makes the
        models of all rows, in 7 more passes that all starts share: for groups too small to be in a sample.
    weights_init, means_init, precisions_init : array-like, optional
        As in scikit-learn.
    random_state : int, RandomState or None
    warm_start : bool, default False
        Go on from the parameters of the last fit. Of the other parameters those of now hold; a prior keeps what it took
        from the data of the last fit.
    verbose, verbose_interval : int
        1: one line of live progress in a terminal or notebook (the pass, chunks, rows per second, the log-likelihood,
        its distance to the limit, the time left), elsewhere a printed line every `verbose_interval` passes. 2: printed
        lines everywhere.
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
    gathering_ : what was done to rows far from all others, which `warm_start` does as well; None for nearly all data
    report_ : dict; `print` and notebooks show a short form
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

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [WHOLE],
        "covariance_type": [StrOptions({*FAMILIES, *MCLUST, *FACTORS}), Covariance],
        "n_factors": [WHOLE, None],
        "tol": [NOT_NEGATIVE],
        "reg_covar": [NOT_NEGATIVE],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [WHOLE],
        "init_params": [StrOptions({*INIT, SPREAD})],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [WHOLE],
        "solver": [StrOptions(set(SOLVERS))],
        "moves": [Interval(Integral, 0, None, closed="left")],
        "stopping": [StrOptions(set(RULES))],
        "missing": [StrOptions({"error", "marginalize"})],
        "on_collapse": [StrOptions({"repair", "raise"})],
        "prior": [StrOptions({"default"}), NormalInverseWishart, None],
        "noise": [StrOptions({"uniform"}), None],
        **EXECUTION,
        **DEVICE,
        "half_life": [POSITIVE, None],
        "memory_limit": [str, WHOLE, None],
        "checkpoint": [str, PathLike, None],
        "max_time": [POSITIVE, None],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        n_factors: int | None = None,
        tol: float = 1e-6,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: ArrayLike | None = None,
        means_init: ArrayLike | None = None,
        precisions_init: ArrayLike | None = None,
        random_state: RandomState = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        solver: str = "auto",
        moves: int = 0,
        stopping: str = "aitken",
        missing: str = "error",
        on_collapse: str = "repair",
        prior: str | NormalInverseWishart | None = None,
        noise: str | None = None,
        executor: Executor | str | None = None,
        n_jobs: int | None = None,
        device: str | None = None,
        memory_limit: str | int | None = None,
        checkpoint: str | PathLike[str] | None = None,
        max_time: float | None = None,
        half_life: float | None = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.n_factors = n_factors
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.solver = solver
        self.moves = moves
        self.stopping = stopping
        self.missing = missing
        self.on_collapse = on_collapse
        self.prior = prior
        self.noise = noise
        self.executor = executor
        self.n_jobs = n_jobs
        self.device = device
        self.memory_limit = memory_limit
        self.checkpoint = checkpoint
        self.max_time = max_time
        self.half_life = half_life

    def _family(self, n_features: int) -> Covariance:
        """The covariance family that the parameters name, checked against them."""
        chosen = family(self.covariance_type, self.n_factors)
        chosen.check_features(n_features)
        if chosen.n_factors and self.solver == "incremental":
            raise ValueError(
                f"solver='incremental' adds up factors of different models, which covariance_type "
                f"{self.covariance_type!r} cannot. Use solver='auto'."
            )
        if chosen.n_factors and self.device not in (None, "cpu"):
            raise ValueError(
                f"device={self.device!r}: covariance_type {self.covariance_type!r} runs on the CPU. Set device=None."
            )
        if chosen.n_factors and self.init_params == SPREAD:
            raise ValueError(
                f"init_params={SPREAD!r} makes first models chunk by chunk, and factors of two chunks differ. Use "
                f"init_params='kmeans' with covariance_type {self.covariance_type!r}."
            )
        return chosen

    def _given(self, family: Covariance, D: int) -> Given:
        """`weights_init`, `means_init` and `precisions_init`, checked."""
        return given_parameters(
            family, self.n_components, D, weights=self.weights_init, means=self.means_init,
            precisions=self.precisions_init, noise=self.noise is not None,
        )  # fmt: skip

    # How a fit begins and ends ----------------------------------------------------------------------------------------

    def _begin(
        self,
        source: Source,
        reader: Executor,
        executor: Executor,
        journal: Journal,
        memory_plan: MemoryPlan,
        watcher: FitObserver | None,
    ) -> Initialization:
        """Start of the fit; see `em.initialization.initialize`. `reader` reads the data, `executor` the sample."""
        K, D = self.n_components, source.n_features
        chosen = self._family(D)
        solves = self.max_iter > 0 and self.tol > 0  # tol=0 asks for every iteration, and gets it
        wanted = InitSettings(
            chosen, K, D, self._given(chosen, D), self.init_params, self.n_init, self.moves, self.missing,
            NormalInverseWishart() if isinstance(self.prior, str) else self.prior, self.noise is not None,
            self.reg_covar, self.on_collapse == "repair", solves, self.solver == "auto",
            memory_plan.sample_rows or self._sample_rows(D), memory_plan.starts,
        )  # fmt: skip
        if self._goes_on:
            trace, prior = tuple(self.lower_bounds_), getattr(self, "prior_", None)
            return begin_again(self.mixture_, trace, prior, wanted, source, reader)
        begun = begin(
            wanted, source, reader, executor, lambda: journal.generator(self.random_state), watcher, journal
        )  # fmt: skip
        journal.forget("sample", *KEPT)
        return begun

    def _sample_rows(self, n_features: int) -> int:
        many = self.solver == "auto" and self.n_init > 1
        return sample_rows(self.n_components, n_features, self._family(n_features), rich=many)

    def _stages(self, begun: Initialization, source: Source, executor: Executor) -> tuple[Stage, ...]:
        """Solver that carries the candidates on, pass by pass."""
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
            warn_unless_converged(candidates, self.tol, self.max_iter, stacklevel=6)
            warn_if_drowned(self.mixture_, self.reg_covar, self._names_here, stacklevel=6)

    # Other libraries --------------------------------------------------------------------------------------------------

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
    def from_sklearn(cls, model: object) -> Self:
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
