"""HDF5: rows decoded here are those that HDF5 reads, what was never written and what is damaged is named."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from streamgmm.errors import ChunkReadError
from streamgmm.sources import open_source
from tests.helpers.chunks import check_chunks, read

X = np.random.default_rng(3).standard_normal((1000, 4))


def test_unwritten_hdf5_chunks(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("x", shape=(1000, 4), chunks=(100, 4), dtype="f8")
        data[:300], data[500:] = X[:300], X[500:]
    with pytest.raises(ChunkReadError, match="rows 300 to 399 were never written") as caught:
        open_source(f"{tmp_path}/x.h5::x")
    assert caught.value.index == 3
    present = np.r_[0:300, 500:1000]
    np.testing.assert_array_equal(read(open_source(tmp_path / "x.h5", missing_chunks="skip"))[0], X[present])
    filled = np.where(np.isin(np.arange(1000), present)[:, None], X, 0.0)
    np.testing.assert_array_equal(read(open_source(tmp_path / "x.h5", missing_chunks="fill"))[0], filled)


def test_unwritten_contiguous_hdf5(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", shape=(10, 2), dtype="f8")
    with pytest.raises(ChunkReadError, match="never written"):
        open_source(f"{tmp_path}/x.h5::x")
    assert open_source(f"{tmp_path}/x.h5::x", missing_chunks="skip").n_chunks == 0


def test_hdf5_choices(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"], file["g/b"], file["text"] = X, X[:10], "words"
    with pytest.raises(ValueError, match=r"expected one table, found 2.*::a \(1000 x 4\), .*::g/b"):
        open_source(tmp_path / "x.h5")
    with pytest.raises(ValueError, match="no such dataset"):
        open_source(f"{tmp_path}/x.h5::c")
    with h5py.File(tmp_path / "x.h5", "r") as file:
        check_chunks(open_source(file["g/b"]), X[:10])
        check_chunks(open_source(file["g"]), X[:10])
    (tmp_path / "x.h5").write_bytes((tmp_path / "x.h5").read_bytes()[:3000])
    with pytest.raises(ChunkReadError, match="cannot be opened"):
        open_source(f"{tmp_path}/x.h5::a")


def test_flipped_bit_under_fletcher32(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("x", data=X, chunks=(100, 4), fletcher32=True)
        offset = data.id.get_chunk_info(6).byte_offset
    content = bytearray((tmp_path / "x.h5").read_bytes())
    content[offset + 100] ^= 1
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(ChunkReadError, match="cannot be read") as caught:
        read(open_source(tmp_path / "x.h5", chunk_rows=100))
    assert caught.value.index == 6


HDF5 = {
    "raw": {},
    "gzip": {"compression": "gzip", "compression_opts": 1},
    "shuffled": {"compression": "gzip", "shuffle": True},
}


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<i2"])
@pytest.mark.parametrize("name", HDF5)
@pytest.mark.parametrize("rows", [7, 64, 1000])
def test_hdf5_chunks_as_hdf5_reads_them(name, rows, dtype, tmp_path):
    x = (8 * X).astype(dtype)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=x, chunks=(min(rows, len(x)), x.shape[1]), **HDF5[name])
    for chunk_rows in (None, 5, 128):
        source = open_source(f"{tmp_path}/x.h5::x", chunk_rows=chunk_rows)
        assert source.layout is not None
        expected = x.astype(np.float32 if dtype == "<f4" else np.float64)
        check_chunks(source, expected, expected.dtype)


@pytest.mark.parametrize(
    "options", [{"compression": "lzf"}, {"fletcher32": True}, {"chunks": (10, 2)}, {"dtype": ">f8"}, {"scaleoffset": 3}]
)
def test_other_hdf5_is_left_to_hdf5(options, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=X.round(2), **{"chunks": (64, X.shape[1]), **options})
        expected = np.asarray(file["x"][:], np.float64)
    source = open_source(f"{tmp_path}/x.h5::x")
    assert source.layout is None
    check_chunks(source, expected)


def test_hdf5_behind_a_user_block_and_chunks_without_their_filter(tmp_path):
    with h5py.File(tmp_path / "user.h5", "w", userblock_size=512) as file:
        file.create_dataset("x", data=X, chunks=(64, X.shape[1]))
    check_chunks(open_source(f"{tmp_path}/user.h5::x"), X)
    with h5py.File(tmp_path / "mask.h5", "w") as file:
        data = file.create_dataset("x", X.shape, "f8", chunks=(250, X.shape[1]), compression="gzip")
        data[:] = X
        data.id.write_direct_chunk((250, 0), np.ascontiguousarray(X[250:500]).tobytes(), filter_mask=1)
    check_chunks(open_source(f"{tmp_path}/mask.h5::x"), X)


@pytest.mark.parametrize("name", ["gzip", "shuffled"])
def test_damaged_gzip_in_hdf5_is_named(name, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("x", data=X, chunks=(250, X.shape[1]), **HDF5[name])
        place = data.id.get_chunk_info_by_coord((250, 0))
    content = bytearray((tmp_path / "x.h5").read_bytes())
    rng = np.random.default_rng(0)
    for at in place.byte_offset + rng.integers(0, place.size, 20):
        broken = bytearray(content)
        broken[at] ^= 1 << rng.integers(8)
        (tmp_path / "y.h5").write_bytes(broken)
        source = open_source(f"{tmp_path}/y.h5::x", chunk_rows=250)
        with pytest.raises(ChunkReadError) as caught:
            read(source)
        assert caught.value.index == 1


def test_damaged_metadata_name_the_file_whatever_the_library_raises(tmp_path):
    """KeyError, ValueError and RuntimeError of h5py, which name no file."""
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        file.create_dataset("x", data=X, chunks=(250, X.shape[1]), compression="gzip")
    content = (tmp_path / "x.h5").read_bytes()
    rng = np.random.default_rng(0)
    kinds = set()
    for place in rng.integers(0, 600, 150):
        broken = bytearray(content)
        broken[place] = rng.integers(256)
        (tmp_path / "y.h5").write_bytes(broken)
        for name in ("y.h5", "y.h5::x"):
            try:
                np.testing.assert_array_equal(read(open_source(f"{tmp_path}/{name}"))[0], X)
            except ChunkReadError as error:
                kinds.add((type(error.__cause__).__name__, "y.h5" in str(error)))
    assert {("KeyError", True), ("OSError", True)} <= kinds and {named for _, named in kinds} == {True}
