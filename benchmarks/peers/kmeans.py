"""k-means beside scikit-learn's, from the same centres: ``python -m benchmarks kmeans --write docs/benchmarks.md``."""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.cluster
from sklearn.exceptions import ConvergenceWarning

import streamgmm as sg
from benchmarks.readme import processor, write_section

CASES = ((1_000_000, 8, 16), (1_000_000, 2, 8), (300_000, 32, 64))
STEPS = 20


def data(n: int, D: int, K: int) -> np.ndarray:
    """Rows around K centres."""
    rng = np.random.default_rng(0)
    centres = 3.0 * rng.normal(size=(K, D))
    return centres[rng.integers(K, size=n)] + rng.normal(size=(n, D))


def measure(n: int, D: int, K: int, runs: int, steps: int = STEPS) -> dict[str, Any]:
    """Median seconds of fits of `steps` steps, alternating, and how far the inertias lie apart."""
    X = data(n, D, K)
    same: dict[str, Any] = {"init": X[:K], "max_iter": steps, "tol": 0}
    fits = {
        "streamgmm": lambda: sg.KMeans(K, **same).fit(X),
        "scikit-learn": lambda: sklearn.cluster.KMeans(K, n_init=1, algorithm="lloyd", **same).fit(X),
    }
    seconds: dict[str, list[float]] = {name: [] for name in fits}
    inertia = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for turn in range(runs + 1):
            for name, fit in fits.items():
                begin = time.perf_counter()
                inertia[name] = fit().inertia_
                if turn:  # the first compiles
                    seconds[name].append(time.perf_counter() - begin)
    gap = abs(inertia["streamgmm"] / inertia["scikit-learn"] - 1.0)
    return {name: statistics.median(found) for name, found in seconds.items()} | {"gap": gap}


def table(results: dict[tuple[int, int, int], dict[str, Any]], steps: int = STEPS) -> str:
    """The results as a Markdown table."""
    lines = [
        f"Seconds of a k-means fit of {steps} steps from the same centres, everything included (median of alternating "
        f"runs), on {processor()}.",
        "",
        "| rows x features, clusters | streamgmm | scikit-learn | times | inertias apart by |",
        "|---|---|---|---|---|",
    ]
    for (n, D, K), found in results.items():
        ours, theirs = found["streamgmm"], found["scikit-learn"]
        lines.append(f"| {n:,} x {D}, {K} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.1f} | {found['gap']:.0e} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 1 where the inertias do not agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--write", type=Path, help="write the table into this file")
    options = parser.parse_args(arguments)
    results = {}
    for case in CASES:
        results[case] = found = measure(*case, options.runs)
        print(case, found, flush=True)
    if options.write:
        write_section(options.write, "kmeans", table(results))
    return 1 if any(found["gap"] > 1e-11 for found in results.values()) else 0
