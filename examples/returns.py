"""A long series of returns with calm and stormy regimes (synthetic): a mixture tells them apart, with honest tails."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import streamgmm as sg


def synthetic(n: int = 200_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Daily returns of two assets, in percent; regimes last about 200 and 50 days."""
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(np.tile([1 / 200, 1 / 50], n // 100))
    storm = np.repeat(np.arange(len(lengths)) % 2, lengths)[:n].astype(bool)
    calm, wild = (rng.multivariate_normal(m, c, n) for m, c in (
        ([0.05, 0.04], [[0.5, 0.1], [0.1, 0.4]]), ([-0.2, -0.15], [[6.0, 4.5], [4.5, 5.0]]),
    ))  # fmt: skip
    return np.where(storm[:, None], wild, calm), storm


def main(folder: Path) -> dict[str, float]:
    rows, storm = synthetic()
    gm = sg.GaussianMixture(2, n_init=3, tol=1e-7, max_iter=500, random_state=0).fit(rows)
    one = sg.GaussianMixture(1).fit(rows)
    wild = int(np.argmax(gm.covariances_[:, 0, 0]))
    probability = gm.predict_proba(rows)[:, wild]

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.plot(rows[:2000, 0], linewidth=0.6)
    top.set(ylabel="return (%)", title="Two regimes")
    bottom.fill_between(np.arange(2000), storm[:2000], color="#f0c9c9", label="truly stormy", linewidth=0)
    smooth = np.convolve(probability[:2000], np.ones(15) / 15, "same")
    bottom.plot(smooth, linewidth=0.9, label="P(stormy), mean of 15 days")
    bottom.set(xlabel="day", ylabel="probability")
    bottom.legend(loc="upper right")
    figure.savefig(folder / "returns.png", dpi=80)
    tail = np.quantile(rows[:, 0], 0.001)
    drawn = [model.sample(200_000)[0][:, 0] for model in (gm, one)]
    return {
        "stormy share": float(gm.weights_[wild]),
        "true share": float(storm.mean()),
        "stormy deviation": float(gm.covariances_[wild, 0, 0] ** 0.5),
        "0.1 % quantile": float(tail),
        "of the mixture": float(np.quantile(drawn[0], 0.001)),
        "of one Gaussian": float(np.quantile(drawn[1], 0.001)),
    }


if __name__ == "__main__":
    print(main(Path()))
