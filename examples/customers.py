"""Segments of customers, K chosen by BIC. The data are synthetic: 2000 rows, 8 features, 5 true segments."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import adjusted_rand_score

import streamgmm as sg
from streamgmm.report import figures

FEATURES = ("age", "income", "visits", "basket", "online", "returns", "tenure", "discount")


def synthetic(n: int = 2000, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    segment = rng.choice(5, n, p=[0.3, 0.25, 0.2, 0.15, 0.1])
    root = rng.normal(size=(5, 8, 8)) * 0.35 + 0.6 * np.eye(8)
    rows = 2.2 * rng.normal(size=(5, 8))[segment] + np.einsum("nij,nj->ni", root[segment], rng.normal(size=(n, 8)))
    return rows * [12, 20_000, 6, 30, 0.2, 1, 4, 0.1] + [40, 45_000, 10, 60, 0.5, 2, 6, 0.2], segment


def main(folder: Path) -> dict[str, float]:
    rows, truth = synthetic()
    selection = sg.select(rows, n_components=range(1, 9), n_init=5, random_state=0, criterion="bic")
    gm = selection.best
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    selection.plot(ax=left)
    figures.ellipses(gm.mixture_, rows, ax=right)
    figure.savefig(folder / "customers.png", dpi=80)
    return {"K": gm.n_components, "adjusted Rand index": float(adjusted_rand_score(truth, gm.predict(rows)))}


if __name__ == "__main__":
    print(main(Path()))
