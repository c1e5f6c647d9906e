"""Text that may stand on a terminal or in a picture, whoever chose it."""

from __future__ import annotations

import unicodedata

__all__ = ["printable", "short_name"]

_DIRECTION = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"


def printable(text: str) -> str:
    r"""`text` with control characters, line ends and marks of direction written as escapes.

    Examples
    --------
    >>> print(printable("a\x1b[2J\n"))
    a\x1b[2J\n
    """
    return "".join(map(_escaped, text)) if not (text.isascii() and text.isprintable()) else text


def short_name(name: str, most: int = 40) -> str:
    """The name of a feature as it fits into a sentence or above a column.

    Examples
    --------
    >>> short_name(""), short_name("length of the left wing", 10)
    ('(no name)', 'length of…')
    """
    name = name.strip() or "(no name)"
    return name if len(name) <= most else f"{name[: most - 1].rstrip()}…"


def _escaped(mark: str) -> str:
    acts = unicodedata.category(mark) in ("Cc", "Cs", "Zl", "Zp") or mark in _DIRECTION
    return mark.encode("unicode_escape").decode() if acts else mark
