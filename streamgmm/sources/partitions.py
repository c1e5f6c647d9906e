"""Columns that stand in the names of folders (``level=1/part.parquet``), as Hive, Spark, Dask and pandas write them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

import numpy as np

from streamgmm.sources.base import Chunk, Rows, Source, Weights
from streamgmm.sources.columns import Chosen, Exclude, WeightChoice, check_weights
from streamgmm.sources.formats.tables import NotNumbersError
from streamgmm.sources.wrapped import WrappedChunk, WrappedSource

__all__ = ["Partitions", "folder_of", "is_partition", "partitions_of", "values_of"]

_PARTITION = re.compile(r"([^=/]+)=([^/]*)")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MISSING = "__HIVE_DEFAULT_PARTITION__"

OpenOne = Callable[[str, dict[str, Any]], Source]


def is_partition(folder: str) -> bool:
    """True for a folder's name that gives the value of a column."""
    return _PARTITION.fullmatch(folder) is not None


def folder_of(pattern: str) -> str:
    """The folder that a pattern names before anything in it varies."""
    parts = pattern.split(os.sep)
    fixed = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), len(parts) - 1)
    return os.sep.join(parts[:fixed]) or (os.sep if pattern.startswith(os.sep) else "")


def partitions_of(paths: Sequence[str], root: str | None) -> Partitions | None:
    """The columns in the names of the folders between `root` and the files; None where there are none.

    Parameters
    ----------
    root : by default the folder that all files have in common

    Raises
    ------
    ValueError
        Where files have other such columns than others.
    """
    files = [os.path.abspath(path) for path in paths]
    folders = [file if os.path.isdir(file) else os.path.dirname(file) for file in files]
    top = os.path.commonpath([os.path.dirname(file) for file in files]) if root is None else os.path.abspath(root)
    found = {path: _values(os.path.relpath(folder, top)) for path, folder in zip(paths, folders, strict=True)}
    first = list(next(iter(found.values())))
    for path, values in found.items():
        if list(values) != first:
            raise ValueError(
                f"{path}: expected the partition columns {first} in the names of its folders, as {paths[0]} has; found "
                f"{list(values)}. Give files of the same partitions."
            )
    if not first:
        return None
    texts = {key: [values[key] for values in found.values()] for key in first}
    numbers = tuple(key for key in first if all(_number(text) is not None for text in texts[key]))
    return Partitions(found, numbers, tuple(key for key in first if key not in numbers))


def values_of(path: str) -> dict[str, float | None]:
    """The columns in the names of the folders of a relative path; NaN where one is missing, None for text."""
    return {key: _number(text) for key, text in _values(os.path.dirname(path)).items()}


def _values(path: str) -> dict[str, str]:
    matches = [_PARTITION.fullmatch(part) for part in path.split(os.sep)]
    return {unquote(match[1]): unquote(match[2]) for match in matches if match}


def _number(text: str) -> float | None:
    if text == _MISSING:
        return np.nan
    return float(text) if _NUMBER.fullmatch(text) else None


