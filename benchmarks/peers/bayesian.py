"""How many components Bayesian mixtures use, and what evidence they reach: this package and scikit-learn.

    python -m benchmarks bayesian count [--seeds 10] [--rows 50000]   separated mixtures, where the number is known
    python -m benchmarks bayesian data FILE.npz [--rows 10000]        evidence and held-out density on real rows;
                                                                      "patches": of photographs, instead of a file
    python -m benchmarks bayesian stream                              electricity in the order of time, by half-life
    python -m benchmarks bayesian cost                                seconds per pass beside `GaussianMixture`

Rows are printed as a Markdown table. scikit-learn takes `--starts` starts, one after the other, and its best counts.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import streamgmm as sg
from streamgmm.mixture.variational import VariationalMixture, evidence

Array = NDArray[np.float64]
ALLOWED = 30
SETTINGS = [(K, D) for D in (2, 8) for K in (3, 8, 20)]


def separated(K: int, D: int, n: int, seed: int, apart: float = 8.0) -> Array:
    """n rows of K Gaussians of different shape, mean variance 1, whose means are at least `apart` from each other."""
    rng = np.random.default_rng(seed)
    means: list[Array] = []
    while len(means) < K:
        mean = rng.uniform(-1, 1, size=D) * apart * K ** (1 / D)
        if all(np.linalg.norm(mean - other) > apart for other in means):
            means.append(mean)
    label = rng.choice(K, n, p=rng.dirichlet(np.full(K, 5.0)))
    X = np.empty((n, D))
    for k in range(K):
        root = rng.normal(size=(D, D))
        covariance = root @ root.T / D + 0.3 * np.eye(D)
        covariance *= D / np.trace(covariance)
        mine = label == k
        X[mine] = means[k] + rng.normal(size=(mine.sum(), D)) @ np.linalg.cholesky(covariance).T
    return X


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` gives, and the seconds of processor time it took."""
    began = time.process_time()
    return work(), time.process_time() - began


def theirs(K: int, seed: int, **settings: Any) -> Any:
    from sklearn.mixture import BayesianGaussianMixture

    return BayesianGaussianMixture(n_components=K, random_state=seed, **settings)


def evidence_of(model: Any, like: VariationalMixture, X: Array) -> float:
    """The exact evidence bound of a fitted model of scikit-learn, with the prior of `like`."""
    posterior = VariationalMixture.posterior(
        like.prior,
        np.asarray(model.weight_concentration_),
        model.mean_precision_.copy(),
        model.means_.copy(),
        model.degrees_of_freedom_.copy(),
        model.covariances_.copy(),
    )
    return evidence(posterior, posterior.accumulate(X))


def count(seeds: int, rows: int, starts: int) -> None:
    """Components in use on separated mixtures, of `ALLOWED`; scikit-learn's for the first `starts` seeds."""
    print("| K, D | in use | right | passes | s | scikit-learn: in use | right | s |")
    print("|---|---|---|---|---|---|---|---|")
    for K, D in SETTINGS:
        mine, other = [], []
        for seed in range(seeds):
            X = separated(K, D, rows, seed)
            gm, seconds = timed(lambda X=X, seed=seed: sg.BayesianGaussianMixture(ALLOWED, random_state=seed).fit(X))
            mine.append((gm.n_components_in_use_, gm.n_passes_, seconds))
            if seed >= starts:
                continue
            sk, seconds = timed(lambda X=X, seed=seed: theirs(ALLOWED, seed).fit(X))
            other.append((int((sk.mean_precision_ - sk.mean_precision_prior_ > 1.0).sum()), seconds))
        found, known = [one[0] for one in mine], [one[0] for one in other]
        print(
            f"| {K}, {D} | {min(found)} to {max(found)} | {found.count(K)} of {seeds} | {max(m[1] for m in mine)} "
            f"| {np.median([m[2] for m in mine]):.1f} | {min(known, default=0)} to {max(known, default=0)} "
            f"| {known.count(K)} of {len(known)} | {np.median([o[1] for o in other] or [np.nan]):.1f} |",
            flush=True,
        )


