"""Statistics of the pairs that matter, on an emulated card and a real one: against the dense product and the host."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from streamgmm.kernels.cuda import form, products, sparse
from streamgmm.kernels.plain import dropping, reference
from streamgmm.mixture._evaluator import Prepared
from streamgmm.mixture.mixture import Mixture
from tests.helpers.cuda_cases import check, nvcc, run, same_bits, weights_of


def separated(K, D, seed=0, weights=None, **noise):
    """Components on the corners of a lattice, some 20 deviations apart."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(K, D, D)) * 0.3 / np.sqrt(D) + np.eye(D)
    weights = rng.dirichlet(np.full(K, 5.0)) if weights is None else np.asarray(weights)
    side = next(b for b in range(2, K + 2) if b**D >= K)
    means = 20.0 * (np.arange(K)[:, None] // side ** np.minimum(np.arange(D), 30) % side) + 7.0
    return Mixture(weights * (1.0 - noise.get("noise_weight", 0.0)), means, root @ root.transpose(0, 2, 1), **noise)


def rows_near(model, n, seed=1, dtype=np.float64, components=None):
    """n rows, in turn from all components, or from some."""
    components = np.arange(len(model.means)) if components is None else np.asarray(components)
    noise = np.random.default_rng(seed).normal(size=(n, model.means.shape[1]))
    return (model.means[components[np.arange(n) % len(components)]] + noise).astype(dtype)


@pytest.fixture
def made(monkeypatch):
    """Which sums a run made, "sparse" or "dense"; nothing is fused."""
    found = []

    def watch(kind, name):
        class Watched(kind):
            def __init__(self, *arguments):
                found.append(name)
                super().__init__(*arguments)

        return Watched

    monkeypatch.setattr(form, "fused_shape", lambda *_: None)
    monkeypatch.setattr(products, "SparseSums", watch(products.SparseSums, "sparse"))
    monkeypatch.setattr(products, "_DenseSums", watch(products._DenseSums, "dense"))
    return found


@pytest.fixture
def taken(made, monkeypatch):
    """`made`, where sums are sparse whatever part of the pairs matters."""
    monkeypatch.setattr(sparse, "most_kept", lambda *_: 1.0)
    return made


def compared(card, monkeypatch, taken, plan, rows, weight=None):
    """Sums of the kept pairs, which are those of the dense product and of the host, and have the same bits twice."""
    there, w = card.upload(rows), None if weight is None else card.upload(weight)
    got = run(plan, there, w)
    assert taken == ["sparse"]
    assert same_bits(got, run(plan, there, w))
    with monkeypatch.context() as patch:
        patch.setattr(sparse, "most_kept", lambda *_: 0.0)
        dense = run(plan, there, w)
    assert taken == ["sparse", "sparse", "dense"]
    check(got, dense, plan)
    check(got, reference.run(plan, rows, weight, statistics=True), plan)
    return got


@pytest.mark.parametrize(
    ("D", "K", "n"), [(3, 1, 70), (3, 40, 203), (9, 7, 203), (20, 5, 203), (40, 3, 50), (63, 5, 80)]
)
def test_sums_are_those_of_the_dense_product_and_of_the_host(card, monkeypatch, taken, D, K, n):
    model = separated(K, D)
    compared(card, monkeypatch, taken, Prepared.from_model(model).plan, rows_near(model, n))


def test_more_patches_than_warps(card, monkeypatch, taken):
    monkeypatch.setattr(sparse, "slices", lambda *_: 1)
    model = separated(2, 130)
    compared(card, monkeypatch, taken, Prepared.from_model(model).plan, rows_near(model, 34))


def test_two_hundred_components_of_63_features(card, monkeypatch):
    monkeypatch.setattr(sparse, "slices", lambda *_: 1)
    model = separated(200, 63)
    plan, rows = Prepared.from_model(model).plan, rows_near(model, 210)
    raw = products.products(card, plan, (card.upload(rows), None), True, form.Answers(None, None, None))
    assert raw.dropped > 0.0
    expected = reference.run(plan, rows, None, statistics=True)
    assert np.abs(raw.feature - expected.feature).max() <= 1e-12 * np.abs(expected.feature).max()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_weights_noise_storage_and_batches_that_do_not_divide(card, monkeypatch, taken, dtype):
    monkeypatch.setattr(products, "cut_of", lambda *_: products.Cut(56, 64, 2))
    box = np.array([np.full(9, -50.0), np.full(9, 300.0)])
    model = separated(5, 9, noise_weight=0.2, box=box)
    rows, weight = rows_near(model, 203, dtype=dtype), weights_of(203)
    rows[40] = 150.0  # background
    rows[np.flatnonzero(weight == 0)[0]] = np.nan
    got = compared(card, monkeypatch, taken, Prepared.from_model(model).plan, rows, weight)
    assert got.totals[4] == (weight > 0).sum()


def test_all_rows_on_one_component(card, monkeypatch, taken):
    """All rows that a warp looks through are listed, and the other component is too light to have any left out."""
    monkeypatch.setattr(sparse, "slices", lambda *_: 1)
    model = separated(2, 3, weights=[1e-9, 1.0 - 1e-9])
    compared(card, monkeypatch, taken, Prepared.from_model(model).plan, rows_near(model, 1300, components=[1]))


def test_a_component_without_rows_has_everything_summed(card, taken):
    model = separated(5, 9)
    plan, rows = Prepared.from_model(model).plan, rows_near(model, 203, components=[0, 1, 2, 3])
    got = run(plan, card.upload(rows))
    assert taken == ["sparse", "dense"]
    expected = reference.run(plan, rows, None, statistics=True)
    check(got, expected, plan)
    assert expected.feature[4, -1] < 1e-40
    assert np.allclose(got.feature[4], expected.feature[4], rtol=1e-9, atol=0.0)


def test_of_a_light_component_nothing_is_left_out(card, taken):
    """One that stands where another does, with 1e-25 of its weight: it lives on what others may do without."""
    model = separated(4, 9)
    weights, means, covariances = np.append(model.weights * (1.0 - 1e-25), 1e-25), model.means, model.covariances
    model = Mixture(weights, np.append(means, means[:1], axis=0), np.append(covariances, covariances[:1], axis=0))
    plan, rows = Prepared.from_model(model).plan, rows_near(model, 203, components=range(4))
    assert dropping.light(plan).tolist() == [False] * 4 + [True]
    got, expected = run(plan, card.upload(rows)), reference.run(plan, rows, None, statistics=True)
    assert taken == ["sparse"]
    check(got, expected, plan)
    assert 0.0 < expected.feature[4, -1] < 1e-20
    assert np.abs(got.feature[4] - expected.feature[4]).max() <= 1e-12 * np.abs(expected.feature[4]).max()


def test_batches_unlike_the_first_are_summed_all_the_same(card, monkeypatch, taken):
    monkeypatch.setattr(products, "cut_of", lambda *_: products.Cut(56, 64, 1))
    monkeypatch.setattr(sparse, "most_kept", lambda *_: 0.25)
    means = np.where(np.arange(5) == 0, 0.0, 30.0)[:, None] * np.ones(9)
    model = Mixture(np.full(5, 0.2), means, np.linspace(1.0, 1.5, 5)[:, None, None] * np.eye(9))
    rows = np.concatenate([rows_near(model, 64, components=[0]), rows_near(model, 139, components=[1, 4])])
    plan = Prepared.from_model(model).plan
    compared(card, monkeypatch, taken, plan, rows)


def test_rows_that_are_declined_count_nowhere(card, monkeypatch, taken):
    model = separated(5, 9)
    covariances = model.covariances.copy()
    covariances[2] *= 1e-6
    model = Mixture(model.weights, model.means, covariances)
    plan, rows = Prepared.from_model(model).plan, rows_near(model, 203)
    rows[2::5] = model.means[2] + 1e-3 * (rows[2::5] - model.means[2])
    got = compared_left(card, taken, plan, rows)
    assert got.left == len(rows[2::5])


def compared_left(card, taken, plan, rows):
    """What the card makes of the rows that it does not leave to the host, of all and of these alone."""
    nothing = form.Answers(None, None, None)
    got = products.products(card, plan, (card.upload(rows), None), True, nothing)
    others = np.ascontiguousarray(rows[~got.declined()])
    alone = products.products(card, plan, (card.upload(others), None), True, nothing)
    assert taken == ["sparse", "sparse"]
    assert alone.left == 0
    assert np.abs(got.feature - alone.feature).max() <= 1e-13 * np.abs(alone.feature).max()
    return got


def test_the_data_decide_between_the_two(card, made):
    scales = np.linspace(1.0, 1.4, 8)[:, None, None]
    apart, together = separated(8, 63), Mixture(np.full(8, 1 / 8), np.zeros((8, 63)), scales * np.eye(63))
    for model in (apart, together):
        run(Prepared.from_model(model).plan, card.upload(rows_near(model, 40)))
    assert made == ["sparse", "dense"]
    assert not sparse.may_serve(form.Family.FULL, 63, 4, 2080)
    assert not sparse.may_serve(form.Family.DIAG, 63, 200, 128)


def test_answers_are_exact_whatever_is_left_out(card, taken):
    model = separated(5, 9)
    plan, rows = Prepared.from_model(model).plan, rows_near(model, 70)
    outputs = {"logp": card.empty(70), "resp": card.empty((70, 5)), "label": card.empty(70, np.int64)}
    expected = {"logp": np.empty(70), "resp": np.empty((70, 5)), "label": np.empty(70, np.int64)}
    run(plan, card.upload(rows), **outputs)
    reference.run(plan, rows, None, statistics=True, **expected)
    assert taken == ["sparse"]
    assert ((expected["resp"] > 0.0) & (expected["resp"] < np.exp(-dropping.cutoff_of(5)))).any()
    # The reference has 0 below e^-690 = 2e-300.
    assert np.allclose(card.download(outputs["resp"]), expected["resp"], rtol=1e-6, atol=1e-299)
    assert np.abs(card.download(outputs["logp"]) - expected["logp"]).max() < 1e-10
    assert (card.download(outputs["label"]) == expected["label"]).all()


def test_one_copy_each_way_and_the_memory_that_was_told(emulated, monkeypatch, taken):
    monkeypatch.setattr(products, "cut_of", lambda *_: products.Cut(56, 64, 1))
    model = separated(5, 9)
    plan, rows = Prepared.from_model(model).plan, emulated.upload(rows_near(model, 203))
    emulated.uploaded = emulated.downloaded = 0
    held = emulated._held
    run(plan, rows)
    record, p = 8, plan.coef.shape[1]
    assert emulated.downloaded == 8 * (record + record + plan.coef.size)  # the first batch's totals; everything
    assert emulated.uploaded == 8 * (5 * 56 + 9 * 9 + 9 + 3 * 5 + 56 // 2)
    assert emulated._peak - held <= form.scratch_bytes(plan.family, 9, 9, 5, fused=False) + 203
    assert p == 55


def test_light_components_have_everything_summed():
    weights = [0.4, 0.6 - 1e-3 / 4, 1e-3 / 4 - 1e-9, 1e-9]
    plan = Prepared.from_model(separated(4, 12, weights=weights)).plan
    assert dropping.light(plan).tolist() == [False, False, True, True]
    mass, exempt = np.array([1.0, 2.0, 1e-30, 0.0]), dropping.light(plan)
    assert [dropping.negligible(mass, exempt, dropped) for dropped in (1e-14, 1e-12, 1e-10)] == [True, True, False]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_source_compiles_for_cards(tmp_path, architecture):
    older = {"MMA8": "1"} if architecture == "sm_80" else {}
    found = nvcc(tmp_path, "sparse.cu", {"D": "63", "P": "2080", "K": "200", **older}, architecture)
    assert {"turn", "gathered", "collect"} <= found.keys()
    assert all(spilled == 0 for _, spilled in found.values())
