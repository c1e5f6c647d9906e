"""The path of a fit, small enough to keep: every iteration's components, seen in one plane.

The plane is fixed at the first step: the two leading principal axes of the mixture's overall covariance, each feature
in units of its own deviation (two features are shown as they are, one against nothing).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.mixture import Mixture
from streamgmm.persistence import read_arrays, write_arrays
from streamgmm.plotting import Plane

Array = NDArray[np.float64]
KIND = "streamgmm-history"
MOST_FRAMES = 200
"""Iterations kept; of longer fits every second, fourth, ... one."""


@dataclass(slots=True)
class History:
    """Frames of a fit, one per reading: weights, means and covariances in the plane, and the trace of the leader.

    Fed with the steps of a fit. Each start has its own frames; the winner's are what `arrays` gives.

    Attributes
    ----------
    units : what brings a mixture to the units in which it is to be seen
    offset : added to every objective, for the same reason
    """

    units: Callable[[Mixture], Mixture] = lambda mixture: mixture
    plane: Plane | None = None
    offset: float = 0.0
    _paths: dict[int, list[tuple[float, Array, Array, Array]]] = field(default_factory=dict)
    _winner: int = 0

    def add(self, step: Any) -> None:
        """Take what one `Step` of a fit shows."""
        if not step.block.last:
            return
        if self.plane is None:
            self.plane = Plane.of(self.units(step.memory[0].model))
        for candidate in step.memory:
            path = self._paths.setdefault(candidate.index, [])
            if candidate.status == "running" or not path or path[-1][0] != candidate.objective:
                means, covariances = self.plane.ellipses(self.units(candidate.accepted))
                path.append((candidate.objective, candidate.accepted.weights.copy(), means, covariances))
        self._winner = max(step.memory, key=lambda c: (c.objective, -c.index)).index

    def follow(self, index: int) -> None:
        """Take this start for the winner from now on: of a sweep it is not the one of largest likelihood."""
        self._winner = index

    def arrays(self, index: int | None = None) -> dict[str, Array]:
        """Frames of one start, the winner's by default.

        objective (T,), weights (T, K), means (T, K, 2), covariances (T, K, 2, 2), iteration (T,).
        """
        path = self._paths.get(self._winner if index is None else index, [])
        every = max(1, -(-len(path) // MOST_FRAMES))
        chosen = sorted({*range(0, len(path), every), len(path) - 1}) if path else []
        picked = [path[i] for i in chosen]
        names = ("objective", "weights", "means", "covariances")
        frames = {name: np.array([frame[i] for frame in picked]) for i, name in enumerate(names)}
        frames["objective"] += self.offset
        return {**frames, "iteration": np.array(chosen, np.float64) + 1}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write plane and frames to one file."""
        if self.plane is None:
            return
        plane = {"centre": self.plane.centre, "axes": self.plane.axes, "share": self.plane.share}
        write_arrays(path, {**plane, **self.arrays()}, {}, kind=KIND)


def load_history(path: str | os.PathLike[str]) -> tuple[Plane, dict[str, Array]]:
    """Plane and frames that `History.save` wrote."""
    arrays, _ = read_arrays(path, kind=KIND)
    plane = Plane(arrays.pop("centre"), arrays.pop("axes"), arrays.pop("share"))
    return plane, arrays
