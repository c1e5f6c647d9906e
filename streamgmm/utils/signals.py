"""Signals that end a process: as an exception, so that what is half written is taken away on the way out."""

from __future__ import annotations

import atexit
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["ENDING", "Interrupted", "ending_cleanly", "new_request", "terminate", "until_exit"]

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
SAME_REQUEST = 0.2
"""Seconds after a signal in which another one is the same request: terminals that close, and programs that pass Ctrl-C
on to others, send it twice."""
_AGAIN = 0.05
"""Seconds until a signal is sent again whose exception was ignored."""


class Interrupted(KeyboardInterrupt):
    """A signal came.

    A class of its own: where a plain KeyboardInterrupt leaves a string that is executed (modules make functions that
    way), CPython takes note, and `python -m` ends by SIGINT whatever its exit code should be.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


class _Requests:
    """Time of the last request to end."""

    last = -math.inf


def new_request() -> bool:
    """False where a signal that came now repeats the request of the one before it."""
    now = time.monotonic()
    new = now - _Requests.last >= SAME_REQUEST
    if new:
        _Requests.last = now
    return new


class _Terminate:
    """A handler that raises `Interrupted`, or, once `code` is known, ends the process with it."""

    code: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.code is not None:
            os._exit(self.code)
        if new_request():
            raise Interrupted(number)


terminate = _Terminate()
"""The handler of `ending_cleanly` and `until_exit`."""


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise `Interrupted` inside, unless ignored (nohup) or handled by somebody else."""
    before = _handle()
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def until_exit() -> None:
    """As `ending_cleanly`, until the process ends. Set ``terminate.code`` where its exit code is known.

    What comes then, at the exit of the interpreter, changes neither the exit code nor what was written.
    """
    atexit.register(_ignore, tuple(_handle()))  # first, to be called last: Python takes its handlers away after that
    sys.unraisablehook = _send_again


def _handle() -> dict[Any, Any]:
    """Set the handler; what was there before."""
    before: dict[Any, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for which in (signal.SIGINT, *ENDING):
            if signal.getsignal(which) in (signal.SIG_DFL, signal.default_int_handler):
                before[which] = signal.signal(which, terminate)
    return before


def _ignore(numbers: tuple[int, ...]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def _send_again(found: Any) -> None:
    """A signal that came while C code called Python, which ignores exceptions there, is sent again."""
    if not isinstance(found.exc_value, Interrupted):
        sys.__unraisablehook__(found)
        return
    _Requests.last = -math.inf
    again = threading.Timer(_AGAIN, _send, (found.exc_value.number,))
    again.daemon = True
    again.start()


def _send(number: int) -> None:
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:  # wakes it where it waits
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)
