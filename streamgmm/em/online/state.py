"""What a learner knows, as named arrays and numbers; and two learners made one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.online.challenger import Trial
from streamgmm.em.variants import Online
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.stats import Stats

if TYPE_CHECKING:
    from streamgmm.em.online.learner import Learner

__all__ = ["merge_into", "restore_to", "state_of"]

Arrays = dict[str, NDArray[Any]]

_MODEL = ("weights", "means", "covariances", "factors")
_STATS = ("weight", "mean", "scatter")


def _shape(learner: Learner) -> list[Any]:
    return [learner.n_components, learner.n_features, learner.family.name]


def state_of(learner: Learner) -> tuple[Arrays, dict[str, Any]]:
    """Everything that was learnt, as named arrays and JSON-able numbers."""
    arrays: Arrays = {}
    online = learner.online
    numbers: dict[str, Any] = {
        "shape": _shape(learner),
        "rows": learner.rows,
        "steps": learner.steps,
        "starts": learner.starts,
        "seed": learner.seed,
        "set_aside": learner.set_aside,
        "challenged": learner.challenged,
        "trial": list(learner.trial),
        "online": [online.step, online.seen, online.inverse_size],
    }
    for role, model in (("model", learner.running), ("challenger", learner.challenger)):
        if model is not None:
            arrays |= {f"{role}.{part}": getattr(model, part) for part in _MODEL}
    for name, stats in (("mean", online.mean[0] if online.mean else None), ("average", learner.average)):
        if stats is not None:
            arrays |= {f"{name}.{part}": getattr(stats, part) for part in _STATS}
            numbers[name] = [stats.loglik, stats.entropy, stats.log_max, stats.count, stats.rows]
    if learner.pending_rows:
        rows, weight = learner.waiting.view()
        arrays["pending.rows"] = rows.copy()
        arrays["pending.weight"] = np.ones(len(rows)) if weight is None else weight.copy()
    return arrays, numbers


def restore_to(learner: Learner, arrays: Arrays, numbers: dict[str, Any]) -> None:
    """The inverse of `state_of`.

    Raises
    ------
    ValueError
        Where the state is of a learner of another shape.
    """
    if numbers["shape"] != _shape(learner):
        raise ValueError(
            f"The state is of a stream with (n_components, features, covariance_type) = {numbers['shape']}; "
            f"this one has {_shape(learner)}. Use the settings it was written with, or begin a new snapshot."
        )
    _check_arrays(learner, arrays)
    stats: dict[str, Stats] = {}
    for name in ("mean", "average"):
        if name in numbers:
            weight, centre, scatter = (np.array(arrays[f"{name}.{part}"]) for part in _STATS)
            loglik, entropy, log_max, count, rows = numbers[name]
            stats[name] = Stats(weight, centre, scatter, loglik, entropy, log_max, count, rows, learner.family)
    step, seen, inverse_size = numbers["online"]
    mean = (stats["mean"],) if "mean" in stats else None
    learner.online = Online(step=step, seen=seen, inverse_size=inverse_size, mean=mean)
    learner.average = stats.get("average")
    learner.rows, learner.steps = numbers["rows"], numbers["steps"]
    learner.starts, learner.seed = numbers["starts"], numbers["seed"]
    learner.challenged = numbers["challenged"]
    learner.set_aside = numbers.get("set_aside", 0)
    n, total, squares = numbers["trial"]
    learner.trial = Trial(n, total, squares)
    learner.running, learner.challenger = _model("model", learner, arrays), _model("challenger", learner, arrays)
    learner.changed()
    learner.waiting.clear()
    if "pending.rows" in arrays:
        waiting = arrays["pending.rows"]
        learner.waiting.add(waiting, arrays["pending.weight"], len(waiting))


def _check_arrays(learner: Learner, arrays: Arrays) -> None:
    """Refuse arrays that cannot be those of this learner: a file may come from anywhere."""
    K, D = learner.n_components, learner.n_features
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


def _model(role: str, learner: Learner, arrays: Arrays) -> Mixture | None:
    if f"{role}.weights" not in arrays:
        return None
    w, mu, sigma, factors = (np.array(arrays[f"{role}.{part}"]) for part in _MODEL)
    return Mixture.trusted(w, mu, sigma, learner.family, factors)


def merge_into(learner: Learner, other: Learner, ages: tuple[float, float]) -> None:
    """Take in what `other` learnt; see `Learner.merge`."""
    mine, theirs = learner.online, other.online
    if (_shape(other), other.half_life) != (_shape(learner), learner.half_life):
        raise ValueError("Only learners of equal n_components, features, covariance_type and half_life can be merged.")
    if theirs.mean is not None:
        if mine.mean is None:
            learner.online, learner.running, learner.average = theirs, other.running, other.average
        else:
            m, o = (_mass(one) * _aged(one, age) for one, age in ((learner, ages[0]), (other, ages[1])))
            share = o / (m + o)
            both = learner.average is not None and other.average is not None
            learner.average = learner.average.blend(other.average, share) if both else None  # type: ignore[union-attr, arg-type]
            learner.online = replace(
                mine,
                seen=mine.seen + theirs.seen,
                inverse_size=(1 - share) ** 2 * mine.inverse_size + share**2 * theirs.inverse_size,
                mean=(mine.mean[0].blend(theirs.mean[0], share),),
            )
            if not learner.frozen:
                learner.settle()
        learner.changed()
    learner.rows += other.rows
    learner.steps += other.steps
    learner.push(*other.waiting.view())


def _mass(learner: Learner) -> float:
    if learner.half_life is None:
        return learner.effective_sample_size
    return -math.expm1(-learner.online.seen / learner.half_life * math.log(2)) * learner.half_life


def _aged(learner: Learner, age: float) -> float:
    return 1.0 if learner.half_life is None else 2.0 ** (-age / learner.half_life)
