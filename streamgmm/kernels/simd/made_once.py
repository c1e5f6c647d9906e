"""Values that the hand-tiled kernels need beside a plan: made once for all of its chunks, and gone with it."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from streamgmm.kernels.locks import process_lock
from streamgmm.kernels.plan import Array, Plan

_lock = process_lock()


def made_once[T](make: Callable[[Plan], T]) -> Callable[[Plan], T]:
    """``make``, whose result, which must not hold them, is kept as long as the coefficients of the plan exist."""
    kept: dict[int, tuple[weakref.ref[Array], T]] = {}

    def of(plan: Plan) -> T:
        key = id(plan.coef)
        with _lock:
            found = kept.get(key)
            if found is None or found[0]() is not plan.coef:
                found = weakref.ref(plan.coef, lambda _: kept.pop(key, None)), make(plan)
                kept[key] = found
        return found[1]

    return of
