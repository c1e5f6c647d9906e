"""Files of arrays: safetensors with a versioned JSON header and a SHA-256 of the payload. Loading runs no code.

Models, checkpoints, snapshots of streams and the history of a fit are such files; `FileKind` tells them apart.

Layout (the safetensors format): 8 bytes little-endian header length, a JSON header, the arrays' bytes. The header's
``__metadata__`` holds five strings: ``format``, ``version``, ``sha256`` (of everything after the header),
``header_sha256`` (of the header without itself; files of before have none) and ``streamgmm``, which is JSON of our own.
Everything read is checked against the size of the file before memory is taken.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamgmm.errors import ModelFileError
from streamgmm.utils.atomic import atomic_path
from streamgmm.utils.jsonable import jsonable

__all__ = ["CHECKPOINT", "HISTORY", "MODEL", "SNAPSHOT", "FileKind", "read_arrays", "write_arrays"]


class FileKind(NamedTuple):
    """Kind of a file: a name that stands in it, the version that is written, and the oldest that is read."""

    name: str
    version: int = 1
    oldest: int = 1


MODEL = FileKind("streamgmm-model", 2)
"""A mixture as named arrays, for other readers of safetensors too. Since 2 what a stream left is `packed`."""
CHECKPOINT = FileKind("streamgmm-checkpoint", 2, oldest=2)
"""Statistics of an unfinished pass are about each component's own mean since 2; files of version 1 begin anew."""
SNAPSHOT = FileKind("streamgmm-stream", 2)
"""Since 2 all of it is `packed`."""
HISTORY = FileKind("streamgmm-history")
"""Frames of the path of a fit."""

MAX_HEADER = 16 * 2**20
_METADATA = {"format", "version", "sha256", "header_sha256", "streamgmm"}
_DTYPES = {"F64": np.float64, "F32": np.float32, "I64": np.int64, "U64": np.uint64, "U8": np.uint8, "BOOL": np.bool_}


def write_arrays(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NDArray[Any]],
    header: Mapping[str, Any],
    kind: FileKind,
) -> None:
    """Write arrays and a JSON header to one file, atomically.

    Parameters
    ----------
    arrays : dict of str to array of float64, float32, int64, uint64, uint8 or bool
    header : JSON values
    kind : FileKind
        What the file is; `read_arrays` refuses others.
    """
    from safetensors.numpy import save

    body = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    length = int.from_bytes(body[:8], "little")
    payload = memoryview(body)[8 + length :]
    layout = json.loads(body[8 : 8 + length])
    layout["__metadata__"] = {
        "format": kind.name,
        "version": str(kind.version),
        "sha256": hashlib.sha256(payload).hexdigest(),
        "streamgmm": json.dumps(jsonable(header), allow_nan=False),
    }
    layout["__metadata__"]["header_sha256"] = _header_digest(layout, layout["__metadata__"])
    text = json.dumps(layout).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path, needed=8 + len(text) + len(payload)) as part, part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def read_arrays(path: str | os.PathLike[str], kind: FileKind) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and header of a file that `write_arrays` wrote. Takes memory for no more than the file is long.

    Raises
    ------
    ModelFileError
        Where the file is damaged, is something else, or is of a version that is not read.
    OSError
        Where the file cannot be opened.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):  # opening one waits, perhaps without end
        raise ModelFileError(f"{os.fspath(path)}: expected a file, which can be read from any place; this is a pipe.")
    with open(path, "rb") as file:
        try:
            return _read(file, kind)
        except _BadFileError as error:
            raise ModelFileError(f"{os.fspath(path)}: {error}") from None


class _BadFileError(Exception):
    pass


