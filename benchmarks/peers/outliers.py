"""Ranking outliers: a mixture against an isolation forest and the local outlier factor, on the ADBench sets.

``python -m benchmarks outliers FOLDER --write docs/benchmarks.md``; FOLDER holds ``16_http.npz`` and so on, with X
and y. ``--settings docs/choosing-k.md`` compares settings of the detector with each other instead.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor

import streamgmm as sg
from benchmarks.readme import processor, write_section
from streamgmm.estimators.outlier_detector import lightest, without

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


def some(X: Array, y: NDArray[np.int64], most: int, seed: int = 0) -> tuple[Array, NDArray[np.int64]]:
    """At most so many rows, features z-scored, and their labels."""
    X = sg.Scaler().fit_transform(np.asarray(X, np.float64))
    part = np.sort(np.random.default_rng(seed).permutation(len(X))[:most])
    return X[part], y[part]


def row(name: str, X: Array, y: NDArray[np.int64], components: range = COMPONENTS, most: int = MOST_ROWS) -> list[str]:
    """One line of the table."""
    rows, labels = some(X, y, most)
    result = compare(rows, labels, components)
    cells = [name.partition("_")[2], f"{len(rows):,} of {len(X):,} x {X.shape[1]}", f"{labels.mean():.2%}"]
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


SETTINGS = {
    "defaults": {},
    "n_init=1": {"n_init": 1},
    "reg_covar=1e-3": {"reg_covar": 1e-3},
    "reg_covar=1e-2": {"reg_covar": 1e-2},
}
"""What else the detector's mixtures may be fitted with."""
SEEDS = (0, 1, 2)


def ways(X: Array, y: NDArray[np.int64], seed: int, components: range = COMPONENTS) -> dict[str, float]:
    """AUC on the same rows for each setting, way to choose K, and light components left out or kept."""
    found: dict[str, float] = {}
    for name, changed in SETTINGS.items():
        options: dict[str, Any] = {"n_init": 4, "max_iter": 100, "solver": "squarem", **changed}
        chosen = sg.select(X, components, random_state=seed, **options)
        models = {row["n_components"]: model for row, model in zip(chosen.table, chosen.models, strict=True)}
        numbers = {"K by BIC": chosen.minimum["full"]}
        if not changed:
            icl = min(chosen.table, key=lambda row: float(row["icl"]))["n_components"]
            numbers |= {"K by ICL": icl, "K by elbow": chosen.elbow["full"], "K = 1": 1, "K = 3": 3, "K = 5": 5}
        for way, K in numbers.items():
            model = models[K]
            light = lightest(model, sg.OutlierDetector().contamination)
            left = without(model, light) if len(light) else model
            found[f"{way}, {name}"] = float(roc_auc_score(y, -left.log_prob(X)))
            if not changed and way in ("K by BIC", "K by elbow"):
                found[f'{way}, light_components="keep"'] = float(roc_auc_score(y, -model.log_prob(X)))
    return found


def ways_table(results: dict[str, list[dict[str, float]]]) -> str:
    """Mean rank and AUC of each way over all sets and seeds, the best rank first."""
    ways = list(next(iter(results.values()))[0])
    values = np.array([[one[way] for runs in results.values() for one in runs] for way in ways]).round(3)
    ranks = rankdata(-values, axis=0).mean(axis=1)
    names = [name.partition("_")[2] for name in results]
    lines = [
        f"ROC AUC, mean of {len(SEEDS)} seeds with rows of their own (at most 30,000), features z-scored.",
        "",
        f"| setting | mean rank | mean AUC | {' | '.join(names)} |",
        "|---|---:|---:|" + "---:|" * len(names),
    ]
    for i in np.argsort(ranks, kind="stable"):
        each = values[i].reshape(len(names), -1).mean(axis=1)
        cells = " | ".join(f"{auc:.3f}" for auc in (values[i].mean(), *each))
        lines.append(f"| {ways[i]} | {ranks[i]:.1f} | {cells} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the sets are")
    parser.add_argument("--write", type=Path, help="write the table into this file")
    parser.add_argument("--settings", type=Path, help="compare settings instead, and write that table into this file")
    options = parser.parse_args(arguments)
    rows, results = [], {}
    for name in SETS:
        with np.load(options.folder / f"{name}.npz") as file:
            X, y = file["X"], file["y"]
        if options.settings:
            results[name] = [ways(*some(X, y, 30_000, seed), seed) for seed in SEEDS]
            print(name, results[name], flush=True)
        else:
            rows.append(row(name, X, y))
            print(" | ".join(rows[-1]), flush=True)
    if options.settings:
        write_section(options.settings, "outlier-settings", ways_table(results))
    elif options.write:
        write_section(options.write, "outliers", table(rows))
    return 0
