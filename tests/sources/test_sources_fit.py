"""One model through every source: the same statistics and the same climb, whatever held the rows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from streamgmm.em.loop import e_step, merge_all
from streamgmm.mixture.m_step import m_step
from streamgmm.mixture.mixture import Mixture
from streamgmm.runtime.executors import Threads
from streamgmm.sources import cached, open_source
from tests.helpers.formats import DOUBLES_ONLY, FORMATS

FAMILIES = ["full", "tied", "diag", "spherical"]


def rows_and_start(n, dtype, D=8, K=4):
    rng = np.random.default_rng(11)
    centres = rng.uniform(-3, 3, (K, D))
    x = (centres[rng.integers(K, size=n)] + rng.standard_normal((n, D)) + 100.0).astype(dtype)
    start = Mixture(np.full(K, 1 / K), centres + 100.3, np.tile(2.0 * np.eye(D), (K, 1, 1)), "full")
    return x, start


def in_family(start, family):
    K, D = start.means.shape
    shapes = {"full": np.tile(2.0 * np.eye(D), (K, 1, 1)), "tied": 2.0 * np.eye(D)}
    shapes |= {"diag": np.full((K, D), 2.0), "spherical": np.full(K, 2.0)}
    return Mixture(start.weights, start.means, shapes[family], family)


def one_pass(model, source):
    framed = Threads(2).run(lambda chunk: e_step((model,), chunk), source.chunks(), merge_all)
    return model.restore(framed[0])


def climb(model, source, passes):
    trace = []
    for _ in range(passes):
        stats = one_pass(model, source)
        trace.append(stats.loglik)
        model = m_step(stats)
    return trace


def close(found, expected, tolerance, *, rows=True):
    """Largest error relative to the largest entry of each array, and the same `rows`."""
    for name in ("weight", "mean", "scatter"):
        a, b = getattr(found, name), getattr(expected, name)
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), name
    for name in ("loglik", "entropy", "log_max", "count"):
        assert abs(getattr(found, name) - getattr(expected, name)) <= tolerance * abs(getattr(expected, name)), name
    assert not rows or found.rows == expected.rows


def through(kind, folder, n, chunk, dtype, families, passes):
    x, start = rows_and_start(n, dtype)
    x.flags.writeable = False
    held = x.astype(np.float64) if kind in DOUBLES_ONLY else x
    source = open_source(FORMATS[kind](folder, held, chunk))
    whole = open_source(held, chunk_rows=n)  # one chunk in memory
    for family in families:
        model = in_family(start, family)
        close(one_pass(model, source), one_pass(model, whole), 1e-12)
    if kind == "csv":  # parsed once, as by a fit: text is a hundred times as slow as the rest
        source = cached(source, source.total_bytes or 2 * held.nbytes)
    model = in_family(start, families[0])
    np.testing.assert_allclose(climb(model, source, passes), climb(model, whole, passes), rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", FORMATS)
def test_same_fit_through_every_source(kind, dtype, tmp_path):
    through(kind, tmp_path, 3000, 100, dtype, FAMILIES, 5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_same_fit_of_a_million_rows(kind, tmp_path):
    through(kind, tmp_path, 1_000_000, 50_000, np.float64, FAMILIES, 25)


@pytest.mark.parametrize("kind", ["npy", "zarr v3", "hdf5", "parquet", "feather", "csv", "pandas", "array"])
def test_chunks_of_one_row(kind, tmp_path):
    x, start = rows_and_start(60, np.float64)
    source = open_source(FORMATS[kind](tmp_path, x, 16), chunk_rows=1)
    assert source.max_chunk_rows == 1
    close(one_pass(start, source), one_pass(start, open_source(x)), 1e-12)


def test_partitions_without_rows(tmp_path):
    import dask.dataframe as dd

    from tests.helpers.formats import frame

    x, start = rows_and_start(2000, np.float64)
    table = dd.from_pandas(frame(np.column_stack([x, np.arange(2000.0)])), npartitions=9)
    kept = table[(table["i"] < 300) | (table["i"] >= 1700)]
    source = open_source(kept, columns=list("abcdefgh"))
    assert sum(len(chunk.load()[0]) == 0 for chunk in source.chunks()) >= 5
    close(one_pass(start, source), one_pass(start, open_source(np.delete(x, np.r_[300:1700], axis=0))), 1e-12)
    empty_parquet = FORMATS["parquet folder"](tmp_path, x, 100)
    close(one_pass(start, open_source(empty_parquet, chunk_rows=100)), one_pass(start, open_source(x)), 1e-12)


def test_fit_says_which_row_of_a_file_is_not_finite(tmp_path):
    import streamgmm as sg

    x, _ = rows_and_start(3000, np.float64)
    x[2345, 6] = np.nan
    for kind in ("npy", "zarr v3", "hdf5", "parquet"):
        source = open_source(FORMATS[kind](tmp_path, x, 100), chunk_rows=100)
        with pytest.raises(ValueError, match="row 2345, column 6"):
            sg.GaussianMixture(2).fit(source)


def test_huge_chunks_lose_no_digits_and_no_row_numbers():
    x, start = rows_and_start(300_000, np.float64)
    close(one_pass(start, open_source(x, chunk_rows=300_000)), one_pass(start, open_source(x)), 1e-12)
    x[200_001, 3] = np.inf
    with pytest.raises(ValueError, match="row 200001, column 3"):
        one_pass(start, open_source(x, chunk_rows=300_000))


def test_weights_of_a_file_count_as_rows(tmp_path):
    x, start = rows_and_start(500, np.float64)
    times = np.random.default_rng(0).integers(0, 4, 500)
    data = FORMATS["parquet"](tmp_path, np.column_stack([x, times]), 64)
    repeated = open_source(np.repeat(x, times, axis=0))
    close(one_pass(start, open_source(data, weight="i")), one_pass(start, repeated), 1e-11, rows=False)


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"dask", "distributed", "pyarrow", "h5py", "xarray", "zarr", "fsspec", "polars"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import numpy as np, streamgmm as sg

x = np.random.default_rng(0).standard_normal((500, 2))
gm = sg.GaussianMixture(2, random_state=0, tol=1e-2).fit(x)
assert gm.predict(x).shape == (500,)
np.save("x.npy", x)
again = sg.GaussianMixture(2, random_state=0, tol=1e-2).fit("x.npy")
assert again.means_.shape == (2, 2)
formats = [("x.parquet", b"PAR1", "pyarrow"), ("x.h5", b"\\x89HDF", "h5py"), ("x.csv", b"1,2", "pyarrow")]
for path, head, library in formats:
    with open(path, "wb") as file:
        file.write(head)
    try:
        next(sg.open_source(path).chunks()).load()
    except ImportError as error:
        assert "pip install" in str(error) and library in str(error), error
    else:
        raise AssertionError(path)
"""


def test_an_array_needs_neither_dask_nor_readers_of_files(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-W", "error", "-c", BLOCKED]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
