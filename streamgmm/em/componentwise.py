"""EM of the components that still move, on the rows that are theirs; all others are held meanwhile.

Far along, EM of many components moves few of them. On photo patches, K = 50, one component made half of a step, five
made three quarters of it, and 6 % of the rows had a share above 1e-6 in any of the five: a hundred steps of these cost
what a few of the whole mixture do. Each is a conditional maximisation (Meng & Rubin 1993), so nothing falls; the whole
step that follows looks at all rows and lets the others move.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.acceleration import FINISH, Accelerator, AcceleratorState, Squarem
from streamgmm.em.candidates import new_candidates
from streamgmm.em.convergence import aitken
from streamgmm.em.loop import Models
from streamgmm.em.passes import Stage, passes
from streamgmm.em.update import Maximize, Update
from streamgmm.em.variants import Exact
from streamgmm.errors import CollapsedError
from streamgmm.mixture.coordinates import Coordinates
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.stats import Stats
from streamgmm.runtime.executors import Executor, within
from streamgmm.sources.base import Chunk, Rows, Source

Array = NDArray[np.float64]

FEW = 5
"""One of so many components is let move, and two at least: a component creeps whose partner is held."""
MOST = 0.7
"""Of a step they must make that much, or the whole mixture goes on."""
SHARE = 1e-9
"""Share of a row that all of them must have together for it to be looked at."""
WORTH, STEPS = 6, (10, 200)
"""Rows that the steps of a proposal pass over, in units of all rows, and how many steps they may be."""
STEPS_PER_CHECK = 4096
PATIENCE = 3
"""Rejections after which the whole mixture goes on, until one of its own proposals is accepted."""


@dataclass(frozen=True, slots=True, eq=False)
class Part(Chunk):
    """Rows with their weights, and what the held components contribute to the density of each, as a logarithm."""

    index: int
    start: int | None
    rows: Rows
    weight: Array
    held: Array

    def load(self) -> tuple[Rows, Array]:
        return self.rows, self.weight


class Parts(Source):
    """A source of parts."""

    name = kind = "parts"
    has_weights = in_memory = True

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self.n_features, self.dtype = parts[0].rows.shape[1], parts[0].rows.dtype
        self.n_rows, self.n_chunks = sum(len(part.rows) for part in parts), len(parts)

    def chunks(self) -> Iterator[Chunk]:
        return iter(self.parts)

    @property
    def max_chunk_rows(self) -> int:
        return max(len(part.rows) for part in self.parts)

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": self.kind, "n_rows": self.n_rows}


def moves(model: Mixture, image: Mixture) -> Array:
    """(K,) squared lengths of the components' ways from `model` to `image`, in units of their own information."""
    coordinates = Coordinates(model)
    way = (coordinates.pack(image) - coordinates.pack(model)) * coordinates.scale
    K, D = model.means.shape
    own = way[K : K + K * D].reshape(K, -1)
    shape = way[K + K * D :]
    diagonal, rest = (shape[: K * D], shape[K * D :]) if len(shape) > K * D else (shape, shape[:0])
    squares = [way[:K] ** 2] + [(part.reshape(K, -1) ** 2).sum(axis=1) for part in (own, diagonal, rest) if len(part)]
    return np.sum(squares, axis=0)


def some(model: Mixture, which: NDArray[np.int64]) -> tuple[Mixture, float]:
    """A mixture of these components alone, and the logarithm of their share in `model`."""
    weights = model.weights[which]
    part = Mixture.trusted(
        weights / weights.sum(), model.means[which], model.covariances[which], model.family, model.factors[which]
    )
    return part, float(np.log(weights.sum()))


def _theirs(
    moving: tuple[Mixture, float], held: tuple[Mixture, float], chunk: Chunk
) -> tuple[tuple[Rows, Array, Array], ...]:
    """Of a chunk the rows that the moving components have a share of, their weights, and the density of the held."""
    rows, weight = chunk.load()
    own, rest = (model.log_prob(rows) + share for model, share in (moving, held))
    keep = own - np.logaddexp(own, rest) > np.log(SHARE)
    return ((rows[keep], np.ones(keep.sum()) if weight is None else weight[keep], rest[keep]),)


