"""Packed and missing values as the CF conventions store them: scale_factor, add_offset, _FillValue, missing_value.

They are applied as xarray applies them, but in double precision. (CF conventions, sections 2.5.1 and 8.1.)
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Packing:
    """Rule by which stored numbers become values.

    Attributes
    ----------
    missing : stored numbers that mean a missing value
    scale, offset : value = stored * scale + offset
    unsigned : stored integers are unsigned whatever their type says
    """

    missing: tuple[float, ...] = ()
    scale: float = 1.0
    offset: float = 0.0
    unsigned: bool = False

    @classmethod
    def from_attributes(
        cls, attributes: Mapping[str, Any], dtype: np.dtype[Any], name: str, fill: Any = None
    ) -> Packing | None:
        """Rule that the attributes of an array give, or None where they give none.

        Parameters
        ----------
        fill : the array's own fill value, where it means a missing value

        Raises
        ------
        ValueError
            Where an attribute holds no number.
        """

        def numbers(key: str, value: Any) -> list[Any]:
            if isinstance(value, str) and dtype.kind == "f" and key == "_FillValue":
                value = _from_base64(value)
            try:
                found = np.ravel(value)
                return list(found if found.dtype.kind in "iu" else found.astype(np.float64))
            except (TypeError, ValueError):
                raise ValueError(f"{name}: the attribute {key} must be a number; got {value!r}.") from None

        given = {key: numbers(key, attributes[key]) for key in _NAMES if key in attributes}
        missing = [*given.get("_FillValue", ()), *given.get("missing_value", ())]
        missing += [] if fill is None else numbers("fill_value", fill)
        packing = cls(
            tuple(_python(value) for value in missing if value == value),
            float(given.get("scale_factor", [1.0])[0]),
            float(given.get("add_offset", [0.0])[0]),
            dtype.kind == "i" and str(attributes.get("_Unsigned", "")).lower() == "true",
        )
        return None if packing == cls() else packing

    def dtype(self, stored: np.dtype[Any]) -> np.dtype[Any]:
        """The type of the rows: float32 only for float32 that is not scaled."""
        plain = self.scale == 1 and self.offset == 0 and stored.kind == "f" and stored.itemsize == 4
        return np.dtype(np.float32 if plain else np.float64)

    def unpack(self, stored: NDArray[Any]) -> NDArray[Any]:
        """The values of what is stored; NaN where one is missing."""
        absent = np.zeros(stored.shape, bool)
        for value in self.missing:
            absent |= stored == (stored.dtype.type(value) if stored.dtype.kind == "f" else value)
        if self.unsigned:
            native = stored.astype(stored.dtype.newbyteorder("="), order="C", copy=False)
            stored = native.view(f"u{stored.dtype.itemsize}")
            for value in self.missing:
                absent |= stored == value
        values = stored.astype(self.dtype(stored.dtype))
        if self.scale != 1:
            values *= self.scale
        if self.offset != 0:
            values += self.offset
        values[absent] = np.nan
        return values


_NAMES = ("_FillValue", "missing_value", "scale_factor", "add_offset")


def _python(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _from_base64(text: str) -> Any:
    """xarray writes the _FillValue of floats in Zarr version 3 as the base64 of a little-endian double."""
    try:
        return struct.unpack("<d", base64.standard_b64decode(text))[0]
    except (ValueError, struct.error):
        return text
