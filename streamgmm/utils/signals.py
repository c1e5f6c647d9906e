"""Signals that end a process: as an exception, so that what is half written is taken away on the way out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

__all__ = ["ENDING", "ending_cleanly", "terminate"]

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def terminate(number: int, frame: FrameType | None) -> NoReturn:
    """A handler: as Ctrl-C."""
    raise KeyboardInterrupt(f"ended by {signal.Signals(number).name}")


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt inside, unless they are ignored (nohup) or somebody handles them."""
    before: dict[Any, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for which in ENDING:
            if signal.getsignal(which) is signal.SIG_DFL:
                before[which] = signal.signal(which, terminate)
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
