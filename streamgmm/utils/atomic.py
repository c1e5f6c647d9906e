"""Files and folders that are there whole or not at all, and nothing else: what a killed process left is swept.

While something is written it stands beside its place under a hidden name, ``.NAME.TOKEN.part``, locked by its writer.
The lock is the operating system's and ends with the process, however that ends, so that a later run can tell what is in
use from what was left.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from streamgmm.errors import DiskFullError

__all__ = ["atomic_folder", "atomic_path", "sweep"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TEMPORARY = re.compile(r"\..*\.([0-9a-f]{6})[0-9a-f]{10}\.(part|old)(\.\w{1,10})?")
_PAUSES = (0.05, 0.1, 0.2, 0.5)
"""Seconds between removing a folder and seeing whether it is still gone."""
_STRANGERS = 24 * 3600.0
"""Seconds without a change after which what another machine left is swept: not every file system passes locks on."""


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, needed: int | None = None) -> Iterator[Path]:
    """A temporary name beside `path` to write a file to; renamed to `path` on success, removed on failure.

    A file that is replaced keeps its permissions, and a link what it is: the file that it leads to is written. What is
    no file (a pipe, a terminal, ``/dev/null``) gets the contents when they are whole.

    Parameters
    ----------
    needed : bytes that will be written, where that is known; for the message when they do not fit

    Raises
    ------
    FileNotFoundError
        Where the folder does not exist.
    PermissionError
        Where the file is for reading only.
    DiskFullError
        Where there is no room.
    """
    if _is_stream(Path(path)):
        with _passed_on(Path(path)) as part:
            yield part
        return
    target = _followed(path)
    with _temporary(target, "part", needed) as part:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        if target.is_file():
            shutil.copymode(target, part)
        part.replace(target)
    _sync_folder(target.parent)


def _is_stream(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _followed(path: str | os.PathLike[str]) -> Path:
    """Where a link leads to; what is to be replaced must be for writing."""
    target = Path(path)
    if target.is_symlink():
        target = Path(os.path.realpath(target))
        if target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
    return target


@contextmanager
def _passed_on(target: Path) -> Iterator[Path]:
    """A file elsewhere, copied to `target` in the end."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="streamgmm-") as folder:
        part = Path(folder) / target.name
        part.touch()
        yield part
        with part.open("rb") as file, target.open("wb", buffering=0) as out:
            shutil.copyfileobj(file, out)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside `path`, renamed to it on success and removed on failure.

    A folder that is at `path` already is replaced, or the one that a link leads to. Where a kill comes between its
    removal and the renaming, `sweep` puts it back.

    Raises
    ------
    FileNotFoundError
        Where the folder around it does not exist.
    PermissionError
        Where the folder that is there is for reading only.
    DiskFullError
        Where there is no room.
    """
    target = _followed(path)
    with _temporary(target, "part", None, folder=True) as part:
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                with file.open("rb+") as stream:
                    os.fsync(stream.fileno())
        if target.exists():
            with _temporary(target, "old", None, folder=True) as old:
                target.rename(old / target.name)
                try:
                    part.rename(target)
                except BaseException:
                    _restore(old)
                    raise
        else:
            part.rename(target)
    _sync_folder(target.parent)


def sweep(folder: str | os.PathLike[str]) -> None:
    """Remove what killed processes left in `folder`; never what is in use, never what is not ours."""
    with suppress(OSError):  # not there, or for reading only
        for entry in os.scandir(folder):
            found = _TEMPORARY.fullmatch(entry.name)
            if found is None or entry.is_symlink():
                continue
            with suppress(OSError):
                changed = entry.stat(follow_symlinks=False).st_mtime
                if found[1] == _machine() or changed < time.time() - _STRANGERS:
                    _remove_if_left(Path(entry.path), found[2])


def _remove_if_left(path: Path, kind: str) -> None:
    handle = _open(path)
    try:
        if _locked(handle):
            if kind == "old":
                _restore(path)
            _remove(path)
    finally:
        os.close(handle)


def _restore(old: Path) -> None:
    """Put a replaced folder back, where what should replace it never came."""
    for inner in old.iterdir():
        place = old.parent / inner.name
        if not place.exists():
            inner.rename(place)


@contextmanager
def _temporary(target: Path, kind: str, needed: int | None, *, folder: bool = False) -> Iterator[Path]:
    """A new file or folder beside `target`, locked; what is left of it afterwards is removed."""
    sweep(target.parent)
    part, handle = _name(target, kind), None
    try:  # from here on, so that a signal between making and locking leaves nothing either
        while (handle := _made(part, folder)) is None:
            part = _name(target, kind)
        yield part
    except OSError as error:
        if error.errno in _FULL and not isinstance(error, DiskFullError):
            raise _no_room(error, target, part, needed) from error
        if error.filename == os.fspath(part):  # nobody has heard of that name
            raise OSError(error.errno, error.strerror, os.fspath(target)) from error
        raise
    finally:
        _remove(part)
        if handle is not None:
            os.close(handle)


def _name(target: Path, kind: str) -> Path:
    suffix = target.suffix if re.fullmatch(r"\.\w{1,10}", target.suffix) else ""
    return target.with_name(f".{target.name[:40]}.{_machine()}{secrets.token_hex(5)}.{kind}{suffix}")


def _made(part: Path, folder: bool) -> int | None:
    """Make a file or folder and lock it; None where somebody swept it before it was locked."""
    if folder:
        part.mkdir()
    else:
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        handle = _open(part)
    except FileNotFoundError:
        return None
    _locked(handle)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(handle), part.stat()):
            return handle
    os.close(handle)
    return None


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)


def _locked(handle: int) -> bool:
    """Lock the open file; False where somebody else has it, or nobody can."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def _remove(path: Path) -> None:
    """Remove what is there. Threads of Zarr that were interrupted may write a last chunk meanwhile: then once more."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for pause in _PAUSES:
        shutil.rmtree(path, ignore_errors=True)
        time.sleep(pause)
        if not path.exists():
            return


def _no_room(error: OSError, target: Path, part: Path, needed: int | None) -> DiskFullError:
    written = sum(file.stat().st_size for file in (part, *part.rglob("*")) if file.is_file())
    need = f"{written:,} bytes and more" if needed is None else f"{needed:,} bytes"
    if error.errno == errno.EFBIG:
        limit = "files of this process may not be so large (see ulimit -f)"
    else:
        room = shutil.disk_usage(target.parent).free + written
        limit = f"{room:,} are free in {target.parent}" + (", within a quota" if error.errno == errno.EDQUOT else "")
    return DiskFullError(
        error.errno, f"{target}: cannot be written whole: it needs {need}; {limit}. Free some, or choose another place."
    )


def _sync_folder(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
