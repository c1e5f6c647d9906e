"""Find anomalies by low density: a mixture of normal behaviour, the lowest percent raised.

Runs on ADBench's shuttle set where a file is given (``python examples/anomalies.py 32_shuttle.npz``), otherwise on a
synthetic stand-in: sensors that follow each other in three regimes, with 1 % of rows out of step.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

import streamgmm as sg


def synthetic(n: int = 20_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(3, 9, 3))
    regime = rng.choice(3, n, p=[0.7, 0.2, 0.1])
    rows = np.einsum("nij,nj->ni", root[regime], rng.normal(size=(n, 3))) + 4 * rng.normal(size=(3, 9))[regime]
    rows += 0.3 * rng.normal(size=rows.shape)
    odd = rng.random(n) < 0.01
    rows[odd] += 2.5 * rng.normal(size=(odd.sum(), 9))
    return rows, odd.astype(int)


def main(folder: Path, file: str | None = None, share: float = 0.01) -> dict[str, float]:
    """`share` of the rows is raised: what somebody has time to look at. The labels serve to judge, never to choose."""
    if file is None:
        rows, truth = synthetic()
    else:
        stored = np.load(file)
        rows, truth = stored["X"], stored["y"]
    rows = sg.Scaler().fit_transform(np.asarray(rows, np.float64))
    found = sg.select(rows, (1, 2, 3, 4, 6, 8, 10, 12, 15), n_init=2, reg_covar=1e-3, random_state=0)
    K = {"BIC": found.minimum["full"], "elbow": found.elbow["full"]}

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, *axes = figure.subplots(1, 3)
    found.plot(ax=left)
    result: dict[str, float] = {}
    for ax, (name, n) in zip(axes, K.items(), strict=True):
        detector = sg.OutlierDetector(n, contamination=share, reg_covar=1e-3, random_state=0)
        flagged = detector.fit_predict(rows) == -1
        density = detector.score_samples(rows)
        auc = float(roc_auc_score(truth, -density))
        span = np.percentile(density, [0.3, 100])
        bins = np.linspace(*span, 80)
        ax.hist(np.clip(density[truth == 0], *span), bins, label="normal", color="#9fb4c8", log=True)
        ax.hist(np.clip(density[truth == 1], *span), bins, label="anomalous", color="#c22f2f", alpha=0.7, log=True)
        ax.axvline(density[flagged].max(), color="black", linestyle="--", label=f"lowest {100 * share:.0f} %")
        ax.set(xlabel="log-density (nats)", ylabel="rows", title=f"K = {n}, by {name}: AUC {auc:.3f}")
        ax.legend(loc="upper left")
        result |= {f"K by {name}": n, f"AUC, K by {name}": auc, f"precision, K by {name}": float(truth[flagged].mean())}
    figure.savefig(folder / "anomalies.png", dpi=80)
    return result


if __name__ == "__main__":
    print(main(Path(), *sys.argv[1:2]))
