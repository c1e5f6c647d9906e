"""Phases of a long call, for progress displays: named phases, each with its total where one is known.

Code that reads the data says so with `reading`, other work of noticeable length with `phase` and `advanced`. Nothing
happens unless somebody watches: progress displays do, with `watched`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Phase", "PhaseWatcher", "advanced", "chunk_done", "phase", "reading", "stepped", "unwatched", "watched"]


@dataclass(frozen=True, slots=True)
class Phase:
    """Work with a name.

    Attributes
    ----------
    name : what is being done
    total : units of work, or None where nobody knows before
    unit : what is counted; "chunks" for passes over the data
    rows : of the data, for passes over them, or None
    """

    name: str
    total: int | None = None
    unit: str = "chunks"
    rows: int | None = None


class PhaseWatcher(Protocol):
    """Whoever wants to know. Called in the thread that makes the long call."""

    def begin(self, phase: Phase) -> None:
        """A phase begins; an unfinished one of the same kind goes on."""

    def advance(self, unit: str, count: int) -> None:
        """So many more units are done; those that the present phase does not count are of no interest."""

    def step(self, step: Any) -> None:
        """One update of the models is done; see `streamgmm.em.loop.Step`."""


_watcher: ContextVar[PhaseWatcher | None] = ContextVar("streamgmm_phase_watcher", default=None)
_pass: ContextVar[bool] = ContextVar("streamgmm_in_pass", default=False)


@contextmanager
def watched(watcher: PhaseWatcher) -> Iterator[None]:
    """Tell `watcher` of every phase of calls made in this block, by this thread."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


@contextmanager
def unwatched() -> Iterator[None]:
    """Nobody is told of what happens in this block: small work within a phase."""
    token = _watcher.set(None)
    try:
        yield
    finally:
        _watcher.reset(token)


def phase(name: str, total: int | None = None, unit: str = "steps") -> None:
    """Work other than a pass over the data begins."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher.begin(Phase(name, total, unit))


def advanced(unit: str, count: int = 1) -> None:
    """So many units of the present phase are done, where these are what it counts."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher.advance(unit, count)


def stepped(step: Any) -> None:
    """One update of the models is done."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher.step(step)


class reading:
    """Around a run of tasks that reads the data: its chunks count. A sample in memory is no data.

    Parameters
    ----------
    source : Source
    name : of the pass
    """

    __slots__ = ("_name", "_source", "_token")
    _token: Token[bool] | None

    def __init__(self, source: Any, name: str) -> None:
        self._source, self._name, self._token = source, name, None

    def __enter__(self) -> None:
        source = self._source
        if getattr(source, "sampled", False):
            return
        self._token = _pass.set(True)
        watcher = _watcher.get()
        if watcher is not None:
            watcher.begin(Phase(self._name, source.n_chunks, "chunks", source.n_rows))

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _pass.reset(self._token)


def chunk_done(chunk: Any) -> None:
    """A chunk is done; executors say so."""
    if _pass.get():
        watcher = _watcher.get()
        if watcher is not None:
            watcher.advance("chunks", getattr(chunk, "n_parts", 1))