def _read(file: BinaryIO, kind: FileKind) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    name, version, oldest = kind
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 10 or length > size - 8:
        raise _BadFileError(
            f"not a {name} file, or cut short: {size} bytes cannot hold a header of {length} bytes. "
            "Write it again with save()."
        )
    if length > MAX_HEADER:
        raise _BadFileError(f"its header claims {length} bytes; at most {MAX_HEADER} are read.")
    layout = _json(file.read(length), "header")
    meta = layout.pop("__metadata__", None)
    if not isinstance(meta, dict) or meta.get("format") != name:
        raise _BadFileError(f"expected a file of format {name!r}; its header names {_named(meta)}.")
    found = str(meta.get("version", ""))
    if found.isdecimal() and int(found[:9]) < oldest:
        raise _BadFileError(f"is of version {found[:20]}; this release reads {oldest} to {version}. Write it anew.")
    if not found.isdecimal() or int(found[:9]) > version:
        raise _BadFileError(f"is of version {found[:20]}; this release reads up to {version}. Upgrade streamgmm.")
    if not all(isinstance(text, str) for text in meta.values()):
        raise _BadFileError("its metadata must be text.")
    if unknown := meta.keys() - _METADATA:  # a hash under a damaged name would not be asked for
        raise _BadFileError(f"its metadata names {min(unknown)[:40]!r}, which save() does not write.")
    places = _places(layout, size - 8 - length)
    header = _header_digest(layout, meta)
    if _digest(file) != meta.get("sha256"):
        raise _BadFileError("its content does not match its SHA-256: damaged or altered. Restore it from a copy.")
    if meta.get("header_sha256", header) != header:
        raise _BadFileError("its header does not match its SHA-256: damaged or altered. Restore it from a copy.")
    arrays = {}
    for key, (dtype, shape, begin) in places.items():
        file.seek(8 + length + begin)
        array = np.fromfile(file, dtype, math.prod(shape)).reshape(shape)
        arrays[key] = array
    return arrays, _json(str(meta.get("streamgmm", "{}")).encode(), "metadata")


def _header_digest(layout: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    """SHA-256 of what the header says: places of arrays, and metadata but for this hash."""
    arrays = {name: entry for name, entry in layout.items() if name != "__metadata__"}
    rest = {name: text for name, text in meta.items() if name != "header_sha256"}
    return hashlib.sha256(json.dumps([arrays, rest], sort_keys=True).encode()).hexdigest()


def _named(meta: object) -> str:
    return repr(str(meta.get("format"))[:40]) if isinstance(meta, dict) else "none"


def _json(text: bytes, what: str) -> dict[str, Any]:
    """A JSON object; NaN, infinity, repeated names and endless nesting are refused."""

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in items}) < len(items):
            raise ValueError("a name occurs twice")
        return dict(items)

    try:
        value = json.loads(text, parse_constant=constant, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise _BadFileError(f"its {what} is not valid JSON ({str(error)[:80]}).") from None
    if not isinstance(value, dict):
        raise _BadFileError(f"its {what} must be a JSON object.")
    return value


def _places(layout: dict[str, Any], available: int) -> dict[str, tuple[Any, tuple[int, ...], int]]:
    """Type, shape and offset of each array, after checking that they tile the payload exactly."""
    places: dict[str, tuple[Any, tuple[int, ...], int]] = {}
    runs: list[tuple[int, int]] = []
    for name, entry in layout.items():
        try:
            dtype = np.dtype(_DTYPES[entry["dtype"]])
            shape = tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            whole = all(type(n) is int and 0 <= n < 2**48 for n in (*shape, begin, end)) and len(shape) <= 8
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            raise _BadFileError(f"the description of array {name[:40]!r} is not one that save() writes.")
        if end - begin != math.prod(shape) * dtype.itemsize or end > available:
            raise _BadFileError(
                f"array {name[:40]!r} is declared as {shape} at bytes {begin} to {end}, which does not fit the "
                f"{available} bytes that follow the header: cut short or forged."
            )
        runs.append((begin, end))
        places[name] = dtype, shape, begin
    reached = 0
    for begin, end in sorted(runs):
        if begin != reached:
            raise _BadFileError("its arrays overlap or leave gaps: forged.")
        reached = end
    if reached != available:
        raise _BadFileError(f"{available} bytes follow the header, {reached} were declared: cut short or forged.")
    return places


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()
