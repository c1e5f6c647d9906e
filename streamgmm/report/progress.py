"""One line of live progress: the phase, how much of it is done, how fast, how good the model is, and the time left.

A `ProgressLine` watches phases (`streamgmm.utils.phases`) and the steps of a fit. `showing` draws it at the bottom of a
terminal or notebook while a block runs.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from streamgmm.utils.phases import Phase, watched

__all__ = ["ProgressLine", "drawing", "left_passes", "progress", "showing"]

SOON = 0.5
"""Seconds of a phase before a rate or a time left is worth showing."""
BAR = 16


class ProgressLine:
    """The state of a long call, as one line of text.

    Parameters
    ----------
    tol, max_iter : of the fit, for the passes that are left
    clock : callable () -> seconds

    Examples
    --------
    >>> seconds = iter([0.0, 0.0, 2.0, 2.0])
    >>> line = ProgressLine(clock=lambda: next(seconds))
    >>> line.begin(Phase("pass", 4, rows=1000))
    >>> line.advance("chunks", 1)
    >>> line.text(100)
    'pass 1: 1/4 chunks [####............], 0:06 left, 125 rows/s'
    """

    def __init__(
        self, tol: float | None = None, max_iter: int | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._tol, self._max_iter, self._clock = tol, max_iter, clock
        self._lock = threading.RLock()
        self._phase: Phase | None = None
        self._done, self._passes, self._open = 0, 0, False
        self._rows: int | None = None
        self._model = ""
        self._left: int | None = None
        self._pass_seconds = math.nan
        self._started = self._began = clock()

    # What is told ---------------------------------------------------------------------------------------------------

    def begin(self, phase: Phase) -> None:
        """See `PhaseWatcher`. Passes are numbered; the blocks of one pass are one phase."""
        with self._lock:
            is_pass = phase.name == "pass"
            if is_pass and self._open:
                return
            self._passes += is_pass
            self._open = is_pass
            self._phase, self._done, self._began = phase, 0, self._clock()

    def advance(self, unit: str, count: int) -> None:
        """See `PhaseWatcher`."""
        with self._lock:
            if self._phase is not None and unit == self._phase.unit:
                self._done += count

    def step(self, step: Any) -> None:
        """One update of the models is done."""
        if not step.block.last:
            return
        with self._lock:
            if self._open:
                self._pass_seconds = self._clock() - self._began
            self._open = False
            if step.stats:
                self._rows = step.stats[0].rows
            if not step.candidates:
                return
            leader = max(step.candidates, key=lambda c: c.objective)
            trace = leader.trace
            change = f" ({trace[-1] - trace[-2]:+.1e})" if len(trace) > 1 else ""
            running = sum(c.status == "running" for c in step.candidates)
            of = f", {running} of {len(step.candidates)} models" if len(step.candidates) > 1 else ""
            far = leader.distance
            to_go = f", {far:.0e} from its limit" if 0 < far < math.inf and running else ""
            self._model = f"log-likelihood {leader.objective:.6f}{change}{to_go}{of}"
            most = None if self._max_iter is None else max(0, self._max_iter - leader.n_iter)
            self._left = left_passes(leader.plain, self._tol, most) if running else 0

    # What is shown --------------------------------------------------------------------------------------------------

    def text(self, width: int = 80) -> str:
        """At most `width` characters; what matters least is left out first."""
        with self._lock:
            now = self._clock()
            if self._phase is None:
                return _shortened(["starting"], width)
            return _shortened([self._work(now, width), *self._further(now)], width)

    def _work(self, now: float, width: int) -> str:
        phase = self._phase
        assert phase is not None
        name = f"pass {self._passes}" if phase.name == "pass" else phase.name
        if phase.total is None:
            return f"{name}: {self._done:,} {phase.unit}" if self._done else name
        done = min(self._done, phase.total)
        bar = ""
        if width >= 100 and phase.total > 1:
            full = BAR * done // phase.total
            bar = f" [{'#' * full}{'.' * (BAR - full)}]"
        return f"{name}: {done:,}/{phase.total:,} {phase.unit}{bar}"

    def _further(self, now: float) -> Iterator[str]:
        """The other parts of the line, the most important first."""
        phase, took = self._phase, now - self._began
        assert phase is not None
        known = phase.total is not None and self._done > 0 and took >= SOON
        if known and phase.total is not None and self._done < phase.total:
            yield f"{_clock_of(took / self._done * (phase.total - self._done))} left"
        rows = phase.rows or (self._rows if phase.unit == "chunks" else None)
        if known and rows and phase.total:
            yield f"{rows * min(self._done / phase.total, 1.0) / took:,.0f} rows/s"
        if phase.name == "pass" and self._model:
            yield self._model
            if self._left:
                seconds = self._left * self._pass_seconds
                about = "" if math.isnan(seconds) else f", {_clock_of(seconds)}"
                yield f"about {self._left} more pass{'es' * (self._left > 1)}{about}"
        if now - self._started >= 10:
            yield f"{_clock_of(now - self._started)} so far"


def left_passes(trace: Any, tol: float | None, most: int | None) -> int | None:
    """Passes until gains that shrink at their last rate bring a trace within `tol` of its limit, at most `most`.

    None where the last gains do not shrink, so that nobody knows.
    """
    if not tol or len(trace) < 3:
        return None
    g1, g2 = trace[-2] - trace[-3], trace[-1] - trace[-2]
    if not 0 < g2 < g1:
        return None
    rate = g2 / g1
    distance = g2 * rate / (1 - rate)
    left = 1 if distance <= tol else math.ceil(math.log(tol / distance) / math.log(rate))
    return left if most is None else min(left, most)


_drawing: ContextVar[bool] = ContextVar("streamgmm_progress_drawn", default=False)


def drawing() -> bool:
    """True if a line of progress is being drawn, so that nothing else need tell of it."""
    return _drawing.get()


@contextmanager
def showing(line: ProgressLine, console: Any = None, *, transient: bool = True) -> Iterator[ProgressLine]:
    """Watch the calls in this block, and draw the line where the console is a terminal or a notebook.

    Parameters
    ----------
    console : rich.console.Console, optional
        Standard error by default.
    transient : bool
        The line goes when the block ends.
    """
    from rich.console import Console

    console = Console(stderr=True) if console is None else console
    if not (console.is_terminal or console.is_jupyter):
        with watched(line):
            yield line
        return
    token = _drawing.set(True)
    draw = _in_notebook if console.is_jupyter else _in_terminal
    try:
        with draw(line, console, transient):
            yield line
    finally:
        _drawing.reset(token)


@contextmanager
def _in_terminal(line: ProgressLine, console: Any, transient: bool) -> Iterator[None]:
    from rich.live import Live
    from rich.text import Text

    with watched(line), Live(
        get_renderable=lambda: Text(line.text(console.width - 1), no_wrap=True),
        console=console, transient=transient, refresh_per_second=4,
    ):  # fmt: skip
        yield


@contextmanager
def _in_notebook(line: ProgressLine, console: Any, transient: bool) -> Iterator[None]:
    shown = _NotebookLine(line)
    with watched(shown):
        try:
            yield
        finally:
            shown.update("" if transient else line.text(_NotebookLine.WIDTH))


class _NotebookLine:
    """A line in the output of a cell. It is drawn anew by those who tell of progress, in the cell's own thread."""

    WIDTH = 120
    EVERY = 0.25
    """Seconds between two updates."""

    def __init__(self, line: ProgressLine) -> None:
        from IPython.display import display

        self._line, self._drawn = line, time.perf_counter()
        self._handle = display({"text/plain": "starting"}, raw=True, display_id=True)

    def begin(self, phase: Phase) -> None:
        self._line.begin(phase)
        self._refresh()

    def advance(self, unit: str, count: int) -> None:
        self._line.advance(unit, count)
        self._refresh()

    def step(self, step: Any) -> None:
        self._line.step(step)
        self._refresh()

    def _refresh(self) -> None:
        if time.perf_counter() - self._drawn >= self.EVERY:
            self.update(self._line.text(self.WIDTH))

    def update(self, text: str) -> None:
        """Show this text instead."""
        self._drawn = time.perf_counter()
        self._handle.update({"text/plain": text}, raw=True)


@contextmanager
def progress(*, tol: float | None = None, max_iter: int | None = None, verbose: int = 1) -> Iterator[None]:
    """Show what the long calls in this block are doing, as one line in a terminal or notebook; elsewhere nothing.

    The line names the phase and tells the pass, the chunks that are done, rows per second, the log-likelihood, its
    estimated distance to the limit, and the time left.

    Parameters
    ----------
    tol, max_iter : of the fit, where known: the passes that are left are estimated from them
    verbose : int
        0 shows nothing, as 2 and more, for which estimators print lines.

    Examples
    --------
    >>> import numpy as np, streamgmm as sg
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> with sg.progress():
    ...     gm = sg.GaussianMixture(2, random_state=0, tol=1e-3).fit(X)
    """
    if verbose != 1 or drawing():
        yield
        return
    with showing(ProgressLine(tol, max_iter), transient=False):
        yield


def _shortened(parts: list[str], width: int) -> str:
    """As many of the parts as fit, the first one cut where it alone is too long."""
    found = parts[0][: max(1, width)]
    for part in parts[1:]:
        if len(found) + 2 + len(part) <= width:
            found += f", {part}"
    return found


def _clock_of(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
