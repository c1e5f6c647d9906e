"""The path of a fit, small enough to keep: every iteration's components, seen in one plane, from the sample on.

The plane is fixed at the first step: the two leading principal axes of the mixture's overall covariance, each feature
in units of its own deviation (two features are shown as they are, one against nothing).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.mixture.mixture import Mixture
from streamgmm.report.figures import Plane
from streamgmm.runtime.array_file import HISTORY, read_arrays, write_arrays

Array = NDArray[np.float64]
MOST_FRAMES = 200
"""Iterations kept; of longer fits every second, third, ... one."""

Frame = tuple[float, Array, Array, Array]
"""Objective, weights, and means and covariances in the plane."""


def _padded(frame: Frame, K: int) -> Frame:
    """A frame with K components: those that are not there have no weight and no extent."""
    value, weights, means, covariances = frame
    more = K - len(weights)
    if not more:
        return frame
    centre = np.tile(weights @ means / weights.sum(), (more, 1))
    nothing = np.zeros((more, *covariances.shape[1:]))
    return (
        value,
        np.append(weights, np.zeros(more)),
        np.concatenate([means, centre]),
        np.append(covariances, nothing, 0),
    )


@dataclass(slots=True)
class History:
    """Frames of a fit: weights, means and covariances in the plane, and the objective.

    Fed with the steps of a fit, one frame per pass; and as its `FitObserver` with those on the sample before them,
    where
    most of the way of ``solver="auto"`` lies. Each start has its own frames; the winner's are what `arrays` gives.

    Attributes
    ----------
    units : what brings a mixture to the units in which it is to be seen
    offset : added to every objective, for the same reason
    """

    units: Callable[[Mixture], Mixture] = lambda mixture: mixture
    plane: Plane | None = None
    offset: float = 0.0
    _paths: dict[int, list[Frame]] = field(default_factory=dict)
    _before: dict[int, list[Frame]] = field(default_factory=dict)
    _sampled: dict[int, list[Frame]] = field(default_factory=dict)
    _winner: int = 0

    def _frame(self, candidate: Any) -> Frame:
        assert self.plane is not None
        means, covariances = self.plane.ellipses(self.units(candidate.accepted))
        return candidate.objective, candidate.accepted.weights.copy(), means, covariances

    def sampled(self, at: int, candidates: Any) -> None:
        """Take what the starts did on the sample; see `streamgmm.em.hooks.FitObserver`."""
        if self.plane is None:
            self.plane = Plane.of_principal_axes(self.units(candidates[0].model))
        for candidate in candidates:
            path = self._sampled.setdefault(candidate.index, [])
            if len(candidate.trace) > len(path):
                path.append(self._frame(candidate))

    def begun(self, at: int, chosen: Sequence[tuple[int, int]]) -> None:
        """Keep the way of those starts that go on, as far as it was taken; those solved at once took no step."""
        self._before |= {at + j: self._sampled.get(i, [])[:steps] for j, (i, steps) in enumerate(chosen)}
        self._sampled.clear()

    def add(self, step: Any) -> None:
        """Take what one `Step` of a fit shows."""
        if not step.block.last:
            return
        if self.plane is None:
            self.plane = Plane.of_principal_axes(self.units(step.candidates[0].model))
        for candidate in step.candidates:
            path = self._paths.setdefault(candidate.index, [])
            if candidate.status == "running" or not path or path[-1][0] != candidate.objective:
                path.append(self._frame(candidate))
        self._winner = max(step.candidates, key=lambda c: (c.objective, -c.index)).index

    def follow(self, index: int) -> None:
        """Take this start for the winner from now on: of a sweep it is not the one of largest likelihood."""
        self._winner = index

    def arrays(self, index: int | None = None) -> dict[str, Array]:
        """Frames of one start, the winner's by default.

        objective (T,), weights (T, K), means (T, K, 2), covariances (T, K, 2, 2), iteration (T,), and sampled (T,), 1
        for those on the sample, whose iterations are counted by themselves.
        """
        index = self._winner if index is None else index
        before, after = self._before.get(index, []), self._paths.get(index, [])
        path = before + after
        every = max(1, -(-len(path) // MOST_FRAMES))
        ends = {len(before) - 1, len(path) - 1} - {-1}
        chosen = np.array(sorted({*range(0, len(path), every), *ends}), np.int64)
        picked = [path[i] for i in chosen]
        names = ("objective", "weights", "means", "covariances")
        most = max((len(frame[1]) for frame in picked), default=0)
        picked = [_padded(frame, most) for frame in picked]
        frames = {name: np.array([frame[i] for frame in picked]) for i, name in enumerate(names)}
        frames["objective"] += self.offset
        sampled = chosen < len(before)
        iteration = np.where(sampled, chosen, chosen - len(before)) + 1.0
        return {**frames, "iteration": iteration, "sampled": sampled.astype(np.uint8)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write plane and frames to one file."""
        if self.plane is None:
            return
        plane = {"centre": self.plane.centre, "axes": self.plane.axes, "share": self.plane.share}
        write_arrays(path, {**plane, **self.arrays()}, {}, HISTORY)


def load_history(path: str | os.PathLike[str]) -> tuple[Plane, dict[str, Array]]:
    """Plane and frames that `History.save` wrote."""
    arrays, _ = read_arrays(path, HISTORY)
    plane = Plane(arrays.pop("centre"), arrays.pop("axes"), arrays.pop("share"))
    if len(plane.centre) == 2:
        plane = Plane.of_features(2, 0, 1)
    return plane, arrays
