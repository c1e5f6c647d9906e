"""Small files whose metadata claim 2^36 rows: nothing of that size is made, and the error says what is wrong."""

from __future__ import annotations

import json
import time
import tracemalloc
import zlib

import h5py
import numpy as np
import pytest
import zarr

import streamgmm as sg
from streamgmm.cli.app import FAILED, run
from streamgmm.errors import ChunkReadError
from streamgmm.sources import open_source
from streamgmm.sources.formats.tables import choose_columns
from streamgmm.stream.connectors import connect
from tests.helpers.chunks import read

N = 2**36
ONES = np.ones((1000, 2))


@pytest.fixture(autouse=True)
def little_memory():
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def zarr_file(path, chunk=1, written=0, **options):
    array = zarr.create_array(path, shape=(N, 2), chunks=(chunk, 2), dtype="f8", **options)
    array[:written] = ONES[:written]
    return str(path)


def zarr_shards(path):
    array = zarr.create_array(path, shape=(2000, 2), chunks=(250, 2), shards=(1000, 2), dtype="f8")
    array[:1000] = ONES
    document = json.loads((path / "zarr.json").read_text())
    document["shape"] = [N, 2]
    (path / "zarr.json").write_text(json.dumps(document))
    return str(path)


def hdf5_file(path, written=0, **options):
    with h5py.File(path, "w") as file:
        data = file.create_dataset("x", (N, 2), "f8", **options)
        if written:
            data[:written] = ONES[:written]
    return str(path)


TINY = {
    "zarr": lambda folder: zarr_file(folder / "x.zarr"),
    "zarr v2": lambda folder: zarr_file(folder / "x.zarr", zarr_format=2),
    "zarr, some": lambda folder: zarr_file(folder / "x.zarr", chunk=100, written=1000),
    "zarr shards": lambda folder: zarr_shards(folder / "x.zarr"),
    "hdf5": lambda folder: hdf5_file(folder / "x.h5", chunks=(1, 2)),
    "hdf5, some": lambda folder: hdf5_file(folder / "x.h5", chunks=(100, 2), written=1000),
    "hdf5 in one piece": lambda folder: hdf5_file(folder / "x.h5"),
}


@pytest.fixture(params=TINY)
def tiny(request, tmp_path):
    return TINY[request.param](tmp_path)


def test_one_clear_error_everywhere(tiny, capsys):
    for use in (open_source, sg.GaussianMixture(1).fit):
        with pytest.raises(ChunkReadError, match="missing_chunks='skip'"):
            use(tiny)
    assert run(["data", "check", tiny]) == FAILED
    assert "error: " in capsys.readouterr().err
    if tiny.endswith(".zarr"):
        session = sg.StreamSession(sg.GaussianMixture(1))
        with pytest.raises(ChunkReadError):
            list(session.run(connect("zarr", path=tiny)))
        assert session.counts.rows in (0, 1000)


def test_what_is_stored_can_be_read(tiny):
    source = open_source(tiny, missing_chunks="skip")
    assert source.n_rows in (0, 1000) and source.n_missing > 0
    if source.n_rows:
        np.testing.assert_array_equal(read(source)[0], ONES)


@pytest.mark.parametrize("kind", ["zarr", "zarr v2", "hdf5"])
def test_what_is_not_stored_is_filled_in_up_to_a_limit(kind, tmp_path):
    tiny = TINY[kind](tmp_path)
    with pytest.raises(ValueError, match=r"68,719,476,736 chunks of rows.*at most 1,048,576 are filled in"):
        open_source(tiny, missing_chunks="fill")


