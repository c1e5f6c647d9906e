"""Streams measured: `python -m benchmarks stream [elec|pass|speed|gap|shift|long]`, all without a name.

Writes the table of the electricity stream into docs/benchmarks.md, and the picture of the gap against the length of a
stream.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning

import streamgmm as sg
from benchmarks.readme import processor, write_section
from streamgmm.em.initialization.methods import made, prepared
from streamgmm.em.initialization.sample import survey
from streamgmm.em.online import Learner
from streamgmm.mixture.covariance import FULL
from streamgmm.runtime.executors import Threads
from streamgmm.sources import array_source
from streamgmm.sources.summaries.sample import sample_size
from streamgmm.stream.connectors.synthetic import Synthetic
from streamgmm.stream.drift import Cusum

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("STREAMGMM_SHARED_DATA", ROOT.parent / "shared" / "data"))


def mixture_of(K, D, spread, seed=0):
    """K unit Gaussians, their means drawn with a standard deviation of `spread`."""
    rng = np.random.default_rng(seed)
    return sg.Mixture(np.full(K, 1 / K), rng.normal(0, spread, (K, D)), np.broadcast_to(np.eye(D), (K, D, D)))


def draw(mixture, n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(mixture.n_components, size=n)
    return mixture.means[labels] + rng.standard_normal((n, mixture.n_features))


# Electricity, in the order of time ------------------------------------------------------------------------------------


def elec_rows():
    """(45312, 3) period, price and demand in New South Wales, z-scored by the first tenth; and rows in that tenth."""
    path = DATA / "streams" / "elec.csv"
    with path.open() as file:
        names = file.readline().strip().split(",")
        columns = [names.index(name) for name in ("period", "nswprice", "nswdemand")]
        X = np.array([[float(fields[i]) for i in columns] for fields in (line.split(",") for line in file)])
    first = len(X) // 10
    return (X - X[:first].mean(axis=0)) / X[:first].std(axis=0), first


def elec(K=8, half_life=1000.0, day=48, week=336):
    """Predictive log p(x) of every row after the first tenth: mean and median, per model."""
    X, first = elec_rows()
    rest = X[first:]
    settings = {"reg_covar": 1e-3, "random_state": 0, "n_init": 4}
    frozen = sg.GaussianMixture(K, **settings).fit(X[:first])
    warnings.simplefilter("ignore", ConvergenceWarning)
    scores = {"frozen after the first tenth": frozen.score_samples(rest)}
    refitted = sg.GaussianMixture(K, **settings, warm_start=True).fit(X[:first])
    refitted.set_params(n_init=1)
    parts = []
    for i in range(0, len(rest), week):
        if i:
            refitted.fit(X[: first + i])
        parts.append(refitted.score_samples(rest[i : i + week]))
    scores["refitted every week on all past rows"] = np.concatenate(parts)
    for name, h in (("stream, no fixed forgetting", None), (f"stream, half-life {half_life:,.0f} rows", half_life)):
        gm = sg.GaussianMixture(K, **settings, half_life=h).fit(X[:first])
        parts = []
        for i in range(0, len(rest), day):
            parts.append(gm.score_samples(rest[i : i + day]))  # score first
            gm.partial_fit(rest[i : i + day])  # learn second
        scores[name] = np.concatenate(parts)
    return {name: (float(s.mean()), float(np.median(s))) for name, s in scores.items()}


def elec_table():
    figures = elec()
    lines = [
        "Half-hourly price and demand of electricity, 45,312 rows that drift, in the order of time; K = 8, full. Mean",
        "and median log p(x) in nats of each row after the first tenth, before it was learnt (higher is better):",
        "",
        "| model | mean | median |",
        "|---|---:|---:|",
        *(f"| {name} | {mean:.3f} | {median:.3f} |" for name, (mean, median) in figures.items()),
    ]
    text = "\n".join(lines)
    write_section(ROOT / "docs" / "benchmarks.md", "elec", text)
    print(text)


# One pass against exact passes ----------------------------------------------------------------------------------------


def one_pass(K=8, seeds=10):
    """magic: mean log-likelihood after one stepwise pass, and after 4 exact passes, from the same starts."""
    X = np.load(DATA / "adbench" / "22_magic.gamma.npz")["X"].astype(float)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    stepwise, exact = [], []
    for seed in range(seeds):
        rng = np.random.RandomState(seed)
        rows = X[rng.permutation(len(X))]
        sample = survey(array_source(rows), Threads(1), size=sample_size(K, X.shape[1]), seed=seed)
        (first,) = made([prepared(sample, K, FULL, init="kmeans", rng=rng, reg_covar=1e-6)])
        precisions = np.linalg.inv(first.covariances)
        given = {"weights_init": first.weights, "means_init": first.means, "precisions_init": precisions}
        stepwise.append(sg.GaussianMixture(K, **given).partial_fit(rows).score(X))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            exact.append(sg.GaussianMixture(K, **given, max_iter=4, solver="exact").fit(rows).score(X))
    print(f"magic, K = {K}, {seeds} seeds, median: one stepwise pass {np.median(stepwise):.4f},", end=" ")
    print(f"4 exact passes {np.median(exact):.4f}; stepwise better in {np.sum(np.array(stepwise) >= exact)}")
    return np.array(stepwise), np.array(exact)


# Speed --------------------------------------------------------------------------------------------------------------


def speed(rows=3_000_000, K=16, D=8, batch=10_000):
    """Rows per second of partial_fit, and of the batch kernel on the same rows in one thread."""
    truth = mixture_of(K, D, 4.0)
    X = draw(truth, 1_000_000, 1)
    sg.GaussianMixture(K, random_state=0).partial_fit(X[:50_000])  # compiled, and warm
    kernel, stream = [], []
    gm = sg.GaussianMixture(K, random_state=0)
    for i in range(rows // batch):
        part = X[i * batch % len(X) :][:batch]
        began = time.perf_counter()
        gm.partial_fit(part)
        stream.append(time.perf_counter() - began)
        model = gm.mixture_
        model.frame_stats(part[:1])
        far = X[(i * batch + len(X) // 2) % len(X) :][:batch]  # no more in the cache than those of the stream were
        began = time.perf_counter()
        model.frame_stats(far)
        kernel.append(time.perf_counter() - began)
    total, middle = sum(kernel) / sum(stream), np.median(kernel) / np.median(stream)
    print(
        f"partial_fit, batches of {batch:,}, D = {D}, K = {K}: {rows / sum(stream) / 1e6:.2f}M rows/s, the kernel "
        f"{rows / sum(kernel) / 1e6:.2f}M rows/s: {total:.2f} of it in all, {middle:.2f} in the median batch"
    )
    return total


# Stationary -----------------------------------------------------------------------------------------------------------


def gap(lengths=(3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000), K=8, D=4, seeds=5, picture=True):
    """Distance of the stream's model from the optimum of a fit to 1M rows, in nats per row, against rows seen."""
    found = np.empty((seeds, len(lengths)))
    for seed in range(seeds):
        truth = mixture_of(K, D, 2.0, seed)
        held = draw(truth, 200_000, 100 + seed)
        best = sg.GaussianMixture(
            K, weights_init=truth.weights, means_init=truth.means, precisions_init=truth.covariances, tol=1e-8
        ).fit(draw(truth, 1_000_000, 200 + seed))
        top = best.score(held)
        rng = np.random.default_rng(seed)
        gm = sg.GaussianMixture(
            K,
            weights_init=truth.weights,
            means_init=truth.means + rng.normal(0, 0.7, (K, D)),
            precisions_init=truth.covariances / 2,
        )
        rows = 0
        for j, length in enumerate(lengths):
            while rows < length:
                size = min(50_000, length - rows)
                gm.partial_fit(draw(truth, size, [seed, rows]))
                rows += size
            found[seed, j] = top - gm.score(held)
    median = np.median(found, axis=0)
    for length, value in zip(lengths, median, strict=True):
        print(f"stationary stream, {length:>9,} rows: {value:.2e} nats per row from the batch optimum")
    if picture:
        plot_gap(lengths, found)
    return median


