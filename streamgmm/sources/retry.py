"""Reads that may be tried again: a network that hiccups is not a file that is broken."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

from streamgmm.errors import ChunkReadError

_PAUSES = (0.1, 0.5, 2.0)
"""Seconds between attempts."""

_TRANSIENT = {
    errno.EAGAIN,
    errno.EINTR,
    errno.EBUSY,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENETRESET,
    errno.EPIPE,
    errno.EIO,
}


def is_transient(error: BaseException) -> bool:
    """True where the same read may succeed in a moment: time-outs and broken connections, here or in a cause."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (TimeoutError, ConnectionError)):
            return True
        if isinstance(seen, OSError) and seen.errno in _TRANSIENT:
            return True
        seen = seen.__cause__
    return False


def patiently[T](read: Callable[[], T]) -> T:
    """``read()``, up to three times again where the failure, or its cause, is transient; else what it raises."""
    for pause in _PAUSES:
        try:
            return read()
        except Exception as error:
            if not is_transient(error):
                raise
            time.sleep(pause)
    return read()


def retried[T](read: Callable[[], T], name: str, index: int) -> T:
    """``read()``, up to three times again where the failure is transient.

    Raises
    ------
    ChunkReadError
        Naming what was read, whatever the library behind `read` raised.
    """
    for pause in (*_PAUSES, None):
        try:
            return read()
        except (ChunkReadError, MemoryError):
            raise
        except Exception as error:
            if pause is None or not is_transient(error):
                reason = f"{type(error).__name__}: {error}".strip().rstrip(".")
                raise ChunkReadError(name, index, f"cannot be read ({reason}). Restore or rewrite it.") from error
            time.sleep(pause)
    raise AssertionError