def test_a_stored_chunk_that_grows_without_end_is_cut_off(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("x", (1000, 2), "f8", chunks=(1000, 2), compression="gzip")
        data.id.write_direct_chunk((0, 0), bomb())
    source = open_source(tmp_path / "x.h5")
    with pytest.raises(ChunkReadError, match="holds more than 16000 bytes"):
        read(source)
    zarr.create_array(tmp_path / "x.zarr", shape=(1000, 2), chunks=(1000, 2), dtype="f8")
    chunk = tmp_path / "x.zarr" / "c" / "0" / "0"
    chunk.parent.mkdir(parents=True)
    # A Zstandard frame that does not say its size: blocks of one repeated byte, 128 KiB each (RFC 8878, 3.1.1.2).
    block = (2**17 << 3 | 2).to_bytes(3, "little") + b"\0"
    last = (2**17 << 3 | 3).to_bytes(3, "little") + b"\0"
    chunk.write_bytes(b"\x28\xb5\x2f\xfd\x00\x58" + 4000 * block + last)
    with pytest.raises(ChunkReadError, match="cannot be read"):
        read(open_source(tmp_path / "x.zarr"))


def bomb():
    """A zlib stream of more than 1 MB that holds 300 MB."""
    deflate = zlib.compressobj(1)
    return b"".join(deflate.compress(bytes(2**20)) for _ in range(300)) + deflate.flush()


@pytest.mark.parametrize("made", [zarr.create_array, lambda path, **options: hdf5_wide(path, **options)])
def test_absurd_numbers_of_columns(made, tmp_path):
    path = tmp_path / ("x.zarr" if made is zarr.create_array else "x.h5")
    made(path, shape=(10, N), chunks=(10, 1), dtype="f8")
    for choice in ("error", "skip", "fill"):
        with pytest.raises(ValueError, match="declare 68,719,476,736 columns"):
            open_source(path, missing_chunks=choice, weight=3)
    if made is zarr.create_array:
        with pytest.raises(ValueError, match="at most 4 GiB are accepted"):
            list(sg.StreamSession(sg.GaussianMixture(1)).run(connect("zarr", path=path)))


def hdf5_wide(path, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", **options)


def test_the_first_chunk_that_is_not_there_is_named_wherever_it_is(tmp_path):
    array = zarr.create_array(tmp_path / "x.zarr", shape=(1000, 4), chunks=(100, 2), dtype="f8")
    array[:] = 1.0
    (tmp_path / "x.zarr" / "c" / "7" / "1").unlink()
    (tmp_path / "x.zarr" / "c" / "3" / "0").unlink()
    (tmp_path / "x.zarr" / "c" / "12" / "0").parent.mkdir()
    (tmp_path / "x.zarr" / "c" / "12" / "0").write_bytes(b"left over from a longer array")
    with pytest.raises(ChunkReadError, match=r"chunk c/3/0 \(rows 300 to 399\) is not there; 2 of 10") as caught:
        open_source(tmp_path / "x.zarr")
    assert caught.value.index == 3
    source = open_source(tmp_path / "x.zarr", missing_chunks="skip")
    assert (source.n_rows, source.n_missing) == (800, 2)


def test_a_large_shard_is_streamed_in_parts(tmp_path):
    X = np.random.default_rng(0).normal(size=(200_000, 2))
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(1000, 2), shards=(200_000, 2))
    session = sg.StreamSession(sg.GaussianMixture(1))
    rows = [update.rows for update in session.run(connect("zarr", path=tmp_path / "x.zarr"))]
    assert sum(rows) == 200_000 and max(rows) == 131_000
    np.testing.assert_allclose(session.mixture.means, X.mean(axis=0)[None], atol=0.02)


# Rows that are in other files -----------------------------------------------------------------------------------------


def test_virtual_and_external_datasets_that_lack_a_file_are_not_zeros(tmp_path):
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["x"] = ONES
    for name, rows in (("whole", 1000), ("gap", 1500)):
        layout = h5py.VirtualLayout((rows, 2), "f8")
        layout[:1000] = h5py.VirtualSource("part.h5", "x", (1000, 2))
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_virtual_dataset("v", layout)
    np.testing.assert_array_equal(read(open_source(tmp_path / "whole.h5"))[0], ONES)
    with pytest.raises(ChunkReadError, match="its sources cover 2000 of 3000 values"):
        open_source(tmp_path / "gap.h5")
    (tmp_path / "part.h5").unlink()
    with pytest.raises(ChunkReadError, match=r"part\.h5 is not there \(HDF5 reads 0\.0\)"):
        open_source(tmp_path / "whole.h5")
    assert not read(open_source(tmp_path / "whole.h5", missing_chunks="fill"))[0].any()
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        file.create_dataset("x", (1000, 2), "f8", external=[(tmp_path / "raw.bin", 0, 16_000)])
    (tmp_path / "raw.bin").write_bytes(ONES.tobytes())
    np.testing.assert_array_equal(read(open_source(tmp_path / "outside.h5"))[0], ONES)
    (tmp_path / "raw.bin").write_bytes(ONES[:500].tobytes())
    with pytest.raises(ChunkReadError, match=r"raw\.bin holds 8000 bytes of 16000"):
        open_source(tmp_path / "outside.h5")


@pytest.mark.parametrize("missing_chunks", ["error", "fill"])
def test_a_source_too_small_for_a_virtual_dataset_is_no_memory_of_others(tmp_path, missing_chunks):
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["x"] = ONES
    layout = h5py.VirtualLayout((2000, 2), "f8")
    layout[:1000] = h5py.VirtualSource("part.h5", "x", (1000, 2))
    layout[1000:] = h5py.VirtualSource("part.h5", "x", (1500, 2))[500:]
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("v", layout)
    with pytest.raises(ChunkReadError, match=r"part\.h5::x has the shape \(1000, 2\), less than is taken from it"):
        open_source(tmp_path / "v.h5", missing_chunks=missing_chunks)


def test_sources_of_a_virtual_dataset_that_overlap_hide_no_gap(tmp_path):
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["x"] = ONES
    for name, first, second in (
        ("twice", slice(0, 1000), slice(0, 1000)),
        ("in turn", slice(0, 2000, 2), slice(1, 2000, 2)),
    ):
        layout = h5py.VirtualLayout((2000, 2), "f8")
        layout[first] = layout[second] = h5py.VirtualSource("part.h5", "x", (1000, 2))
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_virtual_dataset("v", layout)
    with pytest.raises(ChunkReadError, match="its sources cover 2000 of 4000 values"):
        open_source(tmp_path / "twice.h5")
    np.testing.assert_array_equal(read(open_source(tmp_path / "in turn.h5"))[0], np.repeat(ONES, 2, axis=0))


def test_a_virtual_dataset_of_no_fixed_size_is_read_when_asked_for(tmp_path):
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file.create_dataset("x", data=ONES, maxshape=(None, 2), chunks=(100, 2))
    layout = h5py.VirtualLayout((1000, 2), "f8", maxshape=(None, 2))
    rows = slice(h5py.h5s.UNLIMITED)
    layout[rows] = h5py.VirtualSource("part.h5", "x", (1000, 2), maxshape=(None, 2))[rows]
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("v", layout)
    with pytest.raises(ChunkReadError, match="no fixed size"):
        open_source(tmp_path / "v.h5")
    np.testing.assert_array_equal(read(open_source(tmp_path / "v.h5", missing_chunks="fill"))[0], ONES)


def test_many_columns_are_chosen_from_in_time():
    stored = [(f"x{i}", None, False) for i in range(40_000)]
    began = time.process_time()
    assert len(choose_columns("table", stored, None, None).names) == 40_000
    assert time.process_time() - began < 5  # a minute where each is looked for among all
