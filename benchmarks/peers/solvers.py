"""What does `auto` cost beside "squarem" and "exact" that come to the same value? On small and large mixtures.

``python -m benchmarks solvers --records solvers.jsonl --write docs/choosing-k.md``; measurements are added to the
records one by one, so a long run can be cut and gone on with (``--most 20`` adds no more than twenty).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

import streamgmm as sg
from benchmarks.peers.starts import mixture
from benchmarks.readme import processor, write_section
from benchmarks.records import keep, kept

Array = NDArray[np.float64]
SAME = 1e-5
"""Nats per row within which two solvers have come to the same."""
SMALL = 50
"""Random mixtures of those of `starts`."""
SOLVERS = ("auto", "squarem", "exact")
LONG = 10.0
"""Seconds of one fit by each solver, together, above which they are not repeated."""
MOST_PASSES = {"auto": 3000, "squarem": 3000, "exact": 500}


@dataclass(frozen=True)
class Large:
    """A mixture of many rows; `apart` is the deviation of the means, whose components have deviations of about 1."""

    rows: int
    features: int
    components: int
    apart: float
    seeds: tuple[int, ...] = (0, 1, 2)


LARGE = (
    Large(100_000, 8, 16, 0.3),
    Large(100_000, 8, 16, 1.0),
    Large(100_000, 8, 16, 3.0),
    Large(100_000, 16, 20, 1.0),
    Large(200_000, 4, 10, 1.0),
    Large(300_000, 2, 8, 1.0),
    Large(500_000, 8, 16, 1.0),
    Large(1_000_000, 2, 8, 2.0),
    Large(1_000_000, 3, 5, 2.0),
)


def rows_of(case: Large) -> Array:
    """Rows (N, D) of a mixture in no order, the same in every run."""
    rng = np.random.default_rng(0)
    K, D = case.components, case.features
    means = rng.normal(size=(K, D)) * case.apart
    shapes = 0.7 * (rng.normal(size=(K, D, D)) / np.sqrt(D) + np.eye(D))
    label = rng.choice(K, case.rows, p=rng.dirichlet(np.full(K, 5.0)))
    X = rng.normal(size=(case.rows, D))
    for k in range(K):
        X[label == k] = X[label == k] @ shapes[k].T + means[k]
    return X


def measured(X: Array, K: int, seed: int) -> dict[str, Any]:
    """Every solver's least processor and wall time of three alternating fits, its value and passes; see `LONG`."""
    found: dict[str, Any] = {}
    for _ in range(3):
        if sum(one["wall"] for one in found.values()) > LONG:
            break
        for solver in SOLVERS:
            wall, busy = time.perf_counter(), time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model = sg.GaussianMixture(K, random_state=seed, max_iter=MOST_PASSES[solver], solver=solver).fit(X)
            busy, wall = time.process_time() - busy, time.perf_counter() - wall
            one = {"seconds": busy, "wall": wall, "value": model.lower_bound_, "passes": model.n_passes_}
            before = found.get(solver, one)
            found[solver] = {**one, "seconds": min(busy, before["seconds"]), "wall": min(wall, before["wall"])}
    return found


def ratios(records: list[dict[str, Any]], clock: str) -> tuple[list[float], int, int]:
    """Time of `auto` by that of the faster of the others that come to its value; how often none does; how often one
    comes to a better value."""
    found, better, worse = [], 0, 0
    for r in records:
        others = [r[solver] for solver in SOLVERS[1:]]
        same = [one[clock] for one in others if one["value"] >= r["auto"]["value"] - SAME]
        better += not same
        worse += any(one["value"] > r["auto"]["value"] + 10 * SAME for one in others)
        found += [r["auto"][clock] / min(same)] if same else []
    return found, better, worse


def median_and_most(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({max(values):.1f})" if values else "-"


def line(name: str, records: list[dict[str, Any]]) -> str:
    busy, better, worse = ratios(records, "seconds")
    wall, _, _ = ratios(records, "wall")
    passes = " / ".join(f"{statistics.median(r[solver]['passes'] for r in records):.0f}" for solver in SOLVERS)
    seconds = " / ".join(f"{statistics.median(r[solver]['seconds'] for r in records):.2f}" for solver in SOLVERS)
    times = f"{median_and_most(busy)} | {median_and_most(wall)}"
    return f"| {name} | {len(records)} | {seconds} | {passes} | {times} | {better} | {worse} |"


def table(records: list[dict[str, Any]]) -> str:
    lines = [
        '`solver="auto"` beside "squarem" and "exact" with one start each; times of `auto` are divided by those of the '
        f"faster of the others that comes to the same value (within {SAME} nats a row): median (largest). `auto` looks "
        "for a good start on a sample, the others begin with k-means. The least of three alternating fits, of one "
        f"where they take more than {LONG:.0f} s together. "
        f"On {processor()}, two threads.",
        "",
        "| mixture | fits | processor seconds: auto / squarem / exact | passes | processor time | wall time | "
        "better than both | worse than one |",
        "|---|---:|---|---|---:|---:|---:|---:|",
    ]
    small = [r for r in records if r["case"] == "small"]
    if small:
        lines.append(line("300 to 2,000 x 1 to 8, K = 2 to 8", small))
    for case in LARGE:
        mine = [r for r in records if r["case"] == list(astuple(case)[:4])]
        if mine:
            name = f"{case.rows:,} x {case.features}, K = {case.components}, means {case.apart:g} apart"
            lines.append(line(name, mine))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=Path, required=True, help="JSON lines, one a mixture, added to")
    parser.add_argument("--most", type=int, help="mixtures to add at most")
    parser.add_argument("--write", type=Path, help="write the table of all records into this file")
    options = parser.parse_args(arguments)
    records = kept(options.records)
    done = {json.dumps([r["case"], r["seed"]]) for r in records}
    planned: list[tuple[Any, int]] = [("small", seed) for seed in range(SMALL)]
    planned += [(case, seed) for case in LARGE for seed in case.seeds]
    left = options.most
    warm: set[Any] = set()
    for case, seed in planned:
        name = case if case == "small" else list(astuple(case)[:4])
        if json.dumps([name, seed]) in done or left == 0:
            continue
        X, K = mixture(seed) if case == "small" else (rows_of(case), case.components)
        if case not in warm:  # what is loaded and compiled once
            measured(X[: len(X) // 2 if case == "small" else len(X)], K, 0)
            warm.add(case)
        records.append({"case": name, "seed": seed, **measured(X, K, seed)})
        left = None if left is None else left - 1
        keep(options.records, records[-1])
    print(table(records))
    if options.write:
        write_section(options.write, "solvers", table(records))
    return 0
