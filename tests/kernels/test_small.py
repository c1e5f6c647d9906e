"""Small tables: NumPy alone, no wait for a compiler; the size of the whole pass decides, not that of a chunk."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import streamgmm as sg
from streamgmm.cli.commands.demo import stopped
from streamgmm.em.kmeans.centres import Centres
from streamgmm.errors import NonFiniteRowError
from streamgmm.kernels import dispatch
from streamgmm.kernels.plain import lloyd, missing, own_mean, reference
from streamgmm.mixture.missing import Patterns
from streamgmm.sources import array_source

JOBS = {
    "fit": "sg.GaussianMixture(3, random_state=0, n_init=2).fit(X).predict(X)",
    "families": "[sg.GaussianMixture(3, covariance_type=c).fit(X) for c in ('tied', 'diag', 'spherical')]",
    "stepwise": "sg.GaussianMixture(3, solver='stepwise', random_state=0).fit(X)",
    "memory": "sg.GaussianMixture(2, memory_limit='500MB', random_state=0).fit(X)",
    "background": "sg.GaussianMixture(2, noise='uniform', random_state=0).fit(X)",
    "missing": "X[::3, 1] = np.nan; gm = sg.GaussianMixture(2, missing='marginalize').fit(X); gm.impute(X)",
    "select": "sg.select(X, range(1, 5), random_state=0)",
    "select by folds": "sg.select(X, range(1, 3), criterion='cv', random_state=0)",
    "k-means": "km = sg.KMeans(3, random_state=0).fit(X); km.predict(X); km.score(X); sg.cluster_scores(km, X)",
    "k-means||": "sg.GaussianMixture(3, init_params='kmeans||', random_state=0).fit(X)",
    "outliers": "sg.OutlierDetector(random_state=0).fit_predict(X)",
    "stream": "gm = sg.GaussianMixture(2, random_state=0); [gm.partial_fit(X[i::5]) for i in range(5)]",
    "chain": "sg.GaussianMixture(2, random_state=0).fit(sg.PCA(2).fit_transform(sg.Scaler().fit_transform(X)))",
    "files": "np.save('rows.npy', X); np.savetxt('rows.csv', X, delimiter=',');"
    "[list(sg.GaussianMixture(2).fit(p).predict(p)) for p in ('rows.npy', 'rows.csv')]",
}


def test_a_small_job_compiles_nothing(tmp_path):
    """In a fresh installation, every kind of job: no Numba, and no file in its cache."""
    lines = [
        "import os, sys, warnings",
        "warnings.simplefilter('ignore')",
        "import numpy as np, streamgmm as sg",
        "from sklearn.datasets import load_iris",
        "for name, job in eval(sys.argv[1]).items():",
        "    exec(job, {'sg': sg, 'np': np, 'X': load_iris().data.copy()})",
        "    assert 'numba' not in sys.modules, f'{name} imports Numba'",
    ]
    cache = tmp_path / "cache"
    cache.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "STREAMGMM_KERNELS"}
    subprocess.run(
        [sys.executable, "-c", "\n".join(lines), repr(JOBS)],
        env={**environment, "NUMBA_CACHE_DIR": str(cache)}, cwd=tmp_path, check=True,
    )  # fmt: skip
    assert not list(cache.rglob("*"))


ROWS = 600


@pytest.fixture
def forms(monkeypatch):
    """Which forms ran, told by name; a pass is small up to `ROWS` rows of the table below, for 3 components."""
    monkeypatch.delenv("STREAMGMM_KERNELS", raising=False)
    seen = set()

    def spy(module, name, label):
        real = getattr(module, name)

        def told(*arguments, **options):
            seen.add(label)
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, told)

    spy(reference, "run", "numpy")
    spy(dispatch, "form", "compiled")
    spy(missing, "missing", "numpy")
    spy(Centres, "_run_compiled", "compiled")
    spy(Patterns, "_few_compiled", "compiled")
    monkeypatch.setattr("streamgmm.em.kmeans.centres.reference", _told(seen, lloyd.lloyd))
    return seen


def _told(seen, real):
    def told(*arguments):
        seen.add("numpy")
        return real(*arguments)

    return told


def table(n=ROWS, D=2):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, D)) + 6 * rng.integers(0, 3, (n, 1))


def limit_at(monkeypatch, K, p):
    monkeypatch.setattr(dispatch, "SMALL", ROWS * (K * (p + 32) + 16 * p))


EM = {"covariance_type": "full", "random_state": 0, "solver": "exact", "max_iter": 5, "tol": 0}


@pytest.mark.parametrize("chunk_rows", [50, 200, 601])
@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize(("n", "form"), [(ROWS, "numpy"), (ROWS + 1, "compiled")])
def test_all_passes_over_the_rows_have_one_form(monkeypatch, forms, n, form, chunk_rows, n_jobs):
    """One row more than the limit and every chunk is compiled, however small it is; at the limit none is."""
    limit_at(monkeypatch, 3, 6)
    first = sg.GaussianMixture(3, **EM, means_init=[[0, 0], [6, 6], [12, 12]], n_jobs=n_jobs)
    source = array_source(table(n), None, chunk_rows=chunk_rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        first.fit(source)
    forms.clear()
    for question in (first.predict, first.score_samples, first.predict_proba):
        list(question(source))
    first.score(source), first.bic(source)
    assert forms == {form}
    forms.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        first.set_params(warm_start=True).fit(source)
    assert forms == {form}


@pytest.mark.parametrize("chunk_rows", [50, 601])
@pytest.mark.parametrize(("n", "form"), [(ROWS, "numpy"), (ROWS + 1, "compiled")])
def test_k_means_has_one_form(monkeypatch, forms, n, form, chunk_rows):
    limit_at(monkeypatch, 3, 2)
    source = array_source(table(n), None, chunk_rows=chunk_rows)
    km = sg.KMeans(3, init=[[0, 0], [6, 6], [12, 12]]).fit(source)
    list(km.predict(source)), km.score(source)
    assert forms == {form}


@pytest.mark.parametrize(("n", "form"), [(ROWS, "numpy"), (ROWS + 1, "compiled")])
def test_missing_entries_have_one_form(monkeypatch, forms, n, form):
    limit_at(monkeypatch, 3, 6)
    X = table(n)
    X[::7, 1] = np.nan
    source = array_source(X, None, chunk_rows=100)
    gm = sg.GaussianMixture(3, **EM, means_init=[[0, 0], [6, 6], [12, 12]], missing="marginalize")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gm.fit(source)
    monkeypatch.setattr(dispatch, "small", lambda n_rows, K, p: n_rows <= ROWS)  # marginals are smaller
    forms.clear()
    list(gm.predict(source)), list(gm.impute(source)), gm.score(source)
    assert forms == {form}


def test_rows_of_unknown_number_are_many(monkeypatch, forms):
    model = sg.Mixture([1.0], [[0.0]], [1.0], "spherical")
    dispatch.in_all(None, model.log_prob, np.zeros((3, 1)))
    assert forms == {"compiled"}
    forms.clear()
    model.log_prob(np.zeros((3, 1)))
    assert forms == {"numpy"}


@pytest.mark.parametrize("lines", ["1,2\n3,4\n5.5,6\n", "a,b\n1,2\n3,4\n5,6\n7,8"])
def test_a_text_file_bounds_its_rows_however_it_is_cut(tmp_path, lines):
    path = tmp_path / "rows.csv"
    path.write_text(lines)
    bounds = {sg.open_source(str(path), **cut).most_rows for cut in ({}, {"chunk_rows": 1}, {"weight": None})}
    assert len(bounds) == 1
    (bound,) = bounds
    rows = sum(len(chunk.load()[0]) for chunk in sg.open_source(str(path)).chunks())
    assert rows <= bound <= len(lines) // 4 + 1


@pytest.mark.parametrize("weighted", [False, True])
def test_lloyds_step_in_numpy_is_the_compiled_one(monkeypatch, weighted):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(5000, 3)).astype(np.float32)
    rows[7] = rows[11]
    weight = rng.integers(0, 3, len(rows)).astype(float) if weighted else None
    centres = Centres(np.concatenate([rows[:6], rows[7:8], rows[11:12]]).astype(float), np.full(3, 0.3))
    found = {}
    for form in ("reference", "vector"):
        monkeypatch.setenv("STREAMGMM_KERNELS", form)
        found[form] = centres.frame_stats(rows, weight), *centres.final_stats(rows, weight), *centres.assign(rows)
    (a, a_final, a_label, _, a_distance), (b, b_final, b_label, _, b_distance) = found.values()
    np.testing.assert_array_equal(a_label, b_label)
    assert a_label[11] == a_label[7] == 6  # the first of equals
    np.testing.assert_allclose(a_distance, b_distance, rtol=1e-13, atol=1e-14)
    for left, right in ((a, b), (a_final, b_final)):
        for name in ("mass", "first", "inertia", "square", "count", "rows"):
            np.testing.assert_allclose(getattr(left, name), getattr(right, name), rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("form", ["reference", "vector"])
def test_lloyds_step_finds_the_first_row_that_is_not_finite(monkeypatch, form):
    monkeypatch.setenv("STREAMGMM_KERNELS", form)
    rows = np.zeros((5000, 2))
    rows[4001, 1], rows[4500, 0] = np.inf, np.nan
    with pytest.raises(NonFiniteRowError) as caught:
        Centres(np.zeros((1, 2)), np.zeros(2)).labels(rows)
    assert caught.value.row == 4001


def test_a_form_that_cannot_run_here_is_one_error(monkeypatch):
    monkeypatch.setattr(dispatch, "_why_not", lambda *_: "there is no compiler")
    model = sg.Mixture([1.0], [[0.0]], [1.0], "spherical")
    for form in ("vector", "screened"):
        monkeypatch.setenv("STREAMGMM_KERNELS", form)
        with pytest.raises(ValueError, match=f"STREAMGMM_KERNELS={form}.*there is no compiler.*unset"):
            model.log_prob([[1.0]])
    monkeypatch.setenv("STREAMGMM_KERNELS", "auto")
    assert dispatch.in_all(None, model.log_prob, [[0.0]]) == pytest.approx(-0.5 * np.log(2 * np.pi), rel=1e-15)


def test_a_row_has_the_same_bits_whatever_rows_are_with_it(monkeypatch):
    """Densities do not depend on how rows are cut, in NumPy either."""
    monkeypatch.setenv("STREAMGMM_KERNELS", "reference")
    rng = np.random.default_rng(0)
    half = rng.normal(size=(5, 4, 4)) + 2 * np.eye(4)
    model = sg.Mixture(np.full(5, 0.2), rng.normal(size=(5, 4)), half @ half.swapaxes(1, 2))
    rows = rng.normal(size=(3000, 4))
    whole = model.log_prob(rows)
    for size in (2999, 1000, 333):
        parts = [model.log_prob(rows[i : i + size]) for i in range(0, len(rows), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("form", ["reference", "vector"])
def test_very_many_far_rows_have_totals_without_statistics(monkeypatch, form):
    """Rows that no frame holds are taken in parts; without statistics there is nothing to merge."""
    monkeypatch.setenv("STREAMGMM_KERNELS", form)
    monkeypatch.setattr(own_mean, "_NUMBERS", 64)
    model = sg.Mixture([0.5, 0.5], [[0.0], [1.0]], [1.0, 1.0], "spherical")
    rows = np.full((100, 1), 1e5)
    assert model.totals(rows)[0] == pytest.approx(100 * float(model.log_prob(rows[:1])[0]), rel=1e-12)


def test_the_demo_says_why_it_ended():
    assert "ended after 3 iterations" in stopped([-3.0, -2.0, -1.75])
    assert "0.25 nats" in stopped([-3.0, -2.0, -1.75])
