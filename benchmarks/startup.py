"""What a user waits for before the first iteration: with nothing compiled, and with everything in the cache on disk.

    python -m benchmarks.startup [--runs 5] [--readme docs/performance.md]

Each run is a fresh process that imports the package, makes rows and fits them with default settings. Cold ones have an
empty folder for Numba's cache, warm ones the folder that a cold one has filled.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.readme import processor, write_section

SHAPES = ((2, 8), (8, 16), (16, 16))
"""Features and components."""
ROWS = 20_000
WORK = """
import json, sys, time
began = float(sys.argv[1])
D, K, rows = map(int, sys.argv[2:])
import numpy as np
import streamgmm as sg
X = np.random.default_rng(0).normal(size=(rows, D))
imported = time.time() - began
first = None
for _ in sg.GaussianMixture(K, random_state=0, max_iter=5).fit_steps(X):
    first = first or time.time() - began
print(json.dumps([imported, first, time.time() - began]))
"""


def waited(D: int, K: int, cache: str, *, rows: int = ROWS) -> list[float]:
    """Seconds from the start of a process to rows in memory, the end of the first reading, and of the fit."""
    root = Path(__file__).parents[1]
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", WORK, repr(time.time()), str(D), str(K), str(rows)]
    found: list[float] = json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    return found


def table(runs: int, *, shapes: tuple[tuple[int, int], ...] = SHAPES, rows: int = ROWS) -> str:
    lines = [
        f"Seconds from the start of a process on {processor()}: {rows:,} rows, all defaults but max_iter=5; medians of "
        f"{runs} cold and {runs} warm processes.",
        "",
        "| features, components | imports | first reading, warm | first fit, warm | first fit, cold | compiling |",
        "|" + "---|" * 6,
    ]
    for D, K in shapes:
        seen: dict[str, list[list[float]]] = {"cold": [], "warm": []}
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as cache:
                for found in seen.values():
                    found.append(waited(D, K, cache, rows=rows))
        cold, warm = ([statistics.median(column) for column in zip(*found, strict=True)] for found in seen.values())
        numbers = [*warm, cold[2], cold[2] - warm[2]]
        lines.append(f"| {D}, {K} | " + " | ".join(f"{number:.1f}" for number in numbers) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--readme", type=Path, help="write the table into this file")
    options = parser.parse_args(arguments)
    text = table(options.runs)
    print(text)
    if options.readme:
        write_section(options.readme, "startup", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
