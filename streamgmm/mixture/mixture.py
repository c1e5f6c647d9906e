"""A Gaussian mixture as a frozen value, and what can be asked of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.errors import NonFiniteRowError
from streamgmm.kernels.locks import process_lock
from streamgmm.kernels.plan import Plan
from streamgmm.mixture import card, queries
from streamgmm.mixture._evaluator import Prepared, pieces
from streamgmm.mixture.covariance import Covariance, check_covariances, family
from streamgmm.mixture.missing import Answers
from streamgmm.mixture.observation import Observation, observed
from streamgmm.mixture.parameters import checked_factors, checked_rows, checked_weights
from streamgmm.mixture.placement import empty_like
from streamgmm.mixture.stats import Stats, in_units, stats_from_sums
from streamgmm.utils.affine import Affine
from streamgmm.utils.sample_weight import check_weight

Array = NDArray[np.float64]


_preparing = process_lock()
"""Held while a mixture is made ready: all threads of a pass ask for it when they begin, and one of them makes it."""


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Mixture:
    """K Gaussians with weights: p(x) = sum_k weights[k] N(x | means[k], covariances[k]).

    Parameters
    ----------
    weights : (K,) >= 0, summing to 1 (with `noise_weight`)
    means : (K, D)
    covariances : full (K, D, D), tied (D, D), diag (K, D), spherical (K,); of factor analysers (K, D, q + 1), loadings
        and noise variances: see `from_factors`
    covariance_type : {"full", "tied", "diag", "spherical"}, one of mclust's identifiers, or a `Covariance`
    noise_weight : float, default 0
        Weight of a background with constant density over `box`.
    box : (2, D), optional
        Lower and upper corners of the background. Its density 1 / V is used for rows outside too, so that a new row far
        away is background rather than impossible.
    missing : {"error", "marginalize"}, default "error"
        Whether NaN in a row is an error, or an entry that was not observed and is integrated out.

    Raises
    ------
    ValueError
        Where shapes do not agree, a number is not finite, the weights do not sum to 1, or a covariance is not positive
        definite.

    Examples
    --------
    >>> import streamgmm as sg
    >>> pair = sg.Mixture([0.5, 0.5], [[-2.0], [2.0]], [[1.0], [1.0]], covariance_type="diag")
    >>> pair.responsibilities([[0.0]])
    array([[0.5, 0.5]])
    """

    weights: Array
    means: Array
    covariances: Array
    family: Covariance
    factors: Array = field(repr=False)
    noise_weight: float
    observation: Observation | None
    _prepared: Prepared | None = field(repr=False)

    def __init__(
        self,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
        covariance_type: str | Covariance = "full",
        *,
        noise_weight: float = 0.0,
        box: ArrayLike | None = None,
        missing: str = "error",
    ) -> None:
        chosen = family(covariance_type)
        w, mu = checked_weights(weights, means, noise_weight)
        if noise_weight > 0 and box is None:
            raise ValueError("noise_weight > 0 needs the box of the background, shape (2, D); got None.")
        sigma = check_covariances(chosen, covariances, *mu.shape)
        factors, good = chosen.factor(sigma)
        if not good.all():
            raise ValueError(
                f"covariances must be positive definite; component(s) {np.flatnonzero(~good).tolist()} are not. "
                "Add a small value to their diagonal (reg_covar)."
            )
        self._set(w, mu, sigma, chosen, factors, float(noise_weight), observed(box, missing, mu.shape[1]))

    def _set(
        self,
        weights: Array,
        means: Array,
        covariances: Array,
        chosen: Covariance,
        factors: Array,
        noise_weight: float = 0.0,
        observation: Observation | None = None,
    ) -> None:
        for array in (weights, means, covariances, factors):
            array.flags.writeable = False
        put = partial(object.__setattr__, self)
        put("weights", weights)
        put("means", means)
        put("covariances", covariances)
        put("family", chosen)
        put("factors", factors)
        put("noise_weight", noise_weight)
        put("observation", observation)
        put("_prepared", None)

    @classmethod
    def from_factors(
        cls,
        weights: ArrayLike,
        means: ArrayLike,
        loadings: ArrayLike,
        noise_variance: ArrayLike,
        covariance_type: str = "factor",
        **kwargs: Any,
    ) -> Mixture:
        """A mixture of factor analysers: covariances are loadings loadings^T plus diagonals.

        Parameters
        ----------
        loadings : (K, D, q)
        noise_variance : (K, D), or whatever broadcasts to that
        covariance_type : {"factor", "factor-shared", "ppca"}
        kwargs : `noise_weight`, `box`, `missing` as above

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.Mixture.from_factors([1.0], [[0.0, 0.0]], [[[1.0], [1.0]]], 0.5).moments()[1]
        array([[1.5, 1. ],
               [1. , 1.5]])
        """
        columns = checked_factors(loadings, noise_variance)
        chosen = family(covariance_type, columns.shape[2] - 1)
        packed = chosen.constrained(columns, np.array(weights, np.float64), columns.shape[1])
        return cls(weights, means, packed, chosen, **kwargs)

    @classmethod
    def trusted(
        cls,
        weights: Array,
        means: Array,
        covariances: Array,
        chosen: Covariance,
        factors: Array,
        noise_weight: float = 0.0,
        observation: Observation | None = None,
    ) -> Mixture:
        """A mixture from parts that are known to be right; nothing is copied or checked.

        Examples
        --------
        >>> import streamgmm as sg
        >>> pair = sg.Mixture([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> swapped = pair.weights[::-1], pair.means[::-1], pair.covariances, pair.family, pair.factors
        >>> sg.Mixture.trusted(*swapped).labels([[0.0]])
        array([1])
        """
        self = object.__new__(Mixture)  # plain parameters, even when asked of a subclass
        self._set(weights, means, covariances, chosen, factors, noise_weight, observation)
        return self

    def observing(self, observation: Observation | None, noise_weight: float | None = None) -> Mixture:
        """The same components, with another background and treatment of missing entries.

        Parameters
        ----------
        noise_weight : share of the background, taken from all components alike; None keeps it, so far as there is one

        Examples
        --------
        >>> import streamgmm as sg
        >>> pair = sg.Mixture([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> noisy = sg.Mixture([0.8], [[0.0]], [1.0], "spherical", noise_weight=0.2, box=[[-9.0], [9.0]])
        >>> pair.observing(noisy.observation, noise_weight=0.2).weights
        array([0.4, 0.4])
        """
        box = None if observation is None else observation.box
        noise = 0.0 if box is None else self.noise_weight if noise_weight is None else noise_weight
        weights = self.weights if noise == self.noise_weight else self.weights * ((1.0 - noise) / self.weights.sum())
        return Mixture.trusted(weights, self.means, self.covariances, self.family, self.factors, noise, observation)

    def __repr__(self) -> str:
        K, D = self.means.shape
        return f"Mixture(n_components={K}, n_features={D}, covariance_type={self.family.name!r})"

    def _repr_html_(self) -> str:
        return card.whole_card(self)

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.weights, self.means, self.covariances, self.family, self.factors)
        return Mixture.trusted, (*parts, self.noise_weight, self.observation)

    @property
    def n_components(self) -> int:
        """K, without the background."""
        return int(self.means.shape[0])

    @property
    def n_features(self) -> int:
        """D."""
        return int(self.means.shape[1])

    @property
    def n_parameters(self) -> int:
        """Degrees of freedom: K - 1 weights (K with a background), K D means, and those of the covariances."""
        K, D = self.means.shape
        return K - (self.box is None) + K * D + self.family.n_parameters(K, D)

    @property
    def box(self) -> Array | None:
        """(2, D) lower and upper corners of the background, or None."""
        return None if self.observation is None else self.observation.box

    @property
    def log_volume(self) -> float:
        """Log of the volume of the background's box, in nats; infinity where there is no background."""
        return float("inf") if self.box is None else float(np.log(self.box[1] - self.box[0]).sum())

    @property
    def missing(self) -> bool:
        """True if NaN is an entry that was not observed; otherwise it is an error."""
        return self.observation is not None and self.observation.missing

    @property
    def stats_bytes(self) -> int:
        """Memory of one `Stats` of this mixture."""
        K, D = self.means.shape
        return 8 * (K + K * D + math.prod(self.family.scatter_shape(K, D)))

    @property
    def precisions_cholesky(self) -> Array:
        """Upper triangular U with U U^T = precision (full, tied), reciprocal deviations (diag, spherical)."""
        return self.family.precisions_cholesky(self.factors)

    @property
    def shares(self) -> Array:
        """(K,) what each component has of the rows: its weight, less what a prior adds to it."""
        return self.weights

    def with_parameters(
        self, shares: Array, means: Array, covariances: Array, factors: Array, noise_weight: float = 0.0
    ) -> Mixture:
        """A model of the same kind with other parameters; nothing is copied or checked.

        Examples
        --------
        >>> import streamgmm as sg
        >>> pair = sg.Mixture([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> pair.with_parameters(pair.weights[::-1], pair.means[::-1], pair.covariances, pair.factors).labels([[0.0]])
        array([1])
        """
        return Mixture.trusted(shares, means, covariances, self.family, factors, noise_weight, self.observation)

    def plan(self, base: float) -> tuple[Plan, Array]:
        """Plan for the kernels, and the `spread` of its frame; `base` is the log-density of the background.

        Examples
        --------
        >>> import streamgmm as sg
        >>> plan, spread = sg.Mixture([1.0], [[7.0]], [4.0], "spherical").plan(-float("inf"))
        >>> plan.shift, spread
        (array([7.]), array([2.]))
        """
        return self.family.plan(self.weights, self.means, self.covariances, self.factors, base)

    def _prepare(self) -> Prepared:
        if self._prepared is None:
            with _preparing:
                if self._prepared is None:
                    object.__setattr__(self, "_prepared", Prepared.from_model(copy(self)))
        assert self._prepared is not None
        return self._prepared

    def through(self, affine: Affine) -> Self | None:
        """This mixture, to be asked about rows that `affine` has still to move: the map becomes part of its whitening.

        Statistics and answers are those of the moved rows. None where the map cannot be taken in: with missing entries,
        and where it would cost digits (`Affine.before`).

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> from streamgmm.utils.affine import Affine
        >>> doubled = sg.Mixture([1.0], [[0.0]], [1.0], "spherical").through(Affine(np.zeros(1), np.array([2.0])))
        >>> doubled.log_prob([[1.0]]).round(4)  # log N(2 | 0, 1)
        array([-2.9189])
        """
        prepared = None if self.missing else self._prepare().behind(affine)
        if prepared is None:
            return None
        view = copy(self)
        object.__setattr__(view, "_prepared", prepared)
        return view

    @property
    def frame(self) -> tuple[Array, Array]:
        """Coordinates z, x = shift + spread z, in which this mixture's overall covariance is about one.

        shift (D,); spread lower triangular (D, D) for full and tied, scales (D,) for diag and spherical.
        """
        return self._prepare().origin, self._prepare().spread

    # Statistics -------------------------------------------------------------------------------------------------

    def frame_stats(self, rows: NDArray[Any], weight: Array | None = None) -> Stats:
        """Statistics of `rows` in this mixture's own coordinates; see `restore`.

        Kept there while chunks are merged, so that no offset of the data can cost a digit. Very large chunks are taken
        in pieces: rounding in a kernel's sums grows with rows.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> sg.Mixture([1.0], [[7.0]], [4.0], "spherical").frame_stats(np.array([[11.0]])).mean
        array([[2.]])
        """
        ready, total = self._prepare(), None
        for start, part, w in pieces(rows, weight):
            try:
                stats = ready.patterns.run(part, w, statistics=True)[0] if self.missing else None
                if stats is None:
                    sums = self.family.sums(ready.plan, part, w, statistics=True)
                    stats = stats_from_sums(self.family, sums, ready.plan)
            except NonFiniteRowError as error:
                raise NonFiniteRowError(start + error.row) from None
            total = stats if total is None else total.merge(stats)
        assert total is not None
        return total if self.observation is None else replace(total, observation=self.observation)

    def totals(self, rows: NDArray[Any], weight: Array | None = None) -> Array:
        """(5,) sums over `rows`: w log p, w entropy, w log max r, w, and rows of positive weight.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> sg.Mixture([1.0], [[0.0]], [1.0], "spherical").totals(np.array([[0.0]])).round(4)
        array([-0.9189,  0.    ,  0.    ,  1.    ,  1.    ])
        """
        ready = self._prepare()
        if self.missing:
            return ready.patterns.run(rows, weight, statistics=False)[1]
        return self.family.sums(ready.plan, rows, weight, statistics=False).totals

    def restore(self, stats: Stats) -> Stats:
        """The same statistics in the units of the data.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> one = sg.Mixture([1.0], [[7.0]], [4.0], "spherical")
        >>> one.restore(one.frame_stats(np.array([[11.0]]))).mean
        array([[11.]])
        """
        return in_units(stats, self.means, self._prepare().spread)

    def accumulate(self, X: ArrayLike, sample_weight: ArrayLike | None = None) -> Stats:
        """E-step: the expected sufficient statistics of the rows of X.

        Parameters
        ----------
        X : (N, D)
        sample_weight : (N,) >= 0, optional. 0 is no row, 2 is the row twice.

        Returns
        -------
        Stats
            In the units of the data; `Stats.maximize` turns it into the next mixture.

        Examples
        --------
        >>> import streamgmm as sg
        >>> stats = sg.Mixture([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical").accumulate([[2.0]])
        >>> stats.weight, stats.rows
        (array([0.5, 0.5]), 1)
        """
        rows = checked_rows(X, self.n_features)
        return self.restore(self.frame_stats(rows, check_weight(sample_weight, len(rows))))

    def log_prob(self, X: ArrayLike) -> Array:
        """(N,) log p(x) in nats.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.Mixture([1.0], [[0.0]], [1.0], "spherical").log_prob([[0.0], [2.0]]).round(4)
        array([-0.9189, -2.9189])
        """
        return answers(self, "log_prob", checked_rows(X, self.n_features))

    def responsibilities(self, X: ArrayLike) -> Array:
        """(N, K) posterior probabilities of the components; with a background (N, K + 1), its own last.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.Mixture([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical").responsibilities([[2.0]])
        array([[0.5, 0.5]])
        """
        return answers(self, "responsibilities", checked_rows(X, self.n_features))

    def labels(self, X: ArrayLike) -> NDArray[np.int64]:
        """(N,) most responsible component of each row, -1 for the background.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.Mixture([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical").labels([[-1.0], [5.0]])
        array([0, 1])
        """
        return answers(self, "labels", checked_rows(X, self.n_features))

    def impute(self, X: ArrayLike) -> Array:
        """(N, D) float64 rows with every NaN replaced by its conditional mean given what the row shows.

        Works whatever `missing` says: to ask is to permit. A row that shows nothing gets the mean of the mixture.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> sg.Mixture([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]]).impute([[2.0, np.nan]])
        array([[2., 1.]])
        """
        rows = checked_rows(X, self.n_features)
        out = np.empty(rows.shape)
        self._prepare().patterns.run(rows, None, statistics=False, answers=Answers(filled=out))
        return out

    def factor_scores(self, X: ArrayLike) -> Array:
        """(N, K, q) posterior means of the factors of each component, of factor analysers; NaN is not observed.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.Mixture.from_factors([1.0], [[0.0, 0.0]], [[[1.0], [1.0]]], 0.5).factor_scores([[1.0, 1.0]])
        array([[[0.8]]])
        """
        return queries.factor_scores(self.family, self._prepare().plan, checked_rows(X, self.n_features))

    def moments(self) -> tuple[Array, Array]:
        """Overall mean (D,) and covariance (D, D), background included.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.Mixture([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical").moments()
        (array([2.]), array([[5.]]))
        """
        return queries.moments(self)

    def marginal(self, features: Any) -> Mixture:
        """The distribution of some features, whatever the others are.

        Parameters
        ----------
        features : numbers of features, in the order wanted, or a boolean mask (D,)

        Examples
        --------
        >>> import streamgmm as sg
        >>> pair = sg.Mixture([0.5, 0.5], [[0.0, 1.0], [2.0, 3.0]], [[[1.0, 0.5], [0.5, 1.0]]] * 2)
        >>> pair.marginal([1]).means
        array([[1.],
               [3.]])
        """
        return queries.marginal(self, features)

    def condition(self, given: Mapping[int, float]) -> Mixture:
        """The distribution of the other features, in ascending order, where the `given` ones have these values.

        Parameters
        ----------
        given : {feature: value}

        Examples
        --------
        The prediction of feature 1 and its standard deviation, where feature 0 is 2:

        >>> import streamgmm as sg
        >>> line = sg.Mixture([1.0], [[0.0, 0.0]], [[[4.0, 2.0], [2.0, 2.0]]])
        >>> mean, covariance = line.condition({0: 2.0}).moments()
        >>> print(mean.round(6), covariance.round(6) ** 0.5)
        [1.] [[1.]]
        """
        return queries.condition(self, given)

    def regression(self, X: ArrayLike, given: Any) -> tuple[Array, Array]:
        """Predict the other features from the `given` ones: means (N, m) and covariances (N, m, m), a row each.

        Parameters
        ----------
        X : (N, d) values of the features `given`
        given : numbers of features, in the order of the columns of X

        Examples
        --------
        >>> import streamgmm as sg
        >>> line = sg.Mixture([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> mean, covariance = line.regression([[2.0], [-2.0]], given=[0])
        >>> mean.ravel(), covariance.ravel()
        (array([ 1., -1.]), array([0.75, 0.75]))
        """
        return queries.regression(self, X, given)

    def merge_components(
        self, groups: Sequence[Sequence[int]] | None = None, *, n_components: int | None = None
    ) -> Mixture:
        """A mixture with fewer components and the same overall mean and covariance.

        Merged components keep weight, mean and covariance of the group (spherical: its mean variance; tied: the pooled
        covariance takes up what lies between the merged means; diag: no cross products). Components in no group stay.
        The order is that of the first component of each group.

        Parameters
        ----------
        groups : component numbers, e.g. ``[[0, 3], [1, 2]]``
        n_components : instead, merge the pair that costs least (Runnalls 2007) until this many are left

        Examples
        --------
        >>> import streamgmm as sg
        >>> three = sg.Mixture([0.2, 0.2, 0.6], [[0.0], [2.0], [9.0]], [1.0, 1.0, 1.0], covariance_type="spherical")
        >>> two = three.merge_components([[0, 1]])
        >>> print(two.weights, two.means.ravel(), two.covariances)
        [0.4 0.6] [1. 9.] [2. 1.]
        """
        if n_components is None and groups is not None:
            return queries.merge_components(self, groups)
        if groups is None and n_components is not None:
            return queries.reduced(self, n_components)
        raise ValueError("merge_components: give either groups, e.g. [[0, 1]], or n_components.")

    def sample(self, n_samples: int = 1, random_state: Any = None) -> tuple[Array, NDArray[np.int64]]:
        """Draw rows: (N, D) values and (N,) component labels, ordered by component as scikit-learn does.

        Rows of the background come last, with label -1.

        Parameters
        ----------
        n_samples : int >= 1
        random_state : None, int, RandomState or Generator

        Examples
        --------
        >>> import streamgmm as sg
        >>> values, labels = sg.Mixture([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical").sample(5, random_state=0)
        >>> values.shape, labels.shape
        ((5, 1), (5,))
        """
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1; got {n_samples}.")
        rng = random_state if hasattr(random_state, "standard_normal") else np.random.default_rng(random_state)
        return queries.sample(self, n_samples, rng)


def answers(model: Mixture, question: str, rows: NDArray[Any]) -> NDArray[Any]:
    """Answer to "labels", "log_prob" or "responsibilities" for checked rows, in memory of the same kind as theirs."""
    ready = model._prepare()
    wide = (model.n_components + (model.box is not None),) if question == "responsibilities" else ()
    out: NDArray[Any] = empty_like(rows, (len(rows), *wide), np.int64 if question == "labels" else np.float64)
    wanted = {{"labels": "label", "log_prob": "logp", "responsibilities": "resp"}[question]: out}
    if model.missing:
        ready.patterns.run(rows, None, statistics=False, answers=Answers(**wanted))
    else:
        model.family.sums(ready.plan, rows, None, statistics=False, **wanted)
    return out
