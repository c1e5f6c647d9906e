"""What a user waits for in a fresh process: with nothing compiled, and with everything in the cache on disk.

    python -m benchmarks startup [--runs 5] [--write docs/performance.md]

Each run is a fresh process that imports the package, makes rows and fits them. Cold ones have an empty folder for
Numba's cache, as a fresh installation has; warm ones have the folder that a cold one has filled.
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
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from benchmarks.readme import processor, write_section


class Case(NamedTuple):
    """A job, and what it may take at most from the start of the process."""

    name: str
    rows: str  # an expression that makes X
    job: str
    cold: float | None = None
    warm: float | None = None


DEFAULTS = "sg.GaussianMixture(random_state=0).fit(X)"
CASES = (
    Case("iris, defaults", "load_iris().data", DEFAULTS, 2.0, 1.5),
    Case("1,000 x 4, defaults", "blobs(1_000, 4, 3)", DEFAULTS, 2.0, 1.5),
    Case("5,000 x 8, defaults", "blobs(5_000, 8, 3)", DEFAULTS, 2.0, 1.5),
    Case("iris, K = 3", "load_iris().data", "sg.GaussianMixture(3, random_state=0).fit(X)"),
    Case("iris, `select` K = 1 to 9", "load_iris().data", "sg.select(X, range(1, 10), random_state=0)", 5.0),
    Case("20,000 x 8, K = 16", "blobs(20_000, 8, 16)", "sg.GaussianMixture(16, random_state=0).fit(X)", 8.0),
    Case("200,000 x 8, K = 16", "blobs(200_000, 8, 16)", "sg.GaussianMixture(16, random_state=0).fit(X)"),
)
WORK = """
import json, sys, time
began = float(sys.argv[1])
import numpy as np
import streamgmm as sg
def load_iris():
    from sklearn.datasets import load_iris
    return load_iris()
def blobs(n, D, groups):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, D)) + 4.0 * rng.normal(size=(groups, D))[rng.integers(0, groups, n)]
X = eval(sys.argv[2])
imported = time.time() - began
exec(sys.argv[3])
print(json.dumps([imported, time.time() - began, 'numba' in sys.modules]))
"""


def waited(case: Case, cache: str) -> tuple[float, float, bool]:
    """Seconds from the start of a process to rows in memory and to the end of the job; whether Numba was loaded."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    command = [sys.executable, "-c", WORK, repr(time.time()), case.rows, case.job]
    imported, done, compiled = json.loads(
        subprocess.run(command, env=environment, capture_output=True, check=True).stdout
    )
    return imported, done, compiled


def table(runs: int, cases: tuple[Case, ...] = CASES) -> str:
    lines = [
        f"Seconds from the start of a process to the end of the job on {processor()}, imports included; medians of "
        f"{runs} cold and {runs} warm processes, the most in brackets. Where nothing is compiled, a cold start is a "
        "warm one. pandas, which scikit-learn imports where it is, is "
        f"{'' if find_spec('pandas') else 'not '}installed.",
        "",
        "| job | cold | warm | compiled code |",
        "|" + "---|" * 4,
    ]
    for case in cases:
        seen: dict[str, list[float]] = {"cold": [], "warm": []}
        compiled = False
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as cache:
                for found in seen.values():
                    _, done, compiled = waited(case, cache)
                    found.append(done)
        numbers = [f"{statistics.median(found):.1f} ({max(found):.1f})" for found in seen.values()]
        lines.append(f"| {case.name} | " + " | ".join(numbers) + f" | {'yes' if compiled else 'none'} |")
        limits = [limit for limit in (case.cold, case.warm) if limit is not None]
        print(lines[-1], *(f"at most {limit:g}" for limit in limits), flush=True)
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--write", type=Path, help="write the table into this file")
    options = parser.parse_args(arguments)
    text = table(options.runs)
    print(text)
    if options.write:
        write_section(options.write, "startup", text)
    return 0
