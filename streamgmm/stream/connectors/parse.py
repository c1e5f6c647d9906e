"""Lines of JSON or CSV to rows of numbers: fast where all is well, line by line with reasons where it is not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["FORMATS", "Bad", "Parser"]

Array = NDArray[np.float64]
Bad = tuple[bytes, str]
"""A line, and why it was refused."""


class Parser:
    """Turns lines into rows.

    Parameters
    ----------
    format : {"ndjson", "csv"}
        NDJSON: an array of numbers, or an object, per line. CSV: numbers and commas.
    columns : sequence of str, optional
        Keys of the objects, in order. None takes all keys of the first good object, sorted.
    width : int, optional
        Numbers per row; None takes it from the columns or from the first good line.
    """

    def __init__(self, format: str = "ndjson", columns: Sequence[str] | None = None, width: int | None = None) -> None:
        if format not in FORMATS:
            raise ValueError(f"format must be one of {sorted(FORMATS)}; got {format!r}.")
        self.columns = None if columns is None else list(columns)
        self.width = width if width is not None or columns is None else len(columns)
        self._all, self._one = FORMATS[format]

    def parse(self, lines: Sequence[bytes]) -> tuple[Array, list[Bad]]:
        """Rows of the good lines (n, width), in order, and the bad lines. Blank lines are neither."""
        lines = [line for line in map(bytes.strip, lines) if line]
        if lines:
            rows = self._quick(lines)
            if rows is not None:
                return rows, []
        good: list[list[float]] = []
        bad: list[Bad] = []
        for line in lines:
            try:
                good.append(self._row(line))
            except (ValueError, RecursionError) as error:
                bad.append((line, str(error)[:200]))
        return np.array(good, np.float64).reshape(len(good), self.width or 0), bad

    def _quick(self, lines: list[bytes]) -> Array | None:
        """All lines at once, or None if anything at all is out of the ordinary."""
        if self.width is None:
            return None
        try:
            rows = self._all(self, lines)
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            return None
        if rows.shape != (len(lines), self.width) or rows.dtype.kind not in "fi":
            return None
        rows = rows.astype(np.float64, copy=False)
        return rows if np.isfinite(rows).all() else None

    def _row(self, line: bytes) -> list[float]:
        values = self._one(self, line)
        if self.width is None:
            self.width = len(values)
        if len(values) != self.width or not values:
            raise ValueError(f"expected {self.width} numbers, found {len(values)}")
        for value in values:
            if not math.isfinite(value):
                raise ValueError(f"{value} is not a finite number")
        return values


def _json_all(parser: Parser, lines: list[bytes]) -> Array:
    opening, closing = (91, 93) if parser.columns is None else (123, 125)
    if not all(line[0] == opening and line[-1] == closing for line in lines):
        raise ValueError("mixed")
    text = b",".join(lines)
    if b"true" in text or b"false" in text:
        raise ValueError("perhaps not numbers")
    values = json.loads(b"[" + text + b"]")
    if parser.columns is not None:
        keys = parser.columns
        values = [[value[key] for key in keys] for value in values]
    return np.array(values)


def _json_one(parser: Parser, line: bytes) -> list[float]:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    if isinstance(value, dict):
        if parser.columns is None:
            if parser.width is not None:
                raise ValueError(f"expected an array of {parser.width} numbers, found an object")
            row = [_number(value[key]) for key in sorted(value)]
            parser.columns = sorted(value)
            return row
        missing = [key for key in parser.columns if key not in value]
        if missing:
            raise ValueError(f"no value for {', '.join(missing[:5])}")
        return [_number(value[key]) for key in parser.columns]
    if isinstance(value, list):
        return [_number(item) for item in value]
    raise ValueError(f"expected an array or an object, found {type(value).__name__}")


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{str(value)[:40]!r} is not a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("a number too large for float64") from None


def _csv_all(parser: Parser, lines: list[bytes]) -> Array:
    if any(b"_" in line for line in lines):
        raise ValueError("digits with underscores")
    return np.array([list(map(float, line.split(b","))) for line in lines])


def _csv_one(parser: Parser, line: bytes) -> list[float]:
    if b"_" in line:
        raise ValueError("digits with underscores are not numbers here")
    try:
        return [float(field) for field in line.split(b",")]
    except ValueError as error:
        raise ValueError(str(error).replace("could not convert string to float", "not a number")) from None


FORMATS: dict[str, tuple[Callable[[Parser, list[bytes]], Array], Callable[[Parser, bytes], list[float]]]] = {
    "ndjson": (_json_all, _json_one),
    "csv": (_csv_all, _csv_one),
}
