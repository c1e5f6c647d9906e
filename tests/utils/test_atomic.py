"""Files that are whole or not there, and what killed processes leave behind."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import zarr

import streamgmm as sg
from streamgmm.errors import DiskFullError
from streamgmm.utils.atomic import _machine, atomic_folder, atomic_path, sweep
from tests.helpers.disks import full_disk, short_files  # noqa: F401

WRITER = """
import os, sys, time
from streamgmm.utils import atomic
from streamgmm.utils.atomic import atomic_folder, atomic_path
kind, path = sys.argv[1:]
if kind == "replaced":
    rename = os.rename
    def last(source, target, *rest, **more):  # the new folder never takes its place
        if ".part" in str(source) and str(target) == path:
            print("here", flush=True)
            time.sleep(60)
        return rename(source, target, *rest, **more)
    os.rename = last
with (atomic_path if kind == "file" else atomic_folder)(path) as part:
    (part if kind == "file" else part / "inside").write_text("new")
    if kind != "replaced":
        print("here", flush=True)
        time.sleep(60)
"""


@contextmanager
def writing(kind, path):
    """A process in the middle of writing, killed at the end."""
    command = [sys.executable, "-c", WRITER, kind, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "here\n"
            yield process
        finally:
            process.kill()


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_in_use_stays_and_what_a_killed_process_left_is_swept(kind, tmp_path):
    with writing(kind, tmp_path / "x.npy"):
        sweep(tmp_path)
        assert len(names(tmp_path)) == 1 and names(tmp_path)[0].startswith(".x.npy.")
    assert len(names(tmp_path)) == 1
    with atomic_path(tmp_path / "y") as part:  # whatever is written next
        part.write_text("y")
    assert names(tmp_path) == ["y"]


def test_a_folder_that_was_being_replaced_is_put_back(tmp_path):
    (tmp_path / "x.zarr").mkdir()
    (tmp_path / "x.zarr" / "inside").write_text("old")
    with writing("replaced", tmp_path / "x.zarr"):
        sweep(tmp_path)
        assert not (tmp_path / "x.zarr").exists()
    sweep(tmp_path)
    assert names(tmp_path) == ["x.zarr"] and (tmp_path / "x.zarr" / "inside").read_text() == "old"
    with atomic_folder(tmp_path / "x.zarr") as part:
        (part / "inside").write_text("new")
    assert names(tmp_path) == ["x.zarr"] and (tmp_path / "x.zarr" / "inside").read_text() == "new"


def test_what_is_not_ours_is_left_alone(tmp_path):
    other = "000000" if _machine() != "000000" else "111111"
    young, old, ours = (f".x.{tag}0123456789.part.npy" for tag in (other, other, _machine()))
    old = old.replace(".x.", ".z.")
    strangers = [".x.part", ".x.abcdefgh.part", "x.part", f"x.{_machine()}0123456789.part", ".x.0123456789.old"]
    for name in (young, old, ours, *strangers):
        (tmp_path / name).write_text("?")
    os.utime(tmp_path / old, (time.time() - 2 * 86_400,) * 2)
    (tmp_path / "aim").write_text("kept")
    (tmp_path / ours.replace("0123456789", "9876543210")).symlink_to(tmp_path / "aim")
    sweep(tmp_path)
    assert names(tmp_path) == sorted([*strangers, "aim", young, ours.replace("0123456789", "9876543210")])
    sweep(tmp_path / "nowhere")


def test_a_zarr_store_that_is_being_written_keeps_its_lock(tmp_path):
    folders = []
    with atomic_folder(tmp_path / "x.zarr") as part:
        folders.append(part.stat().st_ino)
        zarr.create_array(part, data=np.ones((10, 2)))
        sweep(tmp_path)
        folders.append(part.stat().st_ino)
    assert folders == [(tmp_path / "x.zarr").stat().st_ino] * 2


def test_names_as_long_as_they_may_be(tmp_path):
    for name in ("n" * 255, "ä" * 127, "x." + "s" * 250):
        with atomic_path(tmp_path / name) as part:
            part.write_text("x")
        assert (tmp_path / name).read_text() == "x"


def test_a_failure_leaves_the_old_content(tmp_path):
    (tmp_path / "x").write_text("old")
    for write in (atomic_path, atomic_folder):
        with pytest.raises(RuntimeError), write(tmp_path / "x"):
            raise RuntimeError
    assert names(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "old"


@pytest.mark.parametrize("write", [atomic_path, atomic_folder])
def test_an_error_names_the_file_that_was_asked_for(tmp_path, write):
    with pytest.raises(FileNotFoundError) as caught, write(tmp_path / "no" / "x.npy"):
        pass
    assert caught.value.filename == str(tmp_path / "no" / "x.npy")


# What is no plain file -----------------------------------------------------------------------------------------------


def test_a_link_stays_a_link_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "real").mkdir()
    link, target = tmp_path / "x", tmp_path / "real" / "y"
    link.symlink_to("real/y")
    for text in ("new", "newer"):
        with atomic_path(link) as part:
            assert part.parent == target.parent  # renaming is atomic on one file system only
            part.write_text(text)
        assert link.is_symlink() and target.read_text() == text
    store = tmp_path / "x.zarr"
    store.symlink_to("real/store")
    for text in ("new", "newer"):
        with atomic_folder(store) as part:
            (part / "inside").write_text(text)
        assert store.is_symlink() and (tmp_path / "real" / "store" / "inside").read_text() == text
    assert names(tmp_path / "real") == ["store", "y"] and names(tmp_path) == ["real", "x", "x.zarr"]
    (tmp_path / "loop").symlink_to("loop")
    for write in (atomic_path, atomic_folder):
        with pytest.raises(OSError, match="loop") as caught, write(tmp_path / "loop"):
            pass
        assert caught.value.errno == errno.ELOOP


def test_a_pipe_and_a_device_are_written_to_and_stay(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        with atomic_path(tmp_path / "pipe") as part:
            part.write_bytes(b"whole")
        assert reader.stdout.read() == b"whole"
    assert (tmp_path / "pipe").is_fifo()
    gm = sg.GaussianMixture(1).fit(np.random.default_rng(0).normal(size=(50, 2)))
    null, full = device(tmp_path / "null", 3), device(tmp_path / "full", 7)
    gm.save(null)
    with pytest.raises(OSError, match="No space left"):
        gm.save(full)
    assert null.is_char_device() and full.is_char_device() and names(tmp_path) == ["full", "null", "pipe"]


def device(path, minor):
    """Like /dev/null and /dev/full, without a danger to those."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        path.open("wb").close()
    except OSError:
        pytest.skip("needs the right to make devices")
    return path


