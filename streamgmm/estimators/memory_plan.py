"""Memory is projected before a row is read: what a limit allows is done, and what it does not is refused with numbers.

The projection counts what is alive at the same time while EM reads,

    threads x (one chunk being read + kernel scratch) + statistics of all models in the fold + the models themselves,

and at the start the reservoir in place of the statistics. Chunks that do not fit are read in slabs, threads that do not
fit are left out, and what is left over holds decoded chunks, so that they are not decoded again.
"""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from streamgmm.errors import MemoryLimitError
from streamgmm.kernels.plain.factor import NUMBERS as FACTOR_NUMBERS
from streamgmm.kernels.plan import Family
from streamgmm.mixture.covariance import Covariance
from streamgmm.runtime.executors import Executor, Threads
from streamgmm.runtime.thread_limits import available_cores
from streamgmm.sources.base import Source
from streamgmm.sources.memory_budget import cached, limit_chunks
from streamgmm.utils.numbers import size as bytes_text

__all__ = ["MemoryPlan", "Shape", "parse_bytes", "plan_memory"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}

_KERNEL_ROWS = 256
"""Rows of the largest block that a kernel works on."""

_LEAST_SAMPLE = 1000

_M_MMAP_THRESHOLD = -3  # from malloc.h


def parse_bytes(size: str | int) -> int:
    """A number of bytes, or a text such as "2GB", "512 MB", "1.5GiB".

    Raises
    ------
    ValueError, TypeError

    Examples
    --------
    >>> parse_bytes("64MB")
    64000000
    """
    if isinstance(size, str):
        match = re.fullmatch(r"\s*([0-9]{1,30}(?:\.[0-9]*)?)\s*([KMGT]I?)?B?\s*", size.upper())
        if match is None:
            raise ValueError(f"memory_limit must be a size such as '2GB', '512MB' or '1.5GiB'; got {size!r}.")
        size = round(float(match[1]) * _UNITS[match[2] or ""])
    try:
        size = index(size)
    except TypeError:
        raise TypeError(
            f"memory_limit must be a whole number of bytes, or a size such as '2GB'; got {size!r}."
        ) from None
    if size < 1:
        raise ValueError(f"memory_limit must be at least one byte; got {size}.")
    return size


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a fit: as many models of K components over D features as share a pass."""

    family: Covariance
    n_components: int
    n_features: int
    n_models: int
    sample_rows: int
    """Rows wanted in the reservoir; 0 where none is filled."""
    remembered: int = 0
    """Further sets of statistics that a rule remembers for each model."""
    saved: bool = False
    """Whether the state is written to checkpoints, which takes another copy of it for a moment."""

    @property
    def stats_bytes(self) -> int:
        """One set of statistics of one model."""
        K, D = self.n_components, self.n_features
        return 8 * (K + K * D + int(np.prod(self.family.scatter_shape(K, D))))

    @property
    def scratch_bytes(self) -> int:
        """Memory that one thread needs beside its chunk: sums, blocks of features, and the statistics it hands over."""
        K, D = self.n_components, self.n_features
        pairs = D * (D + 1) // 2
        if self.family.n_factors:
            return (
                8 * (6 * FACTOR_NUMBERS + 4 * K * D * (self.family.n_factors + 2))
                + (4 + self.n_models) * self.stats_bytes
            )
        p = 1 + D + {Family.FULL: pairs, Family.TIED: pairs, Family.DIAG: D, Family.SPHERICAL: 1}[self.family.kernel]
        return 8 * (3 * K * p + _KERNEL_ROWS * (p + K + D)) + (4 + self.n_models) * self.stats_bytes

    @property
    def driver_bytes(self) -> int:
        """Models with what is prepared from them, those an accelerator holds, the M-step, and what a rule remembers."""
        state = (24 + self.remembered) * self.n_models * self.stats_bytes
        return state * (2 if self.saved else 1)

    def fold_bytes(self, n_chunks: int) -> int:
        """Statistics that wait in the fold."""
        nodes = int(n_chunks).bit_length() + 2
        return nodes * self.n_models * self.stats_bytes * (2 if self.saved else 1)

    def reservoir_bytes(self, rows: int, chunk_rows: int, n_chunks: int, itemsize: int) -> int:
        """The fold of reservoirs of `rows` rows."""
        levels = range(int(n_chunks).bit_length() + 1)
        held = sum(min(rows, chunk_rows << level) for level in levels) + 3 * rows
        return held * (self.n_features * itemsize + 32) * (2 if self.saved else 1)

    def kmeans_bytes(self, rows: int, itemsize: int) -> int:
        """k-means on a sample of `rows` rows, and the first statistics; nothing is read meanwhile."""
        return rows * (2 * (self.n_features * itemsize + 32) + 8 * (5 * self.n_features + 3 * self.n_components))


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Plan by which a fit keeps within its limit.

    Attributes
    ----------
    source : Source
        In chunks that fit, kept in memory as far as there is room.
    n_jobs : int
        Threads that fit.
    sample_rows : int
        Rows of the reservoir that fit.
    starts : int
        Threads that make first models from it.
    numbers : dict
        The projection, in bytes, for `report_`.
    """

    source: Source
    n_jobs: int
    sample_rows: int
    starts: int
    numbers: dict[str, Any] = field(default_factory=dict)

    def executor(self, executor: Executor) -> Executor:
        """The executor with no more threads than fit."""
        if isinstance(executor, Threads) and executor.n_jobs > self.n_jobs:
            fewer = Threads(self.n_jobs)
            fewer.on_chunk = executor.on_chunk
            return fewer
        return executor


