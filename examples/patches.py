"""Density of natural image patches: what a mixture has learnt, and new patches drawn from it."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import streamgmm as sg
from streamgmm.cli.demo_data import grey_images, patch_rows


def picture(rows: np.ndarray) -> np.ndarray:
    """(N, 63) rows as (N, 8, 8) patches: the dropped pixel is minus the sum of the others."""
    return np.concatenate([rows, -rows.sum(axis=1, keepdims=True)], axis=1).reshape(-1, 8, 8)


def sheet(patches: np.ndarray, columns: int = 12) -> np.ndarray:
    scale = np.abs(patches).max(axis=(1, 2), keepdims=True)
    padded = np.pad(patches / scale, ((0, 0), (0, 1), (0, 1)), constant_values=1.0)
    return padded.reshape(-1, columns, 9, 9).swapaxes(1, 2).reshape(-1, columns * 9)


def main(folder: Path, every: int = 8) -> dict[str, float]:
    rows = np.concatenate([part[::every] for part in patch_rows(grey_images())])
    train, test = rows[::2], rows[1::2]
    settings = {"reg_covar": 1e-3, "max_iter": 30, "tol": 1e-3, "random_state": 0}
    one = sg.GaussianMixture(1, **settings).fit(train)
    many = sg.GaussianMixture(10, **settings).fit(train)

    figure = Figure(figsize=(9, 1.9), layout="constrained")
    real = test[np.random.default_rng(0).choice(len(test), 72, replace=False)]
    panels = [
        ("photographs", real),
        ("drawn from 10 components", many.sample(72)[0]),
        ("drawn from 1", one.sample(72)[0]),
    ]
    for ax, (title, part) in zip(figure.subplots(1, 3), panels, strict=True):
        ax.imshow(sheet(picture(np.asarray(part, np.float64))), cmap="gray")
        ax.set(title=title, xticks=[], yticks=[])
    figure.savefig(folder / "patches.png", dpi=80)
    return {f"held-out nats per row, K = {gm.n_components}": float(gm.score(test)) for gm in (one, many)}


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")  # thirty steps are enough for a picture
    print(main(Path()))
