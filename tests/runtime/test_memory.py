"""A memory limit holds, or is refused with the numbers before a row is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.errors import ChunkReadError, MemoryLimitError
from streamgmm.estimators.memory_plan import Shape, available_memory, parse_bytes, plan_memory
from streamgmm.mixture.covariance import FAMILIES, FULL
from streamgmm.sources import open_source
from streamgmm.sources.memory_budget import CachedSource

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("512 mb", 512 * 10**6), ("1.5GiB", 3 * 2**29), ("64K", 64_000), ("100", 100), (7, 7)],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "GB", "1 EB", "\u0662GB", "9" * 400])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="memory_limit must be"):
        parse_bytes(text)


@pytest.fixture
def matrix(tmp_path):
    """A .npy file of 100,000 x 8, in chunks of 32,768 rows (2 MiB)."""
    path = tmp_path / "rows.npy"
    rows = np.random.default_rng(0).normal(size=(100_000, 8)) + 4.0 * np.arange(100_000)[:, None] % 3
    np.save(path, rows)
    return str(path)


@pytest.fixture
def store(tmp_path):
    """A compressed Zarr array of the same size, in stored chunks of 20,000 rows."""
    import zarr

    rows = np.round(np.random.default_rng(0).normal(size=(100_000, 8)), 2) + np.arange(100_000)[:, None] % 3
    array = zarr.create_array(str(tmp_path / "rows.zarr"), shape=rows.shape, chunks=(20_000, 8), dtype=rows.dtype)
    array[:] = rows
    return str(tmp_path / "rows.zarr")


def shape(K=4, D=8, **kwargs):
    return Shape(FULL, K, D, **{"n_models": 1, "sample_rows": 10_000, **kwargs})


def test_everything_as_usual_where_there_is_room(matrix):
    source = open_source(matrix)
    plan = plan_memory(source, shape(), limit="1GB", n_jobs=4)
    assert plan.source is source and plan.n_jobs == 4 and plan.sample_rows == 10_000
    assert plan.numbers["projected"] < 100e6


def test_threads_are_left_out_then_chunks_are_cut_then_the_limit_is_refused(matrix):
    source = open_source(matrix)
    assert source.chunk_bytes == 2**21
    seen = {"threads": False, "slabs": False, "sample": False, "refused": False}
    for limit in (16_000, 12_000, 8_000, 5_000, 4_000, 3_000, 2_000, 1_000, 400, 200, 100):
        try:
            plan = plan_memory(source, shape(), limit=f"{limit}KB", n_jobs=4)
        except MemoryLimitError:
            seen["refused"] = True
            continue
        assert not seen["refused"], "less memory cannot do what more could not"
        assert plan.numbers["projected"] <= limit * 1000
        assert plan.source.n_rows == source.n_rows
        seen["threads"] |= plan.n_jobs < 4 and plan.source.max_chunk_rows == source.max_chunk_rows
        seen["slabs"] |= plan.source.max_chunk_rows < source.max_chunk_rows
        seen["sample"] |= plan.sample_rows < 10_000
    assert all(seen.values()), seen


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_projection_grows_with_the_model(matrix, family):
    def projected(**kwargs):
        wanted = {"n_components": 4, "n_models": 1, **kwargs}
        one = Shape(family, wanted["n_components"], 8, wanted["n_models"], 0, kwargs.get("remembered", 0))
        return plan_memory(open_source(matrix), one, limit="10GB", n_jobs=2).numbers["projected"]

    assert projected() < projected(n_components=40)
    assert projected() < projected(n_models=5)
    assert projected() < projected(remembered=32)


def test_refused_before_anything_is_read(matrix, monkeypatch):
    from streamgmm.sources.formats.npy import FileChunk

    def load(self):
        raise AssertionError("read")

    monkeypatch.setattr(FileChunk, "load", load)
    with pytest.raises(MemoryLimitError, match=r"is 1 MB; a start needs a sample of at least 1000 rows, which takes"):
        sg.GaussianMixture(4, memory_limit="1MB").fit(matrix)
    with pytest.raises(MemoryLimitError, match=r"is 200 kB, but at least [\d.]+ kB are needed: .* to read a chunk of"):
        sg.GaussianMixture(4, memory_limit="200KB").fit(matrix)


def test_stored_chunk_that_is_too_large_is_refused(tmp_path):
    import zarr

    array = zarr.create_array(str(tmp_path / "one.zarr"), shape=(200_000, 8), chunks=(200_000, 8), dtype="f8")
    array[:] = 1.0
    with pytest.raises(MemoryLimitError, match="smaller chunks"):
        sg.GaussianMixture(2, memory_limit="12MB").fit(str(tmp_path / "one.zarr"))


def test_same_bits_for_any_number_of_threads_under_a_limit(matrix):
    def fit(n_jobs):
        return sg.GaussianMixture(3, memory_limit="2MB", n_jobs=n_jobs, random_state=0, max_iter=3, tol=0).fit(matrix)

    one, many = fit(1), fit(4)
    assert one.report_["memory"]["slabs"] and one.report_["memory"]["chunk_rows"] < 32_768
    assert one.lower_bounds_ == many.lower_bounds_
    assert np.array_equal(one.covariances_, many.covariances_)
    free = sg.GaussianMixture(3, random_state=0, max_iter=3, tol=0).fit(matrix)
    assert one.lower_bounds_[-1] == pytest.approx(free.lower_bounds_[-1], abs=0.05)


def test_decoded_chunks_are_kept_as_far_as_there_is_room(store, monkeypatch):
    from streamgmm.sources.formats.zarr import ZarrChunk

    loads = []
    read = ZarrChunk._read
    monkeypatch.setattr(ZarrChunk, "_read", lambda self: loads.append(self.index) or read(self))

    def fit(limit):
        loads.clear()
        start = {"weights_init": [0.5, 0.5], "means_init": [[0.0] * 8, [2.0] * 8], "precisions_init": [np.eye(8)] * 2}
        model = sg.GaussianMixture(2, memory_limit=limit, n_jobs=2, **start, max_iter=5, tol=0).fit(store)
        return model, len(loads)

    n_chunks = open_source(store).n_chunks
    everything, read_once = fit("1GB")
    needed = everything.report_["memory"]["projected"]
    something, read_some = fit(needed + 3_000_000)  # of 6.4 MB
    nothing, read_always = fit(needed + 300_000)
    assert (read_once, read_always) == (n_chunks, 5 * n_chunks)
    assert n_chunks < read_some < 5 * n_chunks
    assert everything.lower_bounds_ == something.lower_bounds_ == nothing.lower_bounds_
    assert everything.report_["memory"]["kept"] > 0 == nothing.report_["memory"]["kept"]


def test_kept_chunks_of_a_changed_file_are_refused(store):
    source = plan_memory(open_source(store), shape(), limit=None, n_jobs=1).source
    assert isinstance(source, CachedSource)
    first = [chunk.load()[0] for chunk in source.chunks()]
    assert all(a is chunk.load()[0] for a, chunk in zip(first, source.chunks(), strict=True))
    for path in Path(store).rglob("c/*/*"):
        os.utime(path, ns=(1, 1))
    with pytest.raises(ChunkReadError, match="has changed since it was opened"):
        next(source.chunks()).load()


def test_available_memory_is_a_number_of_this_machine():
    assert 10**7 < available_memory() < 10**15


MEASURED = textwrap.dedent(
    """
    import json, sys, warnings
    import streamgmm as sg

    warnings.simplefilter("ignore")
    gm = sg.GaussianMixture(5, memory_limit="40MB", random_state=0, max_iter=2, tol=0).fit(sys.argv[1])
    print(json.dumps(gm.report_["memory"]))
    """
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak can be measured on Linux only")
def test_measured_growth_keeps_to_the_limit(tmp_path):
    """77 MB of float32 in compressed chunks of 4 MB, in 40 MB; 50 MB are allowed for what nobody can project."""
    import zarr

    path = str(tmp_path / "rows.zarr")
    array = zarr.create_array(path, shape=(300_000, 64), chunks=(16_384, 64), dtype="f4")
    rng = np.random.default_rng(0)
    for first in range(0, 300_000, 16_384):
        n = min(16_384, 300_000 - first)
        array[first : first + n] = np.round(rng.normal(size=(n, 64)) + 3 * rng.integers(0, 4, (n, 1)), 1)
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, path],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    memory = json.loads(run.stdout)
    assert memory["projected"] <= memory["limit"] == 40_000_000
    assert memory["growth"] <= 90_000_000, memory
