"""Background subtraction over a stream of frames: what a pixel usually is, and what is not that.

Frames are cut from china.jpg with changing light and sensor noise; a disc wanders over them. One mixture
over (row, column, red, green, blue) learns on the way: score first, learn second.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images

import streamgmm as sg

HEIGHT, WIDTH, RADIUS = 60, 90, 9


def frames(n: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames (HEIGHT, WIDTH, 3) and masks of the moving object."""
    china, flower = (image[::7, ::7][:HEIGHT, :WIDTH].astype(np.float64) for image in load_sample_images().images)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for t in range(n):
        cx, cy = 10 + (t * 3.0) % (WIDTH - 20), HEIGHT / 2 + 15 * np.sin(t / 7)
        mask = (x - cx) ** 2 + (y - cy) ** 2 <= RADIUS**2 if t >= n // 3 else np.zeros((HEIGHT, WIDTH), bool)
        frame = np.where(mask[..., None], [200.0, 30.0, 60.0] + 0.1 * flower, china * (1 + 0.03 * np.sin(t / 11)))
        yield frame + 4 * rng.normal(size=frame.shape), mask


def main(folder: Path, n: int = 60) -> dict[str, float]:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    place = np.stack([y.ravel(), x.ravel()], axis=1)
    gm = sg.GaussianMixture(40, reg_covar=9.0, half_life=30 * HEIGHT * WIDTH, random_state=0)
    hits, misses, falls, total = 0, 0, 0, 0
    threshold = -np.inf
    for t, (frame, mask) in enumerate(frames(n)):
        rows = np.concatenate([place, frame.reshape(-1, 3)], axis=1)
        if t >= n // 3:  # by now the background is known
            found = gm.score_samples(rows).reshape(HEIGHT, WIDTH) < threshold
            hits, misses = hits + (found & mask).sum(), misses + (~found & mask).sum()
            falls, total = falls + (found & ~mask).sum(), total + (~mask).sum()
            gm.partial_fit(rows[~found.ravel()])  # what moves is not learnt
        else:
            gm.partial_fit(rows)
            if t == n // 3 - 1:
                threshold = np.percentile(gm.score_samples(rows), 0.2)

    figure = Figure(figsize=(9, 2.3), layout="constrained")
    panels = [("a frame", frame.clip(0, 255) / 255), ("unlikely pixels", found), ("truth", mask)]
    for ax, (title, image) in zip(figure.subplots(1, 3), panels, strict=True):
        ax.imshow(image, cmap="gray")
        ax.set(title=title, xticks=[], yticks=[])
    figure.savefig(folder / "background.png", dpi=80)
    return {"object found": float(hits / (hits + misses)), "false alarms": float(falls / total)}


if __name__ == "__main__":
    print(main(Path()))
