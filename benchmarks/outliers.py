"""Ranking outliers: a mixture against an isolation forest and the local outlier factor, on the ADBench sets.

``python -m benchmarks.outliers FOLDER --readme README.md``; FOLDER holds ``16_http.npz`` and so on, with X and y.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor

import streamgmm as sg
from benchmarks.readme import processor, write_section

SETS = ("16_http", "32_shuttle", "34_smtp", "23_mammography", "22_magic.gamma")
MOST_ROWS = 50_000
COMPONENTS = range(1, 16)

Array = NDArray[np.float64]


def detector(components: range) -> sg.OutlierDetector:
    """The program under test, with everything but K at its defaults."""
    return sg.OutlierDetector(components, random_state=0)


def abnormality(method: Callable[[Array], Array], X: Array, y: NDArray[np.int64]) -> tuple[float, float]:
    """ROC AUC of the abnormality that `method` gives to the rows of X, and the seconds it took."""
    start = time.perf_counter()
    scores = method(X)
    seconds = time.perf_counter() - start
    return float(roc_auc_score(y, scores)), seconds


def compare(X: Array, y: NDArray[np.int64], components: range = COMPONENTS) -> dict[str, Any]:
    """AUC and seconds of each method on the same rows."""
    chosen: dict[str, Any] = {}

    def ours(rows: Array) -> Array:
        fitted = detector(components).fit(rows)
        chosen["K"] = fitted.n_components_
        return -np.asarray(fitted.score_samples(rows))

    def forest(rows: Array) -> Array:
        return -np.asarray(IsolationForest(random_state=0, n_jobs=-1).fit(rows).score_samples(rows))

    def lof(rows: Array) -> Array:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # more equal rows than neighbours
            return -np.asarray(LocalOutlierFactor(n_jobs=-1).fit(rows).negative_outlier_factor_)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result: dict[str, Any] = {"ours": abnormality(ours, X, y), **chosen}
    return result | {"forest": abnormality(forest, X, y), "lof": abnormality(lof, X, y)}


def row(name: str, X: Array, y: NDArray[np.int64], components: range = COMPONENTS, most: int = MOST_ROWS) -> list[str]:
    """One line of the table."""
    X = sg.Scaler().fit_transform(np.asarray(X, np.float64))
    part = np.sort(np.random.default_rng(0).permutation(len(X))[:most])
    result = compare(X[part], y[part], components)
    cells = [name.partition("_")[2], f"{len(part):,} of {len(X):,} x {X.shape[1]}", f"{y[part].mean():.2%}"]
    cells.append(str(result["K"]))
    cells += [f"{auc:.3f} ({seconds:.1f} s)" for auc, seconds in (result[key] for key in ("ours", "forest", "lof"))]
    return cells


def table(rows: list[list[str]]) -> str:
    """The results as a Markdown table."""
    head = [
        "set",
        "rows x features",
        "anomalies",
        "K by BIC",
        "OutlierDetector",
        "IsolationForest",
        "LocalOutlierFactor",
    ]
    lines = [
        "ROC AUC of the anomaly scores (and seconds to fit and score; for the OutlierDetector, choosing K among "
        f"{len(COMPONENTS)}), features z-scored, all settings at their defaults, on {processor()}.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the sets are")
    parser.add_argument("--readme", type=Path, help="write the table into this file")
    options = parser.parse_args(arguments)
    rows = []
    for name in SETS:
        with np.load(options.folder / f"{name}.npz") as file:
            rows.append(row(name, file["X"], file["y"]))
        print(" | ".join(rows[-1]), flush=True)
    if options.readme:
        write_section(options.readme, "outliers", table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
