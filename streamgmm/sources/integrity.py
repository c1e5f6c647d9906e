"""Integrity of files: the one that was opened, holding what it promised."""

from __future__ import annotations

import os

from streamgmm.errors import ChunkReadError

Stamp = tuple[int, int]
"""Size in bytes and time of the last change in ns."""


def stamp(path: str | os.PathLike[str]) -> Stamp:
    """Attributes of a file that change when somebody replaces it."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def check_stamp(path: str, expected: Stamp, name: str, index: int) -> None:
    """Refuse a file that is not the one that was opened.

    Raises
    ------
    ChunkReadError
    """
    try:
        found = stamp(path)
    except OSError as error:
        raise ChunkReadError(
            name, index, f"{path} was there when the data were opened and cannot be read now: {error.strerror}."
        ) from error
    if found != expected:
        raise ChunkReadError(
            name,
            index,
            f"{path} has changed since it was opened ({expected[0]} bytes then, {found[0]} now). A fit needs the same "
            "rows in every pass; leave the data alone and start again.",
        )


def check_shape(found: tuple[int, ...], expected: tuple[int, ...], name: str, index: int) -> None:
    """Refuse a chunk whose shape is not what the metadata promised."""
    if found != expected:
        raise ChunkReadError(
            name, index, f"expected {expected[0]} rows of {expected[1:]} values, read an array of shape {found}."
        )
