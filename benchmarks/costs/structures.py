"""What a pass costs under each covariance structure: ``python -m benchmarks structures``.

For each of mclust's fourteen structures the processor time of an E-step, in ns per row, and of an M-step, in ms: the
least of alternating runs on one thread. An E-step is compared with that of the type whose kernel it uses (full, diag or
spherical), and the M-step with a whole pass over 1,000,000 rows.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import streamgmm as sg
from benchmarks.readme import processor, write_section
from streamgmm.kernels.dispatch import in_all
from streamgmm.mixture.covariance import MCLUST, Covariance
from streamgmm.mixture.m_step import m_step
from streamgmm.runtime.thread_limits import single_threaded_blas

Array = NDArray[np.float64]
PASS = 1_000_000
"""Rows of the pass that an M-step is compared with."""
STEPS = 4
"""EM steps from the first model, so that M-steps start from a model on its way."""


@dataclass(frozen=True)
class Cost:
    """Seconds of processor time of an E-step per row, and of an M-step."""

    row: float
    m_step: float

    @property
    def share(self) -> float:
        """The M-step's share of a pass."""
        return self.m_step / (PASS * self.row + self.m_step)


def start(kind: Covariance, X: Array, K: int) -> sg.Mixture:
    """A first model: the covariance of all rows around rows drawn at random, each stretched a little."""
    D, rng = X.shape[1], np.random.default_rng(1)
    overall = np.cov(X, rowvar=False)
    root = np.linalg.cholesky(overall)
    turned = root @ (np.eye(D) + 0.3 * rng.normal(size=(K, D, D)))
    dense = 0.2 * turned @ turned.swapaxes(1, 2)
    stored = {
        (K, D, D): dense,
        (D, D): dense.mean(axis=0),
        (K, D): np.einsum("kdd->kd", dense),
        (K,): np.einsum("kdd->k", dense) / D,
    }[kind.shape(K, D)]
    weights = np.full(K, 1.0 / K)
    means = X[rng.choice(len(X), K, replace=False)]
    return sg.Mixture(weights, means, kind.constrained(stored, weights, D), kind)


def rows(n: int, D: int, K: int) -> Array:
    """Rows of overlapping groups of different shape."""
    rng = np.random.default_rng(0)
    means, label = 2.0 * rng.normal(size=(K, D)), rng.integers(K, size=n)
    shapes = rng.normal(size=(K, D, D)) / np.sqrt(D)
    X = means[label]
    for k in range(K):
        mine = label == k
        X[mine] += rng.normal(size=(int(mine.sum()), D)) @ shapes[k]
    return X


def measure(n: int = 200_000, D: int = 8, K: int = 16, runs: int = 6) -> dict[str, Cost]:
    """Costs by structure, on n rows."""
    X = rows(n, D, K)
    models, stats = {}, {}
    least: dict[str, list[float]] = {name: [np.inf, np.inf] for name in MCLUST}
    with single_threaded_blas():
        for name, kind in MCLUST.items():
            models[name] = start(kind, X[:20_000], K)
            for _ in range(STEPS):
                stats[name] = models[name].accumulate(X[:20_000])
                models[name] = m_step(stats[name], previous=models[name])
        for _ in range(runs):
            for name, model in models.items():
                began = time.process_time()
                total = in_all(PASS, model.accumulate, X)  # in the form that a pass of so many rows has
                between = time.process_time()
                m_step(total, previous=model)
                times = between - began, time.process_time() - between
                least[name] = [min(a, b) for a, b in zip(least[name], times, strict=True)]
    return {name: Cost(one / n, two) for name, (one, two) in least.items()}


def table(costs: dict[str, Cost], D: int, K: int) -> str:
    """The costs as a Markdown table."""
    plain = {kind.name: name for name, kind in MCLUST.items()}
    lines = [
        f"Processor time on {processor()}, one thread, D = {D}, K = {K}.",
        "",
        "| structure | E-step, ns per row | against | M-step, ms | of a pass over 1,000,000 rows |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, cost in costs.items():
        own = MCLUST[name].unconstrained.name
        ratio = cost.row / costs[plain[own]].row
        lines.append(
            f"| {name} | {1e9 * cost.row:.1f} | {ratio:.2f} of {own} | {1e3 * cost.m_step:.2f} | {cost.share:.1%} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--features", type=int, default=8)
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--write", type=Path, help="write the table between the markers of this file")
    options = parser.parse_args(arguments)
    D, K = options.features, options.components
    text = table(measure(options.rows, D, K, options.runs), D, K)
    print(text)
    if options.write:
        write_section(options.write, "structures", text)
    return 0
