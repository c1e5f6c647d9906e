"""describe, check and convert: what they say is true, and what they write is whole."""

from __future__ import annotations

import json
import os

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from pyarrow import feather

from streamgmm.cli.app import DONE, FAILED, run
from streamgmm.errors import ChunkReadError
from streamgmm.sources import open_source
from streamgmm.sources.convert import check, convert, describe, load_manifest
from tests.helpers.chunks import check_chunks, read
from tests.helpers.formats import FORMATS, NAMED, names

RNG = np.random.default_rng(3)
X = RNG.standard_normal((500, 4))
W = RNG.uniform(0, 2, 500)


@pytest.fixture(params=FORMATS)
def kind(request):
    return request.param


def test_describe(kind, tmp_path):
    facts = json.loads(json.dumps(describe(open_source(FORMATS[kind](tmp_path, X, 64)))))
    assert facts["features"] == 4 and facts["dtype"] == "float64" and not facts["weights"]
    assert facts["rows"] in (500, None) and facts["bytes"] in (500 * 4 * 8, None)
    assert facts["feature_names"] == (names(X) if kind in NAMED else None)


def test_check_and_convert(kind, tmp_path):
    x = X.copy()
    seen = []
    source = open_source(FORMATS[kind](tmp_path, x, 64))
    manifest = check(source, progress=lambda chunks, rows: seen.append((chunks, rows)))
    assert (manifest.rows, manifest.nan, manifest.infinite, manifest.problems) == (500, 0, 0, [])
    assert seen[-1] == (source.n_chunks, 500)
    np.testing.assert_array_equal(manifest.min, X.min(axis=0))
    np.testing.assert_array_equal(manifest.max, X.max(axis=0))
    done = convert(source, tmp_path / "out.zarr", chunk_rows=128)
    assert (done.rows, done.features, done.chunks) == (500, 4, 4)
    copy = open_source(tmp_path / "out.zarr")
    check_chunks(copy, X)
    assert copy.feature_names == source.feature_names and describe(copy)["checksums"]


def test_manifest_counts_what_is_not_finite_and_survives_a_file(tmp_path):
    x = X.copy()
    x[7, 0], x[300, 1], x[301, 1], x[:, 3] = np.nan, np.inf, -np.inf, np.nan
    manifest = check(open_source(x, chunk_rows=100))
    assert (manifest.nan, manifest.infinite) == (501, 2)
    assert manifest.min[3] is None and manifest.min[1] == X[np.r_[0:300, 302:500], 1].min()
    manifest.save(tmp_path / "m.json")
    assert load_manifest(tmp_path / "m.json") == manifest
    (tmp_path / "m.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a manifest"):
        load_manifest(tmp_path / "m.json")


def test_check_finds_what_changed_and_what_is_broken(tmp_path):
    convert(open_source(X), tmp_path / "x.zarr", chunk_rows=100)
    source = open_source(tmp_path / "x.zarr", chunk_rows=100)
    before = check(source)
    assert check(source, against=before).problems == []
    array = zarr.open_array(tmp_path / "x.zarr")
    array[205, 1] = 9.0
    after = check(open_source(tmp_path / "x.zarr", chunk_rows=100), against=before)
    assert after.problems == [f"{tmp_path}/x.zarr: chunk 2: its content differs from the manifest."]
    victim = tmp_path / "x.zarr" / "c" / "3" / "0"
    content = bytearray(victim.read_bytes())
    content[100] ^= 1
    victim.write_bytes(content)
    broken = check(open_source(tmp_path / "x.zarr", chunk_rows=100))
    assert len(broken.problems) == 1 and "chunk 3: cannot be read" in broken.problems[0]
    assert broken.rows == 400


def test_weights_and_names_survive_a_conversion(tmp_path):
    table = FORMATS["pandas"](tmp_path, np.column_stack([X, W]), 64)
    convert(open_source(table, weight="e"), tmp_path / "x.zarr")
    source = open_source(tmp_path / "x.zarr")
    rows, weights = read(source)
    np.testing.assert_array_equal(rows, X)
    np.testing.assert_array_equal(weights, W)
    assert source.feature_names == ("a", "b", "c", "d")
    assert open_source(tmp_path / "x.zarr", columns=["d", "b"]).feature_names == ("d", "b")


