"""Tables as a fit takes them: columns that hold no numbers are left out where nobody named the columns, and told."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import LateTextError
from streamgmm.sources.base import Readable, Source
from streamgmm.sources.columns import ColumnChoice, Exclude
from streamgmm.sources.formats.tables import NotNumbersError
from streamgmm.sources.labels import numbers_rows, tell_of
from streamgmm.sources.opening import open_quietly
from streamgmm.utils.printable import short_name

__all__ = [
    "OnlyRowNumbersError",
    "again_without_text",
    "identifiers",
    "is_identifier",
    "leaving_out_text",
    "listed",
    "open_features",
    "tell_features",
]

log = logging.getLogger("streamgmm.sources")

_ID = re.compile(
    r"(.*[^a-z])?(id|uid|pid|gid|uuid|idx|index|key|nr|no|num|number|row|rows?_?(id|no|nr|num|numbers?|names?)|order|"
    r"serial|record|obs|observation|case)"
)
_FEWEST = 20
"""Rows that have to differ in it before a column is called an identifier."""


class OnlyRowNumbersError(ValueError):
    """Nothing is left but a column that numbers the rows."""

    def __init__(self, name: str, column: str) -> None:
        super().__init__(name, column)
        self.name, self.column = name, column

    def __str__(self) -> str:
        return (
            f"{self.name}: nothing is left but {self.column!r}, which numbers the rows; expected features. Encode the "
            f"other columns as numbers; or say that this is meant: open_source(..., columns={[self.column]!r})."
        )


def open_features(
    obj: Readable,
    *,
    columns: ColumnChoice = None,
    exclude: str | int | Sequence[str | int] | Exclude | None = None,
    **options: Any,
) -> Source:
    """As `open_quietly`; columns without numbers are left out where `columns` does not name them.

    What is left out stands in `Source.left_out` and `Source.not_numbers`.

    Raises
    ------
    NotNumbersError
        Where no column holds numbers, or a named one does not.
    OnlyRowNumbersError
        Where all that is left counts the rows.
    """
    try:
        return open_quietly(obj, columns=columns, exclude=exclude, **options)
    except NotNumbersError as error:
        if columns is not None or not error.numeric:
            raise
        chosen = exclude if isinstance(exclude, Exclude) or exclude is None else Exclude.from_columns(exclude)
        given = () if chosen is None else chosen.columns
        others = list(dict.fromkeys(error.other))
        known = () if chosen is None else chosen.optional
        source = open_features(obj, exclude=Exclude((*given, *others), (*known, *others)), **options)
        source.not_numbers = (*others, *source.not_numbers)
        if source.n_features == 1 and len(error.numeric) == 1:
            _refuse_row_number(source, error.numeric[0])
        return source


def _refuse_row_number(source: Source, column: str) -> None:
    first = next(iter(source.chunks()), None)
    if first is not None and numbers_rows(first.load()[0][:, 0]):
        raise OnlyRowNumbersError(source.name, column)


def identifiers(source: Source) -> list[str]:
    """Features called like an identifier whose values in the first chunk are whole numbers, each another one."""
    names = source.feature_names or ()
    suspects = [j for j, name in enumerate(names) if _ID.fullmatch(_words(name))]
    first = next(iter(source.chunks()), None) if suspects else None
    if first is None:
        return []
    rows = first.load()[0]
    return [names[j] for j in suspects if is_identifier(names[j], rows[:, j])]


def is_identifier(name: str, values: Any) -> bool:
    """Whether a column is called like an identifier and holds whole numbers, each another one."""
    called_so = _ID.fullmatch(_words(name)) is not None
    return called_so and len(values) >= _FEWEST and _all_different(values)


def _words(name: str) -> str:
    """A name in lower case, PassengerId as passenger_id."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip()).lower().replace(" ", "_")


def _all_different(values: NDArray[Any]) -> bool:
    with np.errstate(invalid="ignore"):
        whole = bool((values == np.floor(values)).all())
    return whole and len(np.unique(values)) == len(values)


def tell_features(source: Source) -> None:
    """Log once what a person should know of the columns that a fit takes."""
    if source.not_numbers:
        log.warning(
            "%s: left out the columns %s, which hold no numbers. To choose yourself: columns=[...].",
            source.name,
            listed(source.not_numbers),
        )
    tell_of(source)
    found = identifiers(source)
    if found:
        log.warning(
            "%s: %s look like row numbers or identifiers, which say nothing about the rows, and are used as features. "
            "To leave them out: open_source(path, exclude=%r).",
            source.name,
            listed(found),
            [*found, *source.not_numbers],  # with a choice of columns text is left out no more by itself
        )


def listed(names: Sequence[str]) -> str:
    """Ten names at most, and how many there are; one with a comma is quoted."""
    short = [short_name(name) for name in names[:10]]
    return ", ".join(f'"{name}"' if "," in name else name for name in short) + (
        f", ... ({len(names)} in all)" if len(names) > 10 else ""
    )


# Text that turns up later ---------------------------------------------------------------------------------------------


def leaving_out_text[**P, T](fit: Callable[P, T], tell: Callable[[str], None] = log.warning) -> Callable[P, T]:
    """For what opens a table and reads it: called again where text turns up in a column that nobody named.

    The column is remembered, and the table is opened without it then.
    """

    @wraps(fit)
    def again(*args: P.args, **kwargs: P.kwargs) -> T:
        while True:
            try:
                return fit(*args, **kwargs)
            except LateTextError as error:
                opened = any(isinstance(given, Source) for given in (*args, *kwargs.values()))
                if opened or not error.learnt():
                    raise
                tell(_told(error))

    return again


def again_without_text[T](steps: Callable[[], Iterator[T]]) -> Iterator[T]:
    """The items of `steps()`, begun again where text turns up before there is one; see `leaving_out_text`."""
    found = 0
    while True:
        try:
            for item in steps():
                found += 1
                yield item
            return
        except LateTextError as error:
            if found or not error.learnt():
                raise
            log.warning(_told(error))


def _told(error: LateTextError) -> str:
    return f"{error.path}: column {error.column!r} holds {error.what}, so it is left out and the data are read again"
