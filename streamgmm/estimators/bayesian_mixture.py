"""`BayesianGaussianMixture`: variational inference of a mixture and of the number of its components."""

from __future__ import annotations

from functools import partial
from numbers import Integral, Real
from os import PathLike
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from streamgmm.em.candidates import Candidate, Candidates, Initialization, best
from streamgmm.em.convergence import RULES
from streamgmm.em.hooks import FitObserver
from streamgmm.em.initialization.initialize import check_same_kind
from streamgmm.em.initialization.methods import INIT
from streamgmm.em.initialization.multistart import KEPT
from streamgmm.em.kmeans.parallel_init import SPREAD
from streamgmm.em.online import Learner
from streamgmm.em.online.variational import VariationalLearner
from streamgmm.em.passes import Stage
from streamgmm.em.solvers import Settings
from streamgmm.em.variational import (
    VARIATIONAL_SOLVERS,
    Infer,
    VariationalBegin,
    VariationalBeginning,
    begin_variational,
    begin_variational_again,
)
from streamgmm.em.variational_moves import bench_rows
from streamgmm.em.variational_update import Proposal
from streamgmm.estimators._parameters import DEVICE, EXECUTION, NOT_NEGATIVE, POSITIVE, WHOLE
from streamgmm.estimators.fit_report import Clock, FitReport, report_of, warn_if_drowned, warn_unless_converged
from streamgmm.estimators.memory_plan import MemoryPlan
from streamgmm.estimators.mixture_estimator import MixtureEstimator
from streamgmm.estimators.model_file import ModelFile
from streamgmm.estimators.posterior_file import posterior_arrays, posterior_of
from streamgmm.mixture.covariance import FAMILIES, Covariance, family
from streamgmm.mixture.variational import (
    DISTRIBUTION,
    PROCESS,
    GaussWishart,
    PriorParameters,
    VariationalMixture,
    gauss_wishart,
    prior_under,
    used,
)
from streamgmm.runtime.checkpoint import Journal
from streamgmm.runtime.executors import Executor
from streamgmm.sources.base import Readable, Source, Writable
from streamgmm.sources.summaries.sample import SampleSummary, sample_size
from streamgmm.utils.types import RandomState

Array = NDArray[np.float64]

__all__ = ["BayesianGaussianMixture"]


def _lacks(name: str, instead: str) -> Any:
    """An attribute of `GaussianMixture` that a Bayesian mixture does not have."""

    def absent(self: object) -> NoReturn:
        raise AttributeError(f"BayesianGaussianMixture has no {name}: {instead}")

    return property(
        absent,
        doc=f"""Absent: {instead}

        Examples
        --------
        >>> import streamgmm as sg
        >>> hasattr(sg.BayesianGaussianMixture(), "{name}")
        False
        """,
    )


