"""describe, check and convert: what they say is true, and what they write is whole."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import zarr

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
