"""Lines of JSON or CSV to rows of numbers: fast where all is well, line by line with reasons where it is not."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamgmm.sources.formats.delimited import BLANKS, fields_of, is_comment, number_of, quoting_fault, sniff
from streamgmm.stream.connectors.layout import Layout, layout_of_csv, layout_of_json

__all__ = ["FORMATS", "Bad", "Parser"]

Array = NDArray[np.float64]
Bad = tuple[bytes, str]
"""A line, and why it was refused."""
FORMATS = ("auto", "ndjson", "csv")
_A_LOOK = 100
"""Lines among which "auto" looks for the opening of an array or an object."""


class Parser:
    """Turns lines into rows.

    Parameters
    ----------
    format : {"auto", "ndjson", "csv"}
        NDJSON: an array of numbers, or an object, per line. CSV: numbers and commas (or semicolons, tabs, bars,
        blanks). "auto" tells them apart by the first lines.
    columns : sequence of str, optional
        Keys of the objects, or names in the CSV's header, in order. None takes what the first record holds of numbers:
        keys sorted, columns as they stand.
    width : int, optional
        Numbers per row, where no columns are named.
    header : bool or None
        CSV: whether the first line names the columns; None sees for itself.

    Attributes
    ----------
    layout : Layout or None
        What the first records taught; set it to go on as before.
    """

    def __init__(
        self,
        format: str = "ndjson",
        columns: Sequence[str] | None = None,
        width: int | None = None,
        header: bool | None = False,
    ) -> None:
        if format not in FORMATS:
            raise ValueError(f"format must be one of {list(FORMATS)}; got {format!r}.")
        self.format, self.width, self.header = format, width, header
        self.columns = None if columns is None else tuple(columns)
        self.layout: Layout | None = None
        self._heads: list[bytes] = []

    def is_quoted(self, text: bytes) -> bool:
        """True if this is CSV with fields between quotes, in which a line end need not end a record."""
        if b'"' not in text or self.format == "ndjson":
            return False
        return self.format == "csv" or not _has_json(re.split(rb"\s*[\r\n]\s*", text.lstrip(), maxsplit=_A_LOOK))

    def delimiter(self, text: bytes) -> str:
        """Separator of the fields of a CSV."""
        if self.layout is not None:
            return self.layout.delimiter
        head = sniff(text[:65_536].decode("latin-1"), whole=False, header=self.header)
        return "," if head is None else head.dialect.delimiter

    def parse(self, lines: Sequence[bytes]) -> tuple[Array, list[Bad]]:
        """Rows of the good lines (n, width), in order, and the bad lines. Blank lines are neither.

        Raises
        ------
        ValueError
            Where a header lacks a column that was asked for.
        """
        lines = [line.strip(b" \r\n") for line in lines if line.strip()]
        if self.layout is None and lines:
            lines = self._learn(lines)
        if self.layout is None:
            return np.empty((0, 0)), [(line, self._reason(line)) for line in lines]
        layout = self.layout
        if layout.comment:
            lines = [line for line in lines if not is_comment(line.decode("latin-1"))]
        if lines:
            rows = _quick(layout, lines)
            if rows is not None:
                return rows, []
        good: list[list[float]] = []
        bad: list[Bad] = []
        for line in lines:
            try:
                good.append(_row(layout, line))
            except (ValueError, RecursionError) as error:
                bad.append((line, str(error)[:200]))
        return np.array(good, np.float64).reshape(len(good), layout.width), bad

    def _learn(self, lines: list[bytes]) -> list[bytes]:
        """Take the layout from the first lines; those that are no header."""
        if self.format == "auto":
            self.format = "ndjson" if _has_json(lines) else "csv"
        if self.format == "ndjson":
            self.layout = layout_of_json(lines, self.columns, self.width)
            return lines
        self.layout, heads = layout_of_csv([*self._heads, *lines], self.columns, self.width, self.header)
        fresh = lines[heads - len(self._heads) :] if heads else lines
        if self.layout is None and heads and not self._heads:
            self._heads = lines[:heads]  # a header whose first row is still to come
        return fresh

    def _reason(self, line: bytes) -> str:
        """Why a line teaches nothing."""
        try:
            values = (_json_row if self.format == "ndjson" else _csv_row)(Layout(self.format, 0, ()), line)
        except (ValueError, RecursionError) as error:
            return str(error)[:200]
        return f"expected numbers, found {len(values)}"


def _has_json(lines: Sequence[bytes]) -> bool:
    """True if one of the first lines begins as an array or an object does."""
    return any(line[:1] in (b"[", b"{") for line in lines[:_A_LOOK])


def _row(layout: Layout, line: bytes) -> list[float]:
    values = (_json_row if layout.format == "ndjson" else _csv_row)(layout, line)
    if len(values) != layout.width or not values:
        raise ValueError(f"expected {layout.width} numbers, found {len(values)}")
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
    return values


def _quick(layout: Layout, lines: list[bytes]) -> Array | None:
    """All lines at once, or None if anything at all is out of the ordinary."""
    try:
        rows = (_json_rows if layout.format == "ndjson" else _csv_rows)(layout, lines)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError):
        return None
    if rows.shape != (len(lines), layout.width) or rows.dtype.kind not in "fi":
        return None
    rows = rows.astype(np.float64, copy=False)
    return rows if np.isfinite(rows).all() else None


def _json_rows(layout: Layout, lines: list[bytes]) -> Array:
    opening, closing = (91, 93) if layout.columns is None else (123, 125)
    if not all(line[0] == opening and line[-1] == closing for line in lines):
        raise ValueError("mixed")
    text = b",".join(lines)
    if b"true" in text or b"false" in text:
        raise ValueError("perhaps not numbers")
    values = json.loads(b"[" + text + b"]")
    if layout.columns is not None:
        values = [[value[key] for key in layout.columns] for value in values]
    return np.array(values)


def _json_row(layout: Layout, line: bytes) -> list[float]:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    if isinstance(value, dict):
        if layout.columns is None:
            raise ValueError(f"expected an array of {layout.width} numbers, found an object")
        missing = [key for key in layout.columns if key not in value]
        if missing:
            raise ValueError(f"no value for {', '.join(missing[:5])}")
        return [_number(value[key]) for key in layout.columns]
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


def _csv_rows(layout: Layout, lines: list[bytes]) -> Array:
    if any(b"_" in line or b'"' in line for line in lines):
        raise ValueError("digits with underscores, or quotes")
    if any(kind in ("grouped", "truth") for kind in layout.kinds):
        raise ValueError("not written plainly")
    if layout.decimal == ",":
        if any(b"." in line for line in lines):
            raise ValueError("perhaps thousands")
        lines = [line.replace(b",", b".") for line in lines]
    mark = None if layout.delimiter == BLANKS else layout.delimiter.encode()
    split = [line.split(mark) for line in lines]
    if layout.places is None:
        return np.array([list(map(float, fields)) for fields in split])
    if any(len(fields) != layout.n_fields for fields in split):
        raise ValueError("short or long lines")
    return np.array([[float(fields[i]) for i in layout.places] for fields in split])


def _written(field: str, decimal: str, kind: str) -> float:
    value = number_of(field, decimal, kind)
    if value is None:
        raise ValueError(f"not a number: {field!r}")
    return value


def _csv_row(layout: Layout, line: bytes) -> list[float]:
    text = line.decode("utf-8", "replace")
    if b'"' in line and (fault := quoting_fault(text, layout.delimiter)) is not None:
        raise ValueError(f"a stray quote ({fault})")
    fields = fields_of(text, layout.delimiter)
    if layout.places is not None:
        if len(fields) != layout.n_fields:
            raise ValueError(f"expected {layout.n_fields} fields, found {len(fields)}")
        fields = [fields[i] for i in layout.places]
    kinds = layout.kinds or ("number",) * len(fields)
    if layout.decimal != "." or any(kind in ("grouped", "truth") for kind in kinds):
        if len(fields) != len(kinds):
            raise ValueError(f"expected {len(kinds)} numbers, found {len(fields)}")
        return [_written(field, layout.decimal, kind) for field, kind in zip(fields, kinds, strict=True)]
    if any("_" in field for field in fields):
        raise ValueError("digits with underscores are not numbers here")
    try:
        return [float(field) for field in fields]
    except ValueError as error:
        raise ValueError(str(error).replace("could not convert string to float", "not a number")) from None