class BayesianGaussianMixture(MixtureEstimator):
    """Gaussian mixture whose number of components is inferred, by variational inference, one chunk at a time.

    Parameters
    ----------
    n_components : int, default 1
        Components allowed; as many are used as the evidence supports. `n_components_in_use_` counts them.
    covariance_type : {"full", "tied", "diag", "spherical"}, default "full"
    tol : float, default 1e-6
        With ``stopping="aitken"`` the fit stops when the estimated distance of the evidence lower bound from its limit
        is below `tol` nats per row; with ``"change"`` when the bound of all rows changes by less than `tol`
        (scikit-learn's rule, there with 1e-3).
    reg_covar : float, default 1e-6
        Added to the variance of every row, in squared units of the data.
    max_iter, n_init, random_state, warm_start, verbose, verbose_interval : as in `GaussianMixture`
    init_params : {"kmeans", "k-means++", "kmeans||", "random", "random_from_data"}, default "kmeans"
    responsibilities_init : (N, K) or (N,), optional
        Responsibilities of all rows, or their labels, to begin with.
    weight_concentration_prior_type : {"dirichlet_process", "dirichlet_distribution"}
    weight_concentration_prior : float > 0, optional
        Small values favour few components; 1 / n_components by default.
    mean_precision_prior : float > 0, optional
        Rows that the prior mean counts for; 1 by default.
    mean_prior : (D,), optional
        The mean of the data by default.
    degrees_of_freedom_prior : float > D - 1, optional
        D by default.
    covariance_prior : float or array-like, optional
        (D, D) for full and tied, (D,) for diag, a number for spherical; the covariance of the data by default, so that
        the units of the data do not matter.
    solver : {"auto", "exact", "incremental"}, default "auto"
        "exact" takes the steps of scikit-learn. "incremental" updates after every block (memoised variational
        inference, Hughes & Sudderth 2013). "auto" also merges, deletes and adds components where that raises the
        evidence.
    stopping : {"aitken", "change"}, default "aitken"
    half_life : float or None
        For `partial_fit`, as in `GaussianMixture`.
    executor, n_jobs, device, memory_limit, checkpoint, max_time : as in `GaussianMixture`

    Attributes
    ----------
    weights_, means_, covariances_, precisions_, precisions_cholesky_ : expected values, in scikit-learn's shapes
    weight_concentration_ : (K,), or for a process two arrays (K,)
    mean_precision_ : (K,)
    degrees_of_freedom_ : (K,), or a number for tied
    weight_concentration_prior_, mean_precision_prior_, mean_prior_, degrees_of_freedom_prior_, covariance_prior_
        The prior that was used.
    n_components_in_use_ : int
        Components that hold more than one row; `components_in_use_` has their numbers.
    lower_bounds_ : list of float
        The exact evidence lower bound of each E-step, in nats, of all rows.
    lower_bound_ : float
        scikit-learn's: the bound after the last M-step without the terms that are constant.
    mixture_ : VariationalMixture
    converged_, n_iter_, n_passes_, gathering_, report_ : as in `GaussianMixture`

    References
    ----------
    Bishop, Pattern Recognition and Machine Learning (2006), section 10.2. Blei & Jordan, Variational inference for
    Dirichlet process mixtures (2006). Hughes & Sudderth, Memoized online variational inference (2013).

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(m, 1.0, size=(200, 2)) for m in (-9.0, 0.0, 9.0)])
    >>> sg.BayesianGaussianMixture(8, random_state=0).fit(X).n_components_in_use_
    3
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [WHOLE],
        "covariance_type": [StrOptions(set(FAMILIES)), Covariance],
        "tol": [NOT_NEGATIVE],
        "reg_covar": [NOT_NEGATIVE],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [WHOLE],
        "init_params": [StrOptions({*INIT, SPREAD})],
        "responsibilities_init": ["array-like", None],
        "weight_concentration_prior_type": [StrOptions({PROCESS, DISTRIBUTION})],
        "weight_concentration_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "mean_precision_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "mean_prior": [None, "array-like"],
        "degrees_of_freedom_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "covariance_prior": [None, "array-like", Interval(Real, 0.0, None, closed="neither")],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [WHOLE],
        "solver": [StrOptions(set(VARIATIONAL_SOLVERS))],
        "stopping": [StrOptions(set(RULES))],
        **EXECUTION,
        **DEVICE,
        "half_life": [POSITIVE, None],
        "memory_limit": [str, WHOLE, None],
        "checkpoint": [str, PathLike, None],
        "max_time": [POSITIVE, None],
    }

    report_: FitReport

    # What `GaussianMixture` has as parameters.
    weights_init = means_init = precisions_init = prior = noise = n_factors = None
    missing, on_collapse, moves = "error", "repair", 0

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-6,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        responsibilities_init: ArrayLike | None = None,
        weight_concentration_prior_type: str = PROCESS,
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float | None = None,
        mean_prior: ArrayLike | None = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: ArrayLike | None = None,
        random_state: RandomState = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        solver: str = "auto",
        stopping: str = "aitken",
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
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.responsibilities_init = responsibilities_init
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.solver = solver
        self.stopping = stopping
        self.executor = executor
        self.n_jobs = n_jobs
        self.device = device
        self.memory_limit = memory_limit
        self.checkpoint = checkpoint
        self.max_time = max_time
        self.half_life = half_life

    # Fitting ----------------------------------------------------------------------------------------------------

    def _begin(
        self,
        source: Source,
        reader: Executor,
        executor: Executor,
        journal: Journal,
        memory_plan: MemoryPlan,
        watcher: FitObserver | None,
    ) -> Initialization:
        chosen, D = family(self.covariance_type), source.n_features
        if self._goes_on:
            return self._begin_again(chosen, D)
        wanted = VariationalBeginning(
            family=chosen,
            n_components=self.n_components,
            init=self.init_params,
            n_init=self.n_init,
            reg_covar=self.reg_covar,
            tol=self.tol if self.stopping == "aitken" else 1e-6,
            prior=partial(self._prior_of, chosen, D),
            responsibilities=self._responsibilities(),
            searches=self.solver == "auto" and self.max_iter > 0,
            sample_rows=memory_plan.sample_rows or self._sample_rows(D),
            threads=memory_plan.starts,
        )
        begun = begin_variational(
            wanted, source, reader, executor, lambda: journal.generator(self.random_state), journal
        )
        journal.forget("sample", *KEPT)
        return begun

    def _begin_again(self, chosen: Covariance, D: int) -> VariationalBegin:
        """From where the last fit ended, if it was of the same kind."""
        last = self._posterior
        check_same_kind(last, chosen, (self.n_components, D))
        prior = prior_under(last.prior, self._given_prior, self.weight_concentration_prior_type)
        count = float(self.report_.get("weight", 1.0))
        trace = tuple(value / count for value in self.lower_bounds_)
        return begin_variational_again(last, trace, prior, self.reg_covar)

    def _new_learner(self, *shape: Any, **options: Any) -> Learner:
        _, D, chosen = shape
        return VariationalLearner(*shape, prior_of=partial(self._prior, chosen, D), **options)

    def _prior_of(self, chosen: Covariance, D: int, sample: SampleSummary) -> GaussWishart:
        covariance = sample.covariance * (sample.count / max(sample.count - 1.0, 1.0))
        return self._prior(chosen, D, sample.mean, covariance)

    def _prior(self, chosen: Covariance, D: int, mean: Array, covariance: Array) -> GaussWishart:
        return gauss_wishart(
            chosen,
            self.n_components,
            D,
            self._given_prior,
            weight_type=self.weight_concentration_prior_type,
            data_mean=mean,
            data_covariance=covariance,
            reg_covar=self.reg_covar,
        )

    @property
    def _given_prior(self) -> PriorParameters:
        return PriorParameters(
            self.weight_concentration_prior,
            self.mean_precision_prior,
            self.mean_prior,
            self.degrees_of_freedom_prior,
            self.covariance_prior,
        )

    def _check_settings(self) -> None:
        super()._check_settings()
        if self._fresh and self.responsibilities_init is not None:
            raise ValueError(
                "partial_fit: responsibilities_init is of all rows, which a stream does not have yet. Set "
                "responsibilities_init=None, or use fit first."
            )
        learner = self._learner
        last = learner.prior if isinstance(learner, VariationalLearner) else None
        if last is None and "mixture_" in self.__dict__:
            last = self._posterior.prior
        if last is not None and prior_under(last, self._given_prior, self.weight_concentration_prior_type) is not last:
            raise ValueError(
                "partial_fit: the model so far has another prior than the parameters name. Set the parameters of the "
                "prior back, or begin with a new estimator: sklearn.base.clone(gm)."
            )

    def _responsibilities(self) -> NDArray[Any] | None:
        """`responsibilities_init`, checked."""
        if self.responsibilities_init is None:
            return None
        given, K = np.asarray(self.responsibilities_init), self.n_components
        if given.ndim == 1 and given.dtype.kind in "iu" and len(given) and given.min() >= 0 and given.max() < K:
            return given
        if given.ndim == 2 and given.shape[1] == K and given.dtype.kind in "biuf":
            given = given.astype(np.float64)
            if np.isfinite(given).all() and (given >= 0).all() and np.allclose(given.sum(axis=1), 1.0, atol=1e-6):
                return given
        raise ValueError(
            f"responsibilities_init: expected shares (N, {K}) >= 0 whose rows sum to 1, or labels (N,) from 0 to "
            f"{K - 1}; got an array of shape {given.shape} and type {given.dtype}."
        )

    def _sample_rows(self, n_features: int) -> int:
        K = self.n_components
        many = bench_rows(K, n_features) if self.solver == "auto" else 0
        return sample_size(K, n_features, least=max(10_000, many))

    def _stages(self, begun: Initialization, source: Source, executor: Executor) -> tuple[Stage, ...]:
        assert isinstance(begun, VariationalBegin)
        count = begun.sample.count if begun.sample is not None else float(self.report_.get("weight", 1.0))
        tol = self.tol / count if self.stopping == "change" else self.tol
        settings = Settings(
            self.n_components, source.n_features, Infer(self.reg_covar, posterior=begun.posterior),
            RULES[self.stopping](tol), tol, self.max_iter, executor, begun.sample, source.n_rows,
        )  # fmt: skip
        return VARIATIONAL_SOLVERS[self.solver](settings)

    def _finish(self, candidates: Candidates, begun: Initialization, n_passes: int, clock: Clock) -> None:
        candidates = tuple(one for one in candidates if not isinstance(one, Proposal))
        winner = best(candidates)
        model = winner.accepted
        assert isinstance(model, VariationalMixture)
        count = 0.0 if winner.last is None else winner.last.count
        self.mixture_ = model.padded()
        self.converged_ = winner.status == "converged"
        self.n_iter_ = winner.n_iter
        self.lower_bounds_ = [value * count for value in winner.trace]
        self.lower_bound_ = -np.inf if winner.last is None else self._posterior.simplified_bound + winner.last.entropy
        self.n_passes_ = n_passes
        report = report_of(candidates, begun, solver=self.solver, n_passes=n_passes, clock=clock)
        for name in ("bic", "aic", "icl", "loglik", "criteria"):  # of a likelihood, which this is not
            report.pop(name, None)
        report |= {
            "moves": self._moves(begun, winner),
            "repairs": [],
            "objective": "evidence lower bound per row",
            "components_in_use": self.n_components_in_use_,
        }
        self.report_ = report
        if self.max_iter > 0:
            warn_unless_converged(candidates, self.tol, self.max_iter, stacklevel=6)
            warn_if_drowned(self.mixture_, self.reg_covar, self._names_here, stacklevel=6)

    @staticmethod
    def _moves(begun: Initialization, winner: Candidate) -> dict[str, int]:
        """Changes of the number of components, on the sample and on all rows."""
        assert isinstance(begun, VariationalBegin)
        counts = dict.fromkeys(("merged", "deleted", "born"), 0) | begun.moves
        for event in winner.repairs:
            if event["action"] in counts:
                counts[event["action"]] += 1
        return counts

    # The posterior ----------------------------------------------------------------------------------------------

    @property
    def _posterior(self) -> VariationalMixture:
        model = self._model()
        assert isinstance(model, VariationalMixture)
        return model

    @property
    def weight_concentration_(self) -> Array | tuple[Array, Array]:
        """Parameters of the weights: (K,) of a Dirichlet distribution, or the two (K,) of a process's sticks.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.BayesianGaussianMixture(2, random_state=0).fit([[0.0], [1.0], [8.0], [9.0]])
        >>> len(gm.weight_concentration_)
        2
        """
        found = self._posterior.concentration
        return (found[0], found[1]) if self._posterior.prior.process else found

    @property
    def mean_precision_(self) -> Array:
        """(K,) rows behind each mean, the prior's included.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.BayesianGaussianMixture(2, random_state=0).fit([[0.0], [1.0], [8.0], [9.0]])
        >>> round(float(gm.mean_precision_.sum()), 6)
        6.0
        """
        return self._posterior.mean_precision

    @property
    def degrees_of_freedom_(self) -> float | Array:
        """(K,) degrees of freedom of the Wishart distributions; a number for tied.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.BayesianGaussianMixture(2, random_state=0).fit([[0.0], [1.0], [8.0], [9.0]])
        >>> gm.degrees_of_freedom_.shape
        (2,)
        """
        found = self._posterior.dof
        return float(found) if found.ndim == 0 else found

    @property
    def weight_concentration_prior_(self) -> float:
        """The concentration that was used.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.BayesianGaussianMixture(2, random_state=0).fit([[0.0], [1.0], [8.0], [9.0]])
        >>> gm.weight_concentration_prior_
        0.5
        """
        return self._posterior.prior.concentration

    @property
    def mean_precision_prior_(self) -> float:
        """The precision of the prior means that was used.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.BayesianGaussianMixture(2, random_state=0).fit([[0.0], [1.0], [8.0], [9.0]])
        >>> gm.mean_precision_prior_
        1.0
        """
        return self._posterior.prior.mean_precision

    @property
    def mean_prior_(self) -> Array:
        """(D,) the prior mean that was used.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.BayesianGaussianMixture(2, random_state=0).fit([[0.0], [1.0], [8.0], [9.0]])
        >>> gm.mean_prior_
        array([4.5])
        """
        return self._posterior.prior.mean

    @property
    def degrees_of_freedom_prior_(self) -> float:
        """The degrees of freedom of the prior that were used.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.BayesianGaussianMixture(2, random_state=0).fit([[0.0], [1.0], [8.0], [9.0]])
        >>> gm.degrees_of_freedom_prior_
        1.0
        """
        return self._posterior.prior.dof

    @property
    def covariance_prior_(self) -> float | Array:
        """The prior covariance that was used: (D, D) for full and tied, (D,) for diag, a number for spherical.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.BayesianGaussianMixture(2, random_state=0).fit([[0.0], [1.0], [8.0], [9.0]])
        >>> gm.covariance_prior_.round(3)
        array([[21.667]])
        """
        scale = self._posterior.prior.scale
        return float(scale) if scale.ndim == 0 else scale

    @property
    def components_in_use_(self) -> NDArray[np.intp]:
        """Numbers of the components that hold more than one row.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.BayesianGaussianMixture(2, random_state=0).fit([[0.0], [1.0], [8.0], [9.0]])
        >>> gm.components_in_use_
        array([0])
        """
        return used(self._posterior)

    @property
    def n_components_in_use_(self) -> int:
        """Components that hold more than one row.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.BayesianGaussianMixture(2, random_state=0).fit([[0.0], [1.0], [8.0], [9.0]])
        >>> gm.n_components_in_use_
        1
        """
        return len(self.components_in_use_)

    @property
    def weight_deviations_(self) -> Array:
        """(K,) posterior standard deviations of the weights.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.BayesianGaussianMixture(1).fit([[0.0], [4.0]])
        >>> gm.weight_deviations_.shape
        (1,)
        """
        return self._posterior.weight_deviations

    def score_samples(self, X: Readable, *, out: Writable | None = None, predictive: bool = False) -> Any:
        """(N,) expected log-density of each row, in nats; `X` and `out` as in `predict`.

        Parameters
        ----------
        predictive : bool, default False
            Instead the log posterior predictive density, a mixture of Student t distributions, which integrates to 1
            and accounts for the uncertainty of all parameters. On the CPU.

        Examples
        --------
        >>> import streamgmm as sg
        >>> gm = sg.BayesianGaussianMixture(1).fit([[0.0], [1.0], [3.0], [4.0]])
        >>> near, far = gm.score_samples([[2.0], [40.0]], predictive=True)
        >>> bool(far > gm.score_samples([[40.0]])[0])  # heavier tails
        True
        """
        if not predictive:
            return super().score_samples(X, out=out)
        check_is_fitted(self)
        return self._ask(X, self._before_projection(self.mixture_), "predictive", out=out)

    # Files ------------------------------------------------------------------------------------------------------

    def _further_arrays(self) -> dict[str, Array]:
        return posterior_arrays(self._posterior)

    @classmethod
    def _mixture_of(cls, content: ModelFile) -> VariationalMixture:
        return posterior_of(content.arrays, content.mixture.family, content.mixture.means, content.mixture.covariances)

    bic = _lacks("bic", "compare evidence, `lower_bounds_[-1]`.")
    aic = _lacks("aic", "compare evidence, `lower_bounds_[-1]`.")
    icl = _lacks("icl", "compare evidence, `lower_bounds_[-1]`.")
    to_sklearn = _lacks("to_sklearn", "a GaussianMixture made by `from_parameters` can hold the expected values.")
    from_sklearn = _lacks("from_sklearn", "a posterior is more than the parameters of a mixture.")
    from_parameters = _lacks("from_parameters", "a posterior is more than the parameters of a mixture.")
    from_factors = _lacks("from_factors", "a posterior is more than the parameters of a mixture.")
    to_json = _lacks("to_json", "`save` writes a file.")
    from_json = _lacks("from_json", "`streamgmm.load` reads a file.")
