"""Reads that fail for a while, folders that are for reading only: what is promised of both."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import count

import fsspec
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem

import streamgmm as sg
from streamgmm.errors import ChunkReadError
from streamgmm.runtime.executors import Threads
from streamgmm.sources import open_source, retry
from tests.helpers.chunks import read

X = np.random.default_rng(0).normal(size=(3000, 3))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(retry, "_PAUSES", (0.0, 0.0, 0.0))


class Flaky:
    """Fails the first `times` times for each place that is read."""

    def __init__(self, real, times, error=errno.ETIMEDOUT):
        self.real, self.times, self.error, self.seen = real, times, error, {}

    def __call__(self, *arguments, **options):
        place = self.place(*arguments)
        self.seen[place] = self.seen.get(place, 0) + 1
        if self.seen[place] <= self.times:
            raise OSError(self.error, os.strerror(self.error))
        return self.real(*arguments, **options)

    @staticmethod
    def place(file, *rest):
        return (getattr(file, "name", file), file.tell() if hasattr(file, "tell") else 0)


def write(folder, kind, X=X):
    path = folder / f"x.{kind}"
    table = pa.table({name: X[:, j] for j, name in enumerate("abc")})
    if kind == "npy":
        np.save(path, X)
    elif kind == "zarr":
        zarr.create_array(path, data=X, chunks=(500, 3), overwrite=True)
    elif kind == "csv":
        np.savetxt(path, X, delimiter=",", header="a,b,c", comments="", fmt="%.17g")
    elif kind == "parquet":
        pq.write_table(table, path, row_group_size=500)
    elif kind == "arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=500)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=X, chunks=(500, 3), compression="gzip" if kind == "h5" else None)
    return path


READERS = {
    "npy": "streamgmm.sources.formats.npy.read_into",
    "zarr": "streamgmm.sources.formats.zarr_decode.read_into",
    "csv": "streamgmm.sources.formats.csv_records.read_into",
    "h5": "streamgmm.sources.formats.zarr_decode.read_into",
    "hdf5": "h5py.File",
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("error", [errno.ETIMEDOUT, errno.EIO])
def test_a_chunk_that_fails_twice_and_then_works(kind, error, tmp_path, monkeypatch):
    source = open_source(write(tmp_path, kind), chunk_rows=500)
    module, _, name = READERS[kind].rpartition(".")
    real = getattr(sys.modules[module], name)
    flaky = Flaky(real, 2, error)
    monkeypatch.setattr(READERS[kind], flaky)
    np.testing.assert_array_equal(read(source)[0], X)
    assert set(flaky.seen.values()) != {1}
    monkeypatch.setattr(READERS[kind], Flaky(real, 10**9, error))
    with pytest.raises(ChunkReadError, match=f"x.{kind}.* {os.strerror(error)}"):
        read(source)


def test_a_fit_on_threads_over_reads_that_fail_has_the_same_bits(tmp_path, monkeypatch):
    source = open_source(write(tmp_path, "npy"), chunk_rows=250)

    def fit():
        return sg.GaussianMixture(2, random_state=0, executor=Threads(2), max_iter=5, tol=0, solver="exact").fit(source)

    with pytest.warns(match="converge"):
        usual = fit()
    flaky = Flaky(sys.modules["streamgmm.sources.formats.npy"].read_into, 2)  # by place: for any order of threads
    monkeypatch.setattr("streamgmm.sources.formats.npy.read_into", flaky)
    with pytest.warns(match="converge"):
        again = fit()
    assert len(flaky.seen) == source.n_chunks and min(flaky.seen.values()) > 2
    assert usual.lower_bounds_ == again.lower_bounds_
    np.testing.assert_array_equal(usual.means_, again.means_)


CHANGES = {
    "grows": lambda path, folder, kind: write(folder, kind, np.concatenate([X, X])),
    "shrinks": lambda path, folder, kind: write(folder, kind, X[:1700]),
    "other values": lambda path, folder, kind: write(folder, kind, X + 1.0),
    "a folder": lambda path, folder, kind: path.mkdir(),
    "removed": lambda path, folder, kind: None,
}


@pytest.mark.parametrize("kind", ["npy", "csv", "parquet", "arrow", "zarr", "h5"])
@pytest.mark.parametrize("how", CHANGES)
def test_data_that_change_between_passes_are_named(tmp_path, kind, how):
    path = write(tmp_path, kind)
    source = open_source(path, chunk_rows=500)
    np.testing.assert_array_equal(read(source)[0], X)
    before = path.stat().st_mtime_ns
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    CHANGES[how](path, tmp_path, kind)
    if path.is_file():
        assert path.stat().st_mtime_ns != before
    with pytest.raises(ChunkReadError, match=rf"x\.{kind}.*(has changed since|cannot be read now)"):
        read(source)


class Unreliable(MemoryFileSystem):
    """A file system of fsspec, each thirteenth read of which is reset."""

    protocol = "unreliable"
    store = {}  # noqa: RUF012
    calls = count(1)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("unreliable://", "memory://"))

    def cat_file(self, path, *arguments, **options):
        if next(self.calls) % 13 == 0:
            raise ConnectionResetError(errno.ECONNRESET, "reset by peer")
        return super().cat_file(path, *arguments, **options)


def test_a_file_system_that_fails_every_thirteenth_read(tmp_path):
    fsspec.register_implementation("unreliable", Unreliable, clobber=True)
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(500, 3))
    there = Unreliable()
    for file in (tmp_path / "x.zarr").rglob("*"):
        if file.is_file():
            there.pipe_file(f"/{file.relative_to(tmp_path)}", file.read_bytes())
    source = open_source("unreliable://x.zarr")
    for _ in range(3):
        np.testing.assert_array_equal(read(source)[0], X)
    assert next(Unreliable.calls) > 26


def test_an_opening_that_fails_for_a_moment(tmp_path, monkeypatch):
    path = write(tmp_path, "hdf5")
    monkeypatch.setattr(h5py, "File", Flaky(h5py.File, 2))
    assert open_source(path).n_rows == 3000
    monkeypatch.setattr(h5py, "File", Flaky(h5py.File, 10**9))
    with pytest.raises(ChunkReadError, match=r"x\.hdf5: .* timed out"):
        open_source(path)


READ_ONLY = """
import os, shutil, sys, tempfile
import numpy as np, streamgmm as sg
def work(folder):
    gm = sg.GaussianMixture(1, checkpoint=folder + "/kept").fit(folder + "/x.npy")
    session = sg.StreamSession(sg.GaussianMixture(1), snapshot=folder + "/s")
    for use in (lambda: gm.save(folder + "/m"), lambda: session.run([(np.load(folder + "/x.npy"), 3000)])):
        try:
            list(use() or [])
            yield "written"
        except OSError as error:
            yield type(error).__name__ + (" with the path" if folder in str(error) else "")
warm = tempfile.mkdtemp()  # everything is imported while that is allowed
shutil.copy(sys.argv[1] + "/x.npy", warm)
print(*work(warm), sep=", ")
shutil.rmtree(warm)
os.setgid(65534), os.setuid(65534)
print(*work(sys.argv[1]), sep=", ")
"""


@pytest.mark.skipif(sys.platform == "win32" or os.getuid() != 0, reason="needs the right to become another user")
def test_a_folder_for_reading_only_as_an_ordinary_user():
    place = tempfile.mkdtemp()  # that of the test may be entered by its owner only
    np.save(f"{place}/x.npy", X)
    try:
        os.chmod(place, 0o555)
        done = subprocess.run([sys.executable, "-c", READ_ONLY, place], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == ["written, written", ", ".join(2 * ["PermissionError with the path"])]
        assert "The checkpoint cannot be written, and the fit goes on" in done.stderr
        assert sorted(os.listdir(place)) == ["x.npy"]
    finally:
        shutil.rmtree(place)
