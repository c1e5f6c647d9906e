"""Sources of arrays, `.npy` files and Zarr stores: the same rows come out, or a named error does."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil

import numpy as np
import pytest
import zarr

from streamgmm.errors import ChunkReadError
from streamgmm.sources import cached, limit_chunks, open_source
from tests.helpers.chunks import check_chunks, read

RNG = np.random.default_rng(7)
X = RNG.standard_normal((100, 3))


# Arrays ---------------------------------------------------------------------------------------------------------------


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


@pytest.mark.parametrize(
    ("change", "dtype"),
    [
        (lambda a: a, np.float64),
        (np.asfortranarray, np.float64),
        (lambda a: np.repeat(a, 2, axis=0)[::2], np.float64),
        (lambda a: a[::-1], np.float64),
        (lambda a: a.astype(np.float32), np.float32),
        (lambda a: a.astype(np.float16), np.float64),
        (lambda a: a.astype(">f8"), np.float64),
        (lambda a: a.astype(">f4"), np.float32),
        (lambda a: (10 * a).astype(np.int8), np.float64),
        (lambda a: a > 0, np.float64),
        (read_only, np.float64),
        (lambda a: a[:1], np.float64),
        (lambda a: a[:, :1], np.float64),
    ],
)
def test_array(change, dtype):
    a = change(X)
    check_chunks(open_source(a, chunk_rows=7), a.astype(dtype), dtype)


def test_array_is_not_copied():
    (chunk,) = open_source(X).chunks()
    assert np.shares_memory(chunk.load()[0], X)


def test_zero_rows_make_no_chunk():
    assert list(open_source(np.empty((0, 2))).chunks()) == []


def test_default_chunks_depend_on_rows_and_features_only():
    wide, narrow = open_source(np.zeros((300_000, 2))), open_source(np.zeros((40_000, 64)))
    assert [c.start for c in wide.chunks()] == [0, 75_008, 150_016, 225_024]
    assert [c.start for c in narrow.chunks()] == [0, 20_096]


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (X[0], ValueError, "Reshape your data"),
        (X[None], ValueError, "Found array with dim 3, expected 2"),
        (X.astype(object), ValueError, "Python objects"),
        (X.astype(str), ValueError, "text"),
        (X.astype(complex), ValueError, "Complex data not supported"),
        (X[:, :0], ValueError, r"0 feature\(s\)"),
        (iter([X]), TypeError, "one-shot"),
        ([[1.0], [1.0, 2.0]], ValueError, "same length"),
    ],
)
def test_refused_objects(bad, error, words):
    with pytest.raises(error, match=words):
        open_source(bad)


def test_sparse_is_refused():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match="dense data is required"):
        open_source(scipy_sparse.csr_matrix(X))


# Columns and weights --------------------------------------------------------------------------------------------------

W = np.abs(X[:, 1])


@pytest.fixture(params=["array", "npy", "zarr"])
def stored(request, tmp_path):
    """A function that stores a matrix and opens it."""

    def store(matrix, **choices):
        if request.param == "array":
            return open_source(matrix, **choices)
        path = tmp_path / f"x.{request.param}"
        if request.param == "npy":
            np.save(path, matrix)
        else:
            zarr.create_array(path, data=matrix, chunks=(16, matrix.shape[1]), overwrite=True)
        return open_source(path, **choices)

    return store


def test_columns_and_weight_column(stored):
    table = np.column_stack([X, W])
    source = stored(table, columns=[2, 0], weight=3, chunk_rows=16)
    check_chunks(source, table[:, [2, 0]])
    assert source.has_weights
    np.testing.assert_array_equal(read(source)[1], W)
    rows, weights = read(stored(table, weight=-1))
    np.testing.assert_array_equal(rows, X)
    np.testing.assert_array_equal(weights, W)


def test_weight_array(stored):
    rows, weights = read(stored(X, weight=W, chunk_rows=9))
    np.testing.assert_array_equal(rows, X)
    np.testing.assert_array_equal(weights, W)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_bad_weights_name_the_row(stored, value):
    bad = W.copy()
    bad[41] = value
    with pytest.raises(ValueError, match="row 41 has"):
        stored(X, weight=bad)
    with pytest.raises(ValueError, match="row 41 has"):
        read(stored(np.column_stack([X, bad]), weight=3, chunk_rows=16))


def test_bad_choices(stored):
    for choices, words in [
        ({"columns": [3]}, "there is no column 3; expected some of columns 0 to 2"),
        ({"columns": ["a"]}, "no column 'a'"),
        ({"columns": [1, 1]}, "twice"),
        ({"columns": []}, r"0 feature\(s\)"),
        ({"weight": W[:-1]}, r"must have shape \(100,\)"),
        ({"chunk_rows": 0}, "at least 1"),
        ({"missing_chunks": "drop"}, "missing_chunks must be one of"),
    ]:
        with pytest.raises(ValueError, match=words):
            stored(X, **choices)


# .npy and memory maps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, ">f8", np.int16])
def test_npy(tmp_path, order, dtype):
    a = np.asarray(10 * X, dtype=dtype, order=order)
    np.save(tmp_path / "x.npy", a)
    check_chunks(open_source(tmp_path / "x.npy", chunk_rows=7), a, np.float32 if dtype == np.float32 else np.float64)


def test_memmap_travels_as_a_path(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for view, expected in [(mapped, X), (mapped[20:90], X[20:90]), (np.asarray(mapped)[50:], X[50:])]:
        source = open_source(view, chunk_rows=10)
        check_chunks(source, expected)
        assert all(len(pickle.dumps(chunk)) < 1000 and chunk.shipped_bytes == 0 for chunk in source.chunks())


def test_private_memmap_is_an_array(tmp_path):
    np.save(tmp_path / "x.npy", X)
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[3] = 9.0
    check_chunks(open_source(private), np.asarray(private))


def test_raw_memmap_with_offset(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"head" * 1500 + X.tobytes())
    check_chunks(open_source(np.memmap(tmp_path / "x.bin", np.float64, "r", 6000, X.shape)), X)


def test_truncated_npy_is_refused_before_reading(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with (tmp_path / "x.npy").open("rb+") as file:
        file.truncate(128 + 50 * 24 + 5)
    with pytest.raises(ChunkReadError, match="truncated") as caught:
        open_source(tmp_path / "x.npy", chunk_rows=10)
    assert (caught.value.path, caught.value.index) == (str(tmp_path / "x.npy"), 5)


def test_file_cut_or_replaced_between_passes(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, X)
    source = open_source(path, chunk_rows=10)
    read(source)
    np.save(path, X[:50])
    with pytest.raises(ChunkReadError, match="changed since it was opened") as caught:
        read(source)
    assert caught.value.index == 0
    path.unlink()
    with pytest.raises(ChunkReadError, match="cannot be read now"):
        read(source)


def test_broken_headers(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00v")
    with pytest.raises(ValueError, match="header cannot be read"):
        open_source(tmp_path / "x.npy")
    np.save(tmp_path / "o.npy", X.astype(object))
    with pytest.raises(ValueError, match="Python objects"):
        open_source(tmp_path / "o.npy")


def test_paths_that_are_not_there(tmp_path):
    np.save(tmp_path / "points.npy", X)
    with pytest.raises(FileNotFoundError, match=r"did you mean .*points\.npy"):
        open_source(tmp_path / "point.npy")
    for name in ("x.csv.gz", "x.csv"):
        (tmp_path / name).write_bytes(gzip.compress(b"a,b\n1,2\n"))
        with pytest.raises(ValueError, match=r"compressed file can only be read from its beginning.*Unpack it"):
            open_source(tmp_path / name)
    (tmp_path / "x.xyz").write_bytes(b"1 2 3")
    with pytest.raises(ValueError, match="format is not known"):
        open_source(tmp_path / "x.xyz")


# Zarr -----------------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "v3": {"chunks": (16, 3)},
    "v2": {"chunks": (16, 3), "zarr_format": 2},
    "columns": {"chunks": (16, 2)},
    "sharded": {"chunks": (8, 3), "shards": (32, 3)},
    "sharded columns": {"chunks": (8, 2), "shards": (32, 4)},
    "one": {"chunks": (200, 3)},
    "raw": {"chunks": (16, 3), "compressors": None},
    "one row": {"chunks": (1, 3)},
}


def store(path, matrix=X, layout="v3", **more):
    options = LAYOUTS[layout] | more
    array = zarr.create_array(path, shape=matrix.shape, dtype=matrix.dtype, **options)
    array[:] = matrix
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("chunk_rows", [None, 5, 16, 48])
def test_zarr(tmp_path, layout, chunk_rows):
    store(tmp_path / "x.zarr", layout=layout)
    source = open_source(tmp_path / "x.zarr", chunk_rows=chunk_rows)
    check_chunks(source, X)
    assert all(len(pickle.dumps(c)) < 20_000 for c in source.chunks())


@pytest.mark.parametrize("dtype", [np.float32, np.int32, ">f4", np.bool_])
def test_zarr_types(tmp_path, dtype):
    a = (10 * X).astype(dtype)
    store(tmp_path / "x.zarr", a, "v2")
    single = np.dtype(dtype).itemsize == 4 and np.dtype(dtype).kind == "f"
    check_chunks(open_source(tmp_path / "x.zarr"), a, np.float32 if single else np.float64)


def test_zarr_objects_groups_and_urls(tmp_path):
    group = zarr.create_group(tmp_path / "g.zarr")
    group.create_array("points", data=X, chunks=(16, 3))
    check_chunks(open_source(group["points"]), X)
    check_chunks(open_source(f"{tmp_path}/g.zarr::points"), X)
    check_chunks(open_source(tmp_path / "g.zarr"), X)  # the only matrix of the group
    group.create_array("others", data=X, chunks=(16, 3))
    with pytest.raises(ValueError, match="::points"):
        open_source(tmp_path / "g.zarr")
    check_chunks(open_source(f"file://{tmp_path}/g.zarr::points"), X)
    in_memory = zarr.create_array(zarr.storage.MemoryStore(), data=X, chunks=(16, 3))
    rows, _ = read(open_source(in_memory))
    np.testing.assert_array_equal(rows, X)


def test_zarr_behind_fsspec():
    held = zarr.create_array("memory://bucket/x.zarr", data=X, chunks=(16, 3))  # Zarr forgets it with its last user
    source = open_source("memory://bucket/x.zarr")
    check_chunks(source, X)
    assert held.shape == X.shape
    with pytest.raises(ValueError, match="expected a Zarr array"):
        open_source("memory://bucket/y.zarr")


@pytest.mark.parametrize("layout", ["v3", "v2", "columns", "sharded"])
def test_deleted_chunk_is_an_error_or_a_choice(tmp_path, layout):
    path = store(tmp_path / "x.zarr", layout=layout)
    key = {"v3": "c/3/0", "v2": "3.0", "columns": "c/3/1", "sharded": "c/1/0"}[layout]
    gone = slice(32, 64) if layout == "sharded" else slice(48, 64)
    (path / key).unlink()
    with pytest.raises(ChunkReadError, match=key) as caught:
        open_source(path)
    assert caught.value.path == str(path)
    assert "missing_chunks='skip'" in str(caught.value)
    check_chunks_without = np.delete(X, np.r_[gone], axis=0)
    rows, weights = read(open_source(path, missing_chunks="skip", weight=W))
    np.testing.assert_array_equal(rows, check_chunks_without)
    np.testing.assert_array_equal(weights, np.delete(W, np.r_[gone]))
    filled = X.copy()
    filled[gone, 2 if layout == "columns" else slice(None)] = 0.0
    np.testing.assert_array_equal(read(open_source(path, missing_chunks="fill"))[0], filled)


def test_hole_inside_a_shard_is_found(tmp_path):
    matrix = X.copy()
    matrix[40:48] = 0.0
    path = store(tmp_path / "x.zarr", matrix, "sharded")  # this writer leaves out inner chunks of zeros
    with pytest.raises(ChunkReadError, match="inside the shard") as caught:
        open_source(path)
    assert caught.value.index == 5
    np.testing.assert_array_equal(read(open_source(path, missing_chunks="fill"))[0], matrix)
    assert open_source(path, missing_chunks="skip").n_rows == 92


@pytest.mark.parametrize("layout", ["v3", "sharded"])
def test_chunk_deleted_or_changed_between_passes(tmp_path, layout):
    path = store(tmp_path / "x.zarr", layout=layout)
    source = open_source(path, chunk_rows=16)
    read(source)
    victim = path / "c" / "1" / "0"
    victim.write_bytes(victim.read_bytes())
    os.utime(victim, ns=(1, 1))
    with pytest.raises(ChunkReadError, match="changed since it was opened") as caught:
        read(source)
    assert caught.value.index == (1 if layout == "v3" else 2)
    victim.unlink()
    with pytest.raises(ChunkReadError, match="cannot be read now"):
        read(source)


def test_flipped_bit_under_a_checksum(tmp_path):
    path = store(tmp_path / "x.zarr", compressors=[zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()])
    victim = path / "c" / "2" / "0"
    content = bytearray(victim.read_bytes())
    content[40] ^= 4
    victim.write_bytes(content)
    with pytest.raises(ChunkReadError, match="cannot be read") as caught:
        read(open_source(path, chunk_rows=16))
    assert (caught.value.path, caught.value.index) == (str(path), 2)


def test_metadata_that_cannot_be_trusted(tmp_path):
    path = store(tmp_path / "x.zarr", layout="v2")
    meta = json.loads((path / ".zarray").read_text())
    for change, words in [
        ({"filters": [{"id": "pickle"}]}, "pickle|metadata"),
        ({"chunks": [10**6, 10**4]}, "GiB"),
        ({"dtype": "|O"}, "metadata|objects"),
        ({"shape": [100]}, "metadata|1D"),
    ]:
        (path / ".zarray").write_text(json.dumps(meta | change))
        with pytest.raises(ValueError, match=words):
            open_source(path)
    shutil.rmtree(path)
    path.mkdir()
    with pytest.raises(ValueError, match="expected a Zarr store"):
        open_source(path)


# Budgets --------------------------------------------------------------------------------------------------------------


def test_limit_chunks(stored):
    source = limit_chunks(stored(X, weight=W, chunk_rows=64), 16)
    assert source.max_chunk_rows == 16
    check_chunks(source, X)
    np.testing.assert_array_equal(read(source)[1], W)
    assert limit_chunks(source, 50) is source


def test_limit_never_splits_what_is_decoded_as_a_whole(tmp_path):
    source = open_source(store(tmp_path / "x.zarr"), chunk_rows=48)
    assert source.max_chunk_rows == 48
    assert limit_chunks(source, 5).max_chunk_rows == 16


def test_cache_keeps_what_fits_and_reads_the_rest(tmp_path):
    path = store(tmp_path / "x.zarr")
    source = cached(open_source(path, chunk_rows=16), 3 * 16 * 3 * 8)
    check_chunks(source, X)
    assert source.bytes_kept == 0  # the check read pickled copies, which keep nothing
    for _ in range(2):
        np.testing.assert_array_equal(read(source)[0], X)
        assert source.bytes_kept == 3 * 16 * 3 * 8
    first, *_ = source.chunks()
    assert first.load()[0] is first.load()[0]
    assert cached(open_source(X), 10**9).in_memory
