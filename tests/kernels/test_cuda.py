"""The kernels for a graphics card, against the NumPy form of the E-step: emulated always, on a card where there is one.

``pytest -m gpu`` runs the same tests on a real card.
"""

from __future__ import annotations

import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from streamgmm.errors import DeviceError, NonFiniteRowError
from streamgmm.kernels.cuda import backend as backends
from streamgmm.kernels.cuda import form, layout, products
from streamgmm.kernels.cuda.base import source
from streamgmm.kernels.plain import reference
from streamgmm.kernels.plan import Family
from streamgmm.mixture._evaluator import Prepared
from streamgmm.mixture.mixture import Mixture
from streamgmm.mixture.stats import stats_from_sums
from streamgmm.utils.affine import Affine
from tests.helpers.cuda_cases import check, mixture, nvcc, rows_of, run, same_bits, weights_of

FAMILIES = ("full", "tied", "diag", "spherical")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("D", "K"), [(1, 1), (2, 8), (3, 5), (8, 13), (9, 3)])
def test_fused_sums_are_those_of_the_host(card, family, D, K):
    plan = Prepared.from_model(mixture(family, K, D)).plan
    rows = rows_of(203, D)
    got = run(plan, card.upload(rows))
    assert form.fused_shape(card, plan) is not None
    check(got, reference.run(plan, rows, None, statistics=True), plan)
    assert same_bits(got, run(plan, card.upload(rows)))


@pytest.mark.parametrize(
    ("D", "K", "choice"),
    [(8, 37, {"ms": 1, "ns": 1}), (8, 60, {"ns": 4}), (20, 9, {"ms": 4, "warps": 8}), (12, 9, {"rt": 2})],
)  # fmt: skip
def test_every_way_to_split_the_sums(card, monkeypatch, D, K, choice):
    plan = Prepared.from_model(mixture("full", K, D)).plan
    shapes = layout.shapes(plan.family, D, K, card.shared_bytes)
    chosen = next(s for s in shapes if all(getattr(s, name) == value for name, value in choice.items()))
    monkeypatch.setattr(layout, "shape", lambda *_: chosen)
    rows = rows_of(170, D)
    check(run(plan, card.upload(rows)), reference.run(plan, rows, None, statistics=True), plan)


