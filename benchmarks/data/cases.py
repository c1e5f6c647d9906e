"""The rows of the table: data, and the start that everybody is given.

Generated rows come from mixtures whose components have deviations of 0.5 to 1.5, "width 1", about normal centres of 1
or 3 times that. Everybody starts from random rows as means, with equal weights and the covariance of all rows in every
component: a start that knows nothing, in which every component overlaps every other, as they do for the first
iterations. The photo patches start from a fit on its way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.data.cache import cache


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes
    ----------
    n, D, K : rows, features, components
    kind : covariance type
    spread : standard deviation of the centres in units of the components' width; 0 for the photo patches
    iterations : EM iterations of a run; `slow` those of peers that need minutes
    """

    n: int
    D: int
    K: int
    kind: str
    spread: float
    slow: int = 2
    iterations: int = 10
    peers: tuple[str, ...] = ("oneDAL", "scikit-learn")

    @property
    def name(self) -> str:
        data = "photo patches" if self.spread == 0 else f"spread {self.spread:g}"
        return f"{self.n:,} x {self.D}, K = {self.K}, {self.kind}, {data}"

    @property
    def flop(self) -> float:
        """Floating-point operations of both matrix products, per row and iteration, in the dense feature form."""
        p = {"full": self.D * (self.D + 1) // 2 + self.D, "diag": 2 * self.D, "tied": self.D, "spherical": self.D + 1}
        return 4.0 * self.K * (p[self.kind] + 1)


_BOTH = (1.0, 3.0)
_SHAPES = [
    (1_000_000, 2, 8, "full"), (1_000_000, 8, 16, "full"), (1_000_000, 8, 64, "full"), (300_000, 16, 64, "full"),
    (300_000, 32, 32, "full"), (1_000_000, 8, 16, "diag"), (300_000, 32, 64, "diag"), (300_000, 32, 32, "tied"),
    (1_000_000, 8, 16, "spherical"),
]  # fmt: skip


def _peers(kind: str, spread: float) -> tuple[str, ...]:
    """scikit-learn's time does not depend on the spread, and oneDAL has no tied or spherical covariances."""
    if kind not in ("full", "diag"):
        return ("scikit-learn",)
    return ("oneDAL", "scikit-learn") if spread == 1.0 else ("oneDAL",)


CASES = [
    Case(n, D, K, kind, spread, slow=1 if K * D >= 512 else 2, peers=_peers(kind, spread))
    for n, D, K, kind in _SHAPES
    for spread in _BOTH
]
CASES.insert(10, Case(100_000, 63, 200, "full", 0.0, slow=1))
ALL_PEERS = ("oneDAL", "scikit-learn", "pomegranate", "Spark")
CASES.append(Case(100_000, 8, 16, "full", 1.0, peers=ALL_PEERS))
"""The row for everybody: pomegranate and Spark need too long for the others. Spark takes no start, it makes its own."""
TINY = [Case(20_000, 3, 4, "full", 1.0, slow=3, iterations=3, peers=("scikit-learn",))]


def folder(case: Case) -> Path:
    """Data and start of a case as .npy files, made once."""
    where = cache() / "data" / f"{case.kind}-{case.n}-{case.D}-{case.K}-{case.spread:g}"
    if not (where / "ready").exists():
        where.mkdir(parents=True, exist_ok=True)
        X = _patches(case.n) if case.spread == 0 else _mixture(case)
        start = _fitted(X, case) if case.spread == 0 else _from_rows(X, case)
        for name, array in {"X": X, **start}.items():
            np.save(where / f"{name}.npy", array)
        (where / "ready").touch()
    return where


def _mixture(case: Case) -> np.ndarray:
    """Rows of a mixture in random order: normal centres, and in each component axes of deviation 0.5 to 1.5.

    The axes are turned at random where covariances are full or tied, and lie along the features otherwise.
    """
    rng = np.random.default_rng(case.D * 1000 + case.K)
    means = case.spread * rng.normal(size=(case.K, case.D))
    X = np.empty((case.n, case.D))
    for k, part in enumerate(np.array_split(rng.permutation(case.n), case.K)):
        if k == 0 or case.kind != "tied":
            shape = np.diag(rng.uniform(0.5, 1.5, case.D)) if case.kind != "spherical" else np.eye(case.D)
            if case.kind in ("full", "tied"):
                shape = np.linalg.qr(rng.normal(size=(case.D, case.D)))[0] @ shape
        X[part] = means[k] + rng.normal(size=(len(part), case.D)) @ shape.T
    return X


def _patches(n: int) -> np.ndarray:
    """Grey 8 x 8 patches of the photographs bundled with scikit-learn: dithered, centred, one pixel dropped."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    parts = []
    for image in load_sample_images().images:
        grey = image.astype(np.float64).mean(axis=2)
        windows = np.lib.stride_tricks.sliding_window_view(grey, (8, 8)).reshape(-1, 64)
        parts.append(windows[rng.choice(len(windows), n // 2, replace=False)])
    X = np.concatenate(parts)
    X += rng.uniform(-0.5, 0.5, X.shape)
    X -= X.mean(axis=1, keepdims=True)
    return np.ascontiguousarray(X[rng.permutation(len(X)), :63])


def _from_rows(X: np.ndarray, case: Case) -> dict[str, np.ndarray]:
    """Random rows as means, equal weights, and for every component the covariance of all rows."""
    rng = np.random.default_rng(7)
    overall = np.cov(X.T).reshape(case.D, case.D)
    variances = np.diagonal(overall)
    covariances = {
        "full": np.tile(overall, (case.K, 1, 1)),
        "tied": overall,
        "diag": np.tile(variances, (case.K, 1)),
        "spherical": np.full(case.K, variances.mean()),
    }[case.kind]
    means = X[np.sort(rng.choice(case.n, case.K, replace=False))]
    return {"weights": np.full(case.K, 1.0 / case.K), "means": means, "covariances": covariances}


def _fitted(X: np.ndarray, case: Case) -> dict[str, np.ndarray]:
    """The parameters eight iterations after random rows: a fit on its way, in which no component has collapsed yet."""
    import warnings

    import streamgmm as sg

    first = _from_rows(X, case)
    start = sg.GaussianMixture(
        case.K, covariance_type=case.kind, max_iter=8, tol=0.0, reg_covar=0.0, solver="exact",
        weights_init=first["weights"], means_init=first["means"], precisions_init=np.linalg.inv(first["covariances"]),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start.fit(X)
    return {"weights": start.weights_, "means": start.means_, "covariances": start.covariances_}
