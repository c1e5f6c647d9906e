"""How records become rows, as the first of them teach."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from streamgmm.delimited import delimiter_of, fields_of
from streamgmm.sources.labels import are_labels, row_labels, tell_left_out, told_apart

__all__ = ["Layout", "layout_of_csv", "layout_of_json"]

log = logging.getLogger("streamgmm.stream")


@dataclass(frozen=True, slots=True)
class Layout:
    """What a record holds. It is kept in snapshots: after a restart the same values are read, whatever comes first.

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
    delimiter : str
        CSV.
    """

    format: str
    width: int
    columns: tuple[str, ...] | None = None
    places: tuple[int, ...] | None = None
    n_fields: int = 0
    delimiter: str = ","

    def document(self) -> dict[str, Any]:
        """As JSON keeps it; `of` is the inverse."""
        return asdict(self)

    @classmethod
    def of(cls, document: dict[str, Any]) -> Layout:
        def back(value: Any) -> Any:
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
        None: the first line is a header if none of its fields is a number.

    Raises
    ------
    ValueError
        Where the header lacks one of `columns`.
    """
    texts = [line.decode("utf-8", "replace") for line in lines]
    delimiter = delimiter_of(texts[0])
    first = fields_of(texts[0], delimiter)
    if header is None:
        header = any(first) and not any(_reads_as_number(field) for field in first)
    if not header:
        width = width or (None if columns is None else len(columns))
        for text in texts if width is None else ():
            fields = fields_of(text, delimiter)
            if all(_reads_as_number(field) for field in fields):
                width = len(fields)
                break
        layout = None if width is None else Layout("csv", width, columns, None, width, delimiter)
        return layout, 0
    names = told_apart([name.lstrip("\ufeff").strip() for name in first])
    if columns is not None:
        absent = [name for name in columns if name not in names]
        if absent:
            raise ValueError(f"The header has no column {', '.join(absent)}; it has {', '.join(names)}.")
        places = tuple(names.index(name) for name in columns)
        return Layout("csv", len(places), columns, places, len(names), delimiter), 1
    for text in texts[1:]:
        fields = fields_of(text, delimiter)
        # An empty field may be a number that is missing: it decides nothing.
        if len(fields) == len(names) and any(map(_reads_as_number, fields)):
            places = tuple(i for i, field in enumerate(fields) if not field.strip() or _reads_as_number(field))
            labels = row_labels(names, (), lambda name: are_labels(_column(texts[1:], names, name, delimiter)))
            if all(names[i] in labels for i in places):
                continue
            _tell_left_out([name for i, name in enumerate(names) if i not in places and name not in labels])
            tell_left_out("the stream", labels)
            places = tuple(i for i in places if names[i] not in labels)
            kept = tuple(names[i] for i in places)
            return Layout("csv", len(places), kept, places, len(names), delimiter), 1
    return None, 1


def _column(texts: Sequence[str], names: list[str], name: str, delimiter: str) -> list[str]:
    """The fields of one column in the lines that are whole."""
    lines = [fields_of(text, delimiter) for text in texts]
    return [fields[names.index(name)] for fields in lines if len(fields) == len(names)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _reads_as_number(field: str) -> bool:
    try:
        return not math.isnan(float(field))
    except ValueError:
        return False


def _tell_left_out(names: Sequence[str]) -> None:
    if names:
        log.warning("left out, because they hold no numbers: %s", ", ".join(names))