def test_conversion_to_float32_keeps_every_chunk(tmp_path):
    convert(open_source(np.zeros((300, 2))), tmp_path / "x.zarr", chunk_rows=100, dtype="float32")
    check_chunks(open_source(tmp_path / "x.zarr"), np.zeros((300, 2), np.float32), np.float32)
    with pytest.raises(ValueError, match="float32 or float64"):
        convert(open_source(X), tmp_path / "y.zarr", dtype="int8")


def test_nothing_is_left_behind_and_nothing_strange_is_replaced(tmp_path):
    x = X.copy()
    np.save(tmp_path / "x.npy", x)
    source = open_source(tmp_path / "x.npy", chunk_rows=50)
    os.utime(tmp_path / "x.npy", ns=(1, 1))
    with pytest.raises(ChunkReadError):
        convert(source, tmp_path / "x.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npy"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"x")
    source = open_source(X)
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="left alone"):
            convert(source, tmp_path / "photos", overwrite=overwrite)
    convert(source, tmp_path / "x.zarr")
    with pytest.raises(FileExistsError, match="exists already"):
        convert(source, tmp_path / "x.zarr")
    convert(open_source(X[:10]), tmp_path / "x.zarr", overwrite=True)
    assert open_source(tmp_path / "x.zarr").n_rows == 10
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "x.npy", "x.zarr"]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        convert(source, tmp_path / "no" / "x.zarr")


# At the terminal ------------------------------------------------------------------------------------------------------


def test_a_library_that_crashes_is_a_problem_of_the_file(tmp_path, monkeypatch, capsys):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=X, chunks=(100, 4), fletcher32=True)
    path = str(tmp_path / "x.h5")
    assert run(["data", "check", path]) == DONE
    assert "no checksums" not in capsys.readouterr().err
    assert run(["data", "check", path, "--json"]) == DONE
    assert json.loads(capsys.readouterr().out)["rows"] == 500
    # A library that ends every process that opens a file with it.
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "sitecustomize.py").write_text(
        "import h5py, os, signal\nh5py.File = lambda *_, **__: os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'late'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    assert run(["data", "check", path, "--json"]) == FAILED
    said = capsys.readouterr()
    assert f"problem: {path}: the library that reads it crashed (SIGSEGV), so the file is damaged" in said.err
    assert len(json.loads(said.out)["problems"]) == 1


def hdf5(path, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=X, chunks=(100, 4), **options)


def parquet(path, **options):
    pq.write_table(pa.table({name: X[:, j] for j, name in enumerate("abcd")}), path, **options)


WITHOUT = {
    "x.npy": lambda path: np.save(path, X),
    "x.csv": lambda path: np.savetxt(path, X, delimiter=",", header="a,b,c,d", comments=""),
    "x.h5": hdf5,
    "x.arrow": lambda path: feather.write_feather(pa.table({"a": X[:, 0]}), path),
    "x.parquet": parquet,
    "x.zarr": lambda path: zarr.create_array(path, data=X),
}
WITH = {
    "x.h5": lambda path: hdf5(path, fletcher32=True),
    "x.parquet": lambda path: parquet(path, write_page_checksum=True, use_dictionary=["a"]),
    "x.zarr": lambda path: convert(open_source(X), path),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_formats_without_checksums_say_so(name, tmp_path, capsys):
    WITHOUT[name](tmp_path / name)
    assert run(["data", "check", str(tmp_path / name)]) == DONE
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert len(said) == 1 and said[0].startswith(f"note: no checksums in {tmp_path / name}")
    assert describe(open_source(tmp_path / name))["checksums"] is False


@pytest.mark.parametrize("name", WITH)
def test_formats_with_checksums(name, tmp_path, capsys):
    WITH[name](tmp_path / name)
    assert run(["data", "check", str(tmp_path / name)]) == DONE
    assert "no checksums" not in capsys.readouterr().err
    assert describe(open_source(tmp_path / name))["checksums"] is True


def test_several_files_are_checked_where_all_of_them_are(tmp_path):
    parquet(tmp_path / "a.parquet", write_page_checksum=True)
    parquet(tmp_path / "b.parquet", write_page_checksum=True)
    assert open_source(tmp_path).verified() and open_source([tmp_path / "a.parquet", tmp_path / "b.parquet"]).verified()
    parquet(tmp_path / "b.parquet")
    assert not open_source(tmp_path).verified()
    assert open_source(X).verified() is None
