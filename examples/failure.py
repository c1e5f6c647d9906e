"""An honest failure: moons and rings are not Gaussian. The mixture covers them, its components mean nothing."""

from pathlib import Path

from matplotlib.figure import Figure
from sklearn.datasets import make_circles, make_moons
from sklearn.metrics import adjusted_rand_score

import streamgmm as sg
from streamgmm.report import figures


def main(folder: Path) -> dict[str, object]:
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    result: dict[str, object] = {}
    sets = {
        "moons": make_moons(2000, noise=0.06, random_state=0),
        "rings": make_circles(2000, noise=0.05, factor=0.5, random_state=0),
    }
    for ax, (name, (rows, truth)) in zip(figure.subplots(1, 2), sets.items(), strict=True):
        gm = sg.GaussianMixture(2, n_init=5, random_state=0, max_iter=500).fit(rows)
        figures.ellipses(gm.mixture_, rows, ax=ax, names=("x", "y"))
        agreement = abs(adjusted_rand_score(truth, gm.predict(rows)))
        ax.set(title=f"{name}: agreement with the truth {agreement:.2f}")
        result[f"{name}, agreement"] = float(agreement)
        result[f"{name}, findings"] = [str(finding) for finding in sg.diagnose(gm, rows)]
    figure.savefig(folder / "failure.png", dpi=80)
    return result


if __name__ == "__main__":
    for key, value in main(Path()).items():
        print(key, value)
