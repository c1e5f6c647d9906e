"""What a mixture answers about rows and about itself: densities, responsibilities, marginals, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamgmm.mixture import queries
from streamgmm.mixture.missing import Answers

if TYPE_CHECKING:
    from streamgmm.mixture.mixture import Mixture

Array = NDArray[np.float64]


class Questions:
    """Mixin of `Mixture`, which brings the parameters and the kernels."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def n_components(self) -> int: ...

        @property
        def box(self) -> Array | None: ...

        def _rows(self, X: ArrayLike) -> NDArray[Any]: ...

        def _answer(self, rows: NDArray[Any], answers: Answers) -> None: ...

        @property
        def _itself(self) -> Mixture: ...

    def log_prob(self, X: ArrayLike) -> Array:
        """(N,) log p(x) in nats.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.Mixture([1.0], [[0.0]], [1.0], "spherical").log_prob([[0.0], [2.0]]).round(4)
        array([-0.9189, -2.9189])
        """
        rows = self._rows(X)
        out = np.empty(len(rows))
        self._answer(rows, Answers(logp=out))
        return out

    def responsibilities(self, X: ArrayLike) -> Array:
        """(N, K) posterior probabilities of the components; with a background (N, K + 1), its own last.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.Mixture([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical").responsibilities([[2.0]])
        array([[0.5, 0.5]])
        """
        rows = self._rows(X)
        out = np.empty((len(rows), self.n_components + (self.box is not None)))
        self._answer(rows, Answers(resp=out))
        return out

    def labels(self, X: ArrayLike) -> NDArray[np.int64]:
        """(N,) most responsible component of each row, -1 for the background.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.Mixture([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical").labels([[-1.0], [5.0]])
        array([0, 1])
        """
        rows = self._rows(X)
        out = np.empty(len(rows), np.int64)
        self._answer(rows, Answers(label=out))
        return out

    def impute(self, X: ArrayLike) -> Array:
        """(N, D) float64 rows with every NaN replaced by its conditional mean given what the row shows.

        Works whatever `missing` says: to ask is to permit. A row that shows nothing gets the mean of the mixture.

        Examples
        --------
        >>> import numpy as np, streamgmm as sg
        >>> sg.Mixture([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]]).impute([[2.0, np.nan]])
        array([[2., 1.]])
        """
        rows = self._rows(X)
        out = np.empty(rows.shape)
        self._answer(rows, Answers(filled=out))
        return out

    def moments(self) -> tuple[Array, Array]:
        """Overall mean (D,) and covariance (D, D), background included.

        Examples
        --------
        >>> import streamgmm as sg
        >>> sg.Mixture([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical").moments()
        (array([2.]), array([[5.]]))
        """
        return queries.moments(self._itself)

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
        return queries.marginal(self._itself, features)

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
        return queries.condition(self._itself, given)

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
        return queries.regression(self._itself, X, given)

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
        if (groups is None) == (n_components is None):
            raise ValueError("merge_components: give either groups, e.g. [[0, 1]], or n_components.")
        if groups is not None:
            return queries.merge_components(self._itself, groups)
        assert n_components is not None
        return queries.reduced(self._itself, n_components)

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
        return queries.sample(self._itself, n_samples, rng)
