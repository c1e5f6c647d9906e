"""A stream for a long time: killed at random, drifting, with bad lines, and nothing lost.

    python -m benchmarks soak --seconds 7200 --kill-every 60 [--lines-per-second 3000] [--write docs/failures.md]

Lines are appended to a file as fast as they are learnt, or at a given rate. The command `streamgmm stream` follows it,
is ended by SIGKILL at random moments and started again, while its metrics are read and its memory is measured. At the
end every line that was written is a row that was learnt or set aside, each once.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.readme import write_section

BLOCK = 20_000
"""Lines whose mean is the same."""
PIECE = 1_000
"""Lines that are written at a time."""
BAD = 20
"""Lines of each kind of bad ones in a block: text, too few fields, NaN, and a number out of all proportion."""
AHEAD = 12 * 2**20
"""Bytes that may wait to be read."""
REPEATS = 50
"""Times that a block is written before the mean moves."""
LOOK = 0.02
"""Seconds between looks at the metrics; five times as many where lines come at a given rate."""
SETTLED = 5.0
"""Seconds of learning after which the memory of a life is measured."""
BEHIND = 256 * 2**20
"""Bytes before the position that keep their place on the disk: snapshots are never so old."""


@dataclass(slots=True)
class Balance:
    """What went in, and what came of it."""

    seconds: float
    lines: int = 0
    bad: int = 0
    absurd: int = 0
    processor: float = 0.0
    lives: int = 0
    kills: int = 0
    metrics: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    memory: list[int] = field(default_factory=list)
    exit_code: int | None = None

    @property
    def balanced(self) -> bool:
        """Every line is a row that was learnt or set aside, for the right reason."""
        counts = self.counts
        return (
            self.lines == counts["rows"] + counts["rejected"] + counts["refused_rows"]
            and counts["rejected"] == self.bad
            and counts["refused_rows"] == self.absurd
            and counts["refused_batches"] == 0
        )

    @property
    def growth(self) -> float:
        """Memory of the later lives over that of the earlier ones, less 1; medians over the lives that settled."""
        half = len(self.memory) // 2
        return float(np.median(self.memory[half:]) / np.median(self.memory[:half])) - 1.0 if half else 0.0

    def __str__(self) -> str:
        rate, busy = self.counts["rows"] / self.seconds, 100 * self.processor / self.seconds
        return "\n".join(
            [
                f"{self.seconds:.0f} s, {self.lives} lives, {self.kills} kills, {self.metrics} lines of metrics",
                f"lines written        {self.lines:>14,}",
                f"rows learnt          {self.counts['rows']:>14,}   ({rate:,.0f} a second, starts included)",
                f"lines rejected       {self.counts['rejected']:>14,}   of {self.bad:,} bad ones",
                f"rows set aside       {self.counts['refused_rows']:>14,}   of {self.absurd:,} absurd ones",
                f"drift alarms         {self.counts['alarms']:>14,}",
                f"processor time       {self.processor:>14,.0f} s ({busy:.0f} % of a core, starts included)",
                f"resident memory      {self._memory()}",
                f"balance              {'even' if self.balanced else 'NOT EVEN'}",
            ]
        )

    def _memory(self) -> str:
        if not self.memory:
            return "not measured: no life was long enough"
        least, most = min(self.memory) / 1e6, max(self.memory) / 1e6
        first, last = self.memory[0] / 1e6, self.memory[-1] / 1e6
        return (
            f"{least:.0f} to {most:.0f} MB, first {first:.0f}, last {last:.0f}, later lives {100 * self.growth:+.1f} %"
        )


class Piece(NamedTuple):
    """Lines to be written, and how many of them are to be set aside."""

    text: bytes
    bad: int
    absurd: int


KINDS = ("no,numbers", "1.0", "nan,1.0", "1e30,1.0")
"""Lines to be set aside: three bad ones, and an absurd one."""


class Writer:
    """Appends lines, as fast as they are read or `rate` a second; the mean wanders, and jumps."""

    def __init__(self, path: Path, seed: int, rate: float | None = None) -> None:
        self.lines = self.bad = self.absurd = self.freed = 0
        self.rate, self.began = rate, time.monotonic()
        rng = np.random.default_rng(seed)
        blocks = [self._block(rng, drift) for drift in (0.0, 0.2, 0.4, 3.0, 3.2, 3.4)]
        repeated = [piece for block in blocks for _ in range(REPEATS) for piece in block]
        self.pieces = cycle(repeated)
        self.file = path.open("wb", buffering=0)
        self.bytes = self.file.write(b"x,y\n")

    @staticmethod
    def _block(rng: np.random.Generator, drift: float) -> list[Piece]:
        X = rng.normal(size=(BLOCK, 2)) + 6.0 * rng.integers(2, size=(BLOCK, 1)) + drift
        lines = [f"{a:.3f},{b:.3f}" for a, b in X.tolist()]
        for i, place in enumerate(rng.choice(np.arange(PIECE, BLOCK), 4 * BAD, replace=False)):
            lines[place] = KINDS[i % 4]
        return [_piece(lines[low : low + PIECE]) for low in range(0, BLOCK, PIECE)]

    def keep_ahead(self, position: int) -> None:
        """Write what is due behind `position`; give back the disk that was read long ago."""
        due = float("inf") if self.rate is None else self.rate * (time.monotonic() - self.began)
        while self.bytes - position < AHEAD and self.lines + PIECE <= due:
            text, bad, absurd = next(self.pieces)
            self.bytes += self.file.write(text)
            self.lines, self.bad, self.absurd = self.lines + PIECE, self.bad + bad, self.absurd + absurd
        old = (position - BEHIND) // 2**20 * 2**20
        if old > self.freed:
            punch(self.file.fileno(), self.freed, old - self.freed)
            self.freed = old


def _piece(lines: list[str]) -> Piece:
    bad, absurd = (sum(lines.count(kind) for kind in kinds) for kinds in (KINDS[:3], KINDS[3:]))
    return Piece(("\n".join(lines) + "\n").encode(), bad, absurd)


def punch(handle: int, offset: int, length: int) -> None:
    """Free the disk under a part of a file, where the file system can."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate(handle, 3, ctypes.c_longlong(offset), ctypes.c_longlong(length))  # keep size, punch hole


