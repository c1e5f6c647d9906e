"""Factor analysers on 16 x 16 patches of photographs, against other covariances of as many parameters."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import streamgmm as sg
from streamgmm.cli.demo_data import grey_images


def patches(image: np.ndarray, size: int, step: int) -> np.ndarray:
    """(N, size^2) patches of an image, in grey levels from 0 to 255."""
    every = np.lib.stride_tricks.sliding_window_view(image, (size, size))[::step, ::step]
    return every.reshape(-1, size * size).astype(np.float64)


def train_and_test(size: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Patches of the left three quarters of each photograph, and of the rest: no pixel is in both."""
    images = [np.asarray(image, np.float64) for image in grey_images()]
    cuts = [image.shape[1] * 3 // 4 for image in images]
    left = [patches(image[:, :cut], size, step) for image, cut in zip(images, cuts, strict=True)]
    right = [patches(image[:, cut:], size, step) for image, cut in zip(images, cuts, strict=True)]
    return np.concatenate(left), np.concatenate(right)


def largest(D: int, budget: int, **kind: object) -> int:
    """The number of components with at most `budget` degrees of freedom."""
    q = kind.get("n_factors", 0)
    fixed, each = {
        "full": (0, D + D * (D + 1) // 2),
        "tied": (D * (D + 1) // 2, D),
        "diag": (0, 2 * D),
        "factor": (0, 2 * D + D * q - q * (q - 1) // 2),
    }[str(kind["covariance_type"])]
    return (budget + 1 - fixed) // (each + 1)


def draw(gm: sg.GaussianMixture, size: int, path: Path) -> None:
    """For each component its mean and its loadings, turned so that the first has the largest variance."""
    order = np.argsort(-gm.weights_)[:4]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots(len(order), 7, squeeze=False)
    for row, k in zip(axes, order, strict=True):
        turned = gm.loadings_[k] @ np.linalg.svd(gm.loadings_[k], full_matrices=False)[2].T
        for ax, values in zip(row, [gm.means_[k], *turned.T[:6]], strict=False):
            ax.imshow(values.reshape(size, size), cmap="gray")
        for ax in row:
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{gm.weights_[k]:.0%}")
    axes[0, 0].set_title("mean", fontsize=9)
    axes[0, 1].set_title("loadings", fontsize=9)
    figure.savefig(path, dpi=80)


def main(folder: Path, size: int = 16, step: int = 8, n_factors: int = 20) -> dict[str, float]:
    """Mean log-likelihood of held-out patches, in nats, of each kind of covariance; as a table in `factors.md` too."""
    train, test = train_and_test(size, step)
    D = size * size
    budget = 2 * (D + D * (D + 1) // 2) + 1  # of two full components
    kinds: list[dict[str, object]] = [
        {"covariance_type": "diag"},
        {"covariance_type": "tied"},
        {"covariance_type": "full"},
        {"covariance_type": "factor", "n_factors": n_factors},
    ]
    lines = ["| covariances | components | degrees of freedom | nats per row, held out |", "|---|---|---|---|"]
    found: dict[str, float] = {}
    for kind in kinds:
        gm = sg.GaussianMixture(
            largest(D, budget, **kind), **kind, reg_covar=1.0, max_iter=20, tol=1e-2, random_state=0
        ).fit(train)  # fmt: skip
        name = " ".join(str(value) for value in kind.values())
        found[str(kind["covariance_type"])] = gm.score(test)
        lines.append(f"| {name} | {gm.n_components} | {gm.mixture_.n_parameters:,} | {gm.score(test):.1f} |")
    draw(gm, size, folder / "factors.png")
    (folder / "factors.md").write_text("\n".join([*lines, ""]))
    return found


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")  # twenty steps are enough for a comparison
    print(main(Path()))
    print(Path("factors.md").read_text())
