"""Segment a photograph by colour: six Gaussians over the pixels of china.jpg."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

import streamgmm as sg


def main(folder: Path) -> dict[str, float]:
    photo = load_sample_image("china.jpg")
    pixels = photo.reshape(-1, 3).astype(np.float32)  # 273,280 rows of red, green, blue
    gm = sg.GaussianMixture(6, reg_covar=1.0, n_init=3, tol=1e-4, max_iter=60, random_state=0).fit(pixels)
    labels = gm.predict(pixels)
    painted = gm.means_[labels].reshape(photo.shape).clip(0, 255).astype(np.uint8)

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    for ax, image, title in zip(
        figure.subplots(1, 2), (photo, painted), ("photograph", "means of 6 components"), strict=True
    ):
        ax.imshow(image)
        ax.set(title=title, xticks=[], yticks=[])
    figure.savefig(folder / "segmentation.png", dpi=80)
    explained = 1 - ((pixels - gm.means_[labels]) ** 2).sum() / ((pixels - pixels.mean(axis=0)) ** 2).sum()
    return {"segments": len(np.unique(labels)), "variance explained": float(explained)}


if __name__ == "__main__":
    print(main(Path()))
