"""Values as JSON and named arrays, and back with the same bits. No code is run by reading: nothing is pickled.

This is how checkpoints, learners and snapshots of streams are written: `packed` gives the arrays of a file.

Understood are None, truth values, numbers, text, NumPy scalars, tuples, lists, dicts, arrays of numbers, covariance
families, random generators, and the classes in `HOMES`. Whatever else comes is refused with its place, so that a new
kind of state cannot get lost without a word.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamgmm.mixture.covariance import Covariance, family

__all__ = ["decode", "encode", "is_packed", "packed", "unpacked"]

Node = None | bool | int | float | str | list["Node"] | dict[str, "Node"]
"""Part of a JSON tree."""

_KIND = "$"
_STORED = {"<f8", "<f4", "<i8", "<u8", "|u1", "|b1"}

HOMES = {
    "Affine": "streamgmm.utils.affine:Affine",
    "Begin": "streamgmm.em.candidates:Initialization",
    "Candidate": "streamgmm.em.candidates:Candidate",
    "Centres": "streamgmm.em.kmeans.centres:Centres",
    "Completed": "streamgmm.em.initialization.sample:Completed",
    "Conjugate": "streamgmm.mixture.prior:Conjugate",
    "Draw": "streamgmm.sources.summaries.reservoir:Draw",
    "Gathering": "streamgmm.sources.gathered:Gathering",
    "LearnerState": "streamgmm.em.online.state:LearnerState",
    "Leaves": "streamgmm.em.variants:FoldTree",
    "GaussWishart": "streamgmm.mixture.variational:GaussWishart",
    "LloydStats": "streamgmm.em.kmeans.centres:LloydStats",
    "Mixture": "streamgmm.mixture.mixture:Mixture",
    "Moments": "streamgmm.sources.summaries.moments:Moments",
    "NormalInverseWishart": "streamgmm.mixture.prior:NormalInverseWishart",
    "Observation": "streamgmm.mixture.observation:Observation",
    "Online": "streamgmm.em.variants:Online",
    "Pace": "streamgmm.em.acceleration:AcceleratorState",
    "Plan": "streamgmm.kernels.plan:Plan",
    "Position": "streamgmm.em.passes:PassCursor",
    "Proposal": "streamgmm.em.variational_update:Proposal",
    "RowCount": "streamgmm.em.passes:RowCount",
    "Start": "streamgmm.em.candidates:Start",
    "Stats": "streamgmm.mixture.stats:Stats",
    "Survey": "streamgmm.sources.summaries.sample:SampleSummary",
    "SurveyPart": "streamgmm.sources.summaries.sample:_Part",
    "Totals": "streamgmm.em.candidates:Totals",
    "Trial": "streamgmm.em.online.challenger:Trial",
    "VariationalBegin": "streamgmm.em.variational:VariationalBegin",
    "VariationalMixture": "streamgmm.mixture.variational:VariationalMixture",
}
"""Classes that a file may hold, by the names that it holds them by: a name stays when its class moves.

They are imported when first met, as they lie above this module and few of them are needed at once.
"""

FIELDS = {"Position": {"pass_number": "lap", "passes": "readings"}}
"""Fields of these classes that files hold by other names."""

_SPELLINGS = {
    name: f"streamgmm.{module}:{name if name != 'SurveyPart' else '_Part'}"
    for module, names in {
        "accelerate": "Pace",
        "affine": "Affine",
        "candidates": "Begin Candidate Start Totals",
        "centres": "Centres LloydStats",
        "draws": "Draw",
        "fitting": "Position",
        "imputing": "Completed",
        "kernels.plan": "Plan",
        "mixture": "Mixture",
        "moments": "Moments",
        "prior": "Conjugate NormalInverseWishart",
        "rowcount": "RowCount",
        "rules": "Leaves Online",
        "seeding": "Survey SurveyPart",
        "stats": "Observation Stats",
    }.items()
    for name in names.split()
}
"""Names as the first files spelled them: by the modules that the classes stood in. Never changed again."""

_NAMES = {spelling: name for name, spelling in _SPELLINGS.items()}


def encode(value: object, *, first: bool = False) -> tuple[Node, dict[str, NDArray[Any]]]:
    """`value` as a JSON tree, and the arrays it names. What occurs twice is stored once.

    `first`: classes are spelled as in the first files, for hashes that must stay what they were.

    Raises
    ------
    TypeError
        For a kind of value that is not understood, naming its place.
    """
    encoder = _Encoder(first)
    return encoder.node(value, "state"), encoder.arrays


def decode(tree: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """The value that `encode` was given.

    Raises
    ------
    ValueError
        Where the tree is not one that `encode` makes.
    """
    try:
        return _Decoder(arrays).value(tree)
    except (ArithmeticError, AttributeError, LookupError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"its content is damaged or forged ({type(error).__name__}: {str(error)[:80]})") from None


_TREE = "tree"


def packed(value: object) -> dict[str, NDArray[Any]]:
    """`value` as named arrays alone, as `write_arrays` takes them: those of `encode`, and its tree as text.

    Raises
    ------
    TypeError
        As `encode`.
    """
    tree, arrays = encode(value)
    return {_TREE: np.frombuffer(json.dumps(tree, allow_nan=False).encode(), np.uint8), **arrays}


def is_packed(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether these may be arrays that `packed` made."""
    return _TREE in arrays


