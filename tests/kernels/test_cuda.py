"""The kernels for a graphics card, against the NumPy form of the E-step: emulated always, on a card where there is one.

``pytest -m gpu`` runs the same tests on a real card.
"""

from __future__ import annotations

import numpy as np
import pytest

from streamgmm.errors import DeviceError
from streamgmm.kernels import dispatch
from streamgmm.kernels.cuda import backend as backends
from streamgmm.kernels.cuda import form
from streamgmm.kernels.plain import reference
from streamgmm.mixture._evaluator import Prepared
from streamgmm.mixture.mixture import Mixture

FAMILIES = ("full", "tied", "diag", "spherical")


@pytest.fixture(params=["emulated", pytest.param("real", marks=pytest.mark.gpu)])
def card(request):
    """An emulated card, and a real one."""
    if request.param == "emulated":
        return request.getfixturevalue("emulated")
    try:
        return backends.get("cuda")
    except DeviceError as error:
        pytest.skip(str(error))


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


SHAPES = [(1, 1), (2, 8), (3, 5), (8, 13), (9, 3)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("D", "K"), SHAPES)
def test_sums_are_those_of_the_host(card, family, D, K):
    plan = Prepared.of(mixture(family, K, D)).plan
    rows = rows_of(203, D)
    got = dispatch.run(plan, card.upload(rows), None, statistics=True)
    assert form.fused_shape(card, plan) is not None
    check(got, reference.run(plan, rows, None, statistics=True), plan)


def answers(card, n, K):
    return {"logp": card.empty(n), "resp": card.empty((n, K)), "label": card.empty(n, np.int64)}


def host_answers(n, K):
    return {"logp": np.empty(n), "resp": np.empty((n, K)), "label": np.empty(n, np.int64)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("D", "K"), [(1, 1), (8, 13), (9, 40)])
def test_answers_and_sums_of_the_products_form(card, family, D, K):
    n = 203
    plan = Prepared.of(mixture(family, K, D, noise=0.1)).plan
    rows, weight = rows_of(n, D), np.random.default_rng(3).integers(0, 3, n).astype(float)
    out, expected = answers(card, n, K + 1), host_answers(n, K + 1)
    got = dispatch.run(plan, card.upload(rows), card.upload(weight), statistics=True, **out)
    check(got, reference.run(plan, rows, weight, statistics=True, **expected), plan)
    assert np.abs(card.download(out["logp"]) - expected["logp"]).max() < 1e-11
    assert np.abs(card.download(out["resp"]) - expected["resp"]).max() < 1e-11
    assert (card.download(out["label"]) == expected["label"]).all()
