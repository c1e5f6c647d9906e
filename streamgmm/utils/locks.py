"""Locks between processes: held by the operating system, so that they end with the process, however it ends."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from streamgmm.errors import StreamGMMError

__all__ = ["FileLock"]

log = logging.getLogger("streamgmm")


class FileLock:
    """A lock on `path`, kept in ``<path>.lock`` beside it. That file says who holds it, and is removed on release.

    What counts is the lock of the operating system on the open file, not that the file exists: after a kill -9 the
    file stays and the lock is free.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.with_name(path.name + ".lock")
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        return self._handle is not None

    def acquire(self) -> None:
        """Take the lock; nothing where this object has it.

        Raises
        ------
        StreamGMMError
            Where somebody else holds it; says who.
        FileNotFoundError
            Where there is no folder for it.
        """
        while self._handle is None:
            try:
                handle = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:
                raise FileNotFoundError(
                    f"{self.path}: there is no folder {self.path.parent}. Make it first, or check the path."
                ) from None
            try:
                free = _lock(handle)
                same = free and _is(handle, self.file)
            except BaseException:
                os.close(handle)
                raise
            if free and same:
                owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat()}
                with suppress(OSError):  # a full disk: others are told less
                    os.ftruncate(handle, 0)
                    os.write(handle, json.dumps(owner).encode())
                self._handle = handle
                return
            os.close(handle)
            if not free:
                raise StreamGMMError(
                    f"{self.path} is in use by {self._owner()}. Two sessions with one file would mix their models: end "
                    "that one first, or give this one a file of its own."
                )

    def release(self) -> None:
        """Let go; nothing where it is not held."""
        if self._handle is not None:
            with suppress(OSError):  # where open files cannot be removed, it stays and harms nobody
                self.file.unlink()
            os.close(self._handle)
            self._handle = None

    def _owner(self) -> str:
        try:
            owner = json.loads(self.file.read_bytes())
            return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"


def _is(handle: int, path: Path) -> bool:
    """True if the open file is still the one at `path`: who released it last may have removed it in between."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(handle: int) -> bool:
    """Lock the open file; False where somebody else has it."""
    try:
        import fcntl
    except ImportError:
        log.warning("no file locks on this system: nothing keeps a second session from the same snapshot")
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        log.warning("no file locks on this file system: nothing keeps a second session from the same snapshot")
    return True
