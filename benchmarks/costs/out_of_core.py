"""A fit to a compressed store many times the memory limit: resident growth, and how busy the cores are.

    python -m benchmarks out_of_core [--gigabytes 6] [--limit 512MB] [--dir DIR] [--bayesian]

Makes the store, fits in a fresh process, prints the figures, and deletes the store.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.readme import processor, write_section
from streamgmm.runtime.thread_limits import available_cores

FEATURES = 8
CHUNK_ROWS = 131_072


def write_store(path: Path, gigabytes: float) -> int:
    """A float64 Zarr store of rows around 16 centres, to two digits, so that it can be compressed; its rows."""
    import zarr
    from zarr.codecs import ZstdCodec

    rows = int(gigabytes * 1e9 / (8 * FEATURES))
    array = zarr.create_array(
        str(path), shape=(rows, FEATURES), chunks=(CHUNK_ROWS, FEATURES), dtype="f8",
        compressors=[ZstdCodec(level=1, checksum=True)],
    )  # fmt: skip
    centres = np.random.default_rng(0).normal(scale=4.0, size=(16, FEATURES))

    def write(first: int) -> None:
        rng = np.random.default_rng([1, first])
        n = min(CHUNK_ROWS, rows - first)
        part = rng.standard_normal((n, FEATURES), np.float32) + centres[rng.integers(0, 16, n)]
        array[first : first + n] = np.round(part, 2)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(0, rows, CHUNK_ROWS)))
    return rows


def fit(path: str, limit: str, passes: int, bayesian: bool = False) -> dict[str, object]:
    """Figures of one fit, from inside its process: of 16 components, or of a Bayesian mixture of at most 32."""
    import warnings

    import streamgmm as sg
    from streamgmm.kernels import dispatch

    warnings.simplefilter("ignore")
    dispatch.warmup((np.dtype(float),))  # compiling, where that has not been done on this machine, takes one core
    busy: list[Mark] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.25):
            busy.append(Mark(time.perf_counter(), time.process_time(), all_processes()))

    settings = {"memory_limit": limit, "random_state": 0, "max_iter": passes, "tol": 0}
    model = (
        sg.BayesianGaussianMixture(32, **settings) if bayesian else sg.GaussianMixture(16, solver="exact", **settings)
    )
    began = time.perf_counter()
    watcher = threading.Thread(target=watch)
    watcher.start()
    marks = [began]
    for _ in model.fit_steps(path):
        marks.append(time.perf_counter())
    stop.set()
    watcher.join()
    # The first pass of EM begins about here; before it are the start's pass and k-means on its sample.
    reading = marks[1] - (marks[2] - marks[1] if len(marks) > 2 else 0.0)
    memory = model.report_["memory"]
    return {
        "seconds": time.perf_counter() - began,
        "seconds_per_pass": float(np.median(np.diff(marks)[1:])) if len(marks) > 2 else None,
        "busy": busy_share(busy, began + 1.0),
        "busy_reading": busy_share(busy, reading),
        "memory": memory,
        "over_limit": memory["growth"] - memory["limit"],
        "lower_bound": model.lower_bound_,
        "components_in_use": model.n_components_in_use_ if bayesian else 16,
    }


class Mark(NamedTuple):
    """A moment: seconds by the clock, processor seconds of this process so far, and of all processes where known."""

    clock: float
    own: float
    everybody: float | None


def all_processes() -> float | None:
    """Processor seconds of the machine that were not idle, this process's included; None where there is no /proc."""
    try:
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return None
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def busy_share(marks: list[Mark], since: float) -> tuple[float, float | None] | None:
    """Shares of all cores that this process and the others used since then."""
    later = [mark for mark in marks if mark.clock >= since]
    if len(later) < 2:
        return None
    first, last = later[0], later[-1]
    span = (last.clock - first.clock) * available_cores()
    own = (last.own - first.own) / span
    if first.everybody is None or last.everybody is None:
        return own, None
    return own, max(0.0, (last.everybody - first.everybody) / span - own)


def percent(shares: tuple[float, float | None] | None) -> str:
    if shares is None:
        return "?"
    own, others = shares
    return f"{100 * own:.0f} % busy" + ("" if others is None else f" (other processes {100 * others:.0f} %)")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=6.0)
    parser.add_argument("--limit", default="512MB")
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--dir", default=None)
    parser.add_argument("--bayesian", action="store_true", help="a Bayesian mixture, with moves")
    parser.add_argument("--write", type=Path, help="write the figures into this file")
    parser.add_argument("--fit", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.fit:
        print(json.dumps(fit(given.fit, given.limit, given.passes, given.bayesian)))
        return
    folder = Path(tempfile.mkdtemp(prefix="streamgmm-", dir=given.dir))
    try:
        began = time.perf_counter()
        rows = write_store(folder / "rows.zarr", given.gigabytes)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        lines = [
            f"{processor()}; {rows:,} x {FEATURES} float64, {size / 1e9:.2f} GB stored, written in "
            f"{time.perf_counter() - began:.0f} s"
        ]
        command = [sys.executable, "-m", "benchmarks", "out_of_core", "--fit", str(folder / "rows.zarr")]
        command += ["--limit", given.limit, "--passes", str(given.passes), *(["--bayesian"] if given.bayesian else [])]
        figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    finally:
        shutil.rmtree(folder)
    memory = figures["memory"]
    each = figures["seconds_per_pass"]
    if given.bayesian:
        lines.append(f"{figures['components_in_use']} of 32 components in use")
    lines += [
        f"limit {memory['limit'] / 1e6:.0f} MB, projected {memory['projected'] / 1e6:.0f} MB, kept decoded "
        f"{memory['kept'] / 1e6:.0f} MB, threads {memory['threads']}",
        f"resident {memory['before'] / 1e6:.0f} MB before the first row, {memory['peak'] / 1e6:.0f} MB at the peak: "
        f"grown by {memory['growth'] / 1e6:.0f} MB",
        f"{figures['seconds']:.1f} s in all, {each:.1f} s a pass, {rows / each / 1e6:.1f} million rows/s",
        f"cores {percent(figures['busy'])} after the first second, {percent(figures['busy_reading'])} once EM reads",
    ]
    text = "\n".join(lines)
    print(text)
    if given.write:
        write_section(given.write, "out-of-core", f"```text\n{text}\n```")