def plot_gap(lengths, found):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.loglog(lengths, found.T, color="0.8", lw=1)
    axes.loglog(lengths, np.median(found, axis=0), color="C0", marker="o", label="median of the seeds")
    axes.loglog(lengths, np.median(found[:, 0]) * lengths[0] / np.array(lengths), "k:", lw=1, label="1 / rows")
    axes.set_xlabel("rows of the stream")
    axes.set_ylabel("nats per row below the batch optimum")
    axes.legend(frameon=False)
    folder = ROOT / "docs" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "stream-gap.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


# An abrupt shift ------------------------------------------------------------------------------------------------------


def shift(half_life=5000, K=6, D=4, seeds=10):
    """All means move by 5 sigma: nats per dimension below a fresh fit, after so many half-lives."""
    print("half-lives after the shift:        1      2      3      4      6      8")
    worst = {}
    for on_drift in ("report", "boost", "reset"):
        gaps = np.empty((seeds, 8))
        for seed in range(seeds):
            truth = mixture_of(K, D, 6.0, seed)
            stream = Learner(K, D, FULL, half_life=half_life, detector=Cusum(1e-4), on_drift=on_drift, seed=seed)
            stream.push(draw(truth, 10 * half_life, [seed, 1]))
            held = draw(truth, 50_000, [seed, 2]) + 5.0
            fresh = sg.GaussianMixture(K, random_state=seed).fit(draw(truth, 50_000, [seed, 3]) + 5.0)
            for n in range(8):
                stream.push(draw(truth, half_life, [seed, 4 + n]) + 5.0)
                gaps[seed, n] = (fresh.score(held) - stream.model.log_prob(held).mean()) / D
        middle, top = np.median(gaps, axis=0), gaps.max(axis=0)
        shown = [0, 1, 2, 3, 5, 7]
        print(f"{on_drift:>7}, median of {seeds} seeds  ", "  ".join(f"{middle[i]:5.3f}" for i in shown))
        print(f"{'':>7}  worst                ", "  ".join(f"{top[i]:5.3f}" for i in shown))
        worst[on_drift] = (middle, top)
    return worst


