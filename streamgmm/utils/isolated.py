"""Work in a process of its own: a crash of a library is then an error, and not the end."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from streamgmm.errors import StreamGMMError

__all__ = ["CrashedError", "isolated"]


class CrashedError(StreamGMMError):
    """The process ended without an answer; `how` says by which signal or with which code."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


def isolated[T](work: Callable[..., T], *arguments: Any, progress: Callable[..., Any] | None = None) -> T:
    """``work(*arguments, progress)`` in a process of its own; what it raises is raised here.

    Parameters
    ----------
    work : a function of a module, with arguments and a result that pickle
    progress : is called here with what `work` calls it with there

    Raises
    ------
    CrashedError
        Where the process ended without an answer.
    """
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, work, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            kind, value = mine.recv()
            if kind == "result":
                return value
            if kind == "error":
                raise value
            if progress is not None:
                progress(*value)
    except EOFError:
        process.join()
        raise CrashedError(_how(process.exitcode or 0)) from None
    finally:
        mine.close()
        process.terminate()
        process.join()


def _answer(out: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C comes here as well; the caller ends this process
    try:
        out.send(("result", work(*arguments, lambda *value: out.send(("progress", value)))))
    except Exception as error:
        out.send(("error", error))


def _how(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"