def test_permissions_stay(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    path.chmod(0o600)
    with atomic_path(path) as part:
        part.write_text("new")
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_for_reading_only_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_text("old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anything
    for write in (atomic_path, atomic_folder):
        with pytest.raises(PermissionError) as caught, write(path):
            pass
        assert caught.value.filename == str(path)
    assert path.read_text() == "old" and names(tmp_path) == ["x"]


# No room --------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_too_long_says_what_it_needs(tmp_path):
    gm = sg.GaussianMixture(1).fit(np.random.default_rng(0).normal(size=(200, 40)))
    with short_files(4096), pytest.raises(DiskFullError, match=r"m\.safetensors: .* it needs [\d,]+ bytes; .*ulimit"):
        gm.save(tmp_path / "m.safetensors")
    assert names(tmp_path) == []
    gm.save(tmp_path / "m.safetensors")


def test_a_full_disk_says_the_file_the_need_and_the_remedy(full_disk):  # noqa: F811
    (full_disk / "ballast").write_bytes(bytes(200_000))
    gm = sg.GaussianMixture(1).fit(np.random.default_rng(0).normal(size=(500, 100)))
    says = r"m\.safetensors: cannot be written whole: it needs \d\d,\d+ bytes; \d\d,\d+ are free in .*disk\. Free"
    with pytest.raises(DiskFullError, match=says) as caught:
        gm.save(full_disk / "m.safetensors")
    assert caught.value.errno == errno.ENOSPC and isinstance(caught.value, OSError)
    assert names(full_disk) == ["ballast"]
    (full_disk / "ballast").unlink()
    gm.save(full_disk / "m.safetensors")
    np.testing.assert_array_equal(sg.load(full_disk / "m.safetensors").means_, gm.means_)