@pytest.mark.parametrize("family", ["full", "diag"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_fused_weights_noise_and_storage(card, family, dtype):
    plan = Prepared.from_model(mixture(family, 5, 8, noise=0.2)).plan
    rows, weight = rows_of(203, 8, dtype=dtype), weights_of(203)
    absent = np.flatnonzero(weight == 0)
    rows[absent[0]] = np.nan
    rows[absent[1]] = np.inf
    expected = reference.run(plan, rows, weight, statistics=True)
    check(run(plan, card.upload(rows), card.upload(weight)), expected, plan)
    assert expected.totals[4] == (weight > 0).sum()
    heavy = rows[weight == 2]
    twice = run(plan, card.upload(np.repeat(heavy, 2, axis=0)), np.ones(2 * len(heavy)))
    once = run(plan, card.upload(heavy), np.full(len(heavy), 2.0))
    assert (twice.totals[4], once.totals[4]) == (2 * len(heavy), len(heavy))
    check(
        twice._replace(totals=twice.totals * [1, 1, 1, 1, 0]), once._replace(totals=once.totals * [1, 1, 1, 1, 0]), plan
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rows_that_begin_anywhere(card, dtype):
    plan = Prepared.from_model(mixture("full", 5, 8)).plan
    rows = rows_of(77, 8, dtype=dtype)
    expected = reference.run(plan, rows, None, statistics=True)
    flat = np.concatenate([np.zeros(1, dtype), rows.ravel()])
    shifted = card.upload(flat)[1:].reshape(77, 8)
    assert card.address(shifted) % 16 == np.dtype(dtype).itemsize
    check(run(plan, shifted), expected, plan)
    assert same_bits(run(plan, shifted), run(plan, card.upload(rows)))


def answers(card, n, K):
    return {"logp": card.empty(n), "resp": card.empty((n, K)), "label": card.empty(n, np.int64)}


def host_answers(n, K):
    return {"logp": np.empty(n), "resp": np.empty((n, K)), "label": np.empty(n, np.int64)}


@pytest.mark.parametrize(("family", "D", "K"), [*((f, 8, 13) for f in FAMILIES), ("full", 1, 1), ("tied", 9, 70)])
def test_answers_and_sums_of_the_products_form(card, family, D, K):
    n = 203
    plan = Prepared.from_model(mixture(family, K, D, noise=0.1)).plan
    rows, weight = rows_of(n, D), weights_of(n)
    out, expected = answers(card, n, K + 1), host_answers(n, K + 1)
    got = run(plan, card.upload(rows), card.upload(weight), **out)
    check(got, reference.run(plan, rows, weight, statistics=True, **expected), plan)
    assert np.abs(card.download(out["logp"]) - expected["logp"]).max() < 1e-11
    assert np.abs(card.download(out["resp"]) - expected["resp"]).max() < 1e-11
    assert (card.download(out["label"]) == expected["label"]).all()


def test_products_take_many_batches(card, monkeypatch):
    plan = Prepared.from_model(mixture("tied", 3, 2)).plan
    monkeypatch.setattr(form, "fused_shape", lambda *_: None)
    monkeypatch.setattr(products, "cut_of", lambda *_: products.Cut(8, 64, 4))
    rows, weight = rows_of(203, 2), weights_of(203)
    got = run(plan, card.upload(rows), card.upload(weight))
    check(got, reference.run(plan, rows, weight, statistics=True), plan)
    assert same_bits(got, run(plan, card.upload(rows), card.upload(weight)))


@pytest.mark.parametrize(("F", "D", "n"), [(5, 3, 90), (260, 258, 19)])
def test_rows_seen_through_a_projection(card, F, D, n):
    rng = np.random.default_rng(5)
    affine = Affine(rng.normal(size=F), np.linalg.qr(rng.normal(size=(F, D)))[0])
    behind = Prepared.from_model(mixture("diag", 4, D)).behind(affine)
    assert behind is not None
    rows = rows_of(n, F)
    check(run(behind.plan, card.upload(rows)), reference.run(behind.plan, rows, None, statistics=True), behind.plan)


def narrow_mixture():
    """One component a million times narrower than the others."""
    model = mixture("full", 4, 3)
    covariances = model.covariances.copy()
    covariances[2] *= 1e-12
    return Mixture(model.weights, model.means, covariances, "full")


@pytest.mark.parametrize("answered", [False, True])
def test_rows_that_the_card_declines_are_taken_by_the_host(card, answered):
    model = narrow_mixture()
    rows, weight = rows_of(203, 3), weights_of(203) + 1.0
    rows[11] = model.means[2]
    rows[17] = model.means[2] + 1e-7
    rows[100] = 1e150
    rows[101] = 1e7
    plan = Prepared.from_model(model).plan
    out, expected = (answers(card, 203, 4), host_answers(203, 4)) if answered else ({}, {})
    got = run(plan, card.upload(rows), card.upload(weight), **out)
    wanted = reference.run(plan, rows, weight, statistics=True, **expected)
    assert got.own is not None and got.centred is not None
    ours, theirs = stats_from_sums(model.family, got, plan), stats_from_sums(model.family, wanted, plan)
    assert np.abs(ours.weight - theirs.weight).max() < 1e-9
    assert np.abs(ours.scatter - theirs.scatter).max() <= 1e-11 * np.abs(theirs.scatter).max()
    assert abs(ours.loglik - theirs.loglik) <= 1e-12 * abs(theirs.loglik)
    assert (ours.rows, ours.count) == (theirs.rows, theirs.count)
    for name, values in expected.items():
        assert np.allclose(card.download(out[name]), values, rtol=1e-9, atol=1e-9), name


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(card, value):
    rows = rows_of(203, 8)
    rows[150, 3] = value
    rows[201, 0] = np.nan
    with pytest.raises(NonFiniteRowError) as found:
        mixture("full", 5, 8).frame_stats(card.upload(rows))
    assert found.value.row == 150


def test_statistics_and_totals_through_the_mixture(card):
    model = mixture("spherical", 5, 8)
    rows = rows_of(203, 8)
    ours, theirs = model.frame_stats(card.upload(rows)), model.frame_stats(rows)
    assert np.allclose(ours.mean, theirs.mean, rtol=0, atol=1e-12)
    assert np.allclose(ours.scatter, theirs.scatter, rtol=1e-12)
    assert np.allclose(model.totals(card.upload(rows)), model.totals(rows), rtol=1e-12)
    empty = model.frame_stats(card.upload(rows[:0]))
    assert empty.rows == 0 and not empty.weight.any()


def test_threads_share_a_card(card):
    plans = [Prepared.from_model(mixture("full", 5, 8, seed)).plan for seed in range(4)]
    rows = card.upload(rows_of(300, 8))
    alone = [run(plan, rows) for plan in plans]

    def work(plan):
        with card.stream():
            return run(plan, rows)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, plans))
    assert all(map(same_bits, alone, together))


def test_one_download_and_two_launches(emulated):
    plan = Prepared.from_model(mixture("full", 5, 8)).plan
    rows = emulated.upload(rows_of(203, 8))
    run(plan, rows)
    emulated.launches.clear()
    emulated.downloaded = 0
    run(plan, rows)
    chosen = form.fused_shape(emulated, plan)
    assert emulated.launches == ["fused", "fold"]
    assert emulated.downloaded == 8 * (chosen.sums + layout.TOTALS)


def test_older_cards_take_products(emulated, emulated_kernels):
    plan = Prepared.from_model(mixture("full", 5, 8)).plan
    emulated.capability = (7, 0)
    assert form.fused_shape(emulated, plan) is None


@pytest.mark.parametrize("bad", [np.zeros((3, 2), np.int64), np.zeros((3, 4)), np.zeros(3)])
def test_rows_of_another_kind_are_refused(emulated, bad):
    with pytest.raises(ValueError, match="must be float64 or float32 of shape"):
        run(Prepared.from_model(mixture("full", 2, 2)).plan, emulated.upload(bad))


# Names of cards, and what is missing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA", 0])
def test_names_of_devices(name):
    with pytest.raises(ValueError, match="device must be None, 'cpu', 'cuda' or 'cuda:N'"):
        backends.get(name)


def test_without_cupy_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(backends, "_opened", {})
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match=r"needs CuPy.*pip install 'streamgmm\[cuda13\]'.*device='cpu'"):
        backends.get("cuda")


