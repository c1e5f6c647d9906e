"""CSV files, cut at line ends nearest to multiples of a byte count; every column is read as float64."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.delimited import delimiter_of, fields_of
from streamgmm.errors import ChunkReadError
from streamgmm.sources.base import Chunk, Rows, Source, Weights
from streamgmm.sources.labels import are_labels, row_labels, told_apart
from streamgmm.sources.picking import check_weights, digest, weight_array
from streamgmm.sources.runs import check_chunk_rows
from streamgmm.sources.scratch import read_into, scratch
from streamgmm.sources.stamps import Stamp, check_stamp, stamp
from streamgmm.sources.tables import Columns, arrow_rows, choose_columns, import_pyarrow

CHUNK_BYTES = 4 * 2**20
"""Bytes of text in a chunk: about 2 MiB of numbers."""

Text = NDArray[np.uint8]
"""Lines of a file, as bytes."""

_EMPTY = {"", "na", "n/a", "nan", "null", "none", "-nan", "#n/a"}


@dataclass(frozen=True, slots=True)
class CsvChunk(Chunk):
    """The lines that begin in bytes `low` to `high` of a file."""

    index: int
    start: int | None
    low: int
    high: int
    path: str
    stamp: Stamp
    delimiter: str
    decimal: str
    stored: tuple[str, ...]
    columns: Columns
    weight: Weights = field(repr=False)

    def check(self) -> None:
        check_stamp(self.path, self.stamp, self.path, self.index)

    def load(self) -> tuple[Rows, Weights]:
        self.check()
        try:
            text = _lines(self.path, self.low, self.high, exact=self.index == 0)
        except OSError as error:
            raise ChunkReadError(self.path, self.index, f"cannot be read: {error.strerror or error}.") from error
        if _blank(text):
            return np.empty(
                (0, len(self.columns.names)), self.columns.dtype
            ), None if self.weight is None else self.weight[:0]
        rows, weights = self._parse(text)
        if weights is not None:
            return rows, check_weights(weights, self.path, self.start, self.index)
        if self.weight is not None and len(self.weight) != len(rows):
            raise ChunkReadError(self.path, self.index, f"expected {len(self.weight)} rows, read {len(rows)}.")
        return rows, self.weight

    def _parse(self, text: Text) -> tuple[Rows, Any]:
        pa = import_pyarrow(self.path)
        import pyarrow.csv as pc

        try:
            table = pc.read_csv(
                pa.BufferReader(pa.py_buffer(text)),
                read_options=pc.ReadOptions(
                    use_threads=False, column_names=list(self.stored), block_size=max(2**20, len(text) + 1)
                ),
                parse_options=pc.ParseOptions(delimiter=self.delimiter),
                convert_options=pc.ConvertOptions(
                    column_types=dict.fromkeys(self.columns.all, pa.float64()),
                    include_columns=list(self.columns.all),
                    decimal_point=self.decimal,
                    null_values=[*_EMPTY, "NA", "N/A", "NaN", "Null", "NULL", "None", "#N/A"],
                ),
            )
        except pa.ArrowInvalid as error:
            raise self._explained(text, str(error)) from error
        return arrow_rows(table, self.columns)

    def _explained(self, text: Text, message: str) -> ChunkReadError:
        """The same complaint with the number of the line and the name of the column."""
        found = re.search(r"CSV column #(\d+).*?invalid value '(.*)'", message, re.DOTALL)
        lines = [_fields(line, self.delimiter) for line in str(text, "utf-8", "replace").splitlines()]
        if found:
            column, value = int(found[1]), found[2]
            for i, fields in enumerate(lines):
                if column < len(fields) and fields[column] == value.strip(' "'):
                    return ChunkReadError(
                        self.path,
                        self.index,
                        f"line {self._first_line() + i}, column {self.stored[column]!r}: expected a number, found "
                        f"{value!r}. Mend the line, or leave the column out: open_source(..., columns=[]).",
                    )
        for i, fields in enumerate(lines):
            got = len(fields)
            if any(fields) and got != len(self.stored):
                return ChunkReadError(
                    self.path,
                    self.index,
                    f"line {self._first_line() + i}: expected {len(self.stored)} fields, found {got}. Mend the line.",
                )
        return ChunkReadError(self.path, self.index, f"cannot be parsed ({message.strip()}).")

    def _first_line(self) -> int:
        """Number of the first line of the chunk in the file, from 1, as editors count."""
        with open(self.path, "rb") as file:
            begin = _line_start(file, self.low)
            file.seek(0)
            before = file.read(begin)
        return before.count(b"\n") + 1


class CsvSource(Source):
    """A CSV file with or without a header. How many rows there are is not known before they are parsed."""

    kind = "csv"
    decodes = True
    dtype = np.dtype(np.float64)

    def __init__(self, path: str, *, columns: Any = None, weight: Any = None, chunk_rows: int | None = None) -> None:
        self.name = path
        self.path = path
        self.stamp = stamp(path)
        self.delimiter, self.decimal, stored, labels, self.first_byte, named, sample = _header(path)
        self.stored = tuple(name for name, _, _ in stored)
        self.columns = replace(choose_columns(path, stored, columns, weight, labels), dtype=np.dtype(np.float64))
        self.left_out = self.columns.left_out
        self.n_features = len(self.columns.names)
        self.feature_names = self.columns.names if named else None
        self.has_weights = weight is not None
        self.line_bytes = max(1.0, sample)
        self.n_rows = None
        self.weight: Weights = None
        self.edges, self.rows_at = self._even_edges(CHUNK_BYTES), None
        counted = weight is not None and not isinstance(weight, (str, int, np.integer))
        if chunk_rows is not None or counted:
            self.edges, self.rows_at = _count_lines(path, self.first_byte, check_chunk_rows(chunk_rows or 65_536))
            self.n_rows = self.rows_at[-1]
            self.weight = weight_array(weight, path, self.n_rows)
        self.n_chunks = len(self.edges) - 1

    def _even_edges(self, size: int) -> list[int]:
        total = self.stamp[0]
        return [*range(self.first_byte, max(total, self.first_byte + 1), size), total]

    def chunks(self) -> Iterator[Chunk]:
        for index in range(len(self.edges) - 1):
            start = None if self.rows_at is None else self.rows_at[index]
            weight = None
            if self.weight is not None and self.rows_at is not None:
                weight = self.weight[self.rows_at[index] : self.rows_at[index + 1]]
            yield CsvChunk(
                index,
                start,
                self.edges[index],
                self.edges[index + 1],
                self.path,
                self.stamp,
                self.delimiter,
                self.decimal,
                self.stored,
                self.columns,
                weight,
            )

    @property
    def most_rows(self) -> int:
        return (self.stamp[0] - self.first_byte) // self._least_row + 1

    @property
    def _least_row(self) -> int:
        """Bytes of the shortest row: a digit and a comma, or the end of the line, for each field."""
        return 2 * len(self.stored)

    @property
    def max_chunk_rows(self) -> int | None:
        if self.rows_at is not None:
            return int(np.diff(self.rows_at).max(initial=0))
        return None

    @property
    def chunk_bytes(self) -> int | None:
        text = max((b - a for a, b in zip(self.edges, self.edges[1:], strict=False)), default=0)
        rows = text / self._least_row
        return int(2 * text + min(rows, 2 * text / self.line_bytes + 1000) * 2 * self.row_bytes)

    def limited(self, max_rows: int) -> Source:
        if self.rows_at is not None and max_rows >= (self.max_chunk_rows or 0):
            return self
        cut = copy(self)
        if self.rows_at is not None:
            cut.edges, cut.rows_at = _count_lines(self.path, self.first_byte, max_rows)
        else:
            size = max(4096, int(max_rows * self.line_bytes))
            if size >= CHUNK_BYTES:
                return self
            cut.edges = self._even_edges(size)
        cut.n_chunks = len(cut.edges) - 1
        return cut

    def fingerprint(self) -> dict[str, Any]:
        return {
            "kind": "csv",
            "path": str(Path(self.path).resolve()),
            "stamp": list(self.stamp),
            "columns": list(self.columns.all),
            "weight": self.columns.weight if self.weight is None else digest(self.weight),
            "edges": digest(np.array(self.edges, np.int64)),
        }


def _fields(line: str, delimiter: str) -> list[str]:
    return [part.strip().strip('"') for part in fields_of(line, delimiter)]


def _is_number(text: str, decimal: str = ".") -> bool:
    if text.lower() in _EMPTY:
        return True
    try:
        float(text if decimal == "." else text.replace(".", "x").replace(decimal, "."))
    except ValueError:
        return False
    return True


def _header(
    path: str,
) -> tuple[str, str, list[tuple[str, str | None, bool]], tuple[str, ...], int, bool, float]:
    """Delimiter, decimal mark, schema, row labels, byte of the first row, header or not, length of a line.

    By the first 64 KiB.

    A decimal comma is taken where commas do not part fields, and numbers are found with it that are none without.
    """
    with open(path, "rb") as file:
        head = file.read(65_536)
    if b"\0" in head:
        raise ValueError(f"{path}: expected text in CSV form; found binary data.")
    bom = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    lines = _decoded(head[bom:], whole=len(head) < 65_536).splitlines()
    if not lines or not lines[0].strip():
        raise ValueError(f"{path}: the file is empty; expected rows of numbers.")
    delimiter = delimiter_of(lines[0])
    first = _fields(lines[0], delimiter)
    marks = "." if delimiter == "," else ".,"
    named = not any(all(_is_number(field, mark) for field in first) for mark in marks)
    skip = bom
    if named:
        end = head.find(b"\n")
        skip = len(head) if end < 0 else end + 1
    names = told_apart(first) if named else [f"f{i}" for i in range(len(first))]
    body = [(n, _fields(line, delimiter)) for n, line in enumerate(lines[named:], 1 + named) if line.strip()]
    found = [_schema(names, body, mark) for mark in marks]
    # Equal: the point, which is what most programs write.
    decimal, schema = max(zip(marks, found, strict=True), key=lambda pair: sum(kind is None for _, kind, _ in pair[1]))
    mean = sum(len(line) + 1 for line in lines) / len(lines)
    whole = [fields for _, fields in body if len(fields) == len(names)]
    labels = row_labels(names, (), lambda name: are_labels([fields[names.index(name)] for fields in whole]))
    return delimiter, decimal, schema, labels, skip, named, mean


def _schema(names: list[str], body: list[tuple[int, list[str]]], decimal: str) -> list[tuple[str, str | None, bool]]:
    """Name of each column, what it holds if not numbers (with the line that shows it), and that it holds no vectors."""
    schema: list[tuple[str, str | None, bool]] = []
    for j, name in enumerate(names):
        bad = next(((n, f[j]) for n, f in body if j < len(f) and not _is_number(f[j], decimal)), None)
        schema.append((name, None if bad is None else f"text (line {bad[0]}: {bad[1][:40]!r})", False))
    return schema


def _decoded(head: bytes, *, whole: bool) -> str:
    """The first lines as text: UTF-8, or Latin-1 where they are no UTF-8; a line that was cut is left out."""
    if not whole and b"\n" in head:
        head = head[: head.rindex(b"\n")]
    try:
        return head.decode("utf-8")
    except UnicodeDecodeError:
        return head.decode("latin-1")


def _line_start(file: Any, at: int) -> int:
    """The first line start at or after byte `at`."""
    if at == 0:
        return 0
    file.seek(at - 1)
    while block := file.read(65_536):
        end = block.find(b"\n")
        if end >= 0:
            return int(file.tell() - len(block) + end + 1)
    return int(file.tell())


def _lines(path: str, low: int, high: int, *, exact: bool) -> Text:
    """The lines that begin in bytes `low` to `high`; `exact` where one is known to begin at `low`."""
    with open(path, "rb", buffering=0) as file:
        begin, end = low if exact else _line_start(file, low), _line_start(file, high)
        file.seek(begin)
        text = scratch("text", end - begin)
        return text[: len(text) - read_into(file, text)]


def _blank(text: Text) -> bool:
    """Whether there is nothing but white space; a glance where there is more."""
    return all(not bytes(text[first : first + 4096]).strip() for first in range(0, len(text), 4096))


def _count_lines(path: str, first_byte: int, chunk_rows: int) -> tuple[list[int], list[int]]:
    """Byte edges of runs of `chunk_rows` lines, and rows before each edge."""
    edges, rows_at, row = [first_byte], [0], 0
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        file.seek(first_byte)
        at = first_byte
        for line in file:
            at += len(line)
            if line.strip():
                row += 1
                if row % chunk_rows == 0:
                    edges.append(at)
                    rows_at.append(row)
    if edges[-1] < size and row > rows_at[-1]:
        edges.append(size)
        rows_at.append(row)
    return edges, rows_at
