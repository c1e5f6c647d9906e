"""Terms so small that sums may leave them out: the rule of the screened form on the CPU, and of sparse sums on a card.

A pair of row and component is left out where its responsibility is below e^-cutoff, unless the component has so little
weight that it may live on such terms. What is left out of a component's mass is below e^-cutoff sum w; of its sums of
w r z and w r z z^T, below e^-cutoff sum w max(1, |z|^2), in the units of the frame. That is compared with its mass.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streamgmm.kernels.plan import Array, Plan

DROPPED = 1e-12
"""Largest part of a component's mass that may be left out."""


def cutoff_of(K: int) -> float:
    """Nats below a row's best beyond which a component is left out."""
    return 40.0 + math.log(K)


def light(plan: Plan) -> NDArray[np.bool_]:
    """(K,) components of so little weight that no pair of theirs is left out; FULL only."""
    K = len(plan.coef)
    log_det = np.log(np.diagonal(plan.factor, axis1=1, axis2=2)).sum(axis=1)
    log_weight = plan.const - log_det  # up to a constant, which `whiten` may not tell: see `Mixture.through`
    log_weight -= np.logaddexp.reduce(log_weight)
    return np.asarray(log_weight < math.log(1e-3 / K))


def negligible(mass: Array, exempt: NDArray[np.bool_], dropped: float) -> bool:
    """True if components of `mass` (K,), but for those of which nothing was left out, allow that `dropped` is."""
    return bool((mass[~exempt] * DROPPED >= dropped).all())
