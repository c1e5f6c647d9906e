"""State of a learner, as a value that `streamgmm.runtime.encoding` writes; checked where it comes from a file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.em.online.challenger import Trial
from streamgmm.em.variants import Online
from streamgmm.mixture.covariance import Covariance, family
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.stats import Stats

__all__ = ["LearnerState", "checked", "state_of_version_1"]

Array = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]


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

    @property
    def shape(self) -> tuple[int, int, str]:
        return self.n_components, self.n_features, self.family.name

    @property
    def stats(self) -> dict[str, Stats]:
        """The running statistics and their average, as far as there are any."""
        both = {"mean": self.online.mean[0] if self.online.mean else None, "average": self.average}
        return {role: stats for role, stats in both.items() if stats is not None}

    @property
    def models(self) -> dict[str, Mixture]:
        """The model and its challenger, as far as there are any."""
        both = {"model": self.model, "challenger": self.challenger}
        return {role: model for role, model in both.items() if model is not None}


_CLASSES = {"trial": Trial, "online": Online, "average": Stats | None, "model": Mixture | None,
            "challenger": Mixture | None, "waiting": tuple}  # fmt: skip
_COUNTS = ("rows", "steps", "starts", "seed", "set_aside", "challenged")


def checked(state: object, n_components: int, n_features: int, family: Covariance) -> LearnerState:
    """`state`, if it can be that of a learner of this shape: a file may come from anywhere.

    Raises
    ------
    ValueError
        Where the state is of a learner of another shape, or holds what a learner cannot have.
    """
    shape = n_components, n_features, family.name
    if not isinstance(state, LearnerState) or state.shape != shape:
        found = list(state.shape) if isinstance(state, LearnerState) else f"a {type(state).__name__}"
        raise ValueError(
            f"The state is of a stream with (n_components, features, covariance_type) = {found}; "
            f"this one has {list(shape)}. Use the settings it was written with, or begin a new snapshot."
        )
    wrong = [name for name, kind in _CLASSES.items() if not isinstance(getattr(state, name), kind)]
    if not wrong:
        known = int | float | np.integer | np.floating
        wrong = [name for name, number in _numbers(state) if not isinstance(number, known)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: of no learner. Restore the file from a copy.")
    for name, array, expected in _arrays(state):
        if array.shape != expected or array.dtype != np.float64 or not np.isfinite(array).all():
            raise ValueError(
                f"the array {name!r} of the stream must hold finite float64 numbers in the shape {expected}; found "
                f"{array.dtype} in the shape {array.shape}. Restore the file from a copy."
            )
    return state


def _numbers(state: LearnerState) -> Iterator[tuple[str, object]]:
    """Every number, with its name."""
    yield from ((name, getattr(state, name)) for name in _COUNTS)
    yield from (("trial", number) for number in state.trial)
    online = state.online
    yield from (("online", number) for number in (online.step, online.seen, online.inverse_size))
    for role, stats in state.stats.items():
        yield from ((role, number) for number in (stats.loglik, stats.entropy, stats.log_max, stats.count, stats.rows))


def _arrays(state: LearnerState) -> Iterator[tuple[str, NDArray[Any], tuple[int, ...]]]:
    """Every array, with its name and the shape that it must have."""
    K, D, family = state.n_components, state.n_features, state.family
    rows, weight = state.waiting
    yield "waiting rows", rows, (len(rows), D)
    if weight is not None:
        yield "waiting weights", weight, (len(rows),)
    shapes = {
        "weights": (K,), "means": (K, D), "covariances": family.shape(K, D),
        "weight": (K,), "mean": (K, D), "scatter": family.scatter_shape(K, D),
    }  # fmt: skip
    for role, part in (*state.models.items(), *state.stats.items()):
        for name, array in _within(part):
            yield f"{role}.{name}", array, shapes.get(name, array.shape)


def _within(value: object) -> Iterator[tuple[str, NDArray[Any]]]:
    """Arrays among the fields of a value and of what it holds; not those that follow from others."""
    for field in fields(value):  # type: ignore[arg-type]
        inner = getattr(value, field.name)
        if field.name.startswith("_"):
            continue
        if isinstance(inner, np.ndarray):
            yield field.name, inner
        elif is_dataclass(inner):
            yield from ((f"{field.name}.{name}", array) for name, array in _within(inner))


# Files of version 1 -----------------------------------------------------------------------------------------------


def state_of_version_1(arrays: Arrays, numbers: dict[str, Any]) -> LearnerState:
    """The state in a file of version 1: arrays by name, and numbers in the header. Not yet `checked`.

    Raises
    ------
    LookupError, TypeError, ValueError
        Where these are not what version 1 wrote.
    """
    n_components, n_features, name = numbers["shape"]
    kind = family(name)
    mean = _stats("mean", arrays, numbers, kind)
    step, seen, inverse_size = numbers["online"]
    n, total, squares = numbers["trial"]
    rows = arrays.get("pending.rows", np.empty((0, n_features)))
    return LearnerState(
        n_components, n_features, kind, numbers["rows"], numbers["steps"], numbers["starts"], numbers["seed"],
        numbers.get("set_aside", 0), numbers["challenged"], Trial(n, total, squares),
        Online(step=step, seen=seen, inverse_size=inverse_size, mean=None if mean is None else (mean,)),
        _stats("average", arrays, numbers, kind), _model("model", arrays, kind), _model("challenger", arrays, kind),
        (rows, arrays.get("pending.weight")),
    )  # fmt: skip


def _stats(role: str, arrays: Arrays, numbers: dict[str, Any], kind: Covariance) -> Stats | None:
    if role not in numbers:
        return None
    weight, centre, scatter = (np.array(arrays[f"{role}.{part}"]) for part in ("weight", "mean", "scatter"))
    *sums, rows = numbers[role]
    loglik, entropy, log_max, count = (math.nan if one is None else one for one in sums)
    return Stats(weight, centre, scatter, loglik, entropy, log_max, count, rows, kind)


def _model(role: str, arrays: Arrays, kind: Covariance) -> Mixture | None:
    if f"{role}.weights" not in arrays:
        return None
    parts = ("weights", "means", "covariances", "factors")
    weights, means, covariances, factors = (np.array(arrays[f"{role}.{part}"]) for part in parts)
    return Mixture.trusted(weights, means, covariances, kind, factors)
