"""Layout of records: how they become rows, as learnt from the first ones."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from streamgmm.sources.formats.delimited import Head, column_kinds, sniff
from streamgmm.sources.labels import are_labels, row_labels, tell_left_out, told_apart

__all__ = ["Layout", "layout_of_csv", "layout_of_json"]

log = logging.getLogger("streamgmm.stream")
_NUMBERS = ("number", "grouped", "truth")


@dataclass(frozen=True, slots=True)
class Layout:
    """Layout of a record. It is kept in snapshots: after a restart the same values are read, whatever comes first.

    Attributes
    ----------
    format : {"ndjson", "csv"}
    width : int
        Numbers per row.
    columns : tuple of str, optional
        Their names: keys of JSON objects, or columns of a CSV with a header. None: arrays, or a CSV without names.
    places : tuple of int, optional
        CSV: where they stand in a line of `n_fields`; None: all of them.
    n_fields : int
        CSV: fields of a line.
    delimiter, decimal : str
        CSV.
    comment : bool
        CSV: lines that begin with # are no records.
    kinds : tuple of str
        CSV: how the numbers are written, see `streamgmm.sources.formats.delimited.number_of`; plainly where there are
        none.
    """

    format: str
    width: int
    columns: tuple[str, ...] | None = None
    places: tuple[int, ...] | None = None
    n_fields: int = 0
    delimiter: str = ","
    decimal: str = "."
    comment: bool = False
    kinds: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """As JSON keeps it; `of` is the inverse."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Layout:
        def back(value: object) -> Any:
            return tuple(value) if isinstance(value, list) else value

        return cls(**{name: back(value) for name, value in document.items()})


def layout_of_json(lines: Sequence[bytes], columns: tuple[str, ...] | None, width: int | None) -> Layout | None:
    """The first array of numbers, or the first object that holds a number, decides; None where there is neither.

    Keys whose value is no number are left out and told; a null may be a number that is missing, so its key stays.
    """
    if columns is not None:
        return Layout("ndjson", width or len(columns), columns)
    if width is not None:
        return Layout("ndjson", width)
    for line in lines:
        try:
            value = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            continue
        if isinstance(value, list) and value and all(_is_number(item) for item in value):
            return Layout("ndjson", len(value))
        if isinstance(value, dict) and any(_is_number(item) for item in value.values()):
            labels = row_labels(list(value))
            numbers = {key for key, item in value.items() if item is None or _is_number(item)}
            kept = tuple(sorted(numbers - set(labels)))
            if not kept:
                continue
            tell_left_out("the stream", labels)
            _tell_left_out(sorted(set(value) - numbers - set(labels)))
            return Layout("ndjson", len(kept), kept)
    return None


def layout_of_csv(
    lines: Sequence[bytes], columns: tuple[str, ...] | None, width: int | None, header: bool | None
) -> tuple[Layout | None, int]:
    """The layout, where `lines` (the first ones) teach it, and how many of them are its header.

    Parameters
    ----------
    header : bool or None
        None: the first line is a header where its fields differ in kind from those below.

    Raises
    ------
    ValueError
        Where the header lacks one of `columns`.
    """
    texts = [line.decode("utf-8", "replace").lstrip("\ufeff") for line in lines]
    head = sniff("\n".join(texts), header=header)
    if head is None:
        return None, 0
    before = accumulate((len(text) + 1 for text in texts), initial=0)
    heads = sum(at < head.first for at in before) if head.body else len(texts)
    rows = [record.fields for record in head.body if len(record.fields) == head.n_fields]
    kinds = [kind for kind, _ in column_kinds(rows, head.n_fields, head.dialect)]
    if head.notice:
        log.warning("the stream: %s", head.notice)
    if head.names is None:
        width = width or (None if columns is None else len(columns))
        if width is None and rows and all(kind in _NUMBERS for kind in kinds):
            width = head.n_fields
        if width is None:
            return None, 0
        return _layout(head, width, columns, None, kinds if width == head.n_fields else ["number"] * width), heads
    names = told_apart([name.strip() for name in head.names])
    if columns is not None:
        absent = [name for name in columns if name not in names]
        if absent:
            raise ValueError(f"The header has no column {', '.join(absent)}; it has {', '.join(names)}.")
        places = tuple(names.index(name) for name in columns)
        return _layout(head, len(places), columns, places, [kinds[i] if kinds else "number" for i in places]), heads
    # A column without a value yet may be one of numbers, unless it has no name: a delimiter at the end of the lines.
    able = [i for i, kind in enumerate(kinds) if kind in _NUMBERS or (kind == "empty" and head.names[i])]
    labels = row_labels(names, (), lambda name: are_labels([row[names.index(name)] for row in rows]))
    places = tuple(i for i in able if names[i] not in labels)
    if not any(kinds[i] in _NUMBERS for i in places) or not rows:
        return None, heads
    other = [name for i, name in enumerate(names) if i not in able and name not in labels and kinds[i] != "empty"]
    _tell_left_out(other)
    tell_left_out("the stream", labels)
    kept = tuple(names[i] for i in places)
    return _layout(head, len(places), kept, places, [kinds[i] for i in places]), heads


def _layout(
    head: Head, width: int, columns: tuple[str, ...] | None, places: tuple[int, ...] | None, kinds: Sequence[str]
) -> Layout:
    dialect = head.dialect
    n_fields = width if places is None else head.n_fields
    return Layout(
        "csv", width, columns, places, n_fields, dialect.delimiter, dialect.decimal, dialect.comment, tuple(kinds)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tell_left_out(names: Sequence[str]) -> None:
    if names:
        log.warning("left out, because they hold no numbers: %s", ", ".join(names))
