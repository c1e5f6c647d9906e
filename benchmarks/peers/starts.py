"""One start and ten, beside scikit-learn's ten, on random small mixtures.

``python -m benchmarks starts --records starts.jsonl --write docs/choosing-k.md``; measurements are added to the records
one by one, so a long run can be cut and gone on with (``--most 20`` adds no more than twenty).
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Peer

import streamgmm as sg
from benchmarks.readme import processor, write_section
from benchmarks.records import keep, kept

Array = NDArray[np.float64]
MIXTURES = 100


def mixture(seed: int) -> tuple[Array, int]:
    """Rows of a random mixture and its number of components: 2 to 8 of them, 1 to 8 features, near or far apart."""
    rng = np.random.default_rng(seed)
    K, D, n = int(rng.integers(2, 9)), int(rng.integers(1, 9)), int(10 ** rng.uniform(2.5, 3.3))
    means = rng.normal(size=(K, D)) * rng.uniform(0.5, 5.0)
    shapes = rng.normal(size=(K, D, D)) / np.sqrt(D) + np.eye(D)
    label = rng.choice(K, n, p=rng.dirichlet(np.full(K, 3.0)))
    return np.einsum("nij,nj->ni", shapes[label], rng.normal(size=(n, D))) + means[label], K


def fitted(make: Callable[[], Any], X: Array) -> dict[str, float]:
    """Mean log-likelihood per row, and processor time."""
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = make().fit(X)
    return {"seconds": time.process_time() - began, "value": float(model.score(X))}


def measured(seed: int) -> dict[str, Any]:
    """What every way of fitting makes of one mixture."""
    X, K = mixture(seed)
    common = {"n_components": K, "random_state": seed, "max_iter": 1000}
    ways: dict[str, Callable[[], Any]] = {
        "auto": lambda: sg.GaussianMixture(**common),
        "ten": lambda: sg.GaussianMixture(**common, n_init=10),
        "theirs": lambda: Peer(**common, tol=1e-6, n_init=10),
    }
    return {"seed": seed, **{name: fitted(make, X) for name, make in ways.items()}}


def table(records: list[dict[str, Any]]) -> str:
    """Differences to scikit-learn's ten starts, and seconds."""
    lines = [
        f"{len(records)} random mixtures of 2 to 8 components, 300 to 2,000 rows of 1 to 8 features; scikit-learn with "
        f"tol = 1e-6. Differences in nats per row. On {processor()}.",
        "",
        "| starts | median difference to scikit-learn, n_init = 10 | worst | best | seconds | its seconds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, way in (("n_init = 1", "auto"), ("n_init = 10", "ten")):
        ahead = [r[way]["value"] - r["theirs"]["value"] for r in records]
        seconds, peer = (sum(r[who]["seconds"] for r in records) for who in (way, "theirs"))
        lines.append(
            f"| {name} | {statistics.median(ahead):+.1e} | {min(ahead):+.4f} | {max(ahead):+.4f} | {seconds:.1f} | "
            f"{peer:.1f} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=Path, required=True, help="JSON lines, one a mixture, added to")
    parser.add_argument("--most", type=int, default=MIXTURES, help="mixtures to add at most")
    parser.add_argument("--write", type=Path, help="write the table of all records into this file")
    options = parser.parse_args(arguments)
    records = kept(options.records)
    left = [seed for seed in range(MIXTURES) if seed not in {r["seed"] for r in records}]
    if left and options.most:
        measured(left[0])  # what is loaded and compiled once
    for seed in left[: options.most]:
        records.append(measured(seed))
        keep(options.records, records[-1])
    print(table(records))
    if options.write:
        write_section(options.write, "starts", table(records))
    return 0