def plan_memory(
    source: Source, shape: Shape, *, limit: str | int | None, n_jobs: int, elsewhere: bool = False, pins: bool = False
) -> MemoryPlan:
    """Fit the work into `limit` bytes in each process.

    Parameters
    ----------
    limit : bytes or text, see `parse_bytes`
        None bounds nothing; decoded chunks are then kept in up to a quarter of the memory that is free.
    n_jobs : int
        Threads wanted.
    elsewhere : bool
        Workers read, whose threads cannot be left out, and which keep nothing.
    pins : bool
        A graphics card is fed from pinned memory: an eighth of the limit, "pinned" among the numbers.

    Raises
    ------
    MemoryLimitError
        Where one thread, one chunk and the statistics do not fit.
    """
    if limit is None and elsewhere:
        return MemoryPlan(source, n_jobs, shape.sample_rows, available_cores())
    if limit is None:
        return MemoryPlan(_kept(source, available_memory() // 4), n_jobs, shape.sample_rows, n_jobs)
    total = parse_bytes(limit)
    pinned = {"pinned": total // 8} if pins else {}
    total -= sum(pinned.values())
    wanted = n_jobs
    return_freed_memory()
    limited, n_jobs, per_thread, fixed = _fit_threads(source, shape, total, n_jobs)
    read = 0 if limited.in_memory else limited.chunk_bytes or 0
    sample_rows, reservoir, kmeans = _fit_sample(limited, shape, total, read)
    n_jobs = min(n_jobs, max(1, (total - reservoir) // max(1, read)))
    needed = max(fixed + n_jobs * per_thread, n_jobs * read + reservoir, kmeans)
    if elsewhere and n_jobs < wanted:
        raise MemoryLimitError(
            f"{source.name}: {wanted} threads in each worker need {bytes_text(fixed + wanted * per_thread)}, "
            f"memory_limit is {bytes_text(total)}. Start workers with at most {n_jobs} thread(s) each "
            f"(`dask worker --nthreads {n_jobs}`), or raise memory_limit."
        )
    kept = limited if elsewhere else _kept(limited, total - needed)
    held = sample_rows * (source.n_features * source.dtype.itemsize + 8) if shape.sample_rows else 0
    needed = max(needed, min(total, fixed + n_jobs * per_thread + held))
    numbers = {
        "limit": total,
        "projected": needed,
        "per_thread": per_thread,
        "statistics": fixed,
        "start": max(reservoir, kmeans),
        "threads": n_jobs,
        "chunk_rows": limited.max_chunk_rows,
        "slabs": limited is not source,
        "sample_rows": sample_rows,
        "kept": min(total - needed, limited.total_bytes or 0) if kept is not limited else 0,
        **pinned,
    }
    starts = max(1, min(n_jobs, needed // max(1, kmeans)))
    return MemoryPlan(kept, n_jobs, sample_rows, starts, numbers)


def _fit_threads(source: Source, shape: Shape, total: int, n_jobs: int) -> tuple[Source, int, int, int]:
    """Source in chunks that fit, threads that fit, bytes for each of them, and bytes that do not depend on them."""

    def one(data: Source) -> int:
        # What is in memory already is only looked at; conversions make a copy of the chunk.
        rows = data.max_chunk_rows or 0
        copy = rows * data.row_bytes if data.in_memory else data.chunk_bytes or 0
        return copy + shape.scratch_bytes

    def rest(data: Source) -> int:
        chunks = data.n_chunks or max(1, -(-(data.n_rows or 0) // max(1, data.max_chunk_rows or 1)))
        return shape.driver_bytes + shape.fold_bytes(chunks)

    if source.chunk_bytes is None:
        # Partitions of unknown length: nothing can be projected, so the least is done at a time.
        return source, 1, shape.scratch_bytes, rest(source)
    limited = source
    if rest(source) + one(source) > total:
        # Slabs as large as half of what is left: a function of data and limit alone, so that bits do not depend on
        # the number of threads.
        room = (total - rest(source)) // 2 - shape.scratch_bytes
        row = max(1, one(source) - shape.scratch_bytes) / max(1, source.max_chunk_rows or 1)
        rows = max(1, int(room / row))
        limited = limit_chunks(source, 1 << (rows.bit_length() - 1))
    per_thread, fixed = one(limited), rest(limited)
    if fixed + per_thread > total:
        raise MemoryLimitError(
            f"{source.name}: memory_limit is {bytes_text(total)}, but at least {bytes_text(fixed + per_thread)} are "
            f"needed: {bytes_text(per_thread - shape.scratch_bytes)} to read a chunk of {limited.max_chunk_rows} rows, "
            f"{bytes_text(shape.scratch_bytes)} to work on it, {bytes_text(fixed)} for models and statistics. "
            "Raise memory_limit, lower n_components or n_init, or write the data in smaller chunks (`streamgmm data "
            "convert`)."
        )
    return limited, max(1, min(n_jobs, (total - fixed) // per_thread)), per_thread, fixed


def _fit_sample(source: Source, shape: Shape, total: int, read: int) -> tuple[int, int, int]:
    """Rows of the reservoir that fit, the bytes of the reservoir, and of k-means on it.

    A function of data and limit alone: room is left for two chunks in work, or one, however many threads there are.
    """
    if shape.sample_rows == 0:
        return 0, 0, 0
    chunk_rows, n_chunks = source.max_chunk_rows or 2**17, source.n_chunks or 1
    itemsize = source.dtype.itemsize
    room = total - (2 * read if 4 * read < total else read)

    def size(rows: int) -> tuple[int, int]:
        return shape.reservoir_bytes(rows, chunk_rows, n_chunks, itemsize), shape.kmeans_bytes(rows, itemsize)

    def fits(rows: int) -> bool:
        reservoir, kmeans = size(rows)
        return reservoir <= room and kmeans <= total

    wanted = shape.sample_rows if source.n_rows is None else min(shape.sample_rows, source.n_rows)
    least = min(wanted, max(_LEAST_SAMPLE, 10 * shape.n_components))
    rows = wanted
    while not fits(rows):
        if rows == least:
            raise MemoryLimitError(
                f"{source.name}: memory_limit is {bytes_text(total)}; a start needs a sample of at least {least} rows, "
                f"which takes {bytes_text(max(size(least)) + read)} with the chunk that is read. Raise memory_limit, "
                "or give weights_init, means_init and precisions_init."
            )
        rows = max(least, rows * 15 // 16)
    return (rows if rows < wanted else shape.sample_rows), *size(rows)


def _kept(source: Source, room: int) -> Source:
    """The source with decoded chunks kept in `room` bytes, where a useful part of them fits."""
    total = source.total_bytes
    return cached(source, int(0.9 * room)) if total is not None and room > total // 16 else source


@cache
def return_freed_memory() -> None:
    """Let the C library give large blocks back when they are freed.

    By default glibc raises the size from which it does so to that of the largest block freed so far, and keeps what is
    smaller in one arena per thread: measured, 50 MB more at the peak of a fit that needs 45.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


def available_memory() -> int:
    """Bytes that this process may still take: of the machine, or of its control group where that is less."""
    free = _first_number(Path("/proc/meminfo"), "MemAvailable:")
    room = [free * 1024] if free is not None else []
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most = _first_number(Path("/sys/fs/cgroup") / limit)
        now = _first_number(Path("/sys/fs/cgroup") / used)
        if most is not None and now is not None:
            room.append(max(0, most - now))
    return min(room, default=0)


def _first_number(path: Path, label: str = "") -> int | None:
    try:
        text = path.read_text()
    except OSError:
        return None
    match = re.search(rf"^{re.escape(label)}\s*(\d+)", text, re.MULTILINE)
    return None if match is None else int(match[1])
