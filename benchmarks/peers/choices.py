"""The number of components that `select` recommends, beside scikit-learn's BIC and mclust's.

``python -m benchmarks choices --records choices.jsonl --write docs/choosing-k.md``; measurements are added to the
records one by one, as in `benchmarks.starts`. Penguins need the package palmerpenguins, faithful the folder of
reference fits (``--mclust FOLDER``). What mclust chooses is kept in ``mclust_choices.json``, which ``choices.R`` writes
from the tables of ``--rows FOLDER``.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Peer

import streamgmm as sg
from benchmarks.readme import write_section
from benchmarks.records import keep, kept

Array = NDArray[np.float64]
LARGEST, N_INIT, MADE = 9, 5, 20
MCLUST = Path(__file__).with_name("mclust_choices.json")
SPECIES = {"penguins": 3, "iris": 3, "wine": 3}
APART = 5.0
"""Least distance of two means in deviations of the wider component, along the line that joins them."""

NARROW = 0.05
"""Least deviation of a component in any direction: `select` takes one as narrow as reg_covar for no finding."""


def made(seed: int) -> tuple[Array, int]:
    """Rows of a mixture of 2 to 6 components that do not touch, in 2 to 5 features, and their number."""
    rng = np.random.default_rng((seed, 77))
    K, D, n = int(rng.integers(2, 7)), int(rng.integers(2, 6)), int(rng.integers(300, 1500))
    while True:
        shapes = rng.normal(size=(K, D, D)) / np.sqrt(D) + np.eye(D)
        if np.linalg.svd(shapes, compute_uv=False).min() >= NARROW:
            break
    wide = 3.0
    while True:
        means = rng.normal(size=(K, D)) * wide
        gaps = [
            np.linalg.norm(line) / max(np.linalg.norm(line @ shapes[k]) / np.linalg.norm(line) for k in (i, j))
            for i in range(K) for j in range(i) for line in [means[i] - means[j]]
        ]  # fmt: skip
        if min(gaps) >= APART:
            break
        wide *= 1.1
    label = rng.choice(K, n, p=rng.dirichlet(np.full(K, 5.0)))
    return np.einsum("nij,nj->ni", shapes[label], rng.normal(size=(n, D))) + means[label], K


def penguins() -> Array:
    """Four measures of 342 penguins, in millimetres and grams."""
    from palmerpenguins import load_penguins

    measures = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]
    return load_penguins()[measures].dropna().to_numpy(np.float64)


def sets(mclust: Path | None) -> dict[str, Callable[[], tuple[Array, int | None]]]:
    """Name -> what loads rows and, where it is known, the number of groups."""
    real: dict[str, Callable[[], Array]] = {
        "penguins": penguins, "wine": lambda: load_wine().data, "iris": lambda: load_iris().data
    }  # fmt: skip
    if mclust is not None:
        real["faithful"] = lambda: np.loadtxt(mclust / "faithful.csv", delimiter=",", skiprows=1)
    found = {name: lambda load=load, name=name: (load(), SPECIES.get(name)) for name, load in real.items()}
    return found | {f"made {seed}": partial(made, seed) for seed in range(MADE)}


def reference(name: str) -> dict[str, Any]:
    """The K of mclust's best BIC with full covariances (VVV), and of all its structures, where they are known."""
    found = json.loads(MCLUST.read_text()).get(name)
    return {} if found is None else {"mclust": found["VVV"], "mclust_best": f"{found['K']} ({found['best']})"}


def write_rows(folder: Path, mclust: Path | None) -> None:
    """Every set as CSV, with all digits."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, load in sets(mclust).items():
        rows = load()[0]
        head = ",".join(f"x{j}" for j in range(rows.shape[1]))
        np.savetxt(folder / f"{name}.csv", rows, delimiter=",", fmt="%.17g", header=head, comments="")


def peer(X: Array) -> Any:
    """The best of scikit-learn's mixtures by BIC, with its default tolerance."""
    fits = [Peer(K, n_init=N_INIT, random_state=0).fit(X) for K in range(1, LARGEST + 1)]
    return min(fits, key=lambda gm: gm.bic(X))