class Metrics:
    """The lines that the stream appends to its metrics, as they come."""

    def __init__(self, path: Path) -> None:
        self.path, self.at, self.lines, self.position, self.rows = path, 0, 0, 0, 0

    def read(self) -> None:
        """Take in what is new. A line that a kill cut short is followed by those of the next life."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.at)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.at += len(line)
                try:
                    found: dict[str, Any] = json.loads(line)
                except ValueError:
                    continue
                self.lines += 1
                if found["event"] == "metrics":
                    self.position, self.rows = int(found["position"] or 0), int(found["counts"]["rows"])


def soak(folder: Path, *, seconds: float, kill_every: float, rate: float | None = None, seed: int = 0) -> Balance:
    """Run for `seconds`, with a SIGKILL every `kill_every` seconds on average, and `rate` lines a second."""
    rng = np.random.default_rng(seed)
    rows, kept = folder / "rows.csv", folder / "kept"
    writer, metrics, balance = Writer(rows, seed, rate), Metrics(kept / "metrics.jsonl"), Balance(seconds)
    settings = ("snapshot_seconds=0.5", "metrics_seconds=0.1", "on_drift=boost", "anomaly_rate=0.001")
    command = [sys.executable, "-m", "streamgmm", "stream", str(rows), "-k", "2", "--half-life", "100000", "--json"]
    command += ["--out", str(kept), *(word for setting in settings for word in ("--set", setting))]
    began, used = time.monotonic(), _processor()
    last = False
    while not last:
        balance.lives += 1
        last = time.monotonic() - began >= seconds
        follow = ["--set", f"follow={'false' if last else 'true'}"]
        with (
            (folder / "said").open("wb") as said,
            subprocess.Popen([*command, *follow], stdout=subprocess.PIPE, stderr=said) as process,
        ):
            try:
                _live(process, writer, metrics, balance, last, began + seconds, float(rng.exponential(kill_every)))
            finally:
                if process.poll() is None:
                    process.kill()
            if last:
                assert process.stdout is not None
                balance.counts = json.loads(process.stdout.read())["counts"]
                balance.exit_code = process.wait()
        if not last and process.returncode != -signal.SIGKILL:
            words = (folder / "said").read_text()[-500:]
            raise RuntimeError(f"the stream ended by itself, with code {process.returncode}: {words}")
        spent = time.monotonic() - began
        print(f"{spent:.0f} s, {balance.lives} lives, {writer.lines:,} lines, {metrics.rows:,} rows", file=sys.stderr)
    writer.file.close()
    balance.lines, balance.bad, balance.absurd = writer.lines, writer.bad, writer.absurd
    balance.metrics, balance.processor = metrics.lines, _processor() - used
    return balance


def _processor() -> float:
    """Seconds of processor time of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _live(
    process: Any, writer: Writer, metrics: Metrics, balance: Balance, last: bool, end: float, life: float
) -> None:
    """One life: until it is killed after `life` seconds of learning, or, the last one, until all is read."""
    before = metrics.position
    learning = None
    memory: list[int] = []
    while process.poll() is None:
        metrics.read()
        if not last:
            writer.keep_ahead(metrics.position)
        if learning is None and metrics.position > before:
            learning = time.monotonic()
        if learning is not None and time.monotonic() > learning + SETTLED:
            memory.append(resident(process.pid))
        if not last and learning is not None and time.monotonic() > min(learning + life, max(end, learning)):
            process.kill()
            balance.kills += 1
            break
        time.sleep(LOOK if writer.rate is None else 5 * LOOK)
    if memory and not last:
        balance.memory.append(int(np.median(memory)))


def resident(pid: int) -> int:
    """Bytes of the memory of a process that are resident, 0 where it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--kill-every", type=float, default=60.0)
    parser.add_argument("--lines-per-second", type=float, help="by default as fast as they are learnt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="put the balance between the markers of this page")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as where:
        balance = soak(
            Path(where),
            seconds=given.seconds,
            kill_every=given.kill_every,
            rate=given.lines_per_second,
            seed=given.seed,
        )
    print(balance)
    if given.write is not None:
        section = "soak" if given.lines_per_second is None else "soak-at-a-rate"
        write_section(given.write, section, f"```text\n{balance}\n```")
