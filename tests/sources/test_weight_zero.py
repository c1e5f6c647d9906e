"""A row of weight 0 is no row, whatever it holds and whoever reads it."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest

import streamgmm as sg
from streamgmm.sources.living import living, living_rows

RNG = np.random.default_rng(0)
X = RNG.permutation(RNG.normal(size=(300, 2)) + np.repeat([[0.0, 0.0], [5.0, 1.0]], 150, axis=0))
W = RNG.uniform(0.5, 2.0, len(X))
AT = np.array([0, 5, 100, 299])
HELD = {"NaN": np.nan, "infinity": np.inf, "1e300": 1e300, "-1e20": -1e20}

ESTIMATORS = {
    "full": lambda: sg.GaussianMixture(2, random_state=0),
    "tied": lambda: sg.GaussianMixture(2, covariance_type="tied", solver="exact", random_state=0),
    "diag": lambda: sg.GaussianMixture(2, covariance_type="diag", solver="squarem", random_state=0),
    "spherical": lambda: sg.GaussianMixture(2, covariance_type="spherical", solver="incremental", random_state=0),
    "one component": lambda: sg.GaussianMixture(1),
    "stepwise": lambda: sg.GaussianMixture(2, solver="stepwise", random_state=0),
    "missing": lambda: sg.GaussianMixture(2, missing="marginalize", random_state=0),
    "noise": lambda: sg.GaussianMixture(2, noise="uniform", random_state=0),
    "prior": lambda: sg.GaussianMixture(2, prior="default", random_state=0),
    "kmeans||": lambda: sg.GaussianMixture(2, init_params="kmeans||", tol=1e-12, random_state=0),
    "KMeans": lambda: sg.KMeans(2, random_state=0),
    "Scaler": sg.Scaler,
    "PCA": lambda: sg.PCA(2),
    "OutlierDetector": lambda: sg.OutlierDetector(2, random_state=0),
}


def spoiled(value):
    return np.insert(X, AT, value, axis=0), np.insert(W, AT, 0.0)


def learnt(model):
    names = ("means_", "weights_", "covariances_", "cluster_centers_", "mean_", "scale_", "components_", "offset_")
    parts = [np.sort(np.ravel(np.abs(getattr(model, name)))) for name in names if hasattr(model, name)]
    return np.concatenate(parts)


def parquet(folder, rows, weight):
    pd.DataFrame({"a": rows[:, 0], "b": rows[:, 1], "w": weight}).to_parquet(folder / "x.parquet", row_group_size=100)
    return sg.open_source(folder / "x.parquet", weight="w"), None


def csv(folder, rows, weight):
    pd.DataFrame({"a": rows[:, 0], "b": rows[:, 1], "w": weight}).to_csv(folder / "x.csv", index=False)
    return sg.open_source(folder / "x.csv", weight="w"), None


def npy(folder, rows, weight):
    np.save(folder / "x.npy", rows)
    return str(folder / "x.npy"), weight


FORMATS = {
    "array": lambda folder, rows, weight: (rows, weight),
    "npy": npy,
    "parquet": parquet,
    "csv": csv,
    "dask": lambda folder, rows, weight: (da.from_array(rows, chunks=(152, 2)), weight),
}


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_it_changes_no_fit(kind, held, tmp_path):
    wanted = learnt(ESTIMATORS[kind]().fit(X, sample_weight=W))
    names = FORMATS if kind in ("full", "KMeans", "Scaler") else ("array",)
    for name in names:
        data, weight = FORMATS[name](tmp_path, *spoiled(HELD[held]))
        found = learnt(ESTIMATORS[kind]().fit(data, sample_weight=weight))
        assert found == pytest.approx(wanted, rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("held", HELD)
def test_it_changes_no_stream_choice_or_statistics(held):
    rows, weight = spoiled(HELD[held])
    one, two = sg.GaussianMixture(2, random_state=0), sg.GaussianMixture(2, random_state=0)
    for _ in range(2):
        one.partial_fit(rows, sample_weight=weight)
        two.partial_fit(X, sample_weight=W)
    assert one.means_ == pytest.approx(two.means_, rel=1e-9)
    spoilt = sg.select(rows, [1, 2], sample_weight=weight, n_init=2, random_state=0)
    clean = sg.select(X, [1, 2], sample_weight=W, n_init=2, random_state=0)
    assert [r["bic"] for r in spoilt.table] == pytest.approx([r["bic"] for r in clean.table], abs=1e-2)
    stats, same = two.mixture_.accumulate(rows, weight), two.mixture_.accumulate(X, W)
    assert stats.rows == same.rows
    assert stats.loglik == pytest.approx(same.loglik, rel=1e-12)
    assert two.score(rows, sample_weight=weight) == pytest.approx(two.score(X, sample_weight=W), rel=1e-12)


def test_only_the_rows_of_weight_zero_are_replaced():
    rows, weight = spoiled(np.nan)
    found, same = living_rows(rows, weight)
    assert same is weight
    assert np.array_equal(found[weight > 0], X)
    assert np.array_equal(found[AT[0]], X[0])  # the first row of positive weight
    assert living_rows(X, W)[0] is X  # nothing is copied where nothing is replaced
    none = living_rows(X, np.zeros(len(X)))
    assert len(none[0]) == len(none[1]) == 0
    source = sg.open_source(X)
    assert living(source) is source


def test_answers_are_those_of_the_stored_rows(tmp_path):
    rows, weight = spoiled(7.0)
    source, _ = parquet(tmp_path, rows, weight)
    gm = sg.GaussianMixture(2, random_state=0).fit(source)
    assert np.concatenate(list(gm.score_samples(source))) == pytest.approx(gm.mixture_.log_prob(rows))
    moved = sg.Scaler().fit_transform(source)
    first, _ = next(iter(moved.chunks())).load()
    assert not np.allclose(first[0], first[1])
