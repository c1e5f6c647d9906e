"""Live progress of a fit: a consumer of its steps and of finished chunks. Quiet where stderr is no terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from streamgmm.cli.terminal import stderr_console


class FitProgress:
    """Pass, chunks, rows per second, log-likelihood per row and its last change."""

    def __init__(self, n_chunks: int | None, n_rows: int | None) -> None:
        self._chunks, self._rows = n_chunks, n_rows
        self._pass, self._done, self._began = 0, 0, time.perf_counter()
        self._lock = threading.Lock()
        console = stderr_console()
        self._shown = console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed}/{task.total} chunks {task.fields[rate]} {task.fields[fit]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not self._shown,
            transient=True,
        )
        self._task = self._bar.add_task("start ", total=n_chunks, rate="", fit="")

    @contextmanager
    def showing(self) -> Iterator[FitProgress]:
        with self._bar:
            yield self

    def chunk(self, chunk: Any) -> None:
        """One chunk is done."""
        with self._lock:
            self._done += getattr(chunk, "n_parts", 1)
            if self._shown:
                elapsed = time.perf_counter() - self._began
                total = self._chunks or self._done
                rate = ""
                if self._rows and elapsed > 0:
                    rate = f"{self._rows * self._done / total / elapsed:,.0f} rows/s"
                self._bar.update(self._task, completed=self._done, rate=rate)

    def step(self, step: Any) -> None:
        """One update of the models is done."""
        if step.block.last:
            with self._lock:
                self._pass += 1
                self._done, self._began = 0, time.perf_counter()
        if not self._shown:
            return
        leader = max(step.memory, key=lambda c: c.objective)
        trace = leader.trace
        change = f" ({trace[-1] - trace[-2]:+.2e})" if len(trace) > 1 else ""
        running = sum(c.status == "running" for c in step.memory)
        starts = f", {running} of {len(step.memory)} starts" if len(step.memory) > 1 else ""
        self._bar.update(
            self._task,
            description=f"pass {self._pass + 1}",
            completed=0,
            fit=f"log-likelihood {leader.objective:.6f}{change}{starts}",
        )
