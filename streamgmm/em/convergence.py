"""Stopping rules, from the trace of mean log-likelihoods alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Stopping = Callable[[Sequence[float]], bool]

FLUTTER = 2e-10
"""Nats: the error of one log-density that the kernels may make where covariances are narrow."""


def last_change(tol: float) -> Stopping:
    """Stop when the last change is below `tol` nats per row: scikit-learn's rule."""

    def converged(trace: Sequence[float]) -> bool:
        return len(trace) > 1 and abs(trace[-1] - trace[-2]) < tol

    return converged


def distance_to_limit(trace: Sequence[float]) -> float:
    """Estimated distance of the last value from the limit, in the units of the trace; infinity while unknown.

    Aitken: gains that shrink by a rate r leave g r / (1 - r) to go (Boehning et al. 1994). Three successive gains of
    one sign that shrink are asked for, and the larger of the last two rates is used. A gain at rounding level is no
    distance, and gains of alternating sign below the error that kernels are allowed (`FLUTTER`) are rounding too.
    """
    if len(trace) < 2:
        return np.inf
    gain = trace[-1] - trace[-2]
    if abs(gain) <= 512 * np.finfo(float).eps * max(1.0, abs(trace[-1])):
        return 0.0
    if len(trace) < 4:
        return np.inf
    g1, g2, g3 = trace[-3] - trace[-4], trace[-2] - trace[-3], gain
    if max(abs(g1), abs(g2), abs(g3)) <= FLUTTER * max(1.0, abs(trace[-1])) and g1 * g2 < 0 and g2 * g3 < 0:
        return 0.0
    if not (g1 * g2 > 0 and g2 * g3 > 0 and abs(g1) > abs(g2) > abs(g3)):
        return np.inf
    rate = max(g2 / g1, g3 / g2)
    return abs(g3) * rate / (1.0 - rate)


def aitken(tol: float) -> Stopping:
    """Stop when the estimated distance to the limit is below `tol` nats per row."""

    def converged(trace: Sequence[float]) -> bool:
        return distance_to_limit(trace) < tol

    return converged


def fruitless(passes: int, tol: float) -> Stopping:
    """Give up when so many passes in a row have raised the best value by less than `tol` in all."""

    def given_up(trace: Sequence[float]) -> bool:
        return len(trace) > passes and max(trace[-passes:]) < max(trace[:-passes]) + tol

    return given_up


def never(trace: Sequence[float]) -> bool:
    return False


RULES: dict[str, Callable[[float], Stopping]] = {"aitken": aitken, "change": last_change}
