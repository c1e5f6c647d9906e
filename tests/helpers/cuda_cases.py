"""What tests of the card's kernels share: mixtures, rows, and how sums are compared."""

from __future__ import annotations

import re
import subprocess

import numpy as np

from streamgmm.kernels import dispatch
from streamgmm.kernels.cuda.base import source
from streamgmm.mixture.mixture import Mixture


def mixture(family, K, D, seed=0, noise=0.0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(K, D, D)) * 0.15 + np.eye(D)
    full = root @ root.transpose(0, 2, 1)
    covariances = {
        "full": full,
        "tied": full[0],
        "diag": np.einsum("kii->ki", full).copy(),
        "spherical": np.einsum("kii->k", full) / D,
    }[family]
    weights = rng.dirichlet(np.full(K, 5.0)) * (1.0 - noise)
    means = rng.normal(size=(K, D)) * 2.0 + 7.0
    box = np.array([np.full(D, -20.0), np.full(D, 30.0)]) if noise else None
    return Mixture(weights, means, covariances, family, **({"noise_weight": noise, "box": box} if noise else {}))


def rows_of(n, D, seed=1, dtype=np.float64):
    return (np.random.default_rng(seed).normal(size=(n, D)) * 2.5 + 7.0).astype(dtype)


def check(got, expected, plan, tolerance=1e-12):
    """Sums and totals agree, each to `tolerance` of the largest of its kind; entropies, which may be 0, per row."""

    def near(a, b, least=1e-300):
        assert a.shape == b.shape
        if b.size:
            assert np.abs(a - b).max() <= tolerance * max(np.abs(b).max(), least), (a, b)

    D = len(plan.whiten)
    p = plan.coef.shape[1]
    for kind in (slice(p - 1, p), slice(p - 1 - D, p - 1), slice(0, p - 1 - D)):
        near(got.feature[:, kind], expected.feature[:, kind])
    near(got.quad, expected.quad)
    for i in range(5):
        near(got.totals[i : i + 1], expected.totals[i : i + 1], expected.totals[3] if i in (1, 2) else 1e-300)


def run(plan, rows, weight=None, **outputs):
    return dispatch.run(plan, rows, weight, statistics=True, **outputs)


def same_bits(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip((a.feature, a.quad, a.totals), (b.feature, b.quad, b.totals), strict=True)
    )


def weights_of(n):
    return np.random.default_rng(3).integers(0, 3, n).astype(float)


def nvcc(tmp_path, file, defines, architecture):
    """What ptxas says of each kernel: {name: (registers, bytes of spill stores)}."""
    (tmp_path / "kernel.cu").write_text(source(file))
    command = [
        "nvcc", f"-arch={architecture}", "-std=c++17", "-cubin", "-Xptxas", "-v", "-o", "kernel.cubin", "kernel.cu",
        *(f"-D{name}={value}" for name, value in defines.items()),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    pattern = r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers"
    return {name: (int(used), int(spilled)) for name, spilled, used in re.findall(pattern, said, re.DOTALL)}
