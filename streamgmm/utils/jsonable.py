"""Values of NumPy and Python as plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

__all__ = ["Json", "jsonable"]

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def jsonable(value: object) -> Json:
    """`value` with NumPy scalars, arrays, tuples, sets and paths as plain JSON values; a non-finite number as None.

    Examples
    --------
    >>> import numpy as np
    >>> jsonable({"trace": np.array([1.0, np.nan]), "rows": np.int64(3)})
    {'trace': [1.0, None], 'rows': 3}
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    return str(value)
