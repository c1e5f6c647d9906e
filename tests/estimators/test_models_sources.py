"""Everything beside the mixture works on what is not in memory too, with the numbers it gives in memory."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

import streamgmm as sg


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return rng.permutation(np.concatenate([rng.normal(size=(1500, 3)), rng.normal(size=(1500, 3)) + 6]))


@pytest.fixture(params=["npy", "zarr", "dask", "parquet"])
def stored(request, rows, tmp_path):
    """The rows as a path, or as a dask array."""
    if request.param == "npy":
        np.save(tmp_path / "rows.npy", rows)
        return tmp_path / "rows.npy"
    if request.param == "zarr":
        zarr = pytest.importorskip("zarr")
        zarr.create_array(str(tmp_path / "rows.zarr"), data=rows, chunks=(700, 3))
        return str(tmp_path / "rows.zarr")
    if request.param == "dask":
        return pytest.importorskip("dask.array").from_array(rows, chunks=(800, 3))
    pytest.importorskip("pyarrow")
    pytest.importorskip("pandas").DataFrame(rows, columns=list("abc")).to_parquet(tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def test_models_on_storage_equal_models_in_memory(rows, stored):
    for init in (rows[:3], "k-means||"):
        here = sg.KMeans(3, init=init, random_state=0).fit(rows)
        there = sg.KMeans(3, init=init, random_state=0).fit(stored)
        np.testing.assert_allclose(there.cluster_centers_, here.cluster_centers_, rtol=1e-9)
        assert there.inertia_ == pytest.approx(here.inertia_, rel=1e-11)
    labels = there.predict(stored)
    labels = labels.compute() if hasattr(labels, "compute") else np.concatenate(list(labels))
    np.testing.assert_array_equal(labels, here.labels_)
    np.testing.assert_allclose(sg.Scaler().fit(stored).var_, sg.Scaler().fit(rows).var_, rtol=1e-12)
    here, there = (sg.OutlierDetector(2, random_state=0, tol=1e-4).fit(x) for x in (rows, stored))
    assert there.offset_ == pytest.approx(here.offset_, abs=0.01)
    here, there = (sg.cluster_scores(here.estimator_, x) for x in (rows, stored))
    assert there.davies_bouldin == pytest.approx(here.davies_bouldin, rel=1e-10)
    assert there.silhouette == pytest.approx(here.silhouette, rel=1e-10)
    pipelines = [
        make_pipeline(sg.Scaler(), sg.PCA(2), sg.GaussianMixture(2, n_init=2, random_state=0)).fit(x)
        for x in (rows, stored)
    ]
    assert pipelines[1].score(stored) == pytest.approx(pipelines[0].score(rows), rel=1e-9)
    assert sg.diagnose(pipelines[1][-1], pipelines[1][:-1].transform(stored)) == []
