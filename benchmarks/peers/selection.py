"""`select` beside fitting every number of components by itself, on a slow source and in memory.

    python -m benchmarks selection FOLDER [--largest 15] [--copies 1] [--write docs/benchmarks.md]

FOLDER holds the ADBench set ``32_shuttle.npz``; `copies` repeats its rows, to have a file that takes longer to read.
"""

from __future__ import annotations

import argparse
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

import streamgmm as sg
from benchmarks.peers.optima import REG_COVAR, rows_of
from benchmarks.readme import processor, write_section
from streamgmm.sources import Source, array_source
from streamgmm.sources.base import Chunk

RATE = 100e6
"""Bytes a second that the slow source gives."""
N_INIT = 5
CHUNK_ROWS = 8192


class _SlowChunk(Chunk):
    def __init__(self, chunk: Any, source: Slow) -> None:
        self.chunk, self.source = chunk, source
        self.index, self.start = chunk.index, chunk.start

    def load(self) -> Any:
        loaded = self.chunk.load()
        self.source.wait(self.index, loaded[0].nbytes)
        return loaded


class Slow(Source):
    """A source of which all threads together read `rate` bytes a second, and which counts passes in `reads`."""

    in_memory = False
    n_rows: int | None
    n_chunks: int | None

    def __init__(self, source: Source, rate: float = RATE) -> None:
        self.inner, self.rate, self.name = source, rate, "slow"
        self.n_features, self.n_rows, self.n_chunks = source.n_features, source.n_rows, source.n_chunks
        self.dtype, self.has_weights = source.dtype, source.has_weights
        self.reads: Counter[int] = Counter()
        self._free_at = 0.0
        self._lock = threading.Lock()

    def wait(self, index: int, size: int) -> None:
        """Until the disk has delivered `size` bytes after what was asked for before."""
        with self._lock:
            self.reads[index] += 1
            self._free_at = max(self._free_at, time.perf_counter()) + size / self.rate
            until = self._free_at
        time.sleep(max(0.0, until - time.perf_counter()))

    def chunks(self) -> Iterator[Chunk]:
        return (_SlowChunk(chunk, self) for chunk in self.inner.chunks())

    @property
    def max_chunk_rows(self) -> int | None:
        return self.inner.max_chunk_rows

    @property
    def total_bytes(self) -> int | None:
        """Unknown, so that nothing is kept in memory."""
        return None

    def fingerprint(self) -> Any:
        return self.inner.fingerprint()


def together(data: Any, Ks: range, *, drop: bool = True, seed: int = 0) -> dict[str, Any]:
    """One `select`: seconds, passes, the winner, and how candidates ended."""
    began = time.perf_counter()
    found = sg.select(data, Ks, n_init=N_INIT, reg_covar=REG_COVAR, random_state=seed, drop=drop)
    return {
        "seconds": time.perf_counter() - began,
        "passes": found.n_passes,
        "K": found.best.n_components,
        "bic": found.best.report_["bic"],
        "converged": found.best.converged_,
        "status": Counter(row["status"] for row in found.table),
        "warnings": found.report["warnings"],
    }


def one_by_one(data: Any, Ks: range, *, seed: int = 0) -> dict[str, Any]:
    """A fit for every K with the same settings."""
    began = time.perf_counter()
    fits = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for K in Ks:
            n_init = N_INIT if K > 1 else 1
            gm = sg.GaussianMixture(K, n_init=n_init, reg_covar=REG_COVAR, random_state=seed, max_iter=24)
            fits.append(gm.fit(data))
    best = min(fits, key=lambda gm: gm.report_["bic"])
    return {
        "seconds": time.perf_counter() - began,
        "passes": sum(gm.n_passes_ for gm in fits),
        "K": best.n_components,
        "bic": best.report_["bic"],
        "converged": best.converged_,
    }


def measure(X: NDArray[Any], Ks: range) -> dict[str, dict[str, Any]]:
    """All of it; the slow source proves the passes."""
    results: dict[str, dict[str, Any]] = {}
    together(X[:2000], range(1, 4))  # so that no kernel is loaded within a measurement
    for drop in (True, False):
        source = Slow(array_source(X, chunk_rows=CHUNK_ROWS))
        name = "select, slow source" + ("" if drop else ", nothing dropped")
        results[name] = together(source, Ks, drop=drop)
        counted = set(source.reads.values())
        if counted != {results[name]["passes"]} or len(source.reads) != source.n_chunks:
            raise AssertionError(f"chunks were read {counted} times, the report says {results[name]['passes']}")
    results["one by one, slow source"] = one_by_one(Slow(array_source(X, chunk_rows=CHUNK_ROWS)), Ks)
    results["select, in memory"] = together(X, Ks)
    results["one by one, in memory"] = one_by_one(X, Ks)
    return results


def table(results: dict[str, dict[str, Any]], rows: int, largest: int) -> str:
    """Markdown."""
    lines = [
        f"Shuttle, {rows:,} rows, K = 1 to {largest}, n_init = {N_INIT}, reg_covar = {REG_COVAR}; the slow source "
        f"gives {RATE / 1e6:.0f} MB/s, and counts its passes. On {processor()}.",
        "",
        "| | seconds | passes | best K by BIC | BIC | converged | candidates |",
        "|" + "---|" * 7,
    ]
    for name, r in results.items():
        status = ", ".join(f"{n} {word}" for word, n in sorted(r.get("status", {}).items()))
        ended = "yes" if r["converged"] else "no"
        lines.append(
            f"| {name} | {r['seconds']:.1f} | {r['passes']} | {r['K']} | {r['bic']:.0f} | {ended} | {status} |"
        )
    for word in results["select, slow source"]["warnings"]:
        lines += ["", word]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the ADBench sets are")
    parser.add_argument("--largest", type=int, default=15)
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--write", type=Path, help="write the table into this file")
    options = parser.parse_args(arguments)
    X = np.tile(rows_of("shuttle", options.folder), (options.copies, 1))
    text = table(measure(X, range(1, options.largest + 1)), len(X), options.largest)
    print(text)
    if options.write:
        write_section(options.write, "select", text)
    return 0