def test_without_a_driver_the_error_says_so(monkeypatch):
    runtime = pytest.importorskip("cupy.cuda.runtime", reason="CuPy is not installed")
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError:
        count = 0
    monkeypatch.setattr(backends, "_opened", {})
    name = f"cuda:{count}"
    with pytest.raises(DeviceError, match="NVIDIA"):
        backends.get(name)


def test_host_arrays_are_not_taken_for_device_arrays(emulated):
    assert backends.is_device_array(emulated.empty(3))
    assert not any(backends.is_device_array(x) for x in (np.zeros(3), [1.0], None))


# Layouts and sources --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("E", [4, 8, 16, 24, 32, 40, 64])
@pytest.mark.parametrize("squares", [False, True])
def test_every_product_of_features_stands_once(E, squares):
    if E == 4 and squares:
        return
    found = [f for tile in layout.tiles(E, squares) for f in tile if f is not None and min(f) >= 0]
    wanted = [(i, i) for i in range(E)] if squares else [(i, j) for i in range(E) for j in range(i + 1)]
    assert sorted((max(f), min(f)) for f in found) == sorted(wanted)
    stepped = [f for step in layout.steps(E, squares) for f in step if f is not None and f[0] >= 0]
    kept = [f for tile in layout.tiles(E, squares) for f in tile if f is not None and f[0] >= 0]
    assert sorted(stepped) == sorted(kept)


CASES = [
    (Family.FULL, 2, 8), (Family.FULL, 8, 16), (Family.FULL, 8, 64), (Family.FULL, 16, 64), (Family.FULL, 32, 32),
    (Family.DIAG, 8, 16),
]  # fmt: skip
"""The benchmark's cases that the fused kernel serves; (63, 200) goes through products."""


def test_which_cases_are_fused():
    assert all(layout.shape(*case, 233_472) is not None for case in CASES)
    assert layout.shape(Family.FULL, 63, 200, 233_472) is None
    assert layout.shape(Family.FULL, 16, 200, 233_472) is None


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize(("family", "D", "K"), CASES)
def test_sources_compile_for_cards(tmp_path, family, D, K, architecture):
    older = architecture == "sm_80"
    chosen = layout.shape(family, D, K, 167_936 if older else 233_472)
    if chosen is None:
        assert older and D >= 16  # too much for an A100's shared memory
        return
    defines = form._fused_defines(chosen, np.dtype(np.float64), False, False, older, D % 2 == 0)
    registers, spilled = nvcc(tmp_path, "fused.cu", defines, architecture)["fused"]
    assert registers <= 255
    assert spilled <= 512


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_products_compile_for_cards(tmp_path):
    defines = products.defines(np.dtype(np.float32), Family.FULL, 63, 63, 200, 2080, 16, 0)
    found = nvcc(tmp_path, "products.cu", defines, "sm_90")
    assert {"phi", "softmax", "scale", "fold"} <= found.keys()
    assert all(spilled == 0 for _, spilled in found.values())


@pytest.mark.parametrize("file", ["fused.cu", "products.cu", "sparse.cu", "rows.cu"])
def test_only_kernels_and_device_functions_are_defined(file):
    """The run-time compiler takes no function of the host."""
    for line in source(file).splitlines():
        if re.match(r"(constexpr|inline|static|void|int|double|bool)\b[^=;]*\(.*\)\s*\{", line):
            raise AssertionError(line)
