"""A threshold for scores that are too many to keep: counts on a scale that is fine near a first guess.

`streamgmm.stream` has a sketch for a stream whose level drifts; this one asks for a guess and repays it with a sharp
quantile. Counts of rows: deterministic, the same for any order and chunking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_STEP = 0.01
_HALF = 4400  # sinh(44) is 6e18: beyond it counts as it
_FINENESS = 1000.0


@dataclass(frozen=True, slots=True)
class Scale:
    """Bins of width 1e-5 near `guess` that grow to 1 % of the distance from it."""

    guess: float

    def counts(self, scores: Array, weight: Array | None) -> Array:
        """(8802,) weight of the scores in each bin."""
        with np.errstate(over="ignore", invalid="ignore"):
            z = np.arcsinh(np.clip((scores - self.guess) * _FINENESS, -1e18, 1e18)) / _STEP
        bins = np.floor(z).astype(np.int64) + _HALF
        return np.bincount(bins, weights=weight, minlength=2 * _HALF + 2).astype(np.float64)

    def edge(self, index: int) -> float:
        """Lower edge of a bin."""
        return float(self.guess + np.sinh((index - _HALF) * _STEP) / _FINENESS)

    def threshold(self, counts: Array, share: float) -> tuple[float, float, float]:
        """A score with at most `share` of the weight below it, that weight, and by how much it may fall short."""
        total = np.cumsum(counts)
        index = _first_above(total, share)
        return self.edge(index), float((total[index] - counts[index]) / total[-1]), float(counts[index] / total[-1])


def _first_above(total: Array, share: float) -> int:
    """First place where the cumulative weight exceeds `share` of all; equal up to rounding does not exceed."""
    return int(np.searchsorted(total, (share + 1e-9) * total[-1], side="right"))


def exact_threshold(scores: Array, weight: Array | None, share: float) -> tuple[float, float]:
    """The largest score with at most `share` of the weight strictly below it, and that weight's share."""
    order = np.argsort(scores, kind="stable")
    sorted_scores = scores[order]
    total = np.concatenate([[0.0], np.cumsum(np.ones(len(scores)) if weight is None else weight[order])])
    score = sorted_scores[min(_first_above(total[1:], share), len(scores) - 1)]
    return float(score), float(total[np.searchsorted(sorted_scores, score)] / total[-1])
