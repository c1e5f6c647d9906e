"""Fewer passes: proposals that go further than one EM step. Each is judged by the E-step it needs anyway.

A proposal that lowers the objective is rejected, and the plain EM step that was known before takes its place. Every
proposal is made in coordinates in which any vector is a valid mixture: logarithms of the weights, means, and Cholesky
factors with logarithmic diagonals, in the frame of a mixture, so that units and offsets do not matter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import CollapsedError
from streamgmm.mixture.coordinates import Coordinates
from streamgmm.mixture.mixture import Mixture

Array = NDArray[np.float64]

FINISH = 4
"""Plain EM steps in a row that a test of convergence needs: three gains and their start."""


@dataclass(frozen=True, slots=True, eq=False)
class AcceleratorState:
    """Memory of an accelerator for one candidate.

    Attributes
    ----------
    path : tuple of Mixture
        Models on consecutive plain EM steps.
    fallback : Mixture or None
        Set while the candidate's model is a proposal: the plain EM step instead of it.
    merit, share : float, (K,) or None
        Of the last accepted model: the value a proposal must reach, and the components' share of the rows then.
    stepmax, clipped : float, bool
        Largest extrapolation, and whether the last one was cut to it.
    finishing : int
        Plain steps that are still to be taken to test convergence.
    misses : int
        Rejections of `Corrected`, less what was accepted since.
    leap : float
        Gain of the last accepted proposal of `Corrected`, in nats per row; infinity once others follow it.
    pairs : tuple of Mixture
        Models, each followed by where `Corrected` led from it, of its last proposals in a row.
    credit, cost : float
        Passes so far less the cost of all steps on the sample, and the cost of the last proposal's; in passes. See
        `Corrected`.
    corrected : bool
        Whether the proposal at hand is one of `Corrected`.
    """

    path: tuple[Mixture, ...] = ()
    fallback: Mixture | None = None
    merit: float = -np.inf
    share: Array | None = None
    stepmax: float = 1.0
    clipped: bool = False
    finishing: int = 0
    misses: int = 0
    leap: float = np.inf
    pairs: tuple[Mixture, ...] = ()
    credit: float = 0.0
    cost: float = np.inf
    corrected: bool = False


class Accelerator(ABC):
    """Decides where the next E-step of a candidate is taken."""

    @abstractmethod
    def next(
        self, model: Mixture, image: Mixture, gains: Sequence[float], pace: AcceleratorState
    ) -> tuple[Mixture, AcceleratorState]:
        """After an accepted E-step.

        Parameters
        ----------
        model : whose E-step it was
        image : its plain EM step
        gains : gains in nats per row since the accepted model before `model`, the newest last; of plain steps save
            that the first may be a proposal's
        pace : with `fallback` set where `model` was a proposal

        Returns
        -------
        model, pace
            Either `image`, or a proposal with `fallback` set to `image`.
        """

    @abstractmethod
    def rejected(self, pace: AcceleratorState) -> AcceleratorState:
        """After a rejection; the candidate goes on from the fallback."""

    def arrived(self, gains: Sequence[float], pace: AcceleratorState) -> bool:
        """True if the proposals show that the limit is reached, though the plain steps alone do not show it yet."""
        return False


@dataclass(frozen=True, slots=True)
class Squarem(Accelerator):
    """Squared extrapolation, scheme S3 (Varadhan & Roland 2008), with their defaults for step lengths.

    Parameters
    ----------
    tol : float
        In nats per row: where the estimated distance to the limit falls below it, plain steps follow.
    growth : float
        Factor by which the largest extrapolation grows and shrinks.
    """

    tol: float
    growth: float = 4.0

    def next(
        self, model: Mixture, image: Mixture, gains: Sequence[float], pace: AcceleratorState
    ) -> tuple[Mixture, AcceleratorState]:
        if pace.fallback is not None:  # accepted: one plain step before the next cycle makes it stable
            stepmax = pace.stepmax * (self.growth if pace.clipped else 1.0)
            return image, replace(pace, path=(), fallback=None, stepmax=stepmax, clipped=False)
        if pace.finishing > 0:
            return image, replace(pace, path=(), finishing=pace.finishing - 1)
        path = (*(pace.path or (model,)), image)
        if len(path) < 3:
            return image, replace(pace, path=path)
        coordinates = Coordinates(path[0])
        p0, p1, p2 = (coordinates.pack(one) for one in path)
        with np.errstate(invalid="ignore", over="ignore"):
            r, v = p1 - p0, p2 - 2.0 * p1 + p0
            ratio = float(np.linalg.norm(r) / max(np.linalg.norm(v), 1e-300))
        if not np.isfinite(ratio):
            return image, replace(pace, path=())
        rate = max(0.0, 1.0 - 1.0 / max(ratio, 1.0)) ** 2  # gains shrink by the square of the rate of the steps
        if gains and abs(gains[-1]) * rate < self.tol * (1.0 - rate):
            return image, replace(pace, path=(), finishing=FINISH - 1)
        length = min(max(ratio, 1.0), pace.stepmax)
        clipped = length >= pace.stepmax
        proposal = coordinates.unpack(p0 + 2.0 * length * r + length**2 * v) if length > 1.0 else None
        if proposal is None:
            stepmax = pace.stepmax * (self.growth if clipped and length <= 1.0 else 1.0)
            return image, replace(pace, path=(), stepmax=stepmax)
        return proposal, replace(pace, path=(), fallback=image, clipped=clipped)

    def rejected(self, pace: AcceleratorState) -> AcceleratorState:
        stepmax = max(1.0, pace.stepmax / self.growth) if pace.clipped else pace.stepmax
        return replace(pace, path=(), fallback=None, stepmax=stepmax, clipped=False)


_PATIENCE = 3
_SETTLED = 1e-3
"""Share of the first step on the sample below which steps no longer matter."""
_DEPTH = 4
"""Points and where they led that Anderson mixing combines."""

Step = Callable[[Mixture], Mixture]
"""One EM step on rows at hand. Raises `CollapsedError` where it cannot."""


def mixed(path: Sequence[Mixture], image: Mixture) -> Mixture | None:
    """Anderson mixing of a fixed-point map: ``path`` is x0, g(x0), x1, g(x1), ..., the newest last.

    Of the affine combinations of the points, that with the smallest combined step g(x) - x; where the map carries it.
    None where there is but one point, where the combination is no mixture, or where it leads down: away from where the
    plain EM step `image` leads, as it does near a saddle, which is a fixed point too.
    """
    if len(path) < 4:
        return None
    coordinates = Coordinates(path[-2])
    x, g = (np.stack([coordinates.pack(one) for one in path[i::2]]) for i in (0, 1))
    uphill = coordinates.pack(image) - x[-1]
    if not (np.isfinite(x).all() and np.isfinite(g).all() and np.isfinite(uphill).all()):
        return None
    scale = coordinates.scale
    step = (g - x) * scale
    gamma = np.linalg.lstsq(np.diff(step, axis=0).T, step[-1], rcond=1e-6)[0]
    proposal = g[-1] - gamma @ np.diff(g, axis=0)
    return coordinates.unpack(proposal) if (proposal - x[-1]) * scale @ (uphill * scale) > 0.0 else None


@dataclass(frozen=True, slots=True)
class Corrected(Accelerator):
    """Newton's method with the curvature of a sample: EM on the sample, shifted so that it agrees with all rows here.

    With F the EM map of all rows and G that of the sample, the iteration t <- G(t) + F(t0) - G(t0) starts like EM on
    all rows and goes on as many steps as wanted for the price of the sample. Its limit solves, to first order,
    (I - G')(t - t0) = F(t0) - t0: how slowly EM converges no longer matters, only how well the sample knows the shape
    of the likelihood.

    Passes pay for the steps on the sample: a proposal is made when the passes so far, less what all proposals have
    cost, are as many as the last one cost, or the most that this one may where that is less. Until then `then`
    proposes. So all proposals but the last together cost no more than the passes do, and where `then` alone converges
    soon none is made. A rejection makes the next ones shorter, until there is nothing left to shorten.

    Parameters
    ----------
    step : callable (Mixture) -> Mixture
        One EM step on the sample.
    tol : float
        In nats per row: a proposal that gains less is followed by plain steps.
    then : Accelerator
    inner : int
        Steps on the sample per proposal at most. Enough to leave a saddle that EM takes a hundred passes to leave.
    price : float
        Cost of a step on the sample, in passes.
    """

    step: Step
    tol: float
    then: Accelerator
    inner: int = 180
    price: float = 0.0

    def next(
        self, model: Mixture, image: Mixture, gains: Sequence[float], pace: AcceleratorState
    ) -> tuple[Mixture, AcceleratorState]:
        pace = replace(pace, credit=pace.credit + 1.0)
        if pace.corrected:
            leap = gains[-1] if gains else np.inf
            done = abs(leap) < self.tol
            misses = pace.misses if done else max(0, pace.misses - 1)
            finishing = FINISH - 1 if done else 0
            pace = replace(pace, fallback=None, corrected=False, misses=misses, finishing=finishing, leap=leap)
        begins = pace.fallback is None and pace.finishing == 0
        if begins and pace.misses < _PATIENCE and pace.credit >= min(pace.cost, self.price * self._steps(pace)):
            limit, steps = self._propose(model, image, self._steps(pace))
            cost = self.price * steps
            pace = replace(pace, credit=pace.credit - cost, cost=cost)
            if limit is None:
                return image, replace(pace, path=(), misses=pace.misses + 1)
            pairs = (*pace.pairs, model, limit)[-2 * _DEPTH :]
            return mixed(pairs, image) or limit, replace(pace, path=(), pairs=pairs, fallback=image, corrected=True)
        if begins:
            pace = replace(pace, pairs=(), leap=np.inf)
        return self.then.next(model, image, gains, pace)

    def _steps(self, pace: AcceleratorState) -> int:
        return max(1, self.inner // 3**pace.misses)

    def _propose(self, model: Mixture, image: Mixture, inner: int) -> tuple[Mixture | None, int]:
        """Where at most `inner` steps on the sample lead, None where that is no mixture, and how many were taken."""
        with np.errstate(over="ignore", invalid="ignore"):  # of components at the end of doubles
            return self._climb(model, image, inner)

    def _climb(self, model: Mixture, image: Mixture, inner: int) -> tuple[Mixture | None, int]:
        coordinates = Coordinates(model)
        scale = coordinates.scale
        at = coordinates.pack(image)
        first = float(np.linalg.norm((at - coordinates.pack(model)) * scale))
        here, steps = image, 1
        try:
            shift = at - coordinates.pack(self.step(model))
            for steps in range(2, inner + 2):
                after = coordinates.pack(self.step(here)) + shift
                moved = coordinates.unpack(after) if np.isfinite(after).all() else None
                if moved is None:
                    return None, steps
                here = moved
                if np.linalg.norm((after - at) * scale) < _SETTLED * first:
                    break
                at = after
        except CollapsedError:
            return None, steps
        return here, steps

    def rejected(self, pace: AcceleratorState) -> AcceleratorState:
        pace = replace(pace, credit=pace.credit + 1.0)
        if not pace.corrected:
            return self.then.rejected(pace)
        return replace(pace, path=(), pairs=(), fallback=None, corrected=False, misses=pace.misses + 1)

    def arrived(self, gains: Sequence[float], pace: AcceleratorState) -> bool:
        """True if the last proposal, an estimate of the limit, changed less than `tol`, and a plain step agrees.

        Where EM creeps, a proposal is no more than so many steps on the sample, and gains about as many times what a
        plain step does; one that gains twice as much leaves at most 0.4 of its gain to go. A plain gain below a
        hundredth of `tol` is enough by itself.
        """
        if self.tol == 0.0 or not gains or pace.fallback is not None:
            return False
        enough = max(abs(pace.leap) / (2 * self._steps(pace) + 2), 1e-2 * self.tol)
        return abs(pace.leap) < self.tol and abs(gains[-1]) <= min(enough, self.tol)
