"""Every form of the kernels gives the same numbers as the reference, whatever the shape, type, weights and layout."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from streamgmm.errors import NonFiniteRowError
from streamgmm.kernels import dispatch
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.stats import stats_from_sums

FAMILIES = ("full", "tied", "diag", "spherical")
SHAPES = [(1, 1), (1, 3), (2, 8), (3, 5), (4, 2), (7, 4), (8, 16), (9, 7), (16, 6), (21, 3), (33, 5), (64, 2)]


def mixture(name: str, K: int, D: int, seed: int = 0, spread: float = 1.0) -> Mixture:
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(K, D, D)) * 0.5 / np.sqrt(D) + np.eye(D)
    full = half @ half.transpose(0, 2, 1)
    diag = rng.uniform(0.3, 3.0, (K, D))
    covariances = {"full": full, "tied": full[0], "diag": diag, "spherical": diag[:, 0]}[name]
    return Mixture(rng.dirichlet(np.full(K, 5.0)), spread * rng.normal(size=(K, D)) + 3.0, covariances, name)


def forced(monkeypatch, form, plan, rows, weight=None, statistics=True, outputs=True):
    monkeypatch.setenv("STREAMGMM_KERNELS", form)
    n, K = len(rows), plan.coef.shape[0]
    out = {}
    if outputs:
        out = {
            "logp": np.full(n, np.nan),
            "label": np.full(n, -9),
            "resp": np.full((n, K + (plan.base > -np.inf)), np.nan),
        }
    return dispatch.run(plan, rows, weight, statistics=statistics, **out), out


def assert_equal(plan, left, right):
    (a, out_a), (b, out_b) = left, right
    mass = a.feature[:, -1:] if a.feature.size else None
    if mass is not None:
        # A logit is a sum of about D terms, each rounded: the relative error of r grows with D.
        bound = 1e-13 * max(1, len(plan.shift) / 8)
        assert (np.abs(a.feature - b.feature) <= bound * (mass + np.abs(a.feature))).all()
        np.testing.assert_allclose(a.quad, b.quad, rtol=0, atol=1e-12 * max(mass.sum(), 1e-300))
    np.testing.assert_allclose(a.totals, b.totals, rtol=1e-12, atol=1e-12 * max(a.totals[3], 1e-300))
    if out_a:
        assert (np.abs(out_a["logp"] - out_b["logp"]) <= 1e-12 * np.maximum(1, np.abs(out_a["logp"]))).all()
        np.testing.assert_allclose(out_a["resp"], out_b["resp"], rtol=1e-10, atol=1e-12)
        assert (out_a["label"] == out_b["label"]).all()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("D", "K"), SHAPES)
def test_vector_form_equals_the_reference(monkeypatch, name, D, K):
    model = mixture(name, K, D)
    plan = model._prepare().plan
    rng = np.random.default_rng(1)
    for n, weights, dtype in [
        (0, False, np.float64),
        (1, False, np.float64),
        (300, True, np.float64),
        (131, False, np.float32),
    ]:
        rows = model.sample(n, 2)[0].astype(dtype) if n else np.empty((0, D), dtype)
        weight = None
        if weights:
            weight = rng.uniform(0, 2, n)
            weight[::7] = 0.0
        both = [forced(monkeypatch, form, plan, rows, weight) for form in ("reference", "vector")]
        assert_equal(plan, *both)
        if n:
            assert both[1][0].centred is None


@pytest.mark.parametrize("name", FAMILIES)
def test_background_component(monkeypatch, name):
    model = mixture(name, 4, 3)
    plan = model._prepare().plan._replace(base=-6.0)
    rows = model.sample(500, 3)[0]
    rows[::50] += 6.0
    slow, fast = (forced(monkeypatch, form, plan, rows) for form in ("reference", "vector"))
    assert_equal(plan, slow, fast)
    assert (fast[1]["label"] == -1).any()
    np.testing.assert_allclose(fast[1]["resp"].sum(axis=1), 1.0, rtol=1e-14)


@pytest.mark.parametrize("form", ["reference", "vector"])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_found(monkeypatch, form, name, bad):
    model = mixture(name, 3, 9)
    rows = model.sample(400, 4)[0]
    rows[317, 8] = bad
    rows[390, 0] = np.nan
    with pytest.raises(NonFiniteRowError) as caught:
        forced(monkeypatch, form, model._prepare().plan, rows)
    assert caught.value.row == 317


@pytest.mark.parametrize("form", ["reference", "vector"])
@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_beyond_the_bound_go_to_the_centred_form(monkeypatch, form, name):
    model = mixture(name, 3, 5)
    plan = model._prepare().plan
    rows = model.sample(1000, 5)[0]
    rows[700] += 100.0
    whole = forced(monkeypatch, form, plan, rows)
    split = forced(monkeypatch, form, plan._replace(narrow=np.full(3, 1e-12)), rows)
    centred = forced(monkeypatch, form, plan._replace(narrow=np.full(3, np.inf)), rows)
    assert whole[0].centred is None
    assert split[0].centred is not None
    assert 0 < split[0].centred[1].sum() < 300
    assert centred[0].feature.sum() == 0
    family = model.family
    for other in (split, centred):
        for key in ("logp", "resp"):
            np.testing.assert_allclose(whole[1][key], other[1][key], rtol=1e-11, atol=1e-11)
        a, b = stats_from_sums(family, whole[0], plan), stats_from_sums(family, other[0], plan)
        for key in ("weight", "mean", "scatter"):
            scale = np.abs(getattr(a, key)).max()
            np.testing.assert_allclose(getattr(a, key), getattr(b, key), rtol=1e-10, atol=1e-11 * scale)


@pytest.mark.parametrize("form", ["reference", "vector"])
def test_layout_of_the_rows_does_not_matter(monkeypatch, form):
    model = mixture("full", 3, 5)
    plan = model._prepare().plan
    rows = model.sample(200, 6)[0]
    frozen = rows.copy()
    frozen.flags.writeable = False
    reference = forced(monkeypatch, form, plan, rows)[0].feature
    for other in (frozen, np.asfortranarray(rows), np.repeat(rows, 2, axis=0)[::2]):
        assert (forced(monkeypatch, form, plan, other)[0].feature == reference).all()


@pytest.mark.parametrize("form", ["reference", "vector"])
def test_weights_are_repetitions(monkeypatch, form):
    model = mixture("diag", 4, 3)
    plan = model._prepare().plan
    rows = model.sample(100, 7)[0]
    times = np.arange(100) % 3
    a = forced(monkeypatch, form, plan, rows, times.astype(float), outputs=False)[0]
    b = forced(monkeypatch, form, plan, np.repeat(rows, times, axis=0), outputs=False)[0]
    np.testing.assert_allclose(a.feature, b.feature, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(a.totals[:4], b.totals[:4], rtol=1e-12)
    assert a.totals[4] == (times > 0).sum()


def test_a_component_without_weight_takes_no_part(monkeypatch):
    model = Mixture([0.5, 0.0, 0.5], [[0.0], [0.1], [3.0]], [[1.0], [1.0], [1.0]], "diag")
    rows = np.linspace(-3, 6, 77)[:, None]
    slow, fast = (forced(monkeypatch, form, model._prepare().plan, rows) for form in ("reference", "vector"))
    assert (fast[0].feature[1] == 0).all()
    assert (slow[0].feature[1] == 0).all()
    np.testing.assert_allclose(slow[1]["logp"], fast[1]["logp"], rtol=1e-14)


def test_the_form_can_be_forced_and_a_wrong_name_is_refused(monkeypatch):
    monkeypatch.setenv("STREAMGMM_KERNELS", "plain")
    assert dispatch.form() == "reference"
    monkeypatch.setenv("STREAMGMM_KERNELS", "fast")
    with pytest.raises(ValueError, match="STREAMGMM_KERNELS must be one of auto, reference, vector"):
        dispatch.form()


def test_where_the_vector_form_does_not_compile_the_reference_serves(monkeypatch, caplog):
    def refuses(*arguments):
        raise TypeError("no such instruction")

    from streamgmm.kernels.simd import dense

    monkeypatch.setattr(dense, "dense", refuses)
    monkeypatch.delenv("STREAMGMM_KERNELS", raising=False)
    dispatch._why_not.cache_clear()
    try:
        with caplog.at_level(logging.INFO, "streamgmm.kernels.dispatch"):
            assert dispatch.form() == "reference"
            assert dispatch.form() == "reference"
        assert len(caplog.records) == 1
    finally:
        dispatch._why_not.cache_clear()


def test_warmup_compiles_every_form():
    dispatch.warmup()
    if dispatch.form() == "reference":
        pytest.skip("there is nothing to compile")
    from streamgmm.kernels.simd import centred as centred_vector
    from streamgmm.kernels.simd import dense, few_features, screened, screening

    for kernel in (centred_vector._panels, few_features._batches, dense._panels, screening._matter, screened._spans):
        assert len(kernel.signatures) >= 2  # both types of rows


@pytest.mark.parametrize("D", [1, 2, 3])
def test_rows_in_single_precision_are_read_as_they_are(monkeypatch, D):
    """Few features come in whole vectors, the last rows one by one; both types in the same way."""
    plan = mixture("full", 3, D)._prepare().plan
    rows = np.random.default_rng(D).normal(size=(77, D)).astype(np.float32)
    slow, single, double = (
        forced(monkeypatch, form, plan, r)
        for form, r in (("reference", rows), ("vector", rows), ("vector", rows.astype(float)))
    )
    np.testing.assert_array_equal(single[0].feature, double[0].feature)
    np.testing.assert_array_equal(single[1]["logp"], double[1]["logp"])
    np.testing.assert_allclose(single[1]["logp"], slow[1]["logp"], rtol=1e-12)