def rows_of(path: str) -> Array:
    """All rows of a file in random order; photo patches of 63 features instead."""
    if path == "patches":
        from benchmarks.data.cases import _patches

        return _patches(40_000)
    X = np.load(path)["X"].astype(np.float64)
    return np.asarray(X[np.random.default_rng(0).permutation(len(X))])


def data(path: str, rows: int, starts: int, K: int) -> None:
    """Evidence on `rows` rows, and mean log-density of rows held out, beside scikit-learn's best and `select`'s."""
    X = rows_of(path)
    held, X = X[rows : rows + 20_000], X[:rows]
    gm, seconds = timed(lambda: sg.BayesianGaussianMixture(K, random_state=0).fit(X))
    found, other = timed(lambda: [theirs(K, seed, max_iter=200).fit(X) for seed in range(starts)])
    bounds = [evidence_of(model, gm.mixture_, X) for model in found]
    best = found[int(np.argmax(bounds))]
    chosen, third = timed(lambda: sg.select(X, n_components=range(1, K + 1), n_init=3, random_state=0).best)
    print("| | components | evidence | held out, nats per row | passes | s |\n|---|---|---|---|---|---|")
    mean = gm.score_samples(held, predictive=True).mean()
    print(
        f"| BayesianGaussianMixture | {gm.n_components_in_use_} | {gm.lower_bounds_[-1]:.1f} | {mean:.4f} "
        f"| {gm.n_passes_} | {seconds:.1f} |"
    )
    used = int((best.mean_precision_ > 2.0).sum())
    print(f"| scikit-learn, best of {starts} | {used} | {max(bounds):.1f} | {best.score(held):.4f} | | {other:.1f} |")
    print(f"| select, BIC | {chosen.n_components} | | {chosen.score(held):.4f} | | {third:.1f} |")


def stream(K: int = 8, half_lives: tuple[float | None, ...] = (None, 300.0, 1000.0, 3000.0), day: int = 48) -> None:
    """Mean predictive log-density of each row after the first tenth, before it was learnt: both classes."""
    from benchmarks.costs.stream import elec_rows

    X, first = elec_rows()
    rest = X[first:]
    settings: dict[str, Any] = {"reg_covar": 1e-3, "random_state": 0, "n_init": 4}
    print("| half-life, rows | GaussianMixture | BayesianGaussianMixture | in use at the end |\n|---|---:|---:|---:|")
    for half_life in half_lives:
        cells = ["none" if half_life is None else f"{half_life:,.0f}"]
        gm = sg.GaussianMixture(K, **settings, half_life=half_life).fit(X[:first])
        bayesian = sg.BayesianGaussianMixture(K, **settings, half_life=half_life).fit(X[:first])
        for one, asked in ((gm, {}), (bayesian, {"predictive": True})):
            scores = []
            for i in range(0, len(rest), day):
                scores.append(one.score_samples(rest[i : i + day], **asked))  # score first
                one.partial_fit(rest[i : i + day])  # learn second
            cells.append(f"{np.concatenate(scores).mean():.3f}")
        print(f"| {' | '.join(cells)} | {bayesian.n_components_in_use_} |", flush=True)


def cost() -> None:
    """Processor time of a pass, 1M x 8, K = 16, full, one thread: the least of all passes of three fits each."""
    X = np.random.default_rng(0).normal(size=(1_000_000, 8))
    best: dict[str, float] = {}
    for _ in range(3):
        for kind in (sg.GaussianMixture, sg.BayesianGaussianMixture):
            gm = kind(16, solver="exact", max_iter=8, tol=0.0, random_state=0, n_jobs=1)
            steps = gm.fit_steps(X)
            next(steps)
            last = time.process_time()
            for _ in steps:
                now = time.process_time()
                best[kind.__name__] = min(now - last, best.get(kind.__name__, np.inf))
                last = now
    print("| | ms of processor time per pass |\n|---|---|")
    for name, seconds in best.items():
        print(f"| {name} | {1e3 * seconds:.1f} |")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["count", "data", "stream", "cost"])
    parser.add_argument("path", nargs="?")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--components", type=int, default=ALLOWED)
    given = parser.parse_args(words)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if given.what == "count":
            count(given.seeds, given.rows or 50_000, given.starts)
        elif given.what == "data":
            data(given.path, given.rows or 10_000, given.starts, given.components)
        elif given.what == "stream":
            stream()
        else:
            cost()
