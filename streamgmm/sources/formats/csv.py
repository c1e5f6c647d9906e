"""Text tables (CSV), cut at record ends nearest to multiples of a byte count; every column is read as float64.

`streamgmm.sources.formats.delimited` finds the dialect by the beginning of the file and some lines further down;
pyarrow parses the chunks. Only columns that it cannot read (thousands set apart, true and false) are converted here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import ChunkReadError, LateTextError
from streamgmm.sources.base import Chunk, Rows, Source, Weights
from streamgmm.sources.chunking import check_chunk_rows
from streamgmm.sources.columns import Chosen, Exclude, WeightChoice, check_weights, digest, weight_array
from streamgmm.sources.formats.csv_records import (
    Layout,
    Text,
    count_records,
    is_remark,
    lines_before,
    lines_between,
    plain,
    unit_of,
)
from streamgmm.sources.formats.delimited import (
    BLANKS,
    MISSING,
    Head,
    column_kinds,
    doubt_of,
    is_comment,
    number_of,
    records,
    sniff,
)
from streamgmm.sources.formats.tables import Columns, check_stored, choose_columns, import_pyarrow
from streamgmm.sources.integrity import check_stamp, stamp
from streamgmm.sources.labels import are_labels, row_labels, told_apart
from streamgmm.sources.retry import retried

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK_BYTES = 4 * 2**20
"""Bytes of text in a chunk: about 2 MiB of numbers."""
HEAD_BYTES = 65_536
"""Bytes by which the dialect is found; more where a header is longer."""
_MOST_HEAD = 64 * 2**20
_PEEK = 16_384
"""Bytes of each of the looks further down, which tell what columns hold."""

_WORDS = ["", *sorted({form for word in MISSING for form in (word, word.upper(), word.title())}), "NaN", "-NaN"]
_NULLS = [word for word in _WORDS if not word.startswith("-")]
"""Fields that pyarrow takes for missing; words that begin as numbers do cost a look at every negative number."""
_DASHES = frozenset(_WORDS) - frozenset(_NULLS)


@dataclass(frozen=True, slots=True)
class CsvChunk(Chunk):
    """The records that begin in bytes `low` to `high` of a file; `n_rows` of them, where they were counted."""

    index: int
    start: int | None
    low: int
    high: int
    layout: Layout
    columns: Columns
    n_rows: int | None
    weight: Weights = field(repr=False)

    def check(self) -> None:
        check_stamp(self.layout.path, self.layout.stamp, self.layout.path, self.index)

    def texts(self, column: str) -> list[str]:
        check_stored(column, self.layout.stored, self.layout.path)
        table = self._table(self._text(), {column}, [column])
        return ["" if v is None else self._decoded(v).strip() for v in table.column(column).to_pylist()]

    def _decoded(self, field: bytes) -> str:
        """A field of `plain` text; the bytes of Latin-1 are as they are stored."""
        return field.decode("utf-8" if self.layout.unit > 1 else self.layout.encoding, "replace")

    def _text(self) -> Text:
        self.check()
        text = retried(partial(lines_between, self.layout, self.low, self.high), self.layout.path, self.index)
        return plain(text, self.layout)

    def load(self) -> tuple[Rows, Weights]:
        path = self.layout.path
        rows, weights = self._parse(self._text())
        if self.n_rows is not None and len(rows) != self.n_rows:
            raise ChunkReadError(path, self.index, f"expected {self.n_rows} rows, read {len(rows)}.")
        if weights is not None:
            return rows, check_weights(weights, path, self.start, self.index)
        return rows, self.weight

    def _parse(self, text: Text) -> tuple[Rows, Any]:
        """Rows and raw weights; columns that pyarrow cannot read as numbers are read as text and converted."""
        texts = {name for name in self.columns.all if self.layout.kinds.get(name) in ("grouped", "truth")}
        while True:
            try:
                table = self._table(text, texts, list(self.columns.all))
                break
            except _NotNumber as error:
                texts.add(error.column)
        done = {name: self._numbers(table.column(name), name) for name in texts}

        def get(name: str) -> Any:
            return done[name] if name in done else table.column(name).to_numpy(zero_copy_only=False)

        return self.columns.rows(get, table.num_rows)

    def _table(self, text: Text, texts: set[str], wanted: list[str]) -> pa.Table:
        """The `wanted` columns of the text as a pyarrow table; those in `texts` as bytes.

        Raises
        ------
        _NotNumber
            Where a column holds something that pyarrow reads as no number.
        """
        pa = import_pyarrow(self.layout.path)
        import pyarrow.csv as pc

        layout = self.layout
        if not len(text):
            return pa.table({name: pa.array([], pa.float64()) for name in wanted})
        types = {name: pa.binary() if name in texts else pa.float64() for name in wanted}
        try:
            return pc.read_csv(
                pa.BufferReader(pa.py_buffer(text)),
                read_options=pc.ReadOptions(
                    use_threads=False, column_names=list(layout.stored), block_size=max(2**20, len(text) + 1)
                ),
                parse_options=pc.ParseOptions(
                    delimiter=layout.dialect.delimiter, newlines_in_values=True, invalid_row_handler=_invalid
                ),
                convert_options=pc.ConvertOptions(
                    column_types=types,
                    include_columns=wanted,
                    decimal_point=layout.dialect.decimal,
                    null_values=_WORDS if layout.dashes else _NULLS,
                    check_utf8=False,
                ),
            )
        except pa.ArrowInvalid as error:
            found = re.search(r"CSV column #(\d+).*conversion error", str(error), re.DOTALL)
            if found and layout.stored[int(found[1])] not in texts:
                raise _NotNumber(layout.stored[int(found[1])]) from error
            raise self._misshapen(str(error)) from error

    def _numbers(self, column: pa.ChunkedArray, name: str) -> NDArray[np.float64]:
        """The numbers in a column of bytes.

        Raises
        ------
        ChunkReadError
            Where a field holds none, naming line, column and value.
        """
        if len(column) and not isinstance(column[0].as_py(), bytes | None):
            return np.asarray(column.to_numpy(zero_copy_only=False))
        values = np.empty(len(column))
        kind, decimal = self.layout.kinds.get(name, "number"), self.layout.dialect.decimal
        if kind == "number" and self.layout.dialect.delimiter == "," and decimal == ".":
            kind = "grouped"  # a comma in a field was quoted for it
        for i, value in enumerate(column.to_pylist()):
            text = "" if value is None else self._decoded(value)
            number = number_of(text, decimal, kind)
            if number is None:
                raise self._no_number(i, name, text)
            values[i] = number
        return values

    def _records(self) -> Iterator[Any]:
        """The records of the chunk with the numbers of their lines."""
        encoding, path = self.layout.encoding, self.layout.path
        text = lines_between(self.layout, self.low, self.high).tobytes().decode(encoding, "replace")
        found = records(text, self.layout.dialect, line=lines_before(path, self.low, self.layout) + 1)
        return (record for record in found if not is_remark(record.fields, self.layout))

    def _no_number(self, row: int, name: str, value: str) -> ChunkReadError:
        line = next((record.line for i, record in enumerate(self._records()) if i == row), None)
        where = f"row {row} of the chunk" if line is None else f"line {line}"
        reason = (
            f"{where}, column {name!r}: expected a number, found {value.strip()!r}. Mend the line; or leave the column "
            f"out, exclude={[name]!r}; or, where this stands for a missing value, leave the field empty."
        )
        named = self.layout.named or name == self.columns.weight
        what = f"text ({where}: {value.strip()[:40]!r})"
        return LateTextError(self.layout.path, self.index, reason, (name, what, self.layout.stamp, named))

    def _misshapen(self, message: str) -> ChunkReadError:
        n = len(self.layout.stored)
        for record in self._records():
            if len(record.fields) != n:
                return ChunkReadError(
                    self.layout.path,
                    self.index,
                    f"line {record.line}: expected {n} fields, found {len(record.fields)}. Mend the line.",
                )
        return ChunkReadError(self.layout.path, self.index, f"cannot be parsed ({message.strip()}).")


class _NotNumber(Exception):
    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


def _invalid(row: Any) -> str:
    """Answer to pyarrow about a record of another number of fields: blank lines and comments are passed over."""
    return "skip" if not row.text.strip() or is_comment(row.text) else "error"


class CsvSource(Source):
    """A text table with or without a header. How many rows there are is not known before they are parsed."""

    has_checksums = False
    kind = "csv"
    decodes = True
    dtype = np.dtype(np.float64)

    def __init__(
        self,
        path: str,
        *,
        columns: Chosen = None,
        weight: WeightChoice = None,
        chunk_rows: int | None = None,
        header: bool | None = None,
    ) -> None:
        self.name = path
        layout, head, rows = _opened(path, header)
        self.layout = replace(layout, named=columns is not None and not isinstance(columns, Exclude))
        schema, labels = _schema(self.layout, head, rows, columns)
        self.columns = replace(choose_columns(path, schema, columns, weight, labels), dtype=np.dtype(np.float64))
        self.left_out = self.columns.left_out
        self.notice = head.notice
        self.n_features = len(self.columns.names)
        self.feature_names = None if head.names is None else self.columns.names
        self.has_weights = weight is not None
        lengths = [record.end - record.start for record in head.body] or [1]
        self.line_bytes = max(1.0, self.layout.unit * sum(lengths) / len(lengths))
        self.n_rows = None
        self.weight: Weights = None
        self.edges, self.rows_at = self._even_edges(CHUNK_BYTES), None
        counted = weight is not None and not isinstance(weight, (str, int, np.integer))
        if chunk_rows is not None or counted:
            self.edges, self.rows_at = count_records(self.layout, check_chunk_rows(chunk_rows or 65_536), CHUNK_BYTES)
            self.n_rows = self.rows_at[-1]
            self.weight = weight_array(weight, path, self.n_rows)
        self.n_chunks = len(self.edges) - 1

    def _even_edges(self, size: int) -> list[int]:
        total, first = self.layout.stamp[0], self.layout.first
        return [*range(first, max(total, first + 1), size - size % self.layout.unit), total]

    def chunks(self) -> Iterator[Chunk]:
        for index in range(len(self.edges) - 1):
            start, rows, weight = None, None, None
            if self.rows_at is not None:
                start, stop = self.rows_at[index : index + 2]
                rows = stop - start
                weight = None if self.weight is None else self.weight[start:stop]
            low, high = self.edges[index : index + 2]
            yield CsvChunk(index, start, low, high, self.layout, self.columns, rows, weight)

    @property
    def most_rows(self) -> int:
        return (self.layout.stamp[0] - self.layout.first) // self._least_row + 1

    @property
    def _least_row(self) -> int:
        """Bytes of the shortest row: a digit and a comma, or the end of the line, for each field."""
        return 2 * len(self.layout.stored) * self.layout.unit

    @property
    def max_chunk_rows(self) -> int | None:
        if self.rows_at is not None:
            return int(np.diff(self.rows_at).max(initial=0))
        return None

    @property
    def chunk_bytes(self) -> int | None:
        text = max((b - a for a, b in zip(self.edges, self.edges[1:], strict=False)), default=0)
        rows = text / self._least_row
        copies = 4 if self.layout.dialect.delimiter == BLANKS or self.layout.unit > 1 else 2
        return int(copies * text + min(rows, 2 * text / self.line_bytes + 1000) * 2 * self.row_bytes)

    def limited(self, max_rows: int) -> Source:
        if self.rows_at is not None and max_rows >= (self.max_chunk_rows or 0):
            return self
        cut = copy(self)
        if self.rows_at is not None:
            cut.edges, cut.rows_at = count_records(self.layout, max_rows, CHUNK_BYTES)
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
            "path": str(Path(self.layout.path).resolve()),
            "stamp": list(self.layout.stamp),
            "columns": list(self.columns.all),
            "weight": self.columns.weight if self.weight is None else digest(self.weight),
            "edges": digest(np.array(self.edges, np.int64)),
        }


# Opening --------------------------------------------------------------------------------------------------------------


def _opened(path: str, header: bool | None) -> tuple[Layout, Head, list[list[str]]]:
    """Form of the file, its head, and the fields of records in several places of it."""
    mark = stamp(path)
    size = HEAD_BYTES
    while True:
        raw = retried(partial(_head, path, size), path, 0)
        encoding, bom = _encoding(path, raw)
        whole = len(raw) < size
        text, encoding = _decoded(raw[bom:], encoding, whole)
        head = sniff(text, whole=whole, header=header)
        # A header alone teaches nothing: its first rows belong to the look.
        if whole or (head is not None and len(head.body) > 1) or size >= _MOST_HEAD:
            break
        size *= 4
    if head is None:
        raise ValueError(f"{path}: the file is empty; expected rows of numbers.")
    doubt = doubt_of(head)
    if doubt is not None:
        raise ValueError(f"{path}: {doubt}.")
    first = bom + len(text[: head.first].encode(encoding))
    names = [f"f{i}" for i in range(head.n_fields)] if head.names is None else list(head.names)
    layout = Layout(path, mark, encoding, first, head.dialect, tuple(told_apart(names)), {})
    rows = [record.fields for record in head.body if len(record.fields) == head.n_fields]
    for low in () if whole else sorted({mark[0] // 4, mark[0] // 2, 3 * mark[0] // 4, mark[0] - _PEEK}):
        at = max(first, low - low % layout.unit)
        lines = retried(partial(lines_between, layout, at, min(mark[0], at + _PEEK)), path, 0)
        more = lines.tobytes().decode(encoding, "replace")
        rows += [record.fields for record in records(more, head.dialect) if len(record.fields) == head.n_fields]
    dashes = any(not _DASHES.isdisjoint(row) for row in rows)
    return replace(layout, dashes=dashes), head, rows


def _schema(
    layout: Layout, head: Head, rows: list[list[str]], columns: Chosen
) -> tuple[list[tuple[str, str | None, bool]], tuple[str, ...]]:
    """Arguments of `choose_columns`, and the row labels; kinds of columns are noted in `layout`.

    Columns without a name and without a value come of a delimiter at the end of the lines, and are passed over. A
    column without a value wherever a look was taken is left out, unless it is named.
    """
    schema: list[tuple[str, str | None, bool]] = []
    asked = [columns] if isinstance(columns, str) else columns
    late = {} if layout.named else LateTextError.known.get((layout.path, layout.stamp), {})
    bare = () if head.names is None else head.names
    for j, (name, (kind, odd)) in enumerate(
        zip(layout.stored, column_kinds(rows, head.n_fields, layout.dialect), strict=True)
    ):
        if kind == "empty" and bare and not bare[j]:
            continue
        what = None
        if kind == "text":
            line = next((r.line for r in head.body if len(r.fields) > j and r.fields[j] == odd), None)
            what = f"text ({'' if line is None else f'line {line}: '}{str(odd)[:40]!r})"
        elif kind == "empty" and not (isinstance(asked, (list, tuple)) and name in asked):
            what = "no value in any of the lines looked at"
        elif name in late:
            what = late[name]
        elif kind != "empty":
            layout.kinds[name] = kind
        schema.append((name, what, False))
    if schema and all(what and what.startswith("no value") for _, what, _ in schema):
        schema = [(name, None, False) for name, _, _ in schema]
    at = {name: j for j, name in enumerate(layout.stored)}
    labels = row_labels([name for name, _, _ in schema], (), lambda name: are_labels([row[at[name]] for row in rows]))
    return schema, labels


def _head(path: str, size: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(size)


def _encoding(path: str, raw: bytes) -> tuple[str, int]:
    """The encoding, and the bytes of the mark that says so."""
    for mark, encoding in (
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\xff\xfe\0\0", "utf-32-le"),
        (b"\0\0\xfe\xff", "utf-32-be"),
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
    ):
        if raw.startswith(mark):
            return encoding, len(mark)
    if b"\0" not in raw:
        return "utf-8", 0
    even, odd = raw[::2].count(0), raw[1::2].count(0)
    if min(even, odd) == 0 and max(even, odd) > 0.3 * len(raw):
        return ("utf-16-le" if odd else "utf-16-be"), 0
    raise ValueError(f"{path}: expected text in CSV form; found binary data.")


def _decoded(raw: bytes, encoding: str, whole: bool) -> tuple[str, str]:
    """The first lines as text, and its encoding: Latin-1 where they are no UTF-8; a line that was cut is left out."""
    if unit_of(encoding) > 1:
        text = raw.decode(encoding, "replace" if whole else "ignore")
    else:
        if not whole:
            raw = raw[: max(raw.rfind(b"\n"), raw.rfind(b"\r", 0, -1)) + 1] or raw
        try:
            return raw.decode("utf-8"), "utf-8"
        except UnicodeDecodeError:
            return raw.decode("latin-1"), "latin-1"
    if not whole:
        text = text[: max(text.rfind("\n"), text.rfind("\r", 0, -1)) + 1] or text
    return text, encoding
