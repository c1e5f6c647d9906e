"""Values as JSON and named arrays, and back with the same bits. No code is run by reading: nothing is pickled.

Understood are None, truth values, numbers, text, NumPy scalars, tuples, lists, dicts, arrays of numbers, covariance
families, random generators, and dataclasses and named tuples that this package defines. Whatever else comes is refused
with its place, so that a new kind of state cannot get lost without a word.
"""

from __future__ import annotations

import math
import re
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamgmm.covariance import Covariance, family

__all__ = ["decode", "encode"]

_KIND = "$"
_HOME = re.compile(r"streamgmm(\.[a-z_]+)+")
_STORED = {"<f8", "<f4", "<i8", "<u8", "|u1", "|b1"}


def encode(value: Any) -> tuple[Any, dict[str, NDArray[Any]]]:
    """`value` as a JSON tree, and the arrays it names. What occurs twice is stored once.

    Raises
    ------
    TypeError
        For a kind of value that is not understood, naming its place.
    """
    encoder = _Encoder()
    return encoder.node(value, "state"), encoder.arrays


def decode(tree: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """What `encode` was given.

    Raises
    ------
    ValueError, KeyError, TypeError
        Where the tree is not one that `encode` makes.
    """
    return _Decoder(arrays).value(tree)


class _Encoder:
    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}
        self._seen: dict[int, tuple[Any, int]] = {}  # holds the value too, so that its id stays its own

    def node(self, value: Any, place: str) -> Any:
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {_KIND: "float", "value": repr(value)}
        if isinstance(value, np.generic) and value.dtype.kind in "biuf":
            return {_KIND: "scalar", "dtype": value.dtype.str, "value": self.node(value.item(), place)}
        if type(value) is list:
            return [self.node(item, f"{place}[{i}]") for i, item in enumerate(value)]
        if type(value) is tuple:
            return {_KIND: "tuple", "items": [self.node(item, f"{place}[{i}]") for i, item in enumerate(value)]}
        if type(value) is dict:
            items = [[self.node(k, place), self.node(v, f"{place}[{k!r}]")] for k, v in value.items()]
            return {_KIND: "dict", "items": items}
        if isinstance(value, Covariance):
            return {_KIND: "family", "name": value.name}
        if id(value) in self._seen:
            return {_KIND: "again", "number": self._seen[id(value)][1]}
        node = self._object(value, place)
        self._seen[id(value)] = value, len(self._seen)
        return {**node, "number": len(self._seen) - 1}

    def _object(self, value: Any, place: str) -> dict[str, Any]:
        kind = type(value)
        if kind is np.ndarray and value.dtype.kind in "biuf":
            return self._array(value)
        if kind is np.random.RandomState:
            return {_KIND: "random_state", "state": self.node(value.get_state(legacy=False), place)}
        if kind is np.random.Generator:
            return {_KIND: "generator", "state": self.node(value.bit_generator.state, place)}
        if _HOME.fullmatch(kind.__module__):
            home = {"class": f"{kind.__module__}:{kind.__qualname__}"}
            if is_dataclass(kind):
                # A leading underscore marks what follows from the rest, and is made again when wanted.
                parts = {
                    f.name: None if f.name.startswith("_") else self.node(getattr(value, f.name), f"{place}.{f.name}")
                    for f in fields(kind)
                }
                return {_KIND: "object", **home, "fields": parts}
            if issubclass(kind, tuple) and hasattr(kind, "_fields"):
                return {_KIND: "named", **home, "items": self.node(tuple(value), place)}
        raise TypeError(
            f"{place}: cannot keep a {kind.__module__}.{kind.__qualname__}. Expected numbers, text, arrays, containers "
            "of them, or dataclasses of streamgmm."
        )

    def _array(self, value: NDArray[Any]) -> dict[str, Any]:
        name = f"a{len(self.arrays)}"
        # The layout is kept because the order of a sum, hence its last bit, can depend on it.
        order: Literal["F", "C"] = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        flat = value.ravel(order=order)
        dtype = flat.dtype.newbyteorder("<") if flat.dtype.byteorder == ">" else flat.dtype
        flat = flat.astype(dtype, copy=False)
        self.arrays[name] = flat if dtype.str in _STORED else flat.view(np.uint8)
        return {
            _KIND: "array",
            "name": name,
            "dtype": dtype.str,
            "shape": list(value.shape),
            "order": order,
            "writeable": bool(value.flags.writeable),
        }


class _Decoder:
    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.arrays = arrays
        self._made: list[Any] = []

    def value(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.value(item) for item in node]
        if not isinstance(node, dict):
            return node
        kind = node[_KIND]
        if kind == "float":
            return float(node["value"])
        if kind == "scalar":
            return np.dtype(node["dtype"]).type(self.value(node["value"]))
        if kind == "tuple":
            return tuple(self.value(item) for item in node["items"])
        if kind == "dict":
            return {self.value(key): self.value(item) for key, item in node["items"]}
        if kind == "family":
            return family(node["name"])
        if kind == "again":
            return self._made[node["number"]]
        value = self._object(kind, node)
        if node["number"] != len(self._made):
            raise ValueError("its parts are out of order")
        self._made.append(value)
        return value

    def _object(self, kind: str, node: dict[str, Any]) -> Any:
        if kind == "array":
            array = self.arrays[node["name"]].view(np.dtype(node["dtype"])).reshape(node["shape"], order=node["order"])
            array.flags.writeable = node["writeable"]
            return array
        if kind == "random_state":
            state = np.random.RandomState()
            state.set_state(self.value(node["state"]))
            return state
        if kind == "generator":
            content = self.value(node["state"])
            name = content["bit_generator"]
            if name not in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"):
                raise ValueError(f"unknown generator {name!r}")
            generator = np.random.Generator(getattr(np.random, name)())
            generator.bit_generator.state = content
            return generator
        if kind == "object":
            return self._dataclass(_find(node["class"]), node["fields"])
        if kind == "named":
            cls = _find(node["class"])
            if not (issubclass(cls, tuple) and hasattr(cls, "_fields")):
                raise ValueError(f"{cls.__name__} is no named tuple")
            return cls(*self.value(node["items"]))
        raise ValueError(f"unknown kind of value {kind!r}")

    def _dataclass(self, cls: type, parts: dict[str, Any]) -> Any:
        if not is_dataclass(cls) or [f.name for f in fields(cls)] != list(parts):
            raise ValueError(f"{cls.__name__} has other fields in this version")
        made = object.__new__(cls)
        for name, part in parts.items():
            object.__setattr__(made, name, self.value(part))
        return made


def _find(where: str) -> type:
    """The class called ``module:name``, which must be one that this package defines."""
    module, _, name = where.partition(":")
    if not _HOME.fullmatch(module) or not name.isidentifier():
        raise ValueError(f"{where[:60]!r} is not a class of streamgmm")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError):
        raise ValueError(f"{where[:60]!r} is not in this version") from None
    if not isinstance(found, type) or found.__module__ != module:
        raise ValueError(f"{where[:60]!r} is not a class of streamgmm")
    return found
