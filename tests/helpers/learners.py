"""Everything that a learner knows, as values to compare."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import numpy as np


def leaves(value, place="state"):
    """(place, number or bytes) of every number and array in a value."""
    if isinstance(value, np.ndarray):
        yield place, (value.dtype.str, value.shape, value.tobytes())
    elif is_dataclass(value):
        for field in fields(value):
            if not field.name.startswith("_"):
                yield from leaves(getattr(value, field.name), f"{place}.{field.name}")
    elif isinstance(value, tuple | list):
        for i, item in enumerate(value):
            yield from leaves(item, f"{place}[{i}]")
    else:
        yield place, repr(float(value)) if isinstance(value, int | float | np.generic) else repr(value)


def known(learner):
    """All bits of what `learner` has learnt."""
    return dict(leaves(learner.state()))