# Long -----------------------------------------------------------------------------------------------------------------


def long(rows=50_000_000, K=4, D=4):
    """A session over so many rows: resident memory, speed, and what must hold of the model, at every tenth."""
    import psutil

    process = psutil.Process()
    made = Synthetic(rows, n_features=D, n_components=K, jump_every=3_000_000, anomalies=1e-4)
    session = sg.StreamSession(
        sg.GaussianMixture(K, half_life=200_000.0, random_state=0), on_drift="reset", anomaly_rate=1e-3
    )
    began, tenth, seen = time.perf_counter(), 1, []
    last = began
    for _ in session.run(made):
        if session.counts.rows >= rows * tenth / 10:
            now = time.perf_counter()
            weights = session.mixture.weights
            assert abs(weights.sum() - 1.0) < 1e-12 and np.isfinite(session.mixture.covariances).all()
            seen.append((process.memory_info().rss / 2**20, rows / 10 / (now - last) / 1e6))
            print(
                f"{session.counts.rows:>12,} rows  {seen[-1][0]:7.1f} MiB resident  {seen[-1][1]:.2f}M rows/s  "
                f"{session.counts.alarms} alarms  {session.counts.anomalies:,} anomalies",
                flush=True,
            )
            tenth, last = tenth + 1, time.perf_counter()
    memory = np.array([m for m, _ in seen])
    print(f"{rows:,} rows in {time.perf_counter() - began:.0f} s; memory {memory.min():.1f} to {memory.max():.1f} MiB")
    return seen


PARTS = {"elec": elec_table, "pass": one_pass, "speed": speed, "gap": gap, "shift": shift, "long": long}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without one")
    names = parser.parse_args(arguments).parts
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; expected {', '.join(PARTS)}")
    print(processor())
    for name in names or PARTS:
        PARTS[name]()
