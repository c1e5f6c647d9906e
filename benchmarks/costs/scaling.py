"""What a fit costs: against rows, features and components, threads, storage, memory; and what an answer costs.

    python -m benchmarks scaling [--write docs/performance.md] [--pictures docs/pictures] [--only NAME] [--tiny]

Every figure is that of one EM iteration (or one pass) after the first, the median over the iterations of a fit in
this process, with everything compiled before. Nothing converges: tol is 0 and the starts are random rows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data.cases import Case, _from_rows, _mixture
from benchmarks.readme import processor, write_section

PASSES = 6


def problem(n: int, D: int, K: int, kind: str = "full") -> tuple[np.ndarray, dict[str, Any]]:
    """Rows of a generated mixture, and the settings of a fit that starts from random rows of it."""
    case = Case(n, D, K, kind, 1.0)
    X = _mixture(case)
    start = _from_rows(X, case)
    inverse = np.linalg.inv if kind in ("full", "tied") else np.reciprocal
    return X, {
        "n_components": K, "covariance_type": kind, "weights_init": start["weights"], "means_init": start["means"],
        "precisions_init": inverse(start["covariances"]), "tol": 0.0, "solver": "exact", "max_iter": PASSES,
    }  # fmt: skip


def pass_seconds(data: Any, settings: dict[str, Any], n_jobs: int | None = None) -> float:
    """Median time of an iteration after the first."""
    import streamgmm as sg

    model = sg.GaussianMixture(n_jobs=n_jobs, **settings)
    ends = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in model.fit_steps(data):
            ends.append(time.perf_counter())
    return statistics.median(np.diff(ends))


def threads(tiny: bool) -> list[str]:
    """One thread against two."""
    lines = ["| rows, features, components | one thread | two threads | times |", "|---|---|---|---|"]
    shapes = [(1_000_000, 2, 8), (1_000_000, 8, 16), (300_000, 32, 32)]
    for n, D, K in [(20_000, 2, 3)] if tiny else shapes:
        X, settings = problem(n, D, K)
        one, two = (1e9 / n * min(pass_seconds(X, settings, jobs) for _ in range(3)) for jobs in (1, 2))
        lines.append(f"| {n:,} x {D}, K = {K}, full | {one:.1f} ns | {two:.1f} ns | {one / two:.2f} |")
    return lines


def answers(tiny: bool) -> list[str]:
    """An E-step against what a fitted model is asked for."""
    import streamgmm as sg

    lines = [
        "| rows, features, components | iteration | `score_samples` | `predict` | `predict_proba` |",
        "|---|---|---|---|---|",
    ]
    shapes = [(1_000_000, 8, 16, "full"), (300_000, 32, 32, "full"), (1_000_000, 8, 16, "diag")]
    for n, D, K, kind in [(20_000, 2, 3, "full")] if tiny else shapes:
        X, settings = problem(n, D, K, kind)
        cells = [pass_seconds(X, settings)]
        model = sg.GaussianMixture(**{**settings, "max_iter": 2})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X)
        for ask in (model.score_samples, model.predict, model.predict_proba):
            cells.append(min(_timed(ask, X) for _ in range(3)))
        lines.append(f"| {n:,} x {D}, K = {K}, {kind} | " + " | ".join(f"{1e9 * s / n:.1f} ns" for s in cells) + " |")
    return lines


def _timed(ask: Any, X: Any) -> float:
    begin = time.perf_counter()
    ask(X)
    return time.perf_counter() - begin


def storage(tiny: bool) -> list[str]:
    """The same rows in memory and in a Zarr store in the page cache."""
    import zarr

    import streamgmm as sg

    n = 20_000 if tiny else 1_000_000
    X, settings = problem(n, 8, 16)
    inside = min(pass_seconds(X, settings) for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows.zarr")
        array = zarr.create_array(path, shape=X.shape, chunks=(65_536, 8), dtype="f8")
        array[:] = X
        outside = min(pass_seconds(path, settings) for _ in range(3))
        source = sg.open_source(path)
        chunks = list(source.chunks())
        reading = min(_timed(lambda all_: [chunk.load() for chunk in all_], chunks) for _ in range(3))
    cut = min(pass_seconds(sg.open_source(X, chunk_rows=16_384), settings) for _ in range(3))
    lines = ["| one iteration over 1,000,000 x 8, K = 16, full | seconds | times |", "|---|---|---|"]
    for name, seconds in [
        ("array in memory", inside),
        ("the array in chunks of 16,384 rows", cut),
        ("Zarr store in the page cache", outside),
        ("of it reading and decoding, on one thread", reading),
    ]:
        lines.append(f"| {name} | {seconds:.4f} | {seconds / inside:.2f} |")
    return lines


def memory(tiny: bool) -> list[str]:
    """Growth of the process while it fits an array that it holds already."""
    import streamgmm as sg
    from streamgmm.runtime.peak_memory import Peak

    n = 20_000 if tiny else 1_000_000
    X, settings = problem(n, 8, 16)
    lines = []
    for solver, starts in [("exact", settings), ("auto", {"n_components": 16})]:
        model = sg.GaussianMixture(**{**starts, "solver": solver, "max_iter": 5, "random_state": 0})
        peak = Peak()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X)
        growth = peak.report()["growth"]
        given = "parameters given" if solver == "exact" else "start included"
        lines.append(
            f'- `solver="{solver}"`, {given}: the process grew by {(growth or 0) / 2**20:.0f} MB beyond the array of '
            f"{X.nbytes / 2**20:.0f} MB."
        )
    return lines


def growth(tiny: bool, pictures: Path | None) -> list[str]:
    """Time of an iteration against rows, features and components, each alone; and their pictures."""
    axes: dict[str, list[int]] = {
        "rows": [10_000, 30_000, 100_000, 300_000, 1_000_000],
        "features": [1, 2, 4, 8, 16, 32, 64],
        "components": [1, 2, 4, 8, 16, 32, 64, 128],
    }
    found: dict[str, dict[str, list[float]]] = {}
    for axis, values in axes.items():
        axes[axis] = values = values[:2] if tiny else values
        found[axis] = {}
        for kind in ("full", "tied", "diag", "spherical"):
            found[axis][kind] = []
            for value in values:
                shape = {"rows": 5_000 if tiny else 100_000, "features": 8, "components": 16, axis: value}
                X, settings = problem(shape["rows"], shape["features"], shape["components"], kind)
                found[axis][kind].append(min(pass_seconds(X, settings) for _ in range(2)))
    if pictures is not None:
        import matplotlib

        matplotlib.use("agg")
        import matplotlib.pyplot as plt

        figure, panels = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
        for panel, (axis, lines) in zip(panels, found.items(), strict=True):
            for kind, seconds in lines.items():
                panel.loglog(axes[axis], 1e3 * np.array(seconds), marker="o", label=kind)
            panel.set_xlabel(axis)
            panel.grid(alpha=0.3, which="both")
        panels[0].set_ylabel("one iteration, ms")
        panels[0].legend(frameon=False)
        figure.savefig(pictures / "cost.png", dpi=110)
        plt.close(figure)
    text = ["100,000 rows, 8 features, 16 components, and one of them varied; ms of one iteration.", ""]
    text += ["| | " + " | ".join(("full", "tied", "diag", "spherical")) + " |", "|---|---|---|---|---|"]
    for axis, lines in found.items():
        for i, value in enumerate(axes[axis]):
            cells = " | ".join(f"{1e3 * seconds[i]:.2f}" for seconds in lines.values())
            text.append(f"| {value:,} {axis} | {cells} |")
    return text


SECTIONS = {"threads": threads, "answers": answers, "storage": storage, "memory": memory}


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="write the tables between the markers of this file")
    parser.add_argument("--pictures", type=Path, help="folder for cost.png")
    parser.add_argument("--only", default="", help="sections whose name holds this text")
    parser.add_argument("--tiny", action="store_true", help="small, as the tests run it")
    options = parser.parse_args(arguments)
    from streamgmm.kernels import dispatch

    dispatch.warmup((np.dtype(np.float64),))
    machine = f"Measured on {os.cpu_count()} cores of {processor()}."
    for name in (*SECTIONS, "growth"):
        if options.only not in name:
            continue
        lines = growth(options.tiny, options.pictures) if name == "growth" else SECTIONS[name](options.tiny)
        print(f"{name}\n" + "\n".join(lines), flush=True)
        if options.write:
            write_section(options.write, name, "\n".join([*lines, "", machine]))
    return 0
