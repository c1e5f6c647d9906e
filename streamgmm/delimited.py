"""Fields of a line of CSV: what every reader of such lines has to agree on."""

from __future__ import annotations

import csv

__all__ = ["delimiter_of", "fields_of"]


def delimiter_of(line: str) -> str:
    """Comma, semicolon or tab: the one that a first line holds most of, quoted ones not counted."""
    return max(",;\t", key=lambda mark: len(fields_of(line, mark)))


def fields_of(line: str, delimiter: str) -> list[str]:
    """The fields of one line; what stands between double quotes is one field.

    Raises
    ------
    ValueError
        Where a field is too long to be one.

    Examples
    --------
    >>> fields_of('"Bern, Wabern",3.5', ",")
    ['Bern, Wabern', '3.5']
    """
    if '"' not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error as error:
        raise ValueError(str(error)) from None