def _e_step(share: float, models: Models, part: Chunk) -> tuple[Stats, ...]:
    """Statistics of the moving components; `loglik` is that of the whole mixture, `count` that of the rows."""
    assert isinstance(part, Part)
    found = []
    for model in models:
        own = model.log_prob(part.rows) + share
        both = np.logaddexp(own, part.held)
        stats = model.frame_stats(part.rows, part.weight * np.exp(own - both))
        found.append(replace(stats, loglik=float(part.weight @ both), count=float(part.weight.sum())))
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class Local(Accelerator):
    """Proposals in which the components that move most have gone as far as they get while the others are held.

    Where movement is spread over many components, `then` decides.

    Parameters
    ----------
    source : Source
        All rows, or those that stand for them, in memory.
    executor : Executor
    maximize : Maximize
    tol : float
        In nats per row: a proposal that gains less is followed by plain steps.
    """

    source: Source
    executor: Executor
    maximize: Maximize
    tol: float

    @classmethod
    def suits(cls, model: Mixture, maximize: Maximize) -> bool:
        """True if components can be held: each has a covariance of its own, and nothing else weighs on them."""
        return not model.family.shared and model.observation is None and maximize.prior is None

    @property
    def then(self) -> Squarem:
        """For the whole mixture."""
        return Squarem(self.tol)

    def next(
        self, model: Mixture, image: Mixture, gains: Sequence[float], pace: AcceleratorState
    ) -> tuple[Mixture, AcceleratorState]:
        if pace.misses >= PATIENCE or not self.suits(model, self.maximize):
            misses = max(0, pace.misses - (pace.fallback is not None))
            return self.then.next(model, image, gains, replace(pace, misses=misses))
        if pace.finishing > 0:
            return image, replace(pace, path=(), finishing=pace.finishing - 1)
        if gains and abs(gains[-1]) < self.tol:
            # A proposal has shown nothing, or a plain step: what is left is for plain steps to show.
            left = FINISH - 1 if pace.fallback is not None else FINISH - 2
            return image, replace(pace, path=(), fallback=None, finishing=left)
        if not gains:
            return image, replace(pace, path=())
        if pace.fallback is not None:
            pace = replace(pace, path=(), fallback=None, misses=max(0, pace.misses - 1))
        # Inside a cycle of `then` there is a path: it is gone to its end.
        proposal = None if pace.path else self.propose(model, image, pace.misses)
        if proposal is None:
            return self.then.next(model, image, gains, pace)
        return proposal, replace(pace, fallback=image)

    def rejected(self, pace: AcceleratorState) -> AcceleratorState:
        """The next one goes less far. A proposal of `then` is none of ours, but to count it does no harm."""
        return replace(self.then.rejected(pace), misses=min(pace.misses + 1, PATIENCE))

    def propose(self, model: Mixture, image: Mixture, misses: int = 0) -> Mixture | None:
        """`image` with those of its components that moved most carried on; None where too many move."""
        K = image.n_components
        moved = moves(model, image)
        total = moved.sum()
        if K < 3 or not 0.0 < total < np.inf:
            return None
        which = np.sort(np.argsort(-moved, kind="stable")[: max(2, K // FEW)])
        if moved[which].sum() < MOST * total:
            return None
        others = np.setdiff1d(np.arange(K), which)
        moving, held = some(image, which), some(image, others)
        task = within(self.source, partial(_theirs, moving, held))
        found = self.executor.run(task, self.source.chunks(), lambda a, b: a + b)
        rows, weight, density = (np.concatenate(column) for column in zip(*found, strict=True))
        steps = int(np.clip(WORTH * (self.source.n_rows or 0) // max(1, len(rows)), *STEPS)) // 3**misses
        after = self._carried(moving, rows, weight, density, steps)
        if after is None:
            return None
        weights, means = image.weights.copy(), image.means.copy()
        covariances, factors = image.covariances.copy(), image.factors.copy()
        weights[which] = after.weights * np.exp(moving[1])
        means[which], covariances[which], factors[which] = after.means, after.covariances, after.factors
        return Mixture.trusted(weights, means, covariances, image.family, factors)

    def _carried(
        self, moving: tuple[Mixture, float], rows: Rows, weight: Array, held: Array, steps: int
    ) -> Mixture | None:
        model, share = moving
        cuts = [slice(i, i + STEPS_PER_CHECK) for i in range(0, len(rows), STEPS_PER_CHECK)]
        if not cuts:
            return None
        parts = Parts([Part(i, cut.start, rows[cut], weight[cut], held[cut]) for i, cut in enumerate(cuts)])
        update = Update(replace(self.maximize, repair=False), aitken(self.tol), 10**9, Squarem(self.tol))
        candidates = new_candidates((model,))
        try:
            for step in passes(
                parts,
                candidates,
                (Stage(Exact(), update, steps),),
                self.executor,
                task_of=lambda _: partial(_e_step, share),
            ):
                candidates = step.candidates
        except CollapsedError:
            return None
        return candidates[0].accepted