@dataclass(frozen=True, slots=True)
class Partitions:
    """Columns in the names of folders.

    Attributes
    ----------
    values : for each path its value of each column, as text
    numbers, texts : columns of which every value is a number (or missing), and the others
    """

    values: dict[str, dict[str, str]]
    numbers: tuple[str, ...]
    texts: tuple[str, ...]

    def open(self, path: str, open_one: OpenOne, choices: dict[str, Any]) -> Source:
        """The file at `path` with its partition columns after its own, or where `columns` names them.

        Raises
        ------
        NotNumbersError
            Where a column of text is asked for, here or in the file.
        """
        columns, weight = choices["columns"], choices["weight"]
        constants = {key: _number(self.values[path][key]) for key in self.numbers}
        self._refuse_texts(path, columns, weight)
        wanted: tuple[str, ...] | None = None
        if isinstance(columns, Exclude):
            rest = tuple(column for column in columns.columns if column not in constants and column not in self.texts)
            constants = {key: value for key, value in constants.items() if key not in columns.columns}
            columns = replace(columns, columns=rest) if rest else None
        elif columns is not None:
            named: list[Any] = [columns] if isinstance(columns, (str, int, np.integer)) else list(columns)
            if any(not isinstance(column, str) for column in named):
                constants = {}  # positions are those of the file's own columns
            else:
                wanted = tuple(named)
                columns = [column for column in named if column not in constants] or None
        given = weight if isinstance(weight, str) and weight in self.numbers else None
        value = None if given is None else float(self.values[path][given])
        if given is not None:
            constants.pop(given, None)
        try:
            source = open_one(path, {**choices, "columns": columns, "weight": None if given is not None else weight})
        except NotNumbersError as error:
            raise NotNumbersError(str(error), [*error.numeric, *constants], error.other, error.labels) from error
        return self._with(source, constants, wanted, value)

    def _refuse_texts(self, path: str, columns: Chosen, weight: WeightChoice) -> None:
        named = () if isinstance(columns, Exclude) or columns is None else columns
        asked = {*named, *([weight] if isinstance(weight, str) else ())}
        text = next((key for key in self.texts if key in asked), None)
        if text is not None:
            raise NotNumbersError(
                f"{path}: the partition column {text!r} holds text, {self.values[path][text]!r}; expected numbers. "
                "Leave it out, or encode it as numbers.",
                list(self.numbers),
                [text],
            )

    def _with(
        self, source: Source, constants: dict[str, Any], wanted: tuple[str, ...] | None, weight: float | None
    ) -> Source:
        own = source.feature_names
        if wanted is None:
            constants = {key: value for key, value in constants.items() if own is None or key not in own}
        else:
            constants = {key: constants[key] for key in wanted if key in constants}
        if constants or weight is not None:
            source = PartitionSource(source, constants, wanted, weight)
        if self.texts:
            listed = ", ".join(map(repr, self.texts))
            told = f"left out the partition columns {listed}, because they hold no numbers"
            source.notice = f"{source.notice}; {told}" if source.notice else told
        return source


@dataclass(frozen=True, slots=True)
class PartitionChunk(WrappedChunk):
    """A chunk of a file with constants beside its columns.

    Attributes
    ----------
    own : for each feature the column of the file, or -1
    constants : for each feature the constant, or NaN
    """

    own: tuple[int, ...]
    constants: tuple[float, ...]
    dtype: np.dtype[Any]
    weight: float | None
    name: str

    def load(self) -> tuple[Rows, Weights]:
        stored, weights = self.chunk.load()
        rows = np.empty((len(stored), len(self.own)), self.dtype)
        for j, (column, constant) in enumerate(zip(self.own, self.constants, strict=True)):
            rows[:, j] = constant if column < 0 else stored[:, column]
        if self.weight is not None:
            weights = check_weights(np.full(len(stored), self.weight), self.name, self.start, self.index)
        return rows, weights


class PartitionSource(WrappedSource):
    """`source` with columns that are the same in all its rows."""

    def __init__(
        self, source: Source, constants: dict[str, float], wanted: tuple[str, ...] | None, weight: float | None
    ) -> None:
        super().__init__(source)
        self.constants, self.wanted, self.weight = constants, wanted, weight
        self.has_weights = source.has_weights or weight is not None
        own = source.feature_names
        places: dict[Any, int] = {name: i for i, name in enumerate(range(source.n_features) if own is None else own)}
        names = (*places, *constants) if wanted is None else wanted
        self.own = tuple(-1 if name in constants else places[name] for name in names)
        self.values = tuple(constants.get(name, np.nan) for name in names)
        self.n_features = len(names)
        self.dtype = np.dtype(np.float64) if constants else source.dtype
        self.feature_names = tuple(map(str, names)) if own is not None or wanted is not None else None

    def over(self, source: Source) -> Source:
        return PartitionSource(source, self.constants, self.wanted, self.weight)

    def wrapped(self, chunk: Chunk) -> Chunk:
        return PartitionChunk(chunk, self.own, self.values, self.dtype, self.weight, self.name)

    def fingerprint(self) -> dict[str, Any]:
        constants = {name: None if np.isnan(value) else value for name, value in self.constants.items()}
        given = {"constants": constants, "wanted": self.wanted, "weight": self.weight}
        return {"kind": "partition", **given, "source": self.source.fingerprint()}
