"""The rows of the table: data, and the start that everybody is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.environments import cache


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
    """Rows of a mixture in random order: Wishart covariances of mean 1 (2 D degrees of freedom), normal centres."""
    rng = np.random.default_rng(case.D * 1000 + case.K)
    means = case.spread * rng.normal(size=(case.K, case.D))
    X = np.empty((case.n, case.D))
    for k, part in enumerate(np.array_split(rng.permutation(case.n), case.K)):
        half = rng.normal(size=(case.D, 2 * case.D)) / np.sqrt(2 * case.D)
        shape = np.linalg.cholesky(half @ half.T) if case.kind == "full" else np.diag(rng.uniform(0.5, 1.5, case.D))
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
    """Random rows as centres, every row to its nearest centre, one M-step (and a tenth of the overall covariance)."""
    rng = np.random.default_rng(7)
    centres = X[np.sort(rng.choice(case.n, case.K, replace=False))]
    X = X[:100_000]
    nearest = np.argmax(X @ centres.T - 0.5 * (centres**2).sum(axis=1), axis=1)
    count = np.bincount(nearest, minlength=case.K) / len(X)
    means = np.stack([X[nearest == k].mean(axis=0) for k in range(case.K)])
    within = np.stack([np.cov(X[nearest == k].T, bias=True).reshape(case.D, case.D) for k in range(case.K)])
    within += 0.1 * np.cov(X.T).reshape(case.D, case.D)
    variances = np.diagonal(within, axis1=1, axis2=2)
    covariances = {
        "full": within,
        "tied": np.tensordot(count, within, 1),
        "diag": variances,
        "spherical": variances.mean(axis=1),
    }[case.kind]
    return {"weights": count, "means": means, "covariances": np.ascontiguousarray(covariances)}


def _fitted(X: np.ndarray, case: Case) -> dict[str, np.ndarray]:
    """The parameters after eight iterations from scikit-learn's k-means on a sample: a fit on its way."""
    import streamgmm as sg

    start = sg.GaussianMixture(case.K, covariance_type=case.kind, max_iter=8, tol=0.0, random_state=0, solver="exact")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start.fit(X)
    return {"weights": start.weights_, "means": start.means_, "covariances": start.covariances_}
