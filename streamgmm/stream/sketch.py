"""Running quantiles of scores: a histogram on a scale that is linear near 0 and logarithmic far out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["QuantileSketch"]

Array = NDArray[np.float64]

_WIDTH = 0.01
_HALF = 4300  # sinh(43) is 2e18: whatever lies beyond counts as that


class QuantileSketch:
    """Quantiles of all values seen, in 34 kB per sign whatever their number.

    Deterministic, independent of the order of the values, and exactly mergeable, since it is counts: bin i holds the
    values whose asinh rounds to 0.01 i. A quantile is therefore within 0.005 (absolute, near 0) or 0.5 % (far out) of a
    value of exactly that rank; compare DDSketch (Masson, Rim & Lee 2019), which has no linear part.

    Attributes
    ----------
    counts : (8601,) float64
        Weight of each bin at the last `fade`.
    fresh : (8601,) float64
        Whole numbers of values since. Apart, so that the bits do not depend on how values came in batches.

    Examples
    --------
    >>> from streamgmm.stream import QuantileSketch
    >>> sketch = QuantileSketch()
    >>> sketch.update(range(1001))
    >>> round(sketch.quantile(0.5) / 500, 2)
    1.0
    """

    def __init__(self) -> None:
        self.counts = np.zeros(2 * _HALF + 1)
        self.fresh = np.zeros(2 * _HALF + 1)

    def update(self, values: ArrayLike) -> None:
        """Count values; infinities count as the outermost bins, NaN is refused.

        Examples
        --------
        >>> from streamgmm.stream import QuantileSketch
        >>> sketch = QuantileSketch()
        >>> sketch.update([1.0, 2.0])
        >>> sketch.count
        2.0
        """
        x = np.asarray(values, np.float64).ravel()
        if np.isnan(x).any():
            raise ValueError("A quantile sketch cannot rank NaN; leave such values out.")
        bins = np.rint(np.arcsinh(np.clip(x, -1e18, 1e18)) / _WIDTH).astype(np.int64) + _HALF
        self.fresh += np.bincount(bins, minlength=len(self.fresh))

    def fade(self, factor: float) -> None:
        """Weigh every value so far `factor` times as much as before.

        Examples
        --------
        >>> from streamgmm.stream import QuantileSketch
        >>> sketch = QuantileSketch()
        >>> sketch.update([1.0, 2.0])
        >>> sketch.fade(0.5)
        >>> sketch.count
        1.0
        """
        self.counts = (self.counts + self.fresh) * factor
        self.fresh[:] = 0.0

    @property
    def count(self) -> float:
        """Weight of all values.

        Examples
        --------
        >>> from streamgmm.stream import QuantileSketch
        >>> QuantileSketch().count
        0.0
        """
        return float(self.counts.sum() + self.fresh.sum())

    def quantile(self, q: float) -> float:
        """The value with a share q of the weight at or below it; NaN while there is none.

        Examples
        --------
        >>> from streamgmm.stream import QuantileSketch
        >>> sketch = QuantileSketch()
        >>> sketch.update([0.0, 1.0, 9.0])
        >>> round(sketch.quantile(0.5), 2)
        1.0
        """
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"q must lie between 0 and 1; got {q}.")
        total = np.cumsum(self.counts + self.fresh)
        if total[-1] <= 0.0:
            return float("nan")
        index = int(np.searchsorted(total, q * total[-1], side="left" if q > 0 else "right"))
        return float(np.sinh((min(index, len(total) - 1) - _HALF) * _WIDTH))

    def merge(self, other: QuantileSketch) -> None:
        """Take in what `other` has counted.

        Examples
        --------
        >>> from streamgmm.stream import QuantileSketch
        >>> a, b = QuantileSketch(), QuantileSketch()
        >>> a.update([1.0]), b.update([2.0, 3.0])
        (None, None)
        >>> a.merge(b)
        >>> a.count
        3.0
        """
        self.counts += other.counts
        self.fresh += other.fresh

    def state(self) -> dict[str, Array]:
        """The arrays that `restore` takes.

        Examples
        --------
        >>> from streamgmm.stream import QuantileSketch
        >>> sorted(QuantileSketch().state())
        ['counts', 'fresh']
        """
        return {"counts": self.counts, "fresh": self.fresh}

    def restore(self, state: dict[str, Array]) -> None:
        """Go on from `state`.

        Examples
        --------
        >>> from streamgmm.stream import QuantileSketch
        >>> a, b = QuantileSketch(), QuantileSketch()
        >>> a.update([1.0])
        >>> b.restore(a.state())
        >>> b.count
        1.0
        """
        counts, fresh = (np.array(state[name], np.float64) for name in ("counts", "fresh"))
        if not counts.shape == fresh.shape == self.counts.shape:
            raise ValueError(
                f"counts and fresh must have the shape {self.counts.shape}: got {counts.shape}, {fresh.shape}."
            )
        self.counts, self.fresh = counts, fresh
