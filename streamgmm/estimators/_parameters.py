"""The parameters of estimators: what is allowed, once for all of them, and those of a mixture."""

from __future__ import annotations

from numbers import Integral, Real
from os import PathLike
from typing import Any, ClassVar

from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions

from streamgmm.em.convergence import RULES
from streamgmm.em.initialization.methods import INIT
from streamgmm.em.kmeans.parallel_init import SPREAD
from streamgmm.em.solvers import SOLVERS
from streamgmm.mixture.covariance import FACTORS, FAMILIES, MCLUST, Covariance, family
from streamgmm.mixture.init_parameters import Given, given_parameters
from streamgmm.mixture.prior import NormalInverseWishart
from streamgmm.runtime.executors import Executor

__all__ = ["DEVICE", "EXECUTION", "FAMILY", "NOT_NEGATIVE", "POSITIVE", "WHOLE", "MixtureParameters"]

WHOLE = Interval(Integral, 1, None, closed="left")
NOT_NEGATIVE = Interval(Real, 0.0, None, closed="left")
POSITIVE = Interval(Real, 0.0, None, closed="neither")
FAMILY = StrOptions({*FAMILIES, *MCLUST})
EXECUTION: dict[str, list[Any]] = {
    "executor": [StrOptions({"threads", "dask"}), Executor, None],
    "n_jobs": [Integral, None],
}
DEVICE: dict[str, list[Any]] = {"device": [str, None]}
"""Of every estimator that reads."""


class MixtureParameters(BaseEstimator):
    """The parameters of `streamgmm.GaussianMixture`, which says what each of them means."""

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
        random_state: Any = None,
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
        executor: Any = None,
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

    # Python names the function where an argument is not known; this is the one that the user called.
    __init__.__qualname__ = "GaussianMixture.__init__"

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
