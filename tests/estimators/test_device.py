"""Fits and answers on an (emulated) graphics card are those of the CPU."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.cli.app import run
from streamgmm.runtime import device
from streamgmm.runtime.dask import Dask
from streamgmm.sources.formats import device as array
from streamgmm.sources.formats.array import ArraySource

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

FAMILIES = ("full", "tied", "diag", "spherical")
D, K = 2, 3


def rows(n, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    centres = 4.0 * rng.normal(size=(K, D))
    return (centres[rng.integers(0, K, n)] + rng.normal(size=(n, D)) * (1.0 + np.arange(D))).astype(dtype)


def plain(family="full", K=K, **settings):
    """A fit of a few steps of EM from given parameters."""
    rng = np.random.default_rng(1)
    precisions = {
        "full": np.stack([np.eye(D) * 0.2] * K), "tied": np.eye(D) * 0.2, "diag": np.full((K, D), 0.2),
        "spherical": np.full(K, 0.2),
    }[family]  # fmt: skip
    start = {
        "weights_init": np.full(K, 1.0 / K), "means_init": 3.0 * rng.normal(size=(K, D)), "precisions_init": precisions
    }  # fmt: skip
    settings = {"solver": "exact", "tol": 0.0, "max_iter": 3, **start, **settings}
    return sg.GaussianMixture(K, covariance_type=family, **settings)


def close(a, b, tolerance=1e-11):
    for name in ("weights_", "means_", "covariances_", "lower_bounds_"):
        x, y = np.asarray(getattr(a, name)), np.asarray(getattr(b, name))
        assert x.shape == y.shape and np.abs(x - y).max() <= tolerance * np.abs(y).max(), name


def bits(gm):
    return [np.asarray(getattr(gm, name)).tobytes() for name in ("weights_", "means_", "covariances_", "lower_bounds_")]


# Fits -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fit_is_that_of_the_cpu_with_weights_and_in_float32(emulated, family):
    X = rows(700, dtype=np.float32)
    weight = np.random.default_rng(2).integers(0, 3, 700).astype(float)
    on_card = plain(family, device="cuda").fit(X, sample_weight=weight)
    close(on_card, plain(family).fit(X, sample_weight=weight))
    assert on_card.report_["memory"]["device"]["resident"] == 700 * (D * 4 + 8)


@pytest.fixture
def narrow(monkeypatch):
    """Small blocks, so that a small table has several; and chunks that are smaller still."""
    monkeypatch.setattr(device, "SMALL_BYTES", 2**12)
    monkeypatch.setattr(device, "MOST_BYTES", 2**12)
    monkeypatch.setattr(device, "PIECE_BYTES", 2**11)
    monkeypatch.setattr(device, "THREADS", 2)
    return lambda X, **more: sg.open_source(X, chunk_rows=100, **more)


def test_resident_and_streamed_rows_give_the_same_model(emulated, narrow, monkeypatch):
    X = rows(1700)
    resident = plain(device="cuda", n_jobs=3).fit(narrow(X))
    report = resident.report_["memory"]["device"]
    assert (report["resident"], report["resident_blocks"], report["moved"]) == (X.nbytes, 1, X.nbytes)
    monkeypatch.setattr(device, "SHARE", 26_400 / emulated.free_bytes())  # room for a part of the table
    parts = [plain(device="cuda", n_jobs=jobs).fit(narrow(X)) for jobs in (3, 1)]
    assert bits(parts[0]) == bits(parts[1])
    close(parts[0], resident, 1e-12)
    report = parts[0].report_["memory"]["device"]
    assert 0 < report["resident"] < X.nbytes and report["resident_blocks"] > 2
    assert report["moved"] == report["resident"] + 3 * (X.nbytes - report["resident"])
    assert {"copy", "compute"} <= set(parts[0].report_["seconds"])


def test_an_array_that_does_not_stay_is_pinned_where_it_lies(emulated, narrow, monkeypatch, tmp_path):
    X = rows(1700)
    expected, pinned, copies = plain(device="cuda").fit(narrow(X)), [], []
    upload = emulated.upload

    def watched(host, out=None):
        pinned.append([p is X for p in emulated.pinned_in_place])
        copies.append(np.shares_memory(host, X))
        return upload(host, out)

    monkeypatch.setattr(emulated, "upload", watched)
    monkeypatch.setattr(device, "SHARE", 0.0)
    on_card = plain(device="cuda").fit(narrow(X))
    close(on_card, expected, 1e-12)
    blocks = 9  # of two chunks
    assert sum(copies) == 3 * blocks + 1  # the first one again, for a pass that did not come
    assert on_card.report_["memory"]["device"]["moved"] == 3 * X.nbytes
    assert all(p == [True] for p, c in zip(pinned, copies, strict=True) if c)
    assert not emulated.pinned_in_place
    np.save(tmp_path / "rows.npy", X)
    columns = np.concatenate([X, X], axis=1)[:, :D]  # has to be copied to be in one piece
    for other in (np.load(tmp_path / "rows.npy", mmap_mode="r"), columns, tmp_path / "rows.npy"):
        pinned.clear()
        assert bits(plain(device="cuda").fit(narrow(other))) == bits(on_card)
        assert not any(pinned)
    pinned.clear()
    assert bits(plain(device="cuda", memory_limit="1GB").fit(narrow(X))) == bits(on_card)
    assert not any(pinned)


class Unmeasured(ArraySource):
    """A source that tells the lengths of its chunks to nobody, or the longest only."""

    bound = None
    max_chunk_rows = property(lambda self: self.bound)
    total_bytes = None

    def chunk(self, index, start, stop):
        return replace(super().chunk(index, start, stop), start=None)


@pytest.mark.parametrize("bound", [100, None])
def test_chunks_of_unknown_length_stay_as_far_as_there_is_room(emulated, narrow, monkeypatch, bound):
    X = rows(650)
    source = Unmeasured(X, np.arange(650.0) % 3, chunk_rows=100)
    source.n_rows, source.bound = None, bound
    expected = plain().fit(X, sample_weight=source.weight)
    for share in (device.SHARE, 16_000 / emulated.free_bytes()):
        monkeypatch.setattr(device, "SHARE", share)
        on_card = plain(device="cuda", n_jobs=2).fit(source)
        close(on_card, expected)
        report = on_card.report_["memory"]["device"]
        total = 24 * 650
        assert report["moved"] == report["resident"] + 3 * (total - report["resident"])
        assert report["resident"] == total if share > 0.5 else 0 < report["resident"] < total
    X[521, 1] = np.nan
    with pytest.raises(ValueError, match="NaN: row 21 of chunk 5, column 1"):
        plain(device="cuda").fit(source)


def test_the_incremental_solver_has_blocks_on_the_card(emulated, narrow):
    X = rows(1600)
    a, b = (plain(solver="incremental", device=where).fit(narrow(X)) for where in ("cuda", None))
    close(a, b)
    assert a.report_["memory"]["device"]["resident_blocks"] == 16


def test_everything_that_auto_does_runs_with_a_card(emulated):
    X = rows(3000)
    a, b = (sg.GaussianMixture(K, random_state=0, device=where).fit(X) for where in ("cuda", None))
    close(a, b, 1e-9)
    assert a.converged_ and a.n_iter_ == b.n_iter_ and "device" not in b.report_["memory"]


@pytest.mark.parametrize("solver", ["exact", "auto"])
def test_variational_inference_runs_on_the_card_too(emulated, solver):
    X = rows(900)
    a, b = (
        sg.BayesianGaussianMixture(4, random_state=0, solver=solver, max_iter=3, device=where).fit(X)
        for where in ("cuda", None)
    )
    close(a, b, 1e-9)
    assert a.report_["memory"]["device"]["resident"] == X.nbytes
    np.testing.assert_allclose(a.score_samples(X), b.score_samples(X), rtol=1e-8)


def test_scaled_rows_lie_on_the_card_as_they_were_read(emulated):
    from streamgmm.sources.transformed import TransformedSource
    from streamgmm.utils.affine import Affine

    X = rows(300)
    turned = np.array([[0.6, -0.8], [0.8, 0.6]])
    # With a constant feature components are narrow, and log-densities are allowed errors of 1e-9.
    for matrix, tolerance in ((np.array([0.5, 2.0]), 1e-11), (turned, 1e-11), (np.array([0.0, 1.0]), 1e-9)):
        source = TransformedSource(sg.open_source(X), Affine(np.array([1.0, 2.0]), matrix))
        a, b = (plain(device=where).fit(source) for where in ("cuda", None))
        close(a, b, tolerance)
        moved = a.report_["memory"]["device"]["moved"]
        assert moved == X.nbytes * (1 if matrix.all() else 3)


@pytest.mark.parametrize("column", [0, 1])
def test_a_row_that_is_not_finite_is_named(emulated, narrow, column):
    X = rows(500)
    X[333, column] = np.nan
    with pytest.raises(ValueError, match=f"NaN: row 333, column {column}"):
        plain(device="cuda").fit(narrow(X))
    weight = np.ones(500)
    weight[333] = 0.0
    close(plain(device="cuda").fit(narrow(X, weight=weight)), plain().fit(narrow(X, weight=weight)))


def test_one_component_and_few_rows(emulated):
    X = rows(17)
    close(plain(K=1, device="cuda").fit(X), plain(K=1).fit(X))
    close(sg.GaussianMixture(1, device="cuda").fit(X), sg.GaussianMixture(1).fit(X), 0.0)
    close(plain(K=2, device="cuda").fit(X), plain(K=2).fit(X))


def test_what_has_no_form_for_cards_runs_on_the_cpu_and_says_so(emulated):
    X = rows(200)
    X[3, 1] = np.nan
    with pytest.warns(UserWarning, match=r"missing='marginalize' runs on the CPU"):
        gm = plain(device="cuda", missing="marginalize").fit(X)
    close(gm, plain(missing="marginalize").fit(X), 0.0)
    with pytest.warns(UserWarning, match="runs on the CPU"):
        assert gm.predict(X).shape == (200,)
    factors = {"covariance_type": "factor", "n_factors": 1}
    with pytest.raises(ValueError, match="'factor' runs on the CPU"):
        sg.GaussianMixture(2, device="cuda", **factors).fit(X[10:])
    gm = sg.GaussianMixture(2, random_state=0, max_iter=2, **factors).fit(X[10:])
    expected = gm.predict(X[10:]), gm.score(X[10:])
    gm.set_params(device="cuda")
    with pytest.warns(UserWarning, match="factor"):
        assert (gm.predict(X[10:]) == expected[0]).all()
    with pytest.warns(UserWarning, match="factor"):
        assert gm.score(X[10:]) == expected[1]
    with pytest.warns(UserWarning, match="'factor:1' runs on the CPU"):
        sg.select(X[10:], [2], "factor", n_factors=1, n_init=1, max_iter=2, random_state=0, device="cuda")
    with pytest.raises(ValueError, match="executor='dask' reads rows on the workers"):
        plain(executor="dask").fit(emulated.upload(X[10:]))
    with pytest.raises(ValueError, match=r"KMeans.*CPU only"):
        sg.KMeans(2, device="cuda").fit(X[10:])


def test_a_killed_fit_goes_on_to_the_same_bits(emulated, narrow, tmp_path, monkeypatch):
    X = rows(1000)
    monkeypatch.setattr(device, "SHARE", 12_000 / emulated.free_bytes())
    whole = plain(device="cuda", max_iter=6).fit(narrow(X))
    steps = plain(device="cuda", max_iter=6, checkpoint=tmp_path).fit_steps(narrow(X))
    for _ in range(3):
        next(steps)
    steps.close()
    resumed = plain(device="cuda", max_iter=6, checkpoint=tmp_path).fit(narrow(X))
    assert resumed.report_["checkpoint"]["resumed"] and bits(resumed) == bits(whole)
    cpu = plain(max_iter=6, checkpoint=tmp_path).fit(narrow(X))
    assert not cpu.report_["checkpoint"]["resumed"]
    assert plain(device="cuda", max_iter=6, checkpoint=tmp_path).discard_checkpoint(narrow(X)) > 0


def test_select_takes_the_cpu_s_winner(emulated):
    X = rows(900)
    a, b = (sg.select(X, range(2, 5), n_init=1, random_state=0, max_iter=3, device=where) for where in ("cuda", None))
    assert (a.best.n_components, a.minimum) == (b.best.n_components, b.minimum)
    assert a.report["device"]["resident"] == X.nbytes
    for mine, other in zip(a.table, b.table, strict=True):
        assert mine["bic"] == pytest.approx(other["bic"], rel=1e-9)
    with pytest.warns(UserWarning, match="'cv' runs on the CPU") as told:
        sg.select(X, range(1, 3), n_init=1, criterion="cv", folds=2, max_iter=3, random_state=0, device="cuda")
    assert [one.filename for one in told if "CPU" in str(one.message)] == [__file__]


def test_fewer_blocks_are_in_work_where_kernels_need_much_memory(emulated):
    source = sg.open_source(rows(100))
    free = emulated.free_bytes()
    threads = [
        device.placed(source, emulated, scratch=scratch).blocks.card.threads for scratch in (0, free // 16, free)
    ]
    assert threads == [device.THREADS, 3, 1]


def test_tasks_of_a_cluster_use_the_cards_of_its_workers(emulated, narrow):
    X, weight = rows(700, dtype=np.float32), np.random.default_rng(2).integers(0, 3, 700).astype(float)
    source = narrow(X, weight=weight)
    with pytest.warns(UserWarning, match="runs on the CPU"):
        on_cpu = plain(solver="stepwise", device="cuda", executor="dask").fit(source)
    assert emulated.launches == []
    on_card = [plain(device="cuda", executor=Dask(scheduler=name)).fit(source) for name in ("threads", "synchronous")]
    assert emulated.launches.count("fused") == 2 * 3 * 7
    assert bits(on_card[0]) == bits(on_card[1]) and on_cpu.converged_ in (True, False)
    close(on_card[0], plain().fit(source))
    X[612, 1] = np.nan
    with pytest.raises(ValueError, match="NaN: row 612, column 1"):
        plain(device="cuda", executor="dask").fit(narrow(X))
    done = emulated.launches.count("fused")
    found = sg.select(X[:600], [1, 2], n_init=1, max_iter=2, random_state=0, device="cuda", executor="dask")
    assert found.best.n_components == 2 and emulated.launches.count("fused") > done


@pytest.mark.parametrize("first", [np.float32, np.float64])
def test_a_worker_takes_tables_of_other_types_and_widths_after_each_other(emulated, first):
    second = {np.float32: np.float64, np.float64: np.float32}[first]
    for X in (rows(90, dtype=first), rows(70, dtype=second), np.c_[rows(60), rows(60, seed=1)][:, :3], rows(80)):
        settings = {"n_components": 2, "random_state": 0, "max_iter": 2}
        on_card = sg.GaussianMixture(**settings, device="cuda", executor=Dask(scheduler="synchronous")).fit(X)
        close(on_card, sg.GaussianMixture(**settings).fit(X))


def test_a_worker_without_a_card_says_so(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(sg.DeviceError, match="needs CuPy"):
        plain(device="cuda", executor="dask").fit(rows(50))


# Answers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", ["predict", "predict_proba", "score_samples"])
def test_answers_are_those_of_the_cpu(emulated, narrow, question, tmp_path, monkeypatch):
    monkeypatch.setattr(device, "ANSWER_BYTES", 2**12)
    X = rows(900)
    gm = plain().fit(X)
    expected = getattr(gm, question)(X)
    gm.set_params(device="cuda")
    np.testing.assert_allclose(getattr(gm, question)(X), expected, rtol=1e-11, atol=1e-13)
    parts = list(getattr(gm, question)(narrow(X)))
    assert len(parts) > 2
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-11, atol=1e-13)
    out = np.empty(expected.shape)
    assert getattr(gm, question)(X, out=out) is out
    np.testing.assert_allclose(out, expected, rtol=1e-11, atol=1e-13)
    X[5, 0] = np.inf
    with pytest.raises(ValueError, match="infinity: row 5, column 0"):
        getattr(gm, question)(X)


def test_scores_and_criteria_are_those_of_the_cpu(emulated, narrow):
    X, weight = rows(900), np.random.default_rng(0).uniform(size=900)
    gm = plain().fit(X)
    expected = gm.score(X), gm.score(X, sample_weight=weight), gm.bic(X), gm.icl(X)
    gm.set_params(device="cuda")
    found = gm.score(narrow(X)), gm.score(X, sample_weight=weight), gm.bic(X), gm.icl(X)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_answers_of_a_model_behind_principal_components(emulated):
    from streamgmm.estimators.projection import Projection

    X = np.column_stack([rows(200), np.ones(200)])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0][:, :2]
    projection = Projection(np.ones(3), turn, turn.T)
    gm = plain().fit(projection.apply(X)).project(projection)
    expected = gm.score_samples(X), gm.predict(X), gm.score(X)
    gm.set_params(device="cuda")
    np.testing.assert_allclose(gm.score_samples(X), expected[0], rtol=1e-11)
    assert (gm.predict(X) == expected[1]).all() and gm.score(X) == pytest.approx(expected[2], rel=1e-12)


def test_arrays_on_the_card_are_taken_as_they_are(emulated, monkeypatch):
    X, weight = rows(500), np.random.default_rng(0).uniform(size=500)
    there = emulated.upload(X)
    for given in (None, weight):
        on_card = plain().fit(there, sample_weight=given)
        close(on_card, plain().fit(X, sample_weight=given))
        assert on_card.report_["memory"]["device"]["moved"] == 0
    close(sg.GaussianMixture(K, random_state=0).fit(there), sg.GaussianMixture(K, random_state=0).fit(X), 1e-9)
    gm = plain().fit(X)
    monkeypatch.setattr(device, "ANSWER_BYTES", 2**12)
    monkeypatch.setattr(array, "balanced_rows", lambda *_: 100)
    for question in ("predict", "predict_proba", "score_samples"):
        found = getattr(gm, question)(there)
        assert type(found) is type(there)
        np.testing.assert_allclose(emulated.download(found), getattr(gm, question)(X), rtol=1e-11, atol=1e-13)
    assert gm.score(there) == pytest.approx(gm.score(X), rel=1e-12)
    strided = emulated.upload(np.asfortranarray(X).T.copy())[:, ::2]
    assert sg.open_source(strided).n_features == 250
    close(plain(device="cpu").fit(there), plain().fit(X), 1e-13)


def test_arrays_on_the_card_that_cannot_be_taken(emulated):
    with pytest.raises(TypeError, match="float32 or float64"):
        plain().fit(emulated.upload(np.zeros((9, 2), np.int64)))
    with pytest.raises(ValueError, match="Expected 2D array, got 1D"):
        plain().fit(emulated.upload(np.zeros(9)))
    with pytest.raises(ValueError, match="sample weights must have shape"):
        plain().fit(emulated.upload(rows(9)), sample_weight=np.ones(8))
    with pytest.raises(ValueError, match="2 features, but GaussianMixture is expecting 1"):
        sg.GaussianMixture().fit([[0.0], [1.0]]).predict(emulated.upload(rows(9)))


# Names of devices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CUDA", ""])
def test_other_names_of_devices_are_refused(name):
    with pytest.raises(ValueError, match=r"device must be None, 'cpu', 'cuda' or 'cuda:N'"):
        plain(device=name).fit(rows(20))


def test_a_card_of_slow_float64_is_taken_by_its_number_only(emulated):
    emulated.weak_float64 = True
    with pytest.raises(sg.DeviceError, match="device='cuda:0'"):
        plain(device="cuda").fit(rows(50))
    with pytest.warns(UserWarning, match="float64"):
        gm = plain(device="cuda:0").fit(rows(50))
    close(gm, plain().fit(rows(50)))


WITHOUT = "import sys; sys.modules['cupy'] = None; from streamgmm.cli import main; main()"


def test_without_a_card_there_is_one_line_and_exit_code_1(tmp_path):
    np.save(tmp_path / "X.npy", rows(50))
    command = [sys.executable, "-c", WITHOUT, "fit", "X.npy", "-k", "2", "--device", "cuda"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 1 and len(errors) == 1 and "streamgmm[cuda1" in errors[0]
    assert "Traceback" not in done.stderr


def test_the_package_imports_no_cupy():
    code = "import sys, streamgmm; streamgmm.GaussianMixture(device='cuda'); sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_line_and_configs_choose_a_card(emulated, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    X = rows(400)
    np.save("X.npy", X)
    config = '[data]\npath = "X.npy"\n[model]\nn_components = 3\n[compute]\ndevice = "cuda"\n'
    (tmp_path / "fit.toml").write_text(config)
    assert run(["fit", "fit.toml", "--out", "model"]) == 0
    assert '"device"' in (tmp_path / "model" / "report.json").read_text()
    assert sg.load("model").device is None
    assert run(["predict", "model", "X.npy", "--device", "cuda", "--out", "labels.npy"]) == 0
    assert run(["predict", "model", "X.npy", "--out", "cpu.npy"]) == 0
    assert np.array_equal(np.load("labels.npy"), np.load("cpu.npy"))
    assert run(["score", "model", "X.npy", "--device", "cuda"]) == 0
    assert run(["select", "X.npy", "--k-max", "2", "--set", "n_init=1", "--device", "cuda"]) == 0
    capsys.readouterr()
    assert run(["fit", "X.npy", "--device", "gpu"]) == 2
    assert "compute.device = 'gpu'" in capsys.readouterr().err
