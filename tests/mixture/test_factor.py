"""Mixtures of factor analysers: a slow twin with explicit matrices, 50-digit arithmetic, laws, and every question."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
import warnings
from pathlib import Path

import mpmath
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

import streamgmm as sg
from streamgmm.errors import NonFiniteRowError
from streamgmm.kernels.plain import factor as kernel
from streamgmm.mixture.components import stats_of
from streamgmm.mixture.covariance import FACTORS, family
from streamgmm.mixture.labelled_stats import stats_from_responsibilities
from streamgmm.mixture.m_step import m_step
from streamgmm.mixture.repair import repairing_m_step
from streamgmm.runtime.executors import Threads
from streamgmm.runtime.thread_limits import single_threaded_blas
from tests.helpers import naive


def drawn(kind, K, D, q, seed=0):
    """A random mixture of factor analysers."""
    rng = np.random.default_rng(seed)
    return sg.Mixture.from_factors(
        rng.dirichlet(np.full(K, 5.0)), 2.0 * rng.normal(size=(K, D)), rng.normal(size=(K, D, q)),
        rng.uniform(0.2, 1.0, (K, D)), kind,
    )  # fmt: skip


def rows_of(model, n=400, seed=1):
    """Rows of the model in other units, so that it has something to learn."""
    D = model.n_features
    return model.sample(n, random_state=seed)[0] * np.geomspace(0.1, 10.0, D) + 5.0


def full_of(model, **kwargs):
    dense = model.family.dense(model.covariances, *model.means.shape)
    return sg.Mixture(model.weights, model.means, dense, "full", **kwargs)


@pytest.mark.parametrize("kind", FACTORS)
def test_ten_steps_of_the_twin(kind):
    model = drawn(kind, 3, 7, 2)
    X, noise = rows_of(model), family(kind, 2).noise
    twin = (model.weights, model.means, *family(kind, 2).split_columns(model.covariances))
    for _ in range(10):
        loglik, *twin = naive.factor_step(X, *twin, noise)
        stats = sg.merge(model.accumulate(X[:150]), model.accumulate(X[150:]))
        assert stats.loglik == pytest.approx(loglik, rel=1e-12)
        model = m_step(stats, previous=model)
        loadings, variances = model.family.split_columns(model.covariances)
        for found, wanted in zip((model.weights, model.means, loadings, variances), twin, strict=True):
            assert np.abs(found - wanted).max() <= 1e-10 * np.abs(wanted).max()


@pytest.mark.parametrize("kind", FACTORS)
@pytest.mark.parametrize("own", [False, True])
def test_density_in_fifty_digits(kind, own, monkeypatch):
    """Both forms, noise down to 1e-10 of the loadings, in which the fast form would lose seven digits."""
    if own:
        monkeypatch.setattr(kernel, "TOLERANCE", -1.0)
    rng = np.random.default_rng(3)
    D, q = 5, 2
    loadings = rng.normal(size=(2, D, q)) * 10.0 ** rng.uniform(-1, 2, (2, 1, q))
    noise = 10.0 ** rng.uniform(-6, 0, (2, D))
    model = sg.Mixture.from_factors([0.3, 0.7], rng.normal(size=(2, D)), loadings, noise, kind)
    X = np.concatenate([model.sample(8, random_state=0)[0], 3.0 * rng.normal(size=(4, D))])
    packed = model.covariances
    with mpmath.workdps(50):
        wanted = [log_density(x, model.weights, model.means, packed[..., :q], packed[..., q]) for x in X]
    assert model.log_prob(X) == pytest.approx(wanted, abs=1e-8, rel=1e-9)


def log_density(x, weights, means, loadings, noise):
    total = mpmath.mpf(0)
    for w, mu, columns, psi in zip(weights, means, loadings, noise, strict=True):
        columns = mpmath.matrix(columns.tolist())
        sigma = columns * columns.T + mpmath.diag([mpmath.mpf(v) for v in psi])
        delta = mpmath.matrix([mpmath.mpf(a) - mpmath.mpf(b) for a, b in zip(x, mu, strict=True)])
        distance = (delta.T * mpmath.lu_solve(sigma, delta))[0]
        log_det = mpmath.log(mpmath.det(sigma)) + len(x) * mpmath.log(2 * mpmath.pi)
        total += mpmath.mpf(w) * mpmath.exp(-(distance + log_det) / 2)
    return float(mpmath.log(total))


@pytest.mark.parametrize("kind", FACTORS)
def test_both_forms_give_the_same_statistics(kind, monkeypatch):
    model = drawn(kind, 3, 7, 2)
    X = model.sample(700, random_state=2)[0]
    weight = np.random.default_rng(0).uniform(0.0, 2.0, 700)
    weight[::7] = 0.0
    fast = model.accumulate(X, weight)
    monkeypatch.setattr(kernel, "TOLERANCE", -1.0)
    own = model.accumulate(X, weight)
    for name in ("weight", "mean", "scatter", "loglik", "entropy", "log_max", "count", "rows"):
        assert getattr(own, name) == pytest.approx(getattr(fast, name), rel=1e-10, abs=1e-9), name


@pytest.mark.parametrize("own", [False, True])
def test_responsibilities_that_add_nothing_are_left_out(own, monkeypatch):
    """Products with them are subnormal, and slow: below e^-690 they are 0. How small weights are is another matter."""
    if own:
        monkeypatch.setattr(kernel, "TOLERANCE", -1.0)
    rng = np.random.default_rng(0)
    model = sg.Mixture.from_factors([0.5, 0.5], [[0.0] * 3, [30.0] * 3], rng.normal(size=(2, 3, 1)), 1.0)
    X = np.linspace(0.0, 30.0, 400)[:, None] + rng.normal(size=(400, 3))  # from the one to the other
    resp = model.responsibilities(X)
    assert (resp == 0.0).any() and ((resp > 0.0) & (resp < 1e-250)).any() and resp[resp > 0.0].min() > 1e-300
    stats, full = model.accumulate(X), full_of(model).accumulate(X)
    assert stats.weight == pytest.approx(full.weight, rel=1e-12)
    assert stats.mean == pytest.approx(full.mean, rel=1e-11)
    tiny = model.accumulate(X, np.full(400, 1e-150))
    assert tiny.mean == pytest.approx(stats.mean, rel=1e-12)
    assert 1e150 * tiny.scatter == pytest.approx(stats.scatter, rel=1e-9)


def test_rows_anywhere_have_statistics():
    model = drawn("factor", 2, 4, 1)
    X = np.concatenate([model.sample(50, random_state=0)[0], np.full((2, 4), [[1e12], [-1e160]])])
    stats = model.accumulate(X)
    assert np.isfinite(stats.scatter).all() and stats.weight.sum() == pytest.approx(52.0)
    assert np.isfinite(model.responsibilities(X)).all()
    far = drawn("factor", 2, 4, 1)
    moved = sg.Mixture(far.weights, far.means + 1e9, far.covariances, far.family)
    assert moved.log_prob(model.sample(9, random_state=0)[0] + 1e9) == pytest.approx(
        far.log_prob(model.sample(9, random_state=0)[0]), abs=1e-5
    )
    for value in (np.nan, np.inf):
        bad = X.copy()
        bad[7, 2] = value
        with pytest.raises(NonFiniteRowError) as caught:
            model.accumulate(bad)
        assert caught.value.row == 7
        weight = np.ones(len(X))
        weight[7] = 0.0
        assert model.accumulate(bad, weight).rows == 51


@pytest.mark.parametrize("kind", FACTORS)
def test_missing_entries_as_the_dense_mixture_has_them(kind):
    model = drawn(kind, 3, 6, 2).observing(
        sg.Mixture([1.0], [[0.0]], [[1.0]], "diag", missing="marginalize").observation
    )
    full = full_of(model, missing="marginalize")
    X = model.sample(300, random_state=1)[0]
    X[np.random.default_rng(0).uniform(size=X.shape) < 0.3] = np.nan
    X[5] = np.nan
    for question in ("log_prob", "responsibilities", "impute", "labels"):
        assert getattr(model, question)(X) == pytest.approx(getattr(full, question)(X), abs=1e-9, rel=1e-9), question
    stats, dense = model.accumulate(X), full.accumulate(X)
    assert stats.dropped == dense.dropped == 1
    square = stats.scatter[:, :6, 2]
    assert square == pytest.approx(np.diagonal(dense.scatter, axis1=1, axis2=2), rel=1e-9)
    last = -math.inf
    for _ in range(20):
        stats = model.accumulate(X)
        assert stats.loglik > last - 1e-8
        model, last = m_step(stats, previous=model), stats.loglik
    with pytest.raises(NonFiniteRowError) as caught:
        model.accumulate(np.where(np.arange(300)[:, None] == 3, np.inf, X))
    assert caught.value.row == 3


def test_missing_entries_beside_a_background():
    rng = np.random.default_rng(0)
    w, mu, columns = [0.4, 0.4], rng.normal(size=(2, 4)), rng.normal(size=(2, 4, 1))
    settings = {"noise_weight": 0.2, "box": [[-5.0] * 4, [5.0] * 4], "missing": "marginalize"}
    model = sg.Mixture.from_factors(w, mu, columns, 0.5, **settings)
    full = full_of(model, **settings)
    X = rng.normal(size=(60, 4))
    X[rng.uniform(size=X.shape) < 0.3] = np.nan
    for question in ("log_prob", "responsibilities", "impute"):
        assert getattr(model, question)(X) == pytest.approx(getattr(full, question)(X), abs=1e-9), question


@pytest.mark.parametrize("kind", FACTORS)
def test_questions_as_the_dense_mixture_answers_them(kind):
    model = drawn(kind, 3, 6, 2)
    full = full_of(model)
    for found, wanted in (
        (model.moments(), full.moments()),
        (model.marginal([4, 1, 2]).moments(), full.marginal([4, 1, 2]).moments()),
        (model.condition({0: 1.0, 3: -1.0}).moments(), full.condition({0: 1.0, 3: -1.0}).moments()),
        (model.regression([[0.5, 1.0]], [0, 5]), full.regression([[0.5, 1.0]], [0, 5])),
    ):
        for a, b in zip(found, wanted, strict=True):
            assert a == pytest.approx(b, rel=1e-9, abs=1e-12)
    merged, whole = model.merge_components([[0, 1]]), full.merge_components([[0, 1]])
    for one in (merged, whole):  # the noise of "ppca" and "factor-shared" is averaged, so that the mean is kept
        dense = np.asarray(full_of(one).covariances if one is merged else one.covariances)
        found = one.weights @ np.trace(dense, axis1=1, axis2=2)
        assert found == pytest.approx(whole.weights @ np.trace(whole.covariances, axis1=1, axis2=2), rel=1e-9)
    X = model.sample(20_000, random_state=0)[0]
    mean, covariance = full.moments()
    assert X.mean(axis=0) == pytest.approx(mean, abs=0.1)
    assert np.cov(X.T) == pytest.approx(covariance, abs=0.3)
    again = stats_of(model).maximize()
    assert again.covariances == pytest.approx(model.covariances, rel=1e-9)
    assert full_of(model).family.precisions(model.precisions_cholesky) == pytest.approx(
        np.linalg.inv(full.covariances), rel=1e-8, abs=1e-10
    )
    assert model.family.inverse_trace(model.factors) == pytest.approx(
        np.trace(np.linalg.inv(full.covariances), axis1=1, axis2=2), rel=1e-10
    )


def test_one_component_is_factor_analysis():
    """scikit-learn's maximum likelihood, and its posterior means of the factors up to a rotation."""
    X = drawn("factor", 1, 6, 1).sample(500, random_state=0)[0]
    other = FactorAnalysis(1, tol=1e-5, max_iter=5000, svd_method="lapack").fit(X)
    gm = sg.GaussianMixture(1, covariance_type="factor", n_factors=1, reg_covar=0.0, tol=1e-8, max_iter=2000).fit(X)
    assert gm.score(X) >= other.score(X) - 1e-6
    one = sg.Mixture.from_factors(
        [1.0], other.mean_[None], other.components_.T[None], other.noise_variance_[None]
    )  # fmt: skip
    assert one.log_prob(X) == pytest.approx(other.score_samples(X), rel=1e-9)
    assert one.factor_scores(X)[:, 0] == pytest.approx(other.transform(X), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("name", ["iris", "faithful", "wide"])
def test_started_at_the_limit_of_full_it_stays_there(name):
    """With q = D - 1 and free noise every covariance is such a sum: its smallest eigenvalue is noise."""
    if name == "wide":
        X = np.random.default_rng(0).normal(size=(300, 6)) @ np.diag(np.arange(1, 7))
    else:
        X = np.array(json.loads((Path(__file__).parents[1] / "data" / "mclust.json").read_text())["sets"][name]["X"])
    K, D = 2, X.shape[1]
    full = sg.GaussianMixture(K, reg_covar=0.0, tol=1e-10, max_iter=3000, random_state=0).fit(X)
    values, vectors = np.linalg.eigh(full.covariances_)
    noise = values[:, 0]
    loadings = vectors[:, :, 1:] * np.sqrt(values - noise[:, None])[:, None, 1:]
    gm = sg.GaussianMixture.from_factors(
        full.weights_, full.means_, loadings, noise[:, None], reg_covar=0.0, warm_start=True, tol=1e-9, max_iter=200,
        solver="exact",
    )  # fmt: skip
    assert gm.score(X) == pytest.approx(full.score(X), rel=1e-10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gm.fit(X)
    assert gm.score(X) >= full.score(X) - 1e-10
    assert gm.n_factors == D - 1


@pytest.mark.parametrize("kind", FACTORS)
def test_the_likelihood_never_falls(kind):
    X = load_iris().data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gm = sg.GaussianMixture(
            3, covariance_type=kind, n_factors=2, reg_covar=0.0, solver="exact", tol=0, max_iter=150, random_state=0
        ).fit(X)  # fmt: skip
    assert np.diff(gm.lower_bounds_).min() > -1e-12
    K, D, q = 3, 4, 2
    noise = {"factor": K * D, "factor-shared": D, "ppca": K}[kind]
    assert gm.mixture_.n_parameters == K - 1 + K * D + K * (D * q - q * (q - 1) // 2) + noise


DATA = sg.Mixture.from_factors(
    [0.4, 0.6], [[0.0] * 5, [4.0, 0.0, -3.0, 2.0, 1.0]], np.random.default_rng(5).normal(size=(2, 5, 2)), 0.3
).sample(600, random_state=0)[0]  # fmt: skip


def fitted(X, kind="factor", sample_weight=None, **settings):
    chosen = {"tol": 1e-8, "max_iter": 1000, "random_state": 0, **settings}
    return sg.GaussianMixture(2, covariance_type=kind, n_factors=2, **chosen).fit(X, sample_weight=sample_weight)


@pytest.mark.parametrize("kind", FACTORS)
def test_laws(kind, tmp_path):
    """Threads, chunks, repeated rows, permuted features, shifted and scaled ones, float32, resumed fits."""
    model = fitted(DATA, kind)
    value = model.score(DATA)
    np.save(tmp_path / "rows.npy", DATA)
    cut = [fitted(sg.open_source(tmp_path / "rows.npy", chunk_rows=64), kind, executor=Threads(n)) for n in (1, 3)]
    assert (cut[0].loadings_ == cut[1].loadings_).all()
    assert cut[0].score(DATA) == pytest.approx(value, abs=1e-6)
    twice = fitted(np.repeat(DATA, 2, axis=0), kind)
    weighted = fitted(DATA, kind, sample_weight=np.full(len(DATA), 2.0))
    assert twice.score(DATA) == pytest.approx(weighted.score(DATA), abs=1e-5)
    order = np.array([3, 1, 4, 0, 2])
    assert fitted(DATA[:, order], kind).score(DATA[:, order]) == pytest.approx(value, abs=1e-5)
    assert fitted(DATA.astype(np.float32), kind).score(DATA) == pytest.approx(value, abs=1e-5)
    if kind != "ppca":  # isotropic noise knows units
        units = np.array([1e3, 1.0, 1e-2, 5.0, 1.0])
        moved = fitted(DATA * units + 1e4, kind, reg_covar=0.0)
        plain = fitted(DATA, kind, reg_covar=0.0)
        assert moved.score(DATA * units + 1e4) == pytest.approx(plain.score(DATA) - np.log(units).sum(), abs=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted(DATA, kind, checkpoint=tmp_path / "kept", max_time=1e-9)
    resumed = fitted(DATA, kind, checkpoint=tmp_path / "kept")
    assert (resumed.loadings_ == model.loadings_).all() and resumed.lower_bounds_ == model.lower_bounds_


def test_saved_and_told(tmp_path):
    gm = fitted(DATA, "factor-shared")
    gm.save(tmp_path / "model.safetensors")
    for other in (sg.load(tmp_path / "model.safetensors"), sg.GaussianMixture.from_json(gm.to_json())):
        assert (other.score_samples(DATA) == gm.score_samples(DATA)).all()
        assert (other.covariance_type, other.n_factors) == ("factor-shared", 2)
    assert gm.covariances_ == pytest.approx(
        gm.loadings_ @ gm.loadings_.swapaxes(1, 2) + gm.noise_variance_[:, :, None] * np.eye(5)
    )
    assert gm.precisions_ @ gm.covariances_ == pytest.approx(np.stack([np.eye(5)] * 2), abs=1e-9)
    assert gm.factor_scores(DATA).shape == (600, 2, 2)
    assert json.loads(gm.to_json())["covariance_type"] == "factor-shared:2"
    assert isinstance(sg.diagnose(gm, DATA), list)
    with pytest.raises(ValueError, match="scikit-learn's mixture has no"):
        gm.to_sklearn()
    with pytest.raises(AttributeError, match="no loadings"):
        _ = sg.GaussianMixture().fit(DATA).loadings_


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_factors": None}, "needs n_factors"),
        ({"n_factors": 5}, "less than the number of features"),
        ({"covariance_type": "full"}, "n_factors belongs to"),
        ({"solver": "incremental"}, "adds up factors of different models"),
        ({"init_params": "kmeans||"}, "factors of two chunks differ"),
        ({"prior": "default"}, "has none"),
        ({"precisions_init": np.ones((2, 5, 3))}, "loadings and noise variances"),
    ],
)
def test_refusals(settings, words):
    chosen = {"covariance_type": "factor", "n_factors": 2, **settings}
    with pytest.raises(ValueError, match=words):
        sg.GaussianMixture(2, **chosen).fit(DATA)


def test_streams_and_stepwise():
    gm = sg.GaussianMixture(2, covariance_type="factor", n_factors=2, random_state=0)
    rng = np.random.default_rng(0)
    for _ in range(6):
        gm.partial_fit(rng.permutation(DATA))
    best = fitted(DATA).score(DATA)
    assert gm.score(DATA) > best - 0.2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        stepwise = fitted(DATA, solver="stepwise", max_iter=20, tol=1e-4)
    assert stepwise.score(DATA) > best - 0.2


def test_a_feature_without_variance_and_a_component_without_rows():
    X = np.concatenate([DATA, np.full((600, 1), 7.0)], axis=1)
    gm = fitted(X, reg_covar=0.0, max_iter=50, tol=1e-5)
    assert np.isfinite(gm.score(X)) and (gm.noise_variance_ > 0).all()
    low_density_cluster = np.concatenate([DATA, np.full((3, 5), 1e3)])
    gm = sg.GaussianMixture(3, covariance_type="factor", n_factors=2, reg_covar=0.0, random_state=0, tol=1e-5).fit(
        low_density_cluster
    )
    assert np.isfinite(gm.lower_bound_) and np.isfinite(gm.loadings_).all()


def test_select_takes_numbers_of_factors():
    model = drawn("factor", 2, 8, 2, 7)
    X = model.sample(1500, random_state=0)[0]
    found = sg.select(X, [1, 2], ["factor", "diag"], n_factors=range(1, 4), n_init=2, random_state=0)
    assert (found.best.covariance_type, found.best.n_factors, found.best.n_components) == ("factor", 2, 2)
    kinds = {(row["covariance_type"], row["n_factors"]) for row in found.table}
    assert kinds == {("factor:1", 1), ("factor:2", 2), ("factor:3", 3), ("diag", None)}
    with pytest.raises(ValueError, match="n_factors belongs to"):
        sg.select(X, [1], ["full"], n_factors=2)


def test_statistics_and_speed_grow_with_the_features_alone():
    """784 features, 20 components, 8 factors: 3 MB of statistics."""
    assert drawn("factor", 20, 784, 8).stats_bytes < 3_000_000


@pytest.mark.slow
def test_an_e_step_is_twenty_times_as_fast_as_that_of_full():
    """Where components share rows; of components far apart the screened form of full leaves out most of the work."""
    one = drawn("factor", 1, 784, 8)
    sizes = 1.0 + 1e-4 * np.arange(20)[:, None]
    model = sg.Mixture.from_factors(
        np.full(20, 0.05), 1e-3 * drawn("factor", 20, 784, 8).means, one.covariances[:, :, :-1] * sizes[:, :, None],
        one.covariances[:, :, -1] * sizes,
    )  # fmt: skip
    rows = model.sample(1024, random_state=0)[0]
    assert model.responsibilities(rows).max(axis=1).mean() < 0.5
    full = full_of(model)
    with single_threaded_blas():
        model.frame_stats(rows)
        full.frame_stats(rows[:16])
        times = [(min(seconds(model, rows) for _ in range(5)), seconds(full, rows)) for _ in range(2)]
    fast, slow = map(min, zip(*times, strict=True))
    print(f"{slow / fast:.1f} times")
    assert slow >= 20.0 * fast


def seconds(model, rows):
    began = time.process_time()
    model.frame_stats(rows)
    return time.process_time() - began


@pytest.mark.slow
def test_three_thousand_features_in_half_a_gigabyte(tmp_path):
    rng = np.random.default_rng(0)
    model = drawn("factor", 10, 3000, 10)
    X = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.float32, (20_000, 3000))
    for start in range(0, len(X), 2000):
        X[start : start + 2000] = model.sample(2000, random_state=start)[0][rng.permutation(2000)]
    X.flush()
    del X
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gm = sg.GaussianMixture(
            10, covariance_type="factor", n_factors=10, memory_limit="512MB", random_state=0, max_iter=2
        ).fit(tmp_path / "rows.npy")  # fmt: skip
    assert gm.report_["memory"]["growth"] <= 512e6
    assert gm.lower_bounds_[1] > gm.lower_bounds_[0]


@parametrize_with_checks([sg.GaussianMixture(covariance_type=kind, n_factors=1, tol=1e-3) for kind in FACTORS])
def test_check_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize("kind", FACTORS)
def test_a_repair_makes_no_matrix_of_all_features(kind):
    """A component without rows and one of a single row, in 600 features: 2.9 MB would be such a matrix."""
    n, D, q = 700, 600, 2
    X = np.random.default_rng(0).normal(size=(n, D))
    labels = np.repeat([0, 1], [n - 1, 1])
    stats = stats_from_responsibilities(X, np.ones(n), labels, 3, family(kind, q))
    tracemalloc.start()
    try:
        model, _, events = repairing_m_step(stats, reg_covar=0.0, reseeds=(0, 0, 0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5e6
    assert "re-seeded" in {event["action"] for event in events}
    assert np.isfinite(model.log_prob(X)).all()
