"""The file of a session's snapshot: the newest one, the one before, and who wrote it."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from streamgmm.em.online.state import state_of_version_1
from streamgmm.errors import CheckpointMismatchError, ModelFileError
from streamgmm.runtime.array_file import SNAPSHOT, read_arrays, write_arrays
from streamgmm.runtime.encoding import is_packed, packed, unpacked
from streamgmm.utils.locks import FileLock

__all__ = ["Stamp", "State", "discard", "exists", "expect", "place", "previous", "read", "stamp", "write"]

State = Mapping[str, Any]
"""State of a session, by name: values that `packed` takes."""

Stamp = tuple[int, int, int] | None
log = logging.getLogger("streamgmm.stream")


def place(path: str | os.PathLike[str]) -> Path:
    """The file itself, where `path` is a link: a session that comes by another name must find the same lock."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


def previous(path: Path) -> Path:
    """Where the snapshot before the newest stands."""
    return path.with_name(path.name + ".previous")


def exists(path: Path) -> bool:
    """True if there is something to go on from."""
    return path.exists() or previous(path).exists()


def discard(path: Path) -> None:
    """Remove the snapshot and the one before.

    Raises
    ------
    StreamGMMError
        Where a session has them in use.
    """
    path = place(path)
    if not exists(path):
        return
    lock = FileLock(path)
    lock.acquire()
    try:
        path.unlink(missing_ok=True)
        previous(path).unlink(missing_ok=True)
    finally:
        lock.release()


def stamp(path: Path) -> Stamp:
    """Stamp that tells one writing of the file from another; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def expect(path: Path, known: Stamp) -> None:
    """See that nobody wrote the snapshot since it was `known`.

    Raises
    ------
    CheckpointMismatchError
        Where somebody did.
    """
    here = stamp(path)
    if here is not None and here != known:
        raise CheckpointMismatchError(
            f"{path} was written by another session since this one was made. Make a new StreamSession to go on from "
            "it, or give this one a snapshot of its own."
        )


def write(path: Path, state: State) -> None:
    """Write a snapshot; at any moment the newest whole one, or the one before, can be read."""
    if path.exists():
        keep = path.with_name(f".{path.name}.previous.part")
        keep.unlink(missing_ok=True)
        try:
            os.link(path, keep)
        except OSError:  # a file system without links
            shutil.copyfile(path, keep)
        keep.replace(previous(path))
    write_arrays(path, packed(dict(state)), {}, SNAPSHOT)


def read(path: Path, use: Callable[[State], None]) -> None:
    """Give the state in the newest snapshot to `use`, or in the one before where that is damaged.

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


def _read(path: Path, use: Callable[[State], None]) -> None:
    arrays, header = read_arrays(path, SNAPSHOT)
    try:
        use(unpacked(arrays) if is_packed(arrays) else _of_version_1(arrays, header))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path}: does not hold the state of a stream ({type(error).__name__}: {str(error)[:200]}). Restore it "
            "from a copy, or begin with another file."
        ) from error


def _of_version_1(arrays: dict[str, NDArray[Any]], header: dict[str, Any]) -> State:
    """The state in a file of version 1: arrays by name, everything else in the header."""
    sketch = {name: arrays.pop(f"sketch.{name}") for name in ("counts", "fresh") if f"sketch.{name}" in arrays}
    threshold = math.nan if header["threshold"] is None else header["threshold"]
    learner = state_of_version_1(arrays, header["learner"])
    return header | {"learner": learner, "sketch": sketch or None, "threshold": threshold}
