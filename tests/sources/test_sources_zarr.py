"""Stored chunks decoded by ourselves: the same values as through Zarr, every damage found, memory used again."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from numcodecs import Blosc, Zstd
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ZstdCodec

from streamgmm.errors import ChunkReadError
from streamgmm.sources import open_source
from streamgmm.sources.buffers import LARGEST, scratch
from streamgmm.sources.convert import describe
from streamgmm.sources.formats.zarr_decode import Layout, _zstd_size

X = np.random.default_rng(5).integers(0, 50, (100, 3)) / 8

OURS = {
    "raw": {"compressors": None},
    "zstd": {"compressors": [ZstdCodec(level=1)]},
    "zstd, checked": {"compressors": [ZstdCodec(level=3, checksum=True)]},
    "zstd, crc32c": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "blosc": {"compressors": [BloscCodec(cname="lz4", shuffle="bitshuffle")]},
    "blosc, crc32c": {"compressors": [BloscCodec(cname="zstd", shuffle="shuffle"), Crc32cCodec()]},
    "crc32c": {"compressors": [Crc32cCodec()]},
    "v2 raw": {"compressors": None, "zarr_format": 2},
    "v2 zstd": {"compressors": Zstd(level=1, checksum=True), "zarr_format": 2},
    "v2 blosc": {"compressors": Blosc(), "zarr_format": 2},
}
SHARDS = {
    "shards": {"chunks": (8, 3), "shards": (32, 3)},
    "raw shards": {"chunks": (8, 3), "shards": (32, 3), "compressors": None},
    "shards, crc32c": {"chunks": (16, 3), "shards": (64, 3), "compressors": [BloscCodec(), Crc32cCodec()]},
    "shards, index first": {"chunks": (8, 3), "shards": {"shape": (32, 3), "index_location": "start"}},
}
ZARRS = {
    "gzip": {"compressors": [GzipCodec()]},
    "big-endian": {"serializer": BytesCodec(endian="big")},
    "two compressors": {"compressors": [ZstdCodec(), GzipCodec()]},
    "columns": {"chunks": (16, 2)},
    "wider than the array": {"chunks": (16, 4)},
    "shards of columns": {"chunks": (8, 2), "shards": (32, 4)},
    "v2 by columns": {"order": "F", "zarr_format": 2},
}
CHECKED = ("zstd, checked", "zstd, crc32c", "blosc, crc32c", "crc32c", "v2 zstd")


def store(path, **options):
    array = zarr.create_array(path, shape=X.shape, dtype=X.dtype, **({"chunks": (16, 3)} | options))
    array[:] = X
    return path


def stored_chunk(path):
    return next(p for p in (path / "c" / "2" / "0", path / "2.0") if p.exists())


def rows(source):
    return np.concatenate([chunk.load()[0].copy() for chunk in source.chunks()])


@pytest.mark.parametrize("chunk_rows", [None, 5, 16, 40])
@pytest.mark.parametrize("options", [*OURS.values(), *SHARDS.values(), *ZARRS.values()], ids=[*OURS, *SHARDS, *ZARRS])
def test_values_are_those_of_zarr(options, chunk_rows, tmp_path):
    source = open_source(store(tmp_path / "x.zarr", **options), chunk_rows=chunk_rows)
    assert (source.layout is None) == any(options is theirs for theirs in ZARRS.values())
    np.testing.assert_array_equal(rows(source), X)


@pytest.mark.parametrize("name", OURS)
def test_a_chunk_cut_short_is_found(name, tmp_path):
    path = store(tmp_path / "x.zarr", **OURS[name])
    victim = stored_chunk(path)
    for length in (victim.stat().st_size - 1, 20, 10, 3, 0):
        victim.write_bytes(victim.read_bytes()[:length])
        source = open_source(path, chunk_rows=16)
        with pytest.raises(ChunkReadError, match="cannot be read") as caught:
            rows(source)
        assert caught.value.index == 2


@pytest.mark.parametrize("name", CHECKED)
def test_every_flipped_bit_under_a_checksum_is_found(name, tmp_path):
    path = store(tmp_path / "x.zarr", **OURS[name])
    victim = stored_chunk(path)
    content = victim.read_bytes()
    layout = open_source(path).layout
    silent = []
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        victim.write_bytes(damaged)
        try:
            if not np.array_equal(layout.read([(str(victim), (len(content), 0))], 0, 16), X[32:48]):
                silent.append(bit)
        except (ValueError, RuntimeError):
            pass
    assert silent == []


@pytest.mark.parametrize("name", ["zstd", "blosc", "raw"])
def test_a_chunk_of_another_size_is_found(name, tmp_path):
    """Smaller content would leave the rows of an earlier chunk standing: no codec refuses it by itself."""
    path = store(tmp_path / "x.zarr", **OURS[name])
    small = store(tmp_path / "small.zarr", **OURS[name], chunks=(15, 3))
    stored_chunk(path).write_bytes(stored_chunk(small).read_bytes())
    with pytest.raises(ChunkReadError, match="holds 360 bytes, not 384"):
        rows(open_source(path, chunk_rows=16))


def test_a_frame_that_does_not_say_its_size(tmp_path):
    """Written by a stream: one raw block, RFC 8878, under a header without the size."""
    path = store(tmp_path / "x.zarr", **OURS["zstd"])
    content = np.ascontiguousarray(X[32:48]).tobytes()
    block = (len(content) << 3 | 1).to_bytes(3, "little") + content
    frame = b"\x28\xb5\x2f\xfd\x00\x58" + block
    assert _zstd_size(np.frombuffer(frame, np.uint8)) is None
    stored_chunk(path).write_bytes(frame)
    np.testing.assert_array_equal(rows(open_source(path)), X)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_000, 66_000, 2**20 + 1])
@pytest.mark.parametrize("checksum", [False, True])
def test_size_in_a_frame(size, checksum):
    frame = Zstd(level=1, checksum=checksum).encode(np.zeros(size, np.uint8)) if size else b"\x28\xb5\x2f\xfd\x20\x00"
    assert _zstd_size(np.frombuffer(frame, np.uint8)) == size


def test_absent_chunks_under_fill_are_read_by_zarr(tmp_path):
    path = store(tmp_path / "x.zarr", fill_value=7.0)
    stored_chunk(path).unlink()
    source = open_source(path, missing_chunks="fill", chunk_rows=16)
    expected = X.copy()
    expected[32:48] = 7.0
    assert isinstance(source.layout, Layout)
    np.testing.assert_array_equal(rows(source), expected)


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_cut_short_is_found(name, tmp_path):
    path = store(tmp_path / "x.zarr", **SHARDS[name])
    victim = path / "c" / "1" / "0"
    for length in (victim.stat().st_size - 1, 40, 10, 0):
        victim.write_bytes(victim.read_bytes()[:length])
        with pytest.raises(ChunkReadError, match=r"cannot be read|truncated or damaged"):
            rows(open_source(path))


@pytest.mark.parametrize("name", SHARDS)
def test_every_flipped_bit_in_the_index_of_a_shard_is_found(name, tmp_path):
    path = store(tmp_path / "x.zarr", **SHARDS[name])
    victim = path / "c" / "1" / "0"
    content = victim.read_bytes()
    layout = open_source(path).layout
    length = layout.shards.index_bytes
    first = len(content) - length if layout.shards.at_end else 0
    for bit in range(8 * first, 8 * (first + length)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        victim.write_bytes(damaged)
        with pytest.raises(ValueError, match="checksum does not fit"):
            layout.read([(str(victim), (len(content), bit))], 0, 16)


def test_a_shard_that_shrinks_between_opening_and_reading_is_found(tmp_path):
    source = open_source(store(tmp_path / "x.zarr", **SHARDS["shards"]))
    victim = tmp_path / "x.zarr" / "c" / "1" / "0"
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(ChunkReadError, match="has changed since it was opened"):
        rows(source)


def test_holes_in_a_shard_under_fill_are_read_by_zarr(tmp_path):
    path = tmp_path / "x.zarr"
    array = zarr.create_array(path, shape=X.shape, dtype=X.dtype, chunks=(8, 3), shards=(32, 3), fill_value=7.0)
    array[40:] = X[40:]
    source = open_source(path, missing_chunks="fill")
    expected = X.copy()
    expected[:40] = 7.0
    np.testing.assert_array_equal(rows(source), expected)
    np.testing.assert_array_equal(rows(open_source(path, missing_chunks="skip")), X[40:])


# Memory ---------------------------------------------------------------------------------------------------------------


def test_memory_is_used_again_once_nobody_holds_it(tmp_path):
    first = scratch("test", 1000)
    address = first.ctypes.data
    view = first.view(np.float64).reshape(-1, 5)[3:, :2]
    del first
    held = scratch("test", 1000)
    assert held.ctypes.data != address, "a view of a view is alive"
    del view, held
    again = scratch("test", 800)
    address = again.ctypes.data
    del again
    assert scratch("test", 1000).ctypes.data == address


def test_large_blocks_are_not_held_on_to():
    from streamgmm.sources.buffers import _blocks

    scratch("large", LARGEST + 1)
    assert "large" not in _blocks.held


def test_rows_that_are_kept_stay_as_they_are(tmp_path):
    source = open_source(store(tmp_path / "x.zarr"), chunk_rows=16)
    kept = [chunk.load()[0] for chunk in source.chunks()]
    np.testing.assert_array_equal(np.concatenate(kept), X)
    pieces = [chunk.load()[0] for chunk in open_source(tmp_path / "x.zarr", chunk_rows=5).chunks()]
    assert all(piece.base is None or piece.base.nbytes == piece.nbytes for piece in pieces), "pieces hold whole chunks"


@pytest.mark.parametrize("name", [*OURS, *SHARDS])
def test_checksums_are_those_of_the_rows(name, tmp_path):
    """The index of a shard always has one; that says nothing of the chunks inside."""
    chosen = (OURS | SHARDS)[name]
    zarr.create_array(tmp_path / "x.zarr", data=X, **{"chunks": (8, 3), **chosen})
    assert describe(open_source(tmp_path / "x.zarr"))["checksums"] == (
        "checked" in name or "crc32c" in name or name == "v2 zstd"
    )
