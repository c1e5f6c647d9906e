"""State of a learner, as a value; and that as named arrays and numbers, as files hold it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.online.challenger import Trial
from streamgmm.em.variants import Online
from streamgmm.mixture.covariance import Covariance
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.stats import Stats

__all__ = ["LearnerState", "read", "written"]

Array = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]

_MODEL = ("weights", "means", "covariances", "factors")
_STATS = ("weight", "mean", "scatter")


@dataclass(frozen=True, slots=True, eq=False)
class LearnerState:
    """Everything that a learner has learnt.

    Attributes
    ----------
    n_components, n_features, family : its shape
    rows, steps, starts, seed, set_aside, challenged : int, see `Learner`
    trial : Trial
    online : Online
    average : Stats or None
    model, challenger : Mixture or None
    waiting : (n, D) rows that wait for their step, and their weights (n,) or None
    """

    n_components: int
    n_features: int
    family: Covariance
    rows: int
    steps: int
    starts: int
    seed: int
    set_aside: int
    challenged: int
    trial: Trial
    online: Online
    average: Stats | None
    model: Mixture | None
    challenger: Mixture | None
    waiting: tuple[Array, Array | None]


def _shape(n_components: int, n_features: int, family: Covariance) -> list[Any]:
    return [n_components, n_features, family.name]


def written(state: LearnerState) -> tuple[Arrays, dict[str, Any]]:
    """A state as named arrays and JSON-able numbers."""
    arrays: Arrays = {}
    online = state.online
    numbers: dict[str, Any] = {
        "shape": _shape(state.n_components, state.n_features, state.family),
        "rows": state.rows,
        "steps": state.steps,
        "starts": state.starts,
        "seed": state.seed,
        "set_aside": state.set_aside,
        "challenged": state.challenged,
        "trial": list(state.trial),
        "online": [online.step, online.seen, online.inverse_size],
    }
    for role, model in (("model", state.model), ("challenger", state.challenger)):
        if model is not None:
            arrays |= {f"{role}.{part}": getattr(model, part) for part in _MODEL}
    for name, stats in (("mean", online.mean[0] if online.mean else None), ("average", state.average)):
        if stats is not None:
            arrays |= {f"{name}.{part}": getattr(stats, part) for part in _STATS}
            numbers[name] = [stats.loglik, stats.entropy, stats.log_max, stats.count, stats.rows]
    rows, weight = state.waiting
    if len(rows):
        arrays["pending.rows"] = rows.copy()
        arrays["pending.weight"] = np.ones(len(rows)) if weight is None else weight.copy()
    return arrays, numbers


def read(
    arrays: Arrays, numbers: dict[str, Any], n_components: int, n_features: int, family: Covariance
) -> LearnerState:
    """The inverse of `written`, for a learner of this shape.

    Raises
    ------
    ValueError
        Where the state is of a learner of another shape.
    """
    shape = _shape(n_components, n_features, family)
    if numbers["shape"] != shape:
        raise ValueError(
            f"The state is of a stream with (n_components, features, covariance_type) = {numbers['shape']}; "
            f"this one has {shape}. Use the settings it was written with, or begin a new snapshot."
        )
    _check_arrays(arrays, n_components, n_features)
    mean = _stats("mean", arrays, numbers, family)
    step, seen, inverse_size = numbers["online"]
    n, total, squares = numbers["trial"]
    waiting = np.empty((0, n_features)), None
    return LearnerState(
        n_components, n_features, family, numbers["rows"], numbers["steps"], numbers["starts"], numbers["seed"],
        numbers.get("set_aside", 0), numbers["challenged"], Trial(n, total, squares),
        Online(step=step, seen=seen, inverse_size=inverse_size, mean=None if mean is None else (mean,)),
        _stats("average", arrays, numbers, family), _model("model", arrays, family),
        _model("challenger", arrays, family),
        (arrays["pending.rows"], arrays["pending.weight"]) if "pending.rows" in arrays else waiting,
    )  # fmt: skip


def _check_arrays(arrays: Arrays, K: int, D: int) -> None:
    """Refuse arrays that cannot be those of such a learner: a file may come from anywhere."""
    shapes = {"weights": (K,), "means": (K, D), "weight": (K,), "mean": (K, D)}
    waiting = len(arrays["pending.rows"]) if "pending.rows" in arrays else 0
    shapes |= {"pending.rows": (waiting, D), "pending.weight": (waiting,)}
    for name, array in arrays.items():
        expected = shapes.get(name, shapes.get(name.partition(".")[2], array.shape))
        if array.shape != expected or array.dtype != np.float64 or not np.isfinite(array).all():
            raise ValueError(
                f"the array {name!r} of the stream must hold finite float64 numbers in the shape {expected}; found "
                f"{array.dtype} in the shape {array.shape}. Restore the file from a copy."
            )


def _stats(name: str, arrays: Arrays, numbers: dict[str, Any], family: Covariance) -> Stats | None:
    if name not in numbers:
        return None
    weight, centre, scatter = (np.array(arrays[f"{name}.{part}"]) for part in _STATS)
    loglik, entropy, log_max, count, rows = numbers[name]
    return Stats(weight, centre, scatter, loglik, entropy, log_max, count, rows, family)


def _model(role: str, arrays: Arrays, family: Covariance) -> Mixture | None:
    if f"{role}.weights" not in arrays:
        return None
    w, mu, sigma, factors = (np.array(arrays[f"{role}.{part}"]) for part in _MODEL)
    return Mixture.trusted(w, mu, sigma, family, factors)
