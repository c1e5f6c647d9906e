"""The one file of a session: replaced atomically, the one before kept beside it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from streamgmm.errors import ModelFileError
from streamgmm.persistence import read_arrays, write_arrays

KIND = "streamgmm-stream"
log = logging.getLogger("streamgmm.stream")


def previous(path: Path) -> Path:
    """Where the snapshot before the newest stands."""
    return path.with_name(path.name + ".previous")


def exists(path: Path) -> bool:
    """Whether there is something to go on from."""
    return path.exists() or previous(path).exists()


def sweep(path: Path) -> None:
    """Remove what an interrupted write of this very file left behind."""
    for part in path.parent.glob(f".{path.name}.*.part*"):
        part.unlink(missing_ok=True)


def write(path: Path, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> None:
    """Write a snapshot; at any moment the newest whole one, or the one before, can be read."""
    if path.exists():
        keep = path.with_name(f".{path.name}.previous.part")
        keep.unlink(missing_ok=True)
        os.link(path, keep)
        keep.replace(previous(path))
    write_arrays(path, arrays, header, kind=KIND)


def read(path: Path, use: Callable[[dict[str, NDArray[Any]], dict[str, Any]], None]) -> None:
    """Give arrays and header of the newest snapshot to `use`, or of the one before where that is damaged.

    Raises
    ------
    ModelFileError
        Where both are.
    """
    try:
        _read(path, use)
    except (ModelFileError, FileNotFoundError) as error:
        if not previous(path).exists():
            raise
        log.warning("%s; going on from the snapshot before it", error)
        _read(previous(path), use)


def _read(path: Path, use: Callable[[dict[str, NDArray[Any]], dict[str, Any]], None]) -> None:
    arrays, header = read_arrays(path, kind=KIND)
    try:
        use(arrays, header)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path}: does not hold the state of a stream ({type(error).__name__}: {str(error)[:200]}). Restore it "
            "from a copy, or begin with another file."
        ) from error
