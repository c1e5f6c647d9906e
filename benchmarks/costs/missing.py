"""Cost of missing entries: one EM pass over rows with gaps beside one over complete rows, alternately, medians.

``python -m benchmarks missing``
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import streamgmm as sg
from benchmarks.readme import processor
from streamgmm.em.loop import e_step, merge_all
from streamgmm.runtime.executors import Threads
from streamgmm.sources import array_source

CASES = ((1_000_000, 8, 16), (300_000, 32, 32))
FAMILIES = ("full", "tied", "diag", "spherical")
PATTERNS = 20
SHARE = 0.3


def rows_and_model(n: int, D: int, K: int, name: str) -> tuple[NDArray[np.float64], Any]:
    """Rows of a random mixture, shuffled, and parameters near to those they came from."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(K, D, D))
    dense = root @ root.swapaxes(1, 2) / D + 0.1 * np.eye(D)
    covariances = {
        "full": dense,
        "tied": dense[0],
        "diag": np.diagonal(dense, axis1=1, axis2=2).copy(),
        "spherical": dense[:, 0, 0].copy(),
    }[name]
    model = sg.Mixture(
        np.full(K, 1 / K), 3 * rng.normal(size=(K, D)), covariances, covariance_type=name, missing="marginalize"
    )
    return model.sample(n, rng)[0][rng.permutation(n)], model


def reading(model: Any, rows: NDArray[np.float64]) -> float:
    """Seconds of one E-step over all rows and the M-step after it; nothing is kept from earlier passes."""
    fresh = sg.Mixture(model.weights, model.means, model.covariances, model.family, missing="marginalize")
    start = time.perf_counter()
    (stats,) = Threads().run(partial(e_step, (fresh,)), array_source(rows).chunks(), merge_all)
    fresh.restore(stats).maximize()
    return time.perf_counter() - start


def compare(n: int, D: int, K: int, name: str, repeats: int = 5) -> tuple[float, float]:
    """Median seconds of a pass of complete rows, and of rows with 20 patterns of missing entries."""
    rows, model = rows_and_model(n, D, K, name)
    rng = np.random.default_rng(1)
    kinds = rng.random((PATTERNS, D)) < SHARE
    kinds[:, 0] &= ~kinds.all(axis=1)
    holed = np.where(kinds[rng.integers(0, PATTERNS, n)], np.nan, rows)
    times: dict[str, list[float]] = {"complete": [], "holed": []}
    for _ in range(repeats + 1):  # the first of each compiles
        times["complete"].append(reading(model, rows))
        times["holed"].append(reading(model, holed))
    return float(np.median(times["complete"][1:])), float(np.median(times["holed"][1:]))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--divide", type=int, default=1, help="use this many times fewer rows")
    divide = parser.parse_args(argv).divide
    print(f"{processor()}; {PATTERNS} patterns, {SHARE:.0%} of the entries missing; ns per row and pass")
    print("| rows, features, K | family | complete | with gaps | ratio |\n|---|---|---|---|---|")
    for n, D, K in CASES:
        n //= divide
        for name in FAMILIES:
            whole, gaps = compare(n, D, K, name)
            cells = f"{n:,} x {D}, {K}", name, f"{whole / n * 1e9:.0f}", f"{gaps / n * 1e9:.0f}", f"{gaps / whole:.1f}"
            print(f"| {' | '.join(cells)} |", flush=True)