def unpacked(arrays: Mapping[str, NDArray[Any]]) -> Any:
    """The value that `packed` was given.

    Raises
    ------
    ValueError
        Where the arrays are not those that `packed` makes.
    """
    others = dict(arrays)
    try:
        tree = json.loads(others.pop(_TREE).tobytes())
    except (KeyError, RecursionError) as error:
        raise ValueError(f"its content is damaged or forged ({type(error).__name__})") from None
    return decode(tree, others)


class _Encoder:
    def __init__(self, first: bool) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}
        self._first = first
        self._seen: dict[int, tuple[Any, int]] = {}  # holds the value too, so that its id stays its own

    def node(self, value: Any, place: str) -> Node:
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
            items: list[Node] = [[self.node(k, place), self.node(v, f"{place}[{k!r}]")] for k, v in value.items()]
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
        name = _names().get(f"{kind.__module__}:{kind.__qualname__}")
        if name is not None:
            home = {"class": _SPELLINGS[name] if self._first and name in _SPELLINGS else name}
            if is_dataclass(kind):
                # A leading underscore marks what follows from the rest, and is made again when wanted.
                stored = FIELDS.get(name, {})
                parts = {
                    stored.get(f.name, f.name): None
                    if f.name.startswith("_")
                    else self.node(getattr(value, f.name), f"{place}.{f.name}")
                    for f in fields(kind)
                }
                return {_KIND: "object", **home, "fields": parts}
            return {_KIND: "named", **home, "items": self.node(tuple(value), place)}
        raise TypeError(
            f"{place}: cannot keep a {kind.__module__}.{kind.__qualname__}. Expected numbers, text, arrays, containers "
            "of them, or a class that encoding.HOMES lists."
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
            spelled = node["class"]
            kept_class = _find(spelled)
            field_of = {stored: field for field, stored in FIELDS.get(_NAMES.get(spelled, spelled), {}).items()}
            parts = {field_of.get(stored, stored): part for stored, part in node["fields"].items()}
            return self._dataclass(kept_class, parts)
        if kind == "named":
            cls = _find(node["class"])
            if not (issubclass(cls, tuple) and hasattr(cls, "_fields")):
                raise ValueError(f"{cls.__name__} is no named tuple")
            return cls(*self.value(node["items"]))
        raise ValueError(f"unknown kind of value {kind!r}")

    def _dataclass(self, cls: type, parts: dict[str, Any]) -> Any:
        if not is_dataclass(cls):
            raise ValueError(f"{cls.__name__} has no fields")
        known = {f.name: f for f in fields(cls)}
        absent = {name: _default(f) for name, f in known.items() if name not in parts}
        if not parts.keys() <= known.keys() or any(value is MISSING for value in absent.values()):
            raise ValueError(f"{cls.__name__} has other fields in this version")
        made = object.__new__(cls)
        for name, part in parts.items():
            object.__setattr__(made, name, self.value(part))
        for name, value in absent.items():  # fields that were added since the file was written
            object.__setattr__(made, name, value)
        return made


def _default(field: Field[Any]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


@cache
def _names() -> dict[str, str]:
    return {home: name for name, home in HOMES.items()}


def _find(name: object) -> type:
    """The class that files call `name`; nothing but the classes in `HOMES` is imported."""
    home = HOMES.get(_NAMES.get(name, name)) if isinstance(name, str) else None
    if home is None:
        raise ValueError(f"{str(name)[:60]!r} is not a class of streamgmm that a file may hold in this version")
    module, _, attribute = home.partition(":")
    found: type = getattr(import_module(module), attribute)
    return found