def measured(X: Array, truth: int | None) -> dict[str, Any]:
    """What both recommend for these rows, and the rows of the smallest component of each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = sg.select(X, range(1, LARGEST + 1), n_init=N_INIT, random_state=0)
        theirs = peer(X)
    kept = found.best.n_components
    plain = min(found.table, key=lambda row: row["bic"])["n_components"]
    return {
        "rows": len(X), "features": X.shape[1], "truth": truth, "K": kept, "least": smallest(found.best, X),
        "passed": plain if plain != kept else None, "theirs": theirs.n_components, "their_least": smallest(theirs, X),
    }  # fmt: skip


def smallest(gm: Any, X: Array) -> float:
    """Effective rows of the smallest component."""
    return float(gm.predict_proba(X).sum(axis=0).min())


def table(records: list[dict[str, Any]]) -> str:
    """One line a set; the made ones, where both are right, in one."""
    lines = [
        f"Full covariances, unscaled, K = 1 to {LARGEST} by BIC, {N_INIT} starts of each. mclust 6.0.0 is given the "
        "same rows: its K for the structure VVV (full), and its best over all fourteen structures. Rows: effective "
        "rows of the smallest component; fewer than D + 1 do not span a covariance. "
        "Passed over: a K of better BIC that `select` does not recommend.",
        "",
        "| data | rows x features | groups | `select` | rows | passed over | scikit-learn | rows | mclust VVV | "
        "mclust, any |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    right = [r for r in records if r["set"].startswith("made") and r["K"] == r["theirs"] == r["truth"] == r["mclust"]]
    for r in records:
        if r not in right:
            lines.append(
                f"| {r['set']} | {r['rows']:,} x {r['features']} | {r['truth'] or '-'} | {r['K']} | {r['least']:.1f} | "
                f"{r['passed'] or '-'} | {r['theirs']} | {r['their_least']:.1f} | {r.get('mclust') or '-'} | "
                f"{r.get('mclust_best') or '-'} |"
            )
    of_made = [r for r in records if r["set"].startswith("made")]
    if right:
        least = min(min(r["least"], r["their_least"]) for r in right)
        lines.append(
            f"| {len(right)} made sets | 300 to 1,500 x 2 to 5 | 2 to 6 | all right | at least {least:.1f} | - | "
            "all right | | all right | all right |"
        )
    short = sum(r["least"] < r["features"] + 1 and r["K"] > 1 for r in records)
    ours, theirs, mclust = (sum(r[who] == r["truth"] for r in of_made) for who in ("K", "theirs", "mclust"))
    lines += [
        "",
        f"Of {len(of_made)} sets made of 2 to 6 Gaussians that do not touch, `select` finds the number in {ours}, "
        f"scikit-learn's BIC in {theirs}, mclust's in {mclust}. Recommended models with a component of fewer than "
        f"D + 1 rows: {short}; "
        f"scikit-learn's: {sum(r['their_least'] < r['features'] + 1 and r['theirs'] > 1 for r in records)}.",
    ]
    return "\n".join(lines)


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=Path, help="JSON lines, one a set, added to")
    parser.add_argument("--rows", type=Path, help="write the sets into this folder, and end")
    parser.add_argument("--most", type=int, default=10**6, help="sets to add at most")
    parser.add_argument("--mclust", type=Path, help="folder with faithful.csv")
    parser.add_argument("--write", type=Path, help="write the table of all records into this file")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if options.rows is not None:
        write_rows(options.rows, options.mclust)
        return 0
    if options.records is None:
        parser.error("--records FILE or --rows FOLDER is needed")
    records = kept(options.records)
    known, done = sets(options.mclust), {r["set"] for r in records}
    for name in [name for name in known if name not in done][: options.most]:
        records.append({"set": name, **measured(*known[name]())})
        keep(options.records, records[-1])
    text = table([{**record, "mclust": None, **reference(record["set"])} for record in records])
    print(text)
    if options.write:
        write_section(options.write, "choices", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
