"""Bounds of the records of a text table, in whatever encoding, between any bytes of the file."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from streamgmm.sources.buffers import read_into, scratch
from streamgmm.sources.formats.delimited import (
    BLANKS,
    COMMENT,
    Dialect,
    fields_of,
    is_comment,
    number_of,
    records,
)
from streamgmm.sources.integrity import Stamp

__all__ = [
    "Layout",
    "Text",
    "count_records",
    "is_remark",
    "lines_before",
    "lines_between",
    "plain",
    "record_start",
    "unit_of",
]

Text = NDArray[np.uint8]
"""Lines of a file, as bytes."""
Switch = tuple[int, bool, bool]
"""See `_switches`."""

_LINE_END = re.compile(rb"\r\n?|\n")
_QUOTES = re.compile(rb'"+')
_COMMENT = re.compile(rb"(?<![^\r\n])" + COMMENT.encode() + rb"[^\r\n]*(?:\r\n?|\n|\Z)")
_BLANK_LINE = re.compile(rb"(?<![^\r\n])[ \t]+(?:\r\n?|\n|\Z)")


@dataclass(frozen=True, slots=True)
class Layout:
    """Form in which a file is written.

    Attributes
    ----------
    path, stamp
    encoding : as Python names it; what is not UTF-16 or UTF-32 is parsed as bytes
    first : byte at which the first record after the header begins
    dialect : delimiter, decimal mark and so on
    stored : names of all fields of a record, each once
    kinds : columns of numbers, and how these are written: see `number_of`
    named : the columns to read were named by somebody
    dashes : dashes stand for missing values in the lines looked at; elsewhere they cost time
    """

    path: str
    stamp: Stamp
    encoding: str
    first: int
    dialect: Dialect
    stored: tuple[str, ...]
    kinds: dict[str, str]
    named: bool = False
    dashes: bool = False

    @property
    def unit(self) -> int:
        """Bytes of a code unit."""
        return unit_of(self.encoding)


def is_remark(fields: list[str], layout: Layout) -> bool:
    """True if a record is a comment, in a file whose beginning has none; see `_invalid`."""
    return is_comment(fields[0]) and len(fields) != len(layout.stored)


def unit_of(encoding: str) -> int:
    return 2 if encoding.startswith("utf-16") else 4 if encoding.startswith("utf-32") else 1


def _narrow(raw: bytes, encoding: str) -> bytes:
    """One byte for each code unit, the same for those of ASCII."""
    unit = unit_of(encoding)
    if unit == 1:
        return raw
    units = np.frombuffer(raw[: len(raw) - len(raw) % unit], f"{'<' if encoding.endswith('le') else '>'}u{unit}")
    return np.minimum(units, 255).astype(np.uint8).tobytes()


def record_start(file: BinaryIO, at: int, layout: Layout) -> int:
    """The first place at or after byte `at` where a record begins."""
    if at <= layout.first:
        return layout.first
    size, unit = 65_536, layout.unit
    while True:
        file.seek(at - unit)
        raw = file.read(size)
        whole = len(raw) < size
        end = _first_end(_narrow(raw, layout.encoding), layout, whole)
        if end is not None:
            return int(at - unit + end * unit)
        if whole:
            return int(at - unit + len(raw))
        size *= 4


def _first_end(text: bytes, layout: Layout, whole: bool) -> int | None:
    """Where the first line ends that ends outside quotes; None where that is not in `text`."""
    if not layout.dialect.quoted or b'"' not in text:
        return _end_after(text, 0, iter(()), False, whole)
    skip = len(text) - len(text.lstrip(b'"'))
    found = list(islice(_switches(text, layout.dialect, skip), 1000))
    sides = (opens != (i % 2 == 1) for i, (_, opens, closes) in enumerate(found) if opens != closes)
    outside = next(sides, None)
    if outside is not None:
        return _end_after(text, skip, _switches(text, layout.dialect, skip), not outside, whole)
    # Nothing tells: the side from which on records have the right number of fields.
    ends = [_end_after(text, skip, _switches(text, layout.dialect, skip), inside, whole) for inside in (False, True)]
    return max(ends, key=lambda end: _fitting(text, end, layout, whole))


def _switches(text: bytes, dialect: Dialect, skip: int) -> Iterator[Switch]:
    """Where quoting begins or ends from byte `skip` on: the place, and whether it may be a beginning, and an end.

    A run of quotes of odd number opens a field if what precedes it is a delimiter or a line end, and closes one if one
    of these follows. The first of which only one is true tells whether the text begins inside quotes.
    """
    around = {dialect.delimiter.encode(), b"\n", b"\r"} | ({b" ", b"\t"} if dialect.padded else set())
    for found in _QUOTES.finditer(text, skip):
        low, high = found.span()
        opens = text[low - 1 : low] in around
        closes = high == len(text) or text[high : high + 1] in around
        if (high - low) % 2 and (opens or closes):
            yield low, opens, closes


def _end_after(
    text: bytes, skip: int, switches: Iterator[tuple[int, bool, bool]], inside: bool, whole: bool
) -> int | None:
    """The end of the first line end outside quotes, where `inside` tells on which side byte `skip` is."""
    switch = next(switches, None)
    for found in _LINE_END.finditer(text, skip):
        while switch is not None and switch[0] < found.start():
            inside, switch = not inside, next(switches, None)
        if found.end() == len(text) and found[0] == b"\r" and not whole:
            return None
        if not inside:
            return found.end()
    return None


def _fitting(text: bytes, end: int | None, layout: Layout, whole: bool) -> int:
    """Balance of the next records: well-formed ones less the others."""
    if end is None:
        return 0
    some = islice(records(text[end:].decode("latin-1"), layout.dialect, whole=whole), 5)
    return sum(1 if _fits(record.fields, layout) else -1 for record in some)


def _fits(fields: list[str], layout: Layout) -> bool:
    """True if a record has as many fields as it should, and numbers where they should be."""
    kinds = [layout.kinds.get(name) for name in layout.stored]
    return len(fields) == len(kinds) and all(
        kind is None or number_of(field, layout.dialect.decimal, kind) is not None
        for field, kind in zip(fields, kinds, strict=True)
    )


def lines_between(layout: Layout, low: int, high: int) -> Text:
    """The records that begin in bytes `low` to `high`, as they are stored."""
    with open(layout.path, "rb", buffering=0) as file:
        begin, end = record_start(file, low, layout), record_start(file, high, layout)
        file.seek(begin)
        text = scratch("text", max(0, end - begin))
        missing = read_into(file, text)
        if missing:
            raise OSError(errno.EAGAIN, f"{missing} bytes fewer than expected")
        return text


def plain(text: Text, layout: Layout) -> Text:
    """The text in the form that pyarrow reads: UTF-8 or bytes, no comments, one blank between fields."""
    dialect = layout.dialect
    if layout.unit > 1:
        text = _bytes(text.tobytes().decode(layout.encoding, "replace").encode())
    if dialect.comment and bool((text == ord("#")).any()):
        text = _bytes(_COMMENT.sub(b"", text.tobytes()))
    if dialect.padded:
        mark = dialect.delimiter.encode()
        # Not before a doubled quote, which is one inside a field, unless the field is empty.
        opening = re.escape(mark) + rb'[ \t]+"(?:(?!")|(?="(?:' + re.escape(mark) + rb"|[\r\n]|\Z)))"
        text = _bytes(re.sub(opening, mark + b'"', text.tobytes()))
    if dialect.delimiter == BLANKS:
        text = _single_blanks(text)
    if len(layout.stored) == 1 and len(text):
        text = _bytes(_BLANK_LINE.sub(b"", text.tobytes()))
    return text


def _bytes(content: bytes) -> Text:
    return np.frombuffer(content, np.uint8)


def _single_blanks(text: Text) -> Text:
    """One blank for every run of blanks and tabs, none at either end of a line."""

    def masks(t: Text) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        return (t == 32) | (t == 9), (t == 10) | (t == 13)

    blank, end = masks(text)
    before = np.concatenate([[True], (blank | end)[:-1]])
    text = text[~(blank & before)]
    blank, end = masks(text)
    after = np.concatenate([end[1:], [True]])[: len(text)]
    text = text[~(blank & after)]
    text[text == 9] = 32
    return text


def lines_before(path: str, at: int, layout: Layout) -> int:
    """Line ends before the record that begins at or after byte `at`."""
    count, last = 0, b""
    with open(path, "rb") as file:
        left = record_start(file, at, layout)
        file.seek(0)
        while left > 0:
            raw = file.read(min(left, 2**20))
            if not raw:
                break
            left -= len(raw)
            text = _narrow(raw, layout.encoding)
            count += text.count(b"\n") + text.count(b"\r") - text.count(b"\r\n") - (last == b"\r" and text[:1] == b"\n")
            last = text[-1:]
    return count


def _is_remark(line: str, layout: Layout) -> bool:
    dialect = layout.dialect
    return (dialect.comment and is_comment(line)) or is_remark(fields_of(line, dialect.delimiter), layout)


def count_records(layout: Layout, chunk_rows: int, size: int) -> tuple[list[int], list[int]]:
    """Byte edges of runs of `chunk_rows` records, and rows before each edge; `size` bytes are read at a time."""
    edges, rows_at, row = [layout.first], [0], 0
    total = layout.stamp[0]
    size -= size % layout.unit
    for low in range(layout.first, total, size):
        with open(layout.path, "rb") as file:
            begin = record_start(file, low, layout)
        raw = lines_between(layout, low, min(low + size, total)).tobytes()
        for end in _ends(_narrow(raw, layout.encoding), layout):
            row += 1
            if row % chunk_rows == 0:
                edges.append(begin + end * layout.unit)
                rows_at.append(row)
    if row > rows_at[-1]:
        edges.append(total)
        rows_at.append(row)
    return edges, rows_at


def _ends(text: bytes, layout: Layout) -> Iterator[int]:
    """Where each record of a text ends that begins with one."""
    dialect = layout.dialect
    if dialect.quoted and b'"' in text:
        whole = records(text.decode("latin-1"), dialect)
        yield from (record.end for record in whole if not is_remark(record.fields, layout))
        return
    at = 0
    while at < len(text):
        found = _LINE_END.search(text, at)
        end = len(text) if found is None else found.end()
        line = text[at:end].strip()
        remark = line.startswith(b"#") and _is_remark(line.decode("latin-1"), layout)
        if line and not remark:
            yield end
        at = end
