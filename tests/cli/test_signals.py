"""Signals, closed pipes and full disks: a result is whole or not there, and nothing is left lying about."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import streamgmm as sg
from streamgmm.cli.app import BROKEN_PIPE, DONE, FAILED, run
from streamgmm.sources import open_source
from tests.helpers.chunks import read
from tests.helpers.disks import full_disk  # noqa: F401
from tests.helpers.killing import ENDS, half_written, names, signalled, started

ROWS = 60_000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, and rows that take a while to write."""
    folder = tmp_path_factory.mktemp("made")
    X = np.random.default_rng(0).normal(size=(ROWS, 3)) + 5.0 * np.random.default_rng(1).integers(2, size=(ROWS, 1))
    np.save(folder / "x.npy", X)
    sg.GaussianMixture(2, random_state=0).fit(X).save(folder / "m.safetensors")
    return folder


def commands(made, out):
    """What writes what."""
    model, data = made / "m.safetensors", made / "x.npy"
    return {
        "csv": ["predict", model, data, "--proba", "--out", out / "x.csv"],
        "zarr": ["predict", model, data, "--proba", "--out", out / "x.zarr"],
        "parquet": ["predict", model, data, "--proba", "--out", out / "x.parquet"],
        "npy": ["sample", model, "-n", ROWS, "--out", out / "x.npy"],
        "convert": ["data", "convert", data, out / "x.zarr", "--chunk-rows", 500],
        "overwrite": ["data", "convert", data, out / "x.zarr", "--chunk-rows", 500, "--overwrite"],
    }


def attack(made, out, kind, which, wait=0.0):
    """One signal, and the same command again; whether the signal came in time."""
    words = commands(made, out)[kind]
    target = words[-1] if kind != "convert" and kind != "overwrite" else words[3]
    if kind == "overwrite":
        np.save(out / "old.npy", np.ones((1000, 3)))
        assert run(["data", "convert", str(out / "old.npy"), str(target), "--overwrite"]) == DONE
        (out / "old.npy").unlink()
    code = signalled(words, out, which, wait)
    assert code in (ENDS[which], DONE)
    left = half_written(out)
    assert not left or which == signal.SIGKILL
    if target.exists():
        whole = read(open_source(target))[0]
        assert len(whole) == ROWS or (kind == "overwrite" and (whole == 1).all() and len(whole) == 1000)
    if kind == "convert" and target.exists():  # it was done before the signal came
        words = [*words, "--overwrite"]
    assert run([str(word) for word in words]) == DONE
    assert names(out) == [target.name] and len(read(open_source(target))[0]) == ROWS
    return code == ENDS[which]


@pytest.mark.parametrize(
    ("kind", "which"),
    [("csv", signal.SIGTERM), ("zarr", signal.SIGHUP), ("parquet", signal.SIGKILL), ("convert", signal.SIGTERM),
     ("overwrite", signal.SIGKILL)],
)  # fmt: skip
def test_a_signal_leaves_nothing_behind_after_the_next_run(made, tmp_path, kind, which):
    assert attack(made, tmp_path, kind, which)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "zarr", "parquet", "npy", "convert", "overwrite"])
def test_twenty_signals(made, tmp_path, kind):
    rng = np.random.default_rng(len(kind))
    came = 0
    for i in range(20):
        out = tmp_path / str(i)
        out.mkdir()
        came += attack(made, out, kind, list(ENDS)[i % 4], wait=float(rng.uniform(0, 0.15)))
    assert came >= 10


@pytest.mark.slow
def test_select_under_twenty_signals(made, tmp_path):
    words = ["select", made / "x.npy", "--k-max", 2, "--out", tmp_path / "out", "--set", "n_init=1"]
    (tmp_path / "out").mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        which = list(ENDS)[i % 4]
        process = started(words)
        try:
            process.wait(float(rng.uniform(0.5, 6.0)))
        except subprocess.TimeoutExpired:
            process.send_signal(which)
        assert process.wait(60) in (ENDS[which], DONE, 3, -which)  # the last: before the handlers are set
        for name in names(tmp_path / "out"):
            if name == "model.safetensors":
                sg.load(tmp_path / "out" / name)
    assert run([str(word) for word in words]) in (DONE, 3)
    assert half_written(tmp_path / "out") == []


def test_nohup_is_respected(made, tmp_path):
    code = (
        "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from streamgmm.cli.app import run\n"
        "from streamgmm.utils.signals import ending_cleanly\n"
        "with ending_cleanly():\n"
        "    signal.raise_signal(signal.SIGHUP)\n"
        "    try:\n        signal.raise_signal(signal.SIGTERM)\n"
        "    except KeyboardInterrupt as error:\n        print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "ended by SIGTERM\n"


# Outputs that end or are full -----------------------------------------------------------------------------------------


def test_a_closed_pipe_ends_the_command_as_other_tools(made):
    with started(commands(made, made)["csv"][:-2], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == BROKEN_PIPE


def test_a_full_output_is_one_line(made):
    with (
        open("/dev/full", "wb") as full,
        started(commands(made, made)["csv"][:-2], stdout=full, stderr=subprocess.PIPE) as process,
    ):
        said = process.stderr.read().decode()
        assert process.wait(60) == FAILED
    assert said == "error: the output: no space is left on its device. Free some, or write elsewhere.\n"


@pytest.mark.parametrize("kind", ["csv", "zarr", "parquet", "npy", "convert"])
def test_a_full_disk_is_one_line_with_the_file_and_the_remedy(made, full_disk, capsys, kind):  # noqa: F811
    words = commands(made, full_disk)[kind]
    assert run([str(word) for word in words]) == FAILED
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"error: {full_disk}/x.") and "bytes and more; " in said
    assert said.endswith("Free some, or choose another place.")
    assert names(full_disk) == []


def test_the_model_is_written_first(made, full_disk, capsys):  # noqa: F811
    words = ["fit", str(made / "x.npy"), "-k", "2", "--out"]
    assert run([*words, str(full_disk / "out")]) in (DONE, 3)
    blocks = -(-(full_disk / "out" / "model.safetensors").stat().st_size // 4096)
    shutil.rmtree(full_disk / "out")
    (full_disk / "ballast").write_bytes(bytes(256 * 1024 - 4096 * blocks))
    capsys.readouterr()
    assert run([*words, str(full_disk / "out")]) == FAILED
    assert "report.json: cannot be written whole" in capsys.readouterr().err
    assert names(full_disk / "out") == ["model.safetensors"]
    assert sg.load(full_disk / "out").n_components == 2
